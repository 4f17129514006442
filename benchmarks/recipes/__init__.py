"""Which recipe wins at each memory budget? See `python -m benchmarks.recipes --help`."""
