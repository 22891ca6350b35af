"""Alembic's environment and the ledger's migrations."""
