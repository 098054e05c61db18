"""Builds the embedded digits, avae/data/digits/digits.npz, from a copy of MNIST.

    python tools/make_digits.py path/to/mnist.npz

The source holds x_train [60000, 28, 28] uint8, y_train, x_test [10000, 28, 28], y_test. 12,000 training and 2,000
test digits are drawn without replacement by a fixed seed, each from its own split.
"""

import pathlib
import sys

import numpy as np

SEED, SIZES = 20261122, {"train": 12_000, "test": 2_000}
TARGET = pathlib.Path(__file__).parent.parent / "avae" / "data" / "digits" / "digits.npz"


def main(source: str) -> None:
    """Draws the subset and writes it, compressed."""
    rng = np.random.default_rng(SEED)
    arrays = {}
    with np.load(source) as mnist:
        for split, size in SIZES.items():
            rows = np.sort(rng.choice(len(mnist[f"y_{split}"]), size, replace=False))
            arrays[f"{split}_images"] = mnist[f"x_{split}"][rows].astype(np.uint8)
            arrays[f"{split}_labels"] = mnist[f"y_{split}"][rows].astype(np.uint8)
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET}: {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
