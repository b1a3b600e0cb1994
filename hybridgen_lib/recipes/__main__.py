"""Command line: train a model and print its accuracy, or list the recipes. The graph in the Snakefile calls it."""

from __future__ import annotations

import argparse
from pathlib import Path

from hybridgen_lib.recipes import PROFILES, RECIPES, clean_outcomes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hybridgen_lib.recipes", description="Train a model of the book.")
    parser.add_argument("name", nargs="?", help="a recipe; see --list")
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--profile", default="quick", choices=PROFILES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stamp", type=Path, help="a file to touch when the model is there")
    parser.add_argument("--list", action="store_true", help="print the names of all recipes")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(RECIPES))
        return
    if options.name is None:
        parser.error("name is missing; --list prints the recipes")
    right = clean_outcomes(options.name, options.data, options.profile, options.seed)
    print(f"{options.name}: clean accuracy {right.estimate('clean_accuracy')}", flush=True)
    if options.stamp:
        options.stamp.parent.mkdir(parents=True, exist_ok=True)
        options.stamp.touch()


if __name__ == "__main__":
    main()
