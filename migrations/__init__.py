"""The history of the database schema: one file a step, run by `nextquery db upgrade`.

It knows nothing about settings or connections: `service/contract/database.py` hands it an open connection.
"""
