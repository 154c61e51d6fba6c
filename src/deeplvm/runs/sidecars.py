"""What a RUN folder holds beside its model, read as it was written, and never more than data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, get_type_hints
from xml.etree import ElementTree

from deeplvm.files import nested, parse_json, read_whole
from deeplvm.registry import amiss
from deeplvm.runs.run import RunError

if TYPE_CHECKING:
    from deeplvm.evaluation.graphs import GraphEvaluation
    from deeplvm.evaluation.summary import Evaluation

_MOST = 1 << 28  # bytes of one such file


class _Epoch(TypedDict, total=False):
    """A line of ``metrics.jsonl``."""

    epoch: int
    seconds: float
    train: Mapping[str, float | None] | None
    valid: Mapping[str, float | None] | None


class _StoredVerdict(TypedDict):
    name: str
    seen: str
    remedy: str


class _StoredFigure(TypedDict):
    file: str
    topic: str
    caption: str


class _StoredDiagnosis(TypedDict):
    """The object of ``diagnosis.json``, as far as a report shows it."""

    title: str
    verdicts: list[_StoredVerdict]
    looked_for_in_vain: list[str]
    figures: list[_StoredFigure]


def read_evaluation(folder: Path) -> Evaluation | GraphEvaluation | None:
    """What ``deeplvm evaluate`` left; none if nothing.

    Raises:
        RunError: If it is damaged.
    """
    from deeplvm.evaluation.graphs import GraphEvaluation
    from deeplvm.evaluation.summary import Evaluation

    path = folder / "evaluation.json"
    plain = _read(path, "evaluate")
    if plain is None:
        return None
    hints = get_type_hints(Evaluation)
    try:
        if "auc" in plain:
            return GraphEvaluation.from_dict(plain)
        found = Evaluation.from_dict(plain)
    except (ValueError, TypeError) as error:
        raise _damaged(path, str(error), "evaluate") from error
    for name, value in plain.items():
        if reason := amiss(value, hints.get(name)):
            raise _damaged(path, f"{name} {reason}", "evaluate")
    return found


def read_diagnosis(folder: Path) -> dict[str, Any] | None:
    """What ``deeplvm diagnose`` left; none if nothing.

    Raises:
        RunError: If it is damaged.
    """
    path = folder / "diagnosis.json"
    plain = _read(path, "diagnose")
    if plain is None:
        return None
    for name, hint in get_type_hints(_StoredDiagnosis).items():
        if reason := amiss(plain.get(name), hint):
            raise _damaged(path, f"{name} {reason}", "diagnose")
    told = [
        each | {"remedy": each["remedy"].replace("RUN", str(folder))} for each in plain["verdicts"]
    ]
    return plain | {"verdicts": told}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of the epochs; a last line cut short is left.

    Raises:
        RunError: If a line is no record.
    """
    records: list[dict[str, Any]] = []
    if not path.exists():
        return records
    lines = read_whole(path, RunError, _MOST).decode(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
        except ValueError:
            break
        if not isinstance(record, dict) or "epoch" not in record:
            break
        if amiss(record, _Epoch) or nested(record):
            raise RunError(f"Line {number} of {path} is no record of an epoch: it is damaged.")
        records.append(record)
    return records


def read_figures(folder: Path, diagnosis: Mapping[str, Any] | None) -> dict[str, str]:
    """The drawings of a diagnosis by their files; only those of ``figures/`` itself.

    Raises:
        RunError: If one is named that lies elsewhere, or holds more than a drawing.
    """
    found: dict[str, str] = {}
    for each in diagnosis["figures"] if diagnosis else ():
        name = each["file"]
        path = folder / name
        if not re.fullmatch(r"figures/\w+\.svg", name):
            raise _damaged(folder / "diagnosis.json", f"{name!r} is no figure of it", "diagnose")
        if path.is_symlink() or path.parent.is_symlink():
            raise _damaged(path, "it is a link", "diagnose")
        if path.exists():
            text = read_whole(path, RunError, _MOST).decode(errors="replace")
            if not is_drawing(text):
                raise _damaged(path, "it holds more than a drawing", "diagnose")
            found[name] = text
    return found


_PICTURE = r"data:image/png;base64,[A-Za-z0-9+/=\s]*"
_IMG = re.compile(rf'<img class="pixels" alt="[^"<>]*" style="width:\d+px" src="{_PICTURE}">\s*')
_SVG = "{http://www.w3.org/2000/svg}"
_ELEMENTS = frozenset(
    {
        *("svg", "g", "defs", "clipPath", "path", "rect", "circle", "line", "use", "image"),
        *("text", "tspan", "title", "style"),
    }
)
_ATTRIBUTES = frozenset(
    {
        *("id", "class", "d", "x", "y", "x1", "y1", "x2", "y2", "r", "cx", "cy", "dx", "dy"),
        *("width", "height", "viewBox", "transform", "style", "clip-path", "role", "aria-label"),
        *("href", "type", "version", "preserveAspectRatio", "fill", "stroke", "opacity"),
    }
)
_STYLE = "*{stroke-linejoin: round; stroke-linecap: butt}"
_CALLS = re.compile(r"([\w-]*)\(\s*([^\s)]?)")
_HARMLESS = ("matrix", "translate", "rotate", "scale", "var", "rgb", "rgba", "")


def is_drawing(text: str) -> bool:
    """Whether a text is one picture, as a figure writes it: shapes and letters, nothing that acts.

    >>> is_drawing('<svg xmlns="http://www.w3.org/2000/svg"><path d="M 0 0"/></svg>')
    True
    >>> is_drawing('<svg xmlns="http://www.w3.org/2000/svg" onload="go()"></svg>')
    False
    """
    if _IMG.fullmatch(text):
        return True
    if "<!" in text or "<?" in text:
        return False
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return False
    return root.tag == f"{_SVG}svg" and all([_is_shape(each) for each in root.iter()])


def _is_shape(element: ElementTree.Element) -> bool:
    if element.tag.removeprefix(_SVG) not in _ELEMENTS or not element.tag.startswith(_SVG):
        return False
    if element.tag == f"{_SVG}style" and (element.text or "").strip() != _STYLE:
        return False
    for name, value in element.attrib.items():
        local = name.rpartition("}")[2]
        if local not in _ATTRIBUTES:
            return False
        if local == "href" and not (value.startswith("#") or re.fullmatch(_PICTURE, value)):
            return False
        if local in ("style", "clip-path", "fill", "stroke", "transform"):
            calls = _CALLS.findall(value)
            if "@" in value or "\\" in value:
                return False
            if not all([f in _HARMLESS or (f == "url" and start == "#") for f, start in calls]):
                return False
    return True


def _read(path: Path, verb: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        plain = parse_json(read_whole(path, RunError, _MOST))
    except RunError:
        raise
    except ValueError as error:
        raise _damaged(path, str(error), verb) from error
    if not isinstance(plain, dict) or nested(plain):
        raise _damaged(path, "it is no object", verb)
    return plain


def _damaged(path: Path, why: str, verb: str) -> RunError:
    run = path.parent.parent if path.parent.name == "figures" else path.parent
    return RunError(f"{path} is damaged ({why}); write it again with: deeplvm {verb} {run}")
