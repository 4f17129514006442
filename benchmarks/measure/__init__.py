"""One script a question: `python -m benchmarks.measure.NAME` prints a table and writes a JSON."""
