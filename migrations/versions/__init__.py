"""The steps of the schema, oldest first.

It knows nothing about the code that uses the tables.
"""
