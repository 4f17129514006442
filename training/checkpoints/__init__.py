"""What is saved of a run, and read again."""
