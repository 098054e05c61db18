"""Mixed precision: the networks compute in a smaller float type; weights, warps, losses and updates stay float32."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from avae.networks.vae import Posterior, Weights

PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Cast:
    """Networks whose passes run in `dtype`: what goes in is cast down, what comes out is cast back to float32."""

    networks: Any
    dtype: str

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """That of the networks."""
        return getattr(self.networks, "image_shape", None)

    @property
    def reduced(self) -> "Callable[[Weights, int], tuple[Cast, Weights]] | None":
        """That of the networks, where they have it."""
        reduced = getattr(self.networks, "reduced", None)
        if reduced is None:
            return None

        def cast(weights: Weights, factor: int) -> tuple[Cast, Weights]:
            smaller, weights = reduced(weights, factor)
            return Cast(smaller, self.dtype), weights

        return cast

    def encode(self, weights: Weights, x: Array) -> Posterior:
        """q(z | x) for one example x [*space, C]."""
        return Posterior(*_cast(self.networks.encode(*_cast((weights, x), self.dtype)), "float32"))

    def decode(self, weights: Weights, z: Array) -> Array:
        """Raw output [*space, C] for one z."""
        return _cast(self.networks.decode(*_cast((weights, z), self.dtype)), "float32")


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)
