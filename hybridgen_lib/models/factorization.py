"""A graphical model, written as its formula: ``Factorization.parse("p(z) p(y|z) p(x|z,y)")``.

The formula is the constructor. A factor ``p(a|b,c)`` says that the arrows b -> a and c -> a exist; ``p(x)`` alone, for an
image x, says that x is *given*: nothing models it, the factor is a constant and drops out of every comparison of classes.
Chapter 04 builds this by hand. The seven formulas are those of Li, Bradshaw & Sharma (2019), six of them in `deepbayes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

__all__ = ["DEEP_BAYES", "Factor", "Factorization"]

DEEP_BAYES = {
    "gfz": "p(z) p(y|z) p(x|z,y)",
    "gfy": "p(y) p(z|y) p(x|z,y)",
    "gbz": "p(z) p(y|z) p(x|z)",
    "gby": "p(y) p(z|y) p(x|z)",
    "dfx": "p(x) p(z|x) p(y|z,x)",
    "dfz": "p(z) p(x|z) p(y|z,x)",
    "dbx": "p(x) p(z|x) p(y|z)",
}
"""G or D: does y help to make x (generative), or x to make y (discriminative)? F or B: are x and y linked directly (fully
connected), or only through z (bottleneck)? The last letter is the variable that stands at the root."""

_FACTOR = re.compile(r"([a-zA-Z]\w*)\s*\(([^()]*)\)")  # a name, then one pair of brackets with no bracket inside
_NAME = re.compile(r"[a-zA-Z]\w*")


@dataclass(frozen=True)
class Factor:
    """One factor p(variables | parents), such as p(x|z,y) or p(x1,x2|y,z)."""

    variables: tuple[str, ...]
    parents: tuple[str, ...] = ()
    symbol: str = "p"

    def __str__(self) -> str:
        bar = "|" + ",".join(self.parents) if self.parents else ""
        return f"{self.symbol}({','.join(self.variables)}{bar})"


@dataclass(frozen=True)
class Factorization:
    """A product of factors that is a directed acyclic graph with every variable on the left exactly once."""

    factors: tuple[Factor, ...]

    @classmethod
    def parse(cls, formula: str, *, conditions: tuple[str, ...] = ()) -> Factorization:
        """Read a formula such as ``"p(z) p(y|z) p(x|z,y)"``; spaces are free, ``p_D(y)`` reads as ``p(y)``.

        ``conditions`` names variables that may stand behind a bar although no factor makes them (the x and y of a guide
        ``q(z|x,y)``). Raises ``ValueError`` with the formula and a caret under the place for: an empty formula,
        unbalanced brackets, text between factors, a factor without a variable, a name that is none, a variable made twice
        or never, a variable that is its own parent, and a cycle.
        """
        if not isinstance(formula, str):
            raise ValueError(f"formula must be a string such as 'p(z) p(y|z) p(x|z,y)', got {type(formula).__name__}")
        factors, places, position = [], {}, 0
        if not formula.strip():
            raise _error(formula, 0, "is empty; expected factors such as p(z) p(y|z) p(x|z,y)")
        while position < len(formula):
            if formula[position] in " \t\n*":
                position += 1
                continue
            match = _FACTOR.match(formula, position)
            if not match:
                raise _error(formula, position, _why_no_factor(formula, position))
            factor = _read_factor(formula, match)
            for name in factor.variables:
                if name in places:
                    raise _error(formula, match.start(), f"makes {name!r} twice")
                places[name] = match.start()
            factors.append(factor)
            position = match.end()
        if not factors:
            raise _error(formula, 0, "holds no factor; expected some such as p(z) p(y|z) p(x|z,y)")
        for factor in factors:
            for parent in factor.parents:
                if parent not in places and parent not in conditions:
                    place = places[factor.variables[0]]
                    raise _error(formula, place, f"has {parent!r} behind a bar, but no factor makes it")
        graph = {name: f.parents for f in factors for name in f.variables}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as cycle:
            path = cycle.args[1]
            raise _error(formula, places[path[0]], f"has a cycle: {' -> '.join(path)}") from None
        return cls(tuple(factors))

    def __str__(self) -> str:
        return " ".join(map(str, self.factors))

    @property
    def formula(self) -> str:
        """The formula in normal form: one space between factors, none inside."""
        return str(self)

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Every variable that a factor makes, parents before children."""
        order = TopologicalSorter({name: f.parents for f in self.factors for name in f.variables}).static_order()
        made = {name for f in self.factors for name in f.variables}
        return tuple(name for name in order if name in made)

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """The arrows (parent, child) of the graph."""
        return tuple((parent, child) for f in self.factors for child in f.variables for parent in f.parents)

    def parents(self, variable: str) -> tuple[str, ...]:
        """What stands behind the bar in the factor that makes ``variable``."""
        return self.factor_of(variable).parents

    def factor_of(self, variable: str) -> Factor:
        """The factor that makes ``variable``; ``ValueError`` if none does."""
        for factor in self.factors:
            if variable in factor.variables:
                return factor
        raise ValueError(f"variable {variable!r} is made by no factor of {self}; there are {', '.join(self.variables)}")

    @property
    def given(self) -> frozenset[str]:
        """Images that are given, not modelled: names starting with x that stand in a factor without parents."""
        return frozenset(v for f in self.factors if not f.parents for v in f.variables if v.startswith("x"))

    @property
    def is_generative(self) -> bool:
        """True if every image is made by the model, so that pictures can be drawn from it."""
        return not self.given


def _error(formula: str, place: int, what: str) -> ValueError:
    return ValueError(f"formula {what}\n    {formula}\n    {' ' * place}^")


def _why_no_factor(formula: str, position: int) -> str:
    rest = formula[position:]
    if rest.count("(") != rest.count(")"):
        return "has unbalanced brackets from here"
    return "should have a factor such as p(x|z,y) here"


def _read_factor(formula: str, match: re.Match) -> Factor:
    symbol, inside = match.group(1).removesuffix("_D"), match.group(2)
    left, bar, right = inside.partition("|")
    if "|" in right:
        raise _error(formula, match.start(2) + len(left) + 1 + right.index("|"), "has two bars in one factor")
    variables = _names(formula, left, match.start(2))
    parents = _names(formula, right, match.start(2) + len(left) + 1) if bar else ()
    for name in set(variables) & set(parents):
        raise _error(formula, match.start(), f"makes {name!r} its own parent")
    return Factor(variables, parents, symbol)


def _names(formula: str, text: str, place: int) -> tuple[str, ...]:
    names = []
    for part in text.split(","):
        name = part.strip()
        if not _NAME.fullmatch(name):
            found = repr(name) if name else "nothing"
            raise _error(formula, place, f"should have a variable name here, found {found}")
        if name in names:
            raise _error(formula, place, f"names {name!r} twice in one factor")
        names.append(name)
        place += len(part) + 1
    return tuple(names)
