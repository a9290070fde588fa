"""Experiments: which arm a person is in, and what the arms came to.

It knows nothing about HTTP, engines or how lists are made.
"""
