"""The graph of full-scale jobs, as snakemake plans it in a clone of its own that has few results on file."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybridgen_lib.reproduce import DOCUMENTS, result_of

ROOT = Path(__file__).parents[1]
TRIGGERS = re.search(r"--rerun-triggers [a-z ]+", (ROOT / "Makefile").read_text())[0].split()
ON_FILE = [("zoo", "nb", way) for way in DOCUMENTS["zoo"].ways("nb")] + [("hybrid-roar", "cnn", "none")]
GONE = "build/measured/zoo/cpu-s0/gmm/clean"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = tmp_path_factory.mktemp("clone")
    for name in ("hybridgen_lib", "notebooks", "book"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb", "*.npz"))
    shutil.copy(ROOT / "Snakefile", clone)
    for job in ON_FILE:
        path = result_of(*job, results_root=clone / "results")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (clone / GONE).parent.mkdir(parents=True)
    (clone / GONE).touch()  # a run left it, and its result has been deleted since
    return clone


def planned(clone, target, *options):
    """The inputs of every job that snakemake would do for a target, by its output."""
    command = [sys.executable, "-m", "snakemake", target, "--cores", "1", "--nolock", *TRIGGERS, *options]
    env = {**os.environ, "PYTHONPATH": str(clone), "XDG_CACHE_HOME": str(clone)}
    ran = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    jobs = re.findall(r"^rule \w+:\n(?:    input: (.*)\n)?    output: (\S+)$", ran.stdout + ran.stderr, re.MULTILINE)
    return {output: inputs.split(", ") for inputs, output in jobs}


@pytest.fixture(scope="module")
def plan(clone):
    """Of the full-scale runs, all that is not on file."""
    return planned(clone, "reproduce", "--dry-run", "--config", "profile=cpu", "seed=0")


def test_every_job_that_is_not_on_file_is_planned_once_and_no_other(plan):
    expected = {
        f"build/measured/{document}/cpu-s0/{model}/{way}"
        for document, its in DOCUMENTS.items()
        if "cpu" in its.stand_in
        for model in its.models
        for way in its.ways(model)
        if (document, model, way) not in ON_FILE
    }
    assert {output for output in plan if output.startswith("build/measured")} == expected
    assert GONE in expected


def test_a_chapter_waits_for_what_it_shows(plan):
    measured = {output for output in plan if output.startswith("build/measured")}
    chapters = [output for output in plan if output.startswith("build/chapters/cpu-s0/")]
    assert len(chapters) == len(list((ROOT / "notebooks").glob("[0-9][0-9]_*.py")))
    assert all(measured <= set(plan[chapter]) for chapter in chapters)


def test_a_model_is_trained_where_something_is_to_be_measured(plan):
    assert "build/trained/mnist/cpu-s0/gmm" in plan
    assert "build/trained/mnist/cpu-s0/nb" not in plan
    assert "build/trained/mnist/cpu-s0/mlp-causalib@alpha=0,beta=1" in plan
    assert not any("real-data" in output for output in plan if output.startswith("build/trained"))


@pytest.mark.parametrize(
    ("job", "models"),
    [
        ("hybrid/cpu-s0/vgg16/worst-case", ["cpu-s0/vgg16", "cpu-s1/vgg16"]),  # nobody is attacked by itself
        ("hybrid/cpu-s0/cama/worst-case", ["cpu-s0/cama", "cpu-s0/vgg16"]),
        ("interpretable-explained/cpu-s0/cnn/ig", ["cpu-s0/cnn", "cpu-s0/resnet18"]),
        ("interpretable-explained/cpu-s0/real-data/real", ["cpu-s0/resnet18"]),
    ],
)
def test_what_several_jobs_work_with_is_trained_by_a_rule_of_its_own(plan, job, models):
    assert plan[f"build/measured/{job}"] == [f"build/trained/fashion-mnist/{model}" for model in models]


def test_a_model_is_explained_once_for_all_cells_of_roar(plan):
    first = "build/measured/hybrid-roar/cpu-s0/{}/none"
    assert first.format("vgg16") in plan["build/measured/hybrid-roar/cpu-s0/vgg16/ig-30"]
    assert first.format("vgg16") not in plan[first.format("vgg16")]
    assert first.format("cnn") not in plan["build/measured/hybrid-roar/cpu-s0/cnn/ig-30"]  # on file


STUB = """#!/bin/sh
for word in "$@" build/site/index.html; do
  case $word in build/*) mkdir -p "$(dirname "$word")"; touch "$word";; esac
done
"""
"""Instead of Python: makes every file that it is told of."""


@pytest.fixture(scope="module")
def made(clone):
    """The book made in no time, by a stub."""
    outputs, stub, graph = list(planned(clone, "book", "--dry-run")), clone / "stub", clone / "Snakefile"
    stub.write_text(STUB)
    stub.chmod(0o755)
    graph.write_text(graph.read_text().replace("shlex.quote(sys.executable)", '"./stub"'))
    planned(clone, "book")
    assert all((clone / output).exists() for output in outputs)
    return outputs


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("results/zoo/mnist/another.json", "build/chapters"),
        ("hybridgen_lib/report.py", "build/chapters"),
        ("hybridgen_lib/models/latent.py", "build/"),
        ("book/intro.md", "build/site"),
        ("notebooks/03_from_vae_to_classifier.py", "build/chapters/quick-s0/03"),
    ],
)
def test_what_has_changed_is_made_again_with_all_that_hangs_on_it(clone, made, changed, again):
    path, kept = clone / changed, clone / "kept"
    is_new = not path.exists()
    if not is_new:
        shutil.copy2(path, kept)  # with its time
    with path.open("a") as file:
        file.write("\n")
    expected = {output for output in made if output.startswith((again, "build/site"))}
    assert set(planned(clone, "book", "--dry-run")) == expected
    path.unlink() if is_new else shutil.move(kept, path)
    assert planned(clone, "book", "--dry-run") == {}
