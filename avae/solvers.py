"""Refinement of one pose for one example: damped Gauss-Newton by forward mode, and the paper's Adam.

A pose has few entries, so its derivatives are pushed forward (`jvp`), at about one extra forward pass per entry. No
activations are stored, and there is no scatter, which the image gradient of a warp would need.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from avae.runtime.mistake import Mistake
from avae.runtime.products import matmul
from avae.transforms import Transform

NOTHING = 1e-6  # nats: less is the rounding of a loss
INFLATION = 1e5  # of a variance by what other entries may do in its place: more is the rounding of a curvature
Loss = Callable[[Any, Array], Array]
Twin = tuple[Loss, Any] | None  # a cheaper loss, and the example as it takes it
Ranked = TypeVar("Ranked", bound=Any)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CompositeLoss:
    """A per-example loss that Gauss-Newton can use: loss(x, alpha) = score(x, predict(x, alpha)).

    Attributes:
      predict: (x, alpha) -> u, any pytree of arrays; the only part that is linearised.
      score: (x, u) -> scalar, convex in u.
      curvature: (x, u) -> pytree like u: the diagonal of the score's Hessian or Fisher information in u.
      slide: x -> (alpha -> alpha moved to the shift that suits x best, and the loss there or near it); None if the loss
        has no quicker way to find it than to try.
    """

    predict: Callable[[Any, Array], Any]
    score: Callable[[Any, Any], Array]
    curvature: Callable[[Any, Any], Any]
    slide: Callable[[Any], Callable[[Array], tuple[Array, Array]]] | None = None

    def __call__(self, x: Any, alpha: Array) -> Array:
        """The loss itself, a scalar."""
        return self.score(x, self.predict(x, alpha))


def slides(loss: Loss) -> bool:
    """Whether a loss has a quicker way to the shift that suits an example than to try."""
    return getattr(loss, "slide", None) is not None


class Poses(NamedTuple):
    """Poses [n, size], their losses [n], and the index of the start from which each came [n]."""

    alpha: Array
    loss: Array
    start: Array


class Refined(NamedTuple):
    """The best iterate of a refinement.

    Attributes:
      alpha: the pose [size].
      loss: its loss [].
      accepted: steps that lowered the loss [].
      hessian: Gauss-Newton matrix of the loss there [dof, dof]; None after another solver.
      prediction: what the loss predicts there; None after another solver.
    """

    alpha: Array
    loss: Array
    accepted: Array
    hessian: Array | None = None
    prediction: Any = None


class Local(NamedTuple):
    """A loss near one pose, in tangent coordinates: value [], gradient [dof], Gauss-Newton matrix [dof, dof].

    `prediction` is what the loss predicts at the pose itself.
    """

    value: Array
    gradient: Array
    hessian: Array
    prediction: Any


@dataclasses.dataclass(frozen=True)
class GaussNewton:
    """Damped Gauss-Newton (Levenberg-Marquardt); the loss must be a `CompositeLoss`.

    Attributes:
      damping: of the first step, relative to the curvature.
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise Mistake(f"GaussNewton expects damping > 0, got {self.damping}")

    def refine(self, loss: CompositeLoss, x: Any, alpha: Array, transform: Transform, n_steps: int) -> Refined:
        """Takes a step only if the loss falls; else the damping grows, and the next step is shorter.

        Every step costs one linearisation, at the proposed pose; that of the accepted pose is kept.
        """

        def step(_: int, state: tuple[Array, Local, Array, Array]) -> tuple[Array, Local, Array, Array]:
            alpha, local, damping, accepted = state
            scale = jnp.diag(local.hessian) * damping + 1e-6
            move = -jnp.linalg.solve(local.hessian + jnp.diag(scale), local.gradient)
            proposal = transform.project(transform.retract(alpha, move))
            trial = linearise(loss, x, proposal, transform)
            better = trial.value < local.value  # false for NaN
            alpha, local = jax.tree.map(lambda new, old: jnp.where(better, new, old), (proposal, trial), (alpha, local))
            return alpha, local, jnp.where(better, damping * 0.2, damping * 5), accepted + better.astype(jnp.int32)

        local = linearise(loss, x, alpha, transform)
        state = (alpha, local, jnp.full_like(local.value, self.damping), jnp.zeros((), jnp.int32))
        alpha, local, _, accepted = lax.fori_loop(0, n_steps, step, _like(local.value, state))
        return Refined(alpha, local.value, accepted, local.hessian, local.prediction)


@dataclasses.dataclass(frozen=True)
class Adam:
    """The paper's refinement; any loss will do.

    Attributes:
      learning_rate: step size, in radians and half-widths.
    """

    learning_rate: float = 0.03

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise Mistake(f"Adam expects learning_rate > 0, got {self.learning_rate}")

    def refine(self, loss: Loss, x: Any, alpha: Array, transform: Transform, n_steps: int) -> Refined:
        """`n_steps` of Adam; returns the best iterate, not the last."""
        optimizer = optax.adam(self.learning_rate)

        def step(i: Array, state: tuple[Array, optax.OptState, Refined]) -> tuple[Array, optax.OptState, Refined]:
            alpha, moments, best = state
            value, gradient = _push(lambda step: loss(x, transform.retract(alpha, step)), alpha, transform.dof)
            update, moments = optimizer.update(gradient.astype(alpha.dtype), moments)
            moved = transform.project(transform.retract(alpha, jnp.asarray(update)))
            return moved, moments, _better(best, alpha, value, i > 0)  # the start itself is no step

        value = loss(x, alpha)
        start = Refined(alpha, jnp.full_like(value, jnp.inf), jnp.zeros((), jnp.int32))
        state = (alpha, optimizer.init(jnp.zeros(transform.dof, alpha.dtype)), start)
        if n_steps:
            state = lax.fori_loop(0, n_steps, step, _like(value, state))
        last, _, best = state
        return _better(best, last, loss(x, last), n_steps > 0)


Solver = GaussNewton | Adam


def refine(loss: Any, x: Any, alpha: Array, transform: Transform, solver: Solver, n_steps: int) -> Refined:
    """Refines one pose; a pose of a finite family stays as it is."""
    if transform.dof == 0:
        return Refined(alpha, loss(x, alpha), jnp.zeros((), jnp.int32))
    return solver.refine(loss, x, alpha, transform, n_steps)


def linearise(loss: CompositeLoss, x: Any, alpha: Array, transform: Transform) -> Local:
    """Value, gradient and Gauss-Newton matrix of the loss at `alpha`, in one forward pass with `dof` tangents."""
    u, tangents = _push(lambda step: loss.predict(x, transform.retract(alpha, step)), alpha, transform.dof)
    value, slope = jax.value_and_grad(lambda u: loss.score(x, u))(u)
    tangents = jax.vmap(_flat)(tangents)  # in one array: XLA computes many small products slowly
    weighted = tangents * _flat(loss.curvature(x, u))[None]
    return Local(value, matmul(tangents, _flat(slope)), matmul(weighted, tangents.T), u)


def best(poses: Ranked, n: int) -> Ranked:
    """The `n` poses of the lowest loss, best first, of a pytree of arrays [m, ...] with a field `loss` [m].

    A loss that is not finite never wins. Where there are fewer than `n`, all of them.
    """
    losses = comparable(poses.loss)
    index = jnp.argmin(losses)[None] if n == 1 else lax.top_k(-losses, min(n, len(losses)))[1]
    return jax.tree.map(lambda leaf: leaf[index], poses)


def comparable(losses: Array) -> Array:
    """Losses with infinity for whatever is not finite, so that it never wins."""
    return jnp.where(jnp.isfinite(losses), losses, jnp.inf)


def standard_deviation(precision: Array, extent: Array) -> Array:
    """Standard deviations [n] of a normal law, from its precision matrix.

    Each direction is measured in its own unit first, so that one known to a hair does not hide another.

    Args:
      precision: [n, n], in nats.
      extent: half-widths [n] of the range of each entry.

    Returns:
      The square roots of the diagonal of the inverse; infinity along a direction of which the precision says nothing:
      less than `NOTHING` nats over its range, or no more than others say already. Infinity for NaN.
    """
    diagonal = jnp.diag(precision)
    known = diagonal * extent**2 > NOTHING
    scale = jnp.where(known, jnp.sqrt(diagonal), 1.0)
    unit = jnp.eye(len(scale), dtype=precision.dtype)
    correlation = jnp.where(known[:, None] & known[None], precision / (scale[:, None] * scale[None]), unit)
    root = jnp.linalg.cholesky(correlation + 0.1 / INFLATION * unit)
    variance = jnp.sum(lax.linalg.triangular_solve(root, unit, left_side=True, lower=True) ** 2, axis=0)
    return jnp.where(known & (variance < INFLATION), jnp.sqrt(variance) / scale, jnp.inf)


def _push(f: Callable[[Array], Any], alpha: Any, dof: int) -> tuple[Any, Any]:
    """F at the zero step, and its derivative along each of the `dof` directions, stacked in front."""
    dtype = jax.tree.leaves(alpha)[0].dtype
    zero = jnp.zeros(dof, dtype)
    return jax.vmap(lambda direction: jax.jvp(f, (zero,), (direction,)), out_axes=(None, 0))(jnp.eye(dof, dtype=dtype))


def _like(varying: Array, state: Any) -> Any:
    """The first state of a loop: the same values, and inside `shard_map` of a type that varies as the scalar does."""
    return jax.tree.map(lambda leaf: jnp.where(True, leaf, varying.astype(leaf.dtype)), state)


def _flat(tree: Any) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _better(best: Refined, alpha: Array, value: Array, counts: ArrayLike) -> Refined:
    falls = value < best.loss  # false for NaN
    accepted = best.accepted + jnp.asarray(falls & counts, jnp.int32)
    return Refined(jnp.where(falls, alpha, best.alpha), jnp.where(falls, value, best.loss), accepted)
