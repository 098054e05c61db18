"""Refinement of one pose for one example: Adam (the paper's) and damped Gauss-Newton by forward mode.

A pose has few entries, so derivatives with respect to it are pushed forward (`jvp`): about one extra forward pass
per entry, no stored activations, and no scatter, which the image gradient of a warp would need.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from avae.runtime.mistake import Mistake
from avae.runtime.products import matmul
from avae.settings import Search
from avae.transforms import Transform


@dataclasses.dataclass(frozen=True)
class CompositeLoss:
    """A per-example loss that Gauss-Newton can use: loss(x, alpha) = score(x, predict(x, alpha)).

    Attributes:
      predict: (x, alpha) -> u, any pytree of arrays; the only part that is linearised.
      score: (x, u) -> scalar, convex in u.
      curvature: (x, u) -> pytree like u: the diagonal of the score's Hessian or Fisher information in u.
      reduce: (x, factor) -> the same example at a `factor`-th of its resolution, for `Search.coarse`; None if the loss
        has none.
      reduced: factor -> the loss of such examples, cheaper than this one; None if this one takes them as they are.
      cast: dtype -> the loss with networks that compute in that type, for `Search.precision`; None if it has none.
      propose: (x, n) -> n poses [n, size] worth scoring, best first, for `Search.starts` "network"; None if the loss
        has none.
      n_bins: of how many parts of the family each such pose stands for one.
    """

    predict: Callable[[Any, Array], Any]
    score: Callable[[Any, Any], Array]
    curvature: Callable[[Any, Any], Any]
    reduce: Callable[[Any, int], Any] | None = None
    reduced: Callable[[int], "CompositeLoss"] | None = None
    cast: Callable[[str], "CompositeLoss"] | None = None
    propose: Callable[[Any, int], Array] | None = None
    n_bins: int = 0

    def __call__(self, x: Any, alpha: Array) -> Array:
        """The loss itself, a scalar."""
        return self.score(x, self.predict(x, alpha))

    def at(self, x: Any, factor: int) -> "tuple[CompositeLoss, Any]":
        """The loss and the example at a `factor`-th of the resolution; of a loss that has `reduce`."""
        if self.reduce is None:
            raise Mistake("this loss has no `reduce`")
        return self if self.reduced is None else self.reduced(factor), self.reduce(x, factor)

    def within(self, dtype: str) -> "CompositeLoss":
        """The loss with networks that compute in `dtype`; of a loss that has `cast`."""
        if self.cast is None:
            raise Mistake("this loss has no `cast`")
        return self.cast(dtype)

    def proposals(self, x: Any, n: int) -> Array:
        """N poses [n, size] worth scoring; of a loss that has `propose`."""
        if self.propose is None:
            raise Mistake("this loss has no `propose`")
        return self.propose(x, n)


class Local(NamedTuple):
    """A loss near one pose, in tangent coordinates: value [], gradient [dof], Gauss-Newton matrix [dof, dof].

    `prediction` is what the loss predicts at the pose itself.
    """

    value: Array
    gradient: Array
    hessian: Array
    prediction: Any


class Refined(NamedTuple):
    """The best iterate seen: its pose [size] and loss [], and how many steps lowered the loss.

    `hessian` is the Gauss-Newton matrix there [dof, dof], and `prediction` what the loss predicts there; None where the
    solver has none.
    """

    alpha: Array
    loss: Array
    accepted: Array
    hessian: Array | None = None
    prediction: Any = None


def linearise(loss: CompositeLoss, x: Any, alpha: Array, transform: Transform) -> Local:
    """Value, gradient and Gauss-Newton matrix of the loss at `alpha`, in one forward pass with `dof` tangents."""
    u, tangents = _push(lambda step: loss.predict(x, transform.retract(alpha, step)), transform.dof, _dtype(alpha))
    value, slope = jax.value_and_grad(lambda u: loss.score(x, u))(u)
    tangents = jax.vmap(_flat)(tangents)  # in one array: XLA computes many small products slowly
    weighted = tangents * _flat(loss.curvature(x, u))[None]
    return Local(value, matmul(tangents, _flat(slope)), matmul(weighted, tangents.T), u)


def gauss_newton(loss: CompositeLoss, x: Any, alpha: Array, transform: Transform, settings: Search) -> Refined:
    """Levenberg-Marquardt: a step is taken only if the loss falls, else the damping grows and it is tried shorter.

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
    state = (alpha, local, jnp.full_like(local.value, settings.damping), jnp.zeros((), jnp.int32))
    alpha, local, _, accepted = lax.fori_loop(0, settings.n_steps, step, state)
    return Refined(alpha, local.value, accepted, local.hessian, local.prediction)


def adam(loss: Callable[[Any, Array], Array], x: Any, alpha: Array, transform: Transform, settings: Search) -> Refined:
    """The paper's refinement: `n_steps` of Adam from one start; the best iterate is returned, not the last."""
    optimizer = optax.adam(settings.learning_rate)

    def step(i: Array, state: tuple[Array, optax.OptState, Refined]) -> tuple[Array, optax.OptState, Refined]:
        alpha, moments, best = state
        value, gradient = _push(lambda step: loss(x, transform.retract(alpha, step)), transform.dof, alpha.dtype)
        update, moments = optimizer.update(gradient, moments)
        moved = transform.project(transform.retract(alpha, jnp.asarray(update)))
        return moved, moments, _better(best, alpha, value, i > 0)  # the start itself is no step

    start = Refined(alpha, jnp.full_like(loss(x, alpha), jnp.inf), jnp.zeros((), jnp.int32))
    state = (alpha, optimizer.init(jnp.zeros(transform.dof, alpha.dtype)), start)
    last, _, best = lax.fori_loop(0, settings.n_steps, step, state)
    return _better(best, last, loss(x, last), settings.n_steps > 0)


def refine(loss: Any, x: Any, alpha: Array, transform: Transform, settings: Search) -> Refined:
    """Refines one pose by the solver that the settings name; a pose of a finite family stays as it is."""
    if transform.dof == 0:
        return Refined(alpha, loss(x, alpha), jnp.zeros((), jnp.int32))
    return {"gauss_newton": gauss_newton, "adam": adam}[settings.solver](loss, x, alpha, transform, settings)


def standard_deviation(precision: Array) -> Array:
    """Square roots [n] of the diagonal of the inverse of a precision matrix [n, n]; infinity where it is singular."""
    values, vectors = jnp.linalg.eigh(precision)
    determined = values > 1e-6 * jnp.max(values)
    share = vectors**2 / jnp.where(determined, values, 1.0)[None]
    lost = (vectors**2 > 1e-6) & ~determined[None]  # directions that lean on one of which the image says nothing
    return jnp.where(lost.any(axis=1), jnp.inf, jnp.sqrt(jnp.sum(jnp.where(determined[None], share, 0.0), axis=1)))


def _push(f: Callable[[Array], Any], dof: int, dtype: Any) -> tuple[Any, Any]:
    """F at the zero step, and its derivative along each of the `dof` directions, stacked in front."""
    zero, directions = jnp.zeros(dof, dtype), jnp.eye(dof, dtype=dtype)
    return jax.vmap(lambda direction: jax.jvp(f, (zero,), (direction,)), out_axes=(None, 0))(directions)


def _dtype(alpha: Any) -> Any:
    """The float type of a pose, or of a pose with what moves beside it."""
    return jnp.result_type(*jax.tree.leaves(alpha))


def _flat(tree: Any) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _better(best: Refined, alpha: Array, value: Array, counts: ArrayLike) -> Refined:
    falls = value < best.loss  # false for NaN
    accepted = best.accepted + jnp.asarray(falls & counts, jnp.int32)
    return Refined(jnp.where(falls, alpha, best.alpha), jnp.where(falls, value, best.loss), accepted)
