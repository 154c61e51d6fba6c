"""The verbs, one function each; they import what they need when they run: help is quick."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from deeplvm.cli.console import (
    count,
    enough,
    evaluate_into,
    finish,
    in_json,
    may_write,
    note,
    refuse_large,
    show,
    show_json,
    tell,
    time_left,
    waiting,
    write_card,
    write_report,
)
from deeplvm.cli.forms import of_sequences, only_images, only_texts, save_values, split_meant
from deeplvm.cli.options import (
    AutoParticles,
    Budget,
    Device,
    Escape,
    Files,
    Folder,
    Model,
    Number,
    OtherData,
    Output,
    Particles,
    Precision,
    Seed,
    SplitOption,
    Tolerance,
    Trust,
)
from deeplvm.cli.parallel import by_first, data_of, model_of, precise, together
from deeplvm.parallel.processes import processes
from deeplvm.registry import Bounds, Positive


def fit(data: str | None = None, /) -> None:
    """Learn a model from data: trains, evaluates, and writes a report."""
    # Only listed in the help of all verbs: what runs is composed in cli/fit.py for each recipe.


def tune(data: str | None = None, /) -> None:
    """Search options of a recipe: trials that are compared on held-out rows."""
    # As fit: composed in cli/tune.py.


def resume(
    run: Folder,
    /,
    *,
    epochs: Number | None = None,
    minutes: float | None = None,
    device: Device = "auto",
    trust: Trust = False,
    evaluate: bool = True,
    evaluation_particles: Particles | None = None,
    json: bool = False,
) -> None:
    """Go on with training, or with a study of tune, exactly where it stopped.

    Args:
        epochs: Passes over the data in all, if other than the run was started with.
        minutes: Of training in all, if other than the run was started with; of a study, of all
            trials.
        evaluate: Whether to evaluate and write the report in the end.
        evaluation_particles: Draws a row of the evaluation.
        json: Print the contents of evaluation.json instead of the table.
    """
    from deeplvm.cli.fit import go_on, refuse_restart
    from deeplvm.files import alone
    from deeplvm.runs.run import RunError, open_run

    if (run / "study.json").exists():
        from deeplvm.cli.tune import go_on as search_on

        options = {"evaluate": evaluate, "evaluation_particles": evaluation_particles}
        search_on(run, epochs, minutes, device, trust=trust, json=json, **options)
        return
    with together(device) as here, ExitStack() as stack:
        opened = by_first(here, lambda: open_run(run, trust=trust))
        by_first(here, lambda: stack.enter_context(alone(opened.folder, RunError)))
        by_first(here, lambda: refuse_restart(opened))
        data = data_of(here, lambda: opened.data, opened.config.data)
        model = opened.build()
        opened = go_on(opened, model, data, epochs, minutes, device)
        finish(opened, model, data, evaluate=evaluate, particles=evaluation_particles, json=json)


def evaluate(
    run: Model,
    data: OtherData = None,
    /,
    *,
    particles: AutoParticles = "auto",
    tolerance: Tolerance = None,
    most_particles: Budget = 5_000,
    precision: Precision = "float32",
    split: SplitOption = None,
    seed: Seed = 0,
    ais: bool = False,
    sandwich: bool = False,
    temperatures: Number = 1000,
    annealed_particles: Number = 16,
    start: Literal["prior", "posterior"] = "prior",
    annealed_rows: Number = 100,
    gaps: bool = False,
    gap_rows: Number = 100,
    synthetic: bool = False,
    target: str | None = None,
    synthetic_rows: Number = 10_000,
    device: Device = "auto",
    trust: Trust = False,
    json: bool = False,
) -> None:
    """Measure the likelihood, the bound and the use of latents: a table and RUN/evaluation.json.

    With other DATA the table is shown and RUN/evaluation.json stays as it is. Of a function of
    your own, which returns a p and a q, the table is shown.

    Args:
        seed: The same seed gives the same numbers.
        ais: Also estimate the likelihood by annealed importance sampling, and say in words which
            estimate has settled; takes minutes.
        sandwich: Also bound the error of annealing from both sides, on rows that are drawn from
            the model.
        temperatures: Of annealing; more are slower and closer.
        annealed_particles: Of annealing, a row.
        start: Where they begin: the prior owes nothing to q; from the posterior, q(z | x), fewer
            temperatures are enough where q is good.
        annealed_rows: For how many rows, chosen at random; as many are simulated.
        gaps: Also say how much of what the bound loses is lost by the family of q(z | x), and how
            much by the encoder; takes hundreds of gradient steps a row.
        gap_rows: For how many rows, chosen at random.
        synthetic: Also compare rows that the model of a table draws with real ones: how alike
            they are, whether a classifier tells them apart, and what they give away.
        target: With --synthetic: a column that a classifier learns to predict from drawn rows.
        synthetic_rows: With --synthetic: how many rows of each kind are compared, at most.
        json: Print the contents of evaluation.json instead of the table.
    """
    from deeplvm.devices import place
    from deeplvm.evaluation import Annealing, Synthetic
    from deeplvm.evaluation import evaluate as measure

    options: dict[str, Any] = {"seed": seed, "progress": time_left("log p(x)")}
    if target is not None and not synthetic:
        raise ValueError("--target is the column that --synthetic rows teach; add --synthetic.")
    if gaps:
        options["gap_rows"] = gap_rows
    if ais or sandwich:
        options["annealing"] = Annealing(
            annealed_rows if ais else None, annealed_rows if sandwich else None,
            temperatures, annealed_particles, start,
        )  # fmt: skip
    with together(device) as here:
        opened, model, rows = _model_and_rows(here, run, data, trust=trust)
        model = precise(model.to(place(device)), precision)
        chosen = split_meant(rows, split)
        if ais and min(annealed_rows, rows.rows(chosen)) < 2:
            raise ValueError(
                f"--ais compares estimates row by row, and needs 2 rows or more; --annealed-rows "
                f"is {annealed_rows}, and {rows.name} has {rows.rows(chosen)} {chosen} rows."
            )
        own = opened is not None and data is None
        if own:
            by_first(here, lambda: may_write(opened.folder))
        draw = None if opened is None else opened.measured(rows) or None
        if synthetic:
            train = None if data is None or opened is None else opened.data.train
            options["synthetic"] = Synthetic(target, synthetic_rows, train)
        options["particles"] = enough(
            particles, model, rows[chosen], tolerance, most_particles, seed, draw
        )
        if own:
            measured = evaluate_into(opened, model, rows, split=chosen, **options)
            if here.first:
                write_card(opened)
        else:
            measured = measure(model, rows[chosen], draw=draw, **options)
        show(measured, json=json)


def _model_and_rows(here: Any, run: str, data: str | None, *, trust: bool) -> tuple[Any, Any, Any]:
    """The run, if it is one, the model, and the rows to judge it by."""
    if ":" not in run or Path(run).exists():
        from deeplvm.runs.run import open_run

        opened = by_first(here, lambda: open_run(Path(run), trust=trust))
        model = model_of(here, opened)
        rows = data_of(here, lambda: opened.read(data), data or opened.config.data)
        return opened, model, rows
    from deeplvm.data import load
    from deeplvm.recipes import find
    from deeplvm.runs.run import build

    function = find(run)
    if data is None:
        raise ValueError(
            f"{run} is a function, which has no data of its own; name them: "
            f"deeplvm evaluate {run} DATA"
        )
    rows = data_of(here, lambda: load(data), data)
    return None, build(function, rows, {}, 0).eval(), rows


def sample(
    run: Folder,
    /,
    *,
    output: Output,
    escape_formulas: Escape = False,
    rows: Annotated[Number, Parameter(name=("--rows", "-n"))] = 64,
    steps: Number | None = None,
    seed: Seed = 0,
    mean: bool | None = None,
    label: str | None = None,
    given: str | None = None,
    highest: str | None = None,
    lowest: str | None = None,
    holes: bool = False,
    temperature: Positive = 1.0,
    likelihood_temperature: Positive | None = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Draw new data from the model.

    What a file knows of rows is given by impute FILE --draws, which draws the rest.

    Args:
        output: A grid of images (.png), a table (.npz, .csv, .parquet), or texts a line (.txt). Of
            sequences a table of all steps, with the numbers of sequence and step in front (.npz:
            the steps, and offsets at which rows begin), lines or piano rolls (.png), or music
            (.mid).
        rows: How many.
        steps: Of each sequence, or texts of each row; by default as many as training rows have.
            Where a model reads something of every step, that of training rows is given.
        seed: The same seed gives the same draws.
        mean: The mean of p(x | z) at each draw of z, without the noise of x; by default so in
            pictures, where it is known (of a flow it is not), and not in tables or of sequences.
        label: For a model of x given a label: this label alone, instead of all in turn.
        given: Columns that are known, in the words of the file: "age=40,job=nurse"; the others
            are drawn given these. For a model of pictures of a caption each: what is drawn,
            "caption=a three at the top left"; by default what training rows say.
        highest: Of strings with properties beside them: instead of draws those, all different, of
            which most of this property is predicted, or measured where RDKit measures it (qed,
            logp), found by climbing from training rows in the latent space; -n at most.
        lowest: The same of least.
        holes: Leave values out where a training row, chosen at random, has none; or as the model
            says, if it is one of what is missing.
        temperature: Of every layer of latents: their standard deviations are multiplied by it, of
            a flow its noise, logits of discrete ones divided; below 1 draws are more alike.
        likelihood_temperature: Of the draw of x given the latents, in the same way; pictures are
            then draws and not means.
    """
    from deeplvm.cli.outputs import (
        PICTURES,
        TABLES,
        check_output,
        impossible,
        refuse_overwriting,
        sampled,
    )
    from deeplvm.cli.sequences import MUSIC, are_several, conditions_of, inside, length_of
    from deeplvm.cli.texts import ENDINGS, caption_of, read_of
    from deeplvm.core.joint import owner_of
    from deeplvm.devices import place
    from deeplvm.runs.run import open_run

    ending = check_output(output, (*PICTURES, *TABLES, *ENDINGS, *MUSIC))
    opened, picture = open_run(run, trust=trust), ending in PICTURES
    only_texts(opened, output, mean=mean, holes=holes, given=given)
    refuse_overwriting(output, opened.config.data)
    only_images(opened, output, picture=picture)
    if highest is not None or lowest is not None:
        others = {
            "--label": label, "--steps": steps, "--mean": mean,
            "--likelihood-temperature": likelihood_temperature,
            "--temperature": None if temperature == 1 else temperature,
        }  # fmt: skip
        refused = [flag for flag, said in others.items() if said is not None]
        if refused or (highest and lowest):
            raise ValueError(
                f"{'--highest' if highest else '--lowest'} searches and draws nothing; leave out "
                f"{refused[0] if refused else '--lowest'}."
            )
        from deeplvm.cli.texts import search

        search(opened, output, rows, str(highest or lowest), lowest is not None, seed, device)
        return
    length = length_of(opened.description)
    counted = steps is not None and not are_several(opened.description)
    of_sequences(opened, **{f"-o {output}": ending in MUSIC, "--steps": counted})
    refuse_large("-n", rows, opened.description)
    count(rows=rows)
    model = opened.model.to(place(device))
    said = None
    if (caption := caption_of(opened.description, model)) is not None:
        said, given = given, None
        if said is None:
            note(f'drawn of what training rows say, at random; --given "{caption}=..." says it')
    if holes and (length is not None or picture or mean or given is not None):
        if length is not None:
            raise ValueError(
                "--holes are of rows of a table, and a row of these data is a sequence; leave it "
                "out."
            )
        other = f"-o {output}" if picture else "--mean" if mean else "--given"
        raise ValueError(f"--holes is of rows of a table that are drawn whole; {other} is not.")
    if likelihood_temperature is not None and mean:
        raise ValueError(
            "--mean writes means of p(x | z), which are not drawn, so that they have no "
            "--likelihood-temperature; leave out one of the two."
        )
    if given is not None and not temperature == (likelihood_temperature or 1.0) == 1.0:
        raise ValueError(
            "--given draws what is not known from its posterior, which has no temperature; leave "
            "it out."
        )
    if given is not None:
        from deeplvm.cli.missing import sampled_given

        if length is not None:
            raise ValueError(
                "--given is of a row of a table, and a row of these data is a sequence: impute "
                "FILE --draws draws what a file lacks, and --horizon what comes after it."
            )
        if picture or mean is not None or label is not None:
            other = f"-o {output}" if picture else "--mean" if mean is not None else "--label"
            raise ValueError(
                f"{other} does not go with --given, which draws rows of a table; leave it out"
                f"{', and name the label in --given' if label is not None else ''}."
            )
        with waiting(f"drawing {rows:,} rows"):
            values, known, warnings = sampled_given(opened, model, given, rows, seed)
        save_values(output, values, opened.description, rows=known, escape=escape_formulas)
        for warning in (*warnings, *impossible(values, opened.description)):
            note(f"warning: {warning}")
        return
    with waiting(f"drawing {rows:,} rows"):  # elements one after another take their time
        usual = picture and length is None and mean is None and likelihood_temperature is None
        values = sampled(
            model, opened.description, rows, seed=seed, mean=None if usual else bool(mean),
            label=label, masks=[f"{n}_observed" for n in opened.description.variables if holes],
            temperature=temperature, likelihood_temperature=likelihood_temperature or 1.0,
            conditions=conditions_of(opened, model, rows, seed, steps, said),
        )  # fmt: skip
    if holes:
        from deeplvm.cli.missing import with_holes

        values = with_holes(values, opened.data, rows, seed)
    save_values(
        output, values, opened.description, mean=bool(mean), escape=escape_formulas, opened=opened
    )
    if said := read_of(values, opened.description):
        note(said)
    for name in opened.description.variables:
        if getattr(owner_of(model.p, name), "of_total", False):
            note(f"each row has the mean total of the training rows, {model.p[name].total:,}")
    if length is not None:
        here = inside(values[length])
        values = {n: v[here] for n, v in values.items() if n in opened.description.variables}
    for warning in impossible(values, opened.description):
        note(f"warning: {warning}")


def embed(
    run: Folder,
    /,
    *data: Files,
    output: Output,
    escape_formulas: Escape = False,
    split: SplitOption = None,
    scales: bool = False,
    classes: bool = False,
    steps: bool = False,
    atlas: bool = False,
    seed: Seed = 0,
    precision: Precision = "float32",
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Write the latents of each row: the means of q(z | x), and the labels where there are any.

    Of a sequence with latents of each step, the mean of these over its steps.

    Args:
        output: .npz, .csv or .parquet; of several files, a folder for as many; .h5ad: a copy of
            DATA with them in obsm["X_deeplvm"].
        scales: Write the standard deviations of q(z | x) too.
        classes: Write the probability of each label too, by q(y | x), and the most probable one.
        steps: Of sequences: a line for each step, with the numbers of sequence and step in front
            (.npz: the steps, and offsets at which rows begin).
        atlas: Write what viewers of embeddings open instead, a .parquet: row, x and y (two
            latents, or their first principal axes), labels, columns, and pictures of images.
        seed: Of the draws of latents on which other latents depend.
    """
    from deeplvm.cli.bulk import carry_out
    from deeplvm.cli.outputs import CELLS, TABLES, cells_given, save_latents, save_table

    if atlas and (output.suffix.lower() != ".parquet" or scales or steps):
        raise ValueError(
            f"--atlas writes one .parquet with a line a row: -o {output.with_suffix('.parquet')}, "
            f"without --scales and --steps."
        )

    cells = output.suffix.lower() in CELLS and not output.is_dir()
    copied = cells_given(output, data, split) if cells else None
    if copied is not None and classes:
        raise ValueError(f"--classes makes a table: -o {output.with_suffix('.csv')}, say.")

    def work(model: Any, rows: Any, output: Path, opened: Any) -> None:
        from deeplvm.cli.scoring import classes_of, labels_of
        from deeplvm.cli.sequences import codes, keys_of, length_of, row_keys, save_steps
        from deeplvm.runs.scorer import embeddings, latent_titles

        chosen = split_meant(rows, split)
        of_sequences(opened, **{"--steps": steps})
        values: dict[str, Any] = embeddings(opened, model, rows[chosen], seed=seed, scales=scales)
        of_steps = codes(model, values, rows[chosen], steps=steps, scales=scales)
        if of_steps is not None:
            if classes:
                raise ValueError("--classes are of rows; leave --steps out.")
            names = {n: [f"{n}_{i}" for i in range(v[0].size)] for n, v in of_steps.items()}
            lengths = rows[chosen][str(length_of(rows.description))][:]
            if processes().first:
                keys = keys_of(rows)
                save_steps(output, of_steps, lengths, names, keys, escape=escape_formulas)
            count(rows=len(lengths), steps=int(lengths.sum()), latents=[*values])
            note(f"{output}: {int(lengths.sum()):,} steps of {', '.join(values)}")
            return
        count(rows=rows[chosen].rows, latents=[*values])
        if copied is not None:
            if processes().first:
                save_latents(copied, output, values)
            note(f"{output}: {copied} with obsm of {', '.join(values)}")
            return
        names = {name: latent_titles(name, each) for name, each in values.items()}
        latents = values
        values = row_keys(rows) | values | labels_of(rows, chosen)
        if classes:
            values |= classes_of(opened, model, rows[chosen], seed, "encoder")
        if atlas:
            from deeplvm.report.atlas import save_atlas

            other = {name: each for name, each in values.items() if name not in latents}
            if processes().first:
                save_atlas(output, latents, rows[chosen], rows.variables, other)
            note(f"{output}: {rows[chosen].rows} rows for a viewer of embeddings")
            return
        save_table(output, values, names, escape=escape_formulas)
        note(f"{output}: {len(next(iter(values.values())))} rows of {', '.join(names)}")

    carry_out(
        run, data, output, device, work, lambda _, opened, __: opened, trust=trust,
        precision=precision, endings=(*TABLES, *CELLS),
    )  # fmt: skip


def reconstruct(
    run: Folder,
    data: OtherData = None,
    /,
    *,
    output: Output,
    escape_formulas: Escape = False,
    rows: Annotated[Number, Parameter(name=("--rows", "-n"))] = 32,
    label: str | None = None,
    between: tuple[str, str] | None = None,
    beam: Number | None = None,
    depth: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True)] = None,
    rest: Literal["mean", "draw"] = "mean",
    split: SplitOption = None,
    seed: Seed = 0,
    precision: Precision = "float32",
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Pass rows through the latents and back: originals beside the means of p(x | z).

    Args:
        output: Pairs of images (.png, the original left; of sequences, above), or a table of the
            means (.npz, .csv, .parquet; the originals too in .npz); .h5ad: a copy of DATA with
            those of all rows in layers["deeplvm"].
        rows: How many, from the first on.
        beam: Of texts, how many beginnings the search for the most probable text keeps, 5 by
            default; 1 takes the most probable word each time.
        label: For a model of x given a label: encode each row with its own, and decode all with
            this one, as if somebody else said the same.
        between: Two labels: instead of rows, a table of how the rates of the rows of the first
            differ from those of the second, column by column, with errors.
        depth: Lossy compression: how many layers of latents, or steps of a recurrence, say
            something of the row, the others being what p makes of these: 0 1 4, or all, each in
            a column of the picture.
        rest: What stands for the other latents, p's mean or a draw from p.
        seed: Of the draws of z from q(z | x).
    """
    import torch

    from deeplvm.cli import texts
    from deeplvm.cli.outputs import (
        CELLS,
        PICTURES,
        TABLES,
        cells_given,
        check_output,
        differences,
        refuse_overwriting,
        save_expression,
        save_table,
    )
    from deeplvm.cli.sequences import length_of
    from deeplvm.devices import place
    from deeplvm.runs.run import open_run
    from deeplvm.runs.scorer import reconstructions

    allowed = (*PICTURES, *TABLES, *CELLS, *texts.ENDINGS) if between is None else TABLES
    ending = check_output(output, allowed)
    picture = ending in PICTURES
    copied = cells_given(output, [data], split) if ending in CELLS else None
    opened = open_run(run, trust=trust)
    refuse_overwriting(output, opened.config.data, data)
    only_images(opened, output, picture=picture)
    sequences = length_of(opened.description) is not None
    if sequences and (depth is not None or between is not None):
        other = "--depth" if depth is not None else "--between"
        raise ValueError(f"{other} is of rows of one step, and these are sequences; leave it out.")
    if depth is not None and (between is not None or copied is not None):
        other = "--between" if between is not None else f"-o {output}"
        raise ValueError(f"--depth makes a picture, or a table of the means; {other} is neither.")
    if label is not None and (between is not None or depth is not None or copied is not None):
        other = "--between" if between else "--depth" if depth is not None else f"-o {output}"
        raise ValueError(
            f"--label decodes rows with another label; {other} does not; leave one out."
        )
    if depth is None and rest != "mean":
        raise ValueError("--rest is of the latents that --depth leaves out; say --depth too.")
    of_texts = only_texts(opened, output, between=between, depth=depth, beam=beam, label=label)
    model = precise(opened.model.to(place(device)), precision)
    source = opened.read(data)
    chosen = split_meant(source, split)
    if of_texts:
        from deeplvm.inference.texts import BEAM, reconstructed_texts

        width, passed = BEAM if beam is None else beam, source[chosen][:rows]
        found, searched = reconstructed_texts(model, passed, beam=width, seed=seed)
        if beam is not None and not searched:
            raise ValueError(texts.NO_BEAMS)
        texts.save_texts(output, found)
        how = f"the most probable texts, by {width} beams" if searched else texts.GREEDY
        note(f"{output}: {passed.rows} rows, {how}, at a draw of z")
        return
    if between is not None:
        table = differences(model, source, source[chosen], between, seed)
        save_table(output, table, escape=escape_formulas)
        note(f"{output}: {len(table['column'])} columns, {between[0]} against {between[1]}")
        return
    if copied is not None:
        save_expression(opened, model, source[chosen], output, copied, seed)
        note(f"{output}: {copied} with the layer deeplvm")
        return
    passed = source[chosen][:rows]
    count(rows=passed.rows)
    if depth is not None:
        _lossy(opened, model, source, passed, output, depth, rest, seed, escape_formulas)
        return
    originals, means, drawn = reconstructions(opened, model, passed, seed=seed, label=label)
    if drawn:
        note(f"{', '.join(sorted(drawn))}: draws from p(x | z), which has no mean that is known")
    if sequences:
        from deeplvm.cli.sequences import save_reconstructions

        save_reconstructions(
            opened, source, passed, originals, means, output, escape=escape_formulas
        )
        return
    image = opened.description.picture
    if picture and image is not None:
        pair = originals[image.name].nan_to_num(0.0), means[image.name]
        pairs = torch.stack(pair, 1).flatten(0, 1)
        save_values(output, {image.name: pairs}, opened.description, columns=min(8, len(pairs)))
        return
    if output.suffix.lower() == ".npz":
        means |= {f"{name}_original": passed.exact(name) for name in originals}
    save_values(output, means, opened.description, mean=True, escape=escape_formulas)
    if opened.description.left:
        note(f"without the columns that the model left out: {', '.join(opened.description.left)}")


def _lossy(
    opened: Any,
    model: Any,
    source: Any,
    passed: Any,
    output: Path,
    depth: tuple[str, ...],
    rest: Literal["mean", "draw"],
    seed: int,
    escape: bool,
) -> None:
    """Reconstructions at each depth: a column of the picture, or an array of the .npz."""
    import torch

    from deeplvm.cli.outputs import PICTURES, lossy

    if wrong := [word for word in depth if word != "all" and not word.isdecimal()]:
        raise ValueError(f"--depth takes whole numbers from 0 on, or all; found {wrong[0]!r}.")
    if not depth:
        raise ValueError("--depth needs to be told how many layers are kept: 0 1 4, say, or all.")
    depths = None if "all" in depth else sorted({int(word) for word in depth})
    ending, image = output.suffix.lower(), opened.description.picture
    if ending not in (*PICTURES, ".npz") and (depths is None or len(depths) > 1):
        raise ValueError(
            f"A table holds the means of one depth; give --depth one number, or write all to "
            f"{output.with_suffix('.npz')}."
        )
    originals, means, nats = lossy(model, source, passed, depths, rest, seed=seed)
    for each, cost in nats.items():
        note(f"depth {each}: {float(cost.mean()):.2f} nats a row")
    if ending in PICTURES:
        columns = [originals[image.name].nan_to_num(0.0), *[m[image.name] for m in means.values()]]
        pictures = torch.stack(columns, 1).flatten(0, 1)
        save_values(output, {image.name: pictures}, opened.description, columns=len(columns))
        return
    (values,) = means.values() if len(means) == 1 else ({},)
    if len(means) > 1:
        values = {f"{n}_depth_{d}": v for d, found in means.items() for n, v in found.items()}
    if ending == ".npz":
        values |= {f"{name}_original": passed.exact(name) for name in originals}
    save_values(output, values, opened.description, mean=True, escape=escape)


def score(
    run: Folder,
    /,
    *data: Files,
    output: Output,
    escape_formulas: Escape = False,
    cells: bool = False,
    steps: bool = False,
    classes: bool = False,
    false_alarms: Annotated[float | None, Bounds(0, 1)] = None,
    particles: AutoParticles = "auto",
    tolerance: Tolerance = None,
    most_particles: Budget = 5_000,
    precision: Precision = "float32",
    split: SplitOption = None,
    seed: Seed = 0,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Write the log-likelihood of each row, and how unusual it is.

    Columns: log_px, nats, of all that is known of the row, its label too in a model of labels, log
    p(x, y), and given it where that is a condition; its Monte-Carlo standard error, pareto_k
    (above 0.7 that error means little), the anomaly score -log_px, the percentage of the run's
    held-out rows that are less unusual (a row above all of them has 100), and tail_probability,
    how often so unusual a row is to be expected among rows like these. Rows with missing values
    are compared with held-out rows without the same values.

    Args:
        output: .npz, .csv or .parquet; of several files, a folder for as many.
        cells: Also how unusual each value is given the others of its row: nats above what is usual
            in its column; and which column's value is the oddest.
        steps: Of sequences: a line for each step, with the numbers of sequence and step in front,
            and of the step given all before it: log_px, which is log p(x_t | x_1, ..., x_t-1) by a
            particle filter, so that those of a row sum to its log-likelihood, the anomaly score,
            and how it stands among the steps of held-out rows.
        classes: Also the probability of each label, by p(y | x), and the most probable one.
        false_alarms: Also a column odd, true where tail_probability is at most this share: of rows
            like the held-out ones, no more than so many are called odd.
        seed: The same seed gives the same numbers.
    """
    from deeplvm.cli.bulk import carry_out
    from deeplvm.cli.outputs import save_table
    from deeplvm.cli.scoring import RowColumns, classes_of, labels_of, meaning_of
    from deeplvm.cli.sequences import row_keys

    def prepare(here: Any, opened: Any, model: Any) -> RowColumns:
        count: Any = (particles, tolerance, most_particles)
        of_sequences(opened, **{"--steps": steps})
        if steps and (cells or classes):
            raise ValueError(
                f"{'--cells' if cells else '--classes'} are of rows; leave --steps out."
            )
        scorer = RowColumns(opened, model, count, seed=seed, cells=cells, steps=steps)
        scorer = scorer.compared(here)
        if false_alarms is not None:
            scorer.threshold(false_alarms)
        return scorer

    def work(model: Any, rows: Any, output: Path, scorer: RowColumns) -> None:
        chosen = split_meant(rows, split)
        columns = scorer(rows, rows[chosen])
        if false_alarms is not None:
            scorer.mark(columns, false_alarms)
        if steps:
            save_table(output, columns, escape=escape_formulas)
            log_px = columns["log_px"]
            count(steps=len(log_px), log_px=float(log_px.mean()))
            note(f"{output}: {len(log_px):,} steps, mean log_px {log_px.mean():.2f} nats")
            return
        columns = row_keys(rows) | columns | labels_of(rows, chosen)
        if classes:
            columns |= classes_of(scorer.opened, model, rows[chosen], seed, "model")
        save_table(output, columns, escape=escape_formulas)
        log_px, (of, labelled) = columns["log_px"], meaning_of(model, rows, chosen)
        count(rows=len(log_px), log_px=float(log_px.mean()))
        note(f"{output}: {len(log_px)} rows, mean log p({of}) {log_px.mean():.2f} nats")
        if labelled:
            note(
                f"of the {labelled} rows with a label, {rows.description.label.name}, log_px is "
                f"log p({of}, y); leave the column out for log p({of})"
            )

    carry_out(run, data, output, device, work, prepare, trust=trust, precision=precision)


def impute(
    run: Folder,
    /,
    *data: Annotated[
        str, Parameter(help="Files with missing values: NaN, or empty cells; one or several.")
    ],
    output: Output,
    escape_formulas: Escape = False,
    by: Literal["auto", "mean", "median", "mode", "draw"] = "auto",
    draws: Number | None = None,
    horizon: Number | None = None,
    details: Path | None = None,
    level: float | None = None,
    particles: Particles | None = None,
    seed: Seed = 0,
    precision: Precision = "float32",
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Fill missing values with what the rest of the row says of them.

    What is filled in is taken from the distribution of the missing values given the observed ones
    of the row, by importance weighting. What is not missing stays as it is. Of sequences a table
    has a line for each step, in the order of the sequences; with --horizon instead the steps after
    the last of each.

    Args:
        output: .npz, .csv or .parquet; of several files, a folder for as many.
        by: What of that distribution: its mean makes the squared error smallest, its median the
            absolute error, its mode the share of wrong values. auto: the mode of categories and
            flags, the median of ordered levels, the mean of numbers. Categories have only a mode.
            draw: one draw, which varies as values do.
        draws: Multiple imputation: so many draws of every row instead of one value, below one
            another, with the numbers of draw and row in front.
        horizon: Of sequences: forecast so many steps after the last of each. Of numbers quantiles
            are written, 0.05, 0.5 and 0.95, of codes and flags the most probable with its
            probability; with --draws draws. Times go on as before.
        details: Another table, one line for each value filled in: row, column, value, the ends of
            an interval, the probability of a category, and how far the row's particles can be
            relied on (ess, pareto_k).
        level: Of the intervals in --details, 0.95 by default; of those of --horizon, 0.9.
        particles: Draws a row, by default 200; of --horizon 1,000.
        seed: The same seed gives the same numbers.
    """
    from deeplvm.cli.bulk import carry_out
    from deeplvm.cli.outputs import TABLES, check_output, refuse_overwriting

    if not data:
        raise ValueError(f"Which file has the holes? deeplvm impute {run} FILE -o {output}")
    if horizon is not None and (details is not None or by != "auto"):
        other = "--details" if details is not None else f"--by {by}"
        raise ValueError(f"{other} is of holes, and --horizon of what comes after; leave one out.")
    if details is None and horizon is None and level is not None:
        raise ValueError("--level is of the intervals in --details FILE; name that file too.")
    if draws is not None and by not in ("auto", "draw"):
        raise ValueError(f"--draws fills in draws, and --by {by} one value; leave one out.")
    if details is not None:
        if len(data) > 1:
            raise ValueError(f"--details is one table, and there are {len(data)} files.")
        check_output(details, TABLES)
        refuse_overwriting(details, str(output), *data)

    asked: dict[str, Any] = {
        "by": by, "draws": draws, "horizon": horizon, "details": details, "level": level,
        "particles": particles, "seed": seed, "escape": escape_formulas,
    }  # fmt: skip

    def work(model: Any, rows: Any, output: Path, opened: Any) -> None:
        from deeplvm.cli.missing import fill

        fill(opened, model, rows, output, **asked)

    carry_out(
        run, data, output, device, work, lambda _, opened, __: opened, trust=trust,
        precision=precision,
    )  # fmt: skip


def diagnose(
    run: Folder,
    /,
    *,
    rows: Annotated[Number, Parameter(name=("--rows", "-n"))] = 500,
    particles: Particles = 500,
    temperatures: Number = 100,
    split: SplitOption = None,
    minutes: Positive = 2.0,
    quick: bool = False,
    seed: Seed = 0,
    device: Device = "auto",
    trust: Trust = False,
    json: bool = False,
) -> None:
    """Look for faults of the data, the training, the latents and the samples, and say what to try.

    Writes RUN/diagnosis.json and RUN/figures, and the report with both.

    Args:
        rows: How many of each split are looked at, chosen at random; at most.
        particles: Draws a row for likelihoods, at most.
        temperatures: Of annealing, which likelihoods are held against, at most.
        minutes: For all of it, about: what would take longer is measured with fewer rows and
            draws, or left out, and either is said.
        split: Which rows training did not see; test if there are any.
        quick: Look for faults only; leave what is measured for the figures alone.
        seed: The same seed gives the same words.
        json: Print the contents of diagnosis.json instead of the words.
    """
    from deeplvm.devices import place
    from deeplvm.diagnosis import Effort
    from deeplvm.diagnosis import diagnose as look
    from deeplvm.report import write_diagnosis
    from deeplvm.runs.run import open_run
    from deeplvm.runs.sidecars import read_metrics

    opened = open_run(run, trust=trust)
    may_write(opened.folder)
    data = opened.data
    found = look(
        opened.model.to(place(device)),
        data,
        read_metrics(opened.folder / "metrics.jsonl"),
        settings={**opened.config.recipe_options, **opened.config.training},
        draw=opened.measured(data) or None,
        split=split,
        effort=Effort(rows=rows, particles=particles, temperatures=temperatures, minutes=minutes),
        everything=not quick,
        seed=seed,
        progress=lambda what: note(f"  {what[0].lower()}{what[1:]}"),
    )
    written = write_diagnosis(found, opened.folder)
    write_report(opened)
    tell(written.rstrip() if json else found.words(str(run)))
    if not json:
        tell(f"\n{opened.folder / 'report.html'}  the report, with figures")


def report(run: Folder, /, *, trust: Trust = False, json: bool = False) -> None:
    """Write RUN/report.html anew: one page with everything that was learned and measured.

    Args:
        json: Print where it is as an object.
    """
    from deeplvm.runs.run import open_run

    opened = open_run(run, trust=trust)
    _ = opened.model  # a clear error where there is none
    page = opened.folder / "report.html"
    with in_json("report", page) if json else nullcontext():
        write_report(opened)
    if not json:
        tell(str(page))


def recipes(*, json: bool = False) -> None:
    """List the recipes: name, paper, year, what it is.

    Args:
        json: Print them as a list of objects.
    """
    from deeplvm.cli.flags import entries

    found = entries()
    if json:
        show_json(found)
        return
    width = max([len(entry["name"]) for entry in found])
    for group in dict.fromkeys([entry["group"] for entry in found]):
        tell(f"{group}:\n")
        for entry in [each for each in found if each["group"] == group]:
            tell(f"{entry['name'].ljust(width)}  {entry['summary']}")
            source = f"{entry['title']} ({entry['authors']}, {entry['year']}), {entry['link']}"
            tell(f"{' ' * width}  {source}")
        tell("")
    tell("Options: deeplvm fit --recipe NAME --help. Your own function: package.module:function.")


def datasets(*, json: bool = False) -> None:
    """List the named data sets: name, rows, what they are, where they come from.

    Args:
        json: Print them as a list of objects.
    """
    from dataclasses import asdict

    from deeplvm.data import datasets as known

    items = known()
    if json:
        show_json([asdict(item) for item in items])
        return
    name, rows = max([len(i.name) for i in items]), max([len(i.rows) for i in items])
    for item in items:
        where = "here" if item.found else "is downloaded" if item.downloadable else "not here"
        tell(f"{item.name.ljust(name)}  {item.rows.rjust(rows)}  {item.what} ({where})")
        tell(f"{' ' * (name + rows + 4)}{item.origin}; {item.licence}")
    tell("\nA file goes as well: .npy, .npz, .csv, .parquet, IDX, a folder of images.")
