"""The shift of a pose found at once: a decoded picture is compared with an image at every shift, by FFT.

The shift is the one part of a pose along which J is a correlation. Pixels of an exponential family have natural
parameters t(y) and log partitions a(y): log p(x | y) = sum_p x_p t(y_p) - a(y_p) + const. The loss of the picture y
moved by s is therefore one entry of two cross-correlations (Kuglin & Hines 1975, for squared errors).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from avae.model import Params
from avae.networks.vae import gaussian_kl
from avae.transforms import Transform
from avae.transforms.correlation import correlate, peak, sums_inside


def slide(
    params: Params, transform: Transform, block: int, beta: float, x: Array
) -> Callable[[Array], tuple[Array, Array]]:
    """The function alpha -> alpha at the shift that suits x best, and J there but for resampling; for one example.

    z and the picture are those of alpha, as it comes: the encoder has not seen the image at its new shift.

    Args:
      params: the model.
      transform: a family with shifts.
      block: how often each pixel counts.
      beta: how often the KL does.
      x: an image [*space, C].
    """
    model, weights, unit = params.model, params.weights, 2 / min(x.shape[:-1])
    reach = int(transform.farthest / unit)  # pixels
    pixels, masked = model.observed(x)
    counts = jnp.broadcast_to(jnp.ones((), x.dtype) if masked is None else masked, x.shape)
    level = jnp.broadcast_to(jnp.asarray(model.background, x.dtype), x.shape)
    nothing = model.log_prob(weights, x, level)
    along = correlate(counts * model.likelihood.contrast(pixels, level, counts), reach)
    across = sums_inside(reach, x.shape[:-1]) if masked is None else correlate(counts, reach)

    def best(alpha: Array) -> tuple[Array, Array]:
        posterior = model.encode(weights, model.to_canonical(x, transform, alpha))
        centred = transform.centred(alpha)
        picture = model.from_canonical(model.decode(weights, posterior.mu), transform, centred, x.shape[:-1])
        t, a = model.likelihood.natural(weights, picture, level)
        shift, gained = peak(model.likelihood.gained(along(t), across(a)))
        moved = transform.project(alpha.at[-transform.shifts :].set(shift.astype(alpha.dtype) * unit))
        return moved, beta * gaussian_kl(posterior) - block * (nothing + gained)

    return best
