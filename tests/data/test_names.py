"""Several names of a model: groups of columns, arrays, tables, and pictures side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from deeplvm.data import Data, DataError, Stream, load
from deeplvm.data.records import SPLITS
from deeplvm.recipes import RecipeError, multimodal_vae, vae

RNG = np.random.default_rng(0)
REALS, COUNTS = RNG.normal(size=(60, 3)), RNG.poisson(3.0, size=(60, 2))
LABELS = np.arange(60) % 2
TABLE = pd.DataFrame(
    dict(zip("abc", REALS.T, strict=True))
    | dict(zip("de", COUNTS.T, strict=True))
    | {"kind": LABELS}
)
GROUPS = ("x1=a,b,c", "x2=d,e")
OPTIONS: dict[str, Any] = {"label": "kind", "group": GROUPS}


def csv(path: Path, table: pd.DataFrame = TABLE) -> Path:
    table.to_csv(path / "t.csv", index=False)
    return path / "t.csv"


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path / "t.npz", **arrays)
    return path / "t.npz"


WAYS: dict[str, Any] = {
    "columns of a table in a mapping": lambda path: load(
        csv(path), label="kind", group={"x1": ["a", "b", "c"], "x2": ["d", "e"]}
    ),
    "a .parquet": lambda path: (
        TABLE.to_parquet(path / "t.parquet"),
        load(path / "t.parquet", **OPTIONS),
    )[1],
    "arrays of a file": lambda path: load(npz(path, x1=REALS, x2=COUNTS, y=LABELS)),
    "arrays in memory": lambda _: load({"x1": torch.tensor(REALS), "x2": COUNTS, "y": LABELS}),
    "arrays by other names": lambda path: load(
        npz(path, reals=REALS, counts=COUNTS, y=LABELS), group=("x1=reals", "x2=counts")
    ),
    "data frames": lambda _: load(
        {"x1": TABLE[["a", "b", "c"]], "x2": TABLE[["d", "e", "kind"]]}, label="kind"
    ),
    "a frame beside an array": lambda _: load(
        {"x1": TABLE[["a", "b", "c"]], "x2": COUNTS, "y": LABELS}
    ),
}


def weights(data: Data) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(multimodal_vae(data, latent=2, hidden=(4,)).state_dict())


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_naming_is_one(tmp_path: Path, way: str) -> None:
    """Bit for bit: the same rows, labels and splits, and the same model of them."""
    data, other = load(csv(tmp_path), **OPTIONS), WAYS[way](tmp_path)
    assert [*data.variables] == [*other.variables] == ["x1", "x2"]
    assert data.split == other.split
    for split in SPLITS:
        for name in ("x1", "x2", "y"):
            one, two = (getattr(each, split).exact(name) for each in (data, other))
            assert torch.equal(one.double(), two.double())
    known = weights(other)
    for name, value in weights(data).items():
        assert torch.equal(value, known[name])


def test_columns_of_no_group_are_x(tmp_path: Path) -> None:
    data = load(csv(tmp_path), label="kind", group="x2=d,e")
    assert {n: v.columns for n, v in data.variables.items()} == {
        "x": ("a", "b", "c"), "x2": ("d", "e"),
    }  # fmt: skip
    assert "note: x2: all 2 columns alike" in data.describe()
    assert load(**data.options).fingerprint == data.fingerprint
    with pytest.raises(RecipeError, match="has x and x2; multimodal_vae models several"):
        vae(data)


def test_an_array_x_is_alone_unless_others_are_named(tmp_path: Path) -> None:
    path = npz(tmp_path, x=REALS, other=COUNTS)
    assert "left out: other; --group other=other" in load(path).describe()
    assert [*load(path, group="n=other").variables] == ["x", "n"]


@pytest.mark.parametrize(
    "group, match",
    [
        ("x1=a,q", "no column 'q'"),
        ("x1", "which columns"),
        ("x1=", "which columns"),
        ("x 1=a", "one word"),
        ("y=a", "y are the labels"),
        (("x1=a", "x1=b"), "said twice"),
        (("x1=a", "x2=a"), "'a' is twice in x1 and x2"),
        ("x=a,b", "would be x too"),
        ("x1=free", "--group x1: column 'free' holds text"),
    ],
)
def test_groups_that_cannot_be(tmp_path: Path, group: Any, match: str) -> None:
    path = csv(tmp_path, TABLE.assign(free=[f"text {i}" for i in range(60)]))
    with pytest.raises(DataError, match=match) as caught:
        load(path, group=group)
    assert "\n" not in str(caught.value)


def test_what_has_no_names(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", REALS)
    with pytest.raises(DataError, match="--group x1 does not apply"):
        load(tmp_path / "a.npy", group="x1=a")
    with pytest.raises(DataError, match="no array 'z'; found x1, x2"):
        load(npz(tmp_path, x1=REALS, x2=COUNTS), group="n=z")
    with pytest.raises(DataError, match="x1 has 60, x2 has 59 rows"):
        load({"x1": REALS, "x2": COUNTS[1:]})
    with pytest.raises(DataError, match="two columns are called 'a'"):
        load({"x1": TABLE[["a", "b"]], "x2": TABLE[["a", "c"]]})


def test_other_rows_are_read_by_the_names_of_the_run(tmp_path: Path) -> None:
    known = load(csv(tmp_path), **OPTIONS).description
    turned = load(csv(tmp_path, TABLE[["e", "kind", "c", "d", "a", "b"]]), like=known)
    arrays = load({"x2": COUNTS, "x1": REALS, "y": LABELS}, like=known.to_dict())
    for each in (turned, arrays):
        assert [*each.variables] == ["x1", "x2"]
        assert torch.equal(each.test["x2"].long(), torch.tensor(COUNTS))
        assert torch.equal(each.test["y"], torch.tensor(LABELS))
    with pytest.raises(DataError, match="fitted to x1, x2, and none of these is here; found x"):
        load(REALS, like=known)
    with pytest.raises(DataError, match="column 'd' of the training data is not there"):
        load(TABLE.drop(columns="d"), like=known)


@pytest.mark.parametrize("source", [TABLE[["a", "b", "c"]], {"x1": REALS}])
def test_a_name_that_other_rows_lack_is_missing(source: Any) -> None:
    known = load(TABLE, **OPTIONS).description
    data = load(source, like=known)
    assert data.missing == {"x2"}
    assert bool(data.test["x2"].isnan().all())
    assert "x2 is not here: it is missing in all rows" in data.describe()
    assert torch.equal(data.test.exact("x1").double(), torch.tensor(REALS))


def test_noise_of_two_names_is_their_own() -> None:
    whole = RNG.integers(0, 90, size=(60, 2))
    data = load({"x1": whole, "x2": whole}, dequantize="uniform")
    assert not torch.equal(data.train["x1"], data.train["x2"])


def test_streamed_groups_are_what_memory_would_hold(tmp_path: Path) -> None:
    pd.concat([TABLE] * 4).to_parquet(tmp_path / "t.parquet", row_group_size=50)
    data = load(tmp_path / "t.parquet", **OPTIONS, stream=True)
    held = load(tmp_path / "t.parquet", like=data.description)
    assert isinstance(data, Stream)
    rows = torch.cat([*data.order(0, 0, 50)])
    assert sorted(rows.tolist()) == [*range(data.rows("train"))]
    at = torch.from_numpy(data.places["train"].all())
    for name in ("x1", "x2", "y"):
        assert torch.equal(data.train[name][:].double(), held.test[name][at].double())
    batch = data.batch("train", torch.tensor([3, 1]))
    assert {n: tuple(v.shape) for n, v in batch.items()} == {"x1": (2, 3), "x2": (2, 2), "y": (2,)}


def pictured(path: Path, **columns: Any) -> Path:
    """A table of 30 rows with paths of images of 4 x 4 pixels, none in the first."""
    (path / "images").mkdir()
    for i in range(1, 30):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(path / "images" / f"{i}.png")
    files = [None, *[f"images/{i}.png" for i in range(1, 30)]]
    pd.DataFrame({"file": files, "size": RNG.normal(size=30), **columns}).to_csv(
        path / "t.csv", index=False
    )
    return path / "t.csv"


def test_images_stand_beside_the_columns_of_their_rows(tmp_path: Path) -> None:
    data = load(pictured(tmp_path), group="image=file")
    assert {n: v.shape for n, v in data.variables.items()} == {"x": (1,), "image": (1, 4, 4)}
    assert data.variables["image"].kind == "levels"
    assert data.missing == {"image"}
    rows = load(tmp_path / "t.csv", like=data.description).test
    assert bool(rows["image"][0].isnan().all())
    assert rows["image"][1:, 0, 0, 0].tolist() == [*range(1, 30)]
    only = load(tmp_path / "t.csv", group="x=file", drop=["size"], image_size=2)
    assert only.variables["x"].shape == (1, 2, 2)


def test_images_that_cannot_be_are_told_of_with_their_row(tmp_path: Path) -> None:
    path = pictured(tmp_path)
    (tmp_path / "images" / "7.png").unlink()
    with pytest.raises(DataError, match=r"row 8.*'images/7.png': there is no such file"):
        load(path, group="image=file")
    (tmp_path / "images" / "7.png").write_text("no image")
    with pytest.raises(DataError, match=r"row 8.*cannot be read"):
        load(path, group="image=file")
    Image.new("L", (4, 5)).save(tmp_path / "images" / "7.png")
    with pytest.raises(DataError, match=r"differ in size.*row 8.*--image-size 4"):
        load(path, group="image=file")
    with pytest.raises(DataError, match="--image-size is for folders of images, and for columns"):
        load(path, group="n=size", image_size=4)


def test_images_in_a_list_may_have_holes() -> None:
    images = [None, *[Image.fromarray(np.full((4, 4), i, np.uint8)) for i in range(1, 30)]]
    data = load({"image": images, "table": TABLE[:30][["a", "b"]]})
    assert [*data.variables] == ["image", "table"]
    assert data.missing == {"image"}
