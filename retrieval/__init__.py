"""Co-occurrence retrieval (COR): its package, whose door will be `retrieval/searcher.py`."""
