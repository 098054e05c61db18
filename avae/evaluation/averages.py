"""Means of images as they are and aligned, one per label or per cluster of latents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from avae.runtime.files import let_go

CLUSTERS = range(2, 11)  # how many kinds are tried
LOOKED_AT, SCORED = 20_000, 2_000  # latents that clusters are found from, and by which their number is chosen
CHUNK = 512  # images at a time


class Averages(NamedTuple):
    """Means of the images of each group, as they are and aligned.

    Attributes:
      names: of the groups [K]: labels in their order, or "group 1", the largest, and so on.
      group: of each image [N], -1 for none.
      raw: means of the images [K, *space, C], float32.
      aligned: means of the aligned images [K, *frame, C].
      count: images in each [K].
    """

    names: list[Any]
    group: np.ndarray
    raw: np.ndarray
    aligned: np.ndarray
    count: np.ndarray


def averages(
    images: Any, aligned: Any, finite: np.ndarray, latent: np.ndarray, labels: Sequence[Any] | None
) -> Averages:
    """The averages of each label, or of each cluster where there are no labels.

    Args:
      images: [N, *space, C].
      aligned: the same at their poses [N, *frame, C].
      finite: whether the pose of each was found [N]; the others are in no group.
      latent: posterior means [N, L].
      labels: of each image [N], or None.
    """
    if labels:
        names = sorted(set(labels))
        place = {name: k for k, name in enumerate(names)}
        group = np.where(finite, [place[label] for label in labels], -1)
    else:
        group = clusters(latent, finite)
        names = [f"group {k + 1}" for k in range(group.max() + 1)]
    raw, mean = (_means(stack, group, len(names)) for stack in (images, aligned))
    return Averages(names, group, raw, mean, np.bincount(group[group >= 0], minlength=len(names)))


def clusters(latent: np.ndarray, finite: np.ndarray, seed: int = 0) -> np.ndarray:
    """A group [N] for each image by k-means of the latents, the largest first, -1 where not finite.

    Their number is that of the highest silhouette (Rousseeuw 1987); 1 where there are fewer than ten different latents.
    """
    group, usable = np.full(len(latent), -1), np.flatnonzero(finite)
    rng = np.random.default_rng(seed)
    some = latent[np.sort(rng.permutation(usable)[:LOOKED_AT])]
    few = some[np.sort(rng.permutation(len(some))[:SCORED])]
    if len(np.unique(few, axis=0)) < 10:
        group[usable] = 0
        return group
    k_means: Any = KMeans  # its stubs know no number of starts
    fits = [k_means(k, n_init=4, random_state=seed).fit(few) for k in CLUSTERS if k < len(few) // 2]
    best = max(fits, key=lambda fit: silhouette_score(few, fit.labels_))
    fit = k_means(best.n_clusters, init=best.cluster_centers_, n_init=1).fit(some)
    group[usable] = fit.predict(latent[usable])
    order = np.argsort(-np.bincount(group[usable], minlength=best.n_clusters))
    group[usable] = np.argsort(order)[group[usable]]
    return group


def _means(stack: Any, group: np.ndarray, n: int) -> np.ndarray:
    """Means [n, ...] of the groups 0 to n - 1 of a stack [N, ...], which is read once, a part at a time."""
    sums = np.zeros((n, *stack.shape[1:]), np.float64)
    for start in range(0, len(stack), CHUNK):
        where = group[start : start + CHUNK]
        part = np.asarray(stack[start : start + CHUNK], np.float64)
        for k in np.unique(where[where >= 0]):
            sums[k] += part[where == k].sum(axis=0)
        let_go(stack)
    count = np.bincount(group[group >= 0], minlength=n)
    return (sums / np.maximum(count, 1).reshape(-1, *[1] * (sums.ndim - 1))).astype(np.float32)
