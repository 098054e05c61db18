"""A learned proposal: a small network that guesses, from the image alone, at which poses the search will end.

    q(alpha | x): a bin of the family by softmax, and within each bin one step from its centre

It proposes the few starts worth scoring; search and refinement then correct it (semi-amortised inference, Kim et al.
2018). Its examples cost nothing: an image that has been searched is known in its canonical form, and that form put at
a fresh pose from the prior is a new image whose pose is known. A softmax over bins may have several peaks, and wraps
round as the family does: digits that are explained at two orientations keep both.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from avae.align import align
from avae.model import Params, check_images, check_key
from avae.networks.vae import Dense, Weights, block_means
from avae.runtime.mistake import Mistake
from avae.settings import Search
from avae.transforms import Transform

CHUNK = 500  # steps of `distill` that are compiled into one call
SEARCHED = 500  # images that it searches at a time


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


def proposal_loss(params: Params, canonical: Array, key: Array) -> Array:
    """Mean loss of the pose network on canonical forms [B, *space, C], each put at a fresh pose from the prior."""
    model, transform = params.model, params.model.transform

    def one(canonical: Array, key: Array) -> Array:
        alpha = transform.sample(key)
        x = model.from_canonical(canonical, transform, alpha, model.image_shape[:-1])
        return model.pose_network.loss(params.weights["pose_network"], x, alpha, transform)

    return jnp.mean(jax.vmap(one)(canonical, jax.random.split(key, len(canonical))))


def distill(
    params: Params,
    x: ArrayLike,
    *,
    key: Array | None = None,
    pose_network: PoseNetwork = PoseNetwork(),
    steps: int = 12_000,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    search: Search | str | None = None,
) -> Params:
    """Gives a trained model a pose network that has learned where its own search ends: `align(search="fast")` uses it.

    Args:
      params: a trained model, with or without a pose network; its VAE stays as it is.
      x: images to learn from [N, *space, C]; each is searched once, then seen at poses drawn from the prior.
      key: of the weights and all draws; None for `jax.random.key(0)`.
      pose_network: its size.
      steps: of Adam, with a cosine schedule.
      batch_size: images per step.
      learning_rate: at the first step.
      search: with which `x` is searched, as in `align`.

    Returns:
      `Params` with the pose network and its weights.

    Raises:
      Mistake: for images that the model does not take, or fewer than one step or image per step.
    """
    key = jax.random.key(0) if key is None else key
    check_key(key)
    if steps < 1 or batch_size < 1 or not learning_rate > 0:
        raise Mistake(
            "distill expects steps >= 1, batch_size >= 1 and learning_rate > 0, got "
            f"{steps}, {batch_size} and {learning_rate}"
        )
    model = dataclasses.replace(params.model, pose_network=pose_network)
    x = check_images(x, model)
    parts = [x[i : i + SEARCHED] for i in range(0, len(x), SEARCHED)]
    canonical = jnp.concatenate([align(params, part, search=search).canonical for part in parts])
    fresh = pose_network.init(jax.random.fold_in(key, 0), model.image_shape, model.transform)
    params = Params(params.weights | {"pose_network": fresh}, model)
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    state = (fresh, adam.init(fresh))
    for first in range(0, steps, CHUNK):
        index = jnp.arange(first, min(first + CHUNK, steps))
        state = _steps(params, state, canonical, jax.random.fold_in(key, 1), index, batch_size, adam)
    return params.replace(weights=params.weights | {"pose_network": state[0]})


@functools.partial(jax.jit, static_argnames=("batch_size", "adam"))
def _steps(
    params: Params,
    state: tuple[Weights, optax.OptState],
    canonical: Array,
    key: Array,
    index: Array,
    batch_size: int,
    adam: optax.GradientTransformation,
) -> tuple[Weights, optax.OptState]:
    """Steps of Adam, numbered by `index`, on the weights of the pose network alone."""

    def loss(weights: Weights, batch: Array, key: Array) -> Array:
        return proposal_loss(params.replace(weights=params.weights | {"pose_network": weights}), batch, key)

    def step(state: tuple[Weights, optax.OptState], i: Array) -> tuple[tuple[Weights, optax.OptState], None]:
        weights, moments = state
        which, poses = jax.random.split(jax.random.fold_in(key, i))
        batch = canonical[jax.random.randint(which, (batch_size,), 0, len(canonical))]
        update, moments = adam.update(jax.grad(loss)(weights, batch, poses), moments)
        return (optax.apply_updates(weights, update), moments), None

    return jax.lax.scan(step, state, index)[0]
