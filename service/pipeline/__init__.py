"""A request in reading order: gather, generate, rank, record.

It knows nothing about HTTP.
"""
