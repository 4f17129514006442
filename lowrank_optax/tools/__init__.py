"""What one looks at a run with: memory, subspaces, and rounding."""
