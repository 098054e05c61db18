"""The networks of the VAE (Kingma & Welling 2014). Flax linen lives in this file only.

A network is a frozen, hashable description with three pure methods: `init(key) -> weights`,
`encode(weights, x) -> Posterior` and `decode(weights, z) -> raw output`, each for one example [*space, C].
Any object that offers `encode` and `decode` in this form can take its place.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from avae.networks.likelihoods import (
    LIKELIHOODS as LIKELIHOODS,
    Bernoulli as Bernoulli,
    Gaussian as Gaussian,
    PaperLoss as PaperLoss,
    Weights as Weights,
)
from avae.runtime.mistake import Mistake


class Posterior(NamedTuple):
    """q(z | x) = N(mu, diag exp(logvar)); both [z]."""

    mu: Array
    logvar: Array


@dataclasses.dataclass(frozen=True)
class MLP:
    """A fully connected VAE; the decoder mirrors the encoder.

    Attributes:
      image_shape: [*space, C] of one example.
      latent: number of latent variables z.
      hidden: widths of the encoder's hidden layers.
    """

    image_shape: tuple[int, ...] = (28, 28, 1)
    latent: int = 16
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        _check_sizes(self, self.hidden)

    @property
    def _encoder(self) -> nn.Module:
        return Dense((*self.hidden, 2 * self.latent))

    @property
    def _decoder(self) -> nn.Module:
        return Dense((*self.hidden[::-1], math.prod(self.image_shape)))

    def init(self, key: Array) -> Weights:
        """Fresh weights."""
        return _init_pair(key, self._encoder, self._decoder, (math.prod(self.image_shape),), self.latent)

    def encode(self, weights: Weights, x: Array) -> Posterior:
        """q(z | x) for one example x [*space, C]."""
        return _posterior(self._encoder.apply({"params": weights["encoder"]}, x.reshape(-1)))

    def decode(self, weights: Weights, z: Array) -> Array:
        """Raw output [*space, C] (logits, for Bernoulli) for one z."""
        return _array(self._decoder.apply({"params": weights["decoder"]}, z)).reshape(self.image_shape)

    def reduced(self, weights: Weights, factor: int) -> tuple["MLP", Weights]:
        """The same VAE of images at a `factor`-th of the resolution, each of their pixels standing for a block.

        Its first layer sees what this one sees in such blocks; its raw output is the mean over them.
        """
        first, last = "Dense_0", f"Dense_{len(self.hidden)}"
        encoder, decoder = dict(weights["encoder"]), dict(weights["decoder"])
        *space, channels = self.image_shape
        shape = (*(side // factor for side in space), channels)

        def means(pixels: Array) -> Array:
            """[pixels, ...] -> [blocks, ...]."""
            rest = pixels.shape[1:]
            return block_means(pixels.reshape(*space, -1), factor).reshape(-1, *rest)

        encoder[first] = encoder[first] | {"kernel": means(encoder[first]["kernel"]) * factor ** len(space)}
        decoder[last] = {"kernel": means(decoder[last]["kernel"].T).T, "bias": means(decoder[last]["bias"])}
        return dataclasses.replace(self, image_shape=shape), weights | {"encoder": encoder, "decoder": decoder}


@dataclasses.dataclass(frozen=True)
class Conv:
    """The paper's convolutional VAE: encoder 32-32-64-16, decoder 32-16-16-C, ELU, two halvings of the image.

    Volumes have the same layers with kernels 3x3x3. Two departures. Batch normalisation is replaced by layer
    normalisation over one example: J(alpha; x) must be a function of x alone, while batch statistics would make the
    score of one pose depend on the other starts and images in the batch, and need running state besides. Up-sampling
    is a sub-pixel convolution (convolve at low resolution, then move channels to space), which XLA runs several times
    faster than a transposed convolution.

    Attributes:
      image_shape: [H, W, C] or [D, H, W, C], sides divisible by 4.
      latent: number of latent variables z.
      widths: channels of the encoder's convolutions.
      strides: their strides.
      decoder_widths: channels of the decoder at a quarter of the image, after the first doubling, and after the
        second. Without the last one the second doubling gives the image itself, which spares a layer at full
        resolution: for volumes the costliest.
    """

    image_shape: tuple[int, ...] = (28, 28, 1)
    latent: int = 16
    widths: tuple[int, ...] = (32, 32, 64, 16)
    strides: tuple[int, ...] = (1, 2, 2, 1)
    decoder_widths: tuple[int, ...] = (32, 16, 16)

    def __post_init__(self) -> None:
        _check_sizes(self, (*self.widths, *self.strides, *self.decoder_widths))
        if len(self.image_shape) not in (3, 4) or any(side % 4 for side in self.image_shape[:-1]):
            raise Mistake(
                "the conv VAE expects images [H, W, C] or volumes [D, H, W, C] with sides divisible by 4, "
                f"got {self.image_shape}"
            )
        if not self.widths or len(self.strides) != len(self.widths):
            raise Mistake(f"the conv VAE expects one stride per width, got {self.strides} for {self.widths}")
        if len(self.decoder_widths) not in (2, 3):
            raise Mistake(f"the conv VAE expects 2 or 3 decoder_widths, got {self.decoder_widths}")

    @property
    def _encoder(self) -> nn.Module:
        return _ConvEncoder(self.widths, self.strides, 2 * self.latent)

    @property
    def _decoder(self) -> nn.Module:
        return _ConvDecoder(self.widths[-1], self.decoder_widths, self.image_shape)

    def init(self, key: Array) -> Weights:
        """Fresh weights."""
        return _init_pair(key, self._encoder, self._decoder, self.image_shape, self.latent)

    def encode(self, weights: Weights, x: Array) -> Posterior:
        """q(z | x) for one example x [*space, C]."""
        return _posterior(self._encoder.apply({"params": weights["encoder"]}, x))

    def decode(self, weights: Weights, z: Array) -> Array:
        """Raw output [*space, C] (logits, for Bernoulli) for one z."""
        return _array(self._decoder.apply({"params": weights["decoder"]}, z))


NETWORKS: dict[str, Any] = {"mlp": MLP, "conv": Conv}


class Dense(nn.Module):
    """Dense layers of the given widths with SiLU between them: smooth, as the search by gradient wants it."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """[n] -> [widths[-1]]."""
        for width in self.widths[:-1]:
            h = nn.silu(nn.Dense(width)(h))
        return nn.Dense(self.widths[-1])(h)


class _ConvEncoder(nn.Module):
    """Convolutions of the given widths and strides, then one dense layer."""

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        for width, stride in zip(self.widths, self.strides, strict=True):
            h = _conv_block(h, width, stride)
        return nn.Dense(self.outputs)(h.reshape(-1))


class _ConvDecoder(nn.Module):
    """A dense layer to a quarter of the image, then two doublings and the image's channels (see `Conv`)."""

    first: int
    widths: tuple[int, ...]
    image_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Array) -> Array:
        quarter, channels = [side // 4 for side in self.image_shape[:-1]], self.image_shape[-1]
        h = nn.elu(nn.Dense(math.prod(quarter) * self.first)(z)).reshape(*quarter, self.first)
        h = _conv_block(h, self.widths[0])
        cells = 2 ** len(quarter)  # pixels that one becomes
        for width in self.widths[1:]:
            h = depth_to_space(_conv_block(h, cells * width))
        return _conv(h, channels) if len(self.widths) == 3 else depth_to_space(_conv(h, cells * channels))


def block_means(x: Array, factor: int) -> Array:
    """An image [*space, C] at a `factor`-th of its resolution: means over blocks of `factor` pixels a side."""
    *space, channels = x.shape
    blocks = [size for side in space for size in (side // factor, factor)]
    return x.reshape(*blocks, channels).mean(axis=tuple(range(1, 2 * len(space), 2)))


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


def _init_pair(key: Array, encoder: nn.Module, decoder: nn.Module, x: tuple[int, ...], latent: int) -> Weights:
    encoder_key, decoder_key = jax.random.split(key)
    return {
        "encoder": encoder.init(encoder_key, jnp.zeros(x, jnp.float32))["params"],
        "decoder": decoder.init(decoder_key, jnp.zeros(latent, jnp.float32))["params"],
    }


def _posterior(output: Any) -> Posterior:
    mu, logvar = jnp.split(_array(output), 2)
    return Posterior(mu, logvar)


def _array(output: Any) -> Array:
    """Linen's `apply` is typed as array-or-(array, state); without mutable state it is the array."""
    return output


def _check_sizes(network: MLP | Conv, hidden: tuple[int, ...]) -> None:
    if network.latent < 1 or any(width < 1 for width in (*hidden, *network.image_shape)):
        raise Mistake(f"every size of a network must be at least 1, got {network}")
