"""Arrays to figures: matplotlib `Figure`s, without pyplot and its global state; readable at 800 pixels of width.

Colours are those of Okabe & Ito (2008), told apart with any colour vision; one colour per model everywhere, a full
line with search and a dashed one without.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

COLOURS = {"AVAE": "#0072B2", "plain VAE": "#D55E00"}
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, MUTED, FAINT = "#1f2933", "#52606d", "#e4e7eb"
WIDTH, DPI = 8.0, 160  # inches, dots per inch


class Curve(NamedTuple):
    """Mean loss [A] of one `model` at each of A angles, found with or without search (`searched`)."""

    model: str
    searched: bool
    loss: np.ndarray


def grid(
    images: np.ndarray,
    canonical: np.ndarray,
    reconstruction: np.ndarray,
    matrix: np.ndarray,
    plain: np.ndarray | None = None,
) -> Figure:
    """One column per image: what came in, what the encoder saw, what came back, and what a plain VAE makes of it.

    Args:
      images: inputs [N, H, W, C], C = 1 or 3; the tick at the edge points to what becomes "up" in the canonical frame.
      canonical: tau_alpha* x [N, H, W, C].
      reconstruction: of the AVAE, in the frame of the input [N, H, W, C].
      matrix: pull maps of the poses that were found [N, 2, 3].
      plain: reconstruction of a plain VAE [N, H, W, C].
    """
    rows = {"input": images, "canonical": canonical, "AVAE": reconstruction}
    if plain is not None:
        rows["plain VAE"] = plain
    margin, gap = 1.3, 0.06  # inches for the labels; gaps as a fraction of a picture
    cell = (WIDTH - margin) / (len(images) + gap * (len(images) - 1))
    height = cell * images.shape[1] / images.shape[2] * (len(rows) + gap * (len(rows) - 1))
    figure = Figure((WIDTH, height), dpi=DPI, facecolor="white")
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    figure.subplots_adjust(left=margin / WIDTH, right=1, bottom=0, top=1, wspace=gap, hspace=gap)
    low, high = float(images.min()), float(images.max())
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        label = f"{name}\nreconstruction" if name in COLOURS else name
        style = {"fontsize": 10, "color": COLOURS.get(name, INK), "linespacing": 1.3}
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8, **style)
        for ax, picture in zip(row, pictures, strict=True):
            _picture(ax, picture, low, high)
    for ax, pull in zip(axes[0], matrix, strict=True):
        _tick(ax, pull, images.shape[1:3])
    return figure


def loss_curve(angles: np.ndarray, curves: Sequence[Curve]) -> Figure:
    """Loss against the angle by which upright images were rotated (Bidart & Wong 2019, figures 3 and 5).

    Args:
      angles: [A] in degrees, in [0, 360).
      curves: one or more curves of [A] losses in nats.
    """
    figure, ax = _panel(3.7)
    for right in range(0, 361, 90):  # images are not resampled there, so they are sharper and cost less
        ax.axvline(right, color=FAINT, linewidth=5, zorder=0)
    for curve, colour in zip(curves, _colours(curve.model for curve in curves), strict=True):
        ax.plot(
            np.append(angles, 360),
            np.append(curve.loss, curve.loss[0]),
            color=colour,
            linestyle="-" if curve.searched else (0, (4, 2)),
            linewidth=2 if curve.searched else 1.6,
            label=f"{curve.model}, {'search' if curve.searched else 'no search'}",
        )
    ax.set_xlim(0, 360)
    ax.set_xticks(range(0, 361, 45), [f"{angle}°" for angle in range(0, 361, 45)])
    ax.set_xlabel("rotation of the input")
    ax.set_ylabel("loss J, nats per image")
    ax.grid(axis="y", color=FAINT, linewidth=0.8)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(4, len(curves)), **_LEGEND)
    return figure


def orientation_histograms(angles: np.ndarray, labels: np.ndarray) -> Figure:
    """Polar histograms of the net orientation, one per class: a single narrow petal is one encoded orientation.

    Areas are proportional to counts. The arrow is the mean direction, as long as the resultant R in units of the
    circle's radius: it reaches the circle when all angles agree.

    Args:
      angles: net angles [N] in radians, counter-clockwise from "up" (`avae.metrics.net_angle`).
      labels: classes [N].
    """
    classes = np.unique(labels)
    columns = min(5, len(classes))
    rows = math.ceil(len(classes) / columns)
    figure = Figure((WIDTH, 1.95 * rows), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "polar"}).ravel()
    for ax, label in zip(axes, classes, strict=False):
        _petals(ax, angles[labels == label], str(label))
    for ax in axes[len(classes) :]:
        ax.set_axis_off()
    return figure


def training_curve(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Training loss over steps.

    Args:
      runs: name of a model -> its rows of metrics.jsonl, each with "step" and "loss"; at least one row.
    """
    figure, ax = _panel(2.9)
    for (name, rows), colour in zip(runs.items(), _colours(runs), strict=True):
        steps, losses = zip(*((row["step"], row["loss"]) for row in rows), strict=True)
        ax.plot(steps, losses, color=colour, linewidth=1.6, marker="o" if len(steps) < 3 else None, label=name)
    losses = np.array([row["loss"] for rows in runs.values() for row in rows])
    low, high = losses.min(), np.percentile(losses, 95)  # the first steps would flatten all the rest
    ax.set_ylim(low - 0.05 * (high - low) - 0.5, high + 0.05 * (high - low) + 0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("training step")
    ax.set_ylabel("loss J, nats per image")
    ax.grid(axis="y", color=FAINT, linewidth=0.8)
    ax.legend(loc="upper right", **_LEGEND)
    return figure


_LEGEND: dict[str, Any] = {
    "frameon": False,
    "fontsize": 9,
    "labelcolor": INK,
    "handlelength": 2.4,
    "columnspacing": 1.6,
}


def _panel(height: float) -> tuple[Figure, Axes]:
    """An empty figure with one clean pair of axes, `height` inches tall."""
    figure = Figure((WIDTH, height), dpi=DPI, facecolor="white", layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)
    ax.tick_params(colors=MUTED, labelsize=9, length=0)
    ax.xaxis.label.set(color=INK, fontsize=10)
    ax.yaxis.label.set(color=INK, fontsize=10)
    return figure, ax


def _colours(models: Iterable[str]) -> list[str]:
    """A colour for each name, the same for the same name."""
    chosen = dict(COLOURS)
    models = list(models)
    for model in models:
        chosen.setdefault(model, OTHERS[(len(chosen) - len(COLOURS)) % len(OTHERS)])
    return [chosen[model] for model in models]


def _picture(ax: Axes, picture: np.ndarray, low: float, high: float) -> None:
    picture = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    ax.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _tick(ax: Axes, pull: np.ndarray, size: tuple[int, ...]) -> None:
    """Marks on an input the direction that the pull map [2, 3] brings to the top of the canonical frame."""
    centre, unit = (np.array(size[::-1]) - 1) / 2, min(size) / 2
    up = pull[:, :2] @ np.array([0.0, -1.0])
    up = up / np.linalg.norm(up)
    inner, outer = (centre + unit * (pull[:, 2] + radius * up) for radius in (0.62, 0.9))
    colour = "#56B4E9"
    ax.plot(
        *zip(inner, outer, strict=True), color=colour, linewidth=1.6, solid_capstyle="round", scalex=False, scaley=False
    )
    ax.add_patch(Circle((float(outer[0]), float(outer[1])), radius=0.09 * unit, color=colour))


def _petals(ax: Any, angles: np.ndarray, title: str, bins: int = 36) -> None:
    """One polar histogram; `ax` is a polar Axes, for which matplotlib has no public type stub."""
    edges = np.linspace(-math.pi, math.pi, bins + 1)
    counts, _ = np.histogram(angles, edges)
    mean = np.exp(1j * angles).mean()
    ax.set_theta_zero_location("N")
    ax.bar(edges[:-1], np.sqrt(counts / counts.max()), width=np.diff(edges), align="edge", color="#56B4E9", linewidth=0)
    ax.annotate(
        "",
        (float(np.angle(mean)), float(np.abs(mean))),
        (0, 0),
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.4},
    )
    ax.set_title(f"{title}    R = {np.abs(mean):.2f}", fontsize=10, color=INK, pad=5)
    ax.set(ylim=(0, 1), yticks=[], xticks=np.radians([0, 90, 180, 270]), xticklabels=[])
    ax.grid(color=FAINT)
    ax.spines["polar"].set_color(FAINT)
