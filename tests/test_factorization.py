"""Formulas: the seven read as they should, every malformed one says where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridgen_lib.models.factorization import DEEP_BAYES, Factor, Factorization


@pytest.mark.parametrize(
    ("name", "edges", "given"),
    [
        ("gfz", {("z", "y"), ("z", "x"), ("y", "x")}, set()),
        ("gfy", {("y", "z"), ("z", "x"), ("y", "x")}, set()),
        ("gbz", {("z", "y"), ("z", "x")}, set()),
        ("gby", {("y", "z"), ("z", "x")}, set()),
        ("dfx", {("x", "z"), ("z", "y"), ("x", "y")}, {"x"}),
        ("dfz", {("z", "x"), ("z", "y"), ("x", "y")}, set()),
        ("dbx", {("x", "z"), ("z", "y")}, {"x"}),
    ],
)
def test_the_seven_graphs(name, edges, given):
    model = Factorization.parse(DEEP_BAYES[name])
    assert set(model.edges) == edges
    assert model.given == given
    assert model.is_generative == (not given)
    assert Factorization.parse(model.formula) == model


def test_the_formula_as_the_document_prints_it():
    printed = Factorization.parse("p_D(y)p(z|y)p(x|z, y)")
    assert printed == Factorization.parse(DEEP_BAYES["gfy"])
    assert printed.factor_of("x") == Factor(("x",), ("z", "y"))
    assert printed.parents("z") == ("y",)


def test_parents_come_before_children():
    assert Factorization.parse("p(x|z,y) p(y|z) p(z)").variables == ("z", "y", "x")


def test_one_factor_may_make_two_variables():
    hybrid = Factorization.parse("p(z) p(m) p(y) p(x1,x2|y,z,m)")
    assert hybrid.factor_of("x1") is hybrid.factor_of("x2")
    assert ("m", "x2") in hybrid.edges


@pytest.mark.parametrize(
    ("formula", "words", "place"),
    [
        ("", "is empty", 0),
        ("   ", "is empty", 0),
        ("***", "holds no factor", 0),
        ("p(z) p(y|z", "unbalanced brackets", 5),
        ("p(z)) p(y|z)", "unbalanced brackets", 4),
        ("p(z) p((y|z)", "unbalanced brackets", 5),
        ("p(z) hello p(y|z)", "should have a factor", 5),
        ("p(z) p()", "found nothing", 7),
        ("p(z) p(y|)", "found nothing", 9),
        ("p(z) p(y|z,)", "found nothing", 11),
        ("p(z) p(2y|z)", "'2y'", 7),
        ("p(z) p(y|z|x)", "two bars", 10),
        ("p(z) p(y|z) p(y)", "makes 'y' twice", 12),
        ("p(z) p(x|z,y)", "has 'y' behind a bar", 5),
        ("p(z|z)", "its own parent", 0),
        ("p(z) p(y|z,z)", "names 'z' twice", 11),
        ("p(z|y) p(y|z)", "cycle", None),
        ("p(a|c) p(b|a) p(c|b)", "cycle", None),
    ],
)
def test_a_malformed_formula_shows_itself_and_the_place(formula, words, place):
    with pytest.raises(ValueError, match="formula") as caught:
        Factorization.parse(formula)
    message, shown, caret = str(caught.value).split("\n")
    assert words in message
    assert shown == "    " + formula
    if place is not None:
        assert caret.index("^") - 4 == place


def test_what_is_no_text_is_refused():
    with pytest.raises(ValueError, match="formula must be a string"):
        Factorization.parse(None)
    with pytest.raises(ValueError, match="'w' is made by no factor"):
        Factorization.parse("p(z)").factor_of("w")


@given(st.text(alphabet="pqxyz(|), _D", max_size=24))
def test_any_text_is_either_a_graph_or_a_value_error(text):
    try:
        model = Factorization.parse(text)
    except ValueError:
        return
    order = {name: i for i, name in enumerate(model.variables)}
    assert all(order[parent] < order[child] for parent, child in model.edges)
