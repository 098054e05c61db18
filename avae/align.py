"""The paper's inner loop, alpha*(x) = argmin_alpha J(alpha; x) (Bidart & Wong 2019, section 3).

`search_one` is the algorithm, for one example; `align` runs it with J of a model, `search` with any loss.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from avae import checks
from avae.model import Params
from avae.objective import Alignment, Info, describe, pose_loss, twin_loss
from avae.runtime.parts import Layout, in_parts, in_turn, layout_of, side_by_side
from avae.runtime.programs import compiled
from avae.settings import Plan, Search, plan
from avae.settle import settled
from avae.solvers import Loss, Poses, Refined, Twin, best, refine, slides
from avae.starts import starting_poses
from avae.transforms import Transform, spread


class Found(NamedTuple):
    """The result of `search`.

    Attributes:
      alpha: poses [B, size].
      loss: their losses [B].
      info: see `Info`.
      prediction: that of `Refined`, for each.
      covariance: that of the parabola to which a pose settled [B, dof, dof].
    """

    alpha: Array
    loss: Array
    info: Info
    prediction: Any = None
    covariance: Array | None = None


def search_one(
    loss: Loss, x: Any, starts: Array, family: Transform, search: Search, twin: Twin = None, n_cells: Any = None
) -> Found:
    """The best pose of one example x, by J = loss(x, alpha).

    The `starts` [n, size], the identity first, divide the family into `n_cells` cells, by default one per start. `twin`
    is a cheaper loss that scores them, and the example in the form it takes; None scores them by the loss itself.
    """
    scores = survey(*(twin or (loss, x)), starts)  # 1. J at every start, slid where it suits; a cheaper twin will do
    kept, identity_loss = top_k(loss, x, scores, starts[:1], search.top_k, twin)  # 2. the best few
    n_cells = len(starts) if n_cells is None else n_cells
    nearby = look_around(loss, x, kept, family, search.n_local, n_cells)  # 3. poses in the cell of each
    found = refine_all(loss, x, best(nearby, search.n_refined), family, search)  # 4. by gradient
    alpha, value, accepted, _, prediction = jax.tree.map(lambda leaf: leaf[0], best(found, 1))  # 5. the best seen
    info = Info(scores.loss, kept.start, identity_loss, accepted, jnp.isfinite(value))
    return Found(alpha, value, info, prediction)


def score(loss: Loss, x: Any, alpha: Array) -> Poses:
    """Poses [n, size] with their losses, each its own start."""
    return Poses(alpha, in_turn(lambda alpha: loss(x, alpha), alpha, x), jnp.arange(len(alpha)))


def survey(loss: Loss, x: Any, alpha: Array) -> Poses:
    """`score`, each pose at the shift that suits it best where the loss can tell."""
    if not slides(loss):
        return score(loss, x, alpha)
    alpha, losses = in_turn(loss.slide(x), alpha, x)
    return Poses(alpha, losses, jnp.arange(len(alpha)))


def top_k(loss: Loss, x: Any, scores: Poses, identity: Array, k: int, twin: Twin = None) -> tuple[Poses, Array]:
    """The best `k` starts, best first, and the loss of the `identity` [1, size], the first of them.

    What a twin says is not J, nor what a slide says: the encoder has not seen the image at the new shift. Then the best
    3 k, slid once more, and the identity are scored by J, so that the search never makes an aligned input worse.
    """
    if twin is None and not slides(loss):
        return best(scores, k), scores.loss[0]
    few = best(scores, 3 * k)
    slid = twin if twin and slides(twin[0]) else (loss, x)
    alpha = survey(*slid, few.alpha).alpha if slides(loss) else few.alpha
    again = score(loss, x, jnp.concatenate([alpha, identity]))
    twice = (few.start == 0).any() & (not slides(loss))  # the identity is among the best already
    counted = jnp.where(twice, again.loss.at[-1].set(jnp.inf), again.loss)
    return best(Poses(again.alpha, counted, jnp.append(few.start, 0)), min(k, len(scores.loss))), again.loss[-1]


def look_around(loss: Loss, x: Any, kept: Poses, family: Transform, n_local: tuple[int, ...], n_cells: Any) -> Poses:
    """Poses [n, size] in the cells of the kept starts, those of the last round.

    A round tries `n_local[i]` poses around the best of each cell so far; they divide it for the next round.
    """
    cells = jax.tree.map(lambda leaf: leaf[:, None], kept)  # [k, 1, ...]
    for n in n_local if family.dof else ():
        centre = jax.vmap(lambda poses: best(poses, 1))(cells)
        steps = spread(n + 1, family.dof)[1:] * family.cell(n_cells, not slides(loss))[None]
        move = jax.vmap(jax.vmap(lambda pose, step: family.project(family.retract(pose, step)), (None, 0)), (0, None))
        alpha = move(centre.alpha[:, 0], steps)  # [k, n, size]
        losses = score(loss, x, alpha.reshape(-1, family.size)).loss.reshape(-1, n)
        tried = Poses(alpha, losses, jnp.broadcast_to(centre.start, losses.shape))
        cells = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), centre, tried)
        n_cells *= n + 1
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), cells)


def refine_all(loss: Loss, x: Any, poses: Poses, family: Transform, search: Search) -> Refined:
    """Each of the poses refined by gradient: Gauss-Newton, or the paper's Adam."""
    return in_turn(lambda alpha: refine(loss, x, alpha, family, search.solver, search.n_steps), poses.alpha, x)


def align(
    params: Params,
    x: ArrayLike,
    *,
    key: Array | None = None,
    search: Search | Mapping[str, Any] | str | None = None,
    transform: Transform | None = None,
    around: ArrayLike | None = None,
    within: float | Sequence[float] | None = None,
) -> Alignment:
    """Finds, for each image, the pose at which the VAE explains it best.

    Args:
      params: a trained model.
      x: images [B, H, W, C] (volumes [B, D, H, W, C]), float; in [0, 1] for the Bernoulli likelihood.
      key: draws the starts within their strata; None takes the centres, so that the result is deterministic.
      search: a mapping such as {"n_steps": 6} updates the settings that hold; an `avae.Search` describes all of them;
        a name is a preset: "exhaustive", "paper", "default" or "fast" (`avae.settings.preset`).
      transform: the family searched; None for the model's own.
      around: known poses [B, size], near which alone is searched; `info.identity_loss` is then the loss there.
      within: how far from them the starts are, at most, along each tangent direction (radians, half-widths), or one
        number for each, None for 0.2; the refinement may go a little further.

    Returns:
      An `Alignment`, split over devices where x is. Nothing is raised inside compiled code: see `info.finite`.

    Raises:
      Mistake: if x has the wrong shape, dtype or range, or another argument cannot be used.
    """
    family = checks.family_of(params.model, transform)
    checks.check_key(key)
    held = plan(params.model, search, family)
    params, x = checks.images_for(params, x)
    near = None
    if around is not None:
        near = checks.check_poses(around, len(x), family)
        held = held._replace(proposed=False, within=checks.check_widths(0.2 if within is None else within, family))
    return side_by_side(lambda pair, layout: _align(params, pair, key, family, held, layout), (x, near))


@functools.partial(jax.jit, static_argnames=("family", "plan", "layout"))
def _align(params: Params, pair: Any, key: Array | None, family: Transform, plan: Plan, layout: Layout) -> Alignment:
    def one(pair: Any) -> Alignment:
        x, near = pair
        starts, n_cells = starting_poses(params, x, family, plan, key, near)
        twin = None if near is not None else twin_loss(params, x, family, plan.search.twin)
        loss = pose_loss(params, family, shifts=near is None)
        found = search_one(loss, x, starts, family, plan.search, twin, n_cells)
        return describe(params, x, family, settled(loss, x, found, family, plan.search.n_settle))

    return in_parts(one, pair, layout)


def search(
    loss_fn: Loss,
    x: Any,
    transform: Transform,
    *,
    key: Array | None = None,
    settings: Search | Mapping[str, Any] | None = None,
) -> Found:
    """The same for any per-example loss.

    Args:
      loss_fn: (x, alpha) -> scalar for one example; Gauss-Newton expects a `CompositeLoss`. A loss is compiled once,
        for as long as it lives; weights that change belong in a `jax.tree_util.Partial`, an argument of the program.
      x: a pytree of arrays with a leading batch axis.
      transform: the family of poses.
      key: draws the starts within their strata; None takes the centres.
      settings: a `Search`, or a mapping that updates the default: the family's, or the paper's without Gauss-Newton.

    Returns:
      `Found`.

    Raises:
      Mistake: if the settings ask for what the loss does not have, or the batch is empty.
    """
    held = checks.check_search(loss_fn, x, transform, key, settings)
    layout = min(map(layout_of, jax.tree.leaves(x)))
    return compiled(_search, loss_fn)(x, key, transform, held, layout)


def _search(loss: Loss, x: Any, key: Array | None, family: Transform, search: Search, layout: Layout) -> Found:
    floats = [leaf.dtype for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    starts = family.starts(search.n_starts, key).astype(jnp.result_type(jnp.float32, *floats))
    return in_parts(lambda x: search_one(loss, x, starts, family, search), x, layout)
