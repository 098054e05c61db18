"""Sets of TensorFlow Datasets: read without TensorFlow, decoded once, and what is said where one is not there."""

import hashlib
import importlib.util
import struct
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from test_train import ROOT

from avae.data import dataset as data, sources


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Two splits of numbered pictures with named labels; `tfds:tiny`."""

    VERSION = tfds.core.Version("1.0.0")
    SIZES = (("train", 6), ("test", 4))
    SHAPE = (5, 4, 1)
    LABELLED = True

    def _info(self):
        features = {"image": tfds.features.Image(shape=self.SHAPE)}
        if self.LABELLED:
            features["label"] = tfds.features.ClassLabel(names=["mug", "bed"])
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {split: self._generate_examples(split, n) for split, n in self.SIZES}

    def _generate_examples(self, split, n):
        for i in range(n):
            yield i, {"image": self.picture(i, split)} | ({"label": i % 2} if self.LABELLED else {})

    def picture(self, i, split):
        return Image.fromarray(np.full((5, 4), 10 * i + (split == "test"), np.uint8))


class TinyBits(Tiny):
    """One split, values 0 and 1, no labels."""

    SIZES = (("train", 6),)
    LABELLED = False

    def picture(self, i, split):
        return Image.fromarray(np.eye(5, 4, k=i % 3, dtype=np.uint8))


class TinyMixed(Tiny):
    """Images of two sizes."""

    SHAPE = (None, None, 1)

    def picture(self, i, split):
        return Image.fromarray(np.zeros((5, 4 + i % 2), np.uint8))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the tiny sets."""
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Tiny, TinyBits, TinyMixed):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(autouse=True)
def _there(prepared, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    monkeypatch.setenv("AVAE_CACHE", str(tmp_path / "cache"))


def read(name, n_train=6, n_test=4, **changes):
    return sources.read(name, dim=2, n_train=n_train, n_test=n_test, **changes)


def test_a_set_is_read_with_its_split_and_labels_and_without_tensorflow():
    raw = read("tfds:tiny")
    assert raw.train_images.shape == (6, 5, 4, 1)
    assert raw.class_names == ("bed", "mug")
    for images, labels, offset in ((raw.train_images, raw.train_labels, 0), (raw.test_images, raw.test_labels, 1)):
        values = np.round(images[:][:, 0, 0, 0] * 255).astype(int)
        assert sorted(values) == [10 * i + offset for i in range(len(images))]
        assert [raw.class_names[label] for label in labels] == [("mug", "bed")[value // 10 % 2] for value in values]
    assert "tensorflow" not in sys.modules


def test_it_is_decoded_once(capsys):
    first = read("tfds:tiny")
    assert "decoding tfds:tiny" in capsys.readouterr().err
    again = read("tfds:tiny")
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(first.train_images[:], again.train_images[:])
    assert again.train_images.on_disk


def test_bits_without_labels_or_split():
    raw = read("tfds:tiny_bits", n_train=4, n_test=2)
    assert set(np.unique(raw.train_images[:])) == {0.0, 1.0}
    assert raw.class_names == ()
    assert not raw.test_labels.any()


def test_fresh_images_come_from_the_map():
    examples = data.load(data.Data(name="tfds:tiny", pose="fresh", n_train=6, n_test=4)).train
    assert isinstance(examples.images, sources.Rows)
    assert examples.images[np.array([3, 1])].dtype == np.float32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:mnits", "no set 'mnits'; did you mean tfds:mnist"),
        ("tfds:qqqqqqqq", "no set 'qqqqqqqq'$"),
        ("tfds:emnist/leters", "cannot open 'emnist/leters' .*leters not found"),
        ("tfds:imdb_reviews", "expected a set of 8-bit images, but tfds:imdb_reviews holds .*text"),
        ("tfds:tiny_mixed", r"images of one size, but tfds:tiny_mixed has \(5, [45], 1\) and \(5, [45], 1\)"),
        ("tfds:mnist", r"tfds:mnist is not prepared in .*nor is TensorFlow .*: python tools/prepare_tfds.py mnist$"),
        (
            "tfds:dsprites",
            "nor is TensorFlow .*pip install tensorflow && tfds build dsprites --file_format=array_record",
        ),
        ("tdfs:mnist", "did you mean 'tfds:mnist'"),
    ],
)
def test_what_is_not_there_is_a_sentence(name, message, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else real(name))
    with pytest.raises(ValueError, match=message):
        read(name)


def test_too_many_and_another_dimension_are_sentences():
    with pytest.raises(ValueError, match="n_test: expected at most the 4 test examples of tfds:tiny, got 5"):
        read("tfds:tiny", n_test=5)
    with pytest.raises(ValueError, match="tfds:tiny are images, but the transform poses volumes"):
        sources.read("tfds:tiny", dim=3, n_train=1, n_test=1)


def test_with_tensorflow_a_set_is_prepared_and_a_failure_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert read("tfds:tiny").train_images.shape == (6, 5, 4, 1)

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Tiny, "download_and_prepare", offline)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"could not do it \(ConnectionError: no route to host\); prepare it,"):
        read("tfds:tiny")


# --- tools/prepare_tfds.py --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("prepare_tfds", ROOT / "tools" / "prepare_tfds.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def files(tool, tmp_path, monkeypatch):
    """Four small idx files as they were published, and their checksums where TFDS keeps its own."""
    rng = np.random.default_rng(0)
    arrays, checksums = {}, {}
    for part, n in (("train", 5), ("test", 3)):
        for stem, shape in zip(tool.FILES[part], ((n, 28, 28), (n,)), strict=True):
            arrays[stem] = rng.integers(0, 10, shape, np.uint8)
            (tmp_path / stem).write_bytes(idx(arrays[stem]))
            packed = tool.packed_as_published("fashion_mnist", stem, (tmp_path / stem))
            checksums[stem] = hashlib.sha256(packed).hexdigest()
    monkeypatch.setattr(tool, "_checksum", lambda builder, stem: checksums[stem])
    return tmp_path, arrays


@pytest.mark.parametrize("packed", [False, True])
def test_a_set_is_built_from_its_files(tool, files, tmp_path, monkeypatch, packed):
    source, arrays = files
    if packed:  # anew: without a name, at another time
        for stem in arrays:
            done = tool.compressed(source / stem)
            (source / stem).unlink()
            (source / f"{stem}.gz").write_bytes(done)
    info = tool.prepare("fashion_mnist", tmp_path / "data", source)
    assert {name: split.num_examples for name, split in info.splits.items()} == {"train": 5, "test": 3}
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    raw = read("tfds:fashion_mnist", n_train=5, n_test=3)
    found = np.round(raw.test_images[:] * 255).astype(np.uint8)[..., 0]
    assert {image.tobytes() for image in found} == {image.tobytes() for image in arrays["t10k-images-idx3-ubyte"]}
    assert "Ankle boot" in tfds.builder("fashion_mnist", data_dir=tmp_path / "data").info.features["label"].names


def test_other_files_are_refused(tool, files, tmp_path):
    source, _ = files
    path = source / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte is not the t10k-labels-idx1-ubyte of fashion_mnist"):
        tool.prepare("fashion_mnist", tmp_path / "data", source)
    path.unlink()
    with pytest.raises(ValueError, match="expected a file t10k-labels-idx1-ubyte"):
        tool.prepare("fashion_mnist", tmp_path / "data", source)
    assert not (tmp_path / "data" / "fashion_mnist" / "3.0.1").exists()
