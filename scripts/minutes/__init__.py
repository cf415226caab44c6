"""Parts of `benchmark_minutes.py`."""
