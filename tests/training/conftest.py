"""Make the models that these tests share importable (`--import-mode=importlib` adds no path)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
