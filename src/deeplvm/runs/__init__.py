"""The folder of a run, and what it may be asked."""
