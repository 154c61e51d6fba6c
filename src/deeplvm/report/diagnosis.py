"""What a diagnosis leaves in a RUN folder: its verdicts, and a figure of each measurement."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from deeplvm.diagnosis.diagnose import Diagnosis
from deeplvm.files import write_atomically
from deeplvm.report.figures import bound, latents, likelihood, predictive, samples


class Drawing(NamedTuple):
    """A figure with what it shows.

    Attributes:
        name: Of its file.
        topic: Of the section it stands in.
        caption: What is to be seen, with the numbers.
        image: An ``<svg>`` or ``<img>`` element in the colours of the page around it.
    """

    name: str
    topic: str
    caption: str
    image: Markup


Drawn = Callable[[Any], Markup]


def _factors(found: Any) -> Markup:
    return latents.factor_matrix_figure(found["mutual_information_gap"].matrix, found.factors)


_BOUND, _LATENTS, _DRAWS = "Where the bound loses", "What the latents do", "Draws against data"
# measurement -> name of the figure, its topic, what is to be seen, how it is drawn
_FIGURES: tuple[tuple[str, str, str, str, Drawn], ...] = (
    ("convergence", "convergence", "Is the likelihood settled?",
     ("Both are lower bounds in expectation: the higher is the better one, and one that still "
      "rises is not there yet."),
     lambda found: likelihood.convergence_figure(found.to_dict())),
    ("inference gaps", "generalisation", _BOUND,
     "What training and held-out rows lose to the family of q and to the encoder.",
     bound.generalisation_figure),
    ("rate and distortion", "rate_distortion", _BOUND,
     "No inference model of this p is below the curve; the point is this q.",
     bound.rate_distortion_figure),
    ("surgery of the bound", "surgery", _LATENTS,
     ("The averaged divergence from the prior: what the latents say about a row (mutual "
      "information), and how far their average is from the prior, which is lost."),
     bound.surgery_figure),
    ("aggregate posterior", "aggregate", _LATENTS,
     "The average of q(z | x) over the rows, beside the prior, where they differ most.",
     lambda found: latents.aggregate_figure(next(iter(found.latents.values())))),
    ("holes", "holes", _LATENTS,
     "Density of the aggregate posterior at draws of the prior and at its own.",
     latents.holes_figure),
    ("probes", "probes", _LATENTS,
     "How well labels are read from the latents, and from the values themselves.",
     latents.probes_figure),
    ("disentanglement", "factors", _LATENTS,
     "What each latent says about each factor that the data were drawn from, nats.", _factors),
    ("predictive checks", "checks", _DRAWS,
     "Statistics of held-out rows against those of as many draws; the most surprising first.",
     predictive.checks_figure),
    ("calibration", "calibration", _DRAWS,
     "Hidden values: how often intervals hold them, or what was said to be likely came.",
     predictive.calibration_figure),
    ("sample quality", "quality", _DRAWS,
     "Draws beside held-out rows, both against training rows.",
     lambda found: samples.quality_bars(found.to_dict())),
    ("sample quality", "neighbours", _DRAWS, "Draws, and below each its nearest training row.",
     lambda found: samples.neighbour_grid(found.neighbours)),
)  # fmt: skip


def write_diagnosis(found: Diagnosis, folder: Path) -> str:
    """Write ``diagnosis.json`` and its figures into a RUN folder; older ones go.

    All are written beside their places first, so that a full disk leaves the older ones.

    Returns:
        The text of ``diagnosis.json``.

    Raises:
        ValueError: If the folder of the figures is a link.
    """
    beside, figures = folder / "figures", list(drawn(found.examination.measured))
    if beside.is_symlink():
        raise ValueError(f"{beside} is a link, and nothing is written outside of {folder}.")
    told = [
        {"file": f"figures/{each.name}.svg", "topic": each.topic, "caption": each.caption}
        for each in figures
    ]
    plain = found.to_dict() | {"figures": told}
    text = json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with tempfile.TemporaryDirectory(prefix=".diagnosis-", dir=folder) as name:
        fresh = Path(name)
        for figure in figures:
            write_atomically(fresh / f"{figure.name}.svg", figure.image.encode())
        write_atomically(fresh / "diagnosis.json", text.encode())
        beside.mkdir(exist_ok=True)
        for _, old, *_ in _FIGURES:  # what others have put there stays
            (beside / f"{old}.svg").unlink(missing_ok=True)
        for figure in figures:
            (fresh / f"{figure.name}.svg").replace(beside / f"{figure.name}.svg")
        (fresh / "diagnosis.json").replace(folder / "diagnosis.json")
    return text


def drawn(measured: Mapping[str, Any]) -> Iterator[Drawing]:
    """The figures of measurements by name, in the order of the page; those that can be drawn."""
    for measurement, name, topic, caption, draw in _FIGURES:
        if measurement not in measured:
            continue
        with contextlib.suppress(ValueError):  # rows that are no images have no grid
            yield Drawing(name, topic, caption, draw(measured[measurement]))
