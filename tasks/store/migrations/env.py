"""Alembic's entry: the migrations run in the transaction that :mod:`tasks.store.upgrade` has begun."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
