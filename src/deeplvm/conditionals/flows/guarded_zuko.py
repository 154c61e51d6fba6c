"""zuko, imported so that nobody else's distributions change.

zuko switches off the validation of every torch distribution when it is imported. This module is
the only one that imports it, and puts that back.
"""

from __future__ import annotations

from torch.distributions import Distribution

_before = Distribution._validate_args, Distribution.__dict__["arg_constraints"]
import zuko  # noqa: E402 - between the saving and the restoring

Distribution._validate_args, Distribution.arg_constraints = _before  # type: ignore[method-assign]
for _found in vars(zuko.distributions).values():
    if isinstance(_found, type) and _found.__module__ == zuko.distributions.__name__:
        # What zuko wants of its own distributions, and of nobody else's.
        _found._validate_args, _found.arg_constraints = False, {}  # type: ignore[attr-defined]

__all__ = ["zuko"]
