"""Do the papers' claims hold? See `python -m benchmarks.papers --help` and docs/papers.md."""
