"""Execute one chapter with papermill: its percent source in, a clean executed notebook out.

    python book/chapter.py notebooks/NN_name.py OUT.ipynb --log LOG.ipynb [--profile quick] [--seed 0]

Papermill writes to LOG after every cell. Only a chapter that ran to its end is copied to OUT, so a failed one leaves its
partly executed notebook, with the traceback in it, and no output that could be mistaken for a good one.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import papermill

__all__ = ["clean", "execute"]

KEPT = {"kernelspec", "jupytext", "widgets"}


def execute(source: Path, log: Path, parameters: dict) -> nbformat.NotebookNode:
    """Run `source` in its own folder and return the executed notebook; `log` holds what ran, whatever happens.

    Parameters that equal the chapter's own literals are not injected: at the quick profile the page shows the source as it is.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(jupytext.read(source, fmt="py:percent"), log)
    defaults = {name: found["default"] for name, found in papermill.inspect_notebook(str(log)).items()}
    changed = {name: value for name, value in parameters.items() if defaults.get(name, "").strip("\"'") != str(value)}
    return papermill.execute_notebook(
        str(log),
        str(log),
        parameters=changed,
        kernel_name="python3",
        cwd=str(source.parent),
        progress_bar=False,
        autosave_cell_every=5,
        extra_arguments=["--log-level=ERROR"],  # else every kernel warns that it talks over an unencrypted local socket
    )


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same notebook without what differs from run to run: times, paths, versions, random ids, pieces of streams."""
    notebook = nbformat.from_dict(json.loads(stable_ids(json.dumps(notebook), notebook)))
    notebook.metadata = {key: value for key, value in notebook.metadata.items() if key in KEPT}
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata.get("jupytext", {}).pop("text_representation", None)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key not in {"papermill", "execution"}}
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        if cell.cell_type == "code":
            cell.outputs = whole_streams(cell.outputs)
    return notebook


def whole_streams(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join what a cell printed in one go: the kernel sends it in pieces, cut by the clock."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type != "stream":
            joined.append(output)
        elif joined and joined[-1].output_type == "stream" and joined[-1].name == output.name:
            joined[-1].text += output.text
        else:
            joined.append(nbformat.v4.new_output("stream", name=output.name, text=output.text))
    return joined


def stable_ids(text: str, notebook: nbformat.NotebookNode) -> str:
    """Replace the random ids of widgets and of styled tables by ids that count up in order of first appearance."""
    widgets = {key for bundle in notebook.metadata.get("widgets", {}).values() for key in bundle.get("state", {})}
    ids: dict[str, str] = {}

    def widget(match: re.Match) -> str:
        return ids.setdefault(match[0], f"{len(ids) + 1:032x}") if match[0] in widgets else match[0]

    def table(match: re.Match) -> str:
        return ids.setdefault(match[0], f"T_{len(ids) + 1:05x}")

    return re.sub(r"\bT_[0-9a-f]{5}(?![0-9a-zA-Z])", table, re.sub(r"[0-9a-f]{32}", widget, text))


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute one chapter of the book.")
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--profile", default="quick", choices=["quick", "cpu", "paper"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    try:
        notebook = clean(execute(args.source, args.log, {"profile": args.profile, "seed": args.seed}))
    except papermill.PapermillExecutionError as error:
        sys.exit(f"{args.source} failed: {error}\nThe notebook as far as it ran, with the traceback: {args.log}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_suffix(".partial")
    nbformat.write(notebook, partial)
    os.replace(partial, args.output)
    print(f"{args.source.stem}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
