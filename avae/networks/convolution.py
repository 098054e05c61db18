"""The layers of the convolutional VAE, for images and volumes; each for one example."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax


class ConvEncoder(nn.Module):
    """Convolutions of the given widths and strides, then one dense layer."""

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """[*space, C] -> [outputs]."""
        for width, stride in zip(self.widths, self.strides, strict=True):
            h = _conv_block(h, width, stride)
        return nn.Dense(self.outputs)(h.reshape(-1))


class ConvDecoder(nn.Module):
    """A dense layer to a quarter of the image, then two doublings and the image's channels (see `avae.Conv`)."""

    first: int
    widths: tuple[int, ...]
    image_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """[z] -> [*space, C]."""
        quarter, channels = [side // 4 for side in self.image_shape[:-1]], self.image_shape[-1]
        h = nn.elu(nn.Dense(math.prod(quarter) * self.first)(z)).reshape(*quarter, self.first)
        h = _conv_block(h, self.widths[0])
        cells = 2 ** len(quarter)  # pixels that one becomes
        for width in self.widths[1:]:
            h = depth_to_space(_conv_block(h, cells * width))
        return _conv(h, channels) if len(self.widths) == 3 else depth_to_space(_conv(h, cells * channels))


def depth_to_space(h: Array) -> Array:
    """[*space, 2^d C] -> [*(2 space), C], d axes of space: the second half of a sub-pixel convolution.

    Of the channels, those that belong to one output pixel lie together, pixels in the order of the axes (Shi et
    al. 2016).
    """
    *space, channels = h.shape
    d, channels = len(space), channels // 2 ** len(space)
    h = h.reshape(*space, *(2,) * d, channels)
    order = [axis for i in range(d) for axis in (i, d + i)]
    return h.transpose(*order, 2 * d).reshape(*(2 * side for side in space), channels)


def convolve_volume(x: Array, kernel: Array, strides: Sequence[int], padding: str, **unused: Any) -> Array:
    """A convolution in 3D as one in 2D over the slices, each with its two neighbours in depth as further channels.

    XLA's 3D convolutions on a CPU are slow where channels are few: up to 13 times slower than this at 32^3.

    Args:
      x: volumes [B, D, H, W, C].
      kernel: [3, kH, kW, C, F].
      strides: along D, H and W.
      padding: "SAME", as for `jax.lax.conv_general_dilated`.
      **unused: what else linen hands on; all at its defaults.

    Returns:
      [B, D', H', W', F].
    """
    batch, depth = x.shape[:2]
    size, stride = kernel.shape[0], strides[0]
    ((low, high),) = lax.padtype_to_pads((depth,), (size,), (stride,), padding)
    padded = jnp.pad(x, ((0, 0), (low, high), (0, 0), (0, 0), (0, 0)))
    last = depth + low + high - size  # the first slice of the last window
    slices = jnp.concatenate([padded[:, i : i + last + 1 : stride] for i in range(size)], axis=-1)
    flat = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
    out = lax.conv_general_dilated(
        slices.reshape(-1, *slices.shape[2:]), flat, strides[1:], padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out.reshape(batch, -1, *out.shape[1:])


def _conv(h: Array, width: int, stride: int = 1) -> Array:
    """A convolution with kernels of side 3, 2D or 3D. Call inside a compact linen method, as below."""
    d = h.ndim - 1
    return nn.Conv(width, (3,) * d, (stride,) * d, conv_general_dilated=convolve_volume if d == 3 else None)(h)


def _conv_block(h: Array, width: int, stride: int = 1) -> Array:
    """Convolution, normalisation over the one example, ELU."""
    h = _conv(h, width, stride)
    return nn.elu(nn.GroupNorm(num_groups=1, reduction_axes=tuple(range(-h.ndim, 0)))(h))
