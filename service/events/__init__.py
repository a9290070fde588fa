"""Durable writing: what is acknowledged is committed.

It knows nothing about HTTP or language models.
"""
