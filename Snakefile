"""The graph of the book: train a model, measure it at full scale, execute a chapter, build the site.

What makes a step run again: a chapter, its source, the library or a recorded result; a model, the files that say what a model
is (and then the cache decides: if its recipe is the same, nothing is trained). `make book` and `make reproduce` call this file;
`snakemake --executor slurm` runs the same graph on a cluster. A killed run is taken up where it stopped.
"""

import fcntl
import hashlib
import os
import shlex
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

# Which full-scale measurements a document has, on which data, for which models (hybridgen_lib/reproduce says what each is);
# some are for some of its models only.
ZOO = ["logreg", "cnn", "cnn-mrf", "cnn-binary", "vae-classifier", "vae-classifier-pretrained"]
ZOO += ["nb", "mrf", "gmm", "cnn-vae", "cnn-vae-binary", "cnn-vae-crf", "cvae", "nn"]
ZOO_WAYS = ["clean", "clean-mse", "fgsm", "pgd", "fgm", "pgd-l2", "fgsm-code", "pgd-code", "uniform-noise", "gaussian-noise"]
ZOO_WAYS += ["contrast-linear", "contrast-binary", "blur", "cw", "pgd-margin", "pgd-margin-l2", "worst-case"]
HEADS = ["hybrid-deep", "hybrid-shallow", f"hybrid-deep@{FREE_CODE}", f"hybrid-shallow@{FREE_CODE}"]
HYBRID = ["vgg16", "dbx-fc1", "cama", "gbz-conv9", "gby-conv9", *HEADS]
HYBRID_WAYS = ["fgsm", "pgd-l2", "pgd-linf", "pgd-rms", "pgd-margin-l2", "pgd-margin-linf", "pgd-margin-rms", "worst-case"]
CHANGES = ["code=16", "code=32", "code=64", "pressure=4", "epochs=5", "epochs=120", "samples=1", "samples=30"]
CHANGES += ["feature_sigma=0.25", "feature_sigma=2", "pixel_sigma=0.25", "pixel_sigma=2", "scales=learned"]
CHANGES += ["training_m=sampled", "weight=published"]
CHANGES += ["code=16,feature_sigma=0.25,pressure=4", "code=16,feature_sigma=2,pressure=4"]
CHANGES += ["code=16,pixel_sigma=0.25,pressure=4", "code=16,pixel_sigma=2,pressure=4"]
DEEP_CHANGES = ["feature_sigma=0.25", "feature_sigma=2", "pixel_sigma=0.25", "pixel_sigma=2"]
ABLATION = [f"hybrid-shallow@{change}" for change in CHANGES] + [f"hybrid-deep@{change}" for change in DEEP_CHANGES]
WAYS = ["clean", "clean-no-m", *HYBRID_WAYS, "masking", "brief-ce", "brief-margin"]
NETWORKS = ["mlp", "alexnet", "resnet34", "wideresnet"]
MLP, ALEXNET, RESNET34, WIDERESNET = [[name, *[f"{name}-{way}" for way in WAYS_TO_TRAIN]] for name in NETWORKS]
BETAS = {"0": ["0", "0.05", "0.2", "1"], "0.01": ["0.01", "0.05", "0.2", "1"]}
BETAS["0.05"] = ["0", "0.01", "0.05", "0.2", "0.5", "1"]
WEIGHTS = ["norm=l1", "norm=l2", *[f"alpha={a},beta={b}" for a in BETAS for b in BETAS[a]], "beta=6.6"]
WEIGHTS = [f"mlp-causalib@{change}" for change in WEIGHTS]
CAUSALIB_WAYS = ["clean", "fgsm", "pgd", "pgd-margin", "fgsm-code", "pgd-code", "transfer-fgsm", "transfer-pgd", "cw", "autoattack"]
CAUSALIB_WAYS += ["autoattack-l2", "autoattack-half", "autoattack-rms", "worst-case", "masking", "noise"]
L2_WAYS = ["clean", "pgd-l2", "pgd-margin-l2", "worst-case"]
PAIR, CIFAR_PAIR, GENERATIVE = ["cnn", "cnn-at-l2"], ["resnet18", "resnet18-at-l2"], ["gfz", "gfy", "gbz", "gby"]
EXPLAIN_WAYS = ["ig", "ig-adaptive", "shap", "shap-adaptive", "inversion-noise", "inversion-another-class", "units"]
EXPLAIN_WAYS += ["generation", "draws", "generation-adaptive", "draws-adaptive", "real", "samples"]
TABLE_1 = ["vgg16", "dbx-fc1", "cama", "gbz-conv9", "gby-conv9", *HEADS[:2]]
ROAR_TABLE = ["none", "ig-30", "random-30", "ig-30-linear", "random-30-linear"]
ROAR_GRID = [f"{ranking}-{p}" for ranking in ["ig", "random", "edges", "blurred", "mask"] for p in [10, 30, 50, 70, 90]]
ROAR_GRID += [f"{ranking}-{p}-linear" for ranking in ["ig", "random"] for p in [10, 30, 50, 70, 90]]
ROAR_GRID = [way for way in ROAR_GRID if way not in ROAR_TABLE]
COUNTERFACTUAL_WAYS = []
for norm in ["linf", "l2"]:
    for way in [f"proximity-{norm}", *[f"speed-{norm}-{eps}" for eps in [0.05, 0.1, 0.2]]]:
        COUNTERFACTUAL_WAYS += [way, f"{way}-adaptive"]
MEASUREMENTS = {
    "deepbayes": ("fashion-mnist", [*DEEP_BAYES, "cnn"], ["clean", "fgsm", "pgd-margin", "worst-case"]),
    "zoo": ("mnist", ZOO, ZOO_WAYS),
    "hybrid": ("fashion-mnist", [*HYBRID, *ABLATION], WAYS),
    "hybrid-cifar10": ("cifar10-jpeg", [*HYBRID, *ABLATION], WAYS),
    "hybrid-cifar100": ("cifar100", HYBRID, WAYS),
    "hybrid-tiny": ("tiny-imagenet-32", ["vgg19", *HEADS], ["clean"]),
    "hybrid-counterfactuals": ("fashion-mnist", TABLE_1, COUNTERFACTUAL_WAYS),
    "hybrid-counterfactuals-cifar10": ("cifar10-jpeg", TABLE_1, COUNTERFACTUAL_WAYS),
    "hybrid-counterfactuals-cifar100": ("cifar100", TABLE_1, COUNTERFACTUAL_WAYS),
    "hybrid-roar": ("fashion-mnist", ["cnn", *TABLE_1], ROAR_TABLE + ROAR_GRID),
    "hybrid-roar-cifar10": ("cifar10-jpeg", ["cnn", *TABLE_1], ROAR_TABLE + ROAR_GRID),
    "interpretable": ("fashion-mnist", PAIR, L2_WAYS),
    "interpretable-cifar10": ("cifar10-jpeg", CIFAR_PAIR, L2_WAYS),
    "interpretable-explained": ("fashion-mnist", [*PAIR, "real-data", *GENERATIVE], EXPLAIN_WAYS),
    "interpretable-explained-cifar10": ("cifar10-jpeg", [*CIFAR_PAIR, "real-data"], EXPLAIN_WAYS[:-1]),
    "causalib": ("mnist", [*MLP, *WEIGHTS], CAUSALIB_WAYS),
    "causalib-fashion": ("fashion-mnist", MLP, CAUSALIB_WAYS),
    "causalib-cifar10": ("cifar10-jpeg", [*ALEXNET, *RESNET34, *WIDERESNET], CAUSALIB_WAYS),
    "causalib-cifar100": ("cifar100", RESNET34, CAUSALIB_WAYS),
}
AT = {"hybrid": ["cpu"], "hybrid-cifar10": ["paper"], "hybrid-cifar100": ["paper"], "hybrid-tiny": ["paper"]}
AT |= {"hybrid-roar": ["cpu"], "hybrid-roar-cifar10": ["paper"]}
AT |= {"hybrid-counterfactuals": ["cpu"]}
AT |= dict.fromkeys(["hybrid-counterfactuals-cifar10", "hybrid-counterfactuals-cifar100"], ["paper"])
AT |= {"interpretable": ["cpu"], "interpretable-cifar10": ["paper"]}
AT |= {"interpretable-explained": ["cpu"], "interpretable-explained-cifar10": ["paper"]}
AT |= {"causalib-cifar10": ["paper"], "causalib-cifar100": ["paper"]}  # others at both
SOURCE = {"hybrid": "vgg16", "hybrid-cifar10": "vgg16", "hybrid-cifar100": "vgg16", "hybrid-tiny": "vgg19"}
SOURCE |= {"interpretable-cifar10": "resnet18", "causalib": "mlp", "causalib-fashion": "mlp"}
SOURCE |= {"causalib-cifar10": "alexnet", "causalib-cifar100": "resnet34"}  # others cnn
EXTRACTOR = {"interpretable-explained": "resnet18", "interpretable-explained-cifar10": "resnet34"}
CODE = ["logreg", "nn", "cnn", "nb", "mrf", "gmm", "cnn-vae"]
ONLY = {"zoo": {"clean-mse": ["cvae"], "fgsm-code": CODE, "pgd-code": CODE}}
ONLY["hybrid"] = {"clean-no-m": [*HEADS, *ABLATION, "cama"], "brief-ce": ABLATION, "brief-margin": ABLATION}
ONLY["hybrid"] |= {way: HYBRID for way in [*HYBRID_WAYS, "masking"]}
ONLY["hybrid"] |= dict.fromkeys(ROAR_GRID, ["cnn"])
ONLY["interpretable"] = dict.fromkeys(EXPLAIN_WAYS[:7] + ["generation", "generation-adaptive"], PAIR + CIFAR_PAIR)
ONLY["interpretable"] |= dict.fromkeys(["real", "draws", "draws-adaptive"], ["real-data"]) | {"samples": GENERATIVE}
NAMED = [*MLP, *ALEXNET, *RESNET34, *WIDERESNET]
ONLY["causalib"] = {way: NAMED for way in CAUSALIB_WAYS[6:]}
NOISY = [name for name in NAMED if name.endswith(("-vib", "-causalib"))]
ONLY["causalib"] |= {"fgsm-code": NOISY, "pgd-code": NOISY, "noise": NOISY + WEIGHTS}


def ways_of(document, model):
    only = ONLY.get(document.partition("-")[0], {})
    return [way for way in MEASUREMENTS[document][2] if model in only.get(way, [model])]


CHAPTERS = sorted(path.stem for path in Path("notebooks").glob("[0-9][0-9]_*.py"))
LIBRARY = sorted(str(path) for path in Path("hybridgen_lib").rglob("*") if path.suffix in {".py", ".csv", ".mplstyle"})
ROOMS = ("classifier.py", "data/", "models/", "training/", "recipes/")  # what a trained model depends on
RECIPES = [path for path in LIBRARY if path.removeprefix("hybridgen_lib/").startswith(ROOMS)]
RESULTS = sorted(str(path) for path in Path("results").rglob("*.*") if not path.name.startswith("."))  # . is half written
TIMINGS = sorted(map(str, Path("benchmarks/raw").glob("*.json")))
PAGES = sorted(str(path) for path in Path("book").rglob("*") if path.is_file() and path.suffix != ".pyc")
PYTHON = shlex.quote(sys.executable)


def digest(names):
    """Changes where a file is added or deleted, which no modification time shows."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


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


def forget_what_is_gone():
    """A stamp names the result that was written; where that has been deleted, the job is to be done again."""
    for stamp in Path("build/measured").glob("*/*/*/*"):
        if not all(Path(result).exists() for result in stamp.read_text().splitlines()):
            stamp.unlink()


if workflow.is_main_process:
    LOCK = one_run_at_a_time()
    forget_what_is_gone()


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


def files_of(document, model):
    """How many results the measurements of a model write: a worst case one for each attack, an inversion its end and its best."""
    ways = ways_of(document, model) if model in MEASUREMENTS[document][1] else []
    return len(ways) + 3 * ("worst-case" in ways) + sum(way.startswith("inversion") for way in ways)


def model_to_measure(wildcards):
    """The model, unless everything about it is on file already: then nobody needs it."""
    run = f"{wildcards.profile}-s{wildcards.seed}"
    document, data = wildcards.document.partition("-")[0], MEASUREMENTS[wildcards.document][0]
    names = [wildcards.model, *(["cvae@rule=mse"] if wildcards.model == "cvae" else [])]
    recorded = [path for name in names for path in Path("results", document, data).glob(f"{name}-{run}-*.[cj]s*")]
    same = [d for d in MEASUREMENTS if d.partition("-")[0] == document and MEASUREMENTS[d][0] == data]
    if len(recorded) >= sum(files_of(d, wildcards.model) for d in same):
        return []
    extractor = [EXTRACTOR[wildcards.document]] if wildcards.document in EXTRACTOR else []
    needed = trained(wildcards, [*([] if wildcards.model == "real-data" else [wildcards.model]), *extractor], data)
    if "worst-case" in ways_of(wildcards.document, wildcards.model):
        source = SOURCE.get(wildcards.document, "cnn")
        seed = int(wildcards.seed) + (wildcards.model == source)  # nobody is attacked by itself
        needed.append(f"build/trained/{data}/{wildcards.profile}-s{seed}/{source}")
    return needed


def explained_first(wildcards):
    """The cells of ROAR share a model's attributions, which one of them computes."""
    if not wildcards.document.startswith("hybrid-roar") or wildcards.measurement == "none":
        return []
    return [f"build/measured/{wildcards.document}/{wildcards.profile}-s{wildcards.seed}/{wildcards.model}/none"]


def measured(wildcards):
    """What a chapter at full scale shows, so it runs after it; at the quick profile it shows what is on file."""
    folder = f"{wildcards.profile}-s{wildcards.seed}"
    at = [document for document in MEASUREMENTS if wildcards.profile in AT.get(document, [wildcards.profile])]
    pairs = [(document, model) for document in at for model in MEASUREMENTS[document][1]]
    jobs = [(document, model, way) for document, model in pairs for way in ways_of(document, model)]
    return [] if wildcards.profile == "quick" else [f"build/measured/{d}/{folder}/{model}/{way}" for d, model, way in jobs]


rule book:
    input: "build/site/index.html"


rule reproduce:
    input: expand("build/chapters/{profile}-s{seed}/{chapter}.ipynb", profile=PROFILE, seed=SEED, chapter=CHAPTERS)


rule train:
    input: RECIPES, backbone_of
    output: "build/trained/{data}/{profile}-s{seed}/{name}"
    log: "build/logs/{data}-{profile}-s{seed}-{name}.txt"
    threads: 1
    shell:
        "echo 'train {wildcards.name} ({wildcards.profile})' && "
        "OMP_NUM_THREADS={threads} {PYTHON} -m hybridgen_lib.recipes {wildcards.name} --data {wildcards.data} "
        "--profile {wildcards.profile} --seed {wildcards.seed} --stamp {output} > {log} 2>&1 || {{ tail -n 20 {log}; exit 1; }}"


rule measure:
    input: model_to_measure, explained_first
    output: "build/measured/{document}/{profile}-s{seed}/{model}/{measurement}"
    log: "build/logs/{document}-{profile}-s{seed}-{model}-{measurement}.txt"
    threads: 1
    shell:
        "echo 'measure {wildcards.model} {wildcards.measurement} ({wildcards.profile})' && OMP_NUM_THREADS={threads} {PYTHON} -m "
        "hybridgen_lib.reproduce {wildcards.document} {wildcards.model} {wildcards.measurement} --profile {wildcards.profile} "
        "--seed {wildcards.seed} > {output} 2> {log} || {{ tail -n 20 {log}; exit 1; }}"


rule chapter:
    input: LIBRARY, RESULTS, TIMINGS, models_of, measured, source="notebooks/{chapter}.py", script="book/chapter.py"
    output: "build/chapters/{profile}-s{seed}/{chapter}.ipynb"
    log: "build/logs/{profile}-s{seed}-{chapter}.ipynb"
    params: files=digest(LIBRARY + RESULTS + TIMINGS)
    threads: 1
    shell:
        "echo 'execute {wildcards.chapter} ({wildcards.profile})' && OMP_NUM_THREADS={threads} {PYTHON} {input.script} {input.source} "
        "{output} --log {log} --profile {wildcards.profile} --seed {wildcards.seed}"


rule site:
    input: PAGES, expand("build/chapters/quick-s0/{chapter}.ipynb", chapter=CHAPTERS)
    output: "build/site/index.html"
    params: files=digest(PAGES)
    shell: "echo 'build the site' && {PYTHON} book/build_site.py"
