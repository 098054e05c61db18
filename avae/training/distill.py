"""Teaches a pose network where the search ends: by itself (`distill`), or in each training step (`proposal_loss`)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from avae.align import align
from avae.checks import check_images, check_key
from avae.model import Params
from avae.networks.likelihoods import Weights
from avae.networks.pose_network import PoseNetwork
from avae.runtime.mistake import Mistake
from avae.settings import Search

SIZE = PoseNetwork()
CHUNK = 500  # steps that are compiled into one call
SEARCHED = 500  # images that are searched at a time


def proposal_loss(params: Params, canonical: Array, key: Array) -> Array:
    """Mean loss of the pose network on canonical forms [B, *space, C], each put at a fresh pose from the prior."""
    model, transform = params.model, params.model.transform

    def one(canonical: Array, key: Array) -> Array:
        alpha = transform.sample(key)
        x = model.from_canonical(canonical, transform, alpha, model.image_shape[:-1])
        return model.pose_network.loss(params.pose_weights, x, alpha, transform)

    return jnp.mean(jax.vmap(one)(canonical, jax.random.split(key, len(canonical))))


def distill(
    params: Params,
    x: ArrayLike,
    *,
    key: Array | None = None,
    pose_network: PoseNetwork = SIZE,
    steps: int = 12_000,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    search: Search | Mapping[str, Any] | str | None = None,
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
    checked = check_images(x, model)
    x = x if isinstance(x, np.ma.MaskedArray) else checked  # `align` takes masked arrays, too
    parts = [x[i : i + SEARCHED] for i in range(0, len(x), SEARCHED)]
    canonical = jnp.concatenate([align(params, part, search=search).canonical for part in parts])
    init_key, steps_key = jax.random.split(key)
    fresh = pose_network.init(init_key, model.image_shape, model.transform)
    params = params.replace(model=model)
    state = (fresh, _adam(learning_rate, steps).init(fresh))
    for first in range(0, steps, CHUNK):
        index = jnp.arange(first, min(first + CHUNK, steps))
        state = _steps(params, state, canonical, steps_key, index, batch_size, learning_rate, steps)
    return params.with_pose_network(state[0])


def _adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


@functools.partial(jax.jit, static_argnames=("batch_size", "learning_rate", "steps"))
def _steps(
    params: Params,
    state: tuple[Weights, optax.OptState],
    canonical: Array,
    key: Array,
    index: Array,
    batch_size: int,
    learning_rate: float,
    steps: int,
) -> tuple[Weights, optax.OptState]:
    """Steps of Adam, numbered by `index`, on the weights of the pose network alone."""
    adam = _adam(learning_rate, steps)

    def loss(weights: Weights, batch: Array, key: Array) -> Array:
        return proposal_loss(params.with_pose_network(weights), batch, key)

    def step(state: tuple[Weights, optax.OptState], i: Array) -> tuple[tuple[Weights, optax.OptState], None]:
        weights, moments = state
        which, poses = jax.random.split(jax.random.fold_in(key, i))
        batch = canonical[jax.random.randint(which, (batch_size,), 0, len(canonical))]
        update, moments = adam.update(jax.grad(loss)(weights, batch, poses), moments)
        return (optax.apply_updates(weights, update), moments), None

    return jax.lax.scan(step, state, index)[0]
