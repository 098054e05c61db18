"""The training step: search the pose of every image, hold it fixed, update the weights. Pure; the loop is beside it.

At an interior optimum dJ/dalpha = 0. The gradient of min_alpha J with respect to the weights is therefore that of J at
the fixed alpha* (envelope theorem), and the search runs under `stop_gradient`.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from avae.align import search_one
from avae.data.dataset import factors, repose
from avae.experiment import Experiment, Train
from avae.generate import init
from avae.model import Params
from avae.objective import Terms, batch_terms, pose_loss, twin_loss
from avae.runtime.parts import Layout, in_parts
from avae.settings import Plan, Search, from_memory
from avae.starts import starting_poses, strata
from avae.training.distill import proposal_loss

NEAR = 0.2  # half-width, in radians and half-widths, of the box around known poses that is searched at first


class TrainState(struct.PyTreeNode):
    """All that changes while training: the step, the parameters, the optimizer's moments.

    And where the experiment asks for them, the average of the weights, and the last pose of each image [n_train, size].
    """

    step: Array
    params: Params
    opt_state: Any
    average: Any = None
    poses: Array | None = None


def steps_per_run(train: Train, n_train: int) -> int:
    """Steps in a run: `epochs` times the training images, in batches; whole updates, where each takes several."""
    updates = train.epochs * n_train // (train.batch_size * train.accumulate)
    return max(1, updates) * train.accumulate


def first_quarter(experiment: Experiment) -> int:
    """The first quarter of the steps, in which orientations settle: every search is full, or near known poses."""
    return max(1, steps_per_run(experiment.train, experiment.data.n_train) // 4)


def schedule(experiment: Experiment) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then cosine decay to a hundredth of the peak."""
    train, steps = experiment.train, steps_per_run(experiment.train, experiment.data.n_train)
    warmup = min(train.warmup_steps, steps // 2)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else train.learning_rate, train.learning_rate, warmup, steps, train.learning_rate / 100
    )


def optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """Adam with clipped gradients and the experiment's schedule, on the mean gradient of `accumulate` steps."""
    train, rate = experiment.train, schedule(experiment)
    if train.accumulate == 1:
        return optax.chain(optax.clip_by_global_norm(train.clip_norm), optax.adam(rate))
    adam = optax.adam(lambda update: rate(update * train.accumulate))
    chain = optax.chain(optax.clip_by_global_norm(train.clip_norm), adam)
    return optax.MultiSteps(chain, train.accumulate).gradient_transformation()


def init_state(experiment: Experiment) -> TrainState:
    """The state before the first step."""
    params, train = init(jax.random.key(experiment.train.seed), experiment.model), experiment.train
    average = optax.ema(train.average).init(params.weights) if train.average else None
    transform, poses = experiment.model.transform, None
    if train.search_every > 1 or train.poses:
        poses = jnp.tile(transform.identity, (experiment.data.n_train, 1))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer(experiment).init(params.weights), average, poses)


def trained(state: TrainState, experiment: Experiment) -> Params:
    """What a run gives: the running average of the weights where one is kept, else the weights."""
    if state.average is None or int(state.step) == 0:
        return state.params
    weights = optax.tree.bias_correction(state.average.ema, experiment.train.average, state.average.count)
    return state.params.replace(weights=weights)


@functools.partial(jax.jit, static_argnames=("experiment", "shards"), donate_argnames="state")
def train_step(
    state: TrainState, images: Array, experiment: Experiment, shards: int = 1, index: Array | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One step on a batch of images [B, H, W, C], split over `shards` devices.

    `index` [B] says which of the training images they are; without it no pose is remembered (`Train.search_every`),
    and every search is full. Every draw comes from the seed and the step number, so a run can be resumed, or repeated,
    bit for bit.

    Returns:
      The new state, and scalars: the terms of J in nats per image, what the search gained over the identity, the
      gradient's norm and the learning rate.
    """
    key = jax.random.fold_in(jax.random.key(experiment.train.seed), state.step)
    pose_key, stretch_key, start_key, latent_key, guess_key, jitter_key = jax.random.split(key, 6)
    if experiment.data.pose == "fresh":
        poses = jax.vmap(experiment.data.transform.sample)(jax.random.split(pose_key, images.shape[0]))
        stretches = factors(experiment.data, images.shape[0], stretch_key)
        images = repose(images, poses, experiment.data.transform, stretches, experiment.model.background)

    params = state.params.in_precision(experiment.train.precision)
    alpha, metrics = _search_poses(state.replace(params=params), images, start_key, experiment, Layout(shards), index)
    poses, known = state.poses, state.step < (first_quarter(experiment) if experiment.train.poses else 0)
    if state.poses is not None and alpha is not None and index is not None:
        poses = jnp.where(known, state.poses, state.poses.at[index].set(alpha))

    canonical = None
    if params.model.pose_network is not None:
        model = params.model
        canonical = jax.vmap(model.to_canonical, in_axes=(0, None, 0))(images, model.transform, alpha)

    seen = None
    if alpha is not None and experiment.train.jitter and experiment.model.transform.dof:
        seen = jittered(alpha, experiment, jitter_key, images.shape[1:-1])

    def loss(weights: Any) -> tuple[Array, Terms]:
        current = params.replace(weights=weights)
        terms = batch_terms(current, images, alpha, latent_key, seen)
        guess = 0.0 if canonical is None else proposal_loss(current, canonical, guess_key)
        return jnp.mean(terms.weighted(experiment.train.beta)) + guess, jax.tree.map(jnp.mean, terms)

    gradient, terms = jax.grad(loss, has_aux=True)(state.params.weights)
    update, opt_state = optimizer(experiment).update(gradient, state.opt_state)
    weights = optax.apply_updates(state.params.weights, update)
    average = state.average
    if average is not None:
        _, average = optax.ema(experiment.train.average).update(weights, average)
    metrics |= {
        "loss": terms.total,
        "reconstruction": terms.reconstruction,
        "kl": terms.kl,
        "gradient_norm": optax.tree.norm(gradient),
        "learning_rate": jnp.asarray(schedule(experiment)(state.step)),
    }
    return TrainState(state.step + 1, state.params.replace(weights=weights), opt_state, average, poses), metrics


def _search_poses(
    state: TrainState, images: Array, key: Array, experiment: Experiment, layout: Layout, index: Array | None
) -> tuple[Array | None, dict[str, Array]]:
    """alpha* of each image, held fixed; None for a plain VAE."""
    search, family = experiment.train.search, experiment.model.transform
    if search is None:
        return None, {}
    params, beta = jax.lax.stop_gradient(state.params), experiment.train.beta

    def near(known: Array) -> tuple[Array, Array]:
        held = Plan(dataclasses.replace(search, n_local=(), n_steps=0), False, (NEAR,) * family.dof)

        def one(x: Array, pose: Array) -> tuple[Array, Array]:
            starts, _ = starting_poses(params, x, family, held, None, pose)
            found = search_one(pose_loss(params, family, beta=beta, shifts=False), x, starts, family, held.search)
            return found.alpha, found.info.identity_loss - found.loss

        alpha, gain = in_parts(lambda pair: one(*pair), (images, known), layout)
        return alpha, jnp.mean(gain)

    def searched(search: Search, remembered: Array | None) -> tuple[Array, Array]:
        common = strata(params.model, family, search.n_starts - (remembered is not None), key)

        def one(x: Array, first: Array | None) -> tuple[Array, Array]:
            starts = common if first is None else jnp.concatenate([common, first[None]])
            twin = twin_loss(params, x, family, search.twin, beta)
            found = search_one(pose_loss(params, family, beta=beta), x, starts, family, search, twin)
            return found.alpha, found.info.identity_loss - found.loss

        alpha, gain = in_parts(lambda pair: one(*pair), (images, remembered), layout)
        return alpha, jnp.mean(gain)

    if state.poses is None or index is None:
        alpha, gain = searched(search, None)
    elif experiment.train.poses:
        first = first_quarter(experiment)
        again = functools.partial(searched, search)
        alpha, gain = jax.lax.cond(state.step < first, near, again, state.poses[index])
    else:
        alpha, gain = jax.lax.cond(
            (state.step < first_quarter(experiment))
            | (epoch(state.step, images.shape[0], experiment.data.n_train) % experiment.train.search_every == 0),
            lambda _: searched(search, None),
            lambda remembered: searched(from_memory(search), remembered),
            state.poses[index],
        )
    return jax.lax.stop_gradient(alpha), {"search_gain": gain}


def jittered(alpha: Array, experiment: Experiment, key: Array, space: tuple[int, ...]) -> Array:
    """Poses [B, size] a normal step from alpha: `jitter` pixels at the rim of the frame along each direction."""
    family, scale = experiment.model.transform, experiment.train.jitter * 2 / min(space)
    steps = scale * jax.random.normal(key, (len(alpha), family.dof))
    return jax.vmap(lambda alpha, step: family.project(family.retract(alpha, step)))(alpha, steps)


def epoch(step: Array, batch_size: int, n_train: int) -> Array:
    """Step * batch_size // n_train, without the product: an int32 holds 2^31 images only."""
    common = math.gcd(batch_size, n_train)
    batch, n = batch_size // common, n_train // common
    whole, rest = step // n, (step % n).astype(jnp.uint32)
    return whole * batch + (rest * batch // n).astype(jnp.int32)
