"""One file per generation engine, found by its file name.

They know nothing about queries, tasks or HTTP.
"""
