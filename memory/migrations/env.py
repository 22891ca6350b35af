"""Runs migrations on the connection that :mod:`nightlab.memory.schema` hands over."""

from alembic import context
from sqlmodel import SQLModel

from nightlab.memory import tables

assert tables.CampaignRow.metadata is SQLModel.metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
