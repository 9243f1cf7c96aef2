"""Benchmarks: `python -m bench`. Every number comes with baselines of the same run."""
