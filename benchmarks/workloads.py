"""What is trained and evaluated: the same sizes and the same rows for every side."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

PIXELS = 784
ROWS = 20_000


@dataclass(frozen=True)
class Workload:
    """One model and how it is trained.

    Attributes:
        name: The key in the results.
        title: What a table calls it.
        family: ``"mlp"``, ``"conv"`` or ``"ladder"``.
        batch: Rows a step.
        hidden: Widths of the hidden layers of q (of a ladder, from x upwards); p's in reverse.
        latent: Dimensions of z; of a ladder, from x upwards.
        particles: Draws a row of the importance-weighted bound; none for the ELBO.
        burst: Steps timed at a time, so that a clock is read every ten milliseconds or so.
        rows: Rows of the data.
        cores: Processor cores that each side may use; none for all.
    """

    name: str
    title: str
    family: str
    batch: int
    hidden: tuple[int, ...]
    latent: tuple[int, ...]
    particles: int | None = None
    burst: int = 1
    rows: int = ROWS
    cores: int | None = None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Workload:
        """From JSON."""
        sizes = {key: tuple(plain[key]) for key in ("hidden", "latent")}
        return cls(**{**plain, **sizes})

    def small(self) -> Workload:
        """The same in small, for a test that it runs."""
        return replace(
            self,
            batch=8,
            hidden=tuple([min(width, 16) for width in self.hidden]),
            latent=tuple([min(width, 4) for width in self.latent]),
            particles=None if self.particles is None else 3,
            burst=1,
            rows=64,
        )


WORKLOADS = (
    Workload("mlp", "MLP VAE 784-500-500-50, batch 100", "mlp", 100, (500, 500), (50,), burst=2),
    Workload("mlp_1000", "the same, batch 1,000", "mlp", 1000, (500, 500), (50,)),
    Workload("tiny", "MLP VAE 784-64-64-50, batch 100", "mlp", 100, (64, 64), (50,), burst=8),
    Workload(
        "one_core",
        "MLP VAE 784-64-64-8, batch 100, one core",
        "mlp",
        100,
        (64, 64),
        (8,),
        burst=8,
        cores=1,
    ),
    Workload("conv", "convolutional VAE 28×28, batch 100", "conv", 100, (32, 64, 256), (32,)),
    Workload(
        "iwae", "IWAE 784-200-200-50, 50 particles, batch 100", "mlp", 100, (200, 200), (50,), 50
    ),
    Workload(
        "ladder",
        "ladder of 5 layers, 64-32-16-8-4, batch 100",
        "ladder",
        100,
        (512, 256, 128, 64, 64),
        (64, 32, 16, 8, 4),
        burst=2,
    ),
)


def named(name: str) -> Workload:
    """The workload of a name."""
    return next(workload for workload in WORKLOADS if workload.name == name)


def pixels(workload: Workload) -> np.ndarray:
    """Rows of random black and white pixels, the same everywhere, ``(rows, 784)``, float32."""
    random = np.random.default_rng(0)
    x = (random.random((workload.rows, PIXELS), np.float32) > 0.87).astype(np.float32)
    return x.reshape(-1, 1, 28, 28) if workload.family == "conv" else x


def indices(workload: Workload, batches: int = 50) -> np.ndarray:
    """Row numbers of batches, ``(batches, batch)``; a side goes through them again and again."""
    random = np.random.default_rng(1)
    return random.integers(workload.rows, size=(batches, workload.batch))
