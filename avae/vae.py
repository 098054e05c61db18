"""The networks and the likelihoods of the VAE (Kingma & Welling 2014). Flax linen lives in this file only.

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

Weights = Any  # a pytree of arrays


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
        return _Dense((*self.hidden, 2 * self.latent))

    @property
    def _decoder(self) -> nn.Module:
        return _Dense((*self.hidden[::-1], math.prod(self.image_shape)))

    def init(self, key: Array) -> Weights:
        """Fresh weights."""
        return _init_pair(key, self._encoder, self._decoder, jnp.zeros(math.prod(self.image_shape)), self.latent)

    def encode(self, weights: Weights, x: Array) -> Posterior:
        """q(z | x) for one example x [*space, C]."""
        return _posterior(self._encoder.apply({"params": weights["encoder"]}, x.reshape(-1)))

    def decode(self, weights: Weights, z: Array) -> Array:
        """Raw output [*space, C] (logits, for Bernoulli) for one z."""
        return _array(self._decoder.apply({"params": weights["decoder"]}, z)).reshape(self.image_shape)


@dataclasses.dataclass(frozen=True)
class Conv:
    """The paper's convolutional VAE: encoder 32-32-64-16, decoder 32-16-16-C, ELU, two halvings of the image.

    Two departures. Batch normalisation is replaced by layer normalisation over one example: J(alpha; x) must be a
    function of x alone, while batch statistics would make the score of one pose depend on the other starts and
    images in the batch, and need running state besides. Up-sampling is a sub-pixel convolution (convolve at low
    resolution, then move channels to space), which XLA runs several times faster than a transposed convolution.

    Attributes:
      image_shape: [H, W, C], H and W divisible by 4.
      latent: number of latent variables z.
    """

    image_shape: tuple[int, ...] = (28, 28, 1)
    latent: int = 16

    def __post_init__(self) -> None:
        _check_sizes(self, ())
        if len(self.image_shape) != 3 or any(side % 4 for side in self.image_shape[:2]):
            raise ValueError(
                f"the conv VAE expects images [H, W, C] with H and W divisible by 4, got {self.image_shape}"
            )

    @property
    def _encoder(self) -> nn.Module:
        return _ConvEncoder(2 * self.latent)

    @property
    def _decoder(self) -> nn.Module:
        return _ConvDecoder(self.image_shape)

    def init(self, key: Array) -> Weights:
        """Fresh weights."""
        return _init_pair(key, self._encoder, self._decoder, jnp.zeros(self.image_shape), self.latent)

    def encode(self, weights: Weights, x: Array) -> Posterior:
        """q(z | x) for one image x [H, W, C]."""
        return _posterior(self._encoder.apply({"params": weights["encoder"]}, x))

    def decode(self, weights: Weights, z: Array) -> Array:
        """Raw output [H, W, C] (logits, for Bernoulli) for one z."""
        return _array(self._decoder.apply({"params": weights["decoder"]}, z))


NETWORKS: dict[str, Any] = {"mlp": MLP, "conv": Conv}


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Pixels in [0, 1] under a Bernoulli of mean m = sigmoid(raw output), m clamped to [floor, 1 - floor].

    On grey pixels this is a cross-entropy, not a normalised likelihood: binarise the data where nats must be
    those of a distribution. The clamp is part of the likelihood, the same with and without a warp: outside the
    warped frame the mean is zero, and would cost infinitely many nats wherever the image is not.
    """

    floor: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.floor < 0.5:
            raise ValueError(f"bernoulli expects 0 < floor < 0.5, got {self.floor}")

    def init(self) -> dict[str, Array]:
        """No weights of its own."""
        return {}

    def mean(self, raw: Array) -> Array:
        """Decoder output to pixel mean."""
        return jax.nn.sigmoid(raw)

    def log_prob(self, weights: Weights, x: Array, mean: Array) -> Array:
        """Log p(x | mean) in nats, summed over pixels; for a mean that went through a warp."""
        x, mean = x.ravel(), jnp.clip(mean.ravel(), self.floor, 1 - self.floor)  # flat sums are 3x faster in XLA
        return jnp.sum(x * jnp.log(mean) + (1 - x) * jnp.log(1 - mean))

    def log_prob_raw(self, weights: Weights, x: Array, raw: Array) -> Array:
        """The same from logits, where no warp intervenes: exact for any logit."""
        limit = math.log1p(-self.floor) - math.log(self.floor)
        x, logits = x.ravel(), jnp.clip(raw.ravel(), -limit, limit)
        return jnp.sum(x * logits - jax.nn.softplus(logits))

    def fisher(self, weights: Weights, mean: Array) -> Array:
        """Fisher information of each pixel's mean: 1 / m (1 - m)."""
        mean = jnp.clip(mean, self.floor, 1 - self.floor)
        return 1 / (mean * (1 - mean))

    def check(self, x: Any) -> str | None:
        """What is wrong with concrete images `x` under this likelihood, or None."""
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            return f"values in [0, 1] for the Bernoulli likelihood, got [{low:.4g}, {high:.4g}]"
        return None


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Real pixels under N(raw output, scale^2), one scale for all pixels; normalising constant included.

    Attributes:
      scale: standard deviation in pixel units, or None to learn it as one more weight (`log_scale`), as in the
        sigma-VAE (Rybkin et al. 2021).
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"gaussian expects scale > 0 or None (learned), got {self.scale}")

    def init(self) -> dict[str, Array]:
        """The log scale, where it is learned."""
        return {} if self.scale is not None else {"log_scale": jnp.zeros(())}

    def mean(self, raw: Array) -> Array:
        """The decoder's output is the mean."""
        return raw

    def log_prob(self, weights: Weights, x: Array, mean: Array) -> Array:
        """Log p(x | mean) in nats, summed over pixels."""
        log_scale = self._log_scale(weights)
        residual = (x - mean).ravel() * jnp.exp(-log_scale)
        return -0.5 * jnp.sum(residual**2) - x.size * (log_scale + 0.5 * math.log(2 * math.pi))

    def log_prob_raw(self, weights: Weights, x: Array, raw: Array) -> Array:
        """The same: the raw output is the mean."""
        return self.log_prob(weights, x, raw)

    def fisher(self, weights: Weights, mean: Array) -> Array:
        """Fisher information of each pixel's mean: 1 / scale^2."""
        return jnp.broadcast_to(jnp.exp(-2 * self._log_scale(weights)), mean.shape)

    def check(self, x: Any) -> str | None:
        """Any finite image will do."""
        return None

    def _log_scale(self, weights: Weights) -> Array:
        return jnp.asarray(math.log(self.scale)) if self.scale is not None else weights["log_scale"]


LIKELIHOODS: dict[str, Any] = {"bernoulli": Bernoulli, "gaussian": Gaussian}


class _Dense(nn.Module):
    """Dense layers of the given widths with SiLU between them: smooth, as the search by gradient wants it."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, h: Array) -> Array:
        for width in self.widths[:-1]:
            h = nn.silu(nn.Dense(width)(h))
        return nn.Dense(self.widths[-1])(h)


class _ConvEncoder(nn.Module):
    """Four 3x3 convolutions, 32-32-64-16, the middle two of stride 2, then one dense layer."""

    outputs: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        for width, stride in ((32, 1), (32, 2), (64, 2), (16, 1)):
            h = _conv_block(h, width, stride)
        return nn.Dense(self.outputs)(h.reshape(-1))


class _ConvDecoder(nn.Module):
    """A dense layer to a quarter of the image, then 32, two doublings at 16, and the image's channels."""

    image_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Array) -> Array:
        height, width, channels = self.image_shape
        h = nn.elu(nn.Dense(height // 4 * (width // 4) * 16)(z)).reshape(height // 4, width // 4, 16)
        h = _conv_block(h, 32)
        h = depth_to_space(_conv_block(h, 4 * 16))
        h = depth_to_space(_conv_block(h, 4 * 16))
        return nn.Conv(channels, (3, 3))(h)


def depth_to_space(h: Array) -> Array:
    """[H, W, 4 C] -> [2 H, 2 W, C]: the second half of a sub-pixel convolution (Shi et al. 2016)."""
    height, width, channels = h.shape
    h = h.reshape(height, width, 2, 2, channels // 4)
    return h.transpose(0, 2, 1, 3, 4).reshape(2 * height, 2 * width, channels // 4)


def _conv_block(h: Array, width: int, stride: int = 1) -> Array:
    """3x3 convolution, normalisation over the one example, ELU. Call inside a compact linen method."""
    h = nn.Conv(width, (3, 3), strides=(stride, stride))(h)
    return nn.elu(nn.GroupNorm(num_groups=1, reduction_axes=(-3, -2, -1))(h))


def _init_pair(key: Array, encoder: nn.Module, decoder: nn.Module, x: Array, latent: int) -> Weights:
    encoder_key, decoder_key = jax.random.split(key)
    return {
        "encoder": encoder.init(encoder_key, x)["params"],
        "decoder": decoder.init(decoder_key, jnp.zeros(latent))["params"],
    }


def _posterior(output: Any) -> Posterior:
    mu, logvar = jnp.split(_array(output), 2)
    return Posterior(mu, logvar)


def _array(output: Any) -> Array:
    """Linen's `apply` is typed as array-or-(array, state); without mutable state it is the array."""
    return output


def _check_sizes(network: MLP | Conv, hidden: tuple[int, ...]) -> None:
    if network.latent < 1 or any(width < 1 for width in (*hidden, *network.image_shape)):
        raise ValueError(f"every size of a network must be at least 1, got {network}")
