"""Which pixels count: a weight for each, the same for all images, and what is missing in one image."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from avae.networks.vae import block_means
from avae.runtime.mistake import Mistake


@dataclasses.dataclass(frozen=True)
class Mask:
    """Weights w >= 0 of the pixels of every image: log p(x | y) = sum_p w_p log p(x_p | y_p). Hashable by its content.

    Made by `Mask.of` or `Mask.disc`. It lies in the frame of the image, whatever the pose.

    Attributes:
      shape: [*space, 1], one weight for all channels of a pixel, or [*space, C].
      content: the weights, as the bytes of float32.
    """

    shape: tuple[int, ...]
    content: bytes = dataclasses.field(repr=False)

    @classmethod
    def of(cls, weights: ArrayLike) -> "Mask":
        """The mask of an array of weights [*space, 1] or [*space, C], bool or real.

        Raises:
          Mistake: for another rank, weights that are negative or not finite, or all zero.
        """
        array = np.asarray(weights)
        if array.ndim not in (3, 4) or 0 in array.shape or array.dtype.kind not in "bfiu":
            hint = "; give a mask without channels as mask[..., None]" if array.ndim == 2 else ""
            raise Mistake(
                f"mask: expected weights [*space, 1] or [*space, C], bool or real, got shape {array.shape} of dtype "
                f"{array.dtype}{hint}"
            )
        array = array.astype(np.float32)
        if not (np.isfinite(array).all() and array.min() >= 0):
            bad = int(np.sum(~(np.isfinite(array) & (array >= 0))))
            raise Mistake(f"mask: expected finite weights of at least 0, got {bad} that are negative, NaN or infinite")
        if not array.any():
            raise Mistake(f"mask: expected a weight above 0 somewhere, got zeros alone, shape {array.shape}")
        return cls(array.shape, array.tobytes())

    @classmethod
    def disc(cls, shape: tuple[int, ...], radius: float = 1.0, edge: float = 0.0) -> "Mask":
        """A disc in images of `shape` [H, W], a ball in volumes [D, H, W]: 1 inside, 0 outside.

        Args:
          shape: of the images, without channels.
          radius: about the centre, in half-widths: 1 touches the nearest border.
          edge: width, in half-widths, over which weights fall from 1 to 0 at `radius`, as half a cosine; 0 for a hard
            border. Soft weights are no likelihood: bounds on log p(x) take a hard one only.

        Raises:
          Mistake: unless radius > 0 and 0 <= edge <= radius, or if no pixel is inside.
        """
        if not (0 < radius < math.inf and 0 <= edge <= radius):
            raise Mistake(f"mask: expected radius > 0 and 0 <= edge <= radius, got {radius} and {edge}")
        axes = [(np.arange(side) - (side - 1) / 2) / (min(shape) / 2) for side in shape]
        distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
        outside = (distance - radius + edge) / edge if edge else (distance > radius).astype(float)
        return cls.of((0.5 + 0.5 * np.cos(np.pi * np.clip(outside, 0, 1)))[..., None])

    @property
    def weights(self) -> np.ndarray:
        """The weights [*space, 1] or [*space, C], float32, read-only."""
        return np.frombuffer(self.content, np.float32).reshape(self.shape)

    @property
    def hard(self) -> bool:
        """Whether all weights are 0 or 1: then what is left of a likelihood is one, of the pixels that count."""
        return bool(np.isin(self.weights, (0, 1)).all())

    def reduced(self, factor: int) -> "Mask":
        """That of images at a `factor`-th of the resolution: the mean weight of each block."""
        return Mask.of(block_means(self.weights, factor))


def observed(x: Array, background: tuple[float, ...]) -> tuple[Array, Array]:
    """The pixels of an image [*space, C] and their weights: missing ones (NaN) are at the background and weigh 0.

    Nothing else looks at NaN: past this point all numbers are finite, and so are all derivatives.
    """
    missing = jnp.isnan(x)
    level = jnp.broadcast_to(jnp.asarray(background, x.dtype), x.shape)
    return jnp.where(missing, level, x), (~missing).astype(x.dtype)


def present_means(x: Array, factor: int) -> Array:
    """`block_means` over the pixels of an image that are not missing; NaN for a block without any."""
    pixels, present = observed(x, (0.0,))
    return block_means(pixels, factor) / block_means(present, factor)


def check_mask(mask: Mask, image_shape: tuple[int, ...]) -> None:
    """Raises Mistake unless the mask is one of images [*space, C]."""
    *space, channels = image_shape
    if mask.shape not in ((*space, channels), (*space, 1)):
        raise Mistake(f"mask: expected shape {(*space, 1)} or {(*space, channels)}, as the images, got {mask.shape}")
