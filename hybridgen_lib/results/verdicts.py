"""The documents' claims and our results side by side, with a verdict by rule: computed, never written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from hybridgen_lib.classifier import check_choice
from hybridgen_lib.measurement import Estimate, Outcomes, Survival, Values, paired_difference
from hybridgen_lib.results.documents import NOT_RUN, claims
from hybridgen_lib.results.files import PROFILES, PROTOCOLS, file_of, read

__all__ = ["claim_verdict", "number_verdict", "order_verdict", "scoreboard"]

_TOLERANCE, _MARGIN = 0.05, 0.4  # 5 points make "reproduced", excluding 2 of those 5 makes "differs"
_UNDECIDED = "undecided at this n"
_FEW = 20  # images; a bootstrap of fewer is too sure of itself
_DROP = {"roar": "accuracy_drop"}  # by its name in the document
_STANDS_IN = {"fid": "frechet_distance"}  # the same distance in another network's features: never the claim's own number

# ---------------------------------------------------------------- verdicts: pure functions of an estimate and a claim


def _within(ours: Estimate, value: float, relation: str, tolerance: float) -> bool | None:
    """Is our interval inside the claimed region widened by the tolerance (True), clear of it (False), or neither (None)?"""
    check_choice(relation, "relation", ("", "<", ">", "="))
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
    a distance "at most this far", a bound what it says. *stands*, *does not stand*, or *undecided at this n*, by the margins
    of number_verdict.
    """
    relation = relation or ("<" if metric.startswith("success_rate") or _is_distance(metric) else ">")
    return {True: "stands", False: "does not stand", None: _UNDECIDED}[_within(ours, value, relation, tolerance)]


def _is_distance(metric: str) -> bool:
    return metric == "fid" or metric.endswith("_distance")


def order_verdict(ours: Estimate, relation: str, tolerance: float = _TOLERANCE, unit: float = 1.0) -> str:
    """Does a claimed order hold, by the interval of a paired difference (ours minus versus)?

    ``>``: *stands* if the interval lies above 0, *does not stand* if it excludes a lead of 2 points or more, else
    *undecided at this n*. ``<`` is its mirror. ``=``: stands if the difference is surely under the tolerance. A point is a
    hundredth of ``unit``, and the tolerance a share of it: of 1 for shares, of the other side's value for what has no natural
    scale, such as a distance.
    """
    check_choice(relation, "relation", ("<", ">", "="))
    if relation == "=":
        return claim_verdict(ours, 0.0, "", "=", tolerance * unit)
    low, high = (ours.low, ours.high) if relation == ">" else (-ours.high, -ours.low)
    return "stands" if low > 0 else "does not stand" if high < _MARGIN * _TOLERANCE * unit else _UNDECIDED


# ---------------------------------------------------------------- the scoreboard


def _metric(item: dict, claim) -> str | None:
    """Under which name this run measured what the claim speaks of, if it did."""
    metric = _DROP.get(claim.metric, claim.metric.removesuffix("_rise"))
    names = [metric, *([_STANDS_IN[metric]] if item["key"]["stand_in"] and metric in _STANDS_IN else [])]
    return next((name for name in names if name in item["outcomes"].metrics), None)


def _candidates(items: list[dict], claim, model: str, attack: str, protocol: str, eps: float) -> dict[tuple, dict]:
    """{(profile, seed): {how: run}}: the runs that can speak about one side of a claim; ``how`` says which attack it was."""
    found: dict[tuple, dict] = {}
    for item in items:
        key, clean = item["key"], claim.metric == "clean_accuracy"
        same_data = key["data"] == claim.data or (key["stand_in"] and key["claim_data"] == claim.data)
        about = key["document"] == claim.document and same_data and key["claim_model"] == model and not key["variant"]
        if not about or (key["reading"] and key["reading"] not in claim.reading.split("; ")) or not _metric(item, claim):
            continue
        if isinstance(item["outcomes"], Survival):  # adaptive: of several searches in this norm the best
            fits = key["protocol"] == protocol and key["norm"] == claim.norm
            fits = fits and (key["attack"] == attack or protocol == "adaptive")
        elif not isinstance(item["outcomes"], Outcomes):
            fits = key["attack"] == attack and key["protocol"] == protocol
        elif clean or attack == "none":
            fits = key["attack"] == "none"
        else:
            exact = key["attack"] == attack and (math.isnan(claim.steps) or key["steps"] == claim.steps)
            measured = any(math.isclose(eps, e, rel_tol=1e-6) for e in item["outcomes"].epsilons)
            fits = key["protocol"] == protocol and key["norm"] == claim.norm and measured
            fits = fits and (exact or (protocol == "adaptive" and claim.metric != "roar"))
        if fits:
            how = key["attack"], str(key["steps"]), key["reading"]
            left = _left(item["outcomes"], None if clean else eps)
            found.setdefault((key["profile"], key["seed"]), {})[how] = {**item, "left": left}
    return found


def _strongest(*sides: dict) -> list[dict] | None:
    """For each side its run of one attack that all of them have met: the protocol's worst case, else what leaves least.

    A stronger attack on one side alone would decide the order of two models by who was attacked harder.
    """
    shared = [how for how in sides[0] if all(how in side for side in sides)]
    if not shared:
        return None
    how = min(shared, key=lambda how: (how[0] != "worst-case", sum(side[how]["left"] for side in sides)))
    return [side[how] for side in sides]


def _sides(items: list[dict], claim, model: str, attack: str, protocol: str, eps: float) -> dict[tuple, dict]:
    """The same for any claim. Of one about ROAR the adaptive run is that with holes filled in, against its control: before and
    after are here the accuracy without random pixels and without those that the ranking chose, so the drop is what it adds."""
    if claim.metric != "roar" or protocol == "as_published":
        return _candidates(items, claim, model, attack, protocol, eps)
    filled = f"{attack}-linear"
    chosen = _candidates(items, claim, model, filled, protocol, eps)
    control = _candidates(items, claim, model, filled.replace("-ig-", "-random-"), protocol, eps)
    both = [place for place in chosen if place in control]
    return {place: {(filled, "", ""): _beyond(chosen[place], control[place], eps)} for place in both}


def _beyond(chosen: dict, control: dict, eps: float) -> dict:
    (chosen,), (control,) = chosen.values(), control.values()
    ours, chance = chosen["outcomes"], control["outcomes"]
    if ours.index != chance.index or ours.draws != chance.draws:
        raise ValueError(f"{file_of(chosen['key'])} and {file_of(control['key'])} must be about the same images and draws")
    return {**chosen, "outcomes": Outcomes(ours.index, chance.at(eps), [eps], ours.at(eps)[None], ours.draws)}


def _left(outcomes, eps: float | None) -> float:
    """By which of several attacks the strongest is known: the accuracy that it leaves."""
    if not isinstance(outcomes, Outcomes):
        return 0.0
    return (outcomes.clean if eps is None else outcomes.at(eps)).mean().item()


def _estimate(claim, a: dict, b: dict | None) -> Estimate:
    eps = None if math.isnan(claim.eps) else claim.eps
    if b is None:
        return a["outcomes"].estimate(_metric(a, claim), eps)
    sums = a["provenance"]["data_checksum"], b["provenance"]["data_checksum"]
    if sums[0] != sums[1]:
        raise ValueError(
            f"{file_of(a['key'])} and {file_of(b['key'])} must be about the same data, got {sums[0]} and {sums[1]}"
        )
    metric, rise = _metric(a, claim), claim.metric.endswith("_rise")
    if not isinstance(a["outcomes"], Outcomes):
        return a["outcomes"].minus(b["outcomes"], metric)
    other = None if math.isnan(claim.versus_eps) else claim.versus_eps
    return paired_difference(a["outcomes"], b["outcomes"], metric, eps, None if rise else other, other if rise else None)


def _verdict(claim, protocol: str, ours: Estimate, stand_in: str, unit: float) -> str:
    tolerance = _TOLERANCE if math.isnan(claim.tolerance) else claim.tolerance
    if stand_in and claim.kind != "order" and (protocol == "as_published" or _is_distance(claim.metric)):
        return ""  # another model's number is neither reproduced nor missed; another network's distance has another scale
    if protocol == "as_published" and not stand_in:
        if claim.kind == "order":
            words = {"stands": "reproduced", "does not stand": "differs"}
            verdict = order_verdict(ours, claim.relation, tolerance, unit)
            return words.get(verdict, verdict)
        return number_verdict(ours, claim.value, claim.relation, tolerance)
    if claim.kind == "order":
        verdict = order_verdict(ours, claim.relation, tolerance, unit)
    else:
        verdict = claim_verdict(ours, claim.value, claim.metric, claim.relation, tolerance)
    return f"{verdict} (on {stand_in})" if stand_in and "stand" in verdict else verdict


def _score(items: list[dict], claim, protocol: str) -> list[dict]:
    """One row for each recorded seed of the best recorded profile, or one row that says why there is none."""
    nothing = [{"protocol": protocol, "reason": NOT_RUN}]
    if claim.kind == "ratio":
        return nothing
    sides = [_sides(items, claim, claim.model, claim.attack, protocol, claim.eps)]
    if claim.versus:
        eps = claim.eps if math.isnan(claim.versus_eps) or claim.metric.endswith("_rise") else claim.versus_eps
        sides.append(_sides(items, claim, claim.versus, claim.versus_attack or claim.attack, protocol, eps))
    runs = {}
    for place in sides[0]:
        met = [side.get(place, {}) for side in sides]
        apart = [_strongest(side) for side in met] if claim.versus_attack else [_strongest(*met)]  # two attacks, or one
        if None not in apart:
            runs[place] = [run for chosen in apart for run in chosen]
    profile = next((p for p in PROFILES if any(place[0] == p for place in runs)), None)
    if profile is None:
        return nothing
    rows = []
    for place in sorted(place for place in runs if place[0] == profile):
        a, b = runs[place][0], runs[place][1] if claim.versus else None
        ours = _estimate(claim, a, b)
        stand_in = "; ".join(dict.fromkeys(side["key"]["stand_in"] for side in (a, b) if side and side["key"]["stand_in"]))
        row = {"protocol": protocol, "profile": profile, "seed": place[1], "stand_in": stand_in, "by": a["key"]["attack"]}
        rows.append(row | {"ours": ours.value} | dict(zip(("low", "high", "n"), ours[1:], strict=True)))
        unit = abs(b["outcomes"].estimate(_metric(b, claim)).value) if b and not isinstance(b["outcomes"], Outcomes) else 1.0
        enough = ours.n >= (_FEW if isinstance(a["outcomes"], Values | Survival) else 1)
        verdict = _verdict(claim, protocol, ours, stand_in, unit)
        rows[-1]["verdict"] = verdict if enough or (ours.n and not verdict) else _UNDECIDED
    if len({row["verdict"] for row in rows}) > 1:
        for row in rows:
            row["verdict"] = "seeds disagree"
    return rows


def scoreboard(document: str | None = None, chapter: str | None = None, root: str | Path | None = None) -> pd.DataFrame:
    """Every claim (of one document, of one chapter) beside ours: a row for each protocol and recorded seed.

    Columns: those of :func:`claims`, then protocol, profile, seed, by (the attack that was run), ours, low, high, n, verdict,
    stand_in and reason. The as-published row says whether the number is *reproduced*; the adaptive row whether the claim
    *stands*. A run that stands in for the document's is never a reproduction: of an order both its rows say whether it
    "stands (on ...)". A claim without a result has a reason instead of a verdict. For a claim about clean accuracy both rows
    read the same run; a level without an attack has no adaptive row. A number of ROAR has none either, since the corrected
    measure, what a ranking adds to random pixels where holes are filled in, is another number; an order has both. Nor have
    `causalib`'s claims in l2, AutoAttack by three readings of a radius and C&W at any distance: its protocol is in linf. Nor
    has an order of two attacks on one model, as the adaptive protocol knows only the strongest.
    """
    table, items, rows = claims(), read(root, document), []
    known = sorted(set(table["chapter"]))
    if chapter is not None:
        check_choice(chapter, "chapter", known)
    for i, claim in zip(table.index, table.itertuples(), strict=True):
        if (document and claim.document != document) or (chapter and claim.chapter != chapter):
            continue
        if claim.reason:
            rows.append({"at": i, "protocol": "", "reason": claim.reason})
            continue
        once = (claim.attack == "none" or claim.metric == "roar") and claim.kind != "order"
        once |= claim.document == "causalib" and claim.norm == "l2"
        once |= bool(claim.versus_attack)  # adaptive, both sides would be the same strongest run
        for protocol in PROTOCOLS[:1] if once else PROTOCOLS:
            rows += [{"at": i, **row} for row in _score(items, claim, protocol)]
    blank = {"protocol": "", "profile": "", "seed": math.nan, "by": "", "ours": math.nan, "low": math.nan, "high": math.nan}
    blank |= {"n": math.nan, "verdict": "", "stand_in": "", "reason": ""}
    ours = pd.DataFrame([blank | row for row in rows], columns=["at", *blank]).astype({"seed": "Int64", "n": "Int64"})
    return table.drop(columns="reason").merge(ours, left_index=True, right_on="at").drop(columns="at").reset_index(drop=True)
