"""The pictures of the book: one style, grids of images, curves with intervals, graphs of models, and a slider of pictures.

A picture is drawn the same way wherever it stands: live in Jupyter, on a page with no kernel behind it, in a test with no
screen. Colours are Okabe and Ito's, which the colour-blind can tell apart; curves also differ by marker.
"""

from __future__ import annotations

import base64
import html
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from PIL import Image
from torch import Tensor

__all__ = ["SliderFigure", "curves", "draw_graph", "image_grid", "saliency_grid", "slider_figure", "use_style"]

STYLE = Path(__file__).with_name("hybridgen.mplstyle")
MARKERS = "osD^vPX*"
SLIDER_BYTES = 300_000
"""What the frames of one slider may weigh together; a committed notebook has room for 1 MB in all."""


def use_style() -> None:
    """Draw every figure from here on in the book's style."""
    plt.style.use(STYLE)


def image_grid(
    images: Tensor | np.ndarray,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 10,
    row_titles: Sequence[str] | None = None,
) -> Figure:
    """Draw images row by row.

    ``images`` is (N, H, W), (N, 1, H, W) or (N, 3, H, W), uint8 or float in [0, 1]; ``titles`` has one entry an image (an
    empty string leaves one out), ``row_titles`` one a row. Returns the figure. Raises ``ValueError`` for other shapes or
    counts.
    """
    pictures = [_picture(image) for image in images]
    if not pictures:
        raise ValueError("images must hold at least one image, got none")
    if columns < 1:
        raise ValueError(f"columns must be 1 or more, got {columns}")
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    for name, given, needed in (("titles", titles, len(pictures)), ("row_titles", row_titles, rows)):
        if given is not None and len(given) != needed:
            raise ValueError(f"{name} must have {needed} entries, got {len(given)}")
    named = sum(any((titles or ())[row * columns : (row + 1) * columns]) for row in range(rows))  # they need room above
    size = (0.78 * columns, 0.78 * rows + 0.2 * named)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="compressed", squeeze=False)
    for k, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(False)
        if k < len(pictures):
            axis.imshow(pictures[k], cmap="gray", vmin=0, vmax=1)
        if titles is not None and k < len(pictures) and titles[k]:
            axis.set_title(titles[k], fontsize=7, loc="center", pad=2)
        if row_titles is not None and k % columns == 0:
            axis.set_ylabel(row_titles[k // columns], fontsize=8, rotation=0, ha="right", va="center")
    return figure


def saliency_grid(
    images: Tensor | np.ndarray,
    attributions: Mapping[str, Tensor | np.ndarray],
    *,
    row_titles: Sequence[str] | None = None,
    label: str = "",
    overlay: bool = False,
) -> Figure:
    """Draw images (a row each) beside what explains them (a column each): red speaks for the class, blue against it.

    ``images`` is (N, channels, H, W), uint8 or float in [0, 1]; ``attributions`` has for the title of a column the values
    (N, channels, H, W), which are summed over channels. All share one scale, from minus to plus the 99th percentile of their
    absolute values, so that a column that is pale has less to say; the colour bar shows it, with ``label`` for the unit.
    ``overlay`` puts the values over the faint image. Returns the figure. Raises ``ValueError`` for other shapes or counts.
    """
    pictures = [_picture(image) for image in images]
    maps = {title: _summed(values, title) for title, values in attributions.items()}
    if not pictures or not maps:
        raise ValueError(f"there must be an image and an attribution at least, got {len(pictures)} and {len(maps)}")
    shape = (len(pictures), *pictures[0].shape[:2])
    for title, values in maps.items():
        if values.shape != shape:
            raise ValueError(f"attributions[{title!r}] must explain {shape} pixels, got {values.shape}")
    if row_titles is not None and len(row_titles) != len(pictures):
        raise ValueError(f"row_titles must have {len(pictures)} entries, got {len(row_titles)}")
    sizes = [np.abs(values) for values in maps.values()]
    limit = np.quantile(sizes, 0.99) or np.max(sizes) or 1.0  # the largest where a hundredth of the pixels speak, or fewer
    scale = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    size = (len(maps) + (1.9 if row_titles is None else 2.9), len(pictures) + 0.25)
    figure, axes = plt.subplots(len(pictures), len(maps) + 1, figsize=size, squeeze=False)
    for row, (line, picture) in enumerate(zip(axes, pictures, strict=True)):
        line[0].imshow(picture, cmap="gray", vmin=0, vmax=1)
        for axis, values in zip(line[1:], maps.values(), strict=True):
            if overlay:
                axis.imshow(picture if picture.ndim == 2 else picture.mean(2), cmap="gray_r", vmin=0, vmax=1, alpha=0.25)
            strength = np.clip(np.abs(values[row]) / limit, 0, 1) if overlay else None
            shown = axis.imshow(values[row], alpha=strength, **scale)
        if row_titles is not None:
            line[0].set_ylabel(row_titles[row], fontsize=8, rotation=0, ha="right", va="center")
    for axis, title in zip(axes[0], ["image", *maps], strict=True):
        axis.set_title(title, fontsize=8, loc="center", pad=3)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(False)
    shown = shown if not overlay else plt.cm.ScalarMappable(plt.Normalize(-limit, limit), "RdBu_r")  # one without alpha
    bar = figure.colorbar(shown, ax=axes, aspect=12 * len(pictures), pad=0.02, ticks=[-limit, 0, limit], format="%.2g")
    bar.ax.tick_params(labelsize=7, length=2)
    bar.set_label(label, fontsize=8)
    return figure


def curves(
    table,
    *,
    x: str = "eps",
    by: str = "model",
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    axis=None,
    names: Sequence[str] | None = None,
) -> Figure:
    """Draw one line with its interval for every value of the column ``by``.

    ``table`` is a DataFrame with the columns ``x``, ``by``, ``value``, ``low`` and ``high``. Names stand in the legend in the
    order in which the lines end, so the eye needs no search. Draws into ``axis`` if one is given. ``names`` are all that the
    neighbouring panels show, in one order, so that a name has one colour and marker in all. Returns the figure.
    """
    missing = {x, by, "value", "low", "high"} - set(table.columns)
    if missing:
        raise ValueError(f"table must have the columns {x}, {by}, value, low, high; it lacks {', '.join(sorted(missing))}")
    if axis is None:
        _, axis = plt.subplots()
    ends = {}
    names = list(table[by].unique() if names is None else names)
    for name, rows in table.groupby(by, sort=False):
        rows, k = rows.sort_values(x), names.index(name)
        marker = MARKERS[(k + k // len(MARKERS)) % len(MARKERS)]  # the ninth line has the first's colour, not its marker
        (line,) = axis.plot(rows[x], rows["value"], marker=marker, color=f"C{k}", label=str(name))
        axis.fill_between(rows[x], rows["low"], rows["high"], color=line.get_color(), alpha=0.15, linewidth=0)
        ends[line] = rows["value"].iloc[-1]
    if table["low"].min() >= 0 and table["high"].max() <= 1:
        axis.set_ylim(-0.03, 1.03)
    axis.set(xlabel=xlabel or x, ylabel=ylabel, title=title)
    axis.legend(handles=sorted(ends, key=ends.get, reverse=True), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return axis.figure


def draw_graph(factorization, *, observed: Sequence[str] = ("x", "y"), axis=None) -> Figure:
    """Draw a model's graph: an arrow from every condition to what it conditions.

    ``factorization`` has ``variables``, ``edges`` (pairs parent, child), ``given`` and ``formula``, as
    :class:`hybridgen_lib.models.factorization.Factorization` does. Shaded circles are observed, white ones hidden, a dashed
    square is given: the model does not say where it comes from. Nodes stand on a circle in one fixed order, so the drawings of
    several models compare at a glance and no arrow runs through a third node. Returns the figure.
    """
    if axis is None:
        _, axis = plt.subplots(figsize=(1.9, 1.9))
    names = sorted(factorization.variables, reverse=True)
    turns = [math.pi / 2 + 2 * math.pi * k / len(names) for k in range(len(names))]
    places = {name: (math.cos(turn), math.sin(turn)) for name, turn in zip(names, turns, strict=True)}
    radius = 0.3
    for parent, child in factorization.edges:
        start, end = np.array(places[parent]), np.array(places[child])
        gap = (
            (end - start)
            / np.linalg.norm(end - start)
            * (radius + 0.06)
            * (1.12 if {parent, child} & factorization.given else 1)
        )
        arrow = FancyArrowPatch(
            start + gap, end - gap, arrowstyle="-|>", mutation_scale=13, linewidth=1.4, color="black", shrinkA=0, shrinkB=0
        )
        axis.add_patch(arrow)
    for name, (left, bottom) in places.items():
        look = {"facecolor": "#cfd8e3" if name in observed else "white", "edgecolor": "black", "linewidth": 1.4}
        if name in factorization.given:
            corner = (left - radius, bottom - radius)
            axis.add_patch(Rectangle(corner, 2 * radius, 2 * radius, linestyle=(0, (3, 2)), **look))
        else:
            axis.add_patch(Circle((left, bottom), radius, **look))
        axis.text(left, bottom, f"${_math_name(name)}$", ha="center", va="center", fontsize=13)
    lowest = min(bottom for _, bottom in places.values())
    axis.set(xlim=(-1.45, 1.45), ylim=(min(-1.05, lowest - 0.45), 1.45), aspect="equal")
    formula = factorization.formula.replace(" ", r"\;")
    axis.set_title(f"${formula}$", fontsize=9, loc="center")
    axis.axis("off")
    return axis.figure


class SliderFigure(widgets.VBox):
    """A slider over pictures. Where no widget can be shown, its first picture and its description stand in for it."""

    def __init__(self, slider: widgets.SelectionSlider, stack: widgets.Stack, fallback: bytes, alt: str):
        super().__init__([slider, stack])
        self._fallback, self._alt = fallback, alt

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "image/png": base64.b64encode(self._fallback).decode(), "text/plain": self._alt}


def slider_figure(frames: Sequence, values: Sequence, label: str, *, start: int = 0, alt: str = "") -> SliderFigure:
    """Show one picture for each position of a slider.

    ``frames`` are matplotlib figures (closed afterwards) or images (H, W), (1, H, W) or (3, H, W), uint8 or float in [0, 1];
    ``values`` has one entry a frame, shown beside the slider; ``label`` names what moves; ``alt`` describes the pictures for
    those who do not see them. The pictures travel with the page and the browser swaps them, so the slider needs no kernel.
    Raises ``ValueError`` if the counts differ or ``start`` is no frame; warns if the pictures weigh more than 300 kB together.
    """
    frames, values = list(frames), list(values)
    if not frames or len(frames) != len(values):
        raise ValueError(f"values must have one entry for each of the {len(frames)} frames (at least one), got {len(values)}")
    if not 0 <= start < len(frames):
        raise ValueError(f"start must lie in 0..{len(frames) - 1}, got {start}")
    pictures = [_png(frame) for frame in frames]
    if (weight := sum(map(len, pictures))) > SLIDER_BYTES:
        warnings.warn(
            f"the {len(frames)} frames weigh {weight // 1000} kB; a page has room for {SLIDER_BYTES // 1000}", stacklevel=2
        )
    alt = alt or f"A picture for each value of {label}: {values[0]} to {values[-1]}"
    options = [(str(value), k) for k, value in enumerate(values)]
    wide = widgets.Layout(width="100%", max_width="420px")
    style = {"description_width": "initial"}
    slider = widgets.SelectionSlider(options=options, index=start, description=label, layout=wide, style=style, tooltip=alt)
    shown = [widgets.HTML(_image_tag(png, f"{alt}; {label} {value}")) for png, value in zip(pictures, values, strict=True)]
    stack = widgets.Stack(shown, selected_index=start)
    widgets.jslink((slider, "index"), (stack, "selected_index"))
    return SliderFigure(slider, stack, pictures[start], alt)


def _image_tag(png: bytes, alt: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<img src="{source}" alt="{html.escape(alt)}" style="max-width: 100%">'


def _math_name(name: str) -> str:
    return f"{name[0]}_{{{name[1:].lstrip('_')}}}" if len(name) > 1 else name


def _picture(image) -> np.ndarray:
    """One image as float (H, W) or (H, W, 3) in [0, 1]."""
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise ValueError(f"an image must be (H, W), (1, H, W) or (3, H, W), got {tuple(array.shape)}")
    if array.dtype == np.uint8:
        return array / 255
    if array.dtype.kind != "f" or not (array >= -1e-6).all() or not (array <= 1 + 1e-6).all():
        raise ValueError(f"an image must be uint8, or float in [0, 1] without NaN; got {array.dtype}")
    return np.clip(array.astype(float), 0, 1)


def _summed(values, title: str) -> np.ndarray:
    """Attributions (N, channels, H, W) as float (N, H, W), summed over channels."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 4 or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"attributions[{title!r}] must be finite floats (N, channels, H, W), got {array.dtype} {array.shape}")
    return array.sum(1, dtype=float)


def _png(frame) -> bytes:
    """A figure, or an image enlarged to about 280 pixels, as a small PNG of at most 64 colours."""
    if isinstance(frame, Figure):
        drawn = io.BytesIO()
        frame.savefig(drawn, format="png", facecolor="white")
        plt.close(frame)
        picture = Image.open(drawn).convert("RGB")
    else:
        pixels = (_picture(frame) * 255).round().astype(np.uint8)
        times = max(1, round(280 / max(pixels.shape[:2])))
        picture = Image.fromarray(pixels.repeat(times, 0).repeat(times, 1))
    out = io.BytesIO()
    picture.quantize(64).save(out, format="png", optimize=True)
    return out.getvalue()
