"""Bring every committed notebook up to date with its source: ``make pairs``, after the chapters have run.

    python book/pairs.py [--all]

A notebook is rewritten when its source differs from the committed pair, or when a cell tagged ``recorded`` (one that shows
rows of results/) now shows something else. Figures and times of the quick profile alone never rewrite one; ``--all`` does.
"""

import base64
import io
import shutil
import sys
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from PIL import Image, ImageChops

__all__ = ["in_step", "main", "what_differs"]

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "build/chapters/quick-s0"


def in_step(source: Path) -> bool:
    """Whether the committed notebook holds exactly the cells of its source (outputs and file times play no part)."""
    pair = source.with_suffix(".ipynb")
    return pair.exists() and as_text(pair) == as_text(source)


def as_text(path: Path) -> str:
    return jupytext.writes(jupytext.read(path), fmt="py:percent")


def what_differs(one: Path, other: Path) -> list:
    """Where the cells tagged ``recorded`` of two executed notebooks show other words, or pictures that an eye tells apart.

    Each entry holds what the two show; cells, and outputs of a cell, that only one of them has are there as well.
    """
    outputs = zip_longest(_recorded(one), _recorded(other))
    return [(a, b) for a, b in outputs if a is None or b is None or a.words != b.words or _apart(a.picture, b.picture)]


class Shown(NamedTuple):
    """One output: its text by kind, and its picture, small and grey."""

    words: dict[str, str]
    picture: Image.Image | None

    def __repr__(self) -> str:
        return f"{self.words}{' and a picture' if self.picture else ''}"


def _recorded(path: Path) -> list[Shown]:
    cells = nbformat.read(path, as_version=4).cells
    return [_shown(output) for cell in cells if "recorded" in cell.metadata.get("tags", []) for output in cell.outputs]


def _shown(output) -> Shown:
    data = output.get("data", {})
    words = {kind: text for kind, text in data.items() if kind.startswith("text/")}
    if "text" in output:
        words["stream"] = output.text
    if "image/png" not in data:
        return Shown(words, None)
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("L")
    return Shown(words, picture.resize((96, 96), Image.Resampling.BOX))


def _apart(one: Image.Image | None, other: Image.Image | None) -> bool:
    """Whether a patch differs by more than an eighth of the way from black to white; another machine's rounding does not."""
    if one is None or other is None:
        return one is not other
    return ImageChops.difference(one, other).getextrema()[1] > 32


def save_readme_picture(path: Path) -> None:
    """Write the picture of the cell tagged ``readme``, if this chapter has one, to ``book/readme.png``."""
    for cell in nbformat.read(path, as_version=4).cells:
        if "readme" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if picture := output.get("data", {}).get("image/png"):
                    (ROOT / "book/readme.png").write_bytes(base64.b64decode(picture))


def main(rewrite_all: bool = False) -> None:
    for source in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py")):
        pair, executed = source.with_suffix(".ipynb"), EXECUTED / f"{source.stem}.ipynb"
        if rewrite_all or not in_step(source) or what_differs(pair, executed):
            shutil.copyfile(executed, pair)
            save_readme_picture(executed)
            print(f"{pair.relative_to(ROOT)}: rewritten, {pair.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main("--all" in sys.argv[1:])
