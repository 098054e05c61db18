"""Points that fill a cube evenly: equal strata along one axis, an additive recurrence along the others."""

import jax.numpy as jnp
from jax import Array


def spread(n: int, d: int) -> Array:
    """`n` points [n, d] that fill the box [-1, 1]^d evenly, its centre first.

    The additive recurrence of Roberts (2018), whose steps are powers of the d-dimensional golden ratio.
    """
    return 2 * jnp.mod(jnp.arange(n, dtype=jnp.float32)[:, None] * recurrence(d)[None] + 0.5, 1.0) - 1


def recurrence(d: int) -> Array:
    """Steps [d] of the additive recurrence."""
    ratio = 2.0
    for _ in range(40 if d else 0):
        ratio = (1 + ratio) ** (1 / (d + 1))  # the root of r^(d+1) = r + 1
    return jnp.array([ratio ** -(axis + 1) for axis in range(d)], jnp.float32)


def strata(n: int, steps: Array) -> Array:
    """`n` points of the unit cube, zero first: equal strata along the first axis, a recurrence along the others."""
    index = jnp.arange(n, dtype=jnp.float32)[:, None]
    return jnp.concatenate([index / n, index * steps[None]], axis=1)
