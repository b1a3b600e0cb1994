"""Full-scale results on file, the documents' claims, and both side by side with a verdict.

One file per run holds what happened to every image (:class:`~hybridgen_lib.measurement.Outcomes`), its key and where it
came from; every number is computed from that. ``claims.csv`` beside this file holds what the documents print and say.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import pandas as pd
import torch

from . import __version__
from .classifier import check_choice, check_number
from .data import ImageData
from .measurement import Estimate, Outcomes, paired_difference

__all__ = ["NOT_RUN", "claim_verdict", "claims", "load", "number_verdict", "order_verdict", "path_of", "record", "scoreboard"]

DOCUMENTS = ("hybrid", "deepbayes", "interpretable", "zoo", "causalib")
PROFILES = ("paper", "cpu")  # the better one first; a quick run is never recorded
PROTOCOLS = ("as_published", "adaptive")
NOT_RUN = "not yet run at full scale"
REASONS = ("no data here", NOT_RUN, "the document does not say enough", "chapter not written yet")
_KEY = ("document", "data", "claim_data", "model", "profile", "seed", "protocol", "attack", "norm", "steps")
_KEY += ("reading", "variant", "stand_in", "chapter")
_TOLERANCE, _MARGIN = 0.05, 0.4  # 5 points make "reproduced", excluding 2 of those 5 makes "differs"
_UNDECIDED = "undecided at this n"


# ---------------------------------------------------------------- files


def _folder(root) -> Path:
    clone = Path(__file__).resolve().parents[1]
    return Path(root) if root is not None else (clone if (clone / "pyproject.toml").exists() else Path()) / "results"


def _path(key: Mapping) -> Path:
    """``<document>/<data>/<model>-<profile>-s<seed>-<protocol>-<attack>.json``, the attack with what else tells runs apart."""
    attack = [key["attack"], key["norm"] if key["norm"] != "linf" else "", str(key["steps"]), key["reading"], key["variant"]]
    run = [key["model"], key["profile"], f"s{key['seed']}", key["protocol"], *filter(None, attack)]
    data, file = (re.sub(r"[^\w.=,@+-]+", "_", name) for name in (key["data"], "-".join(run)))
    return Path(key["document"], data, file + ".json")


def _rows(outcomes: Outcomes) -> list[dict]:
    table = outcomes.table()
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _git(*arguments: str) -> str | None:
    where = Path(__file__).resolve().parent
    try:
        return subprocess.run(["git", "-C", where, *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def record(outcomes: Outcomes, root: str | Path | None = None, *, data: ImageData, device: str = "cpu", **key) -> Path:
    """Write one run to its file (to a temporary name first) and return the path. The same key replaces the earlier run.

    Args:
        outcomes: what happened to each image; without radii for ``attack="none"``, clean accuracy alone.
        root: folder of results, by default ``results`` of the clone this package lies in.
        data: the data set that was used; its name enters the key, its checksum the provenance.
        device: where the model ran.
        key: which run this is, as :func:`path_of` takes it.

    Raises:
        ValueError: for anything that is not so.
    """
    if not isinstance(outcomes, Outcomes) or not isinstance(data, ImageData):
        kinds = type(outcomes).__name__, type(data).__name__
        raise ValueError(f"outcomes must be Outcomes and data ImageData, got {kinds[0]} and {kinds[1]}")
    if max(outcomes.index) >= len(data.test_x):
        raise ValueError(f"outcomes speak of image {max(outcomes.index)}, but {data.name} has {len(data.test_x)} test images")
    key = _full_key(data=data, **key)
    _check_outcomes(key, outcomes)
    provenance = {
        "version": __version__,
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "changed_since": bool(_git("status", "--porcelain", "--", ".")),  # is the library what that commit holds?
        "device": str(device),
        "torch": torch.__version__,
        "data_checksum": data.checksum,
        "seconds": round(sum(outcomes.seconds), 3),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    path = _folder(root) / _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"key": key, "provenance": provenance, "rows": _rows(outcomes), "outcomes": outcomes.to_dict()}
    part = path.with_name(f".{os.getpid()}-{path.name}")
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'), allow_nan=False)}" for k, v in content.items())
    part.write_text("{" + lines + "}\n")
    os.replace(part, path)
    return path


def path_of(root: str | Path | None = None, **key) -> Path:
    """The file of one run, whether it is there or not.

    Args:
        root: folder of results, by default ``results`` of the clone this package lies in.
        document: which document's claims it speaks to: hybrid, deepbayes, interpretable, zoo or causalib.
        data: the data set (an ``ImageData``).
        model: recipe name; ``changes`` to the recipe are appended, as ``mlp-causalib@alpha=0.01,beta=0.05``.
        profile: cpu or paper; a quick run is no result.
        seed: the seed of training and attack.
        protocol: as_published, or adaptive.
        attack, norm, steps: which attack at which radii (in the outcomes); norm is linf or l2, steps may be empty.
        chapter: two digits, the chapter that explains the run.
        reading: which reading of the document, where it can be read in two ways; variant: ``code`` for a bug of its code.
        stand_in: how the run differs from the document's (other data, width or schedule); then it can never "reproduce".
        claim_data: the document's data set that this one stands in for; by default the data set itself.

    Raises:
        ValueError: for anything that is not so.
    """
    return _folder(root) / _path(_full_key(**key))


def _full_key(
    *,
    document: str,
    data: ImageData,
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
) -> dict:
    plain = {name: f"{v:g}" if isinstance(v, float) else str(v).lower() for name, v in sorted((changes or {}).items())}
    extra = ",".join(f"{name}={v}" for name, v in plain.items())
    key = {
        "document": document, "data": data.name, "claim_data": claim_data or data.name,
        "model": f"{model}@{extra}" if extra else model, "profile": profile, "seed": seed, "protocol": protocol,
        "attack": attack, "norm": norm, "steps": steps, "reading": reading, "variant": variant, "stand_in": stand_in,
        "chapter": chapter,
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


def _check_outcomes(key: Mapping, outcomes: Outcomes) -> None:
    if (key["attack"] == "none") != (not outcomes.epsilons):
        raise ValueError(f"attack must be 'none' exactly where no radius was measured; got {key['attack']!r}")


def _read(root) -> list[dict]:
    """All result files: key, provenance, rows as written, and the outcomes; ``ValueError`` names a bad file."""
    found = []
    for path in sorted(_folder(root).rglob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            content = json.loads(path.read_text())
            content["outcomes"] = Outcomes.from_dict(content["outcomes"])
            _check_key(content["key"])
            _check_outcomes(content["key"], content["outcomes"])
            if path != _folder(root) / _path(content["key"]):
                raise ValueError(f"its key belongs to {_path(content['key'])}")
            found.append({"provenance": content["provenance"], "rows": content["rows"], **content})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no result file: {error}") from error
    return found


def load(root: str | Path | None = None) -> pd.DataFrame:
    """Every recorded number, one row each, computed anew from the outcomes per image.

    Columns: the key (document, data, model, profile, seed, protocol, attack, ...), metric, eps, value, low, high, n,
    seconds, and the provenance. Never holds a quick run.
    """
    tables = [
        item["outcomes"].table().assign(**item["key"], **{k: v for k, v in item["provenance"].items() if k != "seconds"})
        for item in _read(root)
    ]
    measured = ["metric", "eps", "value", "low", "high", "n", "seconds"]
    source = ["version", "commit", "changed_since", "device", "torch", "data_checksum", "date"]
    columns = [*_KEY, *measured, *source]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


# ---------------------------------------------------------------- claims


def claims() -> pd.DataFrame:
    """Every number the five documents print and every comparison they make: one row a claim and reading.

    Columns: document, locator, printed (which of the document's numbers; empty for a comparison), kind (level, bound, gap,
    ratio, order), data, model, versus (what it is compared with), versus_attack and versus_eps (where these differ), metric,
    attack, norm, eps (pixel units), steps, reading, relation (``<``, ``>`` or ``=``), value, tolerance, std (as printed),
    unit, chapter, reason, note, and ``key``: which result settles it. A row has a key or a reason, never both.
    """
    numbers = ("printed", "eps", "versus_eps", "steps", "value", "tolerance", "std")
    text = files("hybridgen_lib") / "claims.csv"
    with text.open() as file:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    for name in numbers:
        table[name] = pd.to_numeric(table[name].replace("", None))
    table["key"] = [_key_of(c) if not c.reason else "" for c in table.itertuples()]
    return table


def _key_of(claim) -> str:
    def side(model, attack, eps):
        run = attack + ("" if math.isnan(claim.steps) else f"{claim.steps:.0f}") + (f"-{claim.norm}" if claim.norm else "")
        return f"{model}/{run}" + ("" if math.isnan(eps) else f"/{eps:.6g}")

    key = f"{claim.document}/{claim.data}/{claim.metric}/{side(claim.model, claim.attack, claim.eps)}"
    if claim.versus:
        since = claim.metric.endswith("_rise")
        eps = claim.eps if math.isnan(claim.versus_eps) or since else claim.versus_eps
        key += f" {claim.relation or '-'} {side(claim.versus, claim.versus_attack or claim.attack, eps)}"
        key += f" since {claim.versus_eps:.6g}" if since else ""
    return key + (f" ({claim.reading})" if claim.reading else "")


# ---------------------------------------------------------------- verdicts: pure functions of an estimate and a claim


def _within(ours: Estimate, value: float, relation: str, tolerance: float) -> bool | None:
    """Is our interval inside the claimed region widened by the tolerance (True), clear of it (False), or neither (None)?"""
    low = -math.inf if relation == "<" else value
    high = math.inf if relation == ">" else value
    if ours.low >= low - tolerance - 1e-12 and ours.high <= high + tolerance + 1e-12:
        return True
    margin = _MARGIN * tolerance
    return False if ours.high < low - margin or ours.low > high + margin else None


def number_verdict(ours: Estimate, value: float, relation: str = "", tolerance: float = _TOLERANCE) -> str:
    """Our as-published interval against a printed number, or a bound (relation ``<`` or ``>``).

    *reproduced* if the interval lies within ``tolerance`` of it, *differs* if it excludes two fifths of that around it
    (5 and 2 points by default), else *undecided at this n*.
    """
    return {True: "reproduced", False: "differs", None: _UNDECIDED}[_within(ours, value, relation, tolerance)]


def claim_verdict(ours: Estimate, value: float, metric: str, relation: str = "", tolerance: float = _TOLERANCE) -> str:
    """Does what a number says about robustness hold under the adaptive protocol?

    A printed accuracy says "at least about this much survives", a printed success rate "at most about this much succeeds";
    a bound says what it says. *stands*, *does not stand*, or *undecided at this n*, by the margins of number_verdict.
    """
    relation = relation or ("<" if metric.startswith("success_rate") else ">")
    return {True: "stands", False: "does not stand", None: _UNDECIDED}[_within(ours, value, relation, tolerance)]


def order_verdict(ours: Estimate, relation: str, tolerance: float = _TOLERANCE) -> str:
    """Does a claimed order hold, by the interval of a paired difference (ours minus versus)?

    ``>``: *stands* if the interval lies above 0, *does not stand* if it excludes a lead of 2 points or more, else
    *undecided at this n*. ``<`` is its mirror. ``=``: stands if the difference is surely under the tolerance.
    """
    check_choice(relation, "relation", ("<", ">", "="))
    if relation == "=":
        return claim_verdict(ours, 0.0, "", "=", tolerance)
    low, high = (ours.low, ours.high) if relation == ">" else (-ours.high, -ours.low)
    return "stands" if low > 0 else "does not stand" if high < _MARGIN * _TOLERANCE else _UNDECIDED


# ---------------------------------------------------------------- the scoreboard


def _candidates(items: list[dict], claim, model: str, attack: str, protocol: str, eps: float) -> dict[tuple, dict]:
    """{(profile, seed): the run that speaks about one side of a claim}; of several attacks the strongest at this radius."""
    best: dict[tuple, dict] = {}
    for item in items:
        key, clean = item["key"], claim.metric == "clean_accuracy"
        same_data = key["data"] == claim.data or (key["stand_in"] and key["claim_data"] == claim.data)
        about = key["document"] == claim.document and same_data and key["model"] == model and not key["variant"]
        if not about or key["reading"] not in ("", claim.reading):
            continue
        if clean or attack == "none":
            fits = key["attack"] == "none"
        else:
            exact = key["attack"] == attack and (math.isnan(claim.steps) or key["steps"] == claim.steps)
            measured = any(math.isclose(eps, e, rel_tol=1e-6) for e in item["outcomes"].epsilons)
            fits = key["protocol"] == protocol and key["norm"] == claim.norm and measured
            fits = fits and (exact or protocol == "adaptive")
        if fits:
            place = key["profile"], key["seed"]
            strength = item["outcomes"].clean.mean() if clean else item["outcomes"].at(eps).mean()
            if place not in best or strength < best[place]["strength"]:
                best[place] = {**item, "strength": strength}
    return best


def _estimate(claim, a: dict, b: dict | None) -> Estimate:
    eps = None if math.isnan(claim.eps) else claim.eps
    if b is None:
        return a["outcomes"].estimate(claim.metric, eps)
    sums = a["provenance"]["data_checksum"], b["provenance"]["data_checksum"]
    if sums[0] != sums[1]:
        raise ValueError(f"{_path(a['key'])} and {_path(b['key'])} must be about the same data, got {sums[0]} and {sums[1]}")
    metric, rise = claim.metric.removesuffix("_rise"), claim.metric.endswith("_rise")
    other = None if math.isnan(claim.versus_eps) else claim.versus_eps
    return paired_difference(a["outcomes"], b["outcomes"], metric, eps, None if rise else other, other if rise else None)


def _verdict(claim, protocol: str, ours: Estimate, stand_in: str) -> str:
    tolerance = _TOLERANCE if math.isnan(claim.tolerance) else claim.tolerance
    if protocol == "as_published":
        if stand_in:
            return ""
        if claim.kind == "order":
            words = {"stands": "reproduced", "does not stand": "differs"}
            verdict = order_verdict(ours, claim.relation, tolerance)
            return words.get(verdict, verdict)
        return number_verdict(ours, claim.value, claim.relation, tolerance)
    if claim.kind == "order":
        verdict = order_verdict(ours, claim.relation, tolerance)
    else:
        verdict = claim_verdict(ours, claim.value, claim.metric, claim.relation, tolerance)
    return f"{verdict} (on {stand_in})" if stand_in and "stand" in verdict else verdict


def _score(items: list[dict], claim, protocol: str) -> list[dict]:
    """One row for each recorded seed of the best recorded profile, or one row that says why there is none."""
    nothing = [{"protocol": protocol, "reason": NOT_RUN}]
    if claim.kind == "ratio" or claim.metric.removesuffix("_rise") not in ("clean_accuracy", "accuracy", "success_rate"):
        return nothing
    sides = [_candidates(items, claim, claim.model, claim.attack, protocol, claim.eps)]
    if claim.versus:
        eps = claim.eps if math.isnan(claim.versus_eps) or claim.metric.endswith("_rise") else claim.versus_eps
        sides.append(_candidates(items, claim, claim.versus, claim.versus_attack or claim.attack, protocol, eps))
    both = [place for place in sides[0] if all(place in side for side in sides)]
    profile = next((p for p in PROFILES if any(place[0] == p for place in both)), None)
    if profile is None:
        return nothing
    rows = []
    for place in sorted(place for place in both if place[0] == profile):
        a, b = sides[0][place], sides[1][place] if claim.versus else None
        ours = _estimate(claim, a, b)
        stand_in = "; ".join(dict.fromkeys(side["key"]["stand_in"] for side in (a, b) if side and side["key"]["stand_in"]))
        row = {"protocol": protocol, "profile": profile, "seed": place[1], "stand_in": stand_in, "by": a["key"]["attack"]}
        rows.append(row | {"ours": ours.value} | dict(zip(("low", "high", "n"), ours[1:], strict=True)))
        rows[-1]["verdict"] = _verdict(claim, protocol, ours, stand_in) if ours.n else _UNDECIDED
    if len({row["verdict"] for row in rows}) > 1:
        for row in rows:
            row["verdict"] = "seeds disagree"
    return rows


def scoreboard(document: str | None = None, chapter: str | None = None, root: str | Path | None = None) -> pd.DataFrame:
    """Every claim (of one document, of one chapter) beside ours: a row for each protocol and recorded seed.

    Columns: those of :func:`claims`, then protocol, profile, seed, by (the attack that was run), ours, low, high, n, verdict,
    stand_in and reason. The as-published row says whether the number is *reproduced*; the adaptive row whether the claim
    *stands*. A claim without a result has a reason instead of a verdict. For a claim about clean accuracy both rows read
    the same run; its level has no adaptive row.
    """
    if document is not None:
        check_choice(document, "document", DOCUMENTS)
    table, items, rows = claims(), _read(root), []
    known = sorted(set(table["chapter"]))
    if chapter is not None:
        check_choice(chapter, "chapter", known)
    for i, claim in zip(table.index, table.itertuples(), strict=True):
        if (document and claim.document != document) or (chapter and claim.chapter != chapter):
            continue
        if claim.reason:
            rows.append({"at": i, "protocol": "", "reason": claim.reason})
            continue
        once = claim.metric == "clean_accuracy" and claim.kind != "order"
        for protocol in PROTOCOLS[:1] if once else PROTOCOLS:
            rows += [{"at": i, **row} for row in _score(items, claim, protocol)]
    blank = {"protocol": "", "profile": "", "seed": math.nan, "by": "", "ours": math.nan, "low": math.nan, "high": math.nan}
    blank |= {"n": math.nan, "verdict": "", "stand_in": "", "reason": ""}
    ours = pd.DataFrame([blank | row for row in rows]).astype({"seed": "Int64", "n": "Int64"})
    return table.drop(columns="reason").merge(ours, left_index=True, right_on="at").drop(columns="at").reset_index(drop=True)
