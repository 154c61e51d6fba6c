"""Joint: notation, order, drawing and scoring (R1.3 to R1.8)."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.core.joint import Joint, NotationError, parse
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Enumerated, Sampled
from deeplvm.networks import MLP, Features
from deeplvm.recurrent import Plate


class Linear(nn.Module):
    """x | parents ~ N(sum of parents W, s^2): a conditional without any base class."""

    def __init__(self, *widths: int, out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(width, out) for width in widths])
        self.out, self.scale = out, scale

    def forward(self, *parents: Tensor) -> Distribution:
        mean = torch.zeros(self.out)
        for layer, parent in zip(self.maps, parents, strict=True):
            mean = mean + layer(parent)
        return Independent(Normal(mean, self.scale), 1)


@pytest.mark.parametrize(
    "text, names, parents",
    [
        ("z", ("z",), ()),
        ("x | z", ("x",), ("z",)),
        (" x|y ,z[-1] ", ("x",), ("y", "z[-1]")),
        ("z, x | c", ("z", "x"), ("c",)),
    ],
)
def test_notation_is_read(text: str, names: tuple[str, ...], parents: tuple[str, ...]) -> None:
    factor = parse(text)
    assert factor.names == names
    assert tuple(str(parent) for parent in factor.parents) == parents


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x |",
        "x | z | y",
        "2x",
        "x-y",
        "x | z[1]",
        "x[-1] | z",
        "x | ",
        "x y",
        "x | z,",
        "x | z, z",
    ],
)
def test_anything_else_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(NotationError) as error:
        Joint({text: StandardNormal(1)})
    assert repr(text) in str(error.value) or repr(text.strip()) in str(error.value)


def test_cycles_duplicates_and_lags_are_refused() -> None:
    with pytest.raises(NotationError, match=r"cycle: a \| b; b \| a"):
        Joint({"a | b": Linear(1, out=1), "b | a": Linear(1, out=1)})
    with pytest.raises(NotationError, match="'a' is defined twice"):
        Joint({"a": StandardNormal(1), "a | b": Linear(1, out=1)})
    with pytest.raises(NotationError, match="only Recurrent"):
        Joint({"a | a[-1]": Linear(1, out=1)})
    with pytest.raises(NotationError, match="not to a conditional"):
        Joint({"a": Normal(0.0, 1.0)})  # type: ignore[dict-item]
    with pytest.raises(NotationError, match="must map to a joint"):
        Joint({"a, b": StandardNormal(1)})


def random_graph(order: list[str]) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    factors = {
        "a": Linear(out=2, scale=0.7),
        "b | a": Linear(2, out=1, scale=1.3),
        "c | a, b": Linear(2, 1, out=3, scale=0.4),
        "d | b, c": Linear(1, 3, out=2, scale=0.9),
    }
    return {key: factors[key] for key in order}


def test_gaussian_graph_equals_its_joint_normal_density() -> None:
    """R1.5: the sum of log-densities is the joint normal; its moments by linear propagation."""
    keys = ["a", "b | a", "c | a, b", "d | b, c"]
    joint = Joint(random_graph(keys))
    weights = {name: [(layer.weight, layer.bias) for layer in joint[name].maps] for name in "abcd"}
    scales = {name: joint[name].scale for name in "abcd"}
    sizes = {"a": 2, "b": 1, "c": 3, "d": 2}
    parents = {"a": "", "b": "a", "c": "ab", "d": "bc"}
    # Each variable as an affine map of all noises: value = M noise + m.
    total = sum(sizes.values())
    maps: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    start = 0
    for name in "abcd":
        own = torch.zeros(sizes[name], total)
        own[:, start : start + sizes[name]] = scales[name] * torch.eye(sizes[name])
        mean = torch.zeros(sizes[name])
        for parent, (weight, bias) in zip(parents[name], weights[name], strict=True):
            own = own + weight @ maps[parent]
            mean = mean + weight @ means[parent] + bias
        maps[name], means[name] = own, mean
        start += sizes[name]
    matrix = torch.cat([maps[name] for name in "abcd"])
    density = MultivariateNormal(torch.cat([means[n] for n in "abcd"]), matrix @ matrix.T)
    values = {name: torch.randn(5, size) for name, size in sizes.items()}
    expected = density.log_prob(torch.cat([values[name] for name in "abcd"], -1))
    assert torch.allclose(joint(values).log_prob, expected, atol=1e-10)


def test_order_of_declaration_changes_nothing() -> None:
    values = {
        "a": torch.randn(4, 2),
        "b": torch.randn(4, 1),
        "c": torch.randn(4, 3),
        "d": torch.randn(4, 2),
    }
    keys = ["a", "b | a", "c | a, b", "d | b, c"]
    first = Joint(random_graph(keys))(values).log_prob
    second = Joint(random_graph(keys[::-1]))(values).log_prob
    assert torch.allclose(first, second, atol=1e-12)


def test_any_subset_observed_draws_with_the_batch_shape() -> None:
    joint = Joint(random_graph(["a", "b | a", "c | a, b", "d | b, c"]))
    trace = joint({"b": torch.zeros(5, 1)}, batch_shape=(7, 5))
    assert trace["a"].drawn
    assert not trace["b"].drawn
    assert trace["b"].value.shape == (5, 1)
    assert trace["d"].value.shape == (7, 5, 2)
    assert trace["b"].log_prob.shape == (7, 5)
    assert trace.log_prob.shape == (7, 5)


def test_ancestral_moments() -> None:
    """Failure rate about 1e-4: 5 standard errors on 4 moments."""
    torch.manual_seed(0)
    joint = Joint({"z": StandardNormal(1), "x | z": Linear(1, out=1, scale=0.5)})
    weight, bias = joint["x"].maps[0].weight.item(), joint["x"].maps[0].bias.item()
    n = 40_000
    x = joint({}, batch_shape=(n,))["x"].value
    variance = weight**2 + 0.25
    assert abs(x.mean().item() - bias) < 5 * (variance / n) ** 0.5
    assert abs(x.var().item() - variance) < 5 * variance * (2 / n) ** 0.5


def test_deterministic_nodes_and_inputs() -> None:
    joint = Joint({"h | x": Features(MLP(3, 4)), "z | h": Gaussian(2, MLP(4))})
    assert joint.inputs == ("x",)
    trace = joint({"x": torch.randn(5, 3)})
    assert trace["h"].distribution is None
    assert trace["h"].log_prob is None
    with pytest.raises(ValueError, match=r"p\(h \| x\) needs 'x'"):
        joint({}, batch_shape=(5,))
    with pytest.raises(ValueError, match="computed from its parents"):
        joint({"x": torch.randn(5, 3), "h": torch.randn(5, 4)})
    with pytest.raises(ValueError, match=r"batch_shape=\(rows,\)"):
        Joint({"z": StandardNormal(1)})({})


def test_integers_reach_networks_as_one_hot() -> None:
    joint = Joint({"y": Categorical(3), "x | y": Gaussian(2, MLP(3, 4))})
    given = joint({"y": torch.tensor([0, 2])}, batch_shape=(2,))
    assert given["y"].value.tolist() == [0, 2]
    assert given["y"].features.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert joint({}, (5,), default=Sampled())["x"].value.shape == (5, 2)


def test_sub_joint_defines_several_names() -> None:
    inner = Joint({"a": StandardNormal(2), "b | a": Linear(2, out=1)})
    outer = Joint({"a, b": inner, "c | b": Linear(1, out=1)})
    flat = Joint({"a": inner["a"], "b | a": inner["b"], "c | b": outer["c"]})
    values = {"a": torch.randn(4, 2), "b": torch.randn(4, 1), "c": torch.randn(4, 1)}
    assert torch.equal(outer(values).log_prob, flat(values).log_prob)
    with pytest.raises(NotationError, match="defines a, b"):
        Joint({"a, x": inner})


def test_names_shared_by_all_rows_inside_a_sub_joint() -> None:
    """A shared name keeps its one row, whichever joint says so; the one that draws it must."""
    inner = Joint({"w": StandardNormal(2), "x | w": Gaussian(3, MLP(2, 4))}, shared=["w"])
    outer = Joint({"w, x": inner, "y | x": Gaussian(1, MLP(3, 4))})
    assert outer.shared == {"w"}
    assert outer({}, (7, 5))["w"].value.shape == (7, 1, 2)
    assert outer({}, (7, 5))["x"].value.shape == (7, 5, 3)
    alone = Joint({"w": StandardNormal(2), "x | w": Gaussian(3, MLP(2, 4))})
    with pytest.raises(NotationError, match=r"'w'.*draws them for each row; say shared=... there"):
        Joint({"w, x": alone}, shared=["w"])
    with pytest.raises(NotationError, match="w cannot be shared by all rows inside a repetition"):
        Plate({"w, x": inner})


def test_enumeration_inside_a_sub_joint_is_enumeration() -> None:
    """The trace of nested joints is that of the flat one: values, measure, and batch shape."""
    parts: dict[str, nn.Module] = {
        "a": Categorical(3),
        "b | a": Categorical(2, MLP(3, 4)),
        "c | a, b": Gaussian(1, MLP(5, 4)),
    }
    flat = Joint(parts)
    inner = Joint({key: parts[key] for key in ("a", "b | a")})
    nests = [
        Joint({"a, b": inner, "c | a, b": parts["c | a, b"]}),
        Joint({"a, b, c": Joint({"a, b": inner, "c | a, b": parts["c | a, b"]})}),
        Joint({"a": Joint({"a": parts["a"]}), "b, c | a": Joint(dict(list(parts.items())[1:]))}),
    ]
    draw = {"a": Enumerated(), "b": Enumerated()}
    c = {"c": torch.randn(4, 1)}
    truth = flat(c, (5, 4), draw=draw)
    for nested in nests:
        trace = nested(c, (5, 4), draw=draw)
        assert trace.batch_shape == truth.batch_shape == (2, 3, 5, 4)
        assert torch.equal(trace.log_prob, truth.log_prob)
        assert torch.allclose(trace.log_measure, truth.log_measure, atol=1e-12)
    total = truth.log_measure.exp().expand(truth.batch_shape).sum((0, 1, 2))
    assert torch.allclose(total, torch.ones(4), atol=1e-12)


def test_names_by_the_thousand_in_any_order() -> None:
    """Children first and in disorder; the time grows with the number, not with its square."""

    def built(names: int) -> tuple[Joint, float]:
        keys = [f"x{i} | x{i + 1}" for i in range(names)]
        order = torch.randperm(names, generator=torch.Generator().manual_seed(0)).tolist()
        cell, began = Features(nn.Identity(), 1), time.process_time()
        factors = dict.fromkeys(keys, cell) | {keys[i]: cell for i in order}
        return Joint(factors), time.process_time() - began

    small, fast = built(500)
    large, slow = built(4_000)
    assert large.names[0] == "x3999"
    assert large.inputs == ("x4000",)
    assert slow < 40 * fast + 1.0  # 8 times as many; their square is 64
    trace = small({"x500": torch.ones(2, 1)})
    assert torch.equal(trace["x0"].value, torch.ones(2, 1))
    assert len(LatentVariableModel(large, large).common) == 4_000
    with pytest.raises(NotationError, match=r"form a cycle: a0 \| a1; .*; a1999 \| a0"):
        Joint({f"a{i} | a{(i + 1) % 2_000}": nn.Identity() for i in range(2_000)})


def test_state_dict_reads_as_the_notation() -> None:
    joint = Joint({"z": Gaussian(2), "x | z": Gaussian(3, MLP(2, 4))})
    assert any(key.startswith("factors.x | z.") for key in joint.state_dict())
    # Names of a module container's own attributes are names like any other.
    assert Joint({"values": StandardNormal(1), "items | values": Linear(1, out=1)}).names == (
        "values",
        "items",
    )
