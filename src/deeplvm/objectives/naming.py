"""What an objective is called where names are written in small letters."""

from __future__ import annotations

import re


def in_snake_case(name: str) -> str:
    """A class's name as a function's would be: in metrics, and on the command line.

    >>> in_snake_case("SoftFreeBits"), in_snake_case("elbo")
    ('soft_free_bits', 'elbo')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
