"""Which verbs there are, and how every ending, good or bad, is told in one line."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import json
import linecache
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnusedCliTokensError

from deeplvm.cli import verbs
from deeplvm.cli.compare import compare
from deeplvm.cli.compress import compress, decompress, verify
from deeplvm.cli.console import Failed, in_json, tell
from deeplvm.cli.explore import explore
from deeplvm.cli.export import card, export, pull, push
from deeplvm.cli.interpolate import interpolate
from deeplvm.cli.mcp import mcp
from deeplvm.cli.new import new
from deeplvm.cli.options import checked
from deeplvm.cli.parallel import (
    EndedTogether,
    Terminated,
    in_company,
    is_first,
    silent_unless_first,
    termination,
)
from deeplvm.cli.reproduce import reproduce
from deeplvm.cli.selfcheck import selfcheck
from deeplvm.files import shown
from deeplvm.parallel.processes import ProcessesError

# What a shell expects of a program that its user interrupted (128 + SIGINT).
INTERRUPTED = 130
# The verbs that several processes share; of the others only the first does anything.
SHARED = ("fit", "resume", "evaluate", "embed", "score", "impute")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code.

    0 is success, 2 bad usage or bad input, 130 an interrupt, 1 anything else, such as a check that
    failed. An error is one line on standard error; ``--debug`` anywhere shows where it came from.
    """
    if arguments is None:
        _prepare_streams()
        if "OMP_WAIT_POLICY" not in os.environ:
            # threads that wait sleep soon: those that spin keep a core from whoever works on it
            os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    code = _run(arguments)
    if arguments is None and "torch.distributed" in sys.modules and in_company():
        # threads of the connections may outlive the interpreter, which then aborts now and again
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def _prepare_streams() -> None:
    """Streams that take every text, whatever the terminal is, or that are closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed: a file that is opened next would take its place
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    said = os.environ.get("COLUMNS", "")
    narrow = said.isdecimal() and int(said) < _NARROW
    if narrow or shutil.get_terminal_size().columns < _NARROW:  # help needs a place to be
        os.environ["COLUMNS"] = "80"


_NARROW = 40


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not is_first() and (not words or words[0] not in SHARED):
        return 0  # the first process does it
    try:
        with silent_unless_first(), termination():
            application(words)(
                words, exit_on_error=False, print_error=False, result_action="return_value"
            )
            tell("", end="")
    except BrokenPipeError:  # help, whose reader, such as `head`, has had enough
        return 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort
        return _end(error, words, debug=debug)
    return 0


def _end(error: BaseException, words: Sequence[str], *, debug: bool) -> int:
    """The exit code of an error, and its line."""
    # before processes meet all have the same errors, but for that of not finding the others
    speaks = is_first() or isinstance(error, ProcessesError)
    if isinstance(error, EndedTogether):
        speaks, error = error.speaks, error.__cause__ or error
    found = _ending(error, words)
    if not speaks:
        return found[1] if found else 1
    return _complain(*found, error, debug=debug) if found else _unexpected(error, debug=debug)


def _ending(error: BaseException, words: Sequence[str]) -> tuple[str, int] | None:
    """What to say of an error, and the exit code; None for one that is ours."""
    if isinstance(error, KeyboardInterrupt):
        number = getattr(error, "signal", signal.SIGINT)
        return str(error) or "Interrupted.", INTERRUPTED - signal.SIGINT + number
    if isinstance(error, CycloptsError):
        return _usage(error, words), 2
    if isinstance(error, OSError):
        return _system(error), 2
    if isinstance(error, ValueError | TypeError):
        return _foreign(error) or str(error), 2
    if isinstance(error, ProcessesError | Failed):
        return str(error), 1
    lacking = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or lacking:
        return "Out of memory; use a smaller --batch-size or fewer --particles.", 1
    return None


def application(words: Sequence[str]) -> App:
    """The application; the options of ``fit`` depend on the recipe that its words name."""
    app = App(
        name="deeplvm",
        help="Deep latent-variable models: learn p(x, z) and q(z | x) from data, and a likelihood "
        "you can defend.",
        help_format="plaintext",
        help_epilogue="A first run: deeplvm fit digits. An error is one line; --debug says more.",
        version=_version,
        suppress_keyboard_interrupt=False,
    )
    # a shell completes the options of these too
    whole = words[:1] == ["--install-completion"]
    for name, listed in (("fit", verbs.fit), ("tune", verbs.tune)):
        asked = ["--help"] if whole else words[1:] if words[:1] == [name] else None
        app.command(listed if asked is None else _composed(asked, name), name=name)
    for verb in (
        verbs.resume, verbs.evaluate, compare, verbs.diagnose, verbs.sample, verbs.embed,
        verbs.reconstruct, interpolate, verbs.score, verbs.impute, compress, decompress, verify,
        verbs.report, explore, card, export, push, pull, reproduce, selfcheck,
        verbs.recipes, verbs.datasets, new, mcp,
    ):  # fmt: skip
        app.command(checked(_with_json(_or_of_a_graph(verb))))
    app.register_install_completion_command(help="Let the shell complete verbs and options.")
    return app


def _with_json(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that writes a file, with ``--json``."""
    known = inspect.signature(verb)
    if "output" not in known.parameters or "json" in known.parameters:
        return verb

    @functools.wraps(verb)
    def begin(*words: Any, json: bool = False, **options: Any) -> None:
        with in_json(verb.__name__, options["output"]) if json else contextlib.nullcontext():
            verb(*words, **options)

    says = Parameter(help="Print which files were written, as an object.", negative=())
    hint = Annotated[bool, says]
    flag = inspect.Parameter(
        "json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=hint
    )
    begin.__annotations__ = {**verb.__annotations__, "json": hint}
    begin.__signature__ = known.replace(  # type: ignore[attr-defined]
        parameters=[*known.parameters.values(), flag]
    )
    return begin


_OF_ANY_RUN = ("resume", "report", "export", "card", "push", "pull")


def _or_of_a_graph(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, and for a run of a graph, which is one row, that of graphs."""

    @functools.wraps(verb)
    def begin(*words: Any, **options: Any) -> None:
        folder = Path(str(words[0])) if words else Path()
        if not words or verb.__name__ in _OF_ANY_RUN or not (folder / "data.json").is_file():
            return verb(*words, **options)
        from deeplvm.runs.run import open_run

        opened = open_run(folder, trust=options.get("trust", False))
        if not opened.description.options.get("graph"):
            return verb(*words, **options)
        from deeplvm.cli import graphs

        said = {name: value for name, value in options.items() if name != "trust"}
        return graphs.carry_out(verb.__name__, opened, words[1:], said)

    return begin


def _composed(words: Sequence[str], name: str) -> App:
    """A verb whose options are those of the recipe that its words name."""
    from deeplvm.cli.flags import help_alone

    if (shown := help_alone(words, name)) is not None:  # type: ignore[arg-type]
        return shown
    if name == "fit":
        from deeplvm.cli.fit import command
    else:
        from deeplvm.cli.tune import command
    return command(words)


def _version() -> str:
    from deeplvm.runs.run import version

    return version()


def _usage(error: CycloptsError, words: Sequence[str]) -> str:
    error.verbose = False
    if words[:1] in (["fit"], ["tune"]):
        from deeplvm.cli.fit import belongs

        if whose := belongs(error, words[1:]):
            return whose
    if isinstance(error, UnusedCliTokensError):
        left = ", ".join([repr(word) for word in error.unused_tokens or ()])
        return (
            f"Nothing is known to do with {left}: a value stands behind its option, and a name "
            f"with spaces in quotes; deeplvm {words[0]} --help shows what there is."
        )
    return str(error)


def _system(error: OSError) -> str:
    """An error of the system: which file, what is wrong with it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full{_at(error)}; make room, or write elsewhere."
    if error.errno == errno.EFBIG:
        return (
            f"A file would be larger than is allowed{_at(error)}, by the shell (ulimit -f) or by "
            f"the file system; raise the limit, or write elsewhere."
        )
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    return f"{error.filename}: {reason}." if error.filename else f"{reason}."


def _at(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


# Characters of a line that says what is wrong.
_LONGEST = 1_200


def _foreign(error: BaseException) -> str | None:
    """What to say of an error of Python or of torch that came up in what they were given."""
    steps = traceback.extract_tb(error.__traceback__)
    ours = Path(__file__).parents[1]
    if type(error).__module__.startswith("deeplvm") or not steps:
        return None
    if Path(steps[-1].filename).is_relative_to(ours) and type(error) in (ValueError, TypeError):
        source = linecache.getline(steps[-1].filename, steps[-1].lineno or 0)
        if "raise" in source or "error(" in source:
            return None
    if _elsewhere(error) is not None:
        return None
    said = " ".join(str(error).split())[:200]
    return (
        f"This cannot be done with what was given ({type(error).__name__}: {said}); --debug shows "
        f"where."
    )


def _complain(message: str, code: int, error: BaseException, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    line = shown(" ".join(message.split()) or type(error).__name__)
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]} … (--debug shows all of it)"
    _say(f"deeplvm: {line}")
    if not isinstance(error, ProcessesError | Terminated):  # an echo of somebody else's cause
        _leave_for_torchrun(line)
    return code


def _unexpected(error: BaseException, *, debug: bool) -> int:
    """An error that is ours, or of somebody's own function: one line, the traceback in a file."""
    text = "".join(traceback.format_exception(error))
    summary = " ".join(f"{type(error).__name__}: {error}".split())
    if debug:
        _say(text)
        return 1
    try:
        handle, name = tempfile.mkstemp(prefix="deeplvm-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        where = f"the traceback is in {Path(name)}"
    except OSError:
        where = "--debug shows the traceback"
    place = _elsewhere(error)
    what = f"an error of ours, {summary[:300]}" if place is None else f"{summary[:300]} ({place})"
    _say(f"deeplvm: {what}; {where}")
    return 1


def _elsewhere(error: BaseException) -> str | None:
    """The line where an error came up in code that is neither ours nor installed."""
    import sysconfig

    paths = sysconfig.get_paths()
    installed = [Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = Path(__file__).parents[1]
    for step in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(step.filename)
        if file.is_relative_to(ours):
            return None
        if file.is_file() and not any([file.is_relative_to(path) for path in installed]):
            return f"line {step.lineno} of {file}"
    return None


def _leave_for_torchrun(line: str) -> None:
    """Where torchrun looks for the cause of its own report: the line in place of a traceback."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        message = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": message}), encoding="utf-8")


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
