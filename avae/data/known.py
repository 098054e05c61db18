"""Poses that are known beforehand, from files: RELION's, ours, or an array."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from avae.data.sources import star
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake
from avae.transforms import Affine, Mirrored, Rigid, Rotation, Similarity, Transform, Translation

OWN = "star"  # the poses that the data, a .star, hold themselves


def read(name: str, data: str, family: Transform, space: tuple[int, ...]) -> np.ndarray:
    """Poses [N, size] of a family, one for each image of the data, in its order.

    Args:
      name: "star" for those in the data, or a path: of a .star, of a folder that `avae align` wrote for the same
        family, or of a .npy of alpha.
      data: the name of the data.
      family: whose poses they are. Those of a .star that are outside of its range are brought to its border.
      space: shape of an image [*space].

    Raises:
      Mistake: if there are none, or they are not of this family.
    """
    path = expanded(data if name == OWN else name)
    if path.name.lower().endswith(star.SUFFIXES):
        return _of_relion(path, family, space)
    if name == OWN:
        raise Mistake(f"known poses: expected data in a .star, for it holds poses, got {data}")
    try:
        if path.is_dir():
            with np.load(path / "poses.npz", allow_pickle=False) as arrays:
                alpha, theirs = arrays["alpha"], str(arrays["family"])
            if theirs != str(family):
                raise Mistake(f"known poses: expected poses of {family}, got those of {theirs} in {path}")
        else:
            alpha = np.load(path, allow_pickle=False)
    except (OSError, KeyError, EOFError) as error:
        raise Mistake(f"known poses: expected a .star, a folder of poses or a .npy, got {path} ({error})") from None
    return np.asarray(alpha, np.float32)


def _of_relion(path: pathlib.Path, family: Transform, space: tuple[int, ...]) -> np.ndarray:
    """The inverse of `avae.poses.export.star`, which tells the conventions."""
    inner = family.family if isinstance(family, Mirrored) else family
    if not isinstance(inner, Rotation | Rigid | Similarity | Affine | Translation):
        raise Mistake(f"known poses: expected a family of turns and shifts of images, got {family}")
    psi, origin = star.poses(path)
    angle, sizes = -np.radians(psi), np.array(space[::-1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    offset = (sizes - 1) / 2 - sizes // 2  # of our centre from RELION's origin
    shift = (-origin - offset + turn @ offset) / (min(space) / 2)
    alpha = np.tile(np.asarray(family.identity), (len(psi), 1))
    if not isinstance(inner, Translation):
        alpha[:, family.size - inner.size] = angle
    if family.shifts:
        alpha[:, -2:] = shift
    return np.asarray(jax.vmap(family.project)(jnp.asarray(alpha, jnp.float32)))
