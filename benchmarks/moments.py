"""Alignment by moments alone: what a comparison of poses has to beat."""

import numpy as np


def moments(images: np.ndarray) -> np.ndarray:
    """Angles [N] by which each picture [N, H, W, C] is to be turned: its long axis, its heavier end first."""
    angle, _, _ = _axes(images)
    return angle


def pull_maps(images: np.ndarray, *, mirror: bool = False, centred: bool = False) -> np.ndarray:
    """Pull maps [N, 2, 3] for `avae.warp` that lay each picture [N, H, W, C] along x, its heavier end at the same side.

    Args:
      images: square pictures.
      mirror: whether the picture may be mirrored, so that it is heavier at the same side across its long axis too.
      centred: whether its centre of mass moves into the centre.
    """
    angle, centre, across = _axes(images)
    cos, sin = np.cos(angle), np.sin(angle)
    flip = np.where(across < 0, -1.0, 1.0) if mirror else np.ones(len(angle))
    shift = centre if centred else np.zeros_like(centre)
    return np.stack([cos, -sin * flip, shift[:, 0], sin, cos * flip, shift[:, 1]], axis=1).reshape(-1, 2, 3)


def _axes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angle of the long axis [N], its heavier end first, centre of mass [N, 2], third moment across the axis [N]."""
    side = images.shape[1]
    y, x = (np.mgrid[:side, :side] + 0.5) * 2 / side - 1
    weight = np.maximum(images[..., 0], 0) * (np.hypot(x, y) < 1)
    total = np.maximum(weight.sum((1, 2)), 1e-12)
    mean = lambda of: (weight * of).sum((1, 2)) / total  # noqa: E731
    centre = np.stack([mean(x), mean(y)], axis=1)
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    angle = 0.5 * np.arctan2(2 * mean(dx * dy), mean(dx**2) - mean(dy**2))
    along = dx * np.cos(angle)[:, None, None] + dy * np.sin(angle)[:, None, None]
    angle = angle + np.pi * (mean(along**3) < 0)
    across = dy * np.cos(angle)[:, None, None] - dx * np.sin(angle)[:, None, None]
    return angle, centre, mean(across**3)
