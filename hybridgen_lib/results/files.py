"""Full-scale results on file: one run a file, with what happened to every image, its key and where it came from.

Every number is computed from what was measured (:mod:`hybridgen_lib.measurement`), here and again in a test.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hybridgen_lib import __version__
from hybridgen_lib.classifier import check_choice, check_number
from hybridgen_lib.data import ImageData
from hybridgen_lib.measurement import Measured, Outcomes, measured_from

__all__ = ["DOCUMENTS", "PROFILES", "PROTOCOLS", "code_version", "file_of", "folder", "load", "outcomes_of", "path_of", "read"]
__all__ += ["record", "record_report", "reports", "rows_of"]

DOCUMENTS = ("hybrid", "deepbayes", "interpretable", "zoo", "causalib")
PROFILES = ("paper", "cpu")  # the better one first; a quick run is never recorded
PROTOCOLS = ("as_published", "adaptive")
_KEY = ("document", "data", "claim_data", "model", "profile", "seed", "protocol", "attack", "norm", "steps")
_KEY += ("reading", "variant", "stand_in", "chapter", "claim_model")
_REPORT_KEY = ("document", "data", "claim_data", "model", "profile", "seed", "stand_in", "chapter")


def folder(root: str | Path | None = None) -> Path:
    """Where results are: ``root``, by default ``results`` of the clone this package lies in, else of the working folder."""
    clone = Path(__file__).resolve().parents[2]
    return Path(root) if root is not None else (clone if (clone / "pyproject.toml").exists() else Path()) / "results"


def file_of(key: Mapping) -> Path:
    """``<document>/<data>/<model>-<profile>-s<seed>-<protocol>-<attack>.json``, the attack with what else tells runs apart."""
    attack = [key["attack"], key["norm"] if key["norm"] != "linf" else "", str(key["steps"]), key["reading"], key["variant"]]
    run = [key["model"], key["profile"], f"s{key['seed']}", key["protocol"], *filter(None, attack)]
    data, file = (re.sub(r"[^\w.=,@+-]+", "_", name) for name in (key["data"], "-".join(run)))
    return Path(key["document"], data, file + ".json")


def rows_of(outcomes: Measured) -> list[dict]:
    table = outcomes.table()
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _git(*arguments: str) -> str | None:
    where = Path(__file__).resolve().parents[1]  # the library
    try:
        return subprocess.run(["git", "-C", where, *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def record(
    outcomes: Measured,
    root: str | Path | None = None,
    *,
    data: ImageData,
    device: str = "cpu",
    settings: Mapping | None = None,
    **key,
) -> Path:
    """Write one run to its file (to a temporary name first) and return the path. The same key replaces the earlier run;
    another key that would have the same file is refused.

    Args:
        outcomes: what happened to each image, a number for each, or distances between sets of images. Outcomes of an attack
            have no radii for ``attack="none"``, clean accuracy alone.
        root: folder of results, by default ``results`` of the clone this package lies in.
        data: the data set that was used; its name enters the key, its checksum the provenance.
        device: where the model ran.
        settings: what else decides the outcome (samples of the model, draws of the attack, version of the recipe).
        key: which run this is, as :func:`path_of` takes it.

    Raises:
        ValueError: for anything that is not so.
    """
    if not isinstance(outcomes, Measured) or not isinstance(data, ImageData):
        kinds = f"{type(outcomes).__name__} and {type(data).__name__}"
        raise ValueError(f"outcomes must be Outcomes, Values, SetDistances or Survival and data ImageData, got {kinds}")
    if (last := max(getattr(outcomes, "index", [0]))) >= len(data.test_x):
        raise ValueError(f"outcomes speak of image {last}, but {data.name} has {len(data.test_x)} test images")
    key = _full_key(data=data, **key)
    _check_outcomes(key, outcomes)
    provenance = _provenance(data, device) | {
        "settings": dict(settings or {}),
        "seconds": round(float(np.sum(outcomes.seconds)), 3),
    }
    content = {"key": key, "provenance": provenance, "rows": rows_of(outcomes), "outcomes": outcomes.to_dict()}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'), allow_nan=False)}" for k, v in content.items())
    path = folder(root) / file_of(key)
    if path.exists():
        _check_same(json.loads(path.read_text())["key"], key, path)
    return _write(path, "{" + lines + "}\n")


def _check_same(there: Mapping, key: Mapping, path: Path) -> None:
    """``chapter`` and ``stand_in`` say where a run is shown, not which it is."""
    apart = [name for name in key if name not in ("chapter", "stand_in") and there.get(name) != key[name]]
    if apart:
        said = ", ".join(f"{name} {there.get(name)!r} there, {key[name]!r} now" for name in apart)
        raise ValueError(f"key must be that of the run in {path.name}, which it would replace; it has {said}")


def record_report(table: pd.DataFrame, root: str | Path | None = None, *, data: ImageData, device: str = "cpu", **key) -> Path:
    """Write a masking report to its file, a CSV beside the runs of its model, and return the path.

    ``table`` is what :func:`~hybridgen_lib.evaluation.masking_report` gives; the key is that of :func:`record`.
    """
    key = _full_key(data=data, **key)
    table = table.assign(**{name: key[name] for name in _REPORT_KEY}, **_provenance(data, device))
    return _write((folder(root) / file_of(key)).with_suffix(".csv"), table.to_csv(index=False))


def reports(root: str | Path | None = None) -> pd.DataFrame:
    """Every recorded masking report: columns sign, value, passes, verdict, meaning, n, its key and provenance."""
    as_written = {"dtype": {"chapter": str}, "keep_default_na": False, "na_values": {"value": [""]}}
    paths = (path for path in sorted(folder(root).rglob("*.csv")) if not path.name.startswith("."))
    tables = [pd.read_csv(path, **as_written) for path in paths]
    empty = pd.DataFrame(columns=["sign", "value", "passes", "verdict", "meaning", "n", *_REPORT_KEY])
    return pd.concat(tables, ignore_index=True) if tables else empty


@functools.cache
def code_version() -> dict:
    """The commit that the library lies in, and whether it has been changed since; asked once, since what runs was loaded once.

    A long run calls this before its work: somebody may commit meanwhile.
    """
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", ".")
    return {"commit": commit or "unknown", "changed_since": changes is None or bool(changes)}


def _provenance(data: ImageData, device: str) -> dict:
    return {
        "version": __version__,
        **code_version(),
        "device": str(device) + (f", {torch.cuda.get_device_name(device)}" if str(device).startswith("cuda") else ""),
        "torch": torch.__version__,
        "data_checksum": data.checksum,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{path.name}")
    part.write_text(text)
    os.replace(part, path)
    return path


def path_of(root: str | Path | None = None, **key) -> Path:
    """The file of one run, whether it is there or not.

    Args:
        root: folder of results, by default ``results`` of the clone this package lies in.
        document: which document's claims it speaks to: hybrid, deepbayes, interpretable, zoo or causalib.
        data: the data set, an ``ImageData`` or its name.
        model: recipe name; ``changes`` to the recipe are appended, as ``mlp-causalib@alpha=0.01,beta=0.05``.
        profile: cpu or paper; a quick run is no result.
        seed: the seed of training and attack.
        protocol: as_published, or adaptive.
        attack, norm, steps: which attack at which radii (in the outcomes); norm is linf or l2, steps may be empty.
        chapter: two digits, the chapter that explains the run.
        reading: which reading of the document, where it can be read in two ways; variant: ``code`` for a bug of its code.
        stand_in: how the run differs from the document's (other data, width or schedule); then it can never "reproduce".
        claim_data: the document's data set that this one stands in for; by default the data set itself.
        claim_model: the document's model that this one stands in for; by default the model itself.

    Raises:
        ValueError: for anything that is not so.
    """
    return folder(root) / file_of(_full_key(**key))


def _full_key(
    *,
    document: str,
    data: ImageData | str,
    model: str,
    profile: str,
    seed: int,
    protocol: str,
    chapter: str,
    attack: str = "none",
    norm: str = "",
    steps: int | str = "",
    changes: Mapping | None = None,
    reading: str = "",
    variant: str = "",
    stand_in: str = "",
    claim_data: str = "",
    claim_model: str = "",
) -> dict:
    plain = {name: f"{v:g}" if isinstance(v, float) else str(v).lower() for name, v in sorted((changes or {}).items())}
    extra = ",".join(f"{name}={v}" for name, v in plain.items())
    model = f"{model}@{extra}" if extra else model
    data = data if isinstance(data, str) else data.name
    key = {
        "document": document, "data": data, "claim_data": claim_data or data,
        "model": model, "profile": profile, "seed": seed, "protocol": protocol,
        "attack": attack, "norm": norm, "steps": steps, "reading": reading, "variant": variant, "stand_in": stand_in,
        "chapter": chapter, "claim_model": claim_model or model,
    }  # fmt: skip
    _check_key(key)
    return key


def _check_key(key: Mapping) -> None:
    if set(key) != set(_KEY):
        raise ValueError(f"key must have exactly {', '.join(_KEY)}; got {', '.join(key)}")
    check_choice(key["document"], "document", DOCUMENTS)
    check_choice(key["profile"], "profile", PROFILES)
    check_choice(key["protocol"], "protocol", PROTOCOLS)
    check_choice(key["norm"], "norm", ("", "linf", "l2"))
    check_choice(key["variant"], "variant", ("", "code"))
    check_number(key["seed"], "seed", low=0, integer=True)
    if key["steps"] != "":
        check_number(key["steps"], "steps", low=1, integer=True)
    for name in ("model", "attack"):
        if not isinstance(key[name], str) or not re.fullmatch(r"\w[\w.=,@+-]*", key[name]):
            raise ValueError(f"{name} must be a name, got {key[name]!r}")
    if not re.fullmatch(r"\d\d", str(key["chapter"])):
        raise ValueError(f"chapter must be two digits, got {key['chapter']!r}")


def _check_outcomes(key: Mapping, outcomes: Measured) -> None:
    if isinstance(outcomes, Outcomes) and (key["attack"] == "none") != (not outcomes.epsilons):
        raise ValueError(f"attack must be 'none' exactly where no radius was measured; got {key['attack']!r}")


def read(root, document: str | None = None) -> list[dict]:
    """All result files, or one document's: key, provenance, rows as written, the outcomes; ``ValueError`` names a bad file."""
    if document is not None:
        check_choice(document, "document", DOCUMENTS)
    found = []
    for path in sorted((folder(root) / (document or "")).rglob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            content = json.loads(path.read_text())
            content["outcomes"] = measured_from(content["outcomes"])
            content["key"].setdefault("claim_model", content["key"]["model"])  # older files have none
            _check_key(content["key"])
            _check_outcomes(content["key"], content["outcomes"])
            if path != folder(root) / file_of(content["key"]):
                raise ValueError(f"its key belongs to {file_of(content['key'])}")
            found.append({"provenance": content["provenance"], "rows": content["rows"], **content})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no result file: {error}") from error
    return found


def outcomes_of(key: Mapping, root: str | Path | None = None) -> Measured:
    """What happened to each image in a recorded run: from it every number comes, and pairs of runs are compared.

    ``key`` is any row of :func:`load` that belongs to the run, such as ``rows.iloc[0]``. Raises ``ValueError`` where no such
    run is on file.
    """
    path = folder(root) / file_of(key)
    if not path.exists():
        raise ValueError(f"key must be that of a recorded run; there is no {path}")
    return measured_from(json.loads(path.read_text())["outcomes"])


def load(root: str | Path | None = None, *, document: str | None = None) -> pd.DataFrame:
    """Every recorded number (of one document), one row each, computed anew from the outcomes per image.

    Columns: the key (document, data, model, profile, seed, protocol, attack, ...), metric, eps, value, low, high, n,
    seconds, and the provenance. Never holds a quick run.
    """
    measured = ["metric", "eps", "value", "low", "high", "n", "seconds"]
    source = ["version", "commit", "changed_since", "device", "torch", "data_checksum", "date"]
    columns = [*_KEY, *measured, *source]
    items = read(root, document)
    if not items:
        return pd.DataFrame(columns=columns)
    runs = pd.DataFrame([{**item["provenance"], **item["key"]} for item in items])
    runs = runs.drop(columns="seconds", errors="ignore")  # of the whole run; a row has its own
    rows = pd.concat([item["outcomes"].table().assign(run=run) for run, item in enumerate(items)], ignore_index=True)
    return rows.merge(runs, left_on="run", right_index=True)[columns]
