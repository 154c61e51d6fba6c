"""What estimates of a likelihood have in common: a number a row, with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deeplvm.evaluation.numbers import finite, number, stderr_of


@dataclass(frozen=True, eq=False)
class RowEstimate:
    r"""Log-likelihood of each row with its error; nats, higher is better.

    Attributes:
        log_px: :math:`\log \hat p(x)`, shape ``(rows,)``.
        log_px_stderr: Its error, shape ``(rows,)``.
    """

    log_px: Tensor
    log_px_stderr: Tensor

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.log_px)

    @property
    def mean(self) -> float:
        """Mean of ``log_px`` over rows."""
        return float(self.log_px.mean())

    @property
    def stderr(self) -> float:
        """Standard error of :attr:`mean` over rows, with the estimator's noise; NaN for one."""
        return stderr_of(self.log_px)

    @property
    def monte_carlo_stderr(self) -> float:
        """The part of :attr:`stderr` that the estimator adds, rows taken as independent."""
        return float(self.log_px_stderr.square().sum().sqrt() / self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, means over rows; what is not a number is ``None``."""
        return {
            "value": finite(self.mean),
            "stderr": finite(self.stderr),
            "monte_carlo_stderr": finite(self.monte_carlo_stderr),
            "rows": self.rows,
        }

    def __str__(self) -> str:
        plural = "" if self.rows == 1 else "s"
        return (
            f"log p(x)  {number(self.mean, self.stderr)} nats a row over {self.rows:,} row{plural}"
        )
