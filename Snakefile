"""The graph of the book: train a model, measure it at full scale, execute a chapter, build the site.

What makes a step run again: a chapter, its source, the library or a recorded result; a model, the files that say what a model
is (and then the cache decides: if its recipe is the same, nothing is trained). `make book` and `make reproduce` call this file;
`snakemake --executor slurm` runs the same graph on a cluster. A killed run is taken up where it stopped.
"""

import fcntl
import hashlib
import itertools
import os
import shlex
import shutil
import sys
from pathlib import Path

for name in {"HYBRIDGEN_DATA", "HYBRIDGEN_CACHE"} & set(os.environ):  # steps run in different folders
    os.environ[name] = str(Path(os.environ[name]).expanduser().resolve()) if os.environ[name] else ""

PROFILE = config.get("profile", "quick")
SEED = config.get("seed", 0)
DATA = {"quick": "fashion-mini", "cpu": "fashion-mnist", "paper": "fashion-mnist"}

# Which network a model stands on: it is trained first, so that two jobs never train it at once.
BACKBONE = dict.fromkeys(["dbx-fc1", "gbz-conv9", "gby-conv9", "hybrid-deep", "hybrid-shallow"], "vgg16")

# Which models a chapter uses; a chapter that is not named here uses none.
DEEP_BAYES = ["gfz", "gfy", "gbz", "gby", "dfx", "dfz", "dbx"]
FREE_CODE = "code=16,pressure=4"
WAYS_TO_TRAIN = ["mixup", "smoothing", "ciiv", "vib", "causalib", "at-fgsm", "at-pgd"]
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
    "08_causal_vae_head": [
        *["vgg16", "cama", "hybrid-deep", "hybrid-shallow"],
        *[f"hybrid-deep@{FREE_CODE}", f"hybrid-shallow@{FREE_CODE}", f"hybrid-shallow@{FREE_CODE},training_m=sampled"],
    ],
    "09_adversarial_training": ["cnn", "cnn-at", "cnn-at-l2"],
    "10_causal_information_bottleneck": ["mlp", *[f"mlp-{way}" for way in WAYS_TO_TRAIN]],
    "11_saliency": ["cnn", "cnn-at-l2", "gfz"],
    "12_inversion_and_features": ["cnn", "cnn-at-l2", "gbz", "resnet18"],
    "13_class_generation_and_fid": ["cnn", "cnn-at-l2", "gfz", "gbz", "resnet18", "vgg16"],
    "14_roar_and_counterfactuals": ["cnn", "vgg16", "cnn-at", "cnn-at-l2", "gfz", "gbz", f"hybrid-shallow@{FREE_CODE}"],
}

CHAPTERS = sorted(path.stem for path in Path("notebooks").glob("[0-9][0-9]_*.py"))
LIBRARY = sorted(str(path) for path in Path("hybridgen_lib").rglob("*") if path.suffix in {".py", ".csv", ".mplstyle"})
ROOMS = ("classifier.py", "data/", "models/", "training/", "recipes/")  # what a trained model depends on
RECIPES = [path for path in LIBRARY if path.removeprefix("hybridgen_lib/").startswith(ROOMS)]
RESULTS = sorted(str(path) for path in Path("results").rglob("*.*") if not path.name.startswith("."))  # . is half written
TIMINGS = sorted(map(str, Path("benchmarks/raw").glob("*.json")))
PAGES = sorted(str(path) for path in Path("book").rglob("*") if path.is_file() and path.suffix != ".pyc")
PYTHON = shlex.quote(sys.executable)
HAS_GPU = shutil.which("nvidia-smi") is not None


def gpu(wildcards):
    """How much of the machine's GPUs a step takes (`make GPUS=2` has two): one that fills it should be alone on it."""
    return int(HAS_GPU and wildcards.profile != "quick")


def digest(names):
    """Of files, by name and content. As inputs of every job they would be a burden: snakemake looks at each all the time."""
    sums = hashlib.sha256()
    for name in names:
        sums.update(f"{name}\n".encode() + hashlib.sha256(Path(name).read_bytes()).digest())
    return sums.hexdigest()[:12]


WHAT_A_MODEL_IS = digest(RECIPES)
WHAT_A_CHAPTER_SHOWS = digest(LIBRARY + RESULTS + TIMINGS)


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
    shutil.rmtree("build/measured", ignore_errors=True)  # what has been measured is told by the results


def trained(wildcards, names, data=None):
    folder = f"{data or DATA[wildcards.profile]}/{wildcards.profile}-s{wildcards.seed}"
    return [f"build/trained/{folder}/{name}" for name in names]


def backbone_of(wildcards):
    name = BACKBONE.get(wildcards.name.partition("@")[0])
    if name and wildcards.data.startswith("tiny"):
        name = "vgg19"
    return [f"build/trained/{wildcards.data}/{wildcards.profile}-s{wildcards.seed}/{name}"] if name else []


def models_of(wildcards):
    return trained(wildcards, MODELS.get(wildcards.chapter, []))


def plans():
    """The full-scale plans and where their results lie; torch comes with them, so the book alone does not ask."""
    from hybridgen_lib import reproduce

    return reproduce


def measured(wildcards):
    """What a profile records and is not on file yet, so it runs after it; a quick one shows what there is."""
    if wildcards.profile == "quick":
        return []
    here = {name: plan for name, plan in plans().DOCUMENTS.items() if wildcards.profile in plan.stand_in}
    jobs = [(name, model, way) for name, plan in here.items() for model in plan.models for way in plan.ways(model)]
    return list(itertools.chain(*(unless_on_file(*job, wildcards) for job in jobs)))


def unless_on_file(document, model, way, wildcards):
    """One job; nothing where its result is there already."""
    run = wildcards.profile, int(wildcards.seed)
    done = plans().result_of(document, model, way, *run).exists()
    return [] if done else [f"build/measured/{document}/{run[0]}-s{run[1]}/{model}/{way}"]


def models_to_measure(wildcards):
    """What a job works with, trained first, so that two jobs never train it at once."""
    plan, names = plans().DOCUMENTS[wildcards.document], {wildcards.model} - {"real-data"}
    needed = trained(wildcards, [*names, *plan.others], plan.data)
    if "worst-case" in plan.ways(wildcards.model):
        seed = int(wildcards.seed) + (wildcards.model == plan.source)  # nobody is attacked by itself
        needed.append(f"build/trained/{plan.data}/{wildcards.profile}-s{seed}/{plan.source}")
    return needed


def explained_first(wildcards):
    """The cells of ROAR share a model's attributions, which the first of them computes."""
    first = wildcards.document, wildcards.model, "none"
    is_another = wildcards.document.startswith("hybrid-roar") and wildcards.measurement != "none"
    return unless_on_file(*first, wildcards) if is_another else []


rule book:
    input: "build/site/index.html"


rule reproduce:
    input: expand("build/chapters/{profile}-s{seed}/{chapter}.ipynb", profile=PROFILE, seed=SEED, chapter=CHAPTERS)


rule train:
    input: backbone_of
    output: "build/trained/{data}/{profile}-s{seed}/{name}"
    log: "build/logs/{data}-{profile}-s{seed}-{name}.txt"
    params: files=WHAT_A_MODEL_IS
    threads: 1
    resources: gpu=gpu
    shell:
        "echo 'train {wildcards.name} ({wildcards.profile})' && "
        "OMP_NUM_THREADS={threads} {PYTHON} -m hybridgen_lib.recipes {wildcards.name} --data {wildcards.data} "
        "--profile {wildcards.profile} --seed {wildcards.seed} --stamp {output} > {log} 2>&1 || {{ tail -n 20 {log}; exit 1; }}"


rule measure:
    input: models_to_measure, explained_first
    output: "build/measured/{document}/{profile}-s{seed}/{model}/{measurement}"
    log: "build/logs/{document}-{profile}-s{seed}-{model}-{measurement}.txt"
    threads: 1
    resources: gpu=gpu
    shell:
        "echo 'measure {wildcards.model} {wildcards.measurement} ({wildcards.profile})' && OMP_NUM_THREADS={threads} {PYTHON} -m "
        "hybridgen_lib.reproduce {wildcards.document} {wildcards.model} {wildcards.measurement} --profile {wildcards.profile} "
        "--seed {wildcards.seed} > {output} 2> {log} || {{ tail -n 20 {log}; exit 1; }}"


rule chapter:
    input: models_of, measured, source="notebooks/{chapter}.py", script="book/chapter.py"
    output: "build/chapters/{profile}-s{seed}/{chapter}.ipynb"
    log: "build/logs/{profile}-s{seed}-{chapter}.ipynb"
    params: files=WHAT_A_CHAPTER_SHOWS
    threads: 1
    shell:
        "echo 'execute {wildcards.chapter} ({wildcards.profile})' && OMP_NUM_THREADS={threads} {PYTHON} {input.script} {input.source} "
        "{output} --log {log} --profile {wildcards.profile} --seed {wildcards.seed}"


rule site:
    input: expand("build/chapters/quick-s0/{chapter}.ipynb", chapter=CHAPTERS)
    output: "build/site/index.html"
    params: files=digest(PAGES)
    shell: "echo 'build the site' && {PYTHON} book/build_site.py"
