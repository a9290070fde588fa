"""Runs the migrations on the connection that it is given.

It knows nothing about URLs or locks: `service/contract/database.py` holds both.
"""

from alembic import context

from service.contract.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
