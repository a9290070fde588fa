"""Benchmarks: `python -m tests.bench.NAME --json` prints the figures of an issue, both sides measured in one run."""
