"""A learned proposal: a small network that guesses, from the image alone, at which poses the search will end.

    q(alpha | x): a bin of the family by softmax, and within each bin one step from its centre

It proposes the few starts worth scoring; search and refinement then correct it (semi-amortised inference, Kim et al.
2018). Its examples cost nothing: the search gives the canonical form of an image, and that form at a pose drawn from
the prior is a new image whose pose is known. A softmax over bins can have several peaks and wraps round as the family
does, so digits that are explained at two orientations keep both.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from avae.networks.vae import Dense, Weights, block_means
from avae.runtime.mistake import Mistake
from avae.transforms import Transform


@dataclasses.dataclass(frozen=True)
class PoseNetwork:
    """A fully connected network over image blocks, with a logit and a step for each bin of the family.

    Attributes:
      n_bins: stratified poses of the family, the centres of its bins; a finite family has one for each element.
      hidden: widths of the hidden layers.
      coarse: the network sees means of `coarse`^d pixels.
    """

    n_bins: int = 32
    hidden: tuple[int, ...] = (512, 256)
    coarse: int = 2

    def __post_init__(self) -> None:
        if self.n_bins < 2 or self.coarse < 1 or not self.hidden or min(self.hidden) < 1:
            raise Mistake(
                "pose_network expects n_bins >= 2, coarse >= 1 and at least one hidden layer of width >= 1, got "
                f"{self.n_bins}, {self.coarse} and {self.hidden}"
            )

    def init(self, key: Array, image_shape: tuple[int, ...], transform: Transform) -> Weights:
        """Fresh weights for images of a shape [*space, C]."""
        pixels = block_means(jnp.zeros(image_shape), self.coarse)
        return self._network(transform).init(key, pixels.ravel())["params"]

    def __call__(self, weights: Weights, x: Array, transform: Transform) -> tuple[Array, Array]:
        """Of one image: logits [n_bins], and the step [n_bins, dof] from the centre of each in half-widths of a bin."""
        pixels = block_means(x, self.coarse).ravel()
        out = self._network(transform).apply({"params": weights}, pixels)
        out = jnp.asarray(out).reshape(-1, 1 + transform.dof)
        return out[:, 0], jnp.tanh(out[:, 1:])

    def propose(self, weights: Weights, x: Array, n: int, transform: Transform) -> Array:
        """The `n` likeliest poses [n, size] for one image [*space, C], likeliest first; at most one in each bin."""
        bins, cell = self._bins(transform)
        logits, steps = self(weights, x, transform)
        _, best = jax.lax.top_k(logits, min(n, len(bins)))
        return jax.vmap(lambda i: transform.project(transform.retract(bins[i], steps[i] * cell)))(best)

    def loss(self, weights: Weights, x: Array, alpha: Array, transform: Transform) -> Array:
        """-log q of the bin that holds `alpha`, in nats, and the squared error of the step within it; one image."""
        bins, cell = self._bins(transform)
        logits, steps = self(weights, x, transform)
        targets = jax.vmap(lambda centre: transform.step(centre, alpha) / cell)(bins)
        apart = ~jax.vmap(lambda centre: transform.connected(centre, alpha))(bins)
        nearest = jnp.argmin(jnp.sum(targets**2, axis=1) + jnp.where(apart, jnp.inf, 0.0))
        error = jnp.sum((steps[nearest] - jnp.clip(targets[nearest], -1, 1)) ** 2)
        return -jax.nn.log_softmax(logits)[nearest] + error

    def _bins(self, transform: Transform) -> tuple[Array, Array]:
        """Centres [n_bins, size] and half-widths [dof]."""
        bins = transform.starts(self.n_bins)
        return bins, transform.cell(len(bins))

    def _network(self, transform: Transform) -> Dense:
        n_bins = len(transform.lattice) if transform.dof == 0 else self.n_bins
        return Dense((*self.hidden, n_bins * (1 + transform.dof)))


class Beside(struct.PyTreeNode):
    """Weights of any pytree, with those of a pose network beside them; it behaves as the pytree itself does."""

    own: Any
    pose_network: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def __getitem__(self, key: Any) -> Any:
        return self.own[key]

    def __iter__(self) -> Any:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """That of weights that can be called, as modules of some libraries can."""
        return self.own(*args, **options)
