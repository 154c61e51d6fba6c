"""The one error of this folder."""

from __future__ import annotations


class DataError(ValueError):
    """The data cannot be used as asked; the message says what was found and what to do next."""
