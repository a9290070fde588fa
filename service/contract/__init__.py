"""The floor: what the online and the offline half must agree on.

It imports nothing of ours, and no torch, vllm, faiss, fastapi or redis.
"""
