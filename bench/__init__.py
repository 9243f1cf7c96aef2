"""Benchmarks: `python -m bench`. Every number stands beside its baselines of the same run."""
