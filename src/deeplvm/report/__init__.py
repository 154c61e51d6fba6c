"""The report of a run: one page that needs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplvm.report.diagnosis import write_diagnosis
    from deeplvm.report.explore import Explorer, explore
    from deeplvm.report.page import report, write_report

__all__ = ["Explorer", "explore", "report", "write_diagnosis", "write_report"]


def __getattr__(name: str) -> Any:
    # a table in a notebook should not have to wait for a template engine
    if name not in __all__:
        raise AttributeError(f"deeplvm.report has no {name!r}; it has {', '.join(__all__)}.")
    from importlib import import_module

    of = {"write_diagnosis": "diagnosis", "explore": "explore", "Explorer": "explore"}
    return getattr(import_module(f"deeplvm.report.{of.get(name, 'page')}"), name)
