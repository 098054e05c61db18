"""A model that compiles fast and multiplies no matrices: z is the sum of each block of pixels, spread over it again."""

import dataclasses

import jax
import jax.numpy as jnp

import avae


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Two blocks along each side of images [*space, 1]."""

    image_shape: tuple[int, ...]

    @property
    def latent(self):
        return 2 ** (len(self.image_shape) - 1)

    @property
    def _blocks(self):
        return [size for side in self.image_shape[:-1] for size in (2, side // 2)]

    def init(self, key):
        return {"gain": jnp.ones(())}

    def encode(self, weights, x):
        mu = weights["gain"] * x.reshape(self._blocks).sum(axis=range(1, len(self._blocks), 2)).ravel()
        return mu, -jnp.ones_like(mu)

    def decode(self, weights, z):
        raw = weights["gain"] * z.reshape((2,) * (len(self.image_shape) - 1) + (1,))
        for axis, side in enumerate(self.image_shape[:-1]):
            raw = jnp.repeat(raw, side // 2, axis)
        return raw


def example(transform, **model):
    """Weights of such a model, and two black images."""
    shape = (8,) * transform.dim + (1,)
    model = avae.Model(Blocks(shape), transform=transform, **model)
    return avae.init(jax.random.key(0), model), jnp.zeros((2, *shape))
