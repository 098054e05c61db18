"""The outer loop's step: search the pose of every image, hold it, step the weights. Pure; the loop is in train.py.

At an interior optimum dJ/dalpha = 0, so the derivative of min_alpha J with respect to the weights is that of J at
the fixed alpha* (envelope theorem): the search runs under `stop_gradient`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from avae.align import search_batch
from avae.config import Experiment, Train
from avae.data import factors, repose
from avae.model import Params, init
from avae.objective import Terms, batch_terms, pose_loss


class TrainState(struct.PyTreeNode):
    """All that changes while training: the step, the parameters and the optimizer's moments."""

    step: Array
    params: Params
    opt_state: Any


def steps_per_run(train: Train, n_train: int) -> int:
    """Steps in a run: `epochs` times the training images, in batches."""
    return max(1, train.epochs * n_train // train.batch_size)


def schedule(experiment: Experiment) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then cosine decay to a hundredth of the peak."""
    train, steps = experiment.train, steps_per_run(experiment.train, experiment.data.n_train)
    warmup = min(train.warmup_steps, steps // 2)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else train.learning_rate, train.learning_rate, warmup, steps, train.learning_rate / 100
    )


def optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """Adam with clipped gradients and the experiment's schedule."""
    return optax.chain(optax.clip_by_global_norm(experiment.train.clip_norm), optax.adam(schedule(experiment)))


def init_state(experiment: Experiment) -> TrainState:
    """The state before the first step."""
    params = init(jax.random.key(experiment.train.seed), experiment.model)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer(experiment).init(params.weights))


@functools.partial(jax.jit, static_argnames="experiment", donate_argnames="state")
def train_step(state: TrainState, images: Array, experiment: Experiment) -> tuple[TrainState, dict[str, Array]]:
    """One step on a batch of images [B, H, W, C].

    Every draw comes from the seed and the step number, so a run can be resumed, or repeated, bit for bit.

    Returns:
      The new state, and scalars: the terms of J in nats per image, what the search gained over the identity, the
      gradient's norm and the learning rate.
    """
    key = jax.random.fold_in(jax.random.key(experiment.train.seed), state.step)
    pose_key, start_key, latent_key = jax.random.split(key, 3)
    if experiment.data.pose == "fresh":
        poses = jax.vmap(experiment.data.transform.sample)(jax.random.split(pose_key, images.shape[0]))
        stretches = factors(experiment.data, images.shape[0], jax.random.fold_in(pose_key, 1))
        images = repose(images, poses, experiment.data.transform, stretches)

    alpha, metrics = _search_poses(state.params, images, start_key, experiment)

    def loss(weights: Any) -> tuple[Array, Terms]:
        terms = batch_terms(state.params.replace(weights=weights), images, alpha, latent_key)
        return jnp.mean(terms.total), jax.tree.map(jnp.mean, terms)

    gradient, terms = jax.grad(loss, has_aux=True)(state.params.weights)
    update, opt_state = optimizer(experiment).update(gradient, state.opt_state)
    weights = optax.apply_updates(state.params.weights, update)
    metrics |= {
        "loss": terms.total,
        "reconstruction": terms.reconstruction,
        "kl": terms.kl,
        "gradient_norm": optax.tree.norm(gradient),
        "learning_rate": jnp.asarray(schedule(experiment)(state.step)),
    }
    return TrainState(state.step + 1, state.params.replace(weights=weights), opt_state), metrics


def _search_poses(
    params: Params, images: Array, key: Array, experiment: Experiment
) -> tuple[Array | None, dict[str, Array]]:
    """alpha* of each image, held fixed; None for a plain VAE."""
    settings, transform = experiment.train.search, experiment.model.transform
    if settings is None:
        return None, {}
    params = jax.lax.stop_gradient(params)
    found = search_batch(pose_loss(params, transform), images, transform, key, settings)
    gain = jnp.mean(found.info.identity_loss - found.loss)
    return jax.lax.stop_gradient(found.alpha), {"search_gain": gain}
