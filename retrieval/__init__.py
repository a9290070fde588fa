"""Co-occurrence retrieval (COR): from the search log to what people type next. The door is `retrieval/searcher.py`."""
