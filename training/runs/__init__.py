"""A run under way: its loop, its folder, what it reports, its processes."""
