"""Is anything wrong with the poses? Three numbers that need no labels, and what to do about each.

A length in pixels is how far a point at the rim of the frame moves. One pixel is a rotation by 2 / side radians, a
shift by one pixel, or a scale of 1 + 2 / side, so it means the same for all families, in the plane and in space.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.align import align
from avae.model import Params
from avae.runtime.parts import in_parts
from avae.runtime.products import matmul
from avae.settings import plan
from avae.transforms import Transform
from avae.transforms.factors import Box
from avae.transforms.warp import compose, warp

N_IMAGES = 32
DIRECTIONS = 4  # of the latent, those along which it varies most
NATS = 1.0  # a gap that the ripple of interpolation does not explain: that is up to a nat (docs/architecture.md)
PIXELS = 1.0  # at the rim: interpolation moves poses by some tenths
DRIFT = 0.7  # pixels by which a latent moves a picture: 0.2 to 0.3 after a sound search, 1.0 with 12 starts for digits
EXPLAINED = 0.1  # of a change of the picture, in nats, by a pose: 2 to 6 % after a sound search, 15 % with 12 starts


class Health(NamedTuple):
    """What was measured; None for what a model or so few images cannot tell.

    Attributes:
      gap: J of the model's search above that of a much denser one, in nats, mean over the images.
      missed: share of the images whose gap is more than a nat.
      turned: pixels at the rim between the pose of an image and that of the same image moved by a known pose, which is
        accounted for; median over the images.
      drift: pixels at the rim by which the decoded picture moves as the latent goes one standard deviation along a
        principal direction; median over the images of the direction that moves it most.
      drift_share: the part of the picture's change, in the Fisher metric, that this move explains.
    """

    gap: float | None = None
    missed: float | None = None
    turned: float | None = None
    drift: float | None = None
    drift_share: float | None = None


def health(params: Params, images: Any, seed: int = 0) -> Health:
    """Measures the poses of the first `N_IMAGES` of some images.

    Args:
      params: a trained model.
      images: [N, *space, C], as `avae.align` takes them.
      seed: of the poses by which they are moved.
    """
    x = jnp.asarray(images[:N_IMAGES])
    family, model = params.model.transform, params.model
    held = plan(model).search
    found = align(params, x)
    gap = missed = turned = None
    if family.dof:
        few = {name: 3 * getattr(held, name) for name in ("top_k", "n_refined")}
        dense = align(params, x, search={"n_starts": 4 * held.n_starts, "twin": 1, "n_steps": held.n_steps + 6, **few})
        gaps = np.maximum(np.asarray(found.loss - dense.loss), 0.0)
        gap, missed = float(np.mean(gaps)), float(np.mean(gaps > NATS))
    keys = jax.random.split(jax.random.key(seed), len(x))
    moves = jax.vmap(lambda alpha, key: known(family, alpha, key))(found.alpha, keys)
    matrices = jax.vmap(family.matrix)(moves)
    again = align(params, warp(x, matrices, model.background))
    apart = jax.vmap(lambda move, a, b: _rim(compose(move, family.matrix(a)) - family.matrix(b)))
    side = min(x.shape[1:-1])
    turned = float(np.median(apart(matrices, again.alpha, found.alpha))) * side / 2
    drift, share = _drift(params, x, found.latent) if family.dof and len(x) > 2 else (None, None)
    return Health(gap, missed, turned, drift, share)


def known(family: Transform, alpha: Array, key: Array) -> Array:
    """A pose by which an image found at alpha can be moved without leaving the family.

    Turns, hands and elements at random; where there are ranges only, half the way to the middle.
    """
    ranged = np.concatenate([np.full(factor.size, isinstance(factor, Box)) for factor in family.factors])
    return alpha / 2 if ranged.all() else jnp.where(ranged, family.identity, family.sample(key))


def warnings(found: Health, side: int, search: Any) -> list[str]:
    """What is wrong, in words, and what to change; `side` in pixels, `search` the settings of inference."""
    words = []
    degrees = lambda pixels: f"{pixels:.1f} pixels at the rim ({math.degrees(2 * pixels / side):.1f} degrees)"  # noqa: E731
    if found.gap is not None and found.gap > NATS:
        words.append(
            f"the search ends {found.gap:.1f} nats above a denser one, by more than a nat on {found.missed:.0%} "
            f"of the images; try more starts (search.n_starts={2 * search.n_starts}, search.top_k={2 * search.top_k})"
        )
    if found.turned is not None and found.turned > PIXELS:
        words.append(
            f"an image moved by a known pose is found {degrees(found.turned)} elsewhere; look at the gap of the search "
            "first, then at the background (data.background) and at objects cut by the frame"
        )
    if found.drift is not None and found.drift > DRIFT and (found.drift_share or 0) > EXPLAINED:
        words.append(
            f"a latent moves the picture by {degrees(found.drift)}: the model encodes poses in its latents; try fewer "
            "of them (model.latent), a larger train.jitter, or train.beta=2"
        )
    return words


def _drift(params: Params, x: Array, latent: Array) -> tuple[float, float]:
    """`Health.drift` and `Health.drift_share`."""
    centred = latent - jnp.mean(latent, axis=0, keepdims=True)
    _, size, directions = jnp.linalg.svd(centred, full_matrices=False)
    steps = (size[:, None] / math.sqrt(len(latent)) * directions)[:DIRECTIONS]
    steps = jnp.concatenate([steps, -steps])
    moved = in_parts(lambda pair: jax.vmap(lambda step: _moved(params, pair[0], pair[1], step))(steps), (x, latent))
    pixels, share = (np.asarray(part) for part in moved)  # [N, directions]
    most = np.argmax(pixels, axis=1)[:, None]
    median = [float(np.median(np.take_along_axis(part, most, axis=1))) for part in (pixels, share)]
    return median[0] * min(x.shape[1:-1]) / 2, median[1]


def _moved(params: Params, x: Array, z: Array, step: Array) -> tuple[Array, Array]:
    """The move that explains dec(z + step) - dec(z) best, half-widths at the rim, and how much it explains, for one."""
    model, weights, family = params.model, params.weights, params.model.transform

    def shown(z: Array, move: Array) -> Array:
        alpha = family.retract(family.identity, move)
        return model.from_canonical(model.decode(weights, z), family, alpha, x.shape[:-1])

    still = jnp.zeros(family.dof, x.dtype)
    picture = shown(z, still)
    change = (shown(z + step, still) - picture).ravel()
    slopes = jax.jacfwd(lambda move: shown(z, move))(still).reshape(-1, family.dof)
    weight = model.fisher(weights, x, picture).ravel()
    curvature = matmul(slopes.T, weight[:, None] * slopes)
    ridge = 1e-6 * jnp.max(jnp.diag(curvature)) + 1e-12
    move = jnp.linalg.solve(curvature + ridge * jnp.eye(family.dof), matmul(slopes.T, weight * change))
    explained, whole = matmul(move, matmul(curvature, move)), matmul(change, weight * change)
    apart = family.matrix(family.retract(family.identity, move)) - family.matrix(family.identity)
    return _rim(apart), explained / jnp.maximum(whole, 1e-12)


def _rim(difference: Array) -> Array:
    """How far apart two pull maps [d, d+1] bring points of the unit sphere, root mean square, in half-widths."""
    d = difference.shape[0]
    return jnp.sqrt(jnp.sum(difference[:, :-1] ** 2) / d + jnp.sum(difference[:, -1] ** 2))


def logged(found: Health) -> dict[str, float]:
    """The numbers that were measured, by the names they have in a log."""
    return {f"health_{name}": value for name, value in found._asdict().items() if value is not None}
