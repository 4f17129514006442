"""Options: what a run is, and what may be said of it on the command line."""
