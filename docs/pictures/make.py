"""The pictures of the README, made by the project itself: a run in the terminal, and its samples.

    python docs/pictures/make.py

Runs `deeplvm fit digits` in an empty folder, draws what the terminal showed as SVG, and keeps the
samples and the reconstructions beside it.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
WIDTH = 116


def run(command: list[str], folder: Path) -> str:
    """Standard output and error of a command line, in the order they came."""
    words = [sys.executable, "-m", "deeplvm", *command]
    done = subprocess.run(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return done.stdout


def shortened(text: str, keep: int = 3) -> list[str]:
    """The lines, with all but the first and last few epochs left out."""
    lines = text.rstrip().splitlines()
    epochs = [i for i, line in enumerate(lines) if line.startswith("epoch ")]
    dropped = set(epochs[keep:-keep])
    shown: list[str] = []
    for i, line in enumerate(lines):
        if i not in dropped:
            shown.append(line)
        elif i - 1 not in dropped:
            shown.append("…")
    return shown


def draw(title: str, parts: list[tuple[str, list[str]]], path: Path) -> None:
    """A terminal window as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for command, lines in parts:
        console.print(Text(f"$ {command}", style="bold green"), soft_wrap=False)
        for line in lines:
            style = "yellow" if line.startswith("!") else "dim" if line.startswith("epoch") else ""
            console.print(Text(line, style=style))
    svg = console.export_svg(title=title)
    # no fonts from elsewhere: the reader's own monospace does
    start, end = svg.find("@font-face"), svg.rfind("@font-face")
    if start >= 0:
        stop = svg.index("}", end) + 1
        svg = svg[:start] + svg[stop:]
    path.write_text(svg.replace("Fira Code,", "").replace("Fira Code", "monospace"))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = run(["fit", "digits", "--out", "runs/digits"], folder)
        draw(
            "deeplvm",
            [("deeplvm fit digits --out runs/digits", shortened(text))],
            HERE / "run.svg",
        )
        shutil.copy(folder / "runs/digits/samples.png", HERE / "samples.png")
        run(["reconstruct", "runs/digits", "-o", "reconstructions.png"], folder)
        shutil.copy(folder / "reconstructions.png", HERE / "reconstructions.png")
    print(f"made in {HERE.name}: run.svg, samples.png, reconstructions.png")


if __name__ == "__main__":
    main()
