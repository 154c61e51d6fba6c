"""Which verbs there are, and how every ending, good or bad, is told in one line."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError

from deeplvm.cli import verbs

# What a shell expects of a program that its user interrupted (128 + SIGINT).
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code.

    0 is success, 2 bad usage or bad input, 130 an interrupt, 1 anything else. An error is one line
    on standard error; ``--debug`` anywhere shows where it came from.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        application(words)(
            words, exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        return _complain(str(error) or "Interrupted.", INTERRUPTED, error, debug=debug)
    except BrokenPipeError:
        # the reader of a pipe, such as `head`, has had enough; nor may Python complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CycloptsError as error:
        return _complain(_usage(error, words), 2, error, debug=debug)
    except OSError as error:
        return _complain(_system(error), 2, error, debug=debug)
    except (ValueError, TypeError) as error:
        # what our own errors are, and torch's for sizes that do not fit
        return _complain(str(error), 2, error, debug=debug)
    except MemoryError as error:
        return _complain(
            "Out of memory; use a smaller --batch-size or fewer --particles.",
            1,
            error,
            debug=debug,
        )
    except Exception as error:  # noqa: BLE001 - the last resort, which keeps the traceback in a file
        return _unexpected(error, debug=debug)
    return 0


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
    if words[:1] == ["fit"]:
        from deeplvm.cli.fit import command

        app.command(command(words[1:]), name="fit")
    else:
        app.command(verbs.fit, name="fit")
    for verb in (
        verbs.resume, verbs.evaluate, verbs.sample, verbs.embed, verbs.reconstruct, verbs.score,
        verbs.impute, verbs.report, verbs.recipes, verbs.datasets,
    ):  # fmt: skip
        app.command(verb)
    return app


def _version() -> str:
    from deeplvm.run import version

    return version()


def _usage(error: CycloptsError, words: Sequence[str]) -> str:
    error.verbose = False
    if words[:1] == ["fit"]:
        from deeplvm.cli.fit import belongs

        if whose := belongs(error, words[1:]):
            return whose
    return str(error)


def _system(error: OSError) -> str:
    """An error of the system: which file, what is wrong with it."""
    if error.errno == errno.ENOSPC:
        return f"The disk is full{_at(error)}; make room, or write elsewhere."
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    return f"{error.filename}: {reason}." if error.filename else f"{reason}."


def _at(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _complain(message: str, code: int, error: BaseException, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    line = " ".join(message.split()) or type(error).__name__
    _say(f"deeplvm: {line}")
    return code


def _unexpected(error: Exception, *, debug: bool) -> int:
    """An error that is ours: one line, and the traceback in a file."""
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
    _say(f"deeplvm: an error of ours, {summary[:300]}; {where}")
    return 1


def _say(line: Any) -> None:
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:
        pass
