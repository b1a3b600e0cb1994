"""Figures are drawn with no screen, say what is wrong with bad input, and a slider's pictures travel with it."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hybridgen_lib import figures
from hybridgen_lib.models.factorization import DEEP_BAYES, Factorization

plt.switch_backend("agg")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def pictures(slider_figure):
    tags = [shown.value for shown in slider_figure.children[1].children]
    return [base64.b64decode(tag.split("base64,")[1].split('"')[0]) for tag in tags]


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 1, 28, 28), (5, 3, 32, 32)])
def test_grid_draws_every_image(shape):
    figure = figures.image_grid(torch.rand(shape), columns=3, titles=list("abcde"), row_titles=["up", "down"])
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in drawn] == list("abcde")


def test_grid_shows_bytes_and_floats_alike():
    floats = torch.arange(4.0).reshape(1, 2, 2) / 255
    shown = [figures.image_grid(x).axes[0].images[0].get_array() for x in (floats, (floats * 255).round().to(torch.uint8))]
    np.testing.assert_allclose(*shown, atol=1e-7)


@pytest.mark.parametrize(
    ("images", "settings", "named"),
    [
        (torch.rand(2, 2, 28, 28), {}, "image"),
        (torch.rand(0, 28, 28), {}, "images"),
        (torch.rand(3, 28, 28), {"titles": ["a"]}, "titles"),
        (torch.rand(3, 28, 28), {"row_titles": ["a", "b"]}, "row_titles"),
        (torch.rand(3, 28, 28), {"columns": 0}, "columns"),
    ],
)
def test_grid_names_what_is_wrong(images, settings, named):
    with pytest.raises(ValueError, match=named):
        figures.image_grid(images, **settings)


def explained(rows=3, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, 8, 9, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("overlay", [False, True])
def test_saliency_has_a_row_an_image_a_column_a_model_and_one_scale(channels, overlay):
    maps = {"plain": explained(channels=channels), "robust": 0.1 * explained(channels=channels, seed=1)}
    titles = ["a", "b", "c"]
    figure = figures.saliency_grid(torch.rand(3, channels, 8, 9), maps, row_titles=titles, label="nats", overlay=overlay)
    *grid, bar = figure.axes
    assert [axis.get_title() for axis in grid[:3]] == ["image", "plain", "robust"]
    assert [axis.get_ylabel() for axis in grid[::3]] == titles
    assert bar.get_ylabel() == "nats"
    summed = np.stack([values.sum(1).numpy() for values in maps.values()])
    limit = np.quantile(np.abs(summed), 0.99)
    for row, column in np.ndindex(3, 2):
        shown = grid[3 * row + column + 1].images[-1]
        np.testing.assert_allclose(shown.get_array(), summed[column, row], rtol=1e-5, atol=1e-6)
        assert shown.get_clim() == pytest.approx((-limit, limit))
    figure.canvas.draw()  # alpha that varies by pixel is checked only here
    np.testing.assert_allclose(bar.get_ylim(), (-limit, limit), rtol=1e-6)


@pytest.mark.parametrize("overlay", [False, True])
def test_saliency_of_nothing_at_all_is_white(overlay):
    figure = figures.saliency_grid(torch.zeros(1, 1, 4, 4), {"m": torch.zeros(1, 1, 4, 4)}, overlay=overlay)
    figure.canvas.draw()
    assert figure.axes[1].images[-1].get_clim() == (-1, 1)


@pytest.mark.parametrize(
    ("images", "maps", "settings", "named"),
    [
        (torch.rand(3, 1, 8, 9), {}, {}, "attribution"),
        (torch.rand(0, 1, 8, 9), {"m": explained(0)}, {}, "image"),
        (torch.rand(2, 1, 8, 9), {"m": explained(3)}, {}, "'m'"),
        (torch.rand(3, 1, 9, 9), {"m": explained()}, {}, "'m'"),
        (torch.rand(3, 1, 8, 9), {"m": explained()[:, 0]}, {}, "'m'"),
        (torch.rand(3, 1, 8, 9), {"m": explained() / 0}, {}, "finite"),
        (torch.rand(3, 1, 8, 9), {"m": explained()}, {"row_titles": ["a"]}, "row_titles"),
    ],
)
def test_saliency_names_what_is_wrong(images, maps, settings, named):
    with pytest.raises(ValueError, match=named):
        figures.saliency_grid(images, maps, **settings)


def table():
    rows = [(model, eps, eps * height) for model, height in (("low", 1.0), ("high", 3.0)) for eps in (0.3, 0.1, 0.2)]
    frame = pd.DataFrame(rows, columns=["model", "eps", "value"])
    return frame.assign(low=frame["value"] * 0.9, high=(frame["value"] * 1.1).clip(upper=1))


def test_curves_run_along_x_and_the_legend_follows_their_ends():
    axis = figures.curves(table(), ylabel="success rate").axes[0]
    for line in axis.get_lines():
        assert list(line.get_xdata()) == [0.1, 0.2, 0.3]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["high", "low"]
    assert len(axis.collections) == 2
    assert len({(line.get_color(), line.get_marker()) for line in axis.get_lines()}) == 2


def test_the_ninth_line_is_told_from_the_first_and_an_interval_is_as_wide_as_it_is():
    rows = [(f"model {k}", e, 0.5, 0.3, 0.9) for k in range(9) for e in (0.1, 0.2)]
    axis = figures.curves(pd.DataFrame(rows, columns=["model", "eps", "value", "low", "high"])).axes[0]
    assert len({(line.get_color(), line.get_marker()) for line in axis.get_lines()}) == 9
    heights = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.3, 0.9)


def test_a_single_pixel_that_speaks_is_seen():
    values = torch.zeros(1, 1, 28, 28)
    values[0, 0, 3, 4] = 1e-3
    shown = figures.saliency_grid(torch.zeros(1, 1, 28, 28), {"one": values}).axes[1].get_images()[0]
    assert shown.get_clim() == pytest.approx((-1e-3, 1e-3))


def test_curves_name_the_missing_column():
    with pytest.raises(ValueError, match="low"):
        figures.curves(table().drop(columns="low"))


@pytest.mark.parametrize("name", DEEP_BAYES)
def test_graph_has_a_node_for_every_variable_and_an_arrow_for_every_edge(name):
    model = Factorization.parse(DEEP_BAYES[name])
    axis = figures.draw_graph(model).axes[0]
    kinds = [type(patch).__name__ for patch in axis.patches]
    assert kinds.count("FancyArrowPatch") == len(model.edges)
    assert kinds.count("Rectangle") == len(model.given)
    assert kinds.count("Circle") == len(model.variables) - len(model.given)
    places = {text.get_text().strip("$"): torch.tensor(text.get_position()) for text in axis.texts}

    def at(place):
        return min(places, key=lambda name: (places[name] - torch.tensor(place)).norm())

    arrows = [patch for patch in axis.patches if type(patch).__name__ == "FancyArrowPatch"]
    assert {tuple(map(at, arrow._posA_posB)) for arrow in arrows} == set(model.edges)
    circles = [patch for patch in axis.patches if type(patch).__name__ == "Circle"]
    assert {at(circle.center) for circle in circles if circle.get_facecolor()[:3] == (1, 1, 1)} == {"z"}


def test_slider_shows_the_frame_of_its_position():
    frames = [torch.full((1, 28, 28), value) for value in (0.0, 0.5, 1.0)]
    shown = figures.slider_figure(frames, [0, 0.5, 1], "grey", start=1, alt="a grey square")
    levels = [np.asarray(Image.open(io.BytesIO(png)).convert("L")).mean() / 255 for png in pictures(shown)]
    np.testing.assert_allclose(levels, [0, 0.5, 1], atol=0.01)
    slider, stack = shown.children
    assert slider.index == stack.selected_index == 1
    assert slider.options == (("0", 0), ("0.5", 1), ("1", 2))
    assert all('alt="a grey square; grey' in image.value for image in stack.children)


def test_slider_has_a_picture_and_words_for_those_who_see_no_widget():
    bundle = figures.slider_figure([torch.zeros(28, 28)] * 2, [1, 2], "step", alt="nothing")._repr_mimebundle_()
    assert bundle["text/plain"] == "nothing"
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size == (280, 280)
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_slider_closes_the_figures_it_drew():
    frames = [plt.figure(figsize=(3, 2)) for _ in range(3)]
    figures.slider_figure(frames, "abc", "letter")
    assert not plt.get_fignums()


def test_heavy_slider_warns():
    noise = np.random.default_rng(0).random((12, 3, 280, 280))
    with pytest.warns(UserWarning, match="kB"):
        figures.slider_figure(noise, range(12), "k")


@pytest.mark.parametrize(("values", "start", "named"), [([1], 0, "values"), ([1, 2], 2, "start"), ([1, 2], -1, "start")])
def test_slider_names_what_is_wrong(values, start, named):
    with pytest.raises(ValueError, match=named):
        figures.slider_figure([torch.zeros(28, 28)] * 2, values, "k", start=start)
