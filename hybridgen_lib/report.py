"""How a chapter shows recorded results: curves, tables, verdicts and paired differences, or the words that there are none.

Each function takes rows of :func:`hybridgen_lib.results.load` or :func:`hybridgen_lib.results.scoreboard`. Where a table holds
nothing it says "not yet run at full scale"; no number of a quick run ever takes its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridgen_lib import figures
from hybridgen_lib.results import NOT_RUN

__all__ = ["PROTOCOL_TITLES", "beside", "curves_by_protocol", "differences", "every_claim", "left", "percent", "rates"]
__all__ += ["radius", "stages", "survivors", "timings", "verdicts", "without_stages"]

PROTOCOL_TITLES = {"as_published": "as published", "adaptive": "adaptive"}

STAGES = {
    "pgd": "pgd",
    "pgd+autoattack": "autoattack",
    "pgd+autoattack+square": "square",
    "worst-case": "transfer",
}
"""The recorded stages of the adaptive protocol, and the attack that each adds to the one before."""


def percent(value: float, low: float, high: float) -> str:
    """A share with its interval, in per cent: ``"83 [75, 89]"``."""
    return f"{100 * value:z.0f} [{100 * low:z.0f}, {100 * high:z.0f}]"  # z: no minus in front of 0


def radius(eps: float) -> str:
    """A radius as a reader would write it: ``"0.3"``, ``"8/255"``, ``"any"`` from 1,000 on, and nothing for NaN."""
    if math.isnan(eps):
        return ""
    short, levels = f"{eps:.3g}", round(255 * eps)
    if eps >= 1_000:
        return "any"
    return f"{levels}/255" if abs(float(short) - eps) > 1e-9 and abs(255 * eps - levels) < 1e-4 else short


def rates(rows: pd.DataFrame, columns: str | list[str] = "eps") -> pd.DataFrame:
    """A table with one row per model and one column per value of ``columns``; cells read "83 [75, 89]", in per cent."""
    if rows.empty:
        return pd.DataFrame({"": [NOT_RUN]}, index=[""])
    cells = [percent(row.value, row.low, row.high) for row in rows.itertuples()]
    shown = rows.assign(cell=cells, n=rows["n"].astype(int), model=pd.Categorical(rows["model"], rows["model"].unique()))
    return shown.pivot(index=["profile", "seed", "model", "n"], columns=columns, values="cell").fillna(NOT_RUN)


def without_stages(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` without what the adaptive protocol's attacks had left on the way to its worst case. The first of these is
    recorded as ``pgd``, as a document's own attack is; :func:`stages` shows them."""
    passing = [attack for attack in STAGES if attack != "worst-case"]
    return rows[(rows["protocol"] != "adaptive") | ~rows["attack"].isin(passing)]


def left(rows: pd.DataFrame, model: str, attack: str, eps: float) -> float:
    """The recorded accuracy of one model under one attack in linf, as a document's text has it; NaN where there is none.

    ``ValueError`` if ``rows`` hold several, of two seeds for example: to pool them would hide that they differ.
    """
    rows = without_stages(rows)
    part = rows[(rows["model"] == model) & (rows["attack"] == attack) & (rows["variant"] == "")]
    part = part[np.isclose(part["eps"], eps, rtol=1e-6, atol=0)]  # a radius may have been computed in another way
    part = part[(part["metric"] == "accuracy") & (part["norm"] == "linf")]
    if len(part) > 1:
        names = ("document", "data", "profile", "seed", "protocol", "steps", "reading")
        apart = [name for name in names if part[name].nunique() > 1]
        raise ValueError(f"rows must hold one accuracy of {model} under {attack} at {eps}, got several, by {', '.join(apart)}")
    return part["value"].item() if len(part) else math.nan


def timings(benchmark: str) -> pd.DataFrame:
    """What ``benchmarks/<benchmark>.py`` timed last, each case's best against the best of its reference.

    Columns ``timed`` (the table's title), ``case``, ``reference``, ``ratio``; no rows where nothing was timed.
    """
    raw, rows = Path(__file__).parents[1] / "benchmarks" / "raw" / f"{benchmark}.json", []
    for table in json.loads(raw.read_text())["tables"] if raw.exists() else []:
        best = {case["case"]: min(case["seconds"]) for case in table["cases"]}
        reference = table["reference"]
        rows += [(table["title"], case, reference, best[case] / best[reference]) for case in best if case != reference]
    return pd.DataFrame(rows, columns=["timed", "case", "reference", "ratio"])


def beside(rows: pd.DataFrame, printed: dict[tuple[str, str], float], models: list[str], attacks: list[str]) -> pd.DataFrame:
    """The document's number and ours for each of ``models`` (lines) and ``attacks`` (pairs of columns), in per cent.

    ``rows`` are recorded accuracies at one radius of one seed, ``printed`` the document's, as shares, by model and attack. An
    attack for which nothing is printed has our column only; a number that is missing reads "–". Raises ``ValueError`` if
    ``rows`` hold a cell twice.
    """
    if rows.duplicated(["model", "attack"]).any():
        raise ValueError("rows must hold one number for each model and attack, of one metric, radius and seed; got several")
    ours = {(row.model, row.attack): percent(row.value, row.low, row.high) for row in rows.itertuples()}
    columns = [(attack, "document") for attack in attacks if any(attack == said for _, said in printed)]
    columns = sorted([*columns, *((attack, "ours") for attack in attacks)], key=lambda column: attacks.index(column[0]))

    def cell(model: str, attack: str, whose: str) -> str:
        if whose == "ours":
            return ours.get((model, attack), "–")
        share = printed.get((model, attack), math.nan)
        return "–" if math.isnan(share) else f"{100 * share:.1f}"

    cells = [[cell(model, *column) for column in columns] for model in models]
    return pd.DataFrame(cells, index=models, columns=pd.MultiIndex.from_tuples(columns))


def curves_by_protocol(rows: pd.DataFrame, titles: dict[str, str], ylabel: str) -> Figure:
    """One row of panels a seed, one panel a protocol (``titles`` names them), one line a model, in the same colours."""
    seeds, names = sorted(rows["seed"].unique()) or [0], list(rows["model"].unique())
    size = (4.8 * len(titles), 3.6 * len(seeds))
    figure, axes = plt.subplots(len(seeds), len(titles), figsize=size, squeeze=False, sharey=True)
    for line, seed in zip(axes, seeds, strict=True):
        for axis, (protocol, title) in zip(line, titles.items(), strict=True):
            part = rows[(rows["seed"] == seed) & (rows["protocol"] == protocol)]
            if part.empty:
                axis.text(0.5, 0.5, NOT_RUN, ha="center", transform=axis.transAxes)
                axis.set(title=title, xlabel="ε")
            else:
                words = f"{title}, seed {seed}" if len(seeds) > 1 else title
                figures.curves(part, xlabel="ε", ylabel=ylabel, title=words, axis=axis, names=names)
        _one_legend(line)
        for axis in line[1:]:
            axis.set_ylabel("")
    return figure


def _one_legend(axes: Iterable) -> None:
    """The legends of panels that share their colours, as one at the last: its own lines first, as they end there."""
    handles = {}
    for axis in reversed(list(axes)):
        if legend := axis.get_legend():
            lines = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
            handles = {text.get_text(): lines[text.get_text()] for text in legend.texts} | handles
            legend.remove()
    if handles:
        axes[-1].legend(handles=list(handles.values()), loc="center left", bbox_to_anchor=(1, 0.5))


def verdicts(board: pd.DataFrame, in_words: Callable) -> pd.DataFrame:
    """Count the verdicts of a scoreboard: a row per sentence and eps, a column per protocol, cells like "5 stands".

    ``in_words(claim)`` gives the sentence that a row of the scoreboard belongs to. A comparison with a printed number counts
    once, whatever the number of seeds and of tables that print it; what has no verdict shows its reason.
    """
    board = board.assign(claim=[in_words(claim) for claim in board.itertuples()], ε=board["eps"].map(radius))
    board["protocol"] = board["protocol"].map(PROTOCOL_TITLES).fillna("as published")
    board["said"] = board["verdict"].where(board["verdict"] != "", board["reason"]).replace("", "no verdict (stand-in)")
    about = board[_ABOUT].astype(str)  # as words, for no NaN equals another; a number printed in two tables counts once
    once = board[~about.assign(claim=board["claim"], protocol=board["protocol"]).duplicated()]
    counts = once.groupby(["claim", "ε", "protocol"], sort=False, dropna=False)["said"].agg(
        lambda said: ", ".join(f"{count} {words}" for words, count in said.value_counts().items())
    )
    table = counts.unstack("protocol", fill_value="").reindex(columns=list(PROTOCOL_TITLES.values()), fill_value="")
    return table.loc[pd.MultiIndex.from_frame(once[["claim", "ε"]].drop_duplicates())]


_ABOUT = ["document", "printed", "kind", "data", "model", "versus", "versus_attack", "versus_eps", "metric"]
_ABOUT += ["attack", "norm", "eps", "steps", "reading", "relation"]
"""What a claim says, wherever it stands."""


def every_claim(board: pd.DataFrame) -> pd.DataFrame:
    """A scoreboard with one claim a line: where it stands, what it is about, what is printed, ours and the verdict.

    Columns ``where, claim, ε, printed``, then for each protocol ours, in per cent where it is a share, and the verdict or the
    reason why there is none. Several seeds stand side by side in a cell.
    """
    by_claim: dict[tuple, list] = {}
    for row in board.itertuples():
        about = tuple(str(getattr(row, name)) for name in ("locator", *_ABOUT))
        by_claim.setdefault(about, []).append(row)
    lines = []
    for claim, *others in by_claim.values():
        line = {"where": claim.locator, "claim": _about(claim), "ε": radius(claim.eps)}
        line["printed"] = "" if math.isnan(claim.value) else f"{claim.relation} {_printed(claim.value, claim.unit)}".strip()
        for protocol, title in PROTOCOL_TITLES.items():
            mine = [row for row in (claim, *others) if row.protocol in (protocol, "")]
            line[title] = "; ".join(_ours(row) for row in mine if not math.isnan(row.ours))
            line[f"{title}: verdict"] = "; ".join(dict.fromkeys(map(_said, mine)))
        lines.append(line)
    columns = [name for title in PROTOCOL_TITLES.values() for name in (title, f"{title}: verdict")]
    return pd.DataFrame(lines, columns=["where", "claim", "ε", "printed", *columns])


def _about(claim) -> str:
    """The claim in a few words: ``gmm, accuracy, pgd linf, mnist``, or ``gfz < dfx, ...`` for an order."""
    where = "" if math.isnan(claim.versus_eps) else f" at {radius(claim.versus_eps)}"
    other = f"{claim.versus}{where}" + (f" under {claim.versus_attack}" if claim.versus_attack else "")
    sides = f"{claim.model} {claim.relation or '−'} {other}" if claim.versus else claim.model
    attack = "" if claim.attack in ("", "none") else f"{claim.attack} {claim.norm}".strip()
    words = [sides, claim.metric.replace("_", " "), attack, claim.data, claim.reading]
    return ", ".join(word for word in words if word)


def _printed(value: float, unit: str) -> str:
    """Every digit that the document prints."""
    return f"{round(100 * value, 6):.10g} %" if unit == "fraction" else f"{value:.10g}"


def _said(row) -> str:
    """The verdict, or why there is none: the reason, or what stood in for the document's data and model."""
    if row.verdict or row.reason:
        return row.verdict or row.reason
    return f"no verdict (on {row.stand_in})" if row.stand_in and not math.isnan(row.ours) else ""


def _ours(row) -> str:
    if row.unit == "fraction":
        return percent(row.ours, row.low, row.high)
    return f"{row.ours:.3g} [{row.low:.3g}, {row.high:.3g}]"


def differences(board: pd.DataFrame, xlabel: str) -> Figure | None:
    """The comparisons of two models in a scoreboard: a panel per eps, a line per pair, a marker and interval per protocol."""
    pairs = board[(board["versus"] != "") & (board["model"] != board["versus"]) & board["ours"].notna()]
    if pairs.empty:
        print(NOT_RUN)
        return None
    several = pairs["seed"].nunique() > 1
    names = pairs["model"] + " − " + pairs["versus"] + (pairs["seed"].map(" (seed {})".format) if several else "")
    pairs = pairs.assign(pair=names)
    order = list(dict.fromkeys(names))
    size = (7.6, 1 + 0.3 * len(order))
    panels = list(pairs.groupby("eps", dropna=False))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, sharex=True)
    for axis, (eps, part) in zip(axes[0], panels, strict=True):
        for k, (protocol, title) in enumerate(PROTOCOL_TITLES.items()):
            rows = part[part["protocol"] == protocol]
            heights = [order.index(pair) + 0.25 * k for pair in rows["pair"]]
            reach = [rows["ours"] - rows["low"], rows["high"] - rows["ours"]]
            axis.errorbar(rows["ours"], heights, xerr=reach, fmt="os"[k], label=title)
        axis.axvline(0, color="black", linewidth=1)
        axis.set(title=f"ε = {radius(eps)}" if radius(eps) else "", xlabel=xlabel)
    axes[0, 0].set_yticks([k + 0.12 for k in range(len(order))], order)
    axes[0, 0].set_ylim(len(order) - 0.4, -0.4)  # the first pair on top
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    return figure


def stages(rows: pd.DataFrame) -> pd.DataFrame:
    """The adaptive protocol step by step: accuracy clean and after each of its attacks, out of recorded rows.

    Columns ``model, profile, seed, eps, attack, value, low, high, n``, in the order of the attacks, as :func:`survivors` draws
    them; no rows if the protocol was not run.
    """
    rows = rows[(rows["protocol"] == "adaptive") & rows["attack"].isin(STAGES)]
    left = rows[rows["metric"] == "accuracy"].assign(attack=lambda table: table["attack"].map(STAGES))
    clean = rows[(rows["metric"] == "clean_accuracy") & (rows["attack"] == "worst-case")].drop(columns="eps")
    keys = ["model", "profile", "seed"]
    clean = clean.assign(attack="clean").merge(left[[*keys, "eps"]].drop_duplicates(), on=keys)
    both = pd.concat([clean, left], ignore_index=True)
    order = {attack: k for k, attack in enumerate(["clean", *STAGES.values()])}
    both = both.sort_values("attack", key=lambda names: names.map(order), kind="stable")
    return both[[*keys, "eps", "attack", "value", "low", "high", "n"]]


def survivors(table: pd.DataFrame) -> Figure | None:
    """What falls to which attack: a panel for each eps, a bar for each model, with the interval of what stands at the end.

    ``table`` has columns ``model, eps, attack, value, low, high``: for each model and eps the accuracy ``clean``, then after
    each attack in turn, as :func:`stages` gives it or :func:`~hybridgen_lib.evaluation.evaluate_robustness` (add the model and
    eps, leave out its last row). Several seeds of a model get a bar each. If ``table`` is empty it says so and returns None.
    """
    if table.empty:
        print(NOT_RUN)
        return None
    several = "seed" in table and table["seed"].nunique() > 1
    table = table.assign(bar=table["model"] + (table["seed"].map(" (seed {})".format) if several else ""))
    bars = list(dict.fromkeys(table["bar"]))
    kinds = {"stands": "C2", "transfer": "C3", "square": "C4", "autoattack": "C5", "pgd": "C1", "clean": "#d0d0d0"}
    size = (4.2 * table["eps"].nunique() + 1.6, 1.1 + 0.34 * len(bars))
    figure, axes = plt.subplots(1, table["eps"].nunique(), figsize=size, squeeze=False, sharey=True)
    for axis, (eps, panel) in zip(axes[0], table.groupby("eps"), strict=True):
        for height, bar in enumerate(bars):
            rows = panel[panel["bar"] == bar]
            if rows.empty:
                continue
            edges = [1.0, *rows["value"]]
            for kind, right, left in zip(rows["attack"], edges, edges[1:], strict=False):
                axis.barh(height, max(0.0, right - left), left=left, color=kinds[kind])
            end = rows.iloc[-1]
            axis.barh(height, end["value"], color=kinds["stands"])
            axis.plot([end["low"], end["high"]], [height, height], color="black", linewidth=1.5)
        axis.set(title=f"ε = {radius(eps)}", xlabel="share of images", xlim=(0, 1), yticks=range(len(bars)))
        axis.set_yticklabels(bars)
    axes[0, 0].invert_yaxis()
    shown = [kind for kind in kinds if kind == "stands" or kind in set(table["attack"])]
    words = {"clean": "wrong without attack", "stands": "stands, 95 %", "pgd": "falls to PGD", "autoattack": "AutoAttack"}
    patches = [plt.Rectangle((0, 0), 1, 1, color=kinds[kind]) for kind in shown]
    names = [words.get(kind, kind.capitalize()) for kind in shown]
    figure.legend(patches, names, loc="outside right center")
    return figure
