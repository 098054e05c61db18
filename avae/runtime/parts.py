"""How many bytes a computation needs, read off its jaxpr, so that a batch can go through in parts that fit."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Jaxpr, Literal, jaxprs_in_params

CACHE = 32 * 2**20  # bytes counted: larger parts than this leave a CPU's last cache, and gain nothing there
SHARE = 0.5  # of the budget goes to what is counted: XLA on a CPU was seen to take up to 1.6 times as much


def peak_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Bytes that `function(*args)` holds at once at its worst, its arguments and results included; nothing is run.

    Counts every intermediate from where it is made to its last use. A compiler that fuses needs less, one that reorders
    or pads may need somewhat more.
    """
    closed = jax.make_jaxpr(function)(*args)
    return _size(closed.jaxpr.invars) + _peak(closed.jaxpr)


def in_parts(function: Callable[..., Any], arrays: Any, budget: int, shards: int = 1) -> Any:
    """`vmap(function)` over the leading axis [B] of a pytree of arrays, so many examples at a time as fit in memory.

    The last part repeats the last example rather than being shorter: one shape, compiled once. A single example always
    goes through, whatever it needs. Where the batch is split over devices, a part takes some of each device's examples,
    so that none has to move. On a CPU a part is no larger than what stays in cache, either.

    Args:
      function: of one example, returns a pytree of arrays.
      arrays: pytree of arrays [B, ...].
      budget: bytes that all of it may take on one device, arguments and results included.
      shards: devices over which the leading axis is split in equal, contiguous pieces.

    Returns:
      The pytree that `function` returns, with arrays [B, ...].
    """
    n = jax.tree.leaves(arrays)[0].shape[0]
    rows = n // shards
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), arrays)
    whole = rows * _bytes(jax.tree.leaves((example, jax.eval_shape(function, example))))
    room = int(SHARE * budget - whole)
    if jax.default_backend() == "cpu":
        room = min(room, CACHE)
    size = max(1, room // peak_bytes(function, example))
    parts = math.ceil(rows / size)
    if parts == 1:
        return jax.vmap(function)(arrays)
    each = math.ceil(rows / parts)
    index = jnp.minimum(jnp.arange(parts * each), rows - 1).reshape(parts, each)
    pieces = jax.tree.map(lambda leaf: leaf.reshape(shards, rows, *leaf.shape[1:]), arrays)

    def part(index: Array) -> Any:
        return jax.vmap(jax.vmap(function))(jax.tree.map(lambda leaf: leaf[:, index], pieces))

    def joined(leaf: Array) -> Array:  # [parts, shards, each, ...]
        leaf = jnp.moveaxis(leaf, 0, 1).reshape(shards, parts * each, *leaf.shape[3:])
        return leaf[:, :rows].reshape(n, *leaf.shape[2:])

    return jax.tree.map(joined, lax.map(part, index))


def _peak(jaxpr: Jaxpr) -> int:
    """Bytes of what the equations of `jaxpr` make, at the worst moment; what they are given is counted outside."""
    last = {var: i for i, equation in enumerate(jaxpr.eqns) for var in _variables(equation.invars)}
    last |= {var: len(jaxpr.eqns) for var in _variables(jaxpr.outvars)}
    made: set[Any] = set()
    live = peak = 0
    for i, equation in enumerate(jaxpr.eqns):
        inner = max((_peak(body) for body in jaxprs_in_params(equation.params)), default=0)
        out = [var for var in equation.outvars if var in last]
        live += _size(out)
        made.update(out)
        peak = max(peak, live + inner)
        dead = {var for var in _variables([*equation.invars, *out]) if last.get(var) == i and var in made}
        live -= _size(dead)
    return peak


def _variables(atoms: Any) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _size(variables: Any) -> int:
    return _bytes(variable.aval for variable in set(_variables(variables)))


def _bytes(arrays: Any) -> int:
    """Of arrays, or of their descriptions."""
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays if hasattr(array, "shape"))
