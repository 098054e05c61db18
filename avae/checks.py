"""The door: everything that can be wrong with what a caller gives, found before anything is traced.

Past this point nothing raises. Values are checked where they lie: no batch comes back from a device.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from avae import settings
from avae.model import Model, Params
from avae.networks.mask import check_mask
from avae.runtime.devices import auto
from avae.runtime.mistake import Mistake
from avae.settings import Search
from avae.solvers import CompositeLoss, GaussNewton
from avae.transforms import Transform, check_family
from avae.transforms.background import check_channels, warn_of_borders


def check_images(x: ArrayLike, model: Model, *, name: str = "x", canonical: bool = False) -> Array:
    """`x` as float32 [B, *space, C] if it is what `model` takes, or what its networks take if `canonical`.

    What a NumPy masked array masks becomes NaN, which is how a `Model` with `missing` is told of missing pixels.
    Under a trace only the shape and the dtype can be checked, not the values.

    Raises:
      Mistake: for a wrong rank, shape or dtype, no images at all, values that are not finite or not in the
        likelihood's range, images without any pixel that counts; the message says what was expected and what came.
    """
    masked = np.ma.is_masked(x)
    x = x if model.values is None or canonical else model.values(x)
    array = x if isinstance(x, jax.Array) else np.asarray(x)
    dim = model.transform.dim
    expected = getattr(model.networks, "image_shape", None) if canonical else model.image_shape
    wanted = f"[B, {', '.join(map(str, expected))}]" if expected else f"[B, {'D, ' if dim == 3 else ''}H, W, C]"
    if not jnp.issubdtype(array.dtype, jnp.floating):
        hint = "; divide 8-bit images by 255" if array.dtype == np.uint8 else ""
        raise Mistake(f"{name}: expected floating-point images {wanted}, got dtype {array.dtype}{hint}")
    if array.ndim != dim + 2:
        hint = f"; for one example pass {name}[None], for a batch without channels {name}[..., None]"
        hint = hint if array.ndim == dim + 1 else ""
        raise Mistake(f"{name}: expected a batch {wanted}, channels last, got shape {array.shape}{hint}")
    if expected and array.shape[1:] != tuple(expected):
        hint = "" if canonical else f"; model.image_shape of the networks says which, {tuple(expected)}"
        raise Mistake(f"{name}: expected {wanted}, got shape {array.shape}{hint}")
    if array.shape[0] == 0:
        raise Mistake(f"{name}: expected at least one image, got an empty batch of shape {array.shape}")
    check_channels(model.background, array.shape[-1])
    if model.mask and not canonical:
        check_mask(model.mask, array.shape[1:])
    if masked:
        hole = np.ma.getmaskarray(np.ma.asanyarray(x))
        array = np.where(hole, np.nan, np.where(np.isnan(array), np.inf, array))  # a NaN that is not masked is bad
    array = auto(jnp.asarray(array, jnp.float32))
    if not isinstance(array, Tracer):
        _check_values(array, model, name, masked or model.missing)
    return array


def images_for(params: Params, x: ArrayLike, *, canonical: bool = False) -> tuple[Params, Array]:
    """`check_images`, and that the networks fit these images: one example in, one example out.

    Of a masked array also the `Params` of a model that knows of missing pixels; else those given.

    Raises:
      Mistake: also for weights that are no arrays, and networks that raise, or return other shapes than they should.
    """
    if np.ma.is_masked(x):
        params = params.replace(model=dataclasses.replace(params.model, missing=True))
    x = check_images(x, params.model, canonical=canonical)
    check_weights(params)
    leaves, structure = jax.tree.flatten(params.weights)
    shape = getattr(params.model.networks, "image_shape", None) or x.shape[1:]
    described = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    _check_networks(params.model.networks, structure, described, tuple(shape))
    if params.model.transform.dof and not isinstance(x, Tracer):
        warn_of_borders(x, params.model.background)
    return params, x


def check_weights(params: Params) -> None:
    """Raises Mistake if one of the weights is no array, such as an activation function inside a module."""
    for path, leaf in jax.tree.leaves_with_path(params.weights):
        if not isinstance(leaf, jax.Array | np.ndarray | np.number | float | int):
            raise Mistake(
                f"params: expected weights that are a pytree of arrays, got {leaf!r} at {jax.tree_util.keystr(path)}; "
                "keep what is no array in the networks, as `equinox.partition(module, equinox.is_array)` does"
            )


@functools.lru_cache
def _check_networks(networks: Any, structure: Any, leaves: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    weights = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])

    def returned(name: str, takes: tuple[int, ...], wanted: str, fits: Any) -> list[tuple[int, ...]]:
        """The shapes of what a method returns for one example of shape `takes`."""
        cause = None
        try:
            given = jax.eval_shape(getattr(networks, name), weights, jax.ShapeDtypeStruct(takes, jnp.float32))
            shapes = [leaf.shape for leaf in jax.tree.leaves(given)]
            if fits(shapes):
                return shapes
            came = "it returns " + (" and ".join(str(list(one)) for one in shapes) or "nothing")
        except Exception as error:
            cause, came = error, f"it raises {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise Mistake(
            f"networks: expected {name} to take one example {list(takes)}, without a batch axis, "
            f"and to return {wanted}, but {came}"
        ) from cause

    two_alike = lambda got: [len(one) for one in got] == [1, 1] and got[0] == got[1]  # noqa: E731
    latents = returned("encode", shape, "mu [z] and logvar [z]", two_alike)
    returned("decode", latents[0], f"raw output {list(shape)}", lambda got: got == [shape])


def _check_values(x: Array, model: Model, name: str, missing: bool) -> None:
    counts = None if model.mask is None or x.shape[1:-1] != model.mask.shape[:-1] else model.mask.weights
    with jax.ensure_compile_time_eval():  # values are at hand even where the caller is being traced
        found = _extremes(x) if not missing else _extremes_of_present(x, counts)
        low, high, bad, first, *blank = (value.item() for value in jax.device_get(found))
    if bad:
        hint = "" if missing else "; pixels without a value are masked, numpy.ma.masked_invalid(x)"
        raise Mistake(f"{name}: expected finite values, got NaN or infinity in {bad} image(s), first at {first}{hint}")
    if blank and blank[0]:
        raise Mistake(f"{name}: expected a pixel that counts, got none in {blank[0]} image(s), first at {blank[1]}")
    if problem := model.likelihood.check(np.array([low, high], np.float32)):
        raise Mistake(f"{name}: expected {problem}")


@jax.jit
def _extremes(x: Array) -> tuple[Array, Array, Array, Array]:
    """Least and largest value of images [B, ...], how many of them are not finite, and the first of these."""
    bad = ~jnp.isfinite(x).reshape(len(x), -1).all(axis=1)
    return x.min(), x.max(), bad.sum(), bad.argmax()


@jax.jit
def _extremes_of_present(x: Array, counts: Any) -> tuple[Array, ...]:
    """The same of the pixels that are not NaN; and how many images have none that counts, and the first of these."""
    there, rows = ~jnp.isnan(x), (len(x), -1)
    bad = jnp.isinf(x).reshape(rows).any(axis=1)
    seen = there if counts is None else there & (jnp.asarray(counts)[None] > 0)
    blank = ~seen.reshape(rows).any(axis=1)
    low, high = jnp.where(there, x, jnp.inf).min(), jnp.where(there, x, -jnp.inf).max()
    return low, high, bad.sum(), bad.argmax(), blank.sum(), blank.argmax()


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
    if not all(math.isfinite(factor.volume) for factor in family.factors):
        raise Mistake(f"transform: expected a family with a proper prior, got an infinite volume from {family!r}")
    check_family(family)
    return family


def check_poses(alpha: ArrayLike, n: int, transform: Transform) -> Array:
    """`alpha` as float32 [n, size], one pose per image.

    Raises:
      Mistake: for another shape, or if a pose is outside the family's range; under a trace values cannot be checked.
    """
    if np.shape(alpha) != (n, transform.size):
        raise Mistake(f"alpha: expected one pose per image, shape {(n, transform.size)}, got {np.shape(alpha)}")
    if isinstance(alpha, Tracer):
        return jnp.asarray(alpha, jnp.float32)
    with jax.ensure_compile_time_eval():  # as in `_check_values`
        alpha = jnp.asarray(alpha, jnp.float32)
        outside = np.flatnonzero(np.isneginf(_log_priors(alpha, transform)))
    if len(outside):
        first = outside[0]
        raise Mistake(
            f"alpha: expected poses in the range of {transform}, but {len(outside)} of {len(alpha)} are outside, "
            f"first {first}: {np.asarray(alpha)[first].tolist()}"
        )
    return alpha


def check_widths(within: float | Sequence[float], transform: Transform) -> tuple[float, ...]:
    """Half-widths of a search along each tangent direction of a family.

    Raises:
      Mistake: if they are not one positive number, or one per direction, or the family has no directions.
    """
    widths = np.broadcast_to(within, transform.dof) if np.ndim(within) == 0 else np.asarray(within)
    if not transform.dof or widths.shape != (transform.dof,) or not (np.isfinite(widths) & (widths > 0)).all():
        expected = f"one number above 0, or one for each of the {transform.dof} directions of {transform}"
        raise Mistake(f"within: expected {expected}, got {within!r}")
    return tuple(float(width) for width in widths)


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
