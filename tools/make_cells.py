"""Builds the embedded cells, avae/data/cells/cells.npz, from an archive of their pictures.

    python tools/make_cells.py path/to/cells64.npz

The source holds `images` [650, 64, 64] uint8, and `line` and `treatment` [650] of each cell, drawn from the outlines
that geomstats ships (geomstats/datasets/data/cells): filled, at one common scale, centred by their bounding box, in the
orientations in which they were found. They are kept as they are; the notice beside them is that of geomstats.
"""

import pathlib
import sys

import numpy as np

KEPT = ("images", "line", "treatment")
TARGET = pathlib.Path(__file__).parent.parent / "avae" / "data" / "cells" / "cells.npz"


def main(source: str) -> None:
    """Copies the arrays, compressed."""
    with np.load(source) as archive:
        np.savez_compressed(TARGET, **{key: archive[key] for key in KEPT})
    print(f"{TARGET}: {TARGET.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
