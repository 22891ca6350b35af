"""${message}."""

import sqlalchemy as sa
import sqlmodel
from alembic import op

import nightlab.memory.tables

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """${message}."""
    ${upgrades if upgrades else "pass"}
