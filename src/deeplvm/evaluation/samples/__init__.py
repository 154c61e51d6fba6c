"""How draws of a model compare with data."""
