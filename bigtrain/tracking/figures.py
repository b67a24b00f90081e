"""Pictures for TensorBoard and reports: an image grid with predictions, a confusion matrix, a map of decisions,
predicted against true values, and the importance of the settings of a search.

Each function returns (height, width, 3) uint8. matplotlib is imported on first use, through its object
interface on an Agg canvas: no window, no global state, and nothing left open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_RIGHT, _WRONG = "#1a7f37", "#cf222e"
_MOST_CELLS_WITH_NUMBERS = 20  # classes up to which a cell has room for its number
_MOST_NAMES = 50  # classes up to which an axis has room for names
_MOST_PANELS = 9  # values that are drawn, the first ones
_CAPTION_LENGTH = 14


def image_grid(
    images: np.ndarray, labels: Sequence[int], predictions: Sequence[int], names: Sequence[str] = ()
) -> np.ndarray:
    """Images (N, C, H, W) uint8, C 1 or 3, in a near-square grid.

    A right prediction has a green frame and its class under it; a wrong one a red frame, the predicted class,
    and "is" the true one. `names` are the classes' names; without them their numbers stand. Raises ValueError
    for no image.
    """
    pixels = np.asarray(images).transpose(0, 2, 3, 1)
    if pixels.shape[3] not in (1, 3):  # no colours to draw: their mean, as grey
        pixels = pixels.mean(axis=3, keepdims=True)
    count = len(pixels)
    if count == 0:
        raise ValueError("image_grid needs at least one image")
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    figure = empty_figure(1.25 * columns, 1.5 * rows)
    for index in range(count):
        axes = figure.add_subplot(rows, columns, index + 1)
        # One channel is drawn as grey; imshow wants it without its axis.
        axes.imshow(
            pixels[index].squeeze(-1) if pixels.shape[3] == 1 else pixels[index],
            cmap="gray",
            vmin=0,
            vmax=255,
        )
        label, prediction = int(labels[index]), int(predictions[index])
        right = label == prediction
        color = _RIGHT if right else _WRONG
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color=color, linewidth=2.5)
        caption = _name(prediction, names)
        axes.set_xlabel(
            caption if right else f"{caption}\nis {_name(label, names)}",
            color=color,
            fontsize=7.5,
            labelpad=3,
        )
    return _pixels(figure)


def confusion_matrix(matrix: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
    """Counts (C, C), rows the true class, columns the predicted one; colour: the share of the true class."""
    counts = np.asarray(matrix, dtype=np.float64)
    classes = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    side = min(max(3.5, 0.55 * classes + 1.5), 12)
    figure = empty_figure(side, side)
    axes = figure.add_subplot(1, 1, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if classes <= _MOST_NAMES:
        ticks = [_name(index, names) for index in range(classes)]
        axes.set_xticks(range(classes), ticks, rotation=90 if any(len(tick) > 3 for tick in ticks) else 0)
        axes.set_yticks(range(classes), ticks)
        axes.tick_params(labelsize=8, length=0)
    if classes <= _MOST_CELLS_WITH_NUMBERS:
        for row, column in np.argwhere(counts > 0):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8 if len(text) < 5 else 6)
    return _pixels(figure)


def decision_map(
    probabilities: np.ndarray,
    bounds: tuple[float, float, float, float],
    points: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] = (),
) -> np.ndarray:
    """The decision regions of a classifier of two features: colour is the likely class, paler if unsure.

    `probabilities` (H, W, C) of a grid whose corners are `bounds` = (left, right, bottom, top), the first row at the
    bottom; points (N, 2) with their true classes (N,) lie over it.
    """
    from matplotlib import colormaps

    classes = probabilities.shape[2]
    if classes <= 10:
        colors = colormaps["tab10"](np.arange(classes))
    else:
        colors = colormaps["gist_rainbow"](np.linspace(0, 1, classes))
    chosen = probabilities.argmax(axis=2)
    # From white, for an answer by chance, to the class's colour at half its strength: the points must stand out.
    sure = (probabilities.max(axis=2) - 1 / classes) / (1 - 1 / classes) / 2
    figure = empty_figure(6, 6)
    axes = figure.add_subplot(1, 1, 1)
    shades = 1 - sure[:, :, None] * (1 - colors[chosen][:, :, :3])
    axes.imshow(shades, extent=bounds, origin="lower", aspect="auto", interpolation="bilinear")
    for label in np.unique(labels):
        x, y = points[labels == label].T
        axes.scatter(x, y, s=5, color=colors[label], linewidths=0, label=_name(int(label), names))
    axes.set_xlim(bounds[:2])
    axes.set_ylim(bounds[2:])
    axes.set_xlabel("first feature")
    axes.set_ylabel("second feature")
    if classes <= _MOST_CELLS_WITH_NUMBERS:
        axes.legend(title="true class", fontsize=8, title_fontsize=8, markerscale=3, loc="upper right")
    return _pixels(figure)


def value_scatter(true: np.ndarray, predicted: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
    """Values (N, K): a panel for each of the first nine, with a dot per sample; on the line a prediction is right."""
    panels = min(true.shape[1], _MOST_PANELS)
    columns = math.ceil(math.sqrt(panels))
    figure = empty_figure(3.2 * columns, 3.2 * math.ceil(panels / columns))
    for index in range(panels):
        axes = figure.add_subplot(math.ceil(panels / columns), columns, index + 1)
        axes.scatter(true[:, index], predicted[:, index], s=5, color="#08306b", alpha=0.5, linewidths=0)
        middle = float(true[:, index].mean())
        axes.axline((middle, middle), slope=1, color=_RIGHT, linewidth=1)
        axes.set_title(_name(index, names), fontsize=10)
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
    return _pixels(figure)


def importance_bars(shares: Mapping[str, float], title: str) -> np.ndarray:
    """A bar per setting, the largest share on top; `shares` add up to 1."""
    ordered = sorted(shares.items(), key=lambda pair: pair[1])
    figure = empty_figure(7, 1.2 + 0.45 * len(ordered))
    axes = figure.add_subplot()
    names = [name.replace("$", r"\$") for name, _ in ordered]
    bars = axes.barh(names, [share for _, share in ordered], color=_RIGHT)
    axes.bar_label(bars, [f"{share:.0%}" for _, share in ordered], padding=3)
    axes.set_xlim(0, 1.1 * max(share for _, share in ordered))
    axes.set_xlabel("importance")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return _pixels(figure)


def _name(index: int, names: Sequence[str]) -> str:
    name = names[index] if 0 <= index < len(names) else str(index)
    # matplotlib reads a pair of dollar signs as mathematics.
    name = name.replace("$", r"\$")
    return name if len(name) <= _CAPTION_LENGTH else name[: _CAPTION_LENGTH - 1] + "…"


def empty_figure(width: float, height: float) -> Any:
    """An empty figure of this many inches that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _pixels(figure: Any) -> np.ndarray:
    """Draws the figure; (height, width, 3) uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()
