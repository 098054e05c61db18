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
        return avae.warp(weights[None], avae.Rotation().matrix(self.rate * z)[None])[0]


def found_by(rate):
    model = avae.Model(Turning(rate), likelihood=avae.Gaussian(scale=0.1), transform=avae.Rotation())
    ink = jnp.asarray(INK[..., None], jnp.float32)
    return avae.align(avae.Params(ink, model), ink[None])


@pytest.mark.parametrize("rate", [0.01, 0.1, 1.0])
def test_a_latent_that_turns_the_picture_makes_poses_less_certain(rate):
    """E is that of alpha + rate z and of z ~ N(0, 1): the variances add up."""
    alone, turned = (float(found_by(r).std[0, 0]) for r in (0.0, rate))
    np.testing.assert_allclose(turned, np.hypot(alone, rate), rtol=0.05)


def test_the_curvature_alone_is_what_noise_does():
    """Cramer-Rao for a picture that is known: scale over the length of its derivative by the angle."""
    turn = lambda angle: avae.warp(  # noqa: E731
        jnp.asarray(INK[None, ..., None], jnp.float32), avae.Rotation().matrix(jnp.full(1, angle))[None]
    )
    slope = (turn(0.02) - turn(-0.02)) / 0.04
    np.testing.assert_allclose(
        found_by(0.0).std[0, 0], 0.1 / jnp.linalg.norm(slope), rtol=0.25
    )  # interpolation ripples


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
