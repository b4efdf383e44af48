"""How each port is reached: its embedded default, kept in the same Postgres. Imports ports and db; called by the worker alone."""
