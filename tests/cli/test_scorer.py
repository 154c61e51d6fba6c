"""Rows by themselves: what a run says of a row depends on nothing but the row."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deeplvm.data import load
from deeplvm.runs.run import RunError
from deeplvm.runs.scorer import Scorer, _refuse

Run = Callable[..., Any]
VERBS: dict[str, dict[str, Any]] = {
    "score": {"verb": "score", "particles": 20},
    "embed": {"verb": "embed", "scales": True},
    "impute": {"verb": "impute", "particles": 20},
    "draws": {"verb": "impute", "by": "draw", "key": "id", "particles": 20},
    "reconstruct": {"verb": "reconstruct"},
}


@pytest.fixture
def frame(table: Callable[[int], pandas.DataFrame]) -> pandas.DataFrame:
    """Rows of which some lack values, two say the same, and one column is nobody's business."""
    frame = table(12).assign(id=np.arange(12), note="seen")
    frame.loc[[1, 4, 5], "weight"] = np.nan
    frame.loc[[4, 7], "age"] = np.nan
    same = ["height", "weight", "age", "kind"]
    frame.loc[11, same] = frame.loc[1, same]
    return frame


def assert_same(found: Any, expected: Any) -> None:
    """To the last bit, NaN too."""
    assert found.schema == expected.schema
    pandas.testing.assert_frame_equal(found.to_pandas(), expected.to_pandas(), check_exact=True)


@pytest.mark.parametrize("options", VERBS.values(), ids=VERBS)
def test_a_row_has_its_numbers_in_any_company(
    table_run: Path, frame: pandas.DataFrame, options: dict[str, Any]
) -> None:
    scorer = pickle.loads(pickle.dumps(Scorer(table_run, **options)))  # noqa: S301 - our own
    table = pa.Table.from_pandas(frame, preserve_index=False)
    whole = scorer(table)
    assert scorer.schema(table.schema) == whole.schema
    parts = [scorer(table.slice(start, 5)) for start in range(0, 12, 5)]
    assert_same(pa.concat_tables(parts), whole)
    order = np.random.default_rng(0).permutation(12)
    assert_same(scorer(table.take(order)), whole.take(order))
    kept = [name for name in table.column_names if options["verb"] != "impute" or name == "note"]
    assert_same(whole.select(kept), table.select(kept))


@pytest.mark.parametrize("options", [VERBS["score"], VERBS["impute"]], ids=["score", "impute"])
def test_any_kind_of_table_comes_back_as_it_was(
    table_run: Path, frame: pandas.DataFrame, options: dict[str, Any]
) -> None:
    polars = pytest.importorskip("polars")
    scorer = Scorer(table_run, **options)
    known = scorer(frame)
    pandas.testing.assert_frame_equal(scorer.meta(frame), known[:0], check_column_type=False)
    arrays = scorer({name: frame[name].to_numpy() for name in frame})
    pandas.testing.assert_frame_equal(pandas.DataFrame(arrays), known, check_dtype=False)
    other = polars.from_pandas(frame)
    found = scorer(other)
    assert scorer.meta(other).schema == found.schema
    pandas.testing.assert_frame_equal(
        found.to_arrow().to_pandas(), known, check_dtype=False, check_column_type=False
    )


def test_the_verbs_give_the_same_numbers(
    deeplvm: Run, table_run: Path, frame: pandas.DataFrame
) -> None:
    frame.to_csv("rows.csv", index=False)
    words = ("rows.csv", "--particles", 20, "-o", "out.parquet")
    assert deeplvm("score", table_run, *words).code == 0
    found, said = pandas.read_parquet("out.parquet"), Scorer(table_run, particles=20)(frame)
    for name in ("log_px", "log_px_stderr", "anomaly", "pareto_k"):
        np.testing.assert_array_equal(found[name], said[name])
    assert deeplvm("embed", table_run, "rows.csv", "--scales", "-o", "out.parquet").code == 0
    found, said = (
        pandas.read_parquet("out.parquet"),
        Scorer(table_run, "embed", scales=True)(frame),
    )
    np.testing.assert_array_equal(found["z_sd_1"], said["z_sd_1"])
    assert deeplvm("impute", table_run, *words).code == 0
    found = pandas.read_parquet("out.parquet")
    said = Scorer(table_run, "impute", particles=20)(frame)
    np.testing.assert_array_equal(found["weight"], said["weight"])
    assert not said["weight"].isna().any()
    assert (said["weight"][1], said["age"][4]) != (said["weight"][5], said["age"][7])


def test_rows_that_say_the_same_are_drawn_apart_by_their_key(
    table_run: Path, frame: pandas.DataFrame
) -> None:
    drawn = Scorer(table_run, "impute", by="draw", key="id", particles=20)(frame)["weight"]
    assert drawn[1] != drawn[11]
    filled = Scorer(table_run, "impute", particles=20)(frame)["weight"]
    assert filled[1] == filled[11]


def test_pictures_are_arrays_or_lists(image_run: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 17, (5, 1, 8, 8)).astype(np.uint8)
    scorer = Scorer(image_run, "reconstruct")
    found = scorer({"x": pixels, "name": np.arange(5)})
    assert found["x_reconstructed"].shape == pixels.shape
    table = pa.table({"x": [each.ravel() for each in pixels]})
    flat = scorer(table)
    assert scorer.schema(table.schema) == flat.schema
    lists = np.array(flat["x_reconstructed"].to_pylist()).reshape(pixels.shape)
    np.testing.assert_array_equal(lists, found["x_reconstructed"])


def test_files_that_are_done_are_left_alone(table_run: Path, frame: pandas.DataFrame) -> None:
    for part in range(2):
        frame[part * 6 : part * 6 + 6].to_parquet(f"{part}.parquet", index=False)
    scorer = Scorer(table_run, particles=20)
    first = scorer.file("0.parquet", "out")
    before = first.stat().st_mtime_ns
    again, second = (scorer.file(f"{part}.parquet", "out") for part in range(2))
    assert again.stat().st_mtime_ns == before
    assert sorted(Path("out").iterdir()) == [first, second]
    joined = pa.concat_tables([pq.read_table(each) for each in (first, second)])
    expected = scorer(pa.Table.from_pandas(frame, preserve_index=False))
    with pytest.raises(ValueError, match=r"0.parquet lies in \. itself; name another folder"):
        scorer.file("0.parquet", ".")
    assert joined.select(["id", "log_px"]).equals(expected.select(["id", "log_px"]))


@pytest.mark.parametrize(
    "options, text",
    [
        ({"verb": "sample"}, "can score, embed, impute, reconstruct, not 'sample'"),
        ({"verb": "embed", "particles": 5}, "particles is to score and impute, not to embed"),
        ({"verb": "impute", "by": "draw"}, "name a column that tells rows apart"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(
    table_run: Path, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Scorer(table_run, **options)


def test_tables_that_do_not_fit_are_refused(
    table_run: Path, copy_of: Callable[[Path], Path], frame: pandas.DataFrame
) -> None:
    with pytest.raises(
        ValueError, match=r"no column 'age', which the model of .* reads; the table"
    ):
        Scorer(table_run)(frame.drop(columns="age"))
    with pytest.raises(ValueError, match="has a column 'log_px' already, which score writes"):
        Scorer(table_run, particles=5)(frame.assign(log_px=0.0))
    copied = copy_of(table_run)
    scorer = Scorer(copied)
    (copied / "model.safetensors").write_bytes(b"other")
    with pytest.raises(RunError, match="another run here than where the Scorer was made"):
        scorer(frame)


def test_a_key_that_tells_no_rows_apart_is_refused_before_anything_is_written(
    table_run: Path, frame: pandas.DataFrame
) -> None:
    twice, empty = frame.assign(id=3), frame.assign(id=pandas.Series([None, *range(11)]))
    scorer = Scorer(table_run, key="id", particles=5)
    with pytest.raises(ValueError, match="12 rows have the key id '3', by which rows are told"):
        scorer(twice)
    with pytest.raises(ValueError, match="The key 'id' is empty in 1 of 12 rows; fill it in"):
        scorer(pa.Table.from_pandas(empty))
    twice.to_parquet("twice.parquet", index=False)
    with pytest.raises(ValueError, match=r"^twice.parquet: 12 rows have the key id '3'"):
        scorer.file("twice.parquet", "out")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "rows, options, said",
    [
        ([np.zeros((3, 2)), np.ones((4, 2))] * 5, {}, "a row is a sequence"),
        (["a b", "b a c"] * 5, {}, "rows are texts"),
        (
            np.linspace(0, 1, 80).reshape(10, 8),
            {"binarize": "static"},
            "x is binarized by noise that a row has by its",
        ),
    ],
)
def test_rows_of_other_kinds_are_sent_to_the_verb(
    rows: Any, options: dict[str, Any], said: str
) -> None:
    description = load(rows, **options).description
    run: Any = SimpleNamespace(finished=True, folder="runs/r", description=description)
    with pytest.raises(RunError, match=f"{said}.*: deeplvm embed runs/r FILE FILE -o FOLDER"):
        _refuse(run, "embed")


def test_with_dask(table_run: Path, frame: pandas.DataFrame) -> None:
    dd = pytest.importorskip("dask.dataframe")
    scorer = Scorer(table_run, particles=20)
    parts = dd.from_pandas(frame, npartitions=3)
    found = parts.map_partitions(scorer, meta=scorer.meta(parts._meta)).compute(
        scheduler="threads"
    )
    pandas.testing.assert_frame_equal(found, scorer(frame), check_dtype=False)


def test_with_polars(table_run: Path, frame: pandas.DataFrame) -> None:
    polars = pytest.importorskip("polars")
    scorer, rows = Scorer(table_run, particles=20), polars.from_pandas(frame)
    lazy = rows.lazy().map_batches(scorer, schema=scorer.meta(rows).schema, streamable=True)
    assert_same(lazy.collect().to_arrow(), scorer(rows).to_arrow())


@pytest.mark.skipif(
    "DEEPLVM_RAY" not in os.environ, reason="it takes half a minute to begin; DEEPLVM_RAY=1"
)
@pytest.mark.filterwarnings("ignore")  # of ray's own, in every version others
def test_with_ray(table_run: Path, frame: pandas.DataFrame) -> None:
    ray = pytest.importorskip("ray")
    table, scorer = pa.Table.from_pandas(frame, preserve_index=False), Scorer(table_run)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        rows = ray.data.from_arrow([table.slice(0, 5), table.slice(5)])
        found = rows.map_batches(scorer, batch_format="pyarrow", batch_size=3)
        parts = pa.concat_tables(ray.get(found.to_arrow_refs()))
    finally:
        ray.shutdown()
    assert_same(parts.sort_by("id"), scorer(table))
