"""Prepares MNIST, Fashion-MNIST or KMNIST for TensorFlow Datasets, without TensorFlow and, from given files, offline.

    python tools/prepare_tfds.py mnist                              # downloads
    python tools/prepare_tfds.py fashion_mnist --source=FOLDER      # from the four idx files there, .gz or not

TFDS's own builder does it, but for two steps for which it asks TensorFlow: unpacking, and PNG encoding. What it
downloads is held to the checksums that TFDS registered, and so are given files: where one was packed anew, the original
header (with a name and a time) is put back, and plain idx files are first compressed as the originals were (`gzip -6`).
Afterwards `tfds.builder(name, file_format="array_record")` finds the set, and so does `--config.data.name=tfds:NAME`.
"""

import argparse
import gzip
import hashlib
import os
import pathlib
import struct
import subprocess
import sys
import time

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.registered import skip_registration
from tensorflow_datasets.image_classification import mnist

from avae.data.sources.tfds import WITHOUT_TENSORFLOW, data_dir

BUILDERS = dict(zip(WITHOUT_TENSORFLOW, (mnist.MNIST, mnist.FashionMNIST, mnist.KMNIST), strict=True))
FILES = {
    part: tuple(f"{prefix}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    for part, prefix in (("train", "train"), ("test", "t10k"))
}
GZIP = b"\x1f\x8b"
# Of the gzip headers of the originals: time stamps of t10k-images, t10k-labels, train-images and train-labels.
STAMPS = {
    "mnist": dict(zip(sorted(sum(FILES.values(), ())), (885827245, 885827268, 848331386, 848331398), strict=True)),
    "fashion_mnist": dict(zip(sorted(sum(FILES.values(), ())), (1504176627,) * 2 + (1504176606,) * 2, strict=True)),
}


def main() -> None:
    """Flags to `prepare`; a mistake of the user's ends in a sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=WITHOUT_TENSORFLOW)
    parser.add_argument("--source", type=pathlib.Path, help="a folder with the four files; default: download them")
    parser.add_argument("--data_dir", type=pathlib.Path, default=data_dir())
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        info = prepare(options.name, options.data_dir, options.source)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    counts = ", ".join(f"{split.num_examples} {name}" for name, split in info.splits.items())
    print(f"{info.full_name} in {options.data_dir}: {counts} images, {time.perf_counter() - start:.0f} s")


def prepare(name: str, folder: pathlib.Path, source: pathlib.Path | None = None) -> tfds.core.DatasetInfo:
    """Builds the set `name` below `folder` from the files in `source`, or from downloads.

    Raises:
      ValueError: if a file is missing, or is not the one that TFDS knows by its checksum.
    """
    base = BUILDERS[name]
    with skip_registration():

        class Plain(base):
            """The set itself, under its own name, with the two steps replaced."""

            url_infos = base.url_infos

            def _split_generators(self, dl_manager):
                found = {}
                for part, names in FILES.items():
                    if source is None:
                        found[part] = dl_manager.download([f"{base.URL}{stem}.gz" for stem in names])
                    else:
                        found[part] = [given(name, source, stem, _checksum(self, stem)) for stem in names]
                return {part: self._generate_examples(*paths) for part, paths in found.items()}

            def _generate_examples(self, images, labels):
                pixels = idx(images).reshape(-1, 28, 28)
                for i, (image, label) in enumerate(zip(pixels, idx(labels), strict=True)):
                    yield i, {"image": Image.fromarray(image), "label": int(label)}

        Plain.name = name
        builder = Plain(data_dir=folder, file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return builder.info


def idx(path: os.PathLike[str] | bytes) -> np.ndarray:
    """The bytes of an idx file (compressed; a path, or its content) as an array of uint8 of its shape."""
    content = gzip.decompress(path if isinstance(path, bytes) else pathlib.Path(path).read_bytes())
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def given(name: str, source: pathlib.Path, stem: str, checksum: str) -> bytes:
    """The compressed file `stem` of `source`, as it was published: with the SHA-256 `checksum`.

    Raises:
      ValueError: if it is not there, or is another file.
    """
    stems = {stem, stem.replace("-idx", ".idx")}
    paths = [path for path in sorted(source.rglob("*")) if path.name.removesuffix(".gz") in stems and path.is_file()]
    if not paths:
        raise ValueError(f"expected a file {stem} (.gz or not) in {source}, found none")
    for content in (paths[0].read_bytes(), packed_as_published(name, stem, paths[0])):
        if hashlib.sha256(content).hexdigest() == checksum:
            return content
    raise ValueError(f"{paths[0]} is not the {stem} of {name} that TFDS knows by its SHA-256, {checksum}")


def packed_as_published(name: str, stem: str, path: pathlib.Path) -> bytes:
    """A file, compressed if it is not, with the name and the time in its header that the original has."""
    packed = path.read_bytes()
    if packed[:2] != GZIP:
        packed = compressed(path)
    if name not in STAMPS:
        return packed
    stored = stem.replace("-idx", ".idx") if name == "mnist" else stem
    start = packed.index(b"\0", 10) + 1 if packed[3] == 8 else 10  # after the name, if there is one
    return (
        GZIP
        + b"\x08\x08"
        + struct.pack("<I", STAMPS[name][stem])
        + packed[8:10]
        + stored.encode()
        + b"\0"
        + packed[start:]
    )


def compressed(path: pathlib.Path) -> bytes:
    """A file compressed by GNU gzip, which packs other bytes than Python does: those that were published."""
    return subprocess.run(("gzip", "-6", "-n", "-c", path), capture_output=True, check=True).stdout


def _checksum(builder: tfds.core.DatasetBuilder, stem: str) -> str:
    (info,) = (info for url, info in builder.url_infos.items() if url.endswith(f"/{stem}.gz"))
    return info.checksum


if __name__ == "__main__":
    main()
