"""The paper's inner loop: starts -> scores -> top k -> refine -> best (Bidart & Wong 2019, section 3).

    alpha*(x) = argmin_alpha J(alpha; x)

Every function here is written for one example; `search_batch` is the one place where examples are vmapped.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from avae.model import Params, check_images, check_key
from avae.objective import pose_loss, predict
from avae.runtime.cores import parts_at_once, side_by_side
from avae.runtime.devices import shards_of
from avae.runtime.mistake import Mistake
from avae.runtime.parts import in_parts
from avae.settings import PAPER, Search
from avae.solvers import CompositeLoss, Refined, linearise, refine, standard_deviation
from avae.transforms import Transform, check_family, spread

Loss = Callable[[Any, Array], Array]


class Info(NamedTuple):
    """What a human may want to know of a search.

    Attributes:
      start_losses: loss of every start [B, n_starts], at the resolution of `Search.coarse`; some may not be finite.
      kept: indices of the refined starts, best first [B, top_k].
      identity_loss: loss without any transform [B].
      accepted: refinement steps of the winner that lowered its loss [B].
      finite: whether the loss at the pose that is returned is finite [B].
    """

    start_losses: Array
    kept: Array
    identity_loss: Array
    accepted: Array
    finite: Array


class Found(NamedTuple):
    """The result of a search.

    Attributes:
      alpha: poses [B, size].
      loss: their losses [B].
      info: see `Info`.
      hessian: Gauss-Newton matrix of the loss at each [B, dof, dof]; None after another solver.
      prediction: what the loss predicts at each; None after another solver, and once `describe` has had it.
    """

    alpha: Array
    loss: Array
    info: Info
    hessian: Array | None = None
    prediction: Any = None


class Alignment(NamedTuple):
    """The result of `align`.

    Attributes:
      alpha: the pose found for each image [B, size]; `transform` says in which units.
      matrix: its pull map tau_alpha* [B, d, d+1].
      loss: J at alpha*, z at the posterior mean, in nats [B]. A maximum over poses: not a bound on log p(x).
      std: standard deviation of the pose [B, dof], from the curvature of J at this one mode (Laplace), in the units
        of a tangent step; infinite along a direction in which the image says nothing.
      canonical: tau_alpha* x, what the encoder sees [B, *space, C], in the shape of the canonical frame.
      reconstruction: tau_alpha*^-1 dec(mu), in the frame of x [B, *space, C].
      latent: posterior mean [B, z].
      info: see `Info`.
    """

    alpha: Array
    matrix: Array
    loss: Array
    std: Array
    canonical: Array
    reconstruction: Array
    latent: Array
    info: Info


def align(
    params: Params,
    x: ArrayLike,
    *,
    key: Array | None = None,
    search: Search | str | None = None,
    transform: Transform | None = None,
) -> Alignment:
    """Finds, for each image, the pose at which the VAE explains it best.

    Args:
      params: a trained model.
      x: images [B, H, W, C] (volumes [B, D, H, W, C]), float; in [0, 1] for the Bernoulli likelihood.
      key: draws the starts within their strata; None takes the centres, so that the result is deterministic.
      search: settings, or the name of a preset ("exhaustive", "paper", "default", "fast"; see `avae.settings.preset`);
        None for the model's own, or the family's where `transform` is another.
      transform: the family searched; None for the model's own.

    Returns:
      An `Alignment`, split over devices where x is. Nothing is raised inside compiled code: see `info.finite`.

    Raises:
      Mistake: if x has the wrong shape, dtype or range, the transform another dimension than the model's, or the
        key is none.
    """
    family: Transform = transform or params.model.transform
    if not isinstance(family, Transform) or family.dim != params.model.transform.dim:
        raise Mistake(f"transform: expected a family of dimension {params.model.transform.dim}, got {family!r}")
    check_family(family)
    check_key(key)
    x, settings = check_images(x, params.model), params.model.settings(search, family)
    n = parts_at_once(x)
    if n > 1:
        settings = dataclasses.replace(settings, memory=settings.budget // n)
    return side_by_side(lambda x: _align(params, x, key, settings, family, shards_of(x)), x, n)


def search(
    loss_fn: Loss, x: Any, transform: Transform, *, key: Array | None = None, settings: Search | None = None
) -> Found:
    """The generic inner loop, for any per-example loss.

    Args:
      loss_fn: (x, alpha) -> scalar for one example. A `CompositeLoss` can be refined by Gauss-Newton, any other by
        Adam. It is a static argument: pass the same object again to use the compiled search again.
      x: a pytree of arrays with a leading batch axis.
      transform: the family of poses.
      key: draws the starts within their strata; None takes the centres.
      settings: search settings; None for those of the family where the loss allows Gauss-Newton, else the paper's Adam.

    Returns:
      `Found`: the best pose seen for each example.

    Raises:
      Mistake: if Gauss-Newton is asked for with a loss that has no structure, coarse scoring with one that has no
        `reduce`, or another precision with one that has no `cast`, or if the batch is empty.
    """
    composite = isinstance(loss_fn, CompositeLoss)
    settings = settings or (transform.search if composite else PAPER)
    if settings.solver == "gauss_newton" and not composite:
        raise Mistake(
            'solver "gauss_newton" expects loss_fn to be an avae.CompositeLoss, got a plain function; use solver="adam"'
        )
    if settings.coarse > 1 and getattr(loss_fn, "reduce", None) is None:
        raise Mistake("search.coarse > 1 expects loss_fn to be an avae.CompositeLoss with `reduce`")
    if settings.precision != "float32" and getattr(loss_fn, "cast", None) is None:
        raise Mistake(
            f'search.precision "{settings.precision}" expects loss_fn to be an avae.CompositeLoss with `cast`'
        )
    check_family(transform)
    check_key(key)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise Mistake(f"x: expected arrays with one common, non-empty leading batch axis, got leading sizes {sizes}")
    return _jit_search(loss_fn, x, transform, key, settings, min(shards_of(leaf) for leaf in jax.tree.leaves(x)))


def search_batch(
    loss_fn: Loss,
    x: Any,
    transform: Transform,
    key: Array | None,
    settings: Search,
    describe: Any = None,
    shards: int = 1,
    first: Array | None = None,
) -> Any:
    """`search` without its checks, for use inside compiled code, of a batch that is split over `shards` devices.

    `describe(x, found)` may add to what is found; `first` [B, size] are starts that take the identity's place, each
    for its own example.
    """

    def one(pair: tuple[Any, Array | None]) -> Any:
        x, first = pair
        starts = starting_poses(loss_fn, x, transform, key, settings)
        starts = starts if first is None else starts.at[0].set(first)
        rounded = settings.precision != "float32"
        quick = cast(CompositeLoss, loss_fn).within(settings.precision) if rounded else loss_fn
        found = search_one(quick, x, starts, transform, settings)
        if rounded:
            found = in_full(loss_fn, x, found, starts[0], transform, settings)
        return found._replace(prediction=None) if describe is None else describe(x, found)

    return in_parts(one, (x, first), settings.budget, shards)


def starting_poses(loss_fn: Loss, x: Any, transform: Transform, key: Array | None, settings: Search) -> Array:
    """The starts [n, size] for one example, the identity first; the same for all, unless a network proposes them."""
    if settings.starts == "lattice":
        return transform.lattice
    if settings.starts == "network":
        proposed = cast(CompositeLoss, loss_fn).proposals(x, settings.n_starts - 1)
        return jnp.concatenate([transform.identity[None], proposed])
    return transform.starts(settings.n_starts, key)


def n_cells(loss_fn: Loss, starts: Array, settings: Search) -> int:
    """Of how many equal parts of the family each start stands for one."""
    return cast(CompositeLoss, loss_fn).n_bins if settings.starts == "network" else len(starts)


def search_one(loss_fn: Loss, x: Any, starts: Array, transform: Transform, settings: Search) -> Found:
    """Starts -> scores -> top k -> look around -> refine -> best, for one example."""
    scores = score_starts(loss_fn, x, starts, settings)
    kept, losses, identity_loss = keep_best(loss_fn, x, starts, scores, settings)
    cells = n_cells(loss_fn, starts, settings)

    def look(start: tuple[Array, Array]) -> tuple[Array, Array]:
        return look_around(loss_fn, x, *start, transform, settings, cells)

    together = max(1, settings.chunk // max(1, settings.n_local))  # few poses at a time stay in cache
    poses, around = lax.map(look, (starts[kept], losses), batch_size=together)
    poses = worth_refining(poses, around, settings)
    refined = lax.map(lambda start: refine(loss_fn, x, start, transform, settings), poses, batch_size=settings.chunk)
    alpha, loss, accepted, hessian, prediction = lowest(refined)
    info = Info(scores, kept, identity_loss, accepted, jnp.isfinite(loss))
    return Found(alpha, loss, info, hessian, prediction)


def in_full(loss_fn: Loss, x: Any, found: Found, identity: Array, transform: Transform, settings: Search) -> Found:
    """What a search by rounded losses has found, with the loss itself, unless by that the identity is better."""
    unmoved = dataclasses.replace(settings, n_steps=0)
    poses = jnp.stack([found.alpha, identity])
    exact = jax.vmap(lambda alpha: refine(loss_fn, x, alpha, transform, unmoved))(poses)
    alpha, loss, _, hessian, prediction = lowest(exact)
    info = found.info._replace(identity_loss=exact.loss[1], finite=jnp.isfinite(loss))
    return Found(alpha, loss, info, hessian, prediction)


def keep_best(loss_fn: Loss, x: Any, starts: Array, scores: Array, settings: Search) -> tuple[Array, Array, Array]:
    """Indices of the best `top_k` starts, best first, their losses, and the loss of the identity, which is start 0.

    Scores at reduced resolution say little of the full loss, and may have left out the identity: the best `n_full` of
    them, and the identity, are scored again.
    """
    n_kept = min(settings.top_k, len(starts))
    n_scored = n_kept if settings.coarse == 1 else min(max(settings.n_full, n_kept), len(starts))
    _, best = lax.top_k(-comparable(scores), n_scored)
    if settings.coarse == 1:
        return best, scores[best], scores[0]
    candidates = jnp.append(best, 0)
    losses = lax.map(lambda alpha: loss_fn(x, alpha), starts[candidates], batch_size=settings.chunk)
    twice = jnp.where((best == 0).any(), jnp.inf, 0.0)  # the identity is among the best already
    _, order = lax.top_k(-comparable(losses).at[-1].add(twice), n_kept)
    return candidates[order], losses[order], losses[-1]


def score_starts(loss_fn: Loss, x: Any, starts: Array, settings: Search) -> Array:
    """Loss of each start [n_starts] for one example, a few at a time, at the resolution that the settings ask for."""
    if settings.coarse > 1:
        loss_fn, x = cast(CompositeLoss, loss_fn).at(x, settings.coarse)
    together = settings.chunk * settings.coarse**2  # as many pixels as `chunk` images have
    return lax.map(lambda alpha: loss_fn(x, alpha), starts, batch_size=together)


def look_around(
    loss_fn: Loss, x: Any, start: Array, score: Array, transform: Transform, settings: Search, n_starts: int
) -> tuple[Array, Array]:
    """Keep the best and subdivide: the best of a start and poses spread over its cell, then of its own smaller cell.

    A round tries `n_local` poses besides, so that the cell of the next holds an (n_local + 1)-th of the volume. Returns
    the poses of the last round [n, size], and their scores [n].
    """
    poses, scores = start[None], score[None]
    for level in range(settings.n_rounds if settings.n_local and transform.dof else 0):
        best = jnp.argmin(comparable(scores))
        start, score = poses[best], scores[best]
        cell = transform.cell(n_starts * (settings.n_local + 1) ** level)
        steps = spread(settings.n_local + 1, transform.dof)[1:] * cell[None]
        around = jax.vmap(lambda step, start=start: transform.project(transform.retract(start, step)))(steps)
        poses = jnp.concatenate([start[None], around])
        scores = jnp.concatenate([score[None], jax.vmap(lambda alpha: loss_fn(x, alpha))(around)])
    return poses, scores


def worth_refining(poses: Array, scores: Array, settings: Search) -> Array:
    """Of the poses around each kept start [top_k, n, size]: the best `n_refined` of all, or the best of each start."""
    if settings.n_refined == 0:
        best = jnp.argmin(comparable(scores), axis=1)
        return poses[jnp.arange(len(poses)), best]
    _, best = lax.top_k(-comparable(scores.ravel()), min(settings.n_refined, scores.size))
    return poses.reshape(scores.size, -1)[best]


def lowest(refined: Refined) -> Refined:
    """Of several refined poses, stacked in front, the one of the lowest loss."""
    best = jnp.argmin(comparable(refined.loss))
    return jax.tree.map(lambda leaf: leaf[best], refined)


def comparable(losses: Array) -> Array:
    """Losses with infinity for whatever is not finite, so that it never wins."""
    return jnp.where(jnp.isfinite(losses), losses, jnp.inf)


@functools.partial(jax.jit, static_argnames=("loss_fn", "transform", "settings", "shards"))
def _jit_search(loss_fn: Loss, x: Any, transform: Transform, key: Array | None, settings: Search, shards: int) -> Found:
    return search_batch(loss_fn, x, transform, key, settings, shards=shards)


@functools.partial(jax.jit, static_argnames=("settings", "transform", "shards"))
def _align(
    params: Params, x: Array, key: Array | None, settings: Search, transform: Transform, shards: int
) -> Alignment:
    loss_fn = pose_loss(params, transform)

    def describe(x: Array, found: Found) -> Alignment:
        matrix = transform.matrix(found.alpha)
        prediction = found.prediction
        if prediction is None:
            prediction = predict(params, x, transform, found.alpha)
        std = jnp.zeros(0)
        if transform.dof:  # the curvature of -log p(x | alpha), in nats, is the precision of the pose
            hessian = found.hessian
            if hessian is None:
                hessian = linearise(loss_fn, x, found.alpha, transform).hessian
            std = standard_deviation(hessian)
        return Alignment(
            alpha=found.alpha,
            matrix=matrix,
            loss=found.loss,
            std=std,
            canonical=params.model.to_canonical(x, transform, found.alpha),
            reconstruction=prediction.mean,
            latent=prediction.mu,
            info=found.info,
        )

    return search_batch(loss_fn, x, transform, key, settings, describe, shards)
