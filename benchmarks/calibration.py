"""Do credible regions of the pose cover the true pose as often as they say? On images that the model itself makes.

    python benchmarks/calibration.py --workdir=runs/rot_mnist [--n_images=400] [--n_samples=256]

Poses are drawn from the prior, latents from N(0, I), binary pixels from the decoder's means: a posterior that is exact
would be calibrated here by construction. What is missing is the encoder's: docs/theory.md.
"""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import avae
from avae.objective import predict
from avae.runtime.batches import over_batches


def draw(params: avae.Params, key: Array) -> tuple[Array, Array, Array]:
    """An image [H, W, C] of binary pixels from a model with a Bernoulli likelihood, its pose [size] and latent [z]."""
    model, (pose_key, latent_key, pixel_key) = params.model, jax.random.split(key, 3)
    alpha = model.transform.sample(pose_key)
    z = jax.random.normal(latent_key, (model.networks.latent,))
    means = model.decode(params.weights, z)
    assert model.image_shape is not None
    posed = model.from_canonical(means, model.transform, alpha, model.image_shape[:-1])
    floor = model.likelihood.floor
    return jax.random.bernoulli(pixel_key, jnp.clip(posed, floor, 1 - floor)).astype(jnp.float32), alpha, z


def deviation(params: avae.Params, x: Array, alpha: Array, z: Array) -> Array:
    """How many of the encoder's standard deviations each latent [z] lies from its mean, at the true pose."""
    _, mu, logvar = predict(params, x, params.model.transform, alpha)
    return jnp.abs(z - mu) * jnp.exp(-0.5 * logvar)


def main() -> None:
    """Flags to a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--n_images", type=int, default=400)
    parser.add_argument("--n_samples", type=int, default=256)
    args = parser.parse_args()
    params = avae.load(args.workdir)
    keys = jax.random.split(jax.random.key(1), args.n_images)
    x, alpha, z = map(np.asarray, jax.jit(jax.vmap(lambda key: draw(params, key)))(keys))

    def covered(x: Array, alpha: Array) -> dict[str, Array]:
        posterior = avae.pose_posterior(params, x, n_samples=args.n_samples)
        inside = {f"{mass:.0%} region": posterior.contains(alpha[:, None], mass)[:, 0] for mass in (0.5, 0.9)}
        return inside | {"effective draws": posterior.evidence.effective_samples}

    for name, values in over_batches(covered, (x, alpha), "poses").items():
        print(f"{name}: {np.mean(values):.3f}")
    found = jax.jit(jax.vmap(lambda *drawn: deviation(params, *drawn)))(x, alpha, z)
    print(f"median deviation of a latent: {np.median(found):.2f} (0.67 if the encoder were the posterior)")


if __name__ == "__main__":
    main()
