"""One module per port: its embedded default, kept in the same Postgres."""
