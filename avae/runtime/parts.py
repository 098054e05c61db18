"""Parts of a batch: as many examples at a time as fit in memory and cache, and one part per core of a CPU."""

import functools
import math
import os
import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.extend.core import Jaxpr, Literal, jaxprs_in_params

from avae.runtime.devices import hiding_axes, is_explicit

CACHE = 32 * 2**20  # bytes counted: larger parts than this leave a CPU's last cache, and gain nothing there
SHARE = 0.5  # of the budget goes to what is counted: XLA on a CPU was seen to take up to 1.6 times as much
NUMBERS = 4 * 28 * 28  # in the examples that a CPU works on at a time within a part: more leave its cache
LEAST = 4  # but at least so many
LEAST_PER_CORE = 16  # images: with fewer the products of matrices are too small
SCOPED = (  # settings of JAX that `with` may change, for one thread alone
    "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device", "jax_debug_nans", "jax_debug_infs",
    "jax_disable_jit", "jax_numpy_rank_promotion", "jax_numpy_dtype_promotion", "jax_log_compiles",
)  # fmt: skip


class Layout(NamedTuple):
    """How a batch lies: over how many devices it is split, and how many parts of it go through at the same time."""

    shards: int = 1
    at_once: int = 1


WHOLE = Layout()


def layout_of(x: Any) -> Layout:
    """Over how many devices the leading axis of `x` is split; one under a trace, where it is not known."""
    if not isinstance(x, jax.Array) or isinstance(x, Tracer):
        return WHOLE
    return Layout(max(1, x.shape[0] // max(1, x.sharding.shard_shape(x.shape)[0])))


def budget() -> int:
    """Bytes that a computation may take on a device: 2 GiB on a CPU, half of the device's memory elsewhere."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return 2 * 2**30 if limit is None else limit // 2


def in_turn(function: Callable[[Any], Any], rows: Any, example: Any) -> Any:
    """`vmap(function)` over rows [n, ...] that concern one example: on a CPU a few at a time, which stay in its cache.

    Args:
      function: of one row.
      rows: pytree of arrays [n, ...].
      example: what each call works on, a pytree of arrays; its size says how many calls are a few.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    few = max(LEAST, NUMBERS // max(1, sum(leaf.size for leaf in jax.tree.leaves(example))))
    turns = max(1, round(n / few)) if jax.default_backend() == "cpu" else 1
    if turns == 1:
        return jax.vmap(function)(rows)
    each = math.ceil(n / turns)
    index = np.minimum(np.arange(turns * each), n - 1).reshape(turns, each)  # one shape, compiled once
    found = lax.map(jax.vmap(function), jax.tree.map(lambda leaf: leaf[index], rows))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], found)


def in_parts(function: Callable[..., Any], arrays: Any, layout: Layout = WHOLE, memory: int | None = None) -> Any:
    """`vmap(function)` over the leading axis [B] of a pytree of arrays, so many examples at a time as fit in memory.

    The last part repeats the last example rather than being shorter: one shape, compiled once. A single example always
    goes through, whatever it needs. Where the batch is split over devices, a part takes some of each device's examples,
    so that none has to move. On a CPU a part is no larger than what stays in cache, either.

    Args:
      function: of one example, returns a pytree of arrays.
      arrays: pytree of arrays [B, ...].
      layout: how the batch lies.
      memory: bytes that all of it may take on one device, arguments and results included; None for `budget()`.

    Returns:
      The pytree that `function` returns, with arrays [B, ...].
    """
    sharding = jax.typeof(jax.tree.leaves(arrays)[0]).sharding
    if is_explicit(sharding):
        return hiding_axes(lambda arrays: in_parts(function, arrays, layout, memory), sharding)(arrays)
    function = jax.jit(function)  # traced once: for its size, and for its results
    shards = layout.shards
    n = jax.tree.leaves(arrays)[0].shape[0]
    rows = n // shards
    size = _part_size(function, arrays, rows, (budget() if memory is None else memory) // layout.at_once)
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


def _part_size(function: Callable[..., Any], arrays: Any, rows: int, memory: int) -> int:
    """How many of the `rows` examples of a device go through at a time."""
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), arrays)
    whole = rows * _bytes(jax.tree.leaves((example, jax.eval_shape(function, example))))
    room = int(SHARE * memory - whole)
    if jax.default_backend() == "cpu":
        room = min(room, CACHE)
    return max(1, room // peak_bytes(function, example))


def side_by_side(function: Callable[[Any, Layout], Any], batch: Any) -> Any:
    """`function` of a batch, a pytree of arrays [B, ...], and its layout; on a CPU with one part of it per core.

    XLA shares each operation out over the cores, and most of those of a search are too small for that. Threads will do:
    compiled code runs without Python's lock. The batch goes through whole where it is small, under a trace, or where a
    `with` has changed JAX's settings for this thread. Returns a pytree of arrays [B, ...].
    """
    x = jax.tree.leaves(batch)[0]
    n = parts_at_once(x)
    if n == 1 or _threads(n).submit(_scoped).result() != _scoped():
        return function(batch, layout_of(x))
    each = math.ceil(len(x) / n)
    last = len(x) - each  # the last part begins early rather than being shorter: one shape, compiled once
    starts = [min(i * each, last) for i in range(n)]
    parts = _threads(n).map(
        lambda start: jax.block_until_ready(
            function(jax.tree.map(lambda leaf: leaf[start : start + each], batch), Layout(at_once=n))
        ),
        starts,
    )
    return _joined(list(parts), n * each - len(x))


def parts_at_once(x: Array) -> int:
    """Into how many parts a batch [B, ...] goes, one a core; 1 under a trace, on devices, or if it is small."""
    if isinstance(x, Tracer) or len(x.devices()) > 1 or next(iter(x.devices())).platform != "cpu":
        return 1
    return max(1, min(n_cores(), len(x) // LEAST_PER_CORE))


@functools.cache
def n_cores() -> int:
    """The cores that this process may use: those of its affinity, and no more than its control group grants."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, quota(pathlib.Path("/sys/fs/cgroup")))))


def quota(root: pathlib.Path) -> float:
    """CPUs granted by the control group below `root` (version 2, then 1); infinity where there is no limit."""
    try:
        if (file := root / "cpu.max").exists():
            quota, period = file.read_text().split()[:2]
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.inf if quota.strip() in ("max", "-1") else float(quota) / float(period)
    except (OSError, ValueError):
        return math.inf


@functools.cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "avae")


@functools.partial(jax.jit, static_argnames="repeated")
def _joined(parts: list[Any], repeated: int) -> Any:
    """One batch of its parts, the last of which begins with `repeated` examples of the one before."""
    *whole, last = parts
    parts = [*whole, jax.tree.map(lambda leaf: leaf[repeated:], last)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _scoped() -> tuple[Any, ...]:
    return tuple(getattr(jax.config, name) for name in SCOPED)


def peak_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Bytes that `function(*args)` holds at once at its worst, its arguments and results included; nothing is run.

    Counts every intermediate from where it is made to its last use. A compiler that fuses needs less, one that reorders
    or pads may need somewhat more.
    """
    closed = jax.make_jaxpr(function)(*args)
    return _size(closed.jaxpr.invars) + _peak(closed.jaxpr)


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
        called = equation.primitive.name == "jit"  # what it returns is among what its body makes
        peak = max(peak, live + (max(0, inner - _size(out)) if called else inner))
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
