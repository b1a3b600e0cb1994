"""Every trained model of the book by name: ``trained("gfz", data="fashion-mini", profile="quick")``.

A recipe says what to build and how to train it at each profile, and where every setting comes from: the document, else the
code released with it, else Deep Bayes', else ours. There is a file for each family of models; ``cache`` keeps what is trained.
"""

from hybridgen_lib.recipes.cache import (
    RECIPES,
    build,
    cache_path,
    choose_device,
    clean_outcomes,
    fingerprint,
    recipe_of,
    trained,
)
from hybridgen_lib.recipes.recipe import PROFILES, Recipe

__all__ = [
    "PROFILES",
    "RECIPES",
    "Recipe",
    "build",
    "cache_path",
    "choose_device",
    "clean_outcomes",
    "fingerprint",
    "recipe_of",
    "trained",
]
