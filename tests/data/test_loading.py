"""Files of every kind become named tensors; nothing is done to them in silence."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse

from deeplvm.data import DataError, Description, load


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def write_csv(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def table(rng: np.random.Generator, rows: int = 60) -> pd.DataFrame:
    """Columns of every kind, some cells missing."""
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 10, rows).round(3),
            "children": rng.poisson(2.0, rows),
            "smoker": rng.integers(0, 2, rows),
            "city": rng.choice(["Oslo", "Rome", "Lima"], rows),
            "degrees": rng.integers(-20, 30, rows),
            "group": rng.choice(["a", "b"], rows),
        }
    )
    frame.loc[3, "height"] = np.nan
    frame.loc[5, "city"] = None
    return frame


def save_idx(path: Path, values: np.ndarray) -> str:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def save_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


# --- arrays


def test_npy_is_split_with_the_seed(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(size=(50, 3))
    np.save(tmp_path / "a.npy", values)
    data = load(tmp_path / "a.npy")
    assert {split: data.rows(split) for split in ("train", "valid", "test")} == {
        "train": 40,
        "valid": 5,
        "test": 5,
    }
    together = torch.cat([data.train["x"], data.valid["x"], data.test["x"]]).double().numpy()
    np.testing.assert_allclose(np.sort(together, 0), np.sort(values, 0), rtol=1e-6)
    other = load(tmp_path / "a.npy", seed=1)
    assert not torch.equal(data.train["x"], other.train["x"])
    assert data.fingerprint == load(**data.options).fingerprint != other.fingerprint


def test_fractions_are_the_users(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "a.npy", rng.normal(size=(40, 3)))
    data = load(tmp_path / "a.npy", split=(0.5, 0.25, 0.25))
    assert dict(data.description.rows) == {"train": 20, "valid": 10, "test": 10}
    assert "50% / 25% / 25%" in data.split


def test_the_smallest_data_have_a_row_in_each_split(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0.0, 1], [1, 0], [1, 1]]))
    assert dict(load(tmp_path / "a.npy").description.rows) == {"train": 1, "valid": 1, "test": 1}


def test_npz_takes_x_and_its_labels(tmp_path: Path, rng: np.random.Generator) -> None:
    labels = rng.integers(3, 6, 40)
    np.savez(tmp_path / "a.npz", x=rng.normal(size=(40, 3)), y=labels, other=np.zeros(2))
    data = load(tmp_path / "a.npz")
    assert data.classes == ("3", "4", "5")
    assert data.train["y"].dtype == torch.int64
    np.save(tmp_path / "b.npy", np.zeros((4, 0)))


def test_npz_keeps_its_own_split(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(
        tmp_path / "a.npz",
        x_train=rng.normal(size=(40, 3)),
        y_train=np.arange(40) % 2,
        x_test=rng.normal(size=(7, 3)),
        y_test=np.arange(7) % 2,
    )
    data = load(tmp_path / "a.npz")
    assert dict(data.description.rows) == {"train": 36, "valid": 4, "test": 7}
    assert "10% of the training rows" in data.split
    pooled = load(tmp_path / "a.npz", split=(0.6, 0.2, 0.2))
    assert sum(pooled.description.rows.values()) == 47
    assert "set aside" in pooled.split


def test_images_of_an_array_get_a_channel_first(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (20, 5, 4)).astype(np.uint8)
    np.save(tmp_path / "grey.npy", grey)
    assert load(tmp_path / "grey.npy").variables["x"].shape == (1, 5, 4)
    np.save(tmp_path / "colour.npy", rng.integers(0, 256, (20, 6, 5, 3)).astype(np.uint8))
    data = load(tmp_path / "colour.npy")
    assert data.variables["x"].shape == (3, 6, 5)
    assert any("channels were last" in note for note in data.notes)
    np.save(tmp_path / "series.npy", rng.normal(size=(20, 6, 5)))
    assert load(tmp_path / "series.npy").variables["x"].shape == (6, 5)


@pytest.mark.parametrize("ending", ["idx3-ubyte", "idx3-ubyte.gz", ".idx"])
def test_idx(tmp_path: Path, rng: np.random.Generator, ending: str) -> None:
    values = rng.integers(0, 256, (20, 5, 4))
    data = load(save_idx(tmp_path / f"images-{ending}", values))
    assert data.variables["x"].shape == (1, 5, 4)
    together = torch.cat([data.train["x"], data.valid["x"], data.test["x"]])
    assert together.sum() == values.sum()
    assert together.dtype == torch.uint8


def test_recovered_levels_are_whole_numbers(tmp_path: Path, rng: np.random.Generator) -> None:
    levels = rng.integers(0, 256, (30, 4, 4))
    np.save(tmp_path / "a.npy", (levels / 255).astype(np.float32))
    data = load(tmp_path / "a.npy")
    together = torch.cat([data.train["x"], data.valid["x"], data.test["x"]])
    assert together.dtype == torch.uint8
    assert together.sum() == levels.sum()
    assert data.variables["x"].step == pytest.approx(1 / 255)


def test_columns_of_an_array_are_dropped_by_number(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    values = rng.normal(size=(20, 3))
    values[:, 1] = 4.0
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=r"column 1 is constant.*--drop 1"):
        load(tmp_path / "a.npy")
    assert load(tmp_path / "a.npy", drop=("1",)).variables["x"].shape == (2,)


# --- tables


def test_a_mixed_table(tmp_path: Path, rng: np.random.Generator) -> None:
    table(rng).to_csv(tmp_path / "a.csv", index=False)
    data = load(tmp_path / "a.csv", label="group")
    x = data.variables["x"]
    assert x.kind == "mixed"
    assert x.columns == ("height", "children", "smoker", "city", "degrees")
    assert [part.likelihood for part in x.parts] == [
        "gaussian",
        "poisson",
        "bernoulli",
        "categorical",
        "gaussian",
    ]
    assert x.parts[3].categories == ("Lima", "Oslo", "Rome")
    assert [part.missing for part in x.parts] == [True, False, False, True, False]
    assert x.features == 1 + 1 + 1 + 3 + 1
    assert data.missing == {"x"}
    assert data.classes == ("a", "b")
    assert any("lower bound" in note and "degrees" in note for note in data.notes)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_every_ending_reads_the_same_table(
    tmp_path: Path, rng: np.random.Generator, ending: str
) -> None:
    frame = table(rng)
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    frame.to_csv(tmp_path / "plain.csv", index=False)
    expected = load(tmp_path / "plain.csv")
    assert load(path).fingerprint == expected.fingerprint
    assert load(path).variables["x"].columns == expected.variables["x"].columns


def test_a_table_of_one_kind_is_one_array(tmp_path: Path, rng: np.random.Generator) -> None:
    pd.DataFrame(rng.normal(size=(30, 3)), columns=list("abc")).to_csv(
        tmp_path / "a.csv", index=False
    )
    x = load(tmp_path / "a.csv").variables["x"]
    assert (x.kind, x.likelihood, x.parts) == ("real", "gaussian", ())


@pytest.mark.parametrize(
    "options, columns",
    [
        pytest.param({"header": False, "index": False}, ("0", "1", "2"), id="no header"),
        pytest.param({"index": False}, ("0", "1", "2"), id="counted header"),
        pytest.param({}, ("0", "1", "2"), id="pandas index"),
        pytest.param({"index": False, "sep": ";"}, ("0", "1", "2"), id="semicolons"),
    ],
)
def test_header_and_index_are_recognised(
    tmp_path: Path, rng: np.random.Generator, options: dict, columns: tuple
) -> None:
    pd.DataFrame(rng.normal(size=(30, 3))).to_csv(tmp_path / "a.csv", **options)
    data = load(tmp_path / "a.csv")
    assert data.variables["x"].columns == columns
    assert sum(data.description.rows.values()) == 30


def test_words_for_missing_cells(tmp_path: Path) -> None:
    rows = "\n".join(f"{i / 7:.4f},{i / 3:.4f}" for i in range(20))
    data = load(write_csv(tmp_path / "a.csv", f"a,b\nNA,1.5\n2.5,\n?,3.5\nnan,4.25\n{rows}\n"))
    holes = sum(int(rows["x"].isnan().sum()) for rows in (data.train, data.valid, data.test))
    assert holes == 4


def test_true_and_false_are_one_and_zero(tmp_path: Path) -> None:
    rows = "\n".join(f"{'True' if i % 3 else 'False'},{i / 7:.4f}" for i in range(20))
    x = load(write_csv(tmp_path / "a.csv", f"a,b\n{rows}\n")).variables["x"]
    assert x.parts[0].kind == "binary"


def test_codes_become_categories_when_told(tmp_path: Path) -> None:
    rows = "\n".join(f"{(i * 7) % 3 + 5},{i / 7:.4f}" for i in range(30))
    x = load(write_csv(tmp_path / "a.csv", f"a,b\n{rows}\n"), categories=("a",)).variables["x"]
    assert x.parts[0].categories == ("5", "6", "7")
    assert x.parts[0].likelihood == "categorical"


def test_pixels_in_a_table_have_one_likelihood_when_told(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    values = rng.integers(0, 256, (30, 16))
    values[:, :12] = 0
    values[0, -1] = 255
    pd.DataFrame(values).add_prefix("pixel").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=r"always 0.*if these are pixels"):
        load(tmp_path / "a.csv")
    x = load(tmp_path / "a.csv", likelihood="discretized-logistic").variables["x"]
    assert (x.kind, x.levels, x.shape) == ("levels", 256, (16,))


def test_an_atom_in_a_real_column_is_warned_of(tmp_path: Path) -> None:
    rows = "\n".join(f"{0 if i % 4 else i / 7:.4f},{i / 7:.4f}" for i in range(40))
    notes = load(write_csv(tmp_path / "a.csv", f"a,b\n{rows}\n"), likelihood="gaussian").notes
    assert any("is exactly 0" in note for note in notes)


def test_zeros_that_are_many_but_not_most_are_warned_of(rng: np.random.Generator) -> None:
    spent = np.where(rng.random(600) < 0.45, 0.0, rng.gamma(2.0, 50.0, 600).round(2))
    frame = pd.DataFrame({"spent": spent, "size": rng.normal(5, 1, 600).round(1)})
    asked = load(frame, likelihood="gaussian")
    warned = [note for note in asked.notes if "is exactly" in note]
    assert len(warned) == 1  # not of sizes, which repeat as rounded values do
    assert "'spent'" in warned[0]
    assert "--likelihood mixture" in warned[0]
    for likelihood in ("mixture", "auto"):
        assert not [n for n in load(frame, likelihood=likelihood).notes if "is exactly" in n]


def test_most_variable_columns(tmp_path: Path, rng: np.random.Generator) -> None:
    counts = rng.poisson(3.0, (100, 4))
    counts[:, 2] = rng.negative_binomial(1, 0.05, 100)
    pd.DataFrame(counts, columns=list("abcd")).to_csv(tmp_path / "a.csv", index=False)
    data = load(tmp_path / "a.csv", most_variable=1)
    assert data.variables["x"].columns == ("c",)
    assert any("1 of 4 columns" in note for note in data.notes)


# --- images


def test_a_folder_of_images_with_labels(tmp_path: Path, rng: np.random.Generator) -> None:
    for label in ("cat", "dog"):
        for number in range(6):
            save_image(tmp_path / "pets" / label / f"{number}.png", rng.integers(0, 256, (6, 5)))
    data = load(tmp_path / "pets")
    assert data.variables["x"].shape == (1, 6, 5)
    assert data.classes == ("cat", "dog")
    assert data.variables["x"].likelihood == "discretized-logistic"


def test_folders_named_as_splits_are_the_splits(tmp_path: Path, rng: np.random.Generator) -> None:
    for split, number in (("train", 8), ("test", 3)):
        for index in range(number):
            pixels = rng.integers(0, 256, (6, 5, 3))
            save_image(tmp_path / split / "cat" / f"{index}.png", pixels)
    data = load(tmp_path)
    assert dict(data.description.rows) == {"train": 7, "valid": 1, "test": 3}
    assert data.variables["x"].shape == (3, 6, 5)
    assert data.classes == ("cat",)


def test_images_of_unequal_size_say_how_to_resize(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    for number, size in enumerate([(6, 5), (8, 8), (6, 5), (9, 12)]):
        save_image(tmp_path / f"{number}.png", rng.integers(0, 256, size))
    with pytest.raises(DataError, match=r"differ in size.*--image-size 5"):
        load(tmp_path)
    data = load(tmp_path, image_size=4)
    assert data.variables["x"].shape == (1, 4, 4)
    assert any("scaled to 4x4" in note for note in data.notes)


def test_grey_saved_as_colour_is_grey(tmp_path: Path, rng: np.random.Generator) -> None:
    for number in range(4):
        pixels = np.repeat(rng.integers(0, 256, (4, 4, 1)), 3, axis=2)
        save_image(tmp_path / f"{number}.png", pixels)
    assert load(tmp_path).variables["x"].shape == (1, 4, 4)


# --- binarization and dequantization


def test_dynamic_binarization_renews_training_rows_only(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    grey = rng.integers(0, 256, (200, 6, 6)).astype(np.uint8)
    grey[0, 0, 0], grey[:, 1, 1], grey[:, 2, 2] = 255, 255, 0
    np.save(tmp_path / "a.npy", grey)
    data = load(tmp_path / "a.npy", binarize="dynamic")
    assert data.variables["x"].likelihood == "bernoulli"
    assert data.variables["x"].grey == 255
    index = torch.arange(data.rows("train"))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([data.batch("train", index, generator)["x"] for _ in range(200)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    source = data.renewals["x"].source.double() / 255
    # 5760 means of 200 draws, of standard error at most 0.0354: 6 of them fail one time in 1e5
    assert (draws.mean(0) - source).abs().max() < 6 * 0.0354
    assert (draws[..., 1, 1] == 1).all()
    assert (draws[..., 2, 2] == 0).all()
    fixed = data.batch("train", slice(None))["x"]
    assert torch.equal(fixed, data.batch("train", slice(None))["x"])
    held = data.batch("test", slice(None), generator)["x"]
    assert torch.equal(held, data.test["x"].to(held))
    assert any("anew at each visit" in note for note in data.notes)


def test_static_binarization_is_one_draw(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "a.npy", rng.integers(0, 256, (20, 6, 6)).astype(np.uint8))
    data = load(tmp_path / "a.npy", binarize="static")
    generator = torch.Generator().manual_seed(0)
    once = data.batch("train", slice(None), generator)["x"]
    assert torch.equal(once, data.batch("train", slice(None), generator)["x"])
    assert data.train["x"].dtype == torch.uint8
    other = load(tmp_path / "a.npy", binarize="static", seed=0)
    assert data.fingerprint == other.fingerprint


def test_binarizing_binary_values_is_remarked(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "a.npy", rng.integers(0, 2, (20, 6)))
    assert any("changes nothing" in n for n in load(tmp_path / "a.npy", binarize="static").notes)


def test_dequantization_adds_noise_below_one(tmp_path: Path, rng: np.random.Generator) -> None:
    levels = rng.integers(0, 256, (30, 6, 6)).astype(np.uint8)
    np.save(tmp_path / "a.npy", levels)
    data = load(tmp_path / "a.npy", likelihood="gaussian", dequantize="uniform")
    assert data.variables["x"].dequantized
    source = data.renewals["x"].source
    generator = torch.Generator().manual_seed(0)
    first = data.batch("train", slice(None), generator)["x"]
    second = data.batch("train", slice(None), generator)["x"]
    assert torch.equal(first.floor(), source.double())
    assert not torch.equal(first, second)
    held = data.batch("test", slice(None), generator)["x"]
    assert torch.equal(held, data.batch("test", slice(None))["x"])


def test_only_whole_columns_are_dequantized(tmp_path: Path, rng: np.random.Generator) -> None:
    frame = pd.DataFrame({"a": rng.normal(size=40), "b": rng.integers(-9, 9, 40)})
    frame.loc[2, "b"] = np.nan
    frame.to_csv(tmp_path / "a.csv", index=False)
    data = load(tmp_path / "a.csv", likelihood="gaussian", dequantize="uniform")
    generator = torch.Generator().manual_seed(0)
    once, twice = (data.batch("train", slice(None), generator)["x"] for _ in range(2))
    assert torch.equal(once[:, 0], twice[:, 0])
    assert not torch.equal(once[:, 1], twice[:, 1])


# --- batches, descriptions, other data


def test_a_batch_is_wide_and_labels_are_integers() -> None:
    digits = load("digits")
    batch = digits.batch("train", torch.tensor([3, 1, 3]))
    assert batch["x"].dtype == torch.get_default_dtype()
    assert batch["y"].dtype == torch.int64
    assert torch.equal(batch["x"][0], batch["x"][2])
    assert torch.equal(digits.batch("train", [3, 1, 3])["x"], batch["x"])
    own = {"x": digits.train["x"][:2]}
    assert digits.batch(own, slice(None))["x"].shape == (2, 1, 8, 8)
    with pytest.raises(DataError, match="no split 'held'"):
        digits.batch("held", slice(2))  # type: ignore[arg-type]


def test_digits_are_split_in_equal_parts_of_each_label() -> None:
    digits = load("digits")
    for split in ("train", "valid", "test"):
        counts = digits.batch(split, slice(None))["y"].bincount()
        assert counts.max() - counts.min() <= 0.1 * counts.float().mean() + 2


@pytest.mark.parametrize("options", [{}, {"binarize": "dynamic"}, {"dequantize": "uniform"}])
def test_a_description_survives_json(options: dict) -> None:
    data = load("digits", **options)
    plain = json.loads(json.dumps(data.to_dict()))
    back = Description.from_dict(plain)
    assert back.to_dict() == data.to_dict()
    assert back.fingerprint == data.fingerprint
    assert str(back) == str(data.description)
    assert torch.equal(back.variables["x"].mean, data.variables["x"].mean)
    again = load(**back.options)
    assert again.fingerprint == data.fingerprint


def test_a_cut_description_is_refused() -> None:
    plain = load("digits").to_dict()
    del plain["variables"]
    with pytest.raises(DataError, match="lacks variables"):
        Description.from_dict(plain)


def test_data_show_themselves() -> None:
    digits = load("digits")
    assert "discretized-logistic" in repr(digits)
    assert "<table>" in digits._repr_html_()


def test_other_rows_are_read_as_the_training_rows(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    frame = table(rng)
    frame.to_csv(tmp_path / "a.csv", index=False)
    run = load(tmp_path / "a.csv", label="group", drop=("smoker",)).description
    new = frame.iloc[[7]][["city", "degrees", "smoker", "height", "children"]]
    new.to_csv(tmp_path / "b.csv", index=False)
    other = load(tmp_path / "b.csv", like=json.loads(json.dumps(run.to_dict())))
    assert dict(other.description.rows) == {"train": 0, "valid": 0, "test": 1}
    x = other.batch("test", slice(None))["x"][0]
    assert other.variables["x"].columns == ("height", "children", "city", "degrees")
    assert x[2] == run.variables["x"].parts[2].categories.index(frame.loc[7, "city"])  # type: ignore[union-attr]
    assert x[0] == pytest.approx(frame.loc[7, "height"], rel=1e-6)
    assert torch.equal(other.variables["x"].std, run.variables["x"].std)
    assert "y" not in other.test


@pytest.mark.parametrize(
    "change, match",
    [
        pytest.param(
            {"city": "Paris"}, r"row 1, column 'city': 'Paris' is none of", id="category"
        ),
        pytest.param(
            {"children": -1}, r"'children'.*whole numbers of at least 0", id="negative count"
        ),
        pytest.param({"children": 1.5}, r"'children'.*found reals", id="half a child"),
        pytest.param({"smoker": 2}, r"'smoker'.*\[0, 1\]", id="not binary"),
        pytest.param({"group": "c"}, r"'c' is none of the labels", id="label"),
        pytest.param({"height": None}, r"column 'height' of the training data", id="absent"),
    ],
)
def test_other_rows_outside_the_model_are_refused(
    tmp_path: Path, rng: np.random.Generator, change: dict, match: str
) -> None:
    frame = table(rng)
    frame.to_csv(tmp_path / "a.csv", index=False)
    run = load(tmp_path / "a.csv", label="group").description
    new = frame.iloc[[7]].assign(**change)
    if change == {"height": None}:
        new = new.drop(columns="height")
    new.to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(DataError, match=match):
        load(tmp_path / "b.csv", like=run)


def test_other_images_keep_the_levels_and_the_grey_of_probability_one(tmp_path: Path) -> None:
    run = load("digits", binarize="static").description
    np.save(tmp_path / "a.npy", np.full((1, 8, 8), 8, dtype=np.uint8))
    other = load(tmp_path / "a.npy", like=run)
    share = float(other.batch("test", slice(None))["x"].mean())
    assert 0.2 < share < 0.8  # Bernoulli(8/16), not Bernoulli(8/8)
    np.save(tmp_path / "b.npy", np.full((1, 8, 8), 17, dtype=np.uint8))
    with pytest.raises(DataError, match=r"0\.\.16"):
        load(tmp_path / "b.npy", like=run)
    with pytest.raises(DataError, match=r"found whole numbers in \[17"):
        load(tmp_path / "b.npy", like=load("digits").description)
    np.save(tmp_path / "c.npy", np.zeros((1, 7, 7), dtype=np.uint8))
    with pytest.raises(DataError, match="rows have shape"):
        load(tmp_path / "c.npy", like=load("digits").description)


def test_the_same_named_set_keeps_its_split() -> None:
    digits = load("digits")
    again = load("digits", like=digits.description)
    assert again.rows("test") == 1797  # no split of its own: all rows are test rows
    assert load(**digits.options).rows("test") == 180


def test_limit(tmp_path: Path) -> None:
    data = load("digits", limit=20)
    assert dict(data.description.rows) == {"train": 20, "valid": 20, "test": 20}
    assert any("a trial" in note for note in data.notes)


def test_moving_keeps_everything() -> None:
    data = load("digits", binarize="dynamic")
    assert data.to("cpu").fingerprint == data.fingerprint


def test_a_sample_of_rows_keeps_names_together() -> None:
    """Rows of a random order, each with its label; a smaller split is only reordered."""
    digits = load("digits")
    some = digits.sampled({"train": 50, "test": 10_000}, seed=3)
    assert (some.rows("train"), some.rows("valid"), some.rows("test")) == (50, 180, 180)
    labels = {
        row.numpy().tobytes(): int(label)
        for row, label in zip(digits.train["x"], digits.train["y"], strict=True)
    }
    found = [labels[row.numpy().tobytes()] for row in some.train["x"]]
    assert found == some.train["y"].tolist()
    assert torch.equal(some.valid["x"], digits.valid["x"])
    first, again = some.test["x"].flatten(1).double(), digits.test["x"].flatten(1).double()
    assert not torch.equal(first, again)
    assert torch.equal(first.sum(0), again.sum(0))
    assert torch.equal(digits.sampled(50, seed=3).train["x"], some.train["x"])


# --- arrays and images as people have them


def test_a_sparse_matrix_is_a_matrix(tmp_path: Path) -> None:
    matrix = sparse.random(60, 30, 0.1, format="csr", random_state=0)
    for form in ("csr", "csc", "coo", "bsr", "dia"):
        sparse.save_npz(tmp_path / "a.npz", matrix.asformat(form))
        data = load(tmp_path / "a.npz")
        everything = load(tmp_path / "a.npz", like=data.description)
        np.testing.assert_array_equal(everything.test.exact("x").numpy(), matrix.toarray())


def test_labels_of_several_columns_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 5))
    tags = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 0]])[np.arange(60) % 3]
    for labels in (tags, np.stack([np.zeros(60, int), np.arange(60) % 4], 1)):
        np.savez(tmp_path / "a.npz", x=x, y=labels)
        with pytest.raises(DataError, match="y has labels of shape"):
            load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=x, y=np.eye(3)[np.arange(60) % 3], weights=np.ones(60))
    data = load(tmp_path / "a.npz")
    assert data.classes == ("0", "1", "2")
    assert any("left out: weights" in note for note in data.notes)


def test_other_data_that_have_a_split_are_all_test_rows(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(100, 4))
    np.savez(tmp_path / "a.npz", x_train=x[:60], x_test=x[60:])
    other = load(tmp_path / "a.npz", like=load(x).description)
    np.testing.assert_array_equal(other.test.exact("x").numpy(), x)


def test_pictures_are_upright_and_of_eight_bits(tmp_path: Path) -> None:
    up = np.tile(np.linspace(250, 5, 8)[:, None], (1, 6)).astype(np.uint8)
    (tmp_path / "exif").mkdir()
    for number in range(12):
        tag = Image.Exif()
        tag[274] = (1, 6)[number % 2]
        pixels = np.ascontiguousarray((up, np.rot90(up))[number % 2])
        Image.fromarray(pixels).save(tmp_path / "exif" / f"{number:02d}.png", exif=tag)
    x = load(tmp_path / "exif").train["x"]
    assert x.shape[1:] == (1, 8, 6)
    assert (x[:, 0, 0] > 200).all()
    (tmp_path / "deep").mkdir()
    deep = np.zeros((6, 6, 3), ">u2").tobytes()
    (tmp_path / "deep" / "a.ppm").write_bytes(b"P6 6 6 65535\n" + deep)
    with pytest.raises(DataError, match="more than 8 bits"):
        load(tmp_path / "deep")
    (tmp_path / "pages").mkdir()
    first, *others = [Image.fromarray(up) for _ in range(3)]
    first.save(tmp_path / "pages" / "a.tif", save_all=True, append_images=others)
    with pytest.raises(DataError, match="holds 3 pages"):
        load(tmp_path / "pages")


def test_black_and_white_pictures_are_told_of_bits(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    for number in range(12):
        Image.fromarray(rng.random((8, 8)) < 0.3).convert("1").save(tmp_path / f"{number}.png")
    assert any("--binarize" in note for note in load(tmp_path).notes)


def test_named_columns_of_an_npz_are_a_table(tmp_path: Path, rng: np.random.Generator) -> None:
    columns = {"k": np.array(["p", "q"] * 30), "w": rng.normal(size=60)}
    np.savez(tmp_path / "a.npz", **columns)
    x = load(tmp_path / "a.npz").variables["x"]
    assert x.columns == ("k", "w")
    assert x.parts[0].categories == ("p", "q")
