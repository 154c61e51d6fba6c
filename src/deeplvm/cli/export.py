"""Verbs that hand a run on: as files that others run, and as a card that says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from deeplvm.cli.console import in_json, note, show_json, tell
from deeplvm.cli.options import Folder, Particles, Seed, Trust


def export(
    run: Folder,
    /,
    *,
    to: Literal["onnx", "pt2"] | None = None,
    part: Annotated[
        tuple[Literal["encoder", "decoder", "log-likelihood"], ...] | None,
        Parameter(consume_multiple=True, negative_iterable=()),
    ] = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    particles: Particles = 64,
    seed: Seed = 0,
    trust: Trust = False,
    json: bool = False,
) -> None:
    """Write encoder, decoder and log p(x) as files that run without deeplvm: ONNX, or pt2.

    They take rows as the data file has them and give numbers in its units; names, columns, units
    and categories stand in each file. Each is compared with the run before it is written.

    Args:
        to: The format: onnx, or pt2, which torch.export.load opens; as the ending of -o says, or
            onnx.
        part: Which of them; all that can be exported if none is named.
        output: A folder, RUN/export by default; or a file, .onnx or .pt2, of one --part.
        particles: Draws of log p(x), which become part of its file, the same for all rows.
        seed: Of these draws.
        json: Print what was written instead of words.
    """
    from deeplvm.cli.outputs import FileError
    from deeplvm.export.programs import write_all
    from deeplvm.runs.run import open_run

    ending = output.suffix.lower() if output is not None else ""
    said = {".onnx": "onnx", ".pt2": "pt2"}.get(ending)
    if to is not None and said is not None and to != said:
        raise FileError(f"{output} ends with {ending!r}, and --to is {to}; say one of the two.")
    if output is not None and not output.parent.is_dir():
        raise FileError(f"{output.parent} does not exist; make the folder first.")
    if output is not None and said is None and output.exists() and not output.is_dir():
        raise FileError(f"{output} is a file; name a folder, or a file .onnx or .pt2.")
    opened = open_run(run, trust=trust)
    written, refused = write_all(
        opened,
        part,
        output or opened.folder / "export",
        to or said or "onnx",  # type: ignore[arg-type]
        particles=particles,
        seed=seed,
        told=lambda what: note(f"  {what}"),
    )
    for name, why in refused.items():
        note(f"no {name}: {why}")
    if json:
        show_json({"written": [each.to_dict() for each in written], "refused": refused})
        return
    for each in written:
        tell(str(each))


def card(run: Folder, /, *, trust: Trust = False, json: bool = False) -> None:
    """Write RUN/README.md, a model card: what the run is, from what was measured.

    Data, split, likelihood with its error, settings, cost, what diagnose found, limits; fit writes
    it by itself.

    Args:
        json: Print where it is as an object.
    """
    from contextlib import nullcontext

    from deeplvm.report.card import write_card
    from deeplvm.runs.run import open_run

    opened = open_run(run, trust=trust)
    with in_json("card", opened.folder / "README.md") if json else nullcontext():
        path = write_card(opened)
    if not json:
        tell(str(path))


def push(
    run: Folder, name: str, /, *, private: bool = False, trust: Trust = False, json: bool = False
) -> None:
    """Upload a run to a model hub: card, configuration, weights, what was measured; no data.

    Args:
        name: Of the model there: user/model.
        private: Whether a model that is made is seen by its owner alone.
        json: Print where it is as an object.
    """
    from deeplvm.cli.console import write_card
    from deeplvm.export.hub import push as upload
    from deeplvm.runs.run import open_run

    opened = open_run(run, trust=trust)
    if opened.finished:
        write_card(opened)
    place = upload(opened, name, private=private)
    show_json({"name": name, "url": place}) if json else tell(place)


def pull(
    name: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    revision: str | None = None,
    trust: Trust = False,
    json: bool = False,
) -> None:
    """Download a run from a model hub, if nothing in it could run code.

    Args:
        name: Of the model there: user/model.
        output: The RUN folder to make; runs/MODEL if none is named.
        revision: A commit, a branch or a tag; the newest by default.
        json: Print where it is as an object.
    """
    from deeplvm.export.hub import pull as download

    folder = output or Path("runs") / name.rpartition("/")[2]
    found = download(name, folder, revision=revision, trust=trust)
    told = str(found.folder)
    show_json({"name": name, "folder": told}) if json else tell(told)
