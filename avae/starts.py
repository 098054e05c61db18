"""Where a search begins: poses that divide the family evenly, or that a network proposes, or near a known one."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.model import Model, Params
from avae.settings import Plan, can_slide
from avae.transforms import Transform, spread


def strata(model: Model, family: Transform, n: int, key: Array | None) -> Array:
    """Starts [n, size], the same for all examples, the identity first.

    Where all shifts are scored at once, they divide the rest of the family alone, if there is more of it than shifts.
    """
    starts, rest = family.starts(n, key), family.size - family.shifts
    return jax.vmap(family.centred)(starts) if rest and can_slide(model, family) else starts


def starting_poses(
    params: Params, x: Array, family: Transform, plan: Plan, key: Array | None, near: Array | None = None
) -> tuple[Array, int | Array]:
    """Starts [n, size] for one example, and the number of cells into which they divide the family.

    They are `strata`, the identity first, or what the pose network proposes for x. Where a pose `near` is known, they
    are that pose and others that fill the box of half-widths `plan.within` around it.
    """
    network, n = params.model.pose_network, plan.search.n_starts
    if near is not None:
        widths = np.asarray(plan.within, np.float32)
        steps = spread(n, family.dof) * widths[None]
        starts = jax.vmap(lambda step: family.project(family.retract(near, step)))(steps)
        return starts, n * jnp.prod(family.cell(1) / widths)
    if not plan.proposed:
        starts = strata(params.model, family, n, key)
        return starts, len(starts)
    proposed = network.propose(params.pose_weights, params.model.observed(x)[0], n - 1, family)
    return jnp.concatenate([family.identity[None], proposed]), network.n_bins
