"""Sets with known factors: sampling, and images against geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deeplvm.data.synthetic import shapes as rooms
from deeplvm.data.synthetic.expressions import expressions
from deeplvm.data.synthetic.factors import Factors, tabulated
from deeplvm.data.synthetic.scenes import scattered
from deeplvm.data.synthetic.shapes import shapes3d
from deeplvm.data.synthetic.sprites import AXES, HALF_SIDE, HEART, sprites
from deeplvm.grammar import EXPRESSIONS, Grammar

GRID = Factors(("a", "b"), (3, 4), (2,), lambda v: v.double())


def test_every_combination_once() -> None:
    values = GRID.combination(torch.arange(12))
    assert len(torch.unique(values, dim=0)) == 12
    assert values[1].tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"0 \.\. 11"):
        GRID.combination(torch.tensor([12]))


def test_samples_are_uniform_and_fixed_values_stay() -> None:
    """12,000 draws of 12 cells: χ² of 11 degrees is below 31.3 but for 1 in 1,000 seeds."""
    drawn = GRID.sample(12_000, torch.Generator().manual_seed(0))
    counts = np.unique(drawn.numpy(), axis=0, return_counts=True)[1]
    assert ((counts - 1000) ** 2 / 1000).sum() < 31.3
    each = torch.arange(12) % 4
    assert torch.equal(GRID.sample(12, fixed={"b": each})[:, 1], each)


def test_refusals() -> None:
    for wrong, message in (
        ([[0, 4]], r"b has the values 0 \.\. 3; row 0 asks for 4"),
        ([[-1, 0]], "row 0 asks for -1"),
        ([0, 1], "whole numbers of shape"),
        ([[0.5, 1.0]], "whole numbers of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            GRID.draw(torch.tensor(wrong))
    with pytest.raises(ValueError, match="No factor is called 'c'"):
        GRID.sample(2, fixed={"c": 0})
    with pytest.raises(ValueError, match="names of their own"):
        Factors(("a", "a"), (2, 2), (2,), GRID.make)
    with pytest.raises(ValueError, match="at least one value"):
        Factors(("a",), (2, 2), (2,), GRID.make)


def test_a_stored_set_gives_its_rows() -> None:
    values = GRID.combination(torch.randperm(12, generator=torch.Generator().manual_seed(0)))
    stored = tabulated(GRID.draw(values), values * 10 + 3, ("a", "b"))
    asked = GRID.sample(50, torch.Generator().manual_seed(1))
    assert stored.sizes == (3, 4)
    assert torch.equal(stored.draw(asked), GRID.draw(asked))
    with pytest.raises(ValueError, match=r"3 × 4 = 12 combinations.* 11 rows"):
        tabulated(torch.zeros(11, 2), values[:11], ("a", "b"))
    with pytest.raises(ValueError, match=r"\(12, 1\) is expected"):
        tabulated(torch.zeros(12, 2), values, ("a",))


# Areas in pixels at scale 1; that of (u² + w² − 1)³ ≤ u² w³ is 3.6619722.
AREAS = (4 * HALF_SIDE**2, math.pi * AXES[0] * AXES[1], 3.6619722 * HEART**2)


@pytest.mark.parametrize("shape", range(3))
def test_sprites_have_their_area(shape: int) -> None:
    """Mean over 40 orientations of the pixels inside, for each scale, to 3%."""
    for scale in range(6):
        values = [[shape, scale, turn, 7, 20] for turn in range(40)]
        pixels = sprites().draw(values).double().sum((1, 2, 3)).mean()
        assert float(pixels) == pytest.approx(AREAS[shape] * (0.5 + 0.1 * scale) ** 2, rel=0.03)


@pytest.mark.parametrize("shape", range(3))
def test_a_position_is_a_pixel_and_nothing_is_cut_off(shape: int) -> None:
    corner = sprites().draw([[shape, 5, 7, 0, 0]])
    for x, y in ((31, 0), (0, 31), (31, 31), (5, 9)):
        moved = sprites().draw([[shape, 5, 7, x, y]])
        assert torch.equal(moved, corner.roll((y, x), (2, 3)))
        assert not moved[..., [0, -1], :].any()
        assert not moved[..., [0, -1]].any()


def test_symmetries_of_the_sprites() -> None:
    """A square repeats after 10 orientations, an ellipse after 20, a heart after 40."""
    values = torch.tensor([[s, 5, turn, 16, 16] for s in range(3) for turn in range(40)])
    images = sprites().draw(values).reshape(3, 40, -1)
    assert [len(torch.unique(each, dim=0)) for each in images] == [10, 20, 40]


def test_a_quarter_turn_turns_the_picture() -> None:
    heart = sprites().draw([[2, 5, turn, 15, 15] for turn in (0, 10)])[:, 0, 15:48, 15:48]
    assert torch.equal(heart[1], torch.rot90(heart[0]))


def test_drawing_in_parts_changes_nothing() -> None:
    values = sprites().sample(600, torch.Generator().manual_seed(0))
    images = sprites().draw(values)
    assert images.shape == (600, 1, 64, 64)
    assert images.dtype == torch.uint8
    assert torch.equal(images[-7:], sprites().draw(values[-7:]))


def test_colours_of_the_room() -> None:
    """A hue colours its own surface and no other; equal hues mix to that hue everywhere."""
    base = [2, 5, 8, 4, 0, 7]
    images = shapes3d().draw([base, *[[*base[:i], base[i] + 1, *base[i + 1 :]] for i in range(3)]])
    changed = (images[1:] != images[:1]).any(1)  # (3, 64, 64)
    assert (changed.float().mean((1, 2)) > 0.08).all()
    assert changed.float().sum(0).max() <= 3
    assert float((changed.sum(0) > 1).float().mean()) < 0.12  # pixels on an edge have two
    assert changed.any(0).all()
    red = shapes3d().draw([[0, 0, 0, 3, 2, 4]]).float()
    assert float((red[:, 1] - red[:, 2]).abs().max()) <= 1
    assert (red[:, 0] > red[:, 1]).all()


def _rays(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    origin = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    origin = 5 * origin / origin.norm(dim=1, keepdim=True)
    aim = torch.rand(rows, 3, generator=generator, dtype=torch.float64) * 2 - 1
    ray = aim + torch.tensor([0, 0.9, 0]) - origin
    return origin, ray / ray.norm(dim=1, keepdim=True)


def _level(kind: int, point: torch.Tensor, size: float) -> torch.Tensor:
    """A function that is negative inside, from the solid's definition."""
    x, y, z = point.unbind(-1)
    flat = (x**2 + z**2).sqrt()
    if kind == 0:
        return torch.stack([x.abs(), (y - 0.8 * size).abs(), z.abs()]).amax(0) - 0.8 * size
    if kind == 1:
        return torch.maximum(flat - 0.75 * size, (y - 0.8 * size).abs() - 0.8 * size)
    if kind == 2:
        return (x**2 + (y - 0.95 * size) ** 2 + z**2).sqrt() - 0.95 * size
    along = (y - y.clamp(0.6 * size, 1.3 * size)) ** 2
    return (flat**2 + along).sqrt() - 0.6 * size


@pytest.mark.parametrize("kind", range(4), ids=rooms.SHAPES)
def test_rays_meet_the_solids_where_marching_does(kind: int) -> None:
    """Closed-form intersections against steps of 1/200 along each ray."""
    origin, ray = _rays(400)
    keep = origin[:, 1] > 1.8  # the eye and the lamp are above; a cylinder has no floor of its own
    origin, ray, size = origin[keep], ray[keep], 1.1
    solid = (rooms._cube, rooms._cylinder, rooms._sphere, rooms._capsule)[kind]
    reach, normal = solid(origin, ray, size)
    steps = torch.arange(0, 10, 0.005, dtype=torch.float64)
    levels = _level(kind, origin[:, None] + steps[:, None] * ray[:, None], size)
    inside = levels < 0
    met = inside.any(1)
    clear = levels.amin(1).abs() > 0.01  # not merely grazed
    assert torch.equal((reach < rooms._FAR)[clear], met[clear])
    assert met.sum() > 30
    both = met & clear
    first = steps[inside.int().argmax(1)]
    assert float((reach - first)[both].abs().max()) < 0.02
    assert torch.allclose(
        normal[both].norm(dim=1), torch.ones(int(both.sum())).double(), atol=1e-6
    )
    assert ((normal * ray).sum(1)[both] < 1e-6).all()  # it faces the eye


def test_scenes_hold_as_many_whole_objects_as_they_say() -> None:
    """Their ink adds up, as none covers another where there is room."""
    ink = np.random.default_rng(1).integers(0, 9, (5, 3, 4)).astype(np.uint8)
    pictures, counts = scattered(ink, 60, 12, 2, np.random.default_rng(0))
    assert pictures.shape == (60, 1, 12, 12)
    assert pictures.dtype == np.uint8
    assert set(counts) == {0, 1, 2}
    totals = ink.sum((1, 2))
    sums = {0: {0}, 1: set(totals), 2: {a + b for a in totals for b in totals}}
    for picture, count in zip(pictures, counts, strict=True):
        assert picture.sum() in sums[int(count)]


def test_expressions_differ_are_short_and_of_the_grammar() -> None:
    grammar, found = Grammar(EXPRESSIONS), expressions(200, longest=9)
    assert len({*found}) == 200
    assert max([len(grammar.parse(text)) for text in found]) <= 9
    with pytest.raises(ValueError, match=r"at most 2 productions gave 4 different strings"):
        expressions(5, longest=2)
