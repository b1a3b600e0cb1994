"""Looking inside: attributions, images made to order, the distance between sets of images, and data whose truth is known."""

from hybridgen_lib.explain.attribution import Attribution, expected_gradients, integrated_gradients, smoothness
from hybridgen_lib.explain.counterfactual import (
    Counterfactual,
    LatentCounterfactual,
    decode,
    latent_counterfactual,
    nearest_counterfactual,
    sparse_counterfactual,
)
from hybridgen_lib.explain.decoy import decoy, decoy_mask, decoy_places, share_inside
from hybridgen_lib.explain.extractors import (
    Distance,
    Extractor,
    distance_name,
    extract,
    frechet_between,
    inception,
    network_extractor,
)
from hybridgen_lib.explain.frechet import (
    Extrapolation,
    FeatureStatistics,
    KernelDistance,
    extrapolated,
    frechet_distance,
    frechet_jackknife,
    jackknife,
    kernel_distance,
)
from hybridgen_lib.explain.inversion import Inversion, invert, representation_gap
from hybridgen_lib.explain.representation import activating, representation
from hybridgen_lib.explain.roar import remove, roar
from hybridgen_lib.explain.synthesis import generate_class, normal_draws, visualize_feature

__all__ = [
    "Attribution",
    "Counterfactual",
    "Distance",
    "Extractor",
    "Extrapolation",
    "FeatureStatistics",
    "Inversion",
    "KernelDistance",
    "LatentCounterfactual",
    "activating",
    "decode",
    "decoy",
    "decoy_mask",
    "decoy_places",
    "distance_name",
    "expected_gradients",
    "extract",
    "extrapolated",
    "frechet_between",
    "frechet_distance",
    "frechet_jackknife",
    "generate_class",
    "inception",
    "integrated_gradients",
    "invert",
    "jackknife",
    "kernel_distance",
    "latent_counterfactual",
    "nearest_counterfactual",
    "network_extractor",
    "normal_draws",
    "remove",
    "representation",
    "representation_gap",
    "roar",
    "share_inside",
    "smoothness",
    "sparse_counterfactual",
    "visualize_feature",
]
