"""Every estimator has a name, as fit and the command line take it."""

from __future__ import annotations

import pytest

from deeplvm.core.draws import is_estimator
from deeplvm.gradients.gumbel_softmax import GumbelSoftmax
from deeplvm.gradients.named import estimator_of, known
from deeplvm.registry import SpellingError


@pytest.mark.parametrize("name", list(known()))
def test_a_name_makes_a_way_of_drawing(name: str) -> None:
    way = estimator_of(name)
    assert callable(way)
    if name in ("gumbel_softmax", "straight_through"):
        assert not is_estimator(way)  # its biased gradient is whole
    if name in ("muprop", "rebar", "relax", "regressed_score"):
        assert is_estimator(way)


def test_options_are_those_of_the_estimator() -> None:
    way = estimator_of("gumbel_softmax(temperature=0.7, straight_through=True)")
    assert isinstance(way, GumbelSoftmax)
    assert float(way.temperature) == pytest.approx(0.7)
    assert way.straight_through
    assert estimator_of("relax(hidden=(7,))").control.hidden == (7,)  # type: ignore[attr-defined]
    with pytest.raises(SpellingError, match="muprop"):
        estimator_of("mu-prop")
