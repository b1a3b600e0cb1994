"""What the five documents print and say, one row a claim: ``claims.csv``, and the result that settles each."""

from __future__ import annotations

import math
from importlib.resources import files

import pandas as pd

__all__ = ["NOT_RUN", "REASONS", "claims"]

NOT_RUN = "not yet run at full scale"
REASONS = ("no data here", NOT_RUN, "the document does not say enough", "chapter not written yet")


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
