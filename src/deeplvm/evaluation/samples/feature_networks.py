"""The small networks whose penultimate layer gives features, and their training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deeplvm.networks import MLP, ConvolutionalEncoder

FEATURES = 64
"""Width of the penultimate layer: covariances of it are well estimated from a thousand rows."""
BATCH = 100
_EPOCHS = 10  # at most, so that a small data set is not learned by heart
_STEPS = 500  # at most: about 15 seconds of one core for 28x28 pixels
CHUNK = 1_000

Task = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Of rows, their numbers and a generator: what the network sees, and the right classes."""


def complete(x: Tensor, what: str) -> None:
    """Refuse missing values.

    Raises:
        ValueError: If there are any.
    """
    if x.is_floating_point() and bool(x.isnan().any()):
        raise ValueError(
            f"There are missing values (NaN) in {what}, and a draw has none: their distances "
            "would measure the holes. Leave out those rows or columns, or fill them first."
        )


class Scaled(nn.Module):
    """Values less their mean over their standard deviation; of an image, one for all pixels."""

    def __init__(self, x: Tensor, *, counts: bool) -> None:
        super().__init__()
        self.counts = counts
        values = x.log1p() if counts else x
        over = tuple(range(values.dim())) if values.dim() == 4 else 0
        self.register_buffer("mean", values.double().mean(over).to(x))
        spread = values.double().std(over, correction=0)
        self.register_buffer("spread", torch.where(spread > 0, spread, 1.0).to(x))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.log1p() if self.counts else x) - self.mean) / self.spread


class Columns(nn.Module):
    """Columns scaled one by one, categories as columns of their own."""

    def __init__(self, x: Tensor, levels: list[int | None], *, counts: bool) -> None:
        super().__init__()
        self.levels = levels
        self.plain = [i for i, many in enumerate(levels) if many is None]
        self.scaled = Scaled(x.flatten(1)[:, self.plain], counts=counts)
        self.dimensions = sum([many or 1 for many in levels])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        parts = [self.scaled(flat[:, self.plain])]
        for i, many in enumerate(self.levels):
            if many is not None:
                parts.append((flat[:, i, None] == torch.arange(many)) / math.sqrt(2))
        return torch.cat(parts, 1)


def network_for(
    x: Tensor, classes: int, *, counts: bool, seed: int
) -> tuple[nn.Module, nn.Linear]:
    """Rows to features, and features to scores of the classes; float32 whatever the default."""
    shape = tuple(x.shape[1:])
    with torch.random.fork_rng(devices=[]):  # the layers draw weights, which are replaced below
        body: nn.Module = (
            ConvolutionalEncoder(shape, (16, 32), FEATURES, activation=nn.ReLU)
            if len(shape) == 3
            else MLP(shape or 1, 128, FEATURES)
        )
        last = nn.Linear(FEATURES, classes)
    generator = torch.Generator().manual_seed(seed)
    body, last = body.float(), last.float()
    for layer in [*body.modules(), last]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(Scaled(x, counts=counts), body), last


def learn(network: nn.Module, last: nn.Linear, x: Tensor, task: Task, seed: int) -> int:
    """Cross entropy of what ``task`` makes of each batch; the number of steps."""
    generator = torch.Generator().manual_seed(seed)
    size = min(BATCH, len(x))
    steps = min(_STEPS, _EPOCHS * (len(x) // size))
    parameters = [*network.parameters(), *last.parameters()]
    with torch.inference_mode(mode=False), torch.enable_grad():
        adam = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(order) < size:
                order = torch.randperm(len(x), generator=generator)
            index, order = order[:size], order[size:]
            rows, classes = task(x[index].detach().cpu().float(), index, generator)
            adam.zero_grad()
            cross_entropy(last(network(rows)), classes).backward()
            adam.step()
            rates.step()
    network.requires_grad_(requires_grad=False).eval()
    return steps


def accuracy(
    network: nn.Module, last: nn.Linear, x: Tensor, classes: Tensor, groups: int = 1
) -> tuple[float, float, float]:
    """Share that is right, its error over rows (each row in ``groups`` positions), and chance."""
    complete(x, "the held-out rows")
    with torch.inference_mode():
        parts = [last(network(part.cpu().float())).argmax(1) for part in x.split(CHUNK)]
    right = (torch.cat(parts) == classes).double().reshape(groups, -1).mean(0)
    error = float(right.std() / math.sqrt(len(right))) if len(right) > 1 else math.nan
    return float(right.mean()), error, float(classes.bincount().max() / len(classes))
