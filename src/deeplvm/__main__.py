"""``python -m deeplvm`` is ``deeplvm``."""

from __future__ import annotations

import sys

# `python -m` puts the current folder first: a json.py beside the data is not to be imported
if __name__ == "__main__" and sys.path and not sys.flags.safe_path:
    del sys.path[0]

from deeplvm.cli import main

if __name__ == "__main__":
    sys.exit(main())
