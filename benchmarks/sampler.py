"""The warp against other samplers: forward, with its derivative in the pose, and with the gradient of the image.

    pip install -e '.[bench]'
    python benchmarks/sampler.py [--side 28 40 128] [--volume 32 64] [--repeats 7]

Each image is turned by an angle of its own (volumes about z), one channel, bilinear or trilinear, zeros outside. All
sides run in this process, in turns; before anything is timed they must agree in float64 to 1e-6 with a warp written as
plain loops over NumPy arrays. "Pose" is a pass with one tangent (PyTorch, which has none for this, goes backwards to
the angle); "image" goes backwards to the pixels. Images are black at their edges, which dm_pix treats in its own way.
Samplers that are not installed are left out. Results go to `--out`.
"""

import functools
import importlib.util
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.ndimage import map_coordinates
from protocol import flags, in_turns, save

import avae
from avae.report.page import environment

BATCH = {28: 256, 40: 256, 128: 32, (32, 3): 8, (64, 3): 2}
PASSES = ("forward", "pose", "image")
Sampler = Callable[[Array, Array], Array]


def pull(angle: Array, dim: int) -> Array:
    """The linear part of the pull map: a turn by `angle` in the plane of x and y."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.eye(dim, dtype=angle.dtype)
    return turn.at[:2, :2].set(jnp.array([[c, -s], [s, c]]))


def stored(angle: Array, dim: int) -> Array:
    """The same for axes in the order in which they are stored: (z,) y, x."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.eye(dim, dtype=angle.dtype).at[-2:, -2:].set(jnp.array([[c, s], [-s, c]]))


def ours(x: Array, angle: Array) -> Array:
    matrix = pull(angle, x.ndim - 1)
    return avae.warp(x, jnp.concatenate([matrix, jnp.zeros((len(matrix), 1), matrix.dtype)], axis=1))


def by_map_coordinates(x: Array, angle: Array) -> Array:
    *space, _ = x.shape
    centre = (space[0] - 1) / 2
    grid = jnp.stack(jnp.meshgrid(*(jnp.arange(side) - centre for side in space), indexing="ij")).astype(x.dtype)
    read = jnp.einsum("ij,j...->i...", stored(angle, len(space)), grid) + centre
    return map_coordinates(x[..., 0], list(read), order=1, mode="constant")[..., None]


def by_dm_pix(x: Array, angle: Array) -> Array:
    import dm_pix

    matrix = jnp.eye(3, dtype=x.dtype).at[:2, :2].set(stored(angle, 2))
    centre = jnp.array([(x.shape[0] - 1) / 2, (x.shape[1] - 1) / 2, 0], x.dtype)
    return dm_pix.affine_transform(x, matrix, offset=centre - matrix @ centre, order=1, mode="constant")


def jax_passes(sampler: Sampler, x: Array, angles: Array) -> dict[str, Callable[[], Any]]:
    batched = jax.vmap(sampler)
    forward = jax.jit(batched)
    pose = jax.jit(lambda x, a: jax.jvp(functools.partial(batched, x), (a,), (jnp.ones_like(a),)))
    image = jax.jit(lambda x, a: jax.vjp(lambda x: batched(x, a), x)[1](x))
    return {
        name: functools.partial(lambda f: jax.block_until_ready(f(x, angles)), f)
        for name, f in zip(PASSES, (forward, pose, image), strict=True)
    }


def torch_passes(x: np.ndarray, angles: np.ndarray) -> dict[str, Callable[[], Any]]:
    import torch
    import torch.nn.functional as F

    images, turns = torch.tensor(np.moveaxis(x, -1, 1)), torch.tensor(angles)
    dim = x.ndim - 2

    def warp(images: Any, turns: Any) -> Any:
        c, s, zero, one = turns.cos(), turns.sin(), torch.zeros_like(turns), torch.ones_like(turns)
        rows = [c, -s, zero, s, c, zero] if dim == 2 else [c, -s, zero, zero, s, c, zero, zero, zero, zero, one, zero]
        matrix = torch.stack(rows, dim=1).view(-1, dim, dim + 1)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)

    def forward() -> Any:
        with torch.no_grad():
            return np.moveaxis(warp(images, turns).numpy(), 1, -1)

    def gradient(of: str) -> Any:
        a, b = images.clone().requires_grad_(of == "image"), turns.clone().requires_grad_(of == "pose")
        (warp(a, b) * images).sum().backward()
        return a.grad if of == "image" else b.grad

    return {"forward": forward} | {name: functools.partial(gradient, name) for name in ("pose", "image")}


def by_loops(x: np.ndarray, angle: float) -> np.ndarray:
    """The reference, one pixel at a time."""
    *space, _ = x.shape
    matrix = np.eye(len(space))
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix, centre = matrix[::-1, ::-1], (space[0] - 1) / 2
    out = np.zeros(x.shape)
    for index in itertools.product(*map(range, space)):
        read = matrix @ (np.array(index) - centre) + centre
        for corner in itertools.product(*((int(np.floor(r)), int(np.floor(r)) + 1) for r in read)):
            if all(0 <= i < side for i, side in zip(corner, space, strict=True)):
                out[index] += x[corner] * np.prod([1 - abs(r - i) for r, i in zip(read, corner, strict=True)])
    return out


def pictures(n: int, side: int, dim: int) -> np.ndarray:
    """Noise within two black pixels all round."""
    x = np.random.default_rng(0).uniform(size=(n, *(side - 4,) * dim, 1)).astype(np.float32)
    return np.pad(x, [(0, 0)] + [(2, 2)] * dim + [(0, 0)])


def check(sampler: Sampler, dim: int) -> None:
    x, angle = pictures(1, 10, dim)[0].astype(np.float64), 0.7
    with jax.enable_x64(True):
        error = np.abs(np.asarray(sampler(jnp.asarray(x), jnp.asarray(angle))) - by_loops(x, angle)).max()
    if not error < 1e-6:
        raise RuntimeError(f"{sampler.__name__} differs from the reference by {error:.3g}: nothing was timed")


def sides(x: np.ndarray, angles: np.ndarray) -> dict[str, dict[str, Callable[[], Any]]]:
    """Each sampler that is at hand, with its passes over a batch [B, *space, 1]."""
    samplers: dict[str, Sampler] = {"avae.warp": ours, "map_coordinates": by_map_coordinates}
    if x.ndim == 4 and importlib.util.find_spec("dm_pix"):
        samplers["dm_pix"] = by_dm_pix
    for sampler in samplers.values():
        check(sampler, x.ndim - 2)
    found = {name: jax_passes(sampler, jnp.asarray(x), jnp.asarray(angles)) for name, sampler in samplers.items()}
    if importlib.util.find_spec("torch"):
        found["PyTorch grid_sample"] = torch_passes(x, angles)
    return found


def measure(side: int, dim: int, repeats: int) -> list[dict[str, Any]]:
    """Images per second of each sampler and pass, at one size."""
    batch = BATCH.get(side if dim == 2 else (side, dim), 8)
    x = pictures(batch, side, dim)
    angles = np.random.default_rng(1).uniform(-3, 3, batch).astype(np.float32)
    taken = sides(x, angles)
    results = {name: np.asarray(passes["forward"]()) for name, passes in taken.items()}
    worst = max(np.abs(result - results["avae.warp"]).max() for result in results.values())
    if not worst < 1e-3:  # float32 positions, up to 64 pixels from the centre
        raise RuntimeError(f"the samplers differ by {worst:.3g} at side {side}: nothing was timed")
    times = in_turns({(name, way): taken[name][way] for name in taken for way in PASSES}, repeats)
    size = "x".join([str(side)] * dim)
    rates = {pair: batch / statistics.median(seconds) for pair, seconds in times.items()}
    return [
        {"size": size, "sampler": name}
        | {way: rates[name, way] for way in PASSES}
        | {f"{way}_ratio": rates["avae.warp", way] / rates[name, way] for way in PASSES}
        for name in taken
    ]


def markdown(rows: list[dict[str, Any]], where: dict[str, Any]) -> str:
    lines = ["| size | sampler | forward | pose | image | avae.warp is faster by |", "|---|---|---|---|---|---|"]
    for row in rows:
        rates = " | ".join(f"{row[way]:,.0f}" for way in PASSES)
        ratios = ", ".join(f"{row[f'{way}_ratio']:.2f}" for way in PASSES)
        lines.append(f"| {row['size']} | {row['sampler']} | {rates} | {ratios} |")
    machine = "\n".join(f"- {name}: {value}" for name, value in where.items())
    return "# Samplers, images per second\n\n" + "\n".join(lines) + f"\n\n{machine}\n"


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--side", type=int, nargs="*", default=[28, 40, 128])
    parser.add_argument("--volume", type=int, nargs="*", default=[32, 64])
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    cases = [(side, 2) for side in args.side] + [(side, 3) for side in args.volume]
    rows = [row for case in cases for row in measure(*case, args.repeats)]
    where = environment()
    save(args.out, "sampler", {"rows": rows, "environment": where}, markdown(rows, where))


if __name__ == "__main__":
    main()
