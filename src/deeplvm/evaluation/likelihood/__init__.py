"""How likely data are under a model, with errors."""
