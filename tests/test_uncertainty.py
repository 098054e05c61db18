"""Standard deviations of poses, whatever the latent: against inverses, and models whose posterior is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from template import SIDE, picture, template

import avae
from avae.uncertainty import without_latent

INK = np.where(np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)) < 8, picture(), 0)
BLOBS = jnp.array([[0.3, 0.1], [-0.4, 0.2], [0.1, -0.5]])  # places of three, in half-widths


def blobs(angle):
    """[SIDE, SIDE, 1]: the blobs turned by an angle, not resampled."""
    grid = (jnp.arange(SIDE) + 0.5) * 2 / SIDE - 1
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = cos * BLOBS[:, 0] - sin * BLOBS[:, 1], sin * BLOBS[:, 0] + cos * BLOBS[:, 1]
    apart = (grid[None, None] - x[:, None, None]) ** 2 + (grid[None, :, None] - y[:, None, None]) ** 2
    return jnp.sum(jnp.exp(-apart / (2 * 0.15**2)), axis=0)[..., None]


def test_what_is_left_is_the_block_of_the_inverse(x64):
    root = np.random.default_rng(0).normal(size=(7, 9))
    hessian = root @ root.T
    hessian[2:, 2:] += np.eye(5)
    precision, slope, upper = without_latent(jnp.asarray(hessian), 2)
    np.testing.assert_allclose(np.linalg.inv(precision), np.linalg.inv(hessian)[:2, :2], rtol=1e-9)
    np.testing.assert_allclose(slope, -np.linalg.solve(hessian[2:, 2:], hessian[2:, :2]), rtol=1e-9)
    np.testing.assert_allclose(upper.T @ upper, hessian[2:, 2:], rtol=1e-9)


@dataclasses.dataclass(frozen=True)
class Turning:
    """A decoder whose only latent turns its picture, by `rate` radians per unit; the encoder says 0."""

    rate: float
    image_shape: tuple = (SIDE, SIDE, 1)
    latent: int = 1

    def encode(self, weights, x):
        return jnp.zeros(1), jnp.zeros(1)

    def decode(self, weights, z):
        return blobs(self.rate * z[0])


def found_by(rate):
    model = avae.Model(Turning(rate), likelihood=avae.Gaussian(scale=0.1), transform=avae.Rotation())
    return avae.align(avae.Params({}, model), blobs(0.0)[None])


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_a_latent_that_turns_the_picture_makes_poses_less_certain(rate):
    """E is that of alpha + rate z and of z ~ N(0, 1): the variances add up."""
    alone, turned = (float(found_by(r).std[0, 0]) for r in (0.0, rate))
    np.testing.assert_allclose(turned, np.hypot(alone, rate), rtol=0.15)


def test_the_curvature_alone_is_what_noise_does():
    """Cramer-Rao for a picture that is known: scale over the length of its derivative by the angle."""
    slope = (blobs(0.01) - blobs(-0.01)) / 0.02
    np.testing.assert_allclose(found_by(0.0).std[0, 0], 0.1 / jnp.linalg.norm(slope), rtol=0.2)  # blurred by resampling


def test_specks_of_the_decoder_are_no_knowledge():
    """A picture with noise in it has steeper slopes between pixels, but says no more of the pose."""
    noise = 0.05 * np.random.default_rng(0).normal(size=(SIDE, SIDE))
    x = INK[None, ..., None].astype(np.float32)
    pictures = [template(INK + specks, transform=avae.Rotation()) for specks in (0.0, noise)]
    clean, noisy = (float(avae.align(params, x).std[0, 0]) for params in pictures)
    assert 0.7 * clean < noisy < clean


def test_a_latent_that_turns_by_a_radian_leaves_nothing_certain():
    assert found_by(1.0).std[0, 0] > 8 * found_by(0.0).std[0, 0]


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_blank_image_has_no_pose(level):
    """It is no object at any pose, whatever the model makes of it."""
    params = template(INK, transform=avae.Rigid(max_shift=0.2))
    found = avae.align(params, np.full((1, SIDE, SIDE, 1), level, np.float32))
    assert np.isinf(found.std).all()
    assert np.isfinite(found.loss).all()
    assert np.isfinite(found.alpha).all()


def test_blank_where_it_is_observed():
    x = np.ma.masked_array(INK[None, ..., None].astype(np.float32), mask=INK[None, ..., None] > 0)
    found = avae.align(template(INK, transform=avae.Rotation()), x)
    assert np.isinf(found.std).all()
    assert np.isfinite(np.asarray(jax.device_get(found.loss))).all()
