"""How the dimensions of a code lie to the factors that made the data."""
