"""Data that are drawn here, with factors that are known."""
