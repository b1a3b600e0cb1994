"""Command line: run one job, or all that a document has for a model when no measurement is named."""

import argparse

from hybridgen_lib import results
from hybridgen_lib.reproduce import DOCUMENTS, reproduce, result_of


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hybridgen_lib.reproduce", description="Record full-scale results.")
    parser.add_argument("document", choices=DOCUMENTS)
    parser.add_argument("model")
    parser.add_argument("measurement", nargs="?", help="by default all")
    parser.add_argument("--profile", default="cpu", choices=results.PROFILES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        wanted = [options.measurement] if options.measurement else DOCUMENTS[options.document].ways(options.model)
        for measurement in wanted:  # whatever is no job is named before the first one runs
            result_of(options.document, options.model, measurement, options.profile, options.seed)
    except ValueError as error:
        parser.error(str(error))
    for measurement in wanted:
        print(reproduce(options.document, options.model, measurement, options.profile, options.seed), flush=True)


if __name__ == "__main__":
    main()
