"""Bring every committed notebook up to date with its source: ``make pairs``, after the chapters have run.

    python book/pairs.py [--all]

A notebook is rewritten when its source differs from the committed pair, or when a cell tagged ``recorded`` (one that shows
rows of results/) now shows something else. Figures and times of the quick profile alone never rewrite one; ``--all`` does.
"""

import base64
import io
import shutil
import sys
from pathlib import Path

import jupytext
import nbformat
from PIL import Image

__all__ = ["in_step", "main"]

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "build/chapters/quick-s0"


def in_step(source: Path) -> bool:
    """Whether the committed notebook holds exactly the cells of its source (outputs and file times play no part)."""
    pair = source.with_suffix(".ipynb")
    return pair.exists() and as_text(pair) == as_text(source)


def as_text(path: Path) -> str:
    return jupytext.writes(jupytext.read(path), fmt="py:percent")


def recorded(path: Path) -> list:
    """What the cells tagged ``recorded`` show: their text, and their pictures as far as an eye would see a difference."""
    cells = nbformat.read(path, as_version=4).cells
    return [_shown(output) for cell in cells if "recorded" in cell.metadata.get("tags", []) for output in cell.outputs]


def _shown(output) -> dict:
    data = output.get("data", {})
    shown = {kind: text for kind, text in data.items() if kind.startswith("text/")}
    if "text" in output:
        shown["stream"] = output.text
    if "image/png" in data:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("L")
        shown["picture"] = [level // 32 for level in picture.resize((96, 96), Image.Resampling.BOX).tobytes()]
    return shown


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
        if rewrite_all or not in_step(source) or recorded(pair) != recorded(executed):
            shutil.copyfile(executed, pair)
            save_readme_picture(executed)
            print(f"{pair.relative_to(ROOT)}: rewritten, {pair.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main("--all" in sys.argv[1:])
