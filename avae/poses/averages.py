"""Averages of aligned images, one per label or per cluster of latents, and the images that are explained worst."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from avae.report.pictures import contrast, picture

CLUSTERS = range(2, 11)  # how many kinds are tried
LOOKED_AT, SCORED = 20_000, 2_000  # latents that clusters are found from, and by which their number is chosen
CHUNK = 512  # images at a time
WORST = 36


class Averages(NamedTuple):
    """Means of the images of each group, as they are and aligned.

    Attributes:
      names: of the groups [K].
      group: of each image [N], -1 for none.
      raw: means of the images [K, *space, C], float32.
      aligned: means of the aligned images [K, *space, C].
      count: images in each [K].
    """

    names: list[str]
    group: np.ndarray
    raw: np.ndarray
    aligned: np.ndarray
    count: np.ndarray


def clusters(latent: np.ndarray, finite: np.ndarray, seed: int = 0) -> np.ndarray:
    """A group [N] for each image by k-means of the latents, the largest first, -1 where not finite.

    Their number is that of the highest silhouette (Rousseeuw 1987); 1 where there are fewer than ten images.
    """
    group, usable = np.full(len(latent), -1), np.flatnonzero(finite)
    if len(usable) < 10:
        group[usable] = 0
        return group
    rng = np.random.default_rng(seed)
    some = latent[np.sort(rng.permutation(usable)[:LOOKED_AT])]
    few = some[np.sort(rng.permutation(len(some))[:SCORED])]
    k_means: Any = KMeans  # its stubs know no number of starts
    fits = [k_means(k, n_init=4, random_state=seed).fit(few) for k in CLUSTERS if k < len(few) // 2]
    best = max(fits, key=lambda fit: silhouette_score(few, fit.labels_))
    fit = k_means(best.n_clusters, init=best.cluster_centers_, n_init=1).fit(some)
    group[usable] = fit.predict(latent[usable])
    order = np.argsort(-np.bincount(group[usable], minlength=best.n_clusters))
    group[usable] = np.argsort(order)[group[usable]]
    return group


def averages(images: Any, aligned: Any, rows: np.ndarray, labels: list[str] | None) -> Averages:
    """The averages of each label, or of each cluster where there are no labels; one pass over the images.

    Args:
      images: as stored [N, *space, C].
      aligned: the same at their poses.
      rows: the table.
      labels: of each image [N], or None.
    """
    if labels:
        names = sorted(set(labels))
        place = {name: k for k, name in enumerate(names)}
        group = np.where(rows["finite"], [place[label] for label in labels], -1)
    else:
        group = clusters(np.asarray(rows["latent"]), np.asarray(rows["finite"]))
        names = [f"group {k + 1}" for k in range(group.max() + 1)]
    shape, count = images.shape[1:], np.bincount(group[group >= 0], minlength=len(names))
    sums = np.zeros((2, len(names), *shape), np.float64)
    for start in range(0, len(images), CHUNK):
        where = group[start : start + CHUNK]
        for which, stack in enumerate((images, aligned)):
            part = np.asarray(stack[start : start + CHUNK], np.float64)
            for k in np.unique(where[where >= 0]):
                sums[which, k] += part[where == k].sum(axis=0)
    raw, mean = (sums / np.maximum(count, 1).reshape(-1, *[1] * len(shape))).astype(np.float32)
    return Averages(names, group, raw, mean, count)


def worst(rows: np.ndarray, n: int = WORST) -> np.ndarray:
    """The images [<= n] that are explained worst, the worst first: those that could not be aligned, then by loss."""
    loss = np.where(rows["finite"], rows["loss"], np.inf)
    return np.argsort(-loss, kind="stable")[:n]


def montage(images: np.ndarray, columns: int, path: pathlib.Path) -> None:
    """Images [N, *space, C] side by side as a PNG, each with its own contrast; volumes are rendered."""
    tiles = [_tile(image) for image in images]
    height, width = tiles[0].shape[:2]
    lines = -(-len(tiles) // columns)
    sheet = np.full((lines * (height + 2) + 2, columns * (width + 2) + 2, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        y, x = 2 + k // columns * (height + 2), 2 + k % columns * (width + 2)
        sheet[y : y + height, x : x + width] = tile
    zoom = max(1, 96 // max(height, width))
    Image.fromarray(np.kron(sheet, np.ones((zoom, zoom, 1), np.uint8))).save(path)


def _tile(image: np.ndarray) -> np.ndarray:
    image = np.nan_to_num(np.asarray(image, np.float32))
    shown = picture(image, *contrast(image[None]))
    shown = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=-1)
    return (255 * np.clip(shown, 0, 1)).round().astype(np.uint8)
