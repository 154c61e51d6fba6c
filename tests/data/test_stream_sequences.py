"""Sequences that stay on disk: the same rows as in memory, in any order, with their noise."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deeplvm import LatentVariableModel, Recurrent, fit
from deeplvm.conditionals import Gaussian
from deeplvm.data import Data, DataError, Description, Stream, load, stream
from deeplvm.data.ragged import RaggedColumn
from deeplvm.networks import GRU, MLP
from deeplvm.training.options import Saving

ASKED = {"sequence": "id", "order": "t", "label": "who"}


def long_table(path, rows=60, long=200, group=50):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, rows)
    lengths[rows // 2] = long
    ids = np.repeat(np.arange(rows), lengths)
    times = np.concatenate([np.cumsum(rng.integers(1, 4, length)) for length in lengths])
    values = {"id": ids, "t": times.astype(float), "a": rng.normal(size=len(ids))}
    values |= {"b": rng.poisson(4, len(ids)) * 1.5, "who": np.where(ids % 2, "x", "y")}
    frame = pd.DataFrame(values)
    pq.write_table(pa.Table.from_pandas(frame), path, row_group_size=group)
    return frame


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "POOL", 1 << 10)
    monkeypatch.setattr(stream, "PIECE", 1 << 6)
    long_table(tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_streamed_sequences_are_those_in_memory(path):
    held, streamed = load(path, **ASKED), load(path, stream=True, **ASKED)
    assert isinstance(streamed, Stream)
    assert streamed.description.steps == held.description.steps
    assert streamed.variables["u"].columns == ("t_difference",)
    for split in ("train", "valid", "test"):
        same(streamed.batch(split, slice(0, 9)), held.batch(split, slice(0, 9)))
        same(streamed.batch(split, torch.tensor([4, 1, 1])), held.batch(split, [4, 1, 1]))
    exact = streamed.train[:5].exact("x")
    assert torch.equal(exact, held.train[:5].exact("x"))
    some = streamed.sampled({"train": 10})
    assert isinstance(some.train["x"], RaggedColumn)
    assert some.rows("train") == 10
    known = Description.from_dict(json.loads(json.dumps(streamed.description.to_dict())))
    assert load(path, like=known, stream=True).rows("test") == 60


def test_every_row_comes_once_in_an_order_that_can_be_entered_anywhere(path):
    held, streamed = load(path, **ASKED), load(path, stream=True, **ASKED)
    assert len(streamed.plan.pools(1, 0)) > 1
    epoch = []
    for index in streamed.order(1, 0, 7):
        same(streamed.batch("train", index), held.batch("train", index))
        same(streamed.batch("train", index[2:5]), held.batch("train", index[2:5]))
        epoch.append(index)
    assert sorted(torch.cat(epoch).tolist()) == list(range(48))
    assert all(map(torch.equal, streamed.order(1, 0, 7, first=4), epoch[4:]))


def test_noise_on_disk_ends_with_the_row(path):
    asked: dict[str, Any] = {
        **ASKED,
        "drop": ["a"],
        "likelihood": "gaussian",
        "dequantize": "uniform",
    }
    frame = pd.read_parquet(path).assign(b=lambda rows: rows["b"] * 2 - 500)
    pq.write_table(pa.Table.from_pandas(frame), path, row_group_size=50)
    streamed = load(path, stream=True, **asked)
    assert streamed.variables["x"].dequantized
    for index in streamed.order(1, 0, 16):
        fixed = streamed.batch("train", index)
        drawn = streamed.batch("train", index, torch.Generator().manual_seed(0))
        outside = torch.arange(fixed["x"].shape[1]) >= fixed["n"][:, None]
        assert not fixed["x"][outside].any()
        assert not drawn["x"][outside].any()
        assert not torch.equal(fixed["x"], drawn["x"])
        assert torch.equal(fixed["x"].floor(), drawn["x"].floor())
        same(fixed, Data.batch(streamed, "train", index))


def test_training_from_disk_resumes_exactly(path, tmp_path):
    data = load(path, stream=True, **ASKED)

    def trained(folder, epochs, *, resume=False):
        torch.manual_seed(0)
        p = {"x | h[-1], u": Gaussian(2, MLP(5, 4)), "h | x, h[-1]": GRU(2, 4)}
        model = LatentVariableModel(Recurrent(p, start={"h": 4}, length="n"))
        saving = Saving(folder, resume=resume)
        fit(model, data, epochs=epochs, batch_size=16, saving=saving, quiet=True)
        return torch.cat([each.flatten() for each in model.parameters()])

    whole = trained(tmp_path / "a", 2)
    trained(tmp_path / "b", 1)
    assert torch.equal(whole, trained(tmp_path / "b", 2, resume=True))


def test_one_long_row_among_many_short_ones_costs_its_steps(tmp_path):
    rows = [np.zeros((100_000, 4), np.float32) + np.arange(4), *[np.ones((1, 4))] * 2_000]
    lengths = [len(each) for each in rows]
    steps = np.concatenate(rows).astype(np.float32)
    tracemalloc.start()
    data = load({"x": steps}, lengths=lengths, likelihood="gaussian", dequantize="uniform")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 40 * steps.nbytes  # padded to the longest row it would be 2,000 times
    assert data.nbytes < 3 * steps.nbytes


def test_steps_that_lie_apart_are_not_streamed(path):
    frame = pd.read_parquet(path)
    frame.sample(frac=1, random_state=0).to_parquet(path)
    assert not isinstance(load(path, **ASKED), Stream)
    with pytest.raises(DataError, match="sort the file by id and the order"):
        load(path, stream=True, **ASKED)
