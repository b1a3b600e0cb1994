"""The full-scale runs: one job measures one model in one way and writes its files under ``results/``.

    python -m hybridgen_lib.reproduce deepbayes gfz fgsm --profile cpu --seed 0

A job whose file is there does nothing, so a table may take several sittings and a killed run loses one job at most.
``make reproduce`` runs them all. Chapters draw their full-scale tables and figures from the files.
"""

from functools import partial

from hybridgen_lib.reproduce.causalib import CAUSALIB, CAUSALIB_CIFAR10, CAUSALIB_CIFAR100, CAUSALIB_FASHION
from hybridgen_lib.reproduce.counterfactuals import COUNTERFACTUALS, COUNTERFACTUALS_CIFAR10, COUNTERFACTUALS_CIFAR100
from hybridgen_lib.reproduce.deepbayes import DEEPBAYES
from hybridgen_lib.reproduce.explanations import EXPLAINED, EXPLAINED_CIFAR10
from hybridgen_lib.reproduce.hybrid import HYBRID, HYBRID_CIFAR10, HYBRID_CIFAR100, HYBRID_TINY
from hybridgen_lib.reproduce.interpretable import INTERPRETABLE, INTERPRETABLE_CIFAR10
from hybridgen_lib.reproduce.jobs import path_of, run
from hybridgen_lib.reproduce.roar import ROAR, ROAR_CIFAR10
from hybridgen_lib.reproduce.zoo import ZOO

__all__ = ["DOCUMENTS", "reproduce", "result_of"]

DOCUMENTS = {
    "deepbayes": DEEPBAYES,
    "zoo": ZOO,
    "hybrid": HYBRID,
    "hybrid-cifar10": HYBRID_CIFAR10,
    "hybrid-cifar100": HYBRID_CIFAR100,
    "hybrid-tiny": HYBRID_TINY,
    "hybrid-counterfactuals": COUNTERFACTUALS,
    "hybrid-counterfactuals-cifar10": COUNTERFACTUALS_CIFAR10,
    "hybrid-counterfactuals-cifar100": COUNTERFACTUALS_CIFAR100,
    "hybrid-roar": ROAR,
    "hybrid-roar-cifar10": ROAR_CIFAR10,
    "interpretable": INTERPRETABLE,
    "interpretable-cifar10": INTERPRETABLE_CIFAR10,
    "interpretable-explained": EXPLAINED,
    "interpretable-explained-cifar10": EXPLAINED_CIFAR10,
    "causalib": CAUSALIB,
    "causalib-fashion": CAUSALIB_FASHION,
    "causalib-cifar10": CAUSALIB_CIFAR10,
    "causalib-cifar100": CAUSALIB_CIFAR100,
}
"""A document's plan, or several on different data, told apart behind a dash."""

reproduce, result_of = partial(run, DOCUMENTS), partial(path_of, DOCUMENTS)
