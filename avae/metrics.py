"""Numbers about poses and latents, from arrays alone: how well orientations agree, how well clusters match classes.

The network is free to choose at which orientation it encodes each kind of object, so every rotation error is taken
after the best offset of each class has been removed.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from avae.transforms import Transform

N_CLUSTERS = 10


def net_angle(
    transform: Transform, alpha: ArrayLike, pose: ArrayLike, pose_transform: Transform | None = None
) -> np.ndarray:
    """The angle at which objects stand in the canonical frame.

    An image is `warp(upright, matrix(pose))` and its canonical form `warp(image, matrix(alpha))`, which together is
    `warp(upright, compose(matrix(pose), matrix(alpha)))`; the angle is that of the rotation part of this product.

    Args:
      transform: the family of `alpha`, of dimension 2.
      alpha: poses that were found [N, size].
      pose: poses that the upright objects were given [N, size of their family].
      pose_transform: the family of `pose`; None for `transform`.

    Returns:
      Angles [N] in radians, in [-pi, pi]; positive is counter-clockwise on a screen. All equal: perfect agreement.

    Raises:
      ValueError: if a family is not two-dimensional.
    """
    pose_transform = pose_transform or transform
    if transform.dim != 2 or pose_transform.dim != 2:
        raise ValueError(f"net_angle expects two-dimensional families, got {transform} and {pose_transform}")
    outer = np.asarray(jax.vmap(pose_transform.matrix)(jnp.asarray(pose, jnp.float32)), np.float64)[:, :, :2]
    inner = np.asarray(jax.vmap(transform.matrix)(jnp.asarray(alpha, jnp.float32)), np.float64)[:, :, :2]
    product = outer @ inner
    return np.arctan2(product[:, 1, 0] - product[:, 0, 1], product[:, 0, 0] + product[:, 1, 1])


def resultant_length(angles: ArrayLike) -> float:
    """Length of the mean unit vector at `angles` [N] radians: 1 if all agree, about 0.89 / sqrt(N) by chance."""
    return float(np.abs(np.exp(1j * np.asarray(angles, np.float64)).mean()))


def class_resultants(angles: ArrayLike, labels: ArrayLike) -> dict[int, float]:
    """`resultant_length` of the `angles` [N] (radians) of each class in `labels` [N]."""
    angles, labels = np.asarray(angles), np.asarray(labels)
    return {int(label): resultant_length(angles[labels == label]) for label in np.unique(labels)}


def rotation_errors(angles: ArrayLike, labels: ArrayLike, *, fold: int = 1) -> np.ndarray:
    """Distance of each angle from the best angle of its class.

    The best angle is the one with the smallest mean absolute error (the circular median), found exactly: the error is
    piecewise linear in the offset with its convex kinks at the angles themselves, so one of them is optimal.

    Args:
      angles: net angles [N] in radians, see `net_angle`.
      labels: classes [N].
      fold: angles that differ by a `fold`-th of a turn count as equal: 1 for none, 2 for errors modulo 180 degrees. The
        offset is fitted to the multiplied angles.

    Returns:
      Errors [N] in degrees, in [0, 180 / fold].
    """
    angles, labels = np.asarray(angles, np.float64) * fold, np.asarray(labels)
    errors = np.empty(len(angles))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mean_errors = [_circular_distance(angles[members], angles[centre]).mean() for centre in members]
        errors[members] = _circular_distance(angles[members], angles[members[np.argmin(mean_errors)]])
    return np.degrees(errors) / fold


def summarise_errors(errors: ArrayLike) -> dict[str, float]:
    """Mean and median of `errors` [N] in degrees, and the fraction of them within 15 degrees."""
    errors = np.asarray(errors)
    return {
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "within_15": float((errors <= 15).mean()),
    }


def cluster_accuracy(latents: ArrayLike, labels: ArrayLike, seed: int = 0) -> float | None:
    """Accuracy of k-means with 10 clusters as a classifier, clusters named by the best one-to-one assignment.

    Args:
      latents: posterior means [N, z].
      labels: classes [N].
      seed: of the k-means initialisation (the best of 10 runs is kept).

    Returns:
      The fraction of examples in the cluster that is named after their class, or None where scikit-learn is missing.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError:  # an optional dependency: pip install "avae[cluster]"
        return None
    latents = np.asarray(latents, np.float64)
    n_clusters = min(N_CLUSTERS, len(np.unique(latents, axis=0)))
    kmeans = KMeans(n_clusters, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
    clusters = kmeans.fit_predict(latents)
    return assignment_accuracy(clusters, labels)


def assignment_accuracy(clusters: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of `clusters` [N] equal to `labels` [N] after the best one-to-one naming of clusters by classes."""
    from scipy.optimize import linear_sum_assignment  # comes with JAX; slow to import

    _, clusters = np.unique(np.asarray(clusters), return_inverse=True)
    _, labels = np.unique(np.asarray(labels), return_inverse=True)
    table = np.zeros((clusters.max() + 1, labels.max() + 1), int)
    np.add.at(table, (clusters, labels), 1)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))


def _circular_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(np.mod(a - b + math.pi, 2 * math.pi) - math.pi)
