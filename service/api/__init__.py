"""HTTP and nothing else: bodies in, status codes and problem documents out."""
