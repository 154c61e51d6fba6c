"""``python -m deeplvm`` is ``deeplvm``."""

from __future__ import annotations

import sys

from deeplvm.cli import main

if __name__ == "__main__":
    sys.exit(main())
