r"""What is kept of log-weights that stream by: sums in float64, in memory that does not grow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deeplvm.evaluation.likelihood.pareto import pareto_k, tail_length
from deeplvm.evidence import Evidence

# Log-weights wait until there are so many particles, and are then taken in together: the dozen
# small operations that this takes would otherwise follow every chunk.
_TOGETHER = 256


class Totals:
    """Sums over the particles of a batch; nothing here waits for the device.

    Args:
        particles: How many will count.
    """

    def __init__(self, particles: int) -> None:
        self.particles = particles
        self.tail = tail_length(particles) + 1
        self.precision = 0.0  # of the log-weights as they were computed
        self.waiting: list[Tensor] = []  # log-weights not yet taken in, (k, rows) each
        self.largest: Tensor | None = None  # (tail, rows), log-weights in falling order
        self.highest: Tensor | None = None  # (rows,), the largest log-weight
        self.sum = self.sum_squares = torch.zeros(())  # of exp(w - highest), (rows,)
        self.terms: dict[str, Tensor] = {}
        self.levels = [_Level(k, ratio) for k, ratio in _group_sizes(particles)]

    def add(self, evidence: Evidence, used: int) -> None:
        """Take one chunk in, of which the first ``used`` particles count."""
        drawn = evidence.batch_shape[-2]
        # inside a particle: the sum over enumerated values, whose measure is left when the
        # 1/K of the particles is taken out
        inner = evidence.log_measure + math.log(drawn)
        outer = tuple(range(len(evidence.batch_shape) - 2))
        own = [term for name, term in evidence.terms.items() if name not in evidence.shared]
        joint = evidence.total(own)
        log_weight = torch.logsumexp(inner + joint, outer) if outer else joint
        self.precision = torch.finfo(log_weight.dtype).eps
        # a copy: what a replayed graph returns is overwritten by the next chunk
        self.waiting.append(log_weight[:used].to(torch.float64, copy=True))
        for name, term in evidence.terms.items():
            full = term.expand(evidence.batch_shape)
            mean = (inner.exp() * full).sum(outer) if outer and isinstance(inner, Tensor) else full
            total = mean[:used].sum(0, dtype=torch.float64)
            self.terms[name] = self.terms[name] + total if name in self.terms else total
        if sum([len(each) for each in self.waiting]) >= _TOGETHER:
            self._settle()

    def _settle(self) -> None:
        """Take the waiting log-weights into the sums."""
        if not self.waiting:
            return
        log_weight = self.waiting[0] if len(self.waiting) == 1 else torch.cat(self.waiting)
        self.waiting = []
        self._accumulate(log_weight)
        for level in self.levels:
            log_weight = level.add(log_weight)
            if log_weight.shape[0] == 0:
                break

    def _accumulate(self, log_weight: Tensor) -> None:
        top = log_weight if self.largest is None else torch.cat([self.largest, log_weight])
        self.largest = top.topk(min(self.tail, top.shape[0]), dim=0).values
        before, self.highest = self.highest, self.largest[0]
        anchor = torch.where(self.highest.isneginf(), 0.0, self.highest)
        scaled = (log_weight - anchor).exp()
        fall = 0.0 if before is None else (before - anchor).exp()
        self.sum = self.sum * fall + scaled.sum(0)
        self.sum_squares = self.sum_squares * fall**2 + scaled.square().sum(0)

    def result(self, *, exact: bool) -> dict[str, Tensor]:
        """Quantities of each row, shape ``(rows,)``."""
        self._settle()
        assert self.highest is not None
        assert self.largest is not None
        count = self.particles
        log_px = self.highest + self.sum.log() - math.log(count)
        log_px = torch.where(self.highest.isneginf(), self.highest, log_px)
        ess = self.sum.square() / self.sum_squares
        # Var(w) / (K E[w]^2) = (K sum w^2 / (sum w)^2 - 1) / (K - 1)
        relative = ((count / ess - 1) / (count - 1)).clamp(min=0) if count > 1 else ess * math.nan
        return {
            "log_px": log_px,
            "log_px_stderr": torch.zeros_like(log_px) if exact else relative.sqrt(),
            "elbo": torch.stack(list(self.terms.values())).sum(0) / count,
            "ess": ess,
            "pareto_k": pareto_k(self.largest, precision=self.precision),
            **{f"terms/{name}": total / count for name, total in self.terms.items()},
            **{f"curve/{level.size}": level.mean() for level in self.levels},
            f"curve/{count}": log_px,
        }


class _Level:
    r"""Sum of :math:`L_k` over disjoint groups of k consecutive particles.

    Each level takes the group values of the level before: :math:`L_{50}` is the log-mean-exp of
    five :math:`L_{10}`. What does not fill a group yet is kept.
    """

    def __init__(self, size: int, ratio: int) -> None:
        self.size = size
        self.ratio = ratio
        self.pending: Tensor | None = None
        self.total: Tensor | float = 0.0
        self.groups = 0

    def add(self, values: Tensor) -> Tensor:
        """Group values of shape ``(n, rows)``; returns the groups completed, ``(m, rows)``."""
        if self.ratio > 1:
            if self.pending is not None:
                values = torch.cat([self.pending, values])
            whole = values.shape[0] // self.ratio * self.ratio
            self.pending = values[whole:]
            groups = values[:whole].unflatten(0, (-1, self.ratio)) if whole else values[:0, None]
            values = torch.logsumexp(groups, 1) - math.log(self.ratio)
        self.total = self.total + values.sum(0)
        self.groups += values.shape[0]
        return values

    def mean(self) -> Tensor:
        """Mean of :math:`L_k` over the groups, shape ``(rows,)``."""
        return self.total / self.groups  # type: ignore[return-value]


def _group_sizes(particles: int) -> list[tuple[int, int]]:
    """``(k, k / previous k)`` for k = 1, 5, 10, 50, 100, ... below the number of particles."""
    sizes, size, ratio = [(1, 1)], 5, 5
    while size < particles:
        sizes.append((size, ratio))
        ratio = 7 - ratio  # 5, 2, 5, 2, ...
        size *= ratio
    return sizes
