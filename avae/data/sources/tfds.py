"""Image sets of TensorFlow Datasets: read without TensorFlow, decoded once into the cache.

A record of a prepared set takes a fraction of a millisecond to decode, more than a step can wait for. Records are read
from $TFDS_DATA_DIR, or ~/tensorflow_datasets. TFDS itself needs TensorFlow to prepare most sets;
`tools/prepare_tfds.py` does without for MNIST and its kin, and what either has prepared is read without.
"""

import contextlib
import difflib
import importlib.util
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from avae.data.sources import cache
from avae.data.sources.stacks import Stack, halves
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake
from avae.runtime.progress import Progress

PREFIX = "tfds:"
KNOWN = ("mnist", "fashion_mnist", "kmnist", "emnist", "dsprites", "smallnorb", "cifar10")  # for suggestions alone
WITHOUT_TENSORFLOW = ("mnist", "fashion_mnist", "kmnist")  # tools/prepare_tfds.py knows them
LABELS = {"dsprites": "label_shape", "smallnorb": "label_category"}  # where the set names none of several as the label


def read(name: str) -> tuple[Stack, Stack]:
    """The training and test stack of "tfds:<set>" or "tfds:<set>/<config>"; twice the same if it has no split.

    Raises:
      Mistake: if there is no such set, it is not prepared and cannot be here, or its images are not of one size.
    """
    builder = _builder(name)
    _features(name, builder)
    if not builder.info.splits:
        _prepare(builder)
        builder = _builder(name)
    splits = list(builder.info.splits)
    if not {"train", "test"} <= set(splits):
        splits = splits[:1]
    sizes = {split: builder.info.splits[split].num_examples for split in splits}
    folder = "-".join(part for part in (builder.name, builder.builder_config and builder.builder_config.name) if part)
    source = f"{builder.info.full_name} {sizes}"
    arrays, facts = cache.cached(
        f"tfds/{folder}-{builder.version}", source, lambda made: _decode(name, builder, sizes, made)
    )
    if facts["largest"] == 1:  # bits, in the bytes of an image
        arrays = {key: array.view(bool) if key.endswith("images") else array for key, array in arrays.items()}
    return halves(arrays, f"examples of {name}")


def data_dir() -> pathlib.Path:
    """The folder of prepared sets: that in the environment variable TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return expanded(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _builder(name: str) -> Any:
    import tensorflow_datasets as tfds  # half a second, so only where there is such a set
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    wanted = name.removeprefix(PREFIX)
    try:
        with _quiet():
            return tfds.builder(wanted, file_format="array_record", data_dir=data_dir())
    except DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(wanted, known, n=3)
        hint = f"; did you mean {' or '.join(PREFIX + other for other in close)}?" if close else ""
        raise Mistake(f"data.name: TensorFlow Datasets has no set {wanted!r}{hint}") from None
    except Exception as error:  # an unknown config or version, a damaged folder: each of a type of its own
        raise Mistake(f"data.name: TensorFlow Datasets cannot open {wanted!r} ({_line(error)})") from None


def _prepare(builder: Any) -> None:
    """Lets TFDS download and prepare a set, if TensorFlow is there.

    Raises:
      Mistake: if it is not, or it fails; says which command prepares the set.
    """
    base = builder.info.full_name.rpartition("/")[0]
    by_tfds = f'pip install tensorflow && tfds build {base} --file_format=array_record --data_dir="{data_dir()}"'
    where = f"{PREFIX}{base} is not prepared in {data_dir()}"
    command = f"python tools/prepare_tfds.py {base}" if base in WITHOUT_TENSORFLOW else by_tfds
    advice = f"prepare it, on a machine with a network or from its files, by: {command}"
    if importlib.util.find_spec("tensorflow") is None:
        raise Mistake(f"data.name: {where}, nor is TensorFlow here; {advice}")
    try:
        builder.download_and_prepare()
    except Exception as error:  # of the network, of the source, of the disk
        raise Mistake(f"data.name: {where}, and TFDS could not do it ({_line(error)}); {advice}") from None


def _decode(name: str, builder: Any, sizes: dict[str, int], made: pathlib.Path) -> dict[str, Any]:
    """Writes the images of each split, and their labels if there are any; returns the largest value of all."""
    image, label = _features(name, builder)
    largest = []
    total = sum(sizes.values())
    with _quiet(), Progress(f"decoding {name}", total, unit="image", every=max(1, total // 4)) as bar:
        for split in sizes:
            prefix = f"{split}_" if len(sizes) > 1 else ""
            labels: list[int] = []
            images = _images(name, builder.as_data_source(split), image, label, labels, largest, bar)
            cache.write(made / f"{prefix}images.npy", images)
            if label:
                np.save(made / f"{prefix}labels.npy", _named(builder.info.features[label].names, labels))
    return {"largest": max(largest)}


def _images(
    name: str, source: Any, image: str, label: str, labels: list[int], largest: list[int], bar: Progress
) -> Iterator[np.ndarray]:
    """The images [H, W, C] of a split, one after the other; notes their labels and largest values."""
    shape = None
    for example in _examples(source):
        array = example[image]
        shape = shape or array.shape
        if array.shape != shape:
            raise Mistake(f"data.name: expected images of one size, but {name} has {shape} and {array.shape}")
        if label:
            labels.append(int(example[label]))
        largest.append(int(array.max()))
        bar.advance()
        yield array


def _examples(source: Any, at_once: int = 256) -> Iterator[dict[str, Any]]:
    """All examples of a data source, read many at a time, which is faster."""
    for start in range(0, len(source), at_once):
        yield from source.__getitems__(range(start, min(start + at_once, len(source))))


def _features(name: str, builder: Any) -> tuple[str, str]:
    """Names of the features that hold the image and the label; "" for no label.

    Raises:
      Mistake: if there is no 8-bit image.
    """
    import tensorflow_datasets as tfds

    features, given = builder.info.features, builder.info.supervised_keys or ()
    images = [key for key, value in features.items() if isinstance(value, tfds.features.Image)]
    images = [key for key in ("image", *images) if key in images and features[key].np_dtype == np.uint8]
    if not images:
        raise Mistake(f"data.name: expected a set of 8-bit images, but {name} holds {', '.join(features)}")
    labels = [*given[1:], "label", LABELS.get(builder.name, "")]
    labels = [key for key in labels if key in features and isinstance(features[key], tfds.features.ClassLabel)]
    return images[0], labels[0] if labels else ""


def _named(names: Sequence[str], labels: list[int]) -> np.ndarray:
    """Names of the labels [N]; the labels themselves where those are numbers, which sort better."""
    return np.array(labels) if list(names) == [str(i) for i in range(len(names))] else np.array(names)[labels]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's warnings about folders that are not there yet, and decoders that would be faster."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _line(error: Exception) -> str:
    """What an exception says, in one line of bounded length."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) < 300 else text[:300] + " ..."
