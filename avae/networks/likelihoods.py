"""Likelihoods: how the decoder's raw output explains pixels.

A likelihood is a frozen, hashable description with pure methods, each for one example. `weights` are those of the
whole VAE; some of them may belong to the likelihood (`init`). `log_prob` and `log_prob_raw` may take a fourth argument
`weight`, which masks and missing pixels need: how often each pixel counts, broadcast to x, or None for once each.
The class attribute `normalised` says whether exp(log_prob) adds up to 1 over all images: only then is there a bound on
log p(x).
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from avae.runtime.mistake import Mistake
from avae.runtime.products import matmul

Weights = Any  # a pytree of arrays
ROUNDING = 1e-5  # by so much values may leave [0, 1]: interpolation and resizing do that


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Pixels in [0, 1] under a Bernoulli of mean m = sigmoid(raw output), m clamped to [floor, 1 - floor].

    On grey pixels this is a cross-entropy, not a normalised likelihood: binarise the data where nats must be
    those of a distribution. The clamp is part of the likelihood, with and without a warp. Outside the warped frame
    the mean is zero: without the clamp an image that is not zero there would cost infinitely many nats.
    """

    floor: float = 1e-4

    normalised: ClassVar[bool] = True  # over binary images

    def __post_init__(self) -> None:
        if not 0 < self.floor < 0.5:
            raise Mistake(f"bernoulli expects 0 < floor < 0.5, got {self.floor}")

    def init(self) -> dict[str, Array]:
        """No weights of its own."""
        return {}

    def mean(self, raw: Array) -> Array:
        """Decoder output to pixel mean."""
        return jax.nn.sigmoid(raw)

    def log_prob(self, weights: Weights, x: Array, mean: Array, weight: Array | None = None) -> Array:
        """Log p(x | mean) in nats, summed over pixels; for a mean that went through a warp."""
        counts, x = counted(x, weight), x.ravel()
        mean = jnp.clip(mean.ravel(), self.floor, 1 - self.floor)
        return total(x * jnp.log(mean) + (1 - x) * jnp.log(1 - mean), counts)

    def log_prob_raw(self, weights: Weights, x: Array, raw: Array, weight: Array | None = None) -> Array:
        """The same from logits, where no warp intervenes: exact for any logit."""
        counts, x = counted(x, weight), x.ravel()
        limit = math.log1p(-self.floor) - math.log(self.floor)
        logits = jnp.clip(raw.ravel(), -limit, limit)
        return total(x * logits - jax.nn.softplus(logits), counts)

    def natural(self, weights: Weights, mean: Array, level: Array) -> tuple[Array, Array]:
        """T and a, shaped as the mean, less those of `level`: log p(x | mean) - log p(x | level) = sum x t - a."""
        at = lambda m: (jax.scipy.special.logit(m), -jnp.log1p(-m))  # noqa: E731
        (t, a), (t_0, a_0) = (at(jnp.clip(m, self.floor, 1 - self.floor)) for m in (mean, level))
        return t - t_0, a - a_0

    def contrast(self, x: Array, level: Array, weight: Array) -> Array:
        """The x of `natural`."""
        return x

    def gained(self, along: Array, across: Array) -> Array:
        """Log p(x | mean) - log p(x | level) at every shift, from the sums of x t and of a there."""
        return along - across

    def fisher(self, weights: Weights, mean: Array) -> Array:
        """Fisher information of each pixel's mean: 1 / m (1 - m); 0 where the clamp makes the likelihood flat."""
        clamped = jnp.clip(mean, self.floor, 1 - self.floor)
        return jnp.where(mean == clamped, 1 / (clamped * (1 - clamped)), 0.0)

    def check(self, x: Any) -> str | None:
        """What is wrong with concrete images `x` under this likelihood, or None."""
        low, high = float(x.min()), float(x.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            return f"values in [0, 1] for the Bernoulli likelihood, got [{low:.7g}, {high:.7g}]"
        return None


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Real pixels under N(raw output, scale^2), one scale for all pixels; normalising constant included.

    Where images differ in brightness, each is x = g y + o + noise. y is the mean; every image has its own
    g ~ N(1, gain^2) and o ~ N(0, offset^2), which are integrated out in closed form:

        log p(x | y) = log N(x; y, scale^2 I + gain^2 y y' + offset^2 1 1')

    This is the log of a density, so bounds on log p(x) remain bounds. One g and one o hold for all channels. In a
    `Model` with a background, g multiplies the contrast above it: both x and y come with the background subtracted.
    The reconstruction of `avae.align` is y.

    Attributes:
      scale: standard deviation in pixel units, or None to learn it as one more weight (`log_scale`), as in the
        sigma-VAE (Rybkin et al. 2021).
      gain: standard deviation of the factor g, about 1; 0 for images of one contrast.
      offset: standard deviation of the level o, in pixel units; 0 for images of one level.
    """

    scale: float | None = None
    gain: float = 0.0
    offset: float = 0.0

    normalised: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale > 0:
            raise Mistake(f"gaussian expects scale > 0 or None (learned), got {self.scale}")
        if not (0 <= self.gain < math.inf and 0 <= self.offset < math.inf):
            raise Mistake(f"gaussian expects a finite gain and offset of at least 0, got {self.gain} and {self.offset}")

    def init(self) -> dict[str, Array]:
        """The log scale, where it is learned."""
        return {} if self.scale is not None else {"log_scale": jnp.zeros((), jnp.float32)}

    def mean(self, raw: Array) -> Array:
        """The decoder's output is the mean."""
        return raw

    def log_prob(self, weights: Weights, x: Array, mean: Array, weight: Array | None = None) -> Array:
        """Log p(x | mean) in nats, summed over pixels; its constant counts those that do, each by its weight."""
        if not (self.gain or self.offset):
            return self._noise(weights, x, mean, weight)
        g, o, price = self._brightness(weights, x, mean, weight)
        return self._noise(weights, x, g * mean + o, weight) - price

    def log_prob_raw(self, weights: Weights, x: Array, raw: Array, weight: Array | None = None) -> Array:
        """The same: the raw output is the mean."""
        return self.log_prob(weights, x, raw, weight)

    def natural(self, weights: Weights, mean: Array, level: Array) -> tuple[Array, Array]:
        """As that of `Bernoulli`, for images and means above the `level`; where each has an offset, above their own."""
        y = mean - level
        y = y - jnp.mean(y) if self.offset else y
        t = y * jnp.exp(-2 * self._log_scale(weights))
        return t, 0.5 * y * t

    def contrast(self, x: Array, level: Array, weight: Array) -> Array:
        """The x of `natural`."""
        x = x - level
        return x - jnp.sum(weight * x) / jnp.sum(weight) if self.offset else x

    def gained(self, along: Array, across: Array) -> Array:
        """As that of `Bernoulli`; where images differ in gain, at the gain that suits each shift, a little above it."""
        if not self.gain:
            return along - across
        prior = self.gain**-2
        return 0.5 * ((along + prior) ** 2 / (2 * across + prior) - prior)

    def fisher(self, weights: Weights, mean: Array) -> Array:
        """Fisher information of each pixel's mean under the noise alone: 1 / scale^2.

        A `Model` multiplies it by g^2, with the brightness g held at its estimate. Integrating g and o out would
        remove directions from it, so this is an upper bound of the curvature. Gauss-Newton steps are then too short
        rather than too long, and standard deviations of poses too small rather than too large.
        """
        return jnp.broadcast_to(jnp.exp(-2 * self._log_scale(weights)), mean.shape)

    def check(self, x: Any) -> str | None:
        """Any finite image will do."""
        return None

    def brightness(self, weights: Weights, x: Array, mean: Array, weight: Array | None = None) -> tuple[Array, Array]:
        """Posterior means of g and o for one image x and its mean, both [*space, C]; 1 and 0 where there are none.

        Of a model with a background, give both less the background.
        """
        return self._brightness(weights, x, mean, weight)[:2]

    def _noise(self, weights: Weights, x: Array, mean: Array, weight: Array | None) -> Array:
        """Log N(x; mean, scale^2 I)."""
        log_scale, counts = self._log_scale(weights), counted(x, weight)
        residual = (x - mean).ravel() * jnp.exp(-log_scale)
        n = x.size if counts is None else jnp.sum(counts)
        weighted = residual if counts is None else residual * counts
        return -0.5 * matmul(weighted, residual) - n * (log_scale + 0.5 * math.log(2 * math.pi))

    def _brightness(self, weights: Weights, x: Array, mean: Array, weight: Array | None) -> tuple[Array, Array, Array]:
        """The best g and o, and what integrating them out costs beside the noise about g mean + o, in nats.

        Woodbury's identity for two directions, `mean` and 1. The average over pixels is subtracted from the mean first.
        The rest is orthogonal to 1, so neither log det nor the residual is a small difference of large numbers.
        """
        precision = jnp.exp(-2 * self._log_scale(weights)) * (jnp.ones_like(x) if weight is None else weight)
        w, y, r = jnp.broadcast_to(precision, x.shape).ravel(), mean.ravel(), (x - mean).ravel()
        n = jnp.maximum(jnp.sum(w), jnp.finfo(w.dtype).tiny)
        level, rest = matmul(w, y) / n, matmul(w, r) / n
        centred = y - level
        flat = 1 + self.offset**2 * n  # posterior precision of o, g known, over its prior's
        steep = 1 + self.gain**2 * (matmul(w * centred, centred) + level**2 * n / flat)  # of g, o integrated out
        u = self.gain * (matmul(w * centred, r) + level * rest * n / flat) / steep
        v = self.offset * n * (rest - self.gain * u * level) / flat
        price = 0.5 * (u**2 + v**2 + jnp.log(flat) + jnp.log(steep))
        return 1 + self.gain * u, self.offset * v, price

    def _log_scale(self, weights: Weights) -> Array:
        return jnp.asarray(math.log(self.scale)) if self.scale is not None else weights["log_scale"]


def counted(x: Array, weight: Array | None) -> Array | None:
    """How often each pixel of an image [*space, C] counts, flat [n]; None where all count once."""
    return None if weight is None else jnp.broadcast_to(weight, x.shape).ravel()


def total(terms: Array, counts: Array | None = None) -> Array:
    """The sum of flat `terms` [n], as a product with ones, or with `counts` [n].

    XLA on a CPU does not vectorise the inputs of a sum; it does those of a product. For the logarithms of a batch of
    digits that is 26 times faster.
    """
    return matmul(terms, jnp.ones_like(terms) if counts is None else counts)
