"""What test_placement.py looks at, computed in a process of its own with four fake devices: prints JSON."""

import json

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import avae

jax.config.update("jax_num_cpu_devices", 4)
SEARCH = avae.Search(n_starts=4, top_k=2, n_local=(2,), n_refined=2, n_steps=1)
FUNCTIONS = {
    "align": lambda params, x: avae.align(params, x, search=SEARCH).loss,
    "align, twin and Adam": lambda params, x: (
        avae.align(params, x, search={"n_starts": 4, "twin": 2, "n_steps": 2, "solver": avae.Adam()}).loss
    ),
    "objective": lambda params, x: avae.objective(params, x).total,
    "objective, z drawn": lambda params, x: avae.objective(params, x, None, jax.random.key(0)).total,
    "objective, at poses": lambda params, x: avae.objective(params, x, np.full((len(x), 1), 0.3, np.float32)).total,
    "encode": lambda params, x: avae.encode(params, x).mu,
    "log_likelihood": lambda params, x: avae.log_likelihood(params, x, n_samples=4, search=SEARCH).value,
    "pose_posterior": lambda params, x: avae.pose_posterior(params, x, n_samples=4, search=SEARCH).entropy,
    "warp": lambda params, x: avae.warp(x, avae.Rotation().matrix(np.array([0.3], np.float32)))[:, 3, 3, 0],
}
DRAWS = (
    "objective, z drawn",
    "log_likelihood",
    "pose_posterior",
)  # inside shard_map every device draws by the same keys


MAIN = ("align", "objective", "objective, z drawn", "log_likelihood", "pose_posterior")  # what is compiled in itself


def seen_alone(params, x):
    """What `align` finds on one device."""
    return np.asarray(FUNCTIONS["align"](params, x))


def main() -> None:
    mesh = jax.make_mesh((4,), ("data",))  # its axes are explicit
    split = PartitionSpec("data")
    x = np.random.default_rng(0).random((8, 8, 8, 1), np.float32)
    there = jax.device_put(x, NamedSharding(mesh, split))
    params = avae.init(jax.random.key(0), avae.MLP(image_shape=(8, 8, 1), hidden=(8,), latent=2))
    seen = {}
    for name, function in FUNCTIONS.items():
        whole = np.asarray(function(params, x))
        of_images = lambda x, function=function: function(params, x)  # noqa: E731
        ways = {"explicit": of_images}
        if name in MAIN:
            ways["explicit, in jit"] = jax.jit(of_images)
            ways["shard_map"] = jax.jit(jax.shard_map(of_images, mesh=mesh, in_specs=split, out_specs=split))
        for way, call in ways.items():
            found = np.asarray(result := call(there))
            exact = way != "shard_map" or name not in DRAWS
            off = np.abs(found - whole).max() if exact else 1.0 - np.isfinite(found).all()
            seen[f"{name}, {way}"] = {"off": float(off), "devices": len(result.sharding.device_set)}
    with jax.set_mesh(mesh):
        found = FUNCTIONS["align"](params, there)
        seen["align, mesh set"] = {"off": float(np.abs(np.asarray(found) - seen_alone(params, x)).max()), "devices": 4}
    many = np.tile(x, (8, 1, 1, 1))  # large enough for a part per core
    committed = avae.align(params, jax.device_put(many, jax.devices()[2]), search=SEARCH).loss
    print(json.dumps({"seen": seen, "committed": [device.id for device in committed.devices()]}))


if __name__ == "__main__":
    main()
