"""From sources that are open to Data: rows split, looked at, chosen for, and put side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from deeplvm.data.likelihood import Choice
from deeplvm.data.preparation import (
    binarization,
    chosen,
    refuse_other_shape,
    variable_of,
    warnings_of,
    without_use,
)
from deeplvm.data.ragged import INPUTS, LENGTH, RaggedColumn
from deeplvm.data.readers.images import GREY, laid_out, layout_notes, layout_of
from deeplvm.data.readers.source import Facts, Held, Places, Source, recoded
from deeplvm.data.records import SPLITS, Batch, Data, Description, Renewal, Selection, Split
from deeplvm.data.sequences import Sequences, quantiles, refuse_unsuited
from deeplvm.data.sparse import SparseColumn
from deeplvm.data.split import divide, kept_elements, limited, select_columns, with_few_labels
from deeplvm.data.statistics import Summary
from deeplvm.data.stream import Stream, StreamColumn
from deeplvm.data.transform import (
    Look,
    Reader,
    at_rest,
    dequantization,
    exact_type,
    label_type,
    smallest_type,
)
from deeplvm.data.variable import DataError, Variable, listed
from deeplvm.randomness import seed_of

# Rows on disk that are looked at for values that are repeated.
_SAMPLE = 10_000
_ELEMENTS = 10_000_000  # of sparse rows that are looked at so
# What is asked of what is modelled, and not of what is given in every step.
_AS_GIVEN = {"likelihood": "auto", "binarize": None, "dequantize": None}


def assembled(
    views: Mapping[str, Source], source: str, options: Mapping[str, Any], known: Description | None
) -> Data:
    """Split the rows, look at each name, choose, and put them side by side."""
    lead = next(
        (n for n, each in views.items() if each.facts.classes is not None), next(iter(views))
    )
    first, seed, limit = views[lead], options["seed"], options["limit"]
    sequences = first if isinstance(first, Sequences) else None
    labelled: Source = first if sequences is None else sequences.rows
    of_steps = {name for name, each in views.items() if isinstance(each, Sequences)}
    views = {n: each.steps if isinstance(each, Sequences) else each for n, each in views.items()}
    on_disk = not all([isinstance(each, Held) for each in views.values()])
    if sequences is not None and known is None:
        refuse_unsuited(sequences, views, source)
    cut = known is None and options.get("pieces") is not None  # with the split that was asked for
    whole, split = divide(labelled, {**options, "split": None} if cut else options, known)
    rows = {each: limited(labelled, part, limit, seed) for each, part in whole.items()}
    places, notes = rows, list[str]()
    if options["keep_labels"] is not None and known is None:
        labelled = with_few_labels(labelled, places["train"], options["keep_labels"], seed)
        notes.append(
            f"only {options['keep_labels']} training rows keep their label, as asked for."
        )
    if limit is not None:
        notes.append(f"at most {limit} rows of each split, as asked for: a trial, not a result.")
    if sequences is not None:
        notes.append(sequences.note(rows))
        places = {each: sequences.steps_of(part) for each, part in rows.items()}
    made, alone = dict[str, _Made](), len(views) == 1
    for name, found in views.items():
        what = source if alone else f"{source}, {name}"
        given = sequences is not None and name == INPUTS
        beside = sequences is not None and name not in of_steps
        said = found.facts.vocabulary is not None and not alone  # a caption
        own = whole
        if sequences is not None and not beside:
            own = {each: sequences.steps_of(part) for each, part in whole.items()}
        made[name] = _made(
            labelled if name == lead and not sequences else found, name, what,
            {**options, **_AS_GIVEN} if given or beside or said else options, known, whole=own,
            places=rows if beside else places,
            seed=noise_seed(seed, made), labels=name == lead and not sequences,
            on_disk=on_disk, alone=alone,
            kept=columns_kept(views, name, what, options),
        )  # fmt: skip
        if given and made[name].variable.missing:
            raise DataError(
                f"{what}: {INPUTS} is what is known of every step, and some of it is missing "
                f"(NaN); fill it in, or leave it among what is modelled."
            )
        if given:
            titles = listed(made[name].variable.titles)
            words = f"{INPUTS}: given in every step, and not modelled: {titles}."
            made[name] = replace(made[name], notes=[words])
    common = [note for each in made.values() for note in each.said]
    own = [
        note if alone or note.startswith(f"{name}:") else f"{name}: {note}"
        for name, each in made.items()
        for note in each.notes
    ]
    readers = {name: each.reader for name, each in made.items()}
    facts, unlabelled = made[lead].facts, made[lead].unlabelled
    of_rows: Mapping[Split, Batch] = {}
    if sequences is not None:
        of_rows, classes, unlabelled = _of_rows(sequences, labelled, rows, source, known)
        facts = replace(facts, classes=classes)
    lengths = dict.fromkeys(of_steps, LENGTH)
    description = Description(
        name=facts.name,
        source=options["source"],
        options=options,
        variables={n: replace(each.variable, length=lengths.get(n)) for n, each in made.items()},
        classes=facts.classes,
        split=split,
        notes=(*dict.fromkeys(common), *notes, *own),
        rows={each: len(rows[each]) for each in SPLITS},
        left={column: why for each in made.values() for column, why in each.facts.left.items()},
        unlabelled=unlabelled,
        steps={each: len(places[each]) for each in SPLITS} if sequences else {},
        lengths=quantiles(of_rows["train"][LENGTH]) if sequences else (),
    )
    renewed = known is None and options["binarize"] != "static"
    if not on_disk:
        owners = {name: name for name in made} | ({"y": lead} if readers[lead].labels else {})

        def laid(column: Any, part: Split, name: str) -> Any:
            there = name in of_steps
            return RaggedColumn.of(column, of_rows[part][LENGTH]) if there else column

        train, valid, test = (
            Selection(
                {n: laid(made[owner].rows[part][n], part, owner) for n, owner in owners.items()}
                | of_rows.get(part, {}),
                unrounded={
                    n: laid(column, part, name)
                    for name, each in made.items()
                    for n, column in each.unrounded.get(part, {}).items()
                },
            )
            for part in SPLITS
        )
        noise = {
            name: replace(each.noise, source=laid(each.noise.source, "train", name))
            for name, each in made.items()
            if each.noise and renewed
        }
        return Data(description, train, valid, test, noise)
    digest = f"{' '.join([each.digest for each in made.values()])} {split} {limit} {seed}"
    if sequences is not None:
        digest += f" {hashlib.sha256(sequences.rows.values.tobytes()).hexdigest()}"
    form = {
        name: {"layout": each.layout, "grey": each.grey, "kind": str(each.kind)}
        for name, each in readers.items()
    }
    plan = Stream.plan_of(readers, places, of_rows)
    width = sum([each.row_bytes for each in readers.values()]) * len(places["train"])
    description = replace(
        description,
        notes=(*description.notes, plan.note(width // max(1, plan.rows))),
        fingerprint=hashlib.sha256(digest.encode()).hexdigest(),
        stream={"files": listing(views), "form": form},
    )
    return Stream.over(readers, places, description, renewed=renewed, of_rows=of_rows)


def _of_rows(
    sequences: Sequences,
    labelled: Source,
    places: Mapping[Split, Places],
    source: str,
    known: Description | None,
) -> tuple[dict[Split, Batch], tuple[str, ...] | None, dict[str, int]]:
    """Lengths and labels of sequences by split, the labels' names, and how many have none."""
    reader, facts = _recoded(Reader(labelled, name=LENGTH), labelled.facts, known)
    look = Look.at(reader, places)
    reader, facts, unlabelled = _with_labels(reader, facts, look, source, known)
    found: dict[Split, Batch] = {}
    for split, part in places.items():
        found[split] = {LENGTH: sequences.lengths(part)}
        _, codes = reader.stored(part.all())
        if codes is not None and reader.labels is not None:
            found[split]["y"] = torch.from_numpy(reader.labelled(codes)).to(reader.labels)
    return found, facts.classes, unlabelled


@dataclass(frozen=True, eq=False)
class _Made:
    """What was made of one name.

    Attributes:
        variable: What it is.
        reader: Of its rows.
        facts: What the source says, without what was left out.
        said: What the source says of all its names, in words.
        notes: What was chosen and why, and warnings.
        rows: Of each split, where memory holds them.
        noise: What is added to them.
        unrounded: The columns without it.
        unlabelled: How many rows of each split have no label.
        digest: Of what was looked at.
    """

    variable: Variable
    reader: Reader
    facts: Facts
    said: Sequence[str]
    notes: Sequence[str]
    rows: Mapping[Split, Batch]
    noise: Renewal | None
    unrounded: Mapping[Split, Mapping[str, StreamColumn]]
    unlabelled: Mapping[str, int]
    digest: str


def _made(
    found: Source,
    name: str,
    source: str,
    options: Mapping[str, Any],
    known: Description | None,
    *,
    whole: Mapping[Split, Places],
    places: Mapping[Split, Places],
    seed: int,
    labels: bool,
    on_disk: bool,
    alone: bool,
    kept: Any,
) -> _Made:
    """Look at the rows of one name once (twice where noise is added to them), and choose.

    Args:
        found: Its rows.
        name: In the model.
        source: For messages.
        options: Those of :func:`load`.
        known: The training data, where these are others.
        whole: The rows of each split before the limit.
        places: Those that are used.
        seed: Of its noise.
        labels: Whether the labels of the rows come with it.
        on_disk: Whether rows stay there.
        alone: Whether there is no other name.
        kept: Places of its columns that stay; ``None`` for all.
    """
    notes = list[str]()
    facts, said = found.facts, found.facts.notes
    trained = None if known is None else known.variables[name]
    if isinstance(found, Held) and found.is_sparse and trained is not None:
        noisy = trained.dequantized or trained.grey is not None
        found = found.dense() if noisy or len(trained.shape) != 1 else found
    reader = Reader(found, name=name, kept=kept, seed=seed)
    if labels:
        reader, facts = _recoded(reader, facts, known)
    look = Look.at(reader, places)
    unlabelled: dict[str, int] = {}
    if labels:
        reader, facts, unlabelled = _with_labels(reader, facts, look, source, known)
    seen: Mapping[Split, Summary] = look.seen
    if known is None and (useless := without_use(facts, seen, source, options)):
        reader, facts, seen = _left_out(reader, facts, seen, useless)
    if facts.left:
        _refuse_nothing_left(source, facts, alone=alone)
        notes.append(_notes_of_left(facts.left))

    def train() -> Summary:
        limited = options["limit"] is not None
        return Look.at(reader, whole).seen["train"] if limited else seen["train"]

    columns = select_columns(facts, train, options, trained)
    if columns is not None:
        if known is None:
            notes.append(
                f"the {len(columns)} of {len(facts.columns or ())} columns whose variance is "
                f"largest compared with their mean in the training rows; likelihoods are of "
                f"these columns only (--most-variable)."
            )
        reader, facts, seen = _narrowed_to(reader, facts, seen, columns)
    told: tuple[str, ...] = ()
    if options["members"] is None:  # those of sets have their axes already
        reader, facts, seen, told = _laid_out(reader, facts, seen, grey=look.grey)
    notes += [*told, *([look.holes] if look.holes else [])]
    shape = seen["test"].shape
    if trained is not None or facts.vocabulary is not None:
        if trained is not None:
            refuse_other_shape(shape, source, trained)
        single = shape == (1,)  # a token in each step; of several texts a row of tokens
        shape = trained.shape if trained is not None else () if single else shape
        seen = {e: part.changed(lambda v: v.reshape(-1, *shape)) for e, part in seen.items()}
    stored, everything = seen, Summary.joined(seen.values())
    scale: float | None = None
    if everything.count.any() or trained is None:
        scale, drawn = binarization(facts, everything, source, options, trained)
        notes += drawn
    if scale is not None:  # the draws will be 0 and 1 in every element
        facts, seen = replace(facts, levels=None), {e: _binary(s) for e, s in seen.items()}
    some = places["train"].rows(_some(places["train"]).numpy())
    choices, reasons = chosen(
        facts, seen, lambda: reader.stored(some)[0], source, options, trained, name
    )
    notes += reasons
    kinds = {each: _kind(part, choices, scale) for each, part in stored.items()}
    kind = _kind(everything, choices, scale)
    reader = replace(reader, shape=shape, kind=kind, choices=tuple(choices))
    reader = with_noise(reader, places, scale)
    unrounded = _unrounded(reader, places, everything if scale is None else None)
    rows: dict[Split, Batch] = {}
    noise = reader.noise
    if not on_disk:
        rows, noise = _held_rows(reader, places, kinds)
    missing = any(part.missing.any() for part in seen.values())
    if trained is not None:
        variable = replace(trained, missing=missing)
    else:
        if reader.noise is not None or choices[0].step != 1:
            seen = (
                reader.summaries(places)
                if on_disk
                else {each: Summary.of(_plain(part[name])) for each, part in rows.items()}
            )
        sample = rows["train"][name] if rows else _sample(reader, places["train"], facts)
        if isinstance(sample, SparseColumn):  # all of them would be wide
            sample = sample[_some(places["train"], sample.shape[1])]
        column = unrounded.get("train", {}).get(name)
        exact = sample if column is None else column[_some(places["train"])]
        exact = exact if facts.columns else torch.zeros(0, 0)
        variable = variable_of(facts, source, choices, seen, sample, exact, name)
        variable = replace(variable, grey=scale)
        notes += warnings_of(variable, seen, sample)
    return _Made(
        variable, reader, facts, said, notes, rows, noise, unrounded, unlabelled, look.digest
    )


def _recoded(reader: Reader, facts: Facts, known: Description | None) -> tuple[Reader, Facts]:
    """Labels by the codes that the training data have for them."""
    if known is None or not known.classes or facts.classes is None:
        return reader, facts
    codes = recoded(facts.classes, known.classes)
    if codes is None or facts.classes == known.classes:
        return reader, facts
    return replace(reader, codes=codes), replace(facts, classes=known.classes)


def _with_labels(
    reader: Reader, facts: Facts, look: Look, source: str, known: Description | None
) -> tuple[Reader, Facts, dict[str, int]]:
    """How labels rest; that some are missing, and of how many rows of each split."""
    if not look.unlabelled:
        return reader, facts, {}
    none, rows = sum(look.unlabelled.values()), sum([each.rows for each in look.seen.values()])
    if none == rows and known is None:
        raise DataError(
            f"{source}: no row has a label; give some rows theirs, or leave the labels out."
        )
    if none == rows:
        return reader, replace(facts, classes=None), {}
    unlabelled = look.unlabelled if none else {}
    return replace(reader, labels=label_type(unlabelled)), facts, unlabelled


def columns_kept(
    views: Mapping[str, Source], name: str, source: str, options: Mapping[str, Any]
) -> Any:
    """Places of the columns of an array that stay; of a table its reader has left out others."""
    tables = any([each.facts.columns is not None for each in views.values()])
    tables |= bool(options["group"]) and views[name].facts.image
    return None if tables else kept_elements(views[name].shape, source, options)


def _laid_out(
    reader: Reader, facts: Facts, seen: Mapping[Split, Summary], *, grey: bool
) -> tuple[Reader, Facts, Mapping[Split, Summary], tuple[str, ...]]:
    """Rows with the axes of images, if that is what they are; and what was done, in words."""
    shape = seen["train"].shape
    if grey:
        seen = {split: part.changed(lambda v: v[:, :1]) for split, part in seen.items()}
        return replace(reader, grey=True), facts, seen, (GREY,)
    if len(shape) not in (2, 3):
        return reader, facts, seen, ()
    layout = layout_of(Summary.joined(seen.values()), image=facts.image)
    facts = replace(facts, image=facts.image or layout != "rows")
    moved = {s: part.changed(lambda v: laid_out(v, layout)) for s, part in seen.items()}
    return replace(reader, layout=layout), facts, moved, layout_notes(shape, layout)


def _binary(seen: Summary) -> Summary:
    if not seen.rows:
        return Summary(seen.shape, np.dtype(np.uint8))
    return Summary.of(np.stack([np.zeros(seen.shape, np.uint8), np.ones(seen.shape, np.uint8)]))


def _kind(seen: Summary, choices: Sequence[Choice], scale: float | None) -> np.dtype:
    """The type in which rows rest; of binarized ones that of the grey values."""
    if scale is None:
        return smallest_type(seen, choices)
    return np.dtype(np.uint8 if seen.whole.all() else np.float32)


def with_noise(reader: Reader, places: Mapping[Split, Places], scale: float | None) -> Reader:
    """With what is drawn anew at each reading: a binarization, or the noise of whole numbers."""
    column = StreamColumn(reader, places["train"], reader.name, noisy=False)
    if scale is not None:
        return replace(reader, noise=Renewal("binarization", column, scale))
    return replace(reader, noise=dequantization(reader.choices, column))


def _held_rows(
    reader: Reader, places: Mapping[Split, Places], kinds: Mapping[Split, np.dtype]
) -> tuple[dict[Split, Batch], Renewal | None]:
    """The rows of each split in memory, with one draw of the noise; and that noise."""
    name = reader.name
    if isinstance(reader.source, Held) and reader.source.is_sparse:
        return _sparse_rows(reader, reader.source, places, kinds), None
    rows = {
        split: replace(reader, kind=kinds[split]).resting(part.all())
        for split, part in places.items()
    }
    if reader.noise is None:
        return rows, None
    noise = replace(reader.noise, source=rows["train"][name])
    generator = torch.Generator().manual_seed(reader.seed)
    # in the order in which the splits were drawn, which those who fitted before have
    for split in SPLITS if noise.kind == "binarization" else places:
        drawn = noise.draw(rows[split][name], generator, torch.float32)
        rows[split] = rows[split] | {name: drawn.to(reader.dtype)}
    return rows, noise


def _sparse_rows(
    reader: Reader, found: Held, places: Mapping[Split, Places], kinds: Mapping[Split, np.dtype]
) -> dict[Split, Batch]:
    """Sparse rows of each split, as they are."""
    name, rows = found.facts.name, {}
    if reader.noise is not None:
        raise DataError(
            f"{name}: {reader.noise.kind} would put noise into every zero of a sparse matrix; "
            f"choose a likelihood of the values as they are (--likelihood), or give the rows in "
            f"full (matrix.toarray())."
        )
    for split, part in places.items():
        taken = reader.sparse(part.all())
        values = at_rest(taken.data, kinds[split], reader.choices)
        matrix = type(taken)((values, taken.indices, taken.indptr), shape=taken.shape)
        rows[split] = {reader.name: SparseColumn(matrix)}
        if found.labels is not None and reader.labels is not None:
            codes = reader.labelled(found.labels[part.all()])
            rows[split]["y"] = torch.from_numpy(codes).to(reader.labels)
    return rows


def _sample(reader: Reader, train: Places, facts: Facts) -> torch.Tensor:
    """Some training rows of a table on disk; only of columns there is anything to warn of."""
    if facts.columns is None:
        return torch.zeros(0, 0)
    some = train.rows(_some(train).numpy())
    return reader.fixed(reader.resting(some)[reader.name], some)


def _some(train: Places, width: int = 1) -> torch.Tensor:
    """Row numbers of the split from all of it, not too many."""
    most = max(1, min(_SAMPLE, _ELEMENTS // width))
    return torch.arange(0, len(train), max(1, len(train) // most))[:most]


def _plain(column: Any) -> Any:
    """What a column in memory holds, for its statistics."""
    return column.matrix if isinstance(column, SparseColumn) else column.numpy()


def _narrowed_to(
    reader: Reader, facts: Facts, seen: Mapping[Split, Summary], columns: Any
) -> tuple[Reader, Facts, Mapping[Split, Summary]]:
    """Some of the columns, by their places among those that are there."""
    kept = columns if reader.kept is None else reader.kept[columns]
    seen = {each: part.changed(lambda v: v[:, columns]) for each, part in seen.items()}
    return replace(reader, kept=kept), facts.at(columns), seen


def _left_out(
    reader: Reader, facts: Facts, seen: Mapping[Split, Summary], useless: Mapping[str, str]
) -> tuple[Reader, Facts, Mapping[Split, Summary]]:
    """Without the columns from which nothing can be learned; the reasons are with the facts."""
    names = facts.columns or ()
    kept = np.array([place for place, name in enumerate(names) if name not in useless], int)
    reader, facts, seen = _narrowed_to(reader, facts, seen, kept)
    return reader, replace(facts, left={**facts.left, **useless}), seen


def _refuse_nothing_left(source: str, facts: Facts, *, alone: bool) -> None:
    """Columns are left out by themselves only where a table is left: two columns or more."""
    if len(facts.columns or ()) < 1 + alone:
        raise DataError(f"{source}: {next(iter(facts.left.values()))}")


def _notes_of_left(left: Mapping[str, str]) -> str:
    shown = "; ".join([why.split("; --drop")[0] for why in list(left.values())[:5]])
    more = f"; and {len(left) - 5} more" if len(left) > 5 else ""
    return f"left out: {shown}{more}."


def _unrounded(
    reader: Reader, places: Mapping[Split, Places], seen: Summary | None
) -> dict[Split, dict[str, StreamColumn]]:
    """The columns without noise and in the precision of the source, where those at rest differ."""
    if seen is None:
        return {}
    levels = len(reader.choices) == 1 and reader.choices[0].step != 1  # exact where they rest
    kind = None if levels else exact_type(seen, reader.kind)
    if kind is None and reader.noise is None:
        return {}
    exact = replace(reader, kind=kind or reader.kind)
    return {
        each: {reader.name: StreamColumn(exact, part, reader.name, noisy=False)}
        for each, part in places.items()
    }


def listing(views: Mapping[str, Source]) -> dict[str, str]:
    """Size and time of change of all files."""
    return {name: entry for each in views.values() for name, entry in each.listing.items()}


def noise_seed(seed: int, before: Collection[str]) -> int:
    """That of the noise of a name, by those before it: two names have different noise."""
    return seed_of(seed, len(before)) if before else seed
