"""Which family of posteriors is the best: where the truth is known, and on binarized MNIST?

By name only, as it takes hours: ``python benchmarks/run.py posteriors``. What a family gave is
kept in ``runs/posteriors/EFFORT`` as soon as it is done, and a run does what is missing there, or
was made with other settings. Two variables of the environment say otherwise:
``FAMILIES=iaf,planar`` does these alone, again if need be, and ``SECONDS_EACH=30`` is the time in
which a family learns MNIST. Without that folder all begins anew.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.networks import MLP
from effort import Effort
from harness import HERE, SideError, Worker, Workers

THREADS = 2
SECONDS = {"full": 600.0, "quick": 150.0, "smoke": 0.3}
STEPS = {"full": 10_000, "quick": 1_500, "smoke": 20}  # of the toy
BATCH = 500  # large, so that time is what products take and not what calls take
LATENT, HIDDEN = 40, (300, 300)
SEED = 0


@dataclass(frozen=True)
class Family:
    """Posteriors as ``--posterior`` takes them, of two dimensions and of forty."""

    title: str
    toy: str
    mnist: str


AUXILIARY = "auxiliary"  # not a conditional of z but a variable more, in p and in q
FAMILIES = {
    "gaussian": Family("diagonal Gaussian", "gaussian", "gaussian"),
    "full_covariance": Family("full covariance", "full_covariance", "full_covariance"),
    "mixture": Family("mixture of Gaussians", "mixture(components=8)", "mixture(components=4)"),
    "auxiliary": Family("auxiliary variable", AUXILIARY, AUXILIARY),
    "planar": Family("planar", "planar(transforms=16)", "planar(transforms=16)"),
    "radial": Family("radial", "radial(transforms=16)", "radial(transforms=16)"),
    "sylvester_orthogonal": Family(
        "Sylvester, orthogonal",
        "sylvester(kind='orthogonal', transforms=4)",
        "sylvester(kind='orthogonal', transforms=2, columns=16)",
    ),
    "sylvester_householder": Family(
        "Sylvester, Householder",
        "sylvester(kind='householder', transforms=4, reflections=2)",
        "sylvester(kind='householder', transforms=2, reflections=4)",
    ),
    "sylvester_triangular": Family(
        "Sylvester, triangular",
        "sylvester(kind='triangular', transforms=4)",
        "sylvester(kind='triangular', transforms=2)",
    ),
    "householder": Family("Householder", "householder(transforms=2)", "householder(transforms=8)"),
    "linear_iaf": Family("linear IAF", "linear_iaf", "linear_iaf"),
    "convex_linear_iaf": Family(
        "convex linear IAF", "convex_linear_iaf(components=4)", "convex_linear_iaf(components=4)"
    ),
    "nice": Family(
        "NICE", "nice(transforms=6, hidden=(32, 32))", "nice(transforms=4, hidden=(320,))"
    ),
    "real_nvp": Family(
        "Real NVP",
        "real_nvp(transforms=6, hidden=(32, 32))",
        "real_nvp(transforms=4, hidden=(320,))",
    ),
    "maf": Family("MAF", "maf(transforms=4, hidden=(32, 32))", "maf(transforms=2, hidden=(160,))"),
    "iaf": Family("IAF", "iaf(transforms=4, hidden=(32, 32))", "iaf(transforms=4, hidden=(320,))"),
    "naf": Family(
        "NAF",
        "naf(transforms=2, sigmoids=16, hidden=(32, 32))",
        "naf(transforms=2, sigmoids=8, hidden=(160,))",
    ),
    "nsf": Family(
        "NSF", "nsf(transforms=2, hidden=(32, 32))", "nsf(transforms=2, bins=8, hidden=(160,))"
    ),
}
FEW = ("gaussian", "planar")  # of a smoke test


def run(effort: Effort, workers: Workers) -> dict[str, Any]:
    """Both comparisons; families one after the other, each in a process of its own."""
    seconds = float(os.environ.get("SECONDS_EACH", SECONDS[effort.name]))
    steps = STEPS[effort.name]
    toy = _each(
        "toy", effort, workers, threads=1, steps=steps, draws=100 if effort.smoke else 50_000
    )
    mnist = _each("mnist", effort, workers, threads=THREADS, seconds=seconds, few=effort.smoke)
    return {
        "what": "posteriors",
        "toy": {"steps": steps, "log p(x)": log_px(), **toy},
        "mnist": {
            "model": "784-300-300-40, rectified; rows statically binarized, their own split",
            "training": (
                f"Adam, batches of {BATCH}, a compiled step (compiling does not count), "
                f"learning rate 1e-3 with a cosine to zero and the "
                f"weight of the latents' terms from 0 to 1 in the first fifth, both by the clock; "
                f"one draw a row, nothing in closed form; the best of ten looks at the held-out "
                f"bound in the second half, whose time does not count"
            ),
            "seconds": seconds,
            "threads": THREADS,
            **_compared(mnist),
        },
    }


# One family after the other -----------------------------------------------------------------


def _each(
    part: str, effort: Effort, workers: Workers, threads: int, **settings: Any
) -> dict[str, Any]:
    """What every family gave: found in its file, or made and filed."""
    asked = [name for name in os.environ.get("FAMILIES", "").split(",") if name]
    unknown = [name for name in asked if name not in FAMILIES]
    if unknown:
        raise SystemExit(f"There is no family {unknown[0]!r}; there are {', '.join(FAMILIES)}.")
    folder = None if effort.smoke else HERE.parent / "runs" / "posteriors" / effort.name
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name in FEW if effort.smoke else FAMILIES:
        posterior = getattr(FAMILIES[name], part)
        told = {"posterior": posterior, **settings}
        path = None if folder is None else folder / f"{part}.{name}.json"
        kept = _kept(path, told)
        if kept is not None and name not in asked:
            found[name] = kept
            continue
        if asked and name not in asked:
            absent[name] = "not asked for yet"
            continue
        try:
            found[name] = _made(f"posteriors:{part}", told, workers, threads)
        except SideError as error:
            absent[name] = str(error)
        else:
            _file(path, {"settings": told, "result": found[name]})
        print(
            f"  {part}, {FAMILIES[name].title}: {_said(found.get(name), absent.get(name))}",
            flush=True,
        )
    return {"families": found, "absent": absent}


def _made(function: str, told: dict[str, Any], workers: Workers, threads: int) -> dict[str, Any]:
    if workers.lasting:
        return workers["own"].call(function, **told)
    with Worker(environment={"OMP_NUM_THREADS": str(threads)}) as worker:
        return worker.call(function, **told)


def _kept(path: Path | None, told: dict[str, Any]) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    kept = json.loads(path.read_text())
    return kept["result"] if kept["settings"] == told else None


def _file(path: Path | None, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(content) + "\n")
        beside.replace(path)


def _said(result: dict[str, Any] | None, why: str | None) -> str:
    if result is None:
        return str(why)
    if "kl" in result:
        return f"KL {result['kl']['value']:.3f} nats"
    return (
        f"elbo {result['elbo']['value']:.2f}, log p(x) {result['log_px']['value']:.2f}, "
        f"{result['steps']} steps of {result['milliseconds a step']:.1f} ms"
    )


def _compared(mnist: dict[str, Any]) -> dict[str, Any]:
    """Bounds beside that of the diagonal Gaussian, row by row; the rows are left out."""
    base = mnist["families"].get("gaussian")
    families = {}
    for name, result in mnist["families"].items():
        families[name] = {key: value for key, value in result.items() if key != "elbo of rows"}
        if base is not None and name != "gaussian":
            rise = torch.tensor(result["elbo of rows"]) - torch.tensor(base["elbo of rows"])
            families[name]["elbo above gaussian"] = _estimate(rise)
    return {"families": families, "absent": mnist["absent"]}


def _estimate(rows: Tensor) -> dict[str, float]:
    return {"value": rows.mean().item(), "stderr": rows.std().item() / len(rows) ** 0.5}


# The model ----------------------------------------------------------------------------------


def model_of(
    posterior: str,
    likelihood: nn.Module,
    observed: int,
    latent: int,
    hidden: tuple[int, ...],
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> LatentVariableModel:
    """``p(z) p(x | z)`` and a posterior as it is written, or one with an auxiliary variable."""

    def network(features: int) -> MLP:
        return MLP(features, *hidden, activation=activation)

    p: dict[str, nn.Module] = {"z": StandardNormal(latent), "x | z": likelihood}
    if posterior != AUXILIARY:
        q = Joint({"z | x": posterior_of(posterior, latent, network(observed))})
        return LatentVariableModel(Joint(p), q)
    p["a | x, z"] = Gaussian(latent, network(observed + latent))
    q = Joint(
        {
            "a | x": Gaussian(latent, network(observed)),
            "z | x, a": Gaussian(latent, network(observed + latent)),
        }
    )
    return LatentVariableModel(Joint(p), q)


# Four posteriors that are known -------------------------------------------------------------

SHAPES = {"ring": 1.5, "two modes": 2.25, "banana": 0.0, "wave": 0.0}


class Shapes(nn.Module):
    """Four functions of a point of the plane, each seen with noise."""

    def forward(self, z: Tensor) -> Independent:
        """The distribution of all four; a row of the data has one of them."""
        one, two = z.unbind(-1)
        ring, modes = z.square().sum(-1).add(1e-12).sqrt(), one.square()
        means = torch.stack([ring, modes, two - modes + 1, two - torch.sin(3 * one)], -1)
        scales = means.new_tensor([0.15, 0.3, 0.15, 0.15])
        return Independent(Normal(means, scales, validate_args=False), 1, validate_args=False)


def shapes() -> Tensor:
    """Four rows, in each of which one element is not missing."""
    seen = torch.tensor(list(SHAPES.values()), dtype=torch.float64)
    return torch.where(torch.eye(4, dtype=torch.bool), seen, math.nan)


def log_px() -> dict[str, float]:
    r""":math:`\log \int N(z; 0, I)\, p(x | z)\, dz` of the four rows, on a grid, in nats."""
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    seen = torch.tensor(list(SHAPES.values()), dtype=torch.float64)
    prior = Normal(0.0, 1.0).log_prob(z).sum(-1, keepdim=True)
    joint = prior + Shapes()(z).base_dist.log_prob(seen)
    area = (axis[1] - axis[0]).log() * 2
    return dict(zip(SHAPES, (joint.logsumexp(0) + area).tolist(), strict=True))


def toy(posterior: str, steps: int, draws: int) -> dict[str, Any]:
    r"""Learn the four posteriors with one encoder; :math:`\log p(x)` less the bound of each.

    The likelihood's weight rises from 0.01 to 1 in the first half, so that q begins as the prior
    and is not caught at the first place that explains a row. The difference is
    :math:`KL(q(z|x) \| p(z|x))`, and for an auxiliary variable at least that.
    """
    torch.manual_seed(SEED)
    model = model_of(posterior, Shapes(), 4, 2, (64, 64), nn.Tanh).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x = shapes()
    began = time.perf_counter()
    for step in range(steps):
        optimizer.zero_grad()
        warmth = min(1.0, 0.01 + 2 * step / steps)
        evidence = model.evidence({"x": x}, particles=64, missing=("x",))
        loss = -warmth * elbo(evidence.temper(1 / warmth)).mean()
        loss.backward()
        optimizer.step()
        rates.step()
    seconds = time.perf_counter() - began
    with torch.no_grad():
        weights = model.evidence({"x": x}, particles=draws, missing=("x",)).log_weight
    truth = torch.tensor(list(log_px().values()), dtype=torch.float64)
    gaps = truth - weights.mean(0)
    if not gaps.isfinite().all():
        raise ValueError("the bound is not finite")
    return {
        "posterior": posterior,
        "kl": {"value": gaps.mean().item(), "stderr": _estimate(weights.mean(1))["stderr"]},
        "kl of rows": dict(zip(SHAPES, gaps.tolist(), strict=True)),
        "milliseconds a step": 1e3 * seconds / steps,
    }


# Binarized MNIST ----------------------------------------------------------------------------


def mnist(posterior: str, seconds: float, *, few: bool) -> dict[str, Any]:
    """Learn binarized MNIST for so many seconds; bound and likelihood of rows not seen."""
    from deeplvm.likelihood import importance_sampling

    rows = _random_rows() if few else _rows()
    torch.manual_seed(SEED)
    decoder = Bernoulli(784, MLP(LATENT, *HIDDEN), mean=rows["train"].mean(0))
    model = model_of(posterior, decoder, 784, LATENT, HIDDEN)
    trained = _train(model, rows, seconds, compiled=not few)
    torch.manual_seed(SEED + 1)
    bounds = _bounds(model, rows["test"], particles=4)
    tested = {"x": rows["test"][:: max(1, len(rows["test"]) // 1000)]}  # they come in some order
    estimate = importance_sampling(model, tested, particles=16 if few else 500, compile=False)
    if not (bounds.isfinite().all() and estimate.log_px.isfinite().all()):
        raise ValueError("the bound is not finite")
    return {
        "posterior": posterior,
        "parameters": sum([each.numel() for each in model.parameters()]),
        **trained,
        "elbo": _estimate(bounds),
        "elbo of rows": [round(value, 3) for value in bounds.tolist()],
        "log_px": {
            "value": float(estimate.mean),
            "stderr": float(estimate.stderr),
            "rows": estimate.rows,
            "particles": estimate.particles,
            "elbo": estimate.elbo.mean().item(),
        },
    }


def _rows() -> dict[str, Tensor]:
    from deeplvm.data import load

    data = load("binarized-mnist")
    return {
        split: data.batch(split, slice(0, data.rows(split)))["x"].flatten(1)
        for split in ("train", "valid", "test")
    }


def _random_rows() -> dict[str, Tensor]:
    torch.manual_seed(SEED)
    return {split: (torch.rand(200, 784) < 0.3).float() for split in ("train", "valid", "test")}


def _train(
    model: LatentVariableModel, rows: dict[str, Tensor], seconds: float, *, compiled: bool
) -> dict[str, Any]:
    """Ascend the bound until the time is over; the model ends with the best weights looked at."""
    from deeplvm.devices import keep_freed_memory

    keep_freed_memory(torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    best, best_state, best_at = -math.inf, None, 0.0
    looks = [1 - look / 20 for look in range(10)]  # 1, 0.95, ..., 0.55; the earliest last
    batches, steps, spent = _batches(rows["train"]), 0, 0.0
    weight = torch.zeros(())

    def bound(x: Tensor) -> Tensor:
        return elbo(model.evidence({"x": x}, missing=()).temper(weight)).mean()

    began = time.perf_counter()
    if compiled:
        bound = torch.compile(bound, fullgraph=True, dynamic=False)
        bound(next(batches)).backward()
    compiling = time.perf_counter() - began
    while looks:
        began = time.perf_counter()
        progress = spent / seconds
        optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        weight.fill_(min(1.0, 5 * progress))
        loss = -bound(next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        spent += time.perf_counter() - began
        if spent >= looks[-1] * seconds:
            while looks and spent >= looks[-1] * seconds:
                looks.pop()
            found = _bounds(model, rows["valid"], particles=1).mean().item()
            if found > best:
                best, best_at = found, spent
                best_state = {k: v.clone() for k, v in model.state_dict().items()}
    if best_state is None:
        raise ValueError("the held-out bound was never finite")
    model.load_state_dict(best_state)
    return {
        "steps": steps,
        "epochs": steps * BATCH / len(rows["train"]),
        "milliseconds a step": 1e3 * spent / steps,
        "seconds": spent,
        "seconds of compiling": compiling,
        "held-out elbo": best,
        "best after, seconds": best_at,
    }


def _batches(rows: Tensor) -> Iterator[Tensor]:
    while True:
        for index in torch.randperm(len(rows)).split(BATCH):
            yield rows[index]


@torch.no_grad()
def _bounds(model: LatentVariableModel, rows: Tensor, particles: int) -> Tensor:
    model.eval()
    parts = [
        elbo(model.evidence({"x": part}, particles=particles, missing=()))
        for part in rows.split(500)
    ]
    model.train()
    return torch.cat(parts)
