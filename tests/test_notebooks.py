"""Every chapter is a pair: a percent source and a committed notebook that was made from it and shows what it computed."""

import ast
import base64
import io
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pairs
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
PARAMETERS = {"profile": "quick", "seed": 0, "data_root": "", "device": "auto"}
LONGEST_CELL = 40

each_chapter = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def committed(source: Path):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def test_no_notebook_without_a_source():
    assert [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))] == [path.stem for path in SOURCES]


@each_chapter
def test_pair_is_in_step(source):
    assert pairs.in_step(source), "run `make pairs`"


@each_chapter
def test_committed_notebook_ran_from_top_to_bottom_without_an_error(source):
    cells = [cell for cell in code_cells(committed(source)) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


@each_chapter
def test_committed_notebook_is_small_and_says_nothing_of_where_it_ran(source):
    pair = source.with_suffix(".ipynb")
    assert pair.stat().st_size < 1_000_000
    assert set(committed(source).metadata) <= {"kernelspec", "language_info", "jupytext", "widgets"}
    assert str(ROOT) not in pair.read_text(encoding="utf-8")


@each_chapter
def test_committed_notebook_shows_what_is_recorded_now(source):
    """The cells tagged ``recorded`` show the same text as in the chapter executed just now by ``make book``."""
    executed = ROOT / f"build/chapters/quick-s0/{source.stem}.ipynb"
    assert pairs.what_differs(source.with_suffix(".ipynb"), executed) == [], "run `make pairs`"


def test_a_changed_curve_or_printed_word_is_noticed_and_rounding_is_not(tmp_path):
    """Neither is text of a table: words on a stream, and a picture, of which another curve is to be seen."""

    def shown(printed: str, *heights: float, shade: float = 1.0, cells: int = 1) -> Path:
        figure, axis = plt.subplots(figsize=(4, 3), facecolor=str(shade))
        axis.plot(heights)
        axis.set_ylim(0, 1)
        drawn = io.BytesIO()
        figure.savefig(drawn)
        plt.close(figure)
        picture = {"image/png": base64.b64encode(drawn.getvalue()).decode(), "text/plain": "<Figure size 400x300>"}
        outputs = [nbformat.v4.new_output("stream", text=printed), nbformat.v4.new_output("display_data", data=picture)]
        tagged = {"outputs": outputs, "metadata": {"tags": ["recorded"]}}
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.ipynb"
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show()", **tagged) for _ in range(cells)]), path
        )
        return path

    first = shown("64 %", 0.9, 0.6, 0.1)
    assert pairs.what_differs(first, shown("64 %", 0.9, 0.6, 0.1, shade=0.97)) == []
    assert len(pairs.what_differs(first, shown("65 %", 0.9, 0.6, 0.1))) == 1
    assert len(pairs.what_differs(first, shown("64 %", 0.9, 0.5, 0.1))) == 1
    assert len(pairs.what_differs(first, shown("64 %", 0.9, 0.6, 0.1, cells=2))) == 2


@each_chapter
def test_one_parameters_cell_with_literals(source):
    tagged = [cell for cell in code_cells(jupytext.read(source)) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    body = ast.parse(tagged[0].source).body
    assert {line.targets[0].id: ast.literal_eval(line.value) for line in body} == PARAMETERS


@each_chapter
def test_cells_fit_a_screen(source):
    for cell in code_cells(jupytext.read(source)):
        assert cell.source.count("\n") < LONGEST_CELL, cell.source[:80]


def test_the_book_holds_every_chapter():
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert [name for name in files if name.startswith("notebooks/")] == [f"notebooks/{path.stem}" for path in SOURCES]
