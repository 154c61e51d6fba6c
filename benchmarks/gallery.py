"""What does each recipe for images draw after a minute of training? One command, one page.

The commands are those of a user, `deeplvm fit digits --recipe NAME --minutes 1` and
`deeplvm sample`, on the 8x8 digits that come with scikit-learn, by one thread. What is done is
kept in the folder, so that the command goes on where it stopped.

    python benchmarks/gallery.py                     # all, about a minute and a half each
    python benchmarks/gallery.py glow draw           # these; the page has all that were made
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from deeplvm.recipes import PUBLISHED
from machine import RESULTS, keep

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures" / "gallery"
GROUPS = {
    group: names
    for group, names in PUBLISHED.items()
    if group.startswith(("To begin", "Images", "Labels", "Sets", "Discrete", "Richer", "Other"))
}
# What a recipe takes besides `--recipe NAME` on digits.
OPTIONS = {
    "factor_analysis": ("digits", "--dequantize", "uniform"),
    "attend_infer_repeat": ("multi-digits",),
    "neural_statistician": ("digits", "--members", "5"),
    "one_shot_generalisation": ("digits", "--members", "5"),
}  # fmt: skip
# Those that learn of 0 and 1 alone.
BINARY = ("darn", "helmholtz_machine", "nade", "sigmoid_belief_network", "attend_infer_repeat")

HEAD = """# A gallery

What each recipe draws after at most a minute of training on one core, from 1,437 handwritten
digits of 8×8 pixels, with no option chosen: `deeplvm fit DATA --recipe NAME --minutes 1`, then
`deeplvm sample RUN -n 32`. The number is log p(x) of the 180 test rows in nats with its standard
error; those of other data (0 and 1 in place of grey levels, sets, scenes) do not compare, and a
minute is short for deep ones. Made by `python benchmarks/gallery.py`.
"""


def command(*words: str | Path) -> None:
    """A verb, as a user would."""
    print("deeplvm", *words, flush=True)
    subprocess.run([sys.executable, "-m", "deeplvm", *map(str, words)], check=True)


def made(name: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Train, measure and draw; what was done before is found in the folder."""
    run, picture = folder / name, PICTURES / f"{name}.png"
    data, *options = OPTIONS.get(name, ("digits",))
    if name in BINARY:
        options += ["--binarize", "static"]
    if not (run / "evaluation.json").exists():
        command(
            "fit", data, "--recipe", name.replace("_", "-"), "--minutes", f"{minutes:g}",
            "--out", run, *options,
        )  # fmt: skip
    if not picture.exists():
        picture.parent.mkdir(parents=True, exist_ok=True)
        command("sample", run, "-n", "32", "-o", picture)
    found = json.loads((run / "evaluation.json").read_text())
    return {"data": " ".join((data, *options)), "log_px": found.get("log_px")}


def page(results: dict[str, Any]) -> str:
    """The page in Markdown: a section a group, a picture a recipe."""
    lines = [HEAD]
    for group, names in GROUPS.items():
        there = [name for name in names if name in results]
        lines += [f"\n## {group}\n"] if there else []
        for name in there:
            found, data = results[name]["log_px"], results[name]["data"]
            number = f"{found['value']:.1f} ± {found['stderr']:.1f}" if found else "no number"
            lines += [f"**`{name}`** {number}, on {data}\n"]
            lines += [f"![32 draws of {name}]({picture(name)})\n"]
    return "\n".join(lines)


def picture(name: str) -> str:
    """The address of a picture in the page."""
    return f"pictures/gallery/{name}.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/gallery"))
    options = parser.parse_args()
    known = [name for names in GROUPS.values() for name in names]
    if unknown := set(options.recipes) - set(known):
        parser.error(f"there is no recipe for images {sorted(unknown)}; there are {known}")
    path = RESULTS / "gallery.json"
    for name in options.recipes or known:
        kept = json.loads(path.read_text())["recipes"] if path.exists() else {}
        kept[name] = made(name, options.minutes, options.folder)
        keep("gallery", {"minutes": options.minutes, "recipes": kept})
        (ROOT / "docs" / "gallery.md").write_text(page(kept))


if __name__ == "__main__":
    main()
