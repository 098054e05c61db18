"""Makes a data set of the package animal-mnist 0.4 on PyPI (MIT): 10,000 silhouettes of ten kinds of animals, upright.

    pip download animal-mnist==0.4 --no-deps
    python tools/prepare_animals.py animal_mnist-0.4-py3-none-any.whl animals.npz
    python train.py --config=configs/rot_mnist.py --config.data.name=animals.npz

The package's own loader asks for TensorFlow. It keeps its arrays as pickles, which are read here by an unpickler that
admits NumPy's arrays alone: a pickle that names anything else is refused before anything of it is called. The result is
an archive for `data.name`: `images` [10000, 28, 28] of 8 bits and `labels`, the name of each animal.
"""

import gzip
import io
import pathlib
import pickle
import sys
import zipfile
import zlib

import numpy as np

from avae.runtime.mistake import Mistake

FOLDER, FILES = "animal_mnist/data/Animal_MNIST", ("animal_data_version_3.gz", "animal_label_version_3.gz")
NAMES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
ADMITTED = {
    (module, name)
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("ndarray", "dtype", "_reconstruct")
}
BAD = (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, MemoryError)  # of a damaged pickle
BAD += (zlib.error, zipfile.BadZipFile, pickle.UnpicklingError)
LARGEST = 2**26  # bytes of an array, unpacked


class ArraysAlone(pickle.Unpickler):
    """Reads pickled NumPy arrays and nothing else."""

    def find_class(self, module: str, name: str):
        """What NumPy needs to build an array.

        Raises:
          UnpicklingError: for any other name.
        """
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an array")
        return super().find_class(module.replace(".core", "._core"), name)  # as NumPy 2 calls it


def read(wheel: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 28, 28] uint8 and the name of each animal [N], from the package as it is downloaded.

    Raises:
      Mistake: if it is not that package.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            images, labels = (_array(archive, f"{FOLDER}/{name}") for name in FILES)
    except BAD as error:
        raise Mistake(f"expected the wheel of animal-mnist 0.4, got {wheel} ({error})") from None
    images, labels = np.asarray(images), np.asarray(labels)
    if (
        images.ndim != 3
        or images.dtype != np.uint8
        or labels.shape != images.shape[:1]
        or labels.dtype.kind not in "iu"
    ):
        raise Mistake(
            f"expected images [N, H, W] of 8 bits and labels [N], got {images.shape} {images.dtype} and {labels.shape} "
            f"{labels.dtype} in {wheel}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(NAMES)):
        raise Mistake(f"expected labels from 0 to {len(NAMES) - 1}, got {labels.min()} to {labels.max()} in {wheel}")
    return images, np.array(NAMES)[labels]


def _array(archive: zipfile.ZipFile, name: str) -> object:
    with archive.open(name) as packed, gzip.open(packed) as file:
        content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"{name} is larger than {LARGEST} bytes")
    return ArraysAlone(io.BytesIO(content)).load()


def main(wheel: str, target: str) -> None:
    """Writes the archive."""
    try:
        images, labels = read(pathlib.Path(wheel))
    except Mistake as error:
        sys.exit(f"error: {error}")
    np.savez_compressed(target, images=images, labels=labels)
    print(f"{target}: {len(images)} images of {len(np.unique(labels))} animals")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
