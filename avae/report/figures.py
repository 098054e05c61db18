"""Arrays to figures: matplotlib `Figure`s, without pyplot and its global state; readable at 800 pixels of width.

Colours are those of Okabe & Ito (2008), which people of any colour vision can tell apart. A model has one colour
everywhere; lines are solid with search and dashed without.
"""

import io
import math
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avae.evaluation.metrics import planar_angle, resultant_length, rotation_errors, usual_hand
from avae.report.tables import NAMES, WAYS, caption
from avae.runtime.files import write_whole
from avae.runtime.mistake import Mistake

COLOURS = {"AVAE": "#0072B2", "plain VAE": "#D55E00"}
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, MUTED, FAINT = "#1f2933", "#52606d", "#e4e7eb"
WIDTH, DPI = 8.0, 160  # inches, dots per inch
MAX_CLASSES, MAX_TITLE = 20, 15
LITERAL = matplotlib.rc_context({"text.parse_math": False, "text.usetex": False})  # a label may hold "$"


def png(figure: Figure) -> bytes:
    """A figure as a PNG file; glyphs that no font has are boxes, without a warning."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure as a PNG file, whole or not at all."""
    write_whole(path, png(figure))


def loss_curve(curve: Mapping[str, Any]) -> Figure:
    """Loss against the angle by which upright images were rotated (Bidart & Wong 2019, figures 3 and 5).

    Args:
      curve: `angles` [A] in degrees and `series`, as `avae.evaluation.curves.loss_curves` returns them.
    """
    series = {(name, way): f"{name}_{way}" for name in NAMES for way in WAYS if f"{name}_{way}" in curve["series"]}
    figure, ax = _panel(3.7)
    for right in range(0, 361, 90):  # images are not resampled there, so they are sharper and cost less
        ax.axvline(right, color=FAINT, linewidth=5, zorder=0)
    for (name, way), key in series.items():
        loss = np.array(curve["series"][key]["loss"], float)
        ax.plot(
            [*curve["angles"], 360],
            np.append(loss, loss[0]),
            color=COLOURS[NAMES[name]],
            linestyle="-" if way == "search" else (0, (4, 2)),
            linewidth=2 if way == "search" else 1.6,
            label=f"{NAMES[name]}, {way.replace('_', ' ')}",
        )
    ax.set_xlim(0, 360)
    ax.set_xticks(range(0, 361, 45), [f"{angle}°" for angle in range(0, 361, 45)])
    ax.set_xlabel("rotation of the input")
    ax.set_ylabel("loss J, nats per example")
    ax.grid(axis="y", color=FAINT, linewidth=0.8)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(4, len(series)), **_LEGEND)
    return figure


@LITERAL
def orientation_histograms(rotations: np.ndarray, labels: np.ndarray, names: Mapping[int, str] | None = None) -> Figure:
    """How well the net orientations of each class agree, for the 20 largest classes.

    In the plane: polar histograms with areas proportional to counts. A single narrow petal is one encoded orientation.
    The arrow is the mean direction. Its length is the resultant R, and it reaches the circle when all angles agree.
    Examples of the other hand than most of a class are left out and shorten its arrow. In space: histograms of the
    angle to the medoid of the class. A dashed line shows uniformly distributed rotations, (1 - cos t) / pi on [0, pi].

    Args:
      rotations: net orientations [N, d, d] (`avae.evaluation.metrics.net_rotation`).
      labels: classes [N].
      names: of the classes; None for the labels themselves.
    """
    planar = rotations.shape[-1] == 2
    errors = None if planar else rotation_errors(rotations, labels)
    found, counts = np.unique(labels, return_counts=True)
    classes = np.sort(found[np.argsort(-counts, kind="stable")[:MAX_CLASSES]])
    titles = [caption(str(label) if names is None else names[int(label)], MAX_TITLE) for label in classes]
    gap = "    " if max(map(len, titles)) <= 4 else "\n"
    columns = min(5, len(classes))
    rows = math.ceil(len(classes) / columns)
    height = (1.95 if planar else 1.6) + (0.15 if gap == "\n" else 0)
    figure = Figure((WIDTH, height * rows), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "polar"} if planar else {}).ravel()
    for ax, label, title in zip(axes, classes, titles, strict=False):
        members = labels == label
        _petals(ax, rotations[members]) if errors is None else _spread(ax, errors[members])
        resultant = resultant_length(rotations[members])
        ax.set_title(f"{title}{gap}R = {resultant:.2f}", fontsize=10, color=INK, pad=5)
    for ax in axes[len(classes) :]:
        ax.set_axis_off()
    return figure


@LITERAL
def orientation_strip(rotations: Mapping[float, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> Figure:
    """How the orientations of each class come to agree: a row per epoch, a polar histogram per class.

    Bidart & Wong 2019, figures 7 and 8; petals and arrows as in `orientation_histograms`.

    Args:
      rotations: epoch -> net orientations [N, 2, 2] of the same examples (`avae.evaluation.history.history`).
      labels: their classes [N]; the ten largest are drawn.
      names: of the classes.

    Raises:
      Mistake: if the orientations are not those of the plane.
    """
    if any(found.shape[-1] != 2 for found in rotations.values()):
        raise Mistake("orientation_strip expects orientations in the plane [N, 2, 2]")
    found, counts = np.unique(labels, return_counts=True)
    classes = np.sort(found[np.argsort(-counts, kind="stable")[:10]])
    side = WIDTH / (len(classes) + 1)
    size = (WIDTH, side * (len(rotations) + 0.4))
    figure = Figure(size, dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots(len(rotations), len(classes), squeeze=False, subplot_kw={"projection": "polar"})
    for row, (epoch, epoch_rotations) in zip(axes, rotations.items(), strict=True):
        for ax, label in zip(row, classes, strict=True):
            _petals(ax, epoch_rotations[labels == label])
        row[0].set_ylabel(f"epoch {epoch:.0f}", rotation=0, ha="right", va="center", labelpad=12, color=INK, fontsize=9)
    for ax, label in zip(axes[0], classes, strict=True):
        ax.set_title(caption(names[int(label)], 8), fontsize=10, color=INK, pad=5)
    return figure


@LITERAL
def bound_against_latents(lines: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Lower bounds on log p(x) against the size of the latent space (Bidart & Wong 2019, figure 4).

    Args:
      lines: "<model>, <width>" -> points (number of latents, bound in nats); one colour per model, darker where wider.
    """
    figure, ax = _panel(3.7)
    models = [name.split(", ")[0] for name in lines]
    for (name, points), model, colour in zip(lines.items(), models, _colours(models), strict=True):
        rank = [other for other in lines if other.startswith(f"{model}, ")].index(name) + 1
        ax.plot(*zip(*points, strict=True), color=colour, marker="o", alpha=rank / models.count(model), label=name)
    ax.set_xscale("log", base=2)
    ticks = sorted({latent for points in lines.values() for latent, _ in points})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xlabel("latents")
    ax.set_ylabel("lower bound on log p(x), nats")
    ax.grid(axis="y", color=FAINT, linewidth=0.8)
    ax.legend(loc="lower right", ncols=2, **_LEGEND)
    return figure


@LITERAL
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
    losses = losses[np.isfinite(losses)]
    if len(losses):
        low, high = losses.min(), np.percentile(losses, 95)  # the first steps would flatten all the rest
        ax.set_ylim(low - 0.05 * (high - low) - 0.5, high + 0.05 * (high - low) + 0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("training step")
    ax.set_ylabel("loss J, nats per example")
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


def _petals(ax: Any, rotations: np.ndarray, bins: int = 36) -> None:
    """One polar histogram of angles; `ax` is a polar Axes, for which matplotlib has no public type stub."""
    angles = planar_angle(rotations[usual_hand(rotations, np.zeros(len(rotations)))])
    edges = np.linspace(-math.pi, math.pi, bins + 1)
    counts, _ = np.histogram(angles, edges)
    mean = np.exp(1j * angles).sum() / len(rotations)
    ax.set_theta_zero_location("N")
    ax.bar(edges[:-1], np.sqrt(counts / counts.max()), width=np.diff(edges), align="edge", color="#56B4E9", linewidth=0)
    ax.annotate(
        "",
        (float(np.angle(mean)), float(np.abs(mean))),
        (0, 0),
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.4},
    )
    ax.set(ylim=(0, 1), yticks=[], xticks=np.radians([0, 90, 180, 270]), xticklabels=[])
    ax.grid(color=FAINT)
    ax.spines["polar"].set_color(FAINT)


def _spread(ax: Axes, errors: np.ndarray, bins: int = 18) -> None:
    """One histogram of angles in degrees, in [0, 180], with the density of uniform rotations (Haar measure)."""
    t = np.linspace(0, math.pi, 91)
    ax.hist(errors, np.linspace(0, 180, bins + 1).tolist(), density=True, color="#56B4E9")
    ax.plot(np.degrees(t), (1 - np.cos(t)) / 180, color=MUTED, linestyle=(0, (4, 2)), linewidth=1.2)
    ax.set(xlim=(0, 180), yticks=[])
    ax.set_xticks([0, 90, 180], ["0°", "90°", "180°"], fontsize=8, color=MUTED)
    ax.tick_params(length=2, color=MUTED)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)
