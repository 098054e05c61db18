"""How often the search finds a known pose, with the network out of the loop.

    python benchmarks/recovery.py                             # 500 poses per family, minutes
    python benchmarks/recovery.py --poses 50 --family affine  # some poses of one family

An image or a volume is warped by a random member of a family's prior, and `avae.search` looks for the pose by squared
error. It is recovered if what is left between the found and the true map is a rotation of less than 3 degrees, scales
within 1 % (singular values, so shears count too) and a shift of less than half a pixel. In the plane the images are
upright embedded digits, a different one for each pose; in space they are random sums of blobs without symmetry, 24
voxels a side. Ranges and search settings are the defaults of each family: shift 0.2 half-widths, scale 1.5, shear 0.5.
The paper's shear, tan 55 degrees = 1.43, is larger. Beside it stands one descent from the identity by Adam, which is
what a search without starts amounts to. Results go to `--out` as JSON and Markdown.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from protocol import flags, save

import avae
from avae.data import dataset as data
from avae.report.page import environment
from avae.settings import of_family
from avae.transforms import FAMILIES, Transform
from avae.transforms.warp import warp_one

CONTINUOUS = [name for name, family in FAMILIES.items() if family().dof]
DESCENT = avae.Search(n_starts=1, top_k=1, n_local=(), n_refined=1, n_steps=100, solver=avae.Adam())
SIDE = 24  # of the volumes


def blobs(n: int, side: int, dim: int, seed: int) -> np.ndarray:
    """Pictures or volumes [n, *space, 1], each a sum of seven random Gaussian spots within the inscribed ball."""
    rng = np.random.default_rng(seed)
    grid = (np.stack(np.meshgrid(*[np.arange(side)] * dim, indexing="ij"), -1) + 0.5) / side * 2 - 1
    out = np.zeros((n, *[side] * dim), np.float32)
    for picture in out:
        for _ in range(7):
            direction = rng.normal(size=dim)
            centre = direction / np.linalg.norm(direction) * rng.uniform(0.1, 0.6)
            square = ((grid - centre) ** 2).sum(axis=-1)
            picture += rng.uniform(0.4, 1) * np.exp(-square / (2 * rng.uniform(0.1, 0.2) ** 2))
    return out[..., None]


def recovered(found: np.ndarray, true: np.ndarray, side: int) -> np.ndarray:
    """Which pull maps found [n, d, d+1] are the true ones but for 3 degrees, 1 % of scale and half a pixel."""
    linear = found[:, :, :-1] @ np.linalg.inv(true[:, :, :-1])
    shift = found[:, :, -1] - np.einsum("nij,nj->ni", linear, true[:, :, -1])
    u, scales, v = np.linalg.svd(linear)
    trace = np.trace(u @ v, axis1=1, axis2=2)
    angle = np.arccos(np.clip(trace / 2 if linear.shape[1] == 2 else (trace - 1) / 2, -1, 1))
    close = np.abs(scales - 1).max(axis=1) < 0.01
    return (np.degrees(angle) < 3) & close & (np.linalg.norm(shift, axis=1) * side / 2 < 0.5)


def squared_error(family: Transform) -> avae.CompositeLoss:
    """Half the squared error between x["target"] and x["source"] at the pose."""
    return avae.CompositeLoss(
        predict=lambda x, alpha: warp_one(x["source"], family.matrix(alpha)),
        score=lambda x, u: 0.5 * jnp.sum((u - x["target"]) ** 2),
        curvature=lambda x, u: jnp.ones_like(u),
    )


def measure(name: str, poses: int, seed: int, batch: int, search: avae.Search | None = None) -> dict:
    """One row of the table."""
    family = FAMILIES[name]()
    search = search or of_family(family)
    if family.dim == 2:
        test = data.load(data.Data(pose="upright", n_train=1, n_test=poses)).test
        source = test.images
    else:
        source = blobs(poses, SIDE, 3, seed)
    alpha = jax.vmap(family.sample)(jax.random.split(jax.random.key(seed), poses))
    matrix = jax.vmap(family.matrix)(alpha)
    x = {"source": source, "target": np.asarray(jax.jit(jax.vmap(warp_one))(source, matrix))}
    loss = squared_error(family)

    def fraction(search: avae.Search) -> tuple[float, float]:
        found, seconds = [], []
        for first in range(0, poses, batch):
            part = jax.tree.map(lambda leaf, i=first: leaf[np.arange(i, i + batch) % poses], x)  # one shape: full
            if first == 0:
                jax.block_until_ready(avae.search(loss, part, family, settings=search).alpha)  # compiles
            start = time.perf_counter()
            found.append(np.asarray(avae.search(loss, part, family, settings=search).alpha))
            seconds.append(time.perf_counter() - start)
        found = jax.vmap(family.matrix)(np.concatenate(found)[:poses])
        share = recovered(np.asarray(found, float), np.asarray(matrix, float), source.shape[1]).mean()
        return float(share), batch / float(np.median(seconds))

    share, rate = fraction(search)
    descent, _ = fraction(DESCENT)
    return {
        "family": name,
        **dataclasses.asdict(search),
        "recovered": share,
        "descent": descent,
        "images_per_second": rate,
    }


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    lines = [
        "| family | starts | kept | local | refined | steps | recovered | one descent | images/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        settings = " | ".join(str(row[key]) for key in ("n_starts", "top_k", "n_local", "n_refined", "n_steps"))
        lines.append(
            f"| {row['family']} | {settings} | {100 * row['recovered']:.1f} % | {100 * row['descent']:.1f} % "
            f"| {row['images_per_second']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--poses", type=int, default=500, help="per family")
    parser.add_argument("--batch", type=int, default=50, help="images searched at a time; bounds the memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", choices=CONTINUOUS, nargs="+", default=CONTINUOUS)
    options = parser.parse_args()

    rows = []
    for name in options.family:
        rows.append(measure(name, options.poses, options.seed, min(options.batch, options.poses)))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    settings = {"poses": options.poses, "seed": options.seed, "volume_side": SIDE}
    text = f"# Poses recovered\n\n{options.poses} poses per family, seed {options.seed}.\n\n{table(rows)}\n"
    save(options.out, "recovery", {"environment": environment(), "settings": settings, "rows": rows}, text)


if __name__ == "__main__":
    main()
