"""The posterior of a pose to figures: rings around images for rotations of the plane, marginals for the rest."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avae.inference.posterior import PosePosterior
from avae.report.figures import DPI, FAINT, INK, MUTED, WIDTH
from avae.report.pictures import contrast, picture
from avae.transforms import Transform
from avae.transforms.factors import Box, Circle, Elements
from avae.transforms.quaternions import Rotations

DENSITY, MODE = "#56B4E9", "#D55E00"
MAX_SHOWN = 8
SHOWN = 0.02  # modes of less weight are not marked


def posterior_figure(images: np.ndarray, posterior: PosePosterior) -> Figure:
    """The posterior of the pose of each image.

    For rotations of the plane each image has a ring around it. The ring bulges where the posterior puts what becomes
    "up" in the canonical frame; lines mark the modes, with their weights. For other families each image has one panel
    per angle and per entry of a box. A rotation of space has one panel, for its angle to the best mode. A vertical line
    marks the best mode.

    Args:
      images: [B, *space, C], of which the first eight are shown.
      posterior: of these images, as `avae.pose_posterior` returns it.
    """
    draw = _rings if is_circle(posterior.transform) else _marginals
    return draw(images[:MAX_SHOWN], posterior)


def is_circle(transform: Transform) -> bool:
    """Whether a family is the circle alone, whose posteriors are rings."""
    return [type(factor) for factor in transform.factors] == [Circle]


def kernel_density(
    values: np.ndarray, weights: np.ndarray, at: np.ndarray, width: float, period: float | None = None
) -> np.ndarray:
    """Density [n] at points `at` [n] of weighted values [M], by a normal kernel of standard deviation `width`."""
    gaps = at[:, None] - values[None]
    if period is not None:
        gaps = (gaps + period / 2) % period - period / 2
    kernel = np.exp(-0.5 * (gaps / width) ** 2) / (width * math.sqrt(2 * math.pi))
    return kernel @ (weights / weights.sum())


def _rings(images: np.ndarray, posterior: PosePosterior) -> Figure:
    columns = min(4, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure((WIDTH, 2.35 * rows), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "polar"}).ravel()
    for index, ax in enumerate(axes):
        if index < len(images):
            _ring(ax, images[index], posterior, index)
        else:
            ax.set_axis_off()
    return figure


def _ring(ax: Any, image: np.ndarray, posterior: PosePosterior, index: int) -> None:
    """One ring; `ax` is a polar Axes, for which matplotlib has no public type stub.

    Angles run clockwise from the top: what a counter-clockwise turn by alpha brings to the top is there.
    """
    angles = np.linspace(-math.pi, math.pi, 721)
    values, weights, width = _weighted(posterior, index, 0, 0)
    density = kernel_density(values, weights, angles, width, 2 * math.pi)
    ax.set_theta_zero_location("N")
    ax.set_theta_direction(-1)
    ax.fill_between(angles, 0, np.sqrt(density / density.max()), color=DENSITY, linewidth=0)
    for mode, weight in zip(
        np.asarray(posterior.modes)[index, :, 0], np.asarray(posterior.weights)[index], strict=True
    ):
        if weight >= SHOWN:
            ax.plot([mode, mode], [1, 1.18], color=MODE, linewidth=2, clip_on=False)
            ax.text(mode, 1.5, f"{100 * weight:.0f} %", ha="center", va="center", fontsize=8, color=INK)
    ax.set(ylim=(0, 1), rorigin=-1.5, yticks=[], xticks=np.radians([0, 90, 180, 270]), xticklabels=[])
    ax.grid(color=FAINT)
    for spine in ax.spines.values():
        spine.set_color(FAINT)
    inner = 0.42  # the largest square within the ring, as a fraction of the axes
    _show(ax.inset_axes((0.5 - inner / 2, 0.5 - inner / 2, inner, inner)), image)
    ax.set_xlabel(f"entropy {float(posterior.entropy[index]):.1f} nats", fontsize=8, color=MUTED, labelpad=2)


def _marginals(images: np.ndarray, posterior: PosePosterior) -> Figure:
    panels = _panels(posterior)
    figure = Figure((WIDTH, 0.35 + 1.05 * len(images)), dpi=DPI, facecolor="white", layout="constrained")
    ratios = [1.0] + [(WIDTH - 1) / len(panels)] * len(panels)
    axes = figure.subplots(len(images), 1 + len(panels), squeeze=False, width_ratios=ratios)
    for index, row in enumerate(axes):
        _show(row[0], images[index])
        for ax, (draw, _) in zip(row[1:], panels, strict=True):
            draw(ax, index)
            ax.set_yticks([])
            ax.set_ylim(bottom=0)
            ax.spines[["top", "right", "left"]].set_visible(False)
            ax.spines["bottom"].set_color(MUTED)
            ax.tick_params(colors=MUTED, labelsize=7, length=2, labelbottom=index == len(images) - 1)
    for ax, (_, title) in zip(axes[0, 1:], panels, strict=True):
        ax.set_title(title, fontsize=9, color=INK)
    return figure


def _panels(posterior: PosePosterior) -> list[tuple[Any, str]]:
    """For each marginal a function (axes, index of the image) that draws it, and its title."""
    panels: list[tuple[Any, str]] = []
    entry = tangent = 0
    for factor in posterior.transform.factors:
        if isinstance(factor, Rotations):
            panels.append((_angles_to_mode(posterior, entry), "angle to the mode"))
        elif isinstance(factor, Elements):
            panels.append((_bars(posterior, entry, factor.count), f"alpha[{entry}]"))
        else:
            for i in range(factor.size):
                half = factor.half[i] if isinstance(factor, Box) else math.pi
                panels.append((_curve(posterior, entry + i, tangent + i, half, factor), f"alpha[{entry + i}]"))
        entry, tangent = entry + factor.size, tangent + factor.dof
    return panels


def _curve(posterior: PosePosterior, entry: int, tangent: int, half: float, factor: Any) -> Any:
    circle = isinstance(factor, Circle)
    unit = 180 / math.pi if circle else 1.0

    def draw(ax: Axes, index: int) -> None:
        at = np.linspace(-half, half, 721)
        values, weights, width = _weighted(posterior, index, entry, tangent)
        density = kernel_density(values, weights, at, width, 2 * math.pi if circle else None)
        ax.fill_between(at * unit, 0, density, color=DENSITY, linewidth=0)
        ax.axvline(float(posterior.modes[index, 0, entry]) * unit, color=MODE, linewidth=1.2)
        ax.set_xlim(-half * unit, half * unit)
        if circle:
            ax.set_xticks([-180, 0, 180], ["-180°", "0°", "180°"])

    return draw


def _bars(posterior: PosePosterior, entry: int, count: int) -> Any:
    def draw(ax: Axes, index: int) -> None:
        values, weights = np.asarray(posterior.draws)[index, :, entry], np.exp(np.asarray(posterior.log_weights)[index])
        shares = np.bincount(values.astype(int), weights, count)
        ax.bar(np.arange(count), shares, color=DENSITY, width=0.8)
        ax.axvline(float(posterior.modes[index, 0, entry]), color=MODE, linewidth=1.2)
        ax.set_xlim(-0.6, count - 0.4)
        ax.set_xticks(range(count) if count <= 8 else [0, count - 1])

    return draw


def _angles_to_mode(posterior: PosePosterior, entry: int) -> Any:
    def draw(ax: Axes, index: int) -> None:
        quaternions = np.asarray(posterior.draws)[index, :, entry : entry + 4]
        mode = np.asarray(posterior.modes)[index, 0, entry : entry + 4]
        angles = np.degrees(2 * np.arccos(np.clip(np.abs(quaternions @ mode), 0, 1)))
        weights = np.exp(np.asarray(posterior.log_weights)[index])
        ax.hist(angles, np.linspace(0, 180, 61).tolist(), weights=weights, color=DENSITY)
        ax.set_xlim(0, 180)
        ax.set_xticks([0, 90, 180], ["0°", "90°", "180°"])

    return draw


def _weighted(posterior: PosePosterior, index: int, entry: int, tangent: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Draws of one entry, their weights, and a kernel's width: Silverman's (1986), from the spread within modes."""
    weights = np.exp(np.asarray(posterior.log_weights, np.float64)[index])
    within = np.asarray(posterior.covariance, np.float64)[index, :, tangent, tangent]
    spread = math.sqrt(float(np.asarray(posterior.weights)[index] @ within))
    effective = weights.sum() ** 2 / np.sum(weights**2)
    values = np.asarray(posterior.draws, np.float64)[index, :, entry]
    return values, weights, max(1.06 * spread * effective**-0.2, 1e-3)


def _show(ax: Any, image: np.ndarray) -> None:
    ax.imshow(picture(image, *contrast(image[None])), cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()
