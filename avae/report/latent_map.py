"""The map of the latents: a point for each example, and a sheet of thumbnails that the page shows on hover."""

import base64
import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from avae.report.pictures import contrast, picture
from avae.report.tables import caption

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F", "#BCBD22", "#9467BD")
MAX_POINTS, SIDE, COLUMNS = 500, 48, 20  # points; pixels of a thumbnail; pairs in a row of the sheet
WIDTH, HEIGHT, EDGE = 800, 480, 16  # of the map


class LatentMap(NamedTuple):
    """Points (x, y, colour, words, column, row), classes (name, colour), and the sheet of thumbnails as base64."""

    points: list[tuple[float, float, str, str, int, int]]
    classes: list[tuple[str, str]]
    sheet: str
    n_left_out: int
    side: int = SIDE
    width: int = WIDTH
    height: int = HEIGHT


def latent_map(
    images: np.ndarray, canonical: np.ndarray, latent: np.ndarray, labels: np.ndarray, names: Mapping[int, str]
) -> LatentMap | None:
    """The map of the first 500 examples whose latents are finite; None where there are none.

    Args:
      images: inputs [N, *space, C].
      canonical: the same in their canonical frame [N, *frame, C].
      latent: means of the latents [N, L].
      labels: classes [N].
      names: of the classes; empty for no labels.
    """
    finite = np.flatnonzero(np.isfinite(latent).all(axis=1))
    if not len(finite):
        return None
    where, classes = finite[:MAX_POINTS], sorted(names)
    place = {label: k for k, label in enumerate(classes)}
    span, points = contrast(np.nan_to_num(images[where])), []
    sheet = np.zeros((-(-len(where) // COLUMNS) * SIDE, COLUMNS * 2 * SIDE, 3), np.uint8)
    for k, ((x, y), index) in enumerate(zip(_scaled(principal(latent[where])), where, strict=True)):
        row, column = divmod(k, COLUMNS)
        pair = np.concatenate([_thumbnail(stack[index], *span) for stack in (images, canonical)], axis=1)
        sheet[row * SIDE : (row + 1) * SIDE, column * 2 * SIDE : (column + 1) * 2 * SIDE] = pair
        label = int(labels[index])
        of_class = f", {caption(names[label])}" if label in place else ""
        colour = COLOURS[place.get(label, 0) % len(COLOURS)]
        points.append((round(x, 1), round(y, 1), colour, f"test example {index}{of_class}", column, row))
    legend = [(caption(names[label], 15), COLOURS[k % len(COLOURS)]) for label, k in list(place.items())[:20]]
    buffer = io.BytesIO()
    grey = (sheet == sheet[..., :1]).all()
    Image.fromarray(sheet[..., 0] if grey else sheet).save(buffer, format="png", optimize=True)
    return LatentMap(points, legend, base64.b64encode(buffer.getvalue()).decode(), len(latent) - len(finite))


def principal(latent: np.ndarray) -> np.ndarray:
    """Latents [N, L] in the plane [N, 2]: themselves if two, on a line if one, else along two principal axes."""
    latent = np.asarray(latent, np.float64)
    if latent.shape[1] <= 2:
        return np.pad(latent, ((0, 0), (0, 2 - latent.shape[1])))
    centred = latent - latent.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1]
    return centred @ axes[:, :-3:-1]


def _scaled(points: np.ndarray) -> np.ndarray:
    """Into the frame of the map, each axis by itself; an axis without extent is in the middle."""
    low, high, size = points.min(axis=0), points.max(axis=0), np.array([WIDTH, HEIGHT]) - 2 * EDGE
    share = np.where(high > low, (points - low) / np.where(high > low, high - low, 1), 0.5)
    return EDGE + size * share


def _thumbnail(example: np.ndarray, low: float, high: float) -> np.ndarray:
    shown = (255 * picture(example, low, high)).round().astype(np.uint8)
    return np.asarray(Image.fromarray(shown).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
