"""Figures of how draws compare with data, as :mod:`deeplvm.report.figures.style` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from deeplvm.evaluation.samples.precision_recall import MEASURES
from deeplvm.report.figures.style import _FIRST, _MUTED, _figure, _grid, _svg, image_grid

if TYPE_CHECKING:
    from torch import Tensor

    from deeplvm.data.records import Variable
    from deeplvm.evaluation.samples.quality import Neighbours


def quality_bars(plain: Mapping[str, Any]) -> Markup:
    """Precision, recall, density and coverage of samples, beside those of fresh rows.

    Args:
        plain: Of :meth:`deeplvm.evaluation.samples.quality.SampleQuality.to_dict`.
    """
    places = np.arange(len(MEASURES))
    groups = (("samples", "samples", _FIRST), ("fresh", f"{plain['split']} rows", _MUTED))
    with _figure(6.4, 2.7) as (figure, axes):
        for shift, (key, label, colour) in zip((-0.19, 0.19), groups, strict=True):
            found = [plain[key]["manifold"][each] for each in MEASURES]
            heights = [each["value"] or 0.0 for each in found]
            errors = [each["stderr"] or 0.0 for each in found]
            bars = axes.bar(places + shift, heights, 0.36, color=colour, label=label)
            for bar in bars:
                bar.set_alpha(1.0 if key == "samples" else 0.5)
            axes.errorbar(places + shift, heights, errors, fmt="none", ecolor=_MUTED, elinewidth=1)
        axes.set_xticks(places, MEASURES)
        axes.axhline(1.0, color=_MUTED, linewidth=0.6, linestyle=":")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.set_ylabel("against training rows")
        _grid(axes)
        return _svg(figure, "quality", "Precision, recall, density and coverage of samples")


def neighbour_grid(neighbours: Neighbours, variable: Variable | None = None) -> Markup:
    """Samples above their nearest training rows, one line for each space.

    The first group of lines are the first samples, the second those that are nearest to a
    training row.

    Raises:
        ValueError: If the rows are no images.
    """
    first = neighbours.first
    spaces = (neighbours.samples, *neighbours.nearest.values())
    lines = [_line(each[part], first) for part in _parts(neighbours) for each in spaces]
    alt = f"Samples, and below each the nearest training row in {_joined(neighbours.nearest)}"
    return image_grid(
        np.concatenate(lines), alt, columns=first, variable=variable, group=len(spaces)
    )


def _parts(neighbours: Neighbours) -> tuple[slice, slice]:
    return slice(0, neighbours.first), slice(neighbours.first, None)


def _line(images: Tensor, columns: int) -> np.ndarray[Any, Any]:
    """As many images as fit in a line; there are as many in either part."""
    return images[:columns].numpy()


def _joined(names: Mapping[str, Any]) -> str:
    return ", then in ".join(names)
