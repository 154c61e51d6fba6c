"""A page on which the decoder answers: where rows lie among the latents, and x of any place."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor, nn
from torch.distributions import Categorical, OneHotCategorical, constraints

from deeplvm.core.draws import Sampled
from deeplvm.core.trace import Site, base_of
from deeplvm.evaluation.latents.aggregate import ancestors_of, prior_of
from deeplvm.evaluation.latents.latent_use import ACTIVE
from deeplvm.export.functions import Decoder, ExportError, unvalidated
from deeplvm.export.javascript import Script, ScriptError, carried_out, engine, javascript, runtime
from deeplvm.inference.embedding import embed
from deeplvm.inference.rows import at_random
from deeplvm.likelihood.importance import importance_sampling
from deeplvm.randomness import evaluating
from deeplvm.report.figures.images import brightness
from deeplvm.report.page import environment
from deeplvm.results import Array

if TYPE_CHECKING:
    from deeplvm.data.records import Selection, Split
    from deeplvm.data.variable import Variable
    from deeplvm.runs.run import Run

ROWS = 20_000
CLOSE = 1e-3
"""How far the page may be from PyTorch, as a share of the range of what is shown."""
_KEPT = 3_000  # rows with their latents and pictures
_NUMBERS = 60_000  # of the latents of these, so that many latents are kept of fewer rows
_DRAWN = 300_000  # of the curves of rows
_LEVELS = 101  # of quantiles
_DRAWS = 1_000  # of the prior, for them
_COMPARED = 8  # latents at which the page is held to PyTorch, of which the page keeps some
_REFERENCES = 3
_REACH = 3.5  # standard deviations to each side
_COLUMNS, _CLASSES = 24, 60
_PARTICLES, _AT_ONCE, _SECONDS = 8, 500, 30.0
_SIDE = 40  # pixels of a picture of a row
_ACROSS = 50  # pictures in a line of them


@dataclass(frozen=True)
class Explorer:
    """A page, and how far it is from PyTorch.

    Attributes:
        page: The text of the file.
        rows: How many are on it.
        difference: The largest from PyTorch, as a share of the range of what is shown; ``None``
            where nothing on this machine runs JavaScript. The page measures it again where it is
            opened.
        compared_in: What ran it.
        single: Whether weights are in single precision, as half precision was not close enough.
    """

    page: str = field(repr=False)
    rows: int
    difference: float | None
    compared_in: str | None
    single: bool

    def to_dict(self) -> dict[str, Any]:
        """What is known of it, without the page."""
        return {
            "bytes": len(self.page.encode()),
            "rows": self.rows,
            "difference": self.difference,
            "compared_in": self.compared_in,
            "precision": "single" if self.single else "half",
        }

    def __str__(self) -> str:
        size = f"{len(self.page.encode()) / 1e6:.1f} MB, {self.rows:,} rows"
        if self.difference is None:
            return (
                f"{size}; neither node nor Chromium is here to run it, so the page itself "
                f"compares its decoder with PyTorch when it is opened"
            )
        precision = "; weights in single precision" if self.single else ""
        return (
            f"{size}; its decoder is within {self.difference:.1e} of PyTorch in {self.compared_in}"
            f"{precision}"
        )


@dataclass(frozen=True)
class _Unit:
    """What one slider moves: a number, a whole number, one of some categories, or a share."""

    name: str
    place: int
    kind: str
    low: float
    high: float
    size: int = 1


def explore(run: Run, *, split: Split | None = None, rows: int = ROWS, seed: int = 0) -> Explorer:
    """A self-contained page: rows among the latents, and the decoder, which answers at once.

    The latents from which the others follow are moved; in a hierarchy that is the top layer, and
    the layers below stay at their means given it.

    Args:
        run: A finished run.
        split: Which rows of its data; test if there are any.
        rows: How many at most, chosen at random.
        seed: Of that choice and of all draws.

    Raises:
        ExportError: If the model has no latents, or x given them is no function of tensors.
        ScriptError: If the decoder has an operation that has no form in JavaScript.
        ValueError: If it is too far from PyTorch even in single precision.
    """
    model, data = run.model, run.data
    chosen = split or next(each for each in ("test", "valid", "train") if data.rows(each))  # type: ignore[arg-type]
    shown: Selection = at_random(data[chosen], rows, seed)  # type: ignore[assignment]
    try:
        whole = Decoder(run)
    except RuntimeError as error:  # of parts that do not fit one another for one row
        raise ExportError(
            f"The decoder of {run.folder} is no function of the latents of one row ({error})."
        ) from error
    drawn = {port.name for port in whole.inputs if port.name in model.p.names} - {"y"}
    moved = embed(model, shown, seed=seed, scales=True)
    if others := [p.name for p in whole.inputs if p.name not in (*model.p.names, "y")]:
        raise ExportError(
            f"The decoder of {run.folder} reads {', '.join(others)} of each row beside its "
            f"latents, so there is no x of a place among the latents alone."
        )
    roots = [n for n in drawn if n in moved and not drawn & ancestors_of(model.p, [n])]
    roots = [port.name for port in whole.inputs if port.name in roots]
    if not roots:
        raise ExportError(
            f"No latent of {run.folder} that q draws for a row is one from which the others "
            f"follow ({', '.join(sorted(drawn))}), so there is nothing to move."
        )
    decoder = Decoder(run, roots)
    sites = _prior_sites(run, roots, seed)
    codes, units = _units(sites, {name: moved[name] for name in roots})
    scales = [moved.get(f"{name}_sd") for name in roots]
    count = len(codes)
    kept = min(count, _KEPT, max(100, _NUMBERS // codes.shape[1]))
    real = all([unit.kind == "real" for unit in units])
    sd = None
    if real and all([each is not None for each in scales]):
        sd = torch.cat(
            [each.reshape(count, -1) for each in scales if each is not None], 1
        ).double()
    arguments = [_arguments(decoder, code, seed) for code in _compared(codes, seed, real=real)]
    views, spans = _views(decoder, shown)
    script, answers, difference, program, single = _compared_with(decoder, arguments, spans)
    axes, points = _plane(codes, units)
    low, high = points.min(0), points.max(0)
    wide = np.where(high > low, high - low, 1.0)
    facts: dict[str, Any] = {
        "ports": [[port.name, int(np.prod(port.shape, dtype=int))] for port in decoder.inputs],
        "label": list(data.classes or ()) if decoder.inputs[-1].name == "y" else None,
        "units": [unit.__dict__ for unit in units],
        "size": codes.shape[1],
        "centre": codes.mean(0).tolist(),
        "rows": count,
        "kept": kept,
        "points": _packed(np.round((points - low) / wide * 65_535), "<u2"),
        "box": [low.tolist(), (low + wide).tolist()],
        "axes": axes,
        "codes": _packed(codes[:kept].numpy(), "<f2"),
        "scales": None if sd is None else _packed(sd[:kept].numpy(), "<f2"),
        "columns": _columns(run, shown, seed),
        "views": views,
        "sprite": _sprite(views, decoder, shown, kept),
        "series": _series(views, decoder, shown, kept),
        "prior": _prior(run, roots, sites, decoder, seed),
        "aggregate": None if sd is None else _aggregate(codes[:kept], sd[:kept], seed),
        "reference": {
            "arguments": [[v.flatten().tolist() for v in e] for e in arguments[:_REFERENCES]],
            "answers": [[_packed(v.numpy(), "<f4") for v in e] for e in answers[:_REFERENCES]],
            "spans": spans,
        },
        "split": chosen,
    }  # fmt: skip
    scripts = {"decoder": script.text, "prior": "null"}
    if facts["prior"] is not None:
        scripts["prior"] = facts["prior"].pop("script")
    names = [(run.config.recipe or "").rpartition(":")[2], data.name]
    page = environment().get_template("explore.html").render(
        title=" · ".join([name for name in names if name]),
        formula=str(model.p), facts=facts, kept=kept, rows=count, split=chosen,
        latents=roots, held=sorted(drawn - set(roots)), pictured=facts["sprite"] is not None,
        program=Markup("\n").join([
            Markup(runtime()),
            *[Markup(f"const {name} = {text};") for name, text in scripts.items()],
            Markup(f"const facts = {_safe(facts)};"),
        ]),
    )  # fmt: skip
    return Explorer(page, count, difference, program, single)


def _prior_sites(run: Run, roots: list[str], seed: int) -> dict[str, Site]:
    """Draws of the latents that are moved, from p."""
    prior = prior_of(run.model, roots)
    with evaluating(run.model, seed), unvalidated():
        given = {}
        if "y" in prior.inputs:
            given["y"] = torch.arange(_DRAWS) % len(run.data.classes or (0,))
        trace = prior(given, (_DRAWS,), default=Sampled())
        return {name: trace[name] for name in roots}


def _units(sites: Mapping[str, Site], moved: Mapping[str, Tensor]) -> tuple[Tensor, list[_Unit]]:
    """The latents of rows, ``(rows, numbers)``, and what can be moved, what varies most first."""
    parts, units, start = [], [], 0
    for name, values in moved.items():
        site, event = sites[name], values.shape[1:]
        base, support = base_of(site.distribution), getattr(site.distribution, "support", None)
        each, inner = values.reshape(len(values), -1).double(), ""
        if isinstance(base, OneHotCategorical) or _is_one_hot(site):
            inner = "choice"
            groups = values.double().flatten(1, -2) if len(event) > 1 else values.double()[:, None]
            each = nn.functional.one_hot(groups.argmax(-1), event[-1]).flatten(1).double()
        elif _whole(site):
            inner, each = "whole", each.round()
        elif _has(support, constraints.simplex):
            inner = "share"
        parts.append(each)
        names = [name] if each.shape[1] == 1 else [f"{name}[{i}]" for i in range(each.shape[1])]
        spread = site.value.reshape(len(site.value), -1).double()
        middle, reach = spread.mean(0), _REACH * spread.std(0)
        low = torch.minimum(middle - reach, each.min(0).values)
        high = torch.maximum(middle + reach, each.max(0).values)
        if inner or not _has(support, constraints.real):
            low, high = each.min(0).values, torch.maximum(each.max(0).values, spread.max(0).values)
            low = torch.minimum(low, spread.min(0).values)
        if inner == "whole" and isinstance(base, Categorical):
            low, high = torch.zeros_like(low), torch.full_like(high, base.probs.shape[-1] - 1)
        step = event[-1] if inner == "choice" else 1
        for i in range(0, each.shape[1], step):
            title = (
                names[i] if step == 1 else f"{name}[{i // step}]" if len(names) > step else name
            )
            units.append(
                _Unit(title, start + i, inner or "real", float(low[i]), float(high[i]), step)
            )
        start += each.shape[1]
    codes = torch.cat(parts, 1)
    varies = codes.var(0) if len(codes) > 1 else torch.ones(codes.shape[1])
    total = {u: float(varies[u.place : u.place + u.size].sum()) for u in units}
    order = sorted(units, key=total.__getitem__, reverse=True)
    active = [unit for unit in order if total[unit] > ACTIVE]
    return codes, active or order[:2]


def _has(support: Any, kind: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is kind


def _is_one_hot(site: Site) -> bool:
    """Relaxed categories, whose distribution draws what is nearly one-hot."""
    return "OneHot" in type(base_of(site.distribution)).__name__


def _whole(site: Site) -> bool:
    if not site.value.is_floating_point():
        return True
    support = getattr(site.distribution, "support", None)
    return bool(getattr(support, "is_discrete", False))


def _compared(codes: Tensor, seed: int, *, real: bool) -> Tensor:
    """Latents of some rows, half of them moved away."""
    some = codes[torch.arange(_COMPARED) % len(codes)]
    if not real:
        return some
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(some.shape, generator=generator, dtype=some.dtype)
    away = codes.std(0) if len(codes) > 1 else torch.ones_like(codes[0])
    return torch.where(torch.arange(_COMPARED)[:, None] % 2 == 0, some, some + away * noise)


def _arguments(decoder: Decoder, code: Tensor, seed: int) -> tuple[Tensor, ...]:
    found, start = [], 0
    for port in decoder.inputs:
        if port.name == "y":
            found.append(port.example(1, torch.Generator().manual_seed(seed)))
            continue
        size = int(np.prod(port.shape, dtype=int))
        value = code[start : start + size].reshape(1, *port.shape)
        found.append(value.to(port.dtype))
        start += size
    return tuple(found)


def _compared_with(
    decoder: nn.Module, arguments: list[tuple[Tensor, ...]], spans: list[float]
) -> tuple[Script, list[list[Tensor]], float | None, str | None, bool]:
    """The decoder as a script that is close to PyTorch, and how close it is.

    Raises:
        ValueError: If it is not.
    """
    program, difference = engine(), None
    with torch.no_grad(), unvalidated():
        answers = [[v.flatten().double() for v in decoder(*each)] for each in arguments]
        for half in (True, False):
            script = javascript(decoder, arguments[0], half=half)
            if program is None:
                return script, answers, None, None, False
            try:
                found = carried_out(script, arguments, program)
            except RuntimeError:
                return script, answers, None, None, False
            difference = max([
                float(((a - b).abs() / span).nan_to_num(nan=torch.inf).max())
                for own, other in zip(found, answers, strict=True)
                for a, b, span in zip(own, other, spans, strict=True) if span
            ])  # fmt: skip
            if difference < CLOSE:
                return script, answers, difference, program.rpartition("/")[2], not half
    raise ValueError(
        f"The decoder as JavaScript is {difference:.1e} of the range of x away from PyTorch, also "
        f"in single precision; {CLOSE:g} is allowed, so no page is written."
    )


def _views(decoder: Decoder, shown: Selection) -> tuple[list[dict[str, Any]], list[float]]:
    """How each variable is shown, and the range of each result (0: codes, not compared)."""
    places = {port.name: i for i, port in enumerate(decoder.outputs)}
    views: list[dict[str, Any]] = []
    spans = [1.0] * len(places)
    for name, variable in decoder.variables.items():
        ends = torch.tensor(brightness(variable, shown.exact(name).double().numpy()))
        view: dict[str, Any] = {"name": name, "output": places[name]}
        if variable.columns is not None:
            spans[places[name]] = 0.0
            view |= {"kind": "table", "columns": _cells(variable, shown.exact(name), places)}
            widths = [c["high"] - c["low"] for c in view["columns"] if "categories" not in c]
            spans[places[name]] = float(min([w for w in widths if w > 0], default=0.0))
            if any(["categories" in c for c in view["columns"]]):
                spans[places[name]] = 0.0  # the most probable code may be another at a tie
        else:
            unit = decoder.in_units[name]
            low, high = [float(unit(end.float()).double().mean()) for end in ends]
            shape = variable.shape
            picture = len(shape) == 3 and shape[0] in (1, 3)
            view |= {"kind": "image" if picture else "curve", "shape": list(shape)}
            view |= {"low": low, "high": high}
            spans[places[name]] = high - low
        views.append(view)
    return views, spans


def _cells(variable: Variable, stored: Tensor, places: Mapping[str, int]) -> list[dict[str, Any]]:
    """The columns of a table: their ranges among the rows, or their categories."""
    found, own = [], variable.restored(stored, exact=True)
    for place, (column, part) in enumerate(variable.by_column.items()):
        cell: dict[str, Any] = {"name": column, "place": place}
        if part.categories is not None:
            cell |= {"categories": list(map(str, part.categories))}
            cell |= {"output": places[f"probability_{column}"]}
        elif part.kind == "date":
            days = np.asarray(own[column], "datetime64[us]").astype(float) / 86_400e6
            cell |= {"date": True, "low": float(np.nanmin(days)), "high": float(np.nanmax(days))}
        elif part.kind == "binary":
            cell |= {"chance": True, "low": 0.0, "high": 1.0}
        else:
            values = np.array([np.nan if v is None else float(v) for v in own[column]])
            known = values[np.isfinite(values)]
            low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
            cell |= {"low": low, "high": high}
        found.append(cell)
    return found


def _plane(codes: Tensor, units: list[_Unit]) -> tuple[dict[str, Any] | None, Array]:
    """Two directions in which rows lie, and where: the only two units, or principal axes."""
    real = all([unit.kind == "real" for unit in units])
    size, centre = codes.shape[1], codes.mean(0)
    if size <= 2:
        axes = torch.eye(2, size, dtype=codes.dtype)
        names = [units[0].name, units[-1].name if size == 2 else ""]
        if size == 2:
            names = [u.name for u in sorted(units, key=lambda unit: unit.place)]
            names += [""] * (2 - len(names))
        centre = torch.zeros_like(centre)
    else:
        values, vectors = torch.linalg.eigh((codes - centre).T @ (codes - centre))
        axes = vectors.T.flip(0)[:2]
        axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        shares = [_share(float(v), float(values.sum())) for v in values.flip(0)[:2]]
        names = [f"principal axis {i}{share}" for i, share in enumerate(shares, 1)]
    points = (codes - centre) @ axes.T
    found = {"names": names, "matrix": axes.tolist(), "centre": centre.tolist(), "drag": real}
    return found, points.numpy()


def _share(part: float, whole: float) -> str:
    """A part of what varies, to follow a name; empty where nothing does."""
    if not whole > 0:
        return ""
    return f" ({100 * part / whole:.0f} %)" if part >= 0.005 * whole else " (below 1 %)"


def _columns(run: Run, shown: Selection, seed: int) -> list[dict[str, Any]]:
    """What rows can be coloured by: the label, the likelihood, columns of a table."""
    found: list[dict[str, Any]] = []
    label = run.description.label
    if label is not None and "y" in shown and len(label.categories or ()) < 255:
        codes = shown["y"].double().nan_to_num(nan=255).cpu().numpy()
        name = "label" if label.name == "y" else label.name
        names = list(label.categories or ())
        found.append({"name": name, "classes": names, "values": _packed(codes, "u1")})
    likelihood = _likelihood(run, shown, seed)
    found.append({"name": "log-likelihood", "values": _packed(likelihood, "<f4"),
                  "known": int(np.isfinite(likelihood).sum())})  # fmt: skip
    for name, variable in run.description.variables.items():
        if variable.columns is None:
            continue
        for column, values in variable.restored(shown.exact(name), exact=True).items():
            if len(found) < _COLUMNS + 2 and (packed := _packed_column(values)) is not None:
                found.append({"name": str(column)} | packed)
    return found


def _packed_column(values: Any) -> dict[str, Any] | None:
    """A column as numbers, or as codes of its texts; ``None`` of too many texts."""
    values = np.asarray(values)
    if values.dtype.kind == "M":
        days = values.astype("datetime64[us]").astype(np.int64) / 86_400e6
        return {"values": _packed(np.where(np.isnat(values), np.nan, days), "<f4"), "date": True}
    if values.dtype.kind in "iuf":
        return {"values": _packed(values.astype(float), "<f4")}
    texts = ["" if v is None or v != v else str(v) for v in values.tolist()]
    names = sorted({text for text in texts if text})
    if len(names) > _CLASSES:
        return None
    places = {name: i for i, name in enumerate(names)}
    codes = np.array([places.get(text, 255) for text in texts])
    return {"classes": names, "values": _packed(codes, "u1")}


def _likelihood(run: Run, shown: Selection, seed: int) -> Array:
    """Log p̂(x) of as many rows as are measured within half a minute; NaN of the others."""
    count, draw = shown.rows, run.measured(run.data)
    found, begin = np.full(count, np.nan), time.monotonic()
    for start in range(0, count, _AT_ONCE):
        if time.monotonic() - begin > _SECONDS:
            break
        part = shown[start : start + _AT_ONCE]
        measured = importance_sampling(
            run.model, part, _PARTICLES, draw=draw, seed=seed, compile=False
        )
        found[start : start + _AT_ONCE] = measured.log_px.double().cpu().numpy()
    return found


def _sprite(
    views: list[dict[str, Any]], decoder: Decoder, shown: Selection, kept: int
) -> dict[str, Any] | None:
    """Small pictures of rows in one image: grey ones of 16 shades."""
    from PIL import Image

    view = next((each for each in views if each["kind"] == "image"), None)
    if view is None:
        return None
    variable = decoder.variables[view["name"]]
    values = shown[:kept].exact(view["name"]).double().numpy()
    low, high = brightness(variable, values)
    shades = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    channels, height, width = values.shape[1:]
    shrink = max(1.0, max(height, width) / _SIDE)
    size = (round(width / shrink), round(height / shrink))
    across = min(_ACROSS, kept)
    sheet = Image.new(
        "L" if channels == 1 else "RGB", (across * size[0], -(-kept // across) * size[1])
    )
    for i, row in enumerate(shades):
        pixels = np.round(255 * row).astype(np.uint8)
        own = Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))
        sheet.paste(
            own.resize(size) if shrink > 1 else own, (i % across * size[0], i // across * size[1])
        )
    buffer = io.BytesIO()
    if channels == 1:
        palette = Image.fromarray(np.asarray(sheet) // 16)
        palette = palette.convert("L")
        coded = Image.frombytes("P", palette.size, palette.tobytes())
        coded.putpalette([17 * shade for shade in range(16) for _ in range(3)])
        coded.save(buffer, "PNG", bits=4, optimize=True)
        kind = "png"
    else:
        sheet.save(buffer, "WEBP", quality=70)
        kind = "webp"
    text = base64.b64encode(buffer.getvalue()).decode()
    return {"source": f"data:image/{kind};base64,{text}", "across": across,
            "width": size[0], "height": size[1]}  # fmt: skip


def _series(
    views: list[dict[str, Any]], decoder: Decoder, shown: Selection, kept: int
) -> str | None:
    """The curves of the first rows, as parts of the range that is drawn."""
    view = views[0]
    if view["kind"] != "curve":
        return None
    count = min(kept, _DRAWN // max(1, int(np.prod(view["shape"]))))
    values = decoder.in_units[view["name"]](shown[:count].exact(view["name"]).float())
    parts = (values.double() - view["low"]) / ((view["high"] - view["low"]) or 1.0)
    return _packed(parts.numpy(), "<f2")


class _LogPrior(nn.Module):
    """The log-density of the latents that are moved."""

    def __init__(self, prior: nn.Module, ports: tuple[Any, ...], roots: list[str]) -> None:
        super().__init__()
        self.prior, self.names, self.roots = prior, [port.name for port in ports], roots

    def forward(self, *arguments: Tensor) -> Tensor:
        given = dict(zip(self.names, arguments, strict=True))
        known = {n: v for n, v in given.items() if n in (*self.prior.names, *self.prior.inputs)}  # type: ignore[operator,misc]
        trace = self.prior(known, (1,))
        parts = [trace[name].log_prob for name in self.roots]
        return torch.stack([part.reshape(()) for part in parts]).sum().reshape(1)


def _prior(
    run: Run, roots: list[str], sites: Mapping[str, Site], decoder: Decoder, seed: int
) -> dict[str, Any] | None:
    """The density of the prior as a script, with its quantiles; ``None`` where it has none."""
    try:
        with unvalidated():
            module = _LogPrior(prior_of(run.model, roots), decoder.inputs, roots)
            example = _arguments(
                decoder, torch.cat([sites[n].value[0].flatten() for n in roots]), seed
            )
            script = javascript(module, example, half=False)
    except (ScriptError, NotImplementedError):
        return None
    parts: list[Any] = [sites[name].log_prob for name in roots]
    total = torch.stack(torch.broadcast_tensors(*parts)).sum(0)
    return {"script": script.text, "quantiles": _quantiles(total)}


def _aggregate(codes: Tensor, sd: Tensor, seed: int) -> dict[str, Any]:
    """Quantiles of the log-density of q(z), by those of some rows, at draws of it."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(len(codes), (min(len(codes), 300),), generator=generator)
    noise = torch.randn(len(which), codes.shape[1], generator=generator, dtype=codes.dtype)
    sd = sd.clamp(min=1e-3)
    drawn = codes[which] + sd[which] * noise
    found = [
        torch.distributions.Normal(codes, sd, validate_args=False).log_prob(z).sum(1).logsumexp(0)
        for z in drawn
    ]
    return {"quantiles": _quantiles(torch.stack(found) - np.log(len(codes)))}


def _quantiles(values: Tensor) -> list[float]:
    levels = torch.linspace(0, 1, _LEVELS, dtype=torch.float64)
    return [round(float(v), 3) for v in values.double().flatten().quantile(levels)]


def _packed(values: Any, kind: str) -> str:
    return base64.b64encode(np.asarray(values, dtype=float).astype(kind).tobytes()).decode()


def _safe(facts: Any) -> str:
    """JSON that cannot end the script in which it stands, whatever a column is called."""
    text = json.dumps(facts, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
