"""Logs from elsewhere: checked, and written into the search log with origin `import`.

It knows nothing about requests, lists or clicks.
"""
