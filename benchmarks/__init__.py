"""Measures Countersign against what it could be at best, on this machine, in one run: ``python -m benchmarks``."""
