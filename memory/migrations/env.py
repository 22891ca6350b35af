"""Runs migrations on the connection that :mod:`nightlab.memory.schema` hands over."""

from alembic import context

from nightlab.memory.tables import CampaignRow

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=CampaignRow.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
