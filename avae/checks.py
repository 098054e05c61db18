"""The door: everything that can be wrong with what a caller gives, found before anything is traced.

Past this point nothing raises. Values are checked where they lie: a few numbers come back from the device, no batch.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from avae import settings
from avae.model import Model, Params
from avae.runtime.devices import auto
from avae.runtime.mistake import Mistake
from avae.settings import Plan, Search
from avae.solvers import CompositeLoss, GaussNewton
from avae.transforms import Transform, check_family


def check_images(x: ArrayLike, model: Model, *, name: str = "x", canonical: bool = False) -> Array:
    """`x` as float32 [B, *space, C] if it is what `model` takes, or what its networks take if `canonical`.

    Under a trace only the shape and the dtype can be checked, not the values.

    Raises:
      Mistake: for a wrong rank, shape or dtype, no images at all, values that are not finite or not in the
        likelihood's range; the message says what was expected and what came.
    """
    array = x if isinstance(x, jax.Array) else np.asarray(x)
    dim = model.transform.dim
    expected = getattr(model.networks, "image_shape", None) if canonical else model.image_shape
    wanted = f"[B, {', '.join(map(str, expected))}]" if expected else f"[B, {'D, ' if dim == 3 else ''}H, W, C]"
    if not jnp.issubdtype(array.dtype, jnp.floating):
        hint = "; divide 8-bit images by 255" if array.dtype == np.uint8 else ""
        raise Mistake(f"{name}: expected floating-point images {wanted}, got dtype {array.dtype}{hint}")
    if array.ndim != dim + 2:
        hint = f"; for one example pass {name}[None]" if array.ndim == dim + 1 else ""
        raise Mistake(f"{name}: expected a batch {wanted}, channels last, got shape {array.shape}{hint}")
    if expected and array.shape[1:] != tuple(expected):
        raise Mistake(f"{name}: expected {wanted}, got shape {array.shape}")
    if array.shape[0] == 0:
        raise Mistake(f"{name}: expected at least one image, got an empty batch of shape {array.shape}")
    array = auto(jnp.asarray(array, jnp.float32))
    if not isinstance(array, Tracer):
        _check_values(array, model, name)
    return array


def _check_values(x: Array, model: Model, name: str) -> None:
    with jax.ensure_compile_time_eval():  # values are at hand even where the caller is being traced
        low, high, bad, first = (value.item() for value in jax.device_get(_extremes(x)))
    if bad:
        raise Mistake(f"{name}: expected finite values, got NaN or infinity in {bad} image(s), first at {first}")
    if problem := model.likelihood.check(np.array([low, high], np.float32)):
        raise Mistake(f"{name}: expected {problem}")


@jax.jit
def _extremes(x: Array) -> tuple[Array, Array, Array, Array]:
    """Least and largest value of images [B, ...], how many of them are not finite, and the first of these."""
    bad = ~jnp.isfinite(x).reshape(len(x), -1).all(axis=1)
    return x.min(), x.max(), bad.sum(), bad.argmax()


def check_key(key: Any) -> None:
    """Raises Mistake if `key` is neither None nor one typed key of `jax.random.key`."""
    if key is None or (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.shape):
        return
    came = f"an array of dtype {key.dtype} and shape {key.shape}" if hasattr(key, "dtype") else repr(key)
    raise Mistake(f"key: expected one typed key, as of jax.random.key(0), got {came}")


def family_of(model: Model, transform: Transform | None) -> Transform:
    """The family that is searched: the one given, else the model's.

    Raises:
      Mistake: if it is none, of another dimension than the model's, or gives singular or mirrored matrices.
    """
    family = model.transform if transform is None else transform
    if not isinstance(family, Transform) or family.dim != model.transform.dim:
        raise Mistake(f"transform: expected a family of dimension {model.transform.dim}, got {family!r}")
    check_family(family)
    return family


def check_poses(alpha: ArrayLike, n: int, transform: Transform) -> Array:
    """`alpha` as float32 [n, size], one pose per image.

    Raises:
      Mistake: for another shape, or if a pose is outside the family's range; under a trace values cannot be checked.
    """
    alpha = jnp.asarray(alpha, jnp.float32)
    if alpha.shape != (n, transform.size):
        raise Mistake(f"alpha: expected one pose per image, shape {(n, transform.size)}, got {alpha.shape}")
    if isinstance(alpha, Tracer):
        return alpha
    outside = np.flatnonzero(np.isneginf(_log_priors(alpha, transform)))
    if len(outside):
        first = outside[0]
        raise Mistake(
            f"alpha: expected poses in the range of {transform}, but {len(outside)} of {len(alpha)} are outside, "
            f"first {first}: {alpha[first].tolist()}"
        )
    return alpha


@functools.partial(jax.jit, static_argnames="transform")
def _log_priors(alpha: Array, transform: Transform) -> Array:
    return jax.vmap(transform.log_prior)(alpha)


def check_search(loss: Any, x: Any, transform: Transform, key: Any, given: Search | Mapping[str, Any] | None) -> Search:
    """The settings of a search by any loss: those given, else the family's, or the paper's without Gauss-Newton.

    Raises:
      Mistake: if they ask for what the loss does not have, or the batch has no common, non-empty leading axis.
    """
    check_family(transform)
    check_key(key)
    composite = isinstance(loss, CompositeLoss)
    own = settings.of_family(transform) if composite else settings.PAPER
    search = settings.updated(own, given) if isinstance(given, Mapping) else own if given is None else given
    if not isinstance(search, Search):
        raise Mistake(f"settings: expected an avae.Search, a mapping or None, got {given!r}")
    if isinstance(search.solver, GaussNewton) and not composite:
        raise Mistake("search.solver: GaussNewton expects an avae.CompositeLoss, got a plain function; use avae.Adam()")
    if search.twin > 1:
        raise Mistake(f"search.twin: expected 1, for a loss has no smaller twin, got {search.twin}")
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise Mistake(f"x: expected arrays with one common, non-empty leading batch axis, got leading sizes {sizes}")
    return search


def check_model(params: Params, transform: Transform | None) -> Transform:
    """The family, if the model with it has a likelihood.

    Raises:
      Mistake: if the weights are not finite, the family has another dimension or no proper prior, or the likelihood
        is not normalised.
    """
    family = family_of(params.model, transform)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params.weights)):
        finite = [True]
    else:
        with jax.ensure_compile_time_eval():
            finite = jax.device_get(_finite(params.weights))
    if not all(finite):
        path = jax.tree.leaves_with_path(params.weights)[finite.index(False)][0]
        raise Mistake(f"params: expected finite weights, got NaN or infinity in {jax.tree_util.keystr(path)}")
    log_prior = family.log_prior(family.identity)
    if not isinstance(log_prior, Tracer) and not np.isfinite(np.asarray(log_prior)):
        raise Mistake(f"transform: expected a family with a proper prior, got log density {log_prior} from {family!r}")
    check_likelihood(params)
    return family


@jax.jit
def _finite(weights: Any) -> list[Array]:
    """Of each array, whether all of it is finite."""
    return [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(weights)]


def check_likelihood(params: Params) -> None:
    """Raises Mistake if the likelihood of one pixel neither sums to one over levels nor integrates to one."""
    likelihood = params.model.likelihood
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params.weights)):
        return
    if not callable(getattr(likelihood, "log_prob", None)):
        raise Mistake(f"likelihood: expected one with log_prob(weights, x, mean), got {likelihood!r}")
    mean = np.full((1, 1, 1), 0.5, np.float32)

    def mass(x: np.ndarray, cell: np.ndarray | float) -> float:
        pixels = jnp.asarray(x, jnp.float32)[:, None, None, None]
        log_prob = jax.vmap(lambda x: likelihood.log_prob(params.weights, x, mean))(pixels)
        return float(np.sum(np.exp(np.asarray(log_prob, np.float64)) * cell))

    side = np.exp(np.linspace(-18, 9, 2701))  # fine near the mean, whatever the likelihood's width
    line = mass(np.concatenate([0.5 - side, 0.5 + side]), 0.01 * np.tile(side, 2))
    masses = (mass(np.arange(2.0), 1.0), mass(np.arange(256) / 255, 1.0), line)
    if not any(abs(total - 1) < 0.02 for total in masses):
        raise Mistake(
            "likelihood: expected one whose probabilities add up to 1, such as avae.Gaussian(scale=...), got "
            f"{likelihood!r}, which adds up to {masses[0]:.4g} over 0 and 1 and to {line:.4g} over all pixel values; a "
            "squared error is a likelihood only with its variance and its constant"
        )


def check_modes(n_modes: int | None, plan: Plan, family: Transform) -> int:
    """How many modes are searched.

    Raises:
      Mistake: if there are fewer starts.
    """
    n_starts = len(family.lattice) if family.dof == 0 else plan.search.n_starts
    wanted = min(n_starts, max(4, plan.search.top_k)) if n_modes is None else n_modes
    if not 1 <= wanted <= n_starts:
        raise Mistake(f"n_modes: expected 1 to {n_starts}, as many as the search has starts, got {wanted}")
    return wanted
