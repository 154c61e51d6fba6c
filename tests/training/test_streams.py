"""Batches of several sources at once, and batches in which one factor varies."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import nn

from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.core.draws import Enumerated
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.networks import MLP
from deeplvm.objectives import elbo
from deeplvm.training import ByFactor, Phase, Streams, TrainingInterrupted
from deeplvm.training.batches import batches_of
from training_models import OnEpoch, digits, digits_vae, quietly, same, untimed, weights

CPU = torch.device("cpu")


def numbered(rows: int) -> dict[str, torch.Tensor]:
    return {"x": torch.arange(rows, dtype=torch.get_default_dtype()).unsqueeze(-1).expand(-1, 64)}


def visits(streams: Streams, epochs: int, batch_size: int, seed: int = 0):
    batches = batches_of(digits_vae(), streams, None, None, CPU)
    return [
        batches("train", index)
        for epoch in range(1, epochs + 1)
        for index in batches.order(epoch, seed, batch_size)
    ]


class TestStreams:
    @pytest.mark.parametrize("epoch, steps", [(None, 5), ("few", 2), ("many", 5)])
    def test_an_epoch_is_the_longest_or_the_one_that_is_named(self, epoch, steps):
        streams = Streams({"few": numbered(7), "many": numbered(20)}, epoch=epoch)
        assert len(visits(streams, 1, 4)) == steps

    def test_every_row_is_visited_as_often_as_the_others_of_its_source(self):
        """The shorter one starts again in a new order; the longer one goes on where it was."""
        batches = visits(Streams({"few": numbered(6), "many": numbered(9)}), 4, 4)
        for name, rows in (("few", 6), ("many", 9)):
            seen = torch.cat([batch[name]["x"][:, 0] for batch in batches]).long()
            assert torch.bincount(seen, minlength=rows).tolist() == [36 // rows] * rows
            passes = seen.reshape(-1, rows)
            assert all(sorted(each.tolist()) == list(range(rows)) for each in passes)
            assert not torch.equal(passes[0], passes[1])

    def test_sources_of_one_size_are_not_paired(self):
        (batch,) = visits(Streams({"a": numbered(50), "b": numbered(50)}), 1, 50)
        assert not torch.equal(batch["a"]["x"], batch["b"]["x"])

    def test_labelled_and_unlabelled_rows_in_one_step(self):
        """Kingma et al., 2014: one ledger for each kind of row, summed; then as two phases."""
        train, valid = digits(230, 60)
        few, many = {n: v[:30] for n, v in train.items()}, {"x": train["x"][30:]}
        data = Streams({"labelled": few, "unlabelled": many})
        every = {"y": Enumerated()}

        def model():
            torch.manual_seed(1)
            p = Joint(
                {
                    "y": Categorical(10),
                    "z": StandardNormal(3),
                    "x | y, z": Bernoulli(64, MLP(13, 16)),
                }
            )
            q = Joint(
                {"y | x": Categorical(10, MLP(64, 16)), "z | x, y": Gaussian(3, MLP(74, 16))}
            )
            return LatentVariableModel(p, q)

        def both(model, batch):
            assert batch["labelled"].keys() == {"x", "y"}
            assert batch["unlabelled"].keys() == {"x"}
            return (
                model.evidence(batch["labelled"], missing=()),
                model.evidence(batch["unlabelled"], draw=every, missing=()),
            )

        def total(pair):
            return elbo(pair[0]).mean() + elbo(pair[1]).mean()

        one = [Phase(total, evidence=both)]
        two = [Phase(stream="labelled"), Phase(stream="unlabelled", draw=every)]
        for phases in (one, two):
            history = quietly(
                model(), data, valid=valid, epochs=3, batch_size=25, learning_rate=1e-2,
                phases=phases, measure="elbo",
            )  # fmt: skip
            values = history.values("valid")
            assert values[-1] > values[0] + 2
            assert history.epochs[0]["train"].keys() == {"elbo", "x", "y", "z"}

    def test_resumed_in_the_middle_of_an_epoch(self, tmp_path):
        class Stop(OnEpoch):
            def step_ended(self, step, objective):
                if step == 7:
                    raise KeyboardInterrupt

        phases = [Phase(stream="a"), Phase(stream="b", learning_rate=1e-2)]
        data = Streams({"a": digits(40)[0], "b": digits(90)[0]})
        learn = functools.partial(quietly, data=data, phases=phases, epochs=3, batch_size=20)
        whole, parts = digits_vae(), digits_vae(seed=5)
        expected = learn(whole)
        with pytest.raises(TrainingInterrupted):
            learn(digits_vae(), folder=tmp_path, callbacks=[Stop(print)], checkpoint_seconds=1e-9)
        history = learn(parts, folder=tmp_path, resume=True)
        assert same(weights(whole), weights(parts))
        assert untimed(history.epochs) == untimed(expected.epochs)

    def test_what_is_measured(self):
        data = Streams({"a": digits(40)[0], "b": digits(90)[0]}, measured="b")
        seen = []

        def rows(model, given):
            seen.append(len(given["x"]))
            return 0.0

        phases = [Phase(stream="a")]
        quietly(digits_vae(), data, valid=digits(1, 30)[1], phases=phases, epochs=1, measure=rows)
        assert seen == [30, 30]

    def test_a_broken_row_is_named(self):
        broken = digits(40)[0]["x"].clone()
        broken[17, 3] = torch.inf
        data = Streams({"a": digits(90)[0], "b": {"x": broken}})
        with pytest.raises(ValueError, match=r"'x' has .*infinite value.* in row 17"):
            quietly(digits_vae(), data, phases=[Phase(stream="b")], epochs=1, batch_size=50)

    @pytest.mark.parametrize(
        "make, message",
        [
            (lambda: Streams({}), "no sources"),
            (lambda: Streams({"a": numbered(2)}, epoch="b"), "epoch='b' is none of the streams a"),
            (lambda: Streams({"a": numbered(2)}, measured="b"), "measured='b' is none"),
        ],
    )
    def test_nonsense_is_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_a_phase_of_another_stream_is_refused(self):
        data = Streams({"a": digits(20)[0]})
        with pytest.raises(ValueError, match="no stream 'b'; there are a"):
            quietly(digits_vae(), data, phases=[Phase(stream="b")], epochs=1)
        with pytest.raises(ValueError, match=r"Phase 1 does not say which stream.* one of a,"):
            quietly(digits_vae(), data, epochs=1)
        with pytest.raises(ValueError, match="data have no streams"):
            quietly(digits_vae(), digits(20)[0], phases=[Phase(stream="b")], epochs=1)


# three factors of 3, 2 and 4 levels, each combination twice
FACTORS = torch.tensor(list(itertools.product(range(3), range(2), range(4)))).repeat(2, 1)


class TestByFactor:
    def batches(self, epoch: int, first: int = 0, batch_size: int = 6, factors=FACTORS):
        data = ByFactor({"x": torch.zeros(len(factors), 64)}, factors)
        return [*data.order(epoch, 3, batch_size, first)]

    def test_one_factor_varies_and_every_one_does(self):
        varied = set()
        for epoch in range(1, 6):
            batches = self.batches(epoch)
            assert len(batches) == 8
            for index in batches:
                rows, (factor,) = FACTORS[index[:, 0]], index[:, 1].unique().tolist()
                others = [i for i in range(3) if i != factor]
                assert len(rows[:, others].unique(dim=0)) == 1
                assert len(index[:, 0].unique()) == len(index) > 1
                varied.add(factor)
        assert varied == {0, 1, 2}

    def test_is_a_function_of_seed_and_epoch(self):
        first, again, other = self.batches(1), self.batches(1), self.batches(2)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        late = self.batches(1, first=5)
        assert all(torch.equal(a, b) for a, b in zip(first[5:], late, strict=True))

    def test_a_factor_that_never_varies_alone_is_never_chosen(self):
        factors = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 3]])
        assert {int(b[0, 1]) for b in self.batches(1, batch_size=1, factors=factors)} == {1}
        with pytest.raises(ValueError, match="nothing can vary by itself"):
            self.batches(1, factors=torch.tensor([[0, 0], [1, 1]]))

    def test_the_model_reads_which_one_varies_and_resumes(self, tmp_path):
        """As in DC-IGN: latents of factors that stay the same are clamped to the batch's mean."""
        varying = []

        class Clamped(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = Gaussian(3, MLP(64, 8))

            def forward(self, x, factor):
                normal = self.head(x).base_dist
                mean = normal.loc
                if factor.dim() and int(factor[0]) >= 0:
                    varying.append(int(factor[0]))
                    free = torch.arange(3) == factor[0]
                    mean = torch.where(free, mean, mean.mean(0, keepdim=True))
                return torch.distributions.Independent(
                    torch.distributions.Normal(mean, normal.scale), 1
                )

        def model(seed=1):
            torch.manual_seed(seed)
            p = Joint({"z": StandardNormal(3), "x | z": Bernoulli(64, MLP(3, 8))})
            return LatentVariableModel(p, Joint({"z | x, factor": Clamped()}))

        data = ByFactor({"x": digits(48)[0]["x"]}, FACTORS, {"x": digits(48, 20)[1]["x"]})
        learn = functools.partial(quietly, data=data, batch_size=6, learning_rate=1e-2)
        whole, parts = model(), model(seed=4)
        history = learn(whole, epochs=4)
        assert set(varying) == {0, 1, 2}
        assert history.values("valid")[-1] > history.values("valid")[0]
        learn(model(), epochs=2, folder=tmp_path)
        learn(parts, epochs=4, folder=tmp_path, resume=True)
        assert same(weights(whole), weights(parts))
