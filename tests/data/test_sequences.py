"""Rows that are sequences: in memory, in batches, split, described, refused."""

import numpy as np
import pytest
import torch

from deeplvm import LatentVariableModel, Recurrent, fit
from deeplvm.conditionals import Gaussian
from deeplvm.data import DataError, Description, likelihood_of, load
from deeplvm.data.ragged import RaggedColumn
from deeplvm.networks import GRU, MLP
from deeplvm.recipes import RecipeError, vae
from deeplvm.recipes.plain import sequence_of
from deeplvm.training.batches import batches_of
from deeplvm.training.options import Machine, Saving


def series(rows=40, width=3, most=9, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, width)) for length in rng.integers(1, most, rows)]


def recurrent(variable, width, hidden=8, latent=2):
    """A variational recurrent network of a variable."""
    cell, length = GRU(width + latent, hidden), variable.length
    p = {
        "z | h[-1]": Gaussian(latent, MLP(hidden)),
        "x | z, h[-1]": likelihood_of(variable, MLP(latent + hidden)),
        "h | x, z, h[-1]": cell,
    }
    q = {"z | x, h[-1]": Gaussian(latent, MLP(width + hidden)), "h | x, z, h[-1]": cell}
    joints = [Recurrent(each, start={"h": hidden}, length=length) for each in (p, q)]
    return LatentVariableModel(*joints)


def test_a_column_takes_the_memory_of_its_steps_and_pads_the_rows_that_are_read():
    rows = [torch.full((length, 2), float(length)) for length in (1, 1000, *[2] * 50)]
    column = RaggedColumn.of(torch.cat(rows), [len(each) for each in rows])
    assert column.nbytes == 8 * 2 * (1001 + 100) + 8 * 53
    assert column.shape == (52, 1000, 2)
    assert column[torch.tensor([0, 2])].tolist() == [[[1, 1], [0, 0]], [[2, 2], [2, 2]]]
    assert column[2:4].shape == (2, 2, 2)
    assert column[:0].shape == (0, 0, 2)
    assert column.at([-1, 0]).lengths.tolist() == [2, 1]
    assert torch.equal(column.to("cpu")[1:2], rows[1][None])


def test_lists_stacked_steps_and_padded_rows_are_the_same_data():
    rows = series()
    lengths = np.array([len(each) for each in rows])
    padded = np.zeros((len(rows), lengths.max(), 3))
    for place, each in enumerate(rows):
        padded[place, : len(each)] = each
    listed = load(rows)
    assert listed.fingerprint == load(np.concatenate(rows), lengths=lengths).fingerprint
    assert listed.fingerprint == load({"x": padded}, lengths=torch.tensor(lengths)).fingerprint
    assert [listed.rows(split) for split in ("train", "valid", "test")] == [32, 4, 4]
    assert sum(listed.description.steps.values()) == lengths.sum()
    mine = [listed.train["x"].at([row]).values.double().numpy() for row in range(32)]
    whole = [each.astype(np.float32) for each in rows]
    assert all(any(np.array_equal(one, each) for each in whole) for one in mine)
    exact = listed.train[:3].exact("x")
    assert exact.dtype == torch.float64
    assert exact.shape[1] == listed.train[:3]["n"].max()


def test_what_is_said_of_sequences_is_said_of_their_steps():
    data = load(series())
    steps, x = data.train["x"].values.double(), data.variables["x"]
    assert x.length == "n"
    assert x.shape == (3,)
    assert torch.allclose(x.mean, steps.mean(0))
    assert torch.allclose(x.std, steps.std(0, correction=0))
    assert str(x) == "x: sequences of 3, reals; likelihood gaussian"
    assert "a row is a sequence of 1 to 8 steps, 4.58 on average" in load(series(60)).describe()
    known = Description.from_dict(data.description.to_dict())
    assert known.variables["x"].length == "n"
    assert known.lengths[0] == data.train["n"].min()
    assert known.lengths[-1] == data.train["n"].max()
    assert len(known.lengths) == 33
    again = load(series(5, seed=1), like=known)
    assert again.rows("test") == 5
    assert torch.equal(again.batch("test", slice(5))["n"], again.test["n"])


def test_labels_inputs_and_limits_are_of_rows():
    rows = series()
    inputs = [np.ones((len(each), 1)) * place for place, each in enumerate(rows)]
    data = load({"x": rows, "u": inputs, "y": np.arange(40) % 2}, limit=10, keep_labels=4)
    assert [*data.variables] == ["x", "u"]
    batch = data.batch("train", slice(10))
    assert batch["n"].dtype == torch.int64
    assert batch["u"].shape[:2] == batch["x"].shape[:2]
    assert int(batch["y"].isnan().sum()) == 6
    for row, label in zip(batch["u"][:, 0, 0].long(), batch["y"], strict=True):
        assert label.isnan() or int(row) % 2 == label


def test_noise_is_drawn_anew_and_never_beyond_the_end():
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 200, (length, 2)) / 199 for length in rng.integers(1, 6, 30)]
    data = load(rows, binarize="dynamic")
    first, second = (
        data.batch("train", slice(9), torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    assert not torch.equal(first["x"], second["x"])
    outside = torch.arange(first["x"].shape[1]) >= first["n"][:, None]
    assert outside.any()
    assert not first["x"][outside].any()
    noisy = load([np.round(5 + 200 * each) for each in rows], dequantize="uniform")
    batch = noisy.batch("train", slice(9), torch.Generator().manual_seed(0))
    assert not batch["x"][torch.arange(batch["x"].shape[1]) >= batch["n"][:, None]].any()
    assert torch.equal(batch["x"].floor(), noisy.train[:9].exact("x"))


def test_padding_and_company_change_nothing():
    torch.manual_seed(0)
    data = load(series())
    p = Recurrent(
        {"x | h[-1]": Gaussian(3, MLP(4, 8)), "h | x, h[-1]": GRU(3, 4)},
        start={"h": 4},
        length="n",
    )
    model = LatentVariableModel(p).double()
    rows = data.train
    whole = model.evidence(rows.batch(slice(20), dtype=torch.float64)).log_weight
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = model.evidence(rows.batch(order, dtype=torch.float64)).log_weight
    alone = [
        model.evidence(rows.batch(slice(row, row + 1), dtype=torch.float64)).log_weight
        for row in range(20)
    ]
    assert torch.allclose(whole[order], shuffled, rtol=0, atol=1e-12)
    assert torch.allclose(whole, torch.cat(alone), rtol=0, atol=1e-12)


def test_training_on_sequences_resumes_exactly(tmp_path):
    data = load(series())

    def trained(folder, epochs, *, resume=False):
        torch.manual_seed(0)
        model = recurrent(data.variables["x"], 3)
        saving = Saving(folder, resume=resume)
        fit(model, data, epochs=epochs, batch_size=8, saving=saving, quiet=True)
        return torch.cat([each.flatten() for each in model.parameters()])

    whole = trained(tmp_path / "a", 3)
    trained(tmp_path / "b", 1)
    assert torch.equal(whole, trained(tmp_path / "b", 3, resume=True))


def test_batches_have_rows_of_similar_length_and_every_row_once():
    data = load(series(600, most=99))
    model = recurrent(data.variables["x"], 3)
    batches = batches_of(model, data, None, None, torch.device("cpu"))
    epoch = list(batches.order(1, 0, 16))
    assert sorted(torch.cat(epoch).tolist()) == list(range(480))
    assert [len(batch) for batch in epoch] == [16] * 30
    steps = data.train["n"]
    padded = sum(int(steps[batch].max()) * len(batch) for batch in epoch)
    assert padded < 1.1 * int(steps.sum())
    later = list(batches.order(1, 0, 16, first=7))
    assert all(map(torch.equal, later, epoch[7:]))
    assert not torch.equal(torch.cat(list(batches.order(2, 0, 16))), torch.cat(epoch))


def test_a_compiled_step_of_unequal_sequences_is_refused():
    data = load(series())
    with pytest.raises(ValueError, match="sequences of different lengths"):
        fit(
            recurrent(data.variables["x"], 3),
            data,
            epochs=1,
            machine=Machine(compile=True),
            quiet=True,
        )


def test_arrays_beside_x_tell_which_steps_are_a_row(tmp_path):
    rows = series()
    lengths = np.array([len(each) for each in rows])
    steps, labels = np.concatenate(rows), np.arange(40) % 3
    np.savez(tmp_path / "lengths.npz", x=steps, lengths=lengths, y=labels)
    np.savez(tmp_path / "offsets.npz", x=steps, offsets=np.append(0, lengths.cumsum()), y=labels)
    found = [load(tmp_path / f"{name}.npz") for name in ("lengths", "offsets")]
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].fingerprint == load({"x": rows, "y": labels}).fingerprint
    split = {"x_train": steps, "lengths_train": lengths, "x_test": steps, "lengths_test": lengths}
    np.savez(tmp_path / "split.npz", **split)
    assert load(tmp_path / "split.npz").rows("test") == 40


@pytest.mark.parametrize(
    "source, options, words",
    [
        (lambda: [np.zeros((0, 3)), np.ones((2, 3))], {}, "sequence 1 has no steps"),
        (lambda: [np.zeros((1, 3)), np.ones((2, 2))], {}, r"sequence 2 has shape \(2,\)"),
        (lambda: np.zeros((5, 2)), {"lengths": [2, 2]}, "sum to 4 go with as many steps"),
        (lambda: np.zeros((5, 2)), {"lengths": [2.5, 2.5]}, "one whole number a row"),
        (lambda: {"x": series(), "u": series(width=1, seed=1)}, {}, "need one length"),
        (lambda: {"x": series(), "u": np.zeros((40, 1))}, {}, "u is no list of sequences"),
        (lambda: {"x": series(), "y": np.zeros(39, int)}, {}, "39 labels for 40 rows"),
        (lambda: [np.ones((5, 2)), np.zeros((4, 2))], {}, "2 sequences cannot be split"),
        (lambda: "digits", {"lengths": [1]}, "lengths are those of sequences in memory"),
        (lambda: series(), {"members": 3}, "makes sets of the rows of one array"),
    ],
)
def test_what_is_no_sequences_is_refused(source, options, words):
    with pytest.raises(DataError, match=words):
        load(source(), **options)


def test_other_data_must_be_of_the_form_of_the_training_data():
    sequences, single = load(series()), load(np.random.default_rng(0).normal(size=(40, 3)))
    with pytest.raises(DataError, match="was fitted to sequences, but a row of x is no sequence"):
        load(np.zeros((4, 3)), like=sequences.description)
    with pytest.raises(DataError, match="was fitted to rows, but a row of x is a sequence"):
        load(series(), like=single.description)


def test_recipes_of_rows_and_of_sequences_refuse_each_other():
    data = load(series())
    assert sequence_of(data, "storn").shape == (3,)
    with pytest.raises(RecipeError, match="single rows, but a row of memory is a sequence"):
        vae(data)
    with pytest.raises(RecipeError, match="storn models sequences, but a row of digits is none"):
        sequence_of(load("digits"), "storn")
    both = load({"a": series(), "b": series()}, group={"a": ["a"], "b": ["b"]})
    with pytest.raises(
        RecipeError, match="storn models one sequence, 'x', but memory has a and b"
    ):
        sequence_of(both, "storn")
