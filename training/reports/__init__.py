"""Pictures, tables and pages about finished runs."""
