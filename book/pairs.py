"""Bring every committed notebook up to date with its source: ``make pairs``, after the chapters have run.

    python book/pairs.py [--all]

A notebook is rewritten when its source differs from the committed pair, or when a cell tagged ``recorded`` (one that shows
rows of results/) now shows something else. Figures and times of the quick profile alone never rewrite one; ``--all`` does.
"""

import base64
import shutil
import sys
from pathlib import Path

import jupytext
import nbformat

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
    """The text that the cells tagged ``recorded`` show."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells if "recorded" in cell.metadata.get("tags", []) for output in cell.outputs]
    return [{kind: text for kind, text in output.get("data", {}).items() if kind.startswith("text/")} for output in outputs]


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
