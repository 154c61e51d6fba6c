"""The command line: ``deeplvm VERB ...``, one verb a job.

Help needs no torch: a verb imports what it needs when it runs.
"""

from __future__ import annotations

from deeplvm.cli.app import main

__all__ = ["main"]
