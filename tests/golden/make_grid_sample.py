"""Writes grid_sample.npz: PyTorch's affine_grid + grid_sample, the convention that `avae.warp` keeps on square images.

python tests/golden/make_grid_sample.py    # needs PyTorch; the tests need only the file
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F


def sample(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Channels-last images [B, *space, C] pulled through [B, d, d+1], in float64."""
    last_to_first = torch.movedim(torch.from_numpy(x).double(), -1, 1)
    grid = F.affine_grid(torch.from_numpy(matrix).double(), list(last_to_first.shape), align_corners=False)
    out = F.grid_sample(last_to_first, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return torch.movedim(out, 1, -1).numpy().astype(np.float32)


def random_case(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Noise images, and matrices that mirror, shear and leave the frame."""
    d = len(shape) - 2
    matrix = np.concatenate([rng.normal(0, 0.8, (shape[0], d, d)), rng.normal(0, 0.3, (shape[0], d, 1))], axis=2)
    return rng.random(shape, np.float32), matrix.astype(np.float32)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    arrays = {"torch_version": np.array(torch.__version__)}
    for name, shape in {"even": (4, 8, 8, 2), "odd": (4, 7, 7, 1), "volume": (3, 6, 6, 6, 2)}.items():
        x, matrix = random_case(rng, shape)
        arrays |= {f"{name}_x": x, f"{name}_matrix": matrix, f"{name}_out": sample(x, matrix)}
    np.savez_compressed(pathlib.Path(__file__).with_name("grid_sample.npz"), **arrays)
