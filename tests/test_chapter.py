"""What `make book` does to one chapter: it runs it, keeps what a failed one left, and makes its result the same each time."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from chapter import clean
from nbformat.v4 import new_code_cell, new_notebook, new_output

SCRIPT = Path(__file__).resolve().parents[1] / "book/chapter.py"
HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
profile = "quick"
seed = 0
data_root = ""
device = "auto"

"""


def run(folder: Path, body: str, *options: str) -> tuple[subprocess.CompletedProcess, Path, Path]:
    source, output, log = folder / "99_try.py", folder / "out/99_try.ipynb", folder / "log/99_try.ipynb"
    source.write_text(HEADER + body)
    command = [sys.executable, str(SCRIPT), str(source), str(output), "--log", str(log), *options]
    return subprocess.run(command, capture_output=True, text=True), output, log


def test_failed_chapter_leaves_its_traceback_and_no_output(tmp_path):
    done, output, log = run(
        tmp_path, "# %%\nprint('reached')\n\n# %%\nraise RuntimeError('stop here')\n\n# %%\nprint('never')\n"
    )
    assert done.returncode != 0
    assert "stop here" in done.stderr
    assert str(log) in done.stderr
    assert not output.exists()
    cells = [cell for cell in nbformat.read(log, as_version=4).cells if cell.cell_type == "code"]
    shown = {cell.source: [output.get("text", output.get("evalue")) for output in cell.outputs] for cell in cells}
    assert shown["print('reached')"] == ["reached\n"]
    assert shown["raise RuntimeError('stop here')"] == ["stop here"]
    assert shown["print('never')"] == []


@pytest.mark.parametrize(("options", "seed", "cells"), [([], 0, 2), (["--seed", "3", "--profile", "cpu"], 3, 3)])
def test_parameters_reach_the_chapter_and_its_own_literals_are_not_repeated(tmp_path, options, seed, cells):
    done, output, _ = run(tmp_path, "# %%\nprint(seed)\n", *options)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(output, as_version=4)
    assert len(notebook.cells) == cells
    assert notebook.cells[-1].outputs[0].text == f"{seed}\n"


def executed(run_id: str):
    """The same chapter as two runs leave it: other times, paths and random ids."""
    shown = {"application/vnd.jupyter.widget-view+json": {"model_id": run_id * 32}}
    shown["text/html"] = f'<style>#T_{run_id * 5}_row0_col0</style><table id="T_{run_id * 5}">'
    view = new_output("display_data", shown)
    cells = [
        new_code_cell("1 + 1", id=f"{run_id}1", metadata={"tags": []}),
        new_code_cell("1 + 1", id=f"{run_id}2", outputs=[view]),
    ]
    cells[0].metadata["papermill"] = {"duration": run_id}
    notebook = new_notebook(
        cells=cells, metadata={"papermill": {"start": run_id}, "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    notebook.metadata["widgets"] = {"application/x": {"state": {run_id * 32: {"model_name": "VBoxModel"}}}}
    return notebook


def test_pieces_of_what_a_cell_prints_are_joined_up_to_the_next_picture():
    pieces = [("stdout", "one\n"), ("stdout", "two\n"), ("stderr", "oh\n"), None, ("stdout", "three\n")]
    picture = new_output("display_data", {"text/plain": "a picture"})
    outputs = [new_output("stream", name=p[0], text=p[1]) if p else picture for p in pieces]
    outputs = clean(new_notebook(cells=[new_code_cell("1", outputs=outputs)])).cells[0].outputs
    shown = [(output.get("name"), output.get("text")) for output in outputs]
    assert shown == [("stdout", "one\ntwo\n"), ("stderr", "oh\n"), (None, None), ("stdout", "three\n")]


def test_two_runs_leave_the_same_notebook():
    first, second = clean(executed("a")), clean(executed("b"))
    assert nbformat.writes(first) == nbformat.writes(second)
    assert first.cells[0].id != first.cells[1].id
    assert list(first.metadata.widgets["application/x"]["state"]) == [
        first.cells[1].outputs[0].data["application/vnd.jupyter.widget-view+json"]["model_id"]
    ]
    nbformat.validate(first)
