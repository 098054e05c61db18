"""Numbers about poses and latents, from arrays alone: how well orientations agree, how well clusters match classes.

The network chooses the orientation, and the handedness, in which it encodes each kind of object. So the best offset of
each class is removed before a rotation error is taken. An image of the other handedness than its class has an error of
half a turn, and does not count in the resultant.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from avae.runtime.mistake import Mistake
from avae.transforms import Mirrored, Transform

N_CANDIDATES = 256


def mean_and_error(values: ArrayLike) -> dict[str, Any]:
    """Mean of `values` [N] and its standard error (None for a single one)."""
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error}


def net_rotation(
    transform: Transform, alpha: ArrayLike, pose: ArrayLike, pose_transform: Transform | None = None
) -> np.ndarray:
    """The rotation at which objects stand in the canonical frame.

    An image is `warp(upright, matrix(pose))`, and its canonical form `warp(image, matrix(alpha))`. Together this is
    `warp(upright, compose(matrix(pose), matrix(alpha)))`. The rotation is the polar factor of that product, the nearest
    rotation. Where exactly one of the two poses is mirrored, it is the nearest mirrored rotation.

    Args:
      transform: the family of `alpha`, of dimension d = 2 or 3.
      alpha: poses that were found [N, size].
      pose: poses that the upright objects were given [N, size of their family].
      pose_transform: the family of `pose`; None for `transform`.

    Returns:
      Rotation matrices [N, d, d], of determinant -1 for mirror images. All equal: perfect agreement.

    Raises:
      Mistake: if the families are not of one dimension.
    """
    pose_transform = pose_transform or transform
    if transform.dim != pose_transform.dim:
        raise Mistake(f"net_rotation expects families of one dimension, got {transform} and {pose_transform}")
    outer = np.asarray(jax.vmap(pose_transform.matrix)(jnp.asarray(pose, jnp.float32)), np.float64)[..., :-1]
    inner = np.asarray(jax.vmap(transform.matrix)(jnp.asarray(alpha, jnp.float32)), np.float64)[..., :-1]
    lengths = np.array(getattr(transform, "spacing", None) or (1.0,) * transform.dim)  # of a voxel: turns are in space
    left, _, right = np.linalg.svd(outer @ inner * (lengths[:, None] / lengths))
    return left @ right


def net_angle(
    transform: Transform, alpha: ArrayLike, pose: ArrayLike, pose_transform: Transform | None = None
) -> np.ndarray:
    """The angle at which objects stand in the canonical frame: that of `net_rotation` in two dimensions.

    Returns:
      Angles [N] in radians, in [-pi, pi]; positive is counter-clockwise on a screen.

    Raises:
      Mistake: if a family is not two-dimensional.
    """
    pose_transform = pose_transform or transform
    if transform.dim != 2 or pose_transform.dim != 2:
        raise Mistake(f"net_angle expects two-dimensional families, got {transform} and {pose_transform}")
    return planar_angle(net_rotation(transform, alpha, pose, pose_transform))


def planar_angle(rotations: ArrayLike) -> np.ndarray:
    """Angles [N] in radians, in [-pi, pi], of `rotations` [N, 2, 2]; positive is counter-clockwise on a screen.

    Of a mirror image, the angle by which the object was turned before left and right were exchanged.
    """
    rotations, _ = _without_mirrors(rotations)
    return np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0])


def usual_hand(rotations: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Whether each of `rotations` [N, d, d] is of the hand that most of its class in `labels` [N] have [N].

    Where a class has as many mirror images as others, these others.
    """
    mirrored, labels = _without_mirrors(rotations)[1], np.asarray(labels)
    classes, index = np.unique(labels, return_inverse=True)
    share = np.bincount(index, mirrored, len(classes)) / np.bincount(index)
    return mirrored == (share > 0.5)[index]


def mirror_images(
    transform: Transform, alpha: ArrayLike, rotations: ArrayLike, labels: ArrayLike | None
) -> dict[str, float | None] | None:
    """How many mirror images the search found, and how well they agree.

    Args:
      transform: the family of `alpha`.
      alpha: poses that were found [N, size].
      rotations: net rotations [N, d, d], see `net_rotation`.
      labels: classes [N]; None where they are unknown.

    Returns:
      None for a family without mirror images; else `found`, the fraction of poses that are mirrored, and `agree`, the
      fraction whose net rotation is of the hand that most of its class have (None without labels): where the mirror
      images among the data are known, the fraction that is right after the best flip of each class.
    """
    if not isinstance(transform, Mirrored):
        return None
    found = jax.vmap(transform.mirrored)(jnp.asarray(alpha, jnp.float32))
    agree = None if labels is None else float(usual_hand(rotations, labels).mean())
    return {"found": float(np.mean(found)), "agree": agree}


def resultant_length(rotations: ArrayLike) -> float:
    """How well `rotations` [N, d, d] agree: the largest mean of trace(R^T R_i) / d over all R of one hand.

    It is the mean of the signed singular values of the mean matrix, whose polar factor is the best R (Mardia & Jupp
    2000, chapter 13). In two dimensions it is the length of the mean unit vector. It is 1 if all agree. By chance it is
    about 0.89 / sqrt(N) in two dimensions, and 0.76 / sqrt(N) in three.
    """
    rotations, mirrored = _without_mirrors(rotations)
    means = np.stack([(rotations * which[:, None, None]).mean(axis=0) for which in (~mirrored, mirrored)])
    values = np.linalg.svd(means, compute_uv=False)
    values[:, -1] *= np.sign(np.linalg.det(means))
    return float(values.mean(axis=1).max())


def class_resultants(rotations: ArrayLike, labels: ArrayLike) -> dict[int, float]:
    """`resultant_length` of the `rotations` [N, d, d] of each class in `labels` [N]."""
    rotations, labels = np.asarray(rotations), np.asarray(labels)
    return {int(label): resultant_length(rotations[labels == label]) for label in np.unique(labels)}


def rotation_errors(rotations: ArrayLike, labels: ArrayLike, *, fold: int = 1) -> np.ndarray:
    """Angle of each rotation to the best rotation of its class.

    The best rotation is the medoid: the member with the smallest mean angle to all members. In two dimensions that is
    the circular median, since the mean error is piecewise linear and its convex kinks lie at the members. At most 256
    evenly spaced members are candidates.

    Args:
      rotations: net rotations [N, d, d], see `net_rotation`.
      labels: classes [N].
      fold: in two dimensions, angles that differ by a `fold`-th of a turn count as equal: 1 for none, 2 for errors
        modulo 180 degrees. The offset is fitted to the multiplied angles.

    Returns:
      Errors [N] in degrees, in [0, 180 / fold].

    Raises:
      Mistake: for a fold in three dimensions, where it has no meaning.
    """
    (rotations, mirrored), labels = _without_mirrors(rotations), np.asarray(labels)
    if fold != 1 and rotations.shape[-1] != 2:
        raise Mistake(f"fold: expected 1 for rotations of shape {rotations.shape}, got {fold}")
    rotations = np.linalg.matrix_power(rotations, fold)
    errors = np.empty(len(rotations))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        candidates = members[:: math.ceil(len(members) / N_CANDIDATES)]
        other_hand = mirrored[members][:, None] != mirrored[candidates][None]
        angles = np.where(other_hand, np.pi, _geodesic(rotations[members], rotations[candidates]))
        errors[members] = angles[:, np.argmin(angles.mean(axis=0))]
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
    """Accuracy of k-means, as many clusters as classes, as a classifier; the best one-to-one names for the clusters.

    Args:
      latents: posterior means [N, z].
      labels: classes [N].
      seed: of the k-means initialisation (the best of 10 runs is kept).

    Returns:
      The fraction of examples in the cluster that is named after their class, of those whose latents are finite; None
      where these are of fewer than two classes.
    """
    from sklearn.cluster import KMeans  # slow to import

    latents, labels = np.asarray(latents, np.float64), np.asarray(labels)
    finite = np.isfinite(latents).all(axis=1)
    latents, labels = latents[finite], labels[finite]
    n_classes = len(np.unique(labels))
    if n_classes < 2:
        return None
    n_clusters = min(n_classes, len(np.unique(latents, axis=0)))
    kmeans = KMeans(n_clusters, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
    return assignment_accuracy(kmeans.fit_predict(latents), labels)


def assignment_accuracy(clusters: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of `clusters` [N] equal to `labels` [N] after the best one-to-one naming of clusters by classes."""
    from scipy.optimize import linear_sum_assignment  # comes with JAX; slow to import

    _, clusters = np.unique(np.asarray(clusters), return_inverse=True)
    _, labels = np.unique(np.asarray(labels), return_inverse=True)
    table = np.zeros((clusters.max() + 1, labels.max() + 1), int)
    np.add.at(table, (clusters, labels), 1)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))


def _without_mirrors(rotations: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Rotations [N, d, d] before left and right were exchanged, and where they were [N]."""
    rotations = np.asarray(rotations, np.float64)
    mirrored = np.linalg.det(rotations) < 0
    signs = np.ones((len(rotations), 1, rotations.shape[-1]))
    signs[mirrored, :, 0] = -1
    return rotations * signs, mirrored


def _geodesic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles [N, M] in radians, in [0, pi], between rotations a [N, d, d] and b [M, d, d], d = 2 or 3."""
    traces = a.reshape(len(a), -1) @ b.reshape(len(b), -1).T
    return 2 * np.arcsin(np.sqrt(np.clip((a.shape[-1] - traces) / 4, 0, 1)))
