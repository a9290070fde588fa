"""Kinds of things, what people ask about them and what they ask next; and the examples composed from that.

It knows nothing about tokens, models or how examples are learned from.
"""
