"""A VAE that knows one picture: its weights are the decoder's raw output, whatever z is."""

import dataclasses

import jax.numpy as jnp
import numpy as np

import avae

SIDE = 20


@dataclasses.dataclass(frozen=True)
class Template:
    image_shape: tuple = (SIDE, SIDE, 1)
    latent: int = 1

    def encode(self, weights, x):
        return jnp.zeros(1), jnp.zeros(1)

    def decode(self, weights, z):
        return weights

    def reduced(self, weights, factor):
        *space, channels = self.image_shape
        blocks = [size for side in space for size in (side // factor, factor)]
        small = weights.reshape(*blocks, channels).mean(axis=(1, 3))
        return Template(small.shape, self.latent), small


def picture():
    """A bright object [SIDE, SIDE] without any symmetry, on black."""
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * 28 / SIDE
    ink = np.maximum(np.exp(-((x + 4) ** 2) / 4.5 - y**2 / 50), np.exp(-((x - 1) ** 2) / 32 - (y - 6) ** 2 / 3.4))
    return np.clip(np.maximum(ink, 0.9 * np.exp(-((x - 4) ** 2 + (y + 3) ** 2) / 5)), 0, 1)


def template(ink, likelihood=None, **model):
    """`Params` whose decoder gives `ink` [SIDE, SIDE] as the mean of the pixels."""
    likelihood = likelihood or avae.Gaussian(scale=0.1)
    p = np.clip(ink, 1e-4, 1 - 1e-4)
    raw = np.log(p / (1 - p)) if isinstance(likelihood, avae.Bernoulli) else ink
    search = avae.Search(n_starts=32, twin=1, top_k=3, n_local=(), n_refined=2, n_steps=8)
    model = avae.Model(Template(), likelihood=likelihood, search=search, **model)
    return avae.Params(jnp.asarray(raw[..., None], jnp.float32), model)


def turned(ink, degrees, fill=0.0):
    """`ink` [SIDE, SIDE] turned counter-clockwise by each angle [B, SIDE, SIDE, 1], by SciPy."""
    from scipy import ndimage

    def one(t):
        a, centre = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]), np.full(2, (SIDE - 1) / 2)
        return ndimage.affine_transform(ink, a, centre - a @ centre, order=1, cval=fill)

    images = np.stack([one(t) for t in np.radians(degrees)])[..., None]
    return np.clip(images, 0, 1).astype(np.float32)


def errors(params, images, degrees):
    """By how many degrees the poses found [B] are off."""
    found = np.degrees(np.asarray(avae.align(params, images).alpha)[:, 0])
    return np.abs((found + degrees + 180) % 360 - 180)
