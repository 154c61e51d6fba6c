"""Whether tests run in their long form, as `make full` asks: more deaths, files, models."""

from __future__ import annotations

import os

FULL = os.environ.get("DEEPLVM_TESTS") == "full"
