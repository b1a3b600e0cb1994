"""The graph of the book: train a model, execute a chapter, build the site.

What makes a step run again: a chapter, its source, the library or a recorded result; a model, the files that say what a model
is (and then the cache decides: if its recipe is the same, nothing is trained). `make book` and `make reproduce` call this file;
`snakemake --executor slurm` runs the same graph on a cluster. A killed run is taken up where it stopped.
"""

import fcntl
import sys
from pathlib import Path

PROFILE = config.get("profile", "quick")
SEED = config.get("seed", 0)
DATA = {"quick": "fashion-mini", "cpu": "fashion-mnist", "paper": "fashion-mnist"}

# Which models a chapter uses; a chapter that is not named here uses none.
DEEP_BAYES = ["gfz", "gfy", "gbz", "gby", "dfx", "dfz", "dbx"]
MODELS = {
    "04_factorizations": [*DEEP_BAYES, "cnn"],
    "05_gradient_attacks": [*DEEP_BAYES, "cnn"],
}

CHAPTERS = sorted(path.stem for path in Path("notebooks").glob("[0-9][0-9]_*.py"))
LIBRARY = sorted(map(str, [*Path("hybridgen_lib").rglob("*.py"), *Path("hybridgen_lib").glob("*.mplstyle")]))
RECIPES = [f for f in LIBRARY if f.startswith("hybridgen_lib/models/") or Path(f).stem in {"classifier", "data", "training", "recipes"}]
RESULTS = sorted(map(str, Path("results").rglob("*.*")))
PAGES = sorted(str(path) for path in Path("book").rglob("*") if path.is_file() and path.suffix != ".pyc")
PYTHON = sys.executable


def one_run_at_a_time():
    """Wait until no other run works in this folder; the system frees the lock of a run that was killed."""
    Path("build").mkdir(exist_ok=True)
    lock = open("build/.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another run is at work in this folder; waiting for it to end.", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


if workflow.is_main_process:
    LOCK = one_run_at_a_time()


def models_of(wildcards):
    folder = f"build/trained/{DATA[wildcards.profile]}/{wildcards.profile}-s{wildcards.seed}"
    return [f"{folder}/{name}" for name in MODELS.get(wildcards.chapter, [])]


rule book:
    input: "build/site/index.html"


rule reproduce:
    input: expand("build/chapters/{profile}-s{seed}/{chapter}.ipynb", profile=PROFILE, seed=SEED, chapter=CHAPTERS)


rule train:
    input: RECIPES
    output: "build/trained/{data}/{profile}-s{seed}/{name}"
    log: "build/logs/{data}-{profile}-s{seed}-{name}.txt"
    threads: 1
    shell:
        "echo 'train {wildcards.name} ({wildcards.profile})' && "
        "OMP_NUM_THREADS={threads} {PYTHON} -m hybridgen_lib.recipes {wildcards.name} --data {wildcards.data} "
        "--profile {wildcards.profile} --seed {wildcards.seed} --stamp {output} > {log} 2>&1 || {{ tail -n 20 {log}; exit 1; }}"


rule chapter:
    input: LIBRARY, RESULTS, models_of, source="notebooks/{chapter}.py", script="book/chapter.py"
    output: "build/chapters/{profile}-s{seed}/{chapter}.ipynb"
    log: "build/logs/{profile}-s{seed}-{chapter}.ipynb"
    threads: 1
    shell:
        "echo 'execute {wildcards.chapter} ({wildcards.profile})' && OMP_NUM_THREADS={threads} {PYTHON} {input.script} {input.source} "
        "{output} --log {log} --profile {wildcards.profile} --seed {wildcards.seed}"


rule site:
    input: PAGES, expand("build/chapters/quick-s0/{chapter}.ipynb", chapter=CHAPTERS)
    output: "build/site/index.html"
    shell: "echo 'build the site' && {PYTHON} book/build_site.py"
