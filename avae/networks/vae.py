"""The networks of the VAE (Kingma & Welling 2014). Flax linen lives in this room only.

A network is a frozen, hashable description with three pure methods: `init(key) -> weights`,
`encode(weights, x) -> Posterior` and `decode(weights, z) -> raw output`, each for one example [*space, C].
Any object that offers `encode` and `decode` in this form can take its place.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from avae.networks.convolution import ConvDecoder, ConvEncoder
from avae.networks.likelihoods import Bernoulli as Bernoulli, Gaussian as Gaussian, Weights as Weights
from avae.networks.paper_loss import PaperLoss as PaperLoss
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

    Volumes have the same layers with kernels 3x3x3. Two things differ from the paper. Layer normalisation over one
    example replaces batch normalisation, because J(alpha; x) must depend on x alone. With batch statistics the score
    of a pose would depend on the other starts and images of the batch. Up-sampling is a sub-pixel convolution: convolve
    at low resolution, then move channels to space. XLA runs it several times faster than a transposed convolution.

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
        return ConvEncoder(self.widths, self.strides, 2 * self.latent)

    @property
    def _decoder(self) -> nn.Module:
        return ConvDecoder(self.widths[-1], self.decoder_widths, self.image_shape)

    def init(self, key: Array) -> Weights:
        """Fresh weights."""
        return _init_pair(key, self._encoder, self._decoder, self.image_shape, self.latent)

    def encode(self, weights: Weights, x: Array) -> Posterior:
        """q(z | x) for one example x [*space, C]."""
        return _posterior(self._encoder.apply({"params": weights["encoder"]}, x))

    def decode(self, weights: Weights, z: Array) -> Array:
        """Raw output [*space, C] (logits, for Bernoulli) for one z."""
        return _array(self._decoder.apply({"params": weights["decoder"]}, z))


LIKELIHOODS: dict[str, Any] = {"bernoulli": Bernoulli, "gaussian": Gaussian, "paper": PaperLoss}
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


def block_means(x: Any, factor: int) -> Any:
    """An image [*space, C] at a `factor`-th of its resolution: means over blocks of `factor` pixels a side."""
    *space, channels = x.shape
    blocks = [size for side in space for size in (side // factor, factor)]
    return x.reshape(*blocks, channels).mean(axis=tuple(range(1, 2 * len(space), 2)))


def gaussian_kl(posterior: Posterior) -> Array:
    """KL(N(mu, sigma^2) || N(0, I)) in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * jnp.sum(posterior.mu**2 + jnp.exp(posterior.logvar) - posterior.logvar - 1)


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
