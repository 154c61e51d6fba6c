"""A scene: thousands of damaged files, and what opens them. Only clear errors may come out."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import resource
import shutil
import signal
import struct
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import tomli_w
import torch
from PIL import Image

from deeplvm import files as limits
from deeplvm.data import load
from deeplvm.runs.run import FORMAT, open_run
from deeplvm.training import checkpoint as checkpoints
from deeplvm.training import fit, unfolded

ROOM = 4 << 30  # more than deeplvm may believe that it has, below
BELIEVED = 1 << 28
SECONDS = 20  # longer is a hang
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**63), 2**70, 10**12, 10**300,
    0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "none", "1", "\0", "é" * 300,
    [], {}, [[]], [0], [-1, 2**40], [1.5], ["x"], {"x": 1}, {"": {"": []}},
]  # fmt: skip
NUMBERS = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]

GOLDEN = Path(__file__).parents[1] / "golden" / f"run-{FORMAT}"
OF_A_RUN = ("model", "checkpoint", "config", "description")

Chance = random.Random


def damaged(content: bytes, chance: Chance) -> bytes:
    """Bytes cut, flipped, put in, taken out, or made into sizes that lie."""
    whole = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        # what files say of themselves is mostly near their ends
        size = len(whole)
        near = min(size, 200)
        ends = [
            chance.randrange(size + 1),
            chance.randrange(near + 1),
            size - chance.randrange(near + 1),
        ]
        at, length = chance.choice(ends), chance.choice([1, 2, 4, 8, 64, 1000])
        match chance.randrange(7):
            case 0:
                del whole[at:]
            case 1:
                for place in range(at, min(at + chance.randint(1, 8), size)):
                    whole[place] ^= 1 << chance.randrange(8)
            case 2:
                whole[at:at] = chance.randbytes(length)
            case 3:
                del whole[at : at + length]
            case 4:
                width = chance.choice([1, 2, 4, 8])
                number = chance.choice(NUMBERS) & (256**width - 1)
                whole[at : at + width] = number.to_bytes(width, chance.choice(["little", "big"]))
            case 5:
                whole[at:at] = whole[at : at + length]
            case _:
                digits = [i for i in range(size) if chr(whole[i]).isdigit()][:500]
                if digits:
                    place = chance.choice(digits)
                    number = chance.choice([b"-1", b"0", b"9" * 12, b"9" * 400, b"1e999", b"nan"])
                    whole[place : place + 1] = number
    return bytes(whole)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something is in a tree of dicts and lists."""
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [path, *[found for key, value in inner for found in places(value, (*path, key))]]


def bent(tree: Any, chance: Chance) -> Any:
    """A tree in which something is of another type, elsewhere, absent, doubled or nested."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.choice([1, 1, 2, 4])):
        found = [path for path in places(tree) if path]
        if not found:
            break
        # one of each depth as often: most places are deep
        depth = chance.choice(sorted({len(path) for path in found}))
        *above, key = chance.choice([path for path in found if len(path) == depth])
        parent = tree
        for step in above:
            parent = parent[step]
        match chance.randrange(6):
            case 0:
                del parent[key]
            case 1:
                other = tree
                for step in chance.choice(found):
                    other = other[step]
                parent[key] = copy.deepcopy(other)
            case 2:
                value = parent[key]
                for _ in range(chance.choice([1, 70, 300])):
                    value = [value] if chance.random() < 0.5 else {"x": value}
                parent[key] = value
                return tree  # what is so deep cannot be walked again
            case 3 if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
            case _:
                parent[key] = copy.deepcopy(chance.choice(ODD))
    return tree


def as_toml(tree: Any) -> bytes:
    try:
        return tomli_w.dumps(tree).encode("utf-8", "replace")
    except (TypeError, AttributeError, ValueError, RecursionError):  # no such thing in TOML
        return b"format = [" + b"[" * 500


def odd_tensors(tensors: dict[str, torch.Tensor], chance: Chance) -> dict[str, torch.Tensor]:
    """One of the tensors is absent, of another shape or type, renamed, or not finite."""
    changed = dict(tensors)
    name = chance.choice(sorted(changed))
    value = changed.pop(name)
    match chance.randrange(6):
        case 0:
            pass
        case 1:
            changed[name] = value.to(
                chance.choice([torch.int64, torch.bool, torch.float64, torch.float16])
            )
        case 2:
            changed[name] = value.reshape(-1)[: chance.randrange(value.numel() + 1)].clone()
        case 3:
            changed[f"{name}x"] = value
        case 4:
            changed[name] = value[None].clone()
        case _:
            changed[name] = torch.full_like(
                value, float("nan") if value.is_floating_point() else 1
            )
    return changed


@dataclasses.dataclass
class Kind:
    """How a kind of file is made, and what opens it."""

    path: Path
    open: Callable[[Chance], object]
    content: bytes
    bend: Callable[[Chance], None] | None = None  # writes the file with a sense of its structure
    less: bool = False  # bent more often than damaged


def kind(path: str | Path, opens: Callable[[Chance], object], **more: Any) -> Kind:
    return Kind(Path(path), opens, Path(path).read_bytes(), **more)


def people(generator: np.random.Generator) -> pandas.DataFrame:
    frame = pandas.DataFrame(generator.normal(size=(60, 3)), columns=["height", "weight", "age"])
    frame["kind"] = ["tall" if age > 0 else "small" for age in frame["age"]]
    frame["number"] = generator.poisson(3, 60)
    return frame


def of_a_run() -> dict[str, Kind]:
    """The files of a small run."""
    shutil.copytree(GOLDEN, ".", dirs_exist_ok=True)
    run = open_run("run")
    data, model, weights = run.data, run.model, run.weights
    state, settings = run.checkpoint / "state.safetensors", run.folder / "config.toml"
    described = run.folder / "data.json"
    (run.checkpoint / "state.previous.safetensors").unlink(missing_ok=True)
    description, config = json.loads(described.read_text()), dataclasses.asdict(run.config)
    options = {"batch_size": 16, "averaging": 0.99, "compile": False, "quiet": True}

    def bent_file(path: Path, name: str) -> Callable[[Chance], None]:
        tensors, tree = checkpoints.read(path, name)

        def bend(chance: Chance) -> None:
            if chance.random() < 0.4:
                checkpoints.write(path, name, odd_tensors(tensors, chance), tree)
            else:
                checkpoints.write(path, name, tensors, bent(tree, chance))

        return bend

    def bent_config(chance: Chance) -> None:
        settings.write_bytes(as_toml(bent({"format": 1, **config}, chance)))

    def bent_description(chance: Chance) -> None:
        described.write_text(json.dumps(bent(description, chance)))

    def filled(_: Chance) -> object:
        return checkpoints.load_model_into(model, weights)

    def resumed(chance: Chance) -> object:
        epochs = chance.choice([2, 3])
        learn = unfolded(fit)
        return learn(run.build(), data, folder="run", resume=True, epochs=epochs, **options)

    def opened(chance: Chance) -> object:
        found = open_run("run")
        found.build()
        if chance.random() < 0.3:
            found.data  # noqa: B018 - reads them
        return found.model.sample(2)

    return {
        "model": kind(weights, filled, bend=bent_file(weights, "model")),
        "checkpoint": kind(state, resumed, bend=bent_file(state, "checkpoint"), less=True),
        "config": kind(settings, opened, bend=bent_config, less=True),
        "description": kind(described, opened, bend=bent_description, less=True),
    }


def of_data() -> dict[str, Kind]:
    """Files of data."""
    generator = np.random.default_rng(0)
    people(generator).to_parquet("d.parquet")
    people(generator).to_csv("people.csv", index=False)
    numbers = generator.integers(0, 255, size=(30, 4, 4)).astype(np.uint8)
    np.save("a.npy", generator.normal(size=(30, 3)))
    np.savez_compressed("a.npz", x=numbers, y=np.arange(30) % 3)
    sizes = bytes([0, 0, 8, 3]) + struct.pack(">3I", *numbers.shape)
    Path("c.idx").write_bytes(sizes + numbers.tobytes())

    def loaded(name: str) -> Callable[[Chance], object]:
        return lambda chance: load(name)

    found = {
        name.split(".")[1]: kind(name, loaded(name))
        for name in ("a.npy", "a.npz", "people.csv", "d.parquet", "c.idx")
    }
    for ending in ("png", "gif", "jpg", "tif", "bmp"):
        Path(ending).mkdir()
        for place, picture in enumerate(numbers[:12]):
            Image.fromarray(picture).save(f"{ending}/{place:02}.{ending}")
        found[ending] = kind(f"{ending}/00.{ending}", loaded(ending))
    return found


def is_clear(error: BaseException) -> bool:
    """One of ours, or the system's; and it says something."""
    ours = isinstance(error, ValueError) and type(error).__module__.startswith("deeplvm")
    return (ours or isinstance(error, OSError)) and 0 < len(str(error)) < 3000


def hung(*_: object) -> None:
    raise TimeoutErrorOfOurs


class TimeoutErrorOfOurs(BaseException):
    """It takes too long."""


def play(name: str, count: int, seed: int) -> None:
    """Damage one kind of file ``count`` times; what is not clear goes to ``faults``."""
    warnings.simplefilter("ignore")
    kind = (of_a_run() if name in OF_A_RUN else of_data())[name]
    # files that ask for more than this are to be refused, not tried
    limits.memory.cache_clear()
    setattr(limits, "memory", lambda: float(BELIEVED))  # noqa: B010 - a cached function
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    signal.signal(signal.SIGALRM, hung)
    kept = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    tally = {"clear": 0, "fine": 0, "fault": 0}
    for number in range(count):
        chance = Chance(f"{name} {seed} {number}")
        shutil.rmtree("run", ignore_errors=True)
        for path, content in kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if kind.bend is not None and chance.random() < (0.8 if kind.less else 0.5):
            kind.bend(chance)
        else:
            kind.path.write_bytes(damaged(kind.content, chance))
        shutil.copy(kind.path, f"last{kind.path.suffix}")
        Path("at").write_text(f"{name} {seed} {number}")
        signal.alarm(SECONDS)
        try:
            kind.open(chance)
            ending, said = "fine", ""
        except BaseException as error:  # noqa: BLE001 - that is the question
            ending = "clear" if is_clear(error) else "fault"
            said = "".join(traceback.format_exception(error)[-12:])
        signal.alarm(0)
        tally[ending] += 1
        if ending == "fault":
            shutil.copy(f"last{kind.path.suffix}", f"fault-{number}{kind.path.suffix}")
            with open("faults", "a", encoding="utf-8") as file:
                file.write(f"{name} {seed} {number}\n{said}\n")
    Path("tally").write_text(json.dumps(tally))
