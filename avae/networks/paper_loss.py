"""The loss of the code published with the paper; see `avae.networks.likelihoods` for what a likelihood offers."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from avae.networks.likelihoods import Weights, counted, total
from avae.runtime.mistake import Mistake


@dataclasses.dataclass(frozen=True)
class PaperLoss:
    """The loss of the code published with the paper: a squared error, and no likelihood. For comparison with its table.

    Images in [0, 1] are standardised by the mean and the deviation of MNIST's pixels. The decoder's sigmoid in [0, 1]
    is compared with them, and cannot reach their background of -0.42 or their strokes of up to 2.82. Hence a `floor`
    that no model can pass: 515.1 in the paper's frame of 40x40 pixels. The loss has no variance: it gives no bound on
    log p(x), and its sum with the KL is not in nats.

    Attributes:
      centre: mean of the pixels.
      spread: their standard deviation.
    """

    centre: float = 0.1307
    spread: float = 0.3081

    normalised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.spread > 0:
            raise Mistake(f"the paper's loss expects spread > 0, got {self.spread}")

    def init(self) -> dict[str, Array]:
        """No weights of its own."""
        return {}

    def mean(self, raw: Array) -> Array:
        """Decoder output to what is compared with the standardised image."""
        return jax.nn.sigmoid(raw)

    def log_prob(self, weights: Weights, x: Array, mean: Array, weight: Array | None = None) -> Array:
        """Minus the squared error, summed over pixels."""
        return -total((self._standardised(x) - mean.ravel()) ** 2, counted(x, weight))

    def log_prob_raw(self, weights: Weights, x: Array, raw: Array, weight: Array | None = None) -> Array:
        """The same from the decoder's output."""
        return self.log_prob(weights, x, self.mean(raw), weight)

    def fisher(self, weights: Weights, mean: Array) -> Array:
        """Curvature of the squared error: 2."""
        return jnp.full_like(mean, 2.0)

    def check(self, x: Any) -> str | None:
        """Any finite image will do."""
        return None

    def floor(self, x: Array, weight: Array | None = None) -> Array:
        """The squared error of one image x at the best output in [0, 1]: no model can pass it."""
        standardised = self._standardised(x)
        return total((standardised - jnp.clip(standardised, 0, 1)) ** 2, counted(x, weight))

    def _standardised(self, x: Array) -> Array:
        return (x.ravel() - self.centre) / self.spread
