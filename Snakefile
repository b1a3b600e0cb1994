"""The graph of the book: train a model, measure it at full scale, execute a chapter, build the site.

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
    "01_two_ways_to_classify": ["nb", "gmm", "logreg"],
    "02_pixel_graphs": ["nb", "gmm", "mrf", "cnn", "cnn-mrf", "cnn-vae-crf"],
    "03_from_vae_to_classifier": [
        *["vae-classifier", "vae-classifier-pretrained", "cvae", "cnn", "cnn-binary"],
        *["cnn-vae", "cnn-vae-binary", "cnn-vae-crf"],
    ],
    "04_factorizations": [*DEEP_BAYES, "cnn"],
    "05_gradient_attacks": [*DEEP_BAYES, "cnn"],
    "06_beyond_gradients": ["cnn", "gmm", "gfz"],
    "07_is_it_really_robust": ["cnn", "cnn-at", "gmm", "gfz"],
}

# Which full-scale measurements a document has, on which data, for which models (hybridgen_lib/reproduce says what each is);
# some are for some of its models only.
ZOO = ["logreg", "cnn", "cnn-mrf", "cnn-binary", "vae-classifier", "vae-classifier-pretrained"]
ZOO += ["nb", "mrf", "gmm", "cnn-vae", "cnn-vae-binary", "cnn-vae-crf", "cvae", "nn"]
ZOO_WAYS = ["clean", "clean-mse", "fgsm", "pgd", "fgm", "pgd-l2", "fgsm-code", "pgd-code", "uniform-noise", "gaussian-noise"]
ZOO_WAYS += ["contrast-linear", "contrast-binary", "blur", "cw", "pgd-margin", "pgd-margin-l2", "worst-case"]
MEASUREMENTS = {
    "deepbayes": ("fashion-mnist", [*DEEP_BAYES, "cnn"], ["clean", "fgsm", "pgd-margin", "worst-case"]),
    "zoo": ("mnist", ZOO, ZOO_WAYS),
}
CODE = ["logreg", "nn", "cnn", "nb", "mrf", "gmm", "cnn-vae"]
ONLY = {"clean-mse": ["cvae"], "fgsm-code": CODE, "pgd-code": CODE}


def ways_of(document, model):
    return [way for way in MEASUREMENTS[document][2] if model in ONLY.get(way, [model])]


CHAPTERS = sorted(path.stem for path in Path("notebooks").glob("[0-9][0-9]_*.py"))
LIBRARY = sorted(str(path) for path in Path("hybridgen_lib").rglob("*") if path.suffix in {".py", ".csv", ".mplstyle"})
ROOMS = ("classifier.py", "data/", "models/", "training.py", "recipes/")  # what a trained model depends on
RECIPES = [path for path in LIBRARY if path.removeprefix("hybridgen_lib/").startswith(ROOMS)]
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


def trained(wildcards, names, data=None):
    folder = f"{data or DATA[wildcards.profile]}/{wildcards.profile}-s{wildcards.seed}"
    return [f"build/trained/{folder}/{name}" for name in names]


def models_of(wildcards):
    return trained(wildcards, MODELS.get(wildcards.chapter, []))


def model_to_measure(wildcards):
    """The model, unless everything about it is on file already: then nobody needs it."""
    run = f"{wildcards.profile}-s{wildcards.seed}"
    folder = Path("results", wildcards.document)
    recorded = [*folder.glob(f"*/{wildcards.model}-{run}-*.json"), *folder.glob(f"*/{wildcards.model}@*-{run}-*.json")]
    ways = ways_of(wildcards.document, wildcards.model)
    files = len(ways) + 3 * ("worst-case" in ways)  # which writes one for each of its four attacks
    return [] if len(recorded) >= files else trained(wildcards, [wildcards.model], MEASUREMENTS[wildcards.document][0])


def measured(wildcards):
    """What a chapter at full scale shows, so it runs after it; at the quick profile it shows what is on file."""
    folder = f"{wildcards.profile}-s{wildcards.seed}"
    pairs = [(document, model) for document, (_, models, _) in MEASUREMENTS.items() for model in models]
    jobs = [(document, model, way) for document, model in pairs for way in ways_of(document, model)]
    return [] if wildcards.profile == "quick" else [f"build/measured/{d}/{folder}/{model}/{way}" for d, model, way in jobs]


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


rule measure:
    input: model_to_measure
    output: touch("build/measured/{document}/{profile}-s{seed}/{model}/{measurement}")
    log: "build/logs/{document}-{profile}-s{seed}-{model}-{measurement}.txt"
    threads: 1
    shell:
        "echo 'measure {wildcards.model} {wildcards.measurement} ({wildcards.profile})' && OMP_NUM_THREADS={threads} {PYTHON} -m "
        "hybridgen_lib.reproduce {wildcards.document} {wildcards.model} {wildcards.measurement} --profile {wildcards.profile} "
        "--seed {wildcards.seed} > {log} 2>&1 || {{ tail -n 20 {log}; exit 1; }}"


rule chapter:
    input: LIBRARY, RESULTS, models_of, measured, source="notebooks/{chapter}.py", script="book/chapter.py"
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
