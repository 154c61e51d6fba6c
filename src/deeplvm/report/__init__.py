"""The report of a run: one page that needs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplvm.report.diagnosis import write_diagnosis
    from deeplvm.report.page import report, write_report

__all__ = ["report", "write_diagnosis", "write_report"]


def __getattr__(name: str) -> Any:
    # a table in a notebook should not have to wait for a template engine
    if name not in __all__:
        raise AttributeError(f"deeplvm.report has no {name!r}; it has {', '.join(__all__)}.")
    from deeplvm.report import diagnosis, page

    return getattr(diagnosis if name == "write_diagnosis" else page, name)
