"""Schema migrations of Postgres, run by ``db.migrate`` as ``cs_owner``: the Alembic revisions, and their SQL in ``sql/``."""
