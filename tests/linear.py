"""A linear VAE with Gaussian pixels, of which log p(x) is known: for a given pose, x is normal."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import avae

SIDE, LATENT, SCALE = 12, 2, 0.25


@dataclasses.dataclass(frozen=True)
class Linear:
    """z -> mean + basis z; q(z | x) is the posterior of upright images, so that the pose adds a gap of its own."""

    image_shape: ClassVar[tuple[int, ...]] = (SIDE, SIDE, 1)
    latent: ClassVar[int] = LATENT

    def encode(self, weights, x):
        return weights["gain"] @ (x - weights["mean"]).ravel(), weights["logvar"]

    def decode(self, weights, z):
        return weights["mean"] + weights["basis"] @ z


def linear_params(transform, seed=0, scale=SCALE):
    """A model of a bar with a spot at one end, whose brightness and width vary."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    bar = np.exp(-(x**2) / 4 - y**2 / 24)
    spot = np.exp(-((x - 1.5) ** 2 + (y + 3) ** 2) / 3)
    mean = 0.7 * bar + 0.8 * spot
    basis = np.stack([0.25 * bar, 0.2 * spot * x], axis=-1)[..., None, :]
    flat = basis.reshape(-1, LATENT)
    precision = np.eye(LATENT) + flat.T @ flat / scale**2
    weights = {
        "mean": mean[..., None],
        "basis": basis,
        "gain": np.linalg.solve(precision, flat.T / scale**2),
        "logvar": -np.log(np.diag(precision)),
    }
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)
    model = avae.Model(networks=Linear(), likelihood=avae.Gaussian(scale), transform=transform)
    return avae.Params(weights, model)


def draw_images(params, n, seed=0):
    """Images [n, *space, C] from the model, noise included, and their true poses [n, size]."""
    model, weights = params.model, params.weights
    pose_key, latent_key, noise_key = jax.random.split(jax.random.key(seed), 3)
    alpha = jax.vmap(model.transform.sample)(jax.random.split(pose_key, n))
    z = jax.random.normal(latent_key, (n, LATENT))

    def posed(alpha, z):
        return model.from_canonical(model.decode(weights, z), model.transform, alpha, (SIDE, SIDE))

    mean = jax.vmap(posed)(alpha, z)
    return mean + model.likelihood.scale * jax.random.normal(noise_key, mean.shape), alpha


def log_p_given_pose(params, x, poses):
    """log p(x | alpha) [B, K] in closed form, in float64, for images [B, ...] and poses [K, size]."""
    model, weights = params.model, params.weights

    @jax.jit
    @jax.vmap
    def posed(alpha):
        def warp(image):
            return model.from_canonical(image, model.transform, alpha, (SIDE, SIDE)).ravel()

        columns = jnp.moveaxis(weights["basis"], -1, 0)
        return warp(weights["mean"]), jax.vmap(warp)(columns)

    means, bases = (np.asarray(part, np.float64) for part in posed(poses))
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    values = np.empty((len(x), len(means)))
    for k, (mean, basis) in enumerate(zip(means, bases, strict=True)):
        covariance = basis.T @ basis + model.likelihood.scale**2 * np.eye(len(mean))
        residual = flat - mean
        solved = np.linalg.solve(covariance, residual.T).T
        log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
        values[:, k] = -0.5 * (np.sum(residual * solved, axis=1) + log_det)
    return values


def log_mean_exp(values):
    """Log of the mean of exp(values) over the last axis."""
    highest = values.max(axis=-1, keepdims=True)
    return (highest + np.log(np.exp(values - highest).mean(axis=-1, keepdims=True)))[..., 0]
