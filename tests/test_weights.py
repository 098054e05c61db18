"""Weights that the package has: loaded by name, rounded to float16, and what is said where they are missing."""

import shutil

import jax
import numpy as np
import pytest

import avae
from avae.runtime.mistake import Mistake
from avae.training import packed

ROOMY = 3e6  # bytes


@pytest.fixture(scope="module")
def digits():
    return avae.load("digits")


@pytest.mark.parametrize("name", avae.SHIPPED)
def test_every_name_loads_a_model_of_the_data_of_that_name(name):
    params = avae.load(name)
    assert params.model.image_shape == {"digits": (28, 28, 1), "furniture": (32, 32, 32, 1)}[name]
    leaves = jax.tree.leaves(params.weights)
    assert all(leaf.dtype == np.float32 for leaf in leaves)
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_they_are_small():
    sizes = [path.stat().st_size for path in packed.FOLDER.rglob("*") if path.is_file()]
    assert 1e5 < sum(sizes) < ROOMY


def test_digits_turned_upside_down_are_turned_back(digits):
    """Those that do not look alike either way, as 0, 1 and 8 do."""
    x, labels = avae.examples("digits", 64)
    x = x[np.isin(labels, (2, 4, 7))][:12]
    turned, upright = (avae.align(digits, images) for images in (x[:, ::-1, ::-1], x))
    between = np.angle(np.exp(1j * (turned.alpha - upright.alpha - np.pi)))[:, 0]
    assert np.median(np.abs(between)) < np.radians(10)
    assert turned.loss.mean() < 150 < turned.info.identity_loss.mean()


def test_a_name_that_is_not_there_suggests_one():
    with pytest.raises(Mistake, match=r"digit: no run here .*did you mean 'digits'\?"):
        avae.load("digit")
    with pytest.raises(Mistake, match="weights in the package: digits, furniture"):
        avae.load("qqq")


def test_an_installation_without_the_files_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "FOLDER", tmp_path)
    shutil.copytree(packed.pathlib.Path(avae.__file__).parent / "weights" / "digits", tmp_path / "digits")
    (tmp_path / "digits" / packed.FILE).unlink()
    with pytest.raises(Mistake, match=r"digits: this installation of avae lacks weights.npz in .*; install it again"):
        avae.load("digits")


def test_damaged_weights_are_a_mistake(tmp_path, digits):
    shutil.copytree(packed.FOLDER / "digits", tmp_path / "x")
    path = tmp_path / "x" / packed.FILE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Mistake, match="expected the weights of a model"):
        avae.load(tmp_path / "x")
    np.savez(path, a=np.zeros(3))
    with pytest.raises(Mistake, match="arrays of MLP"):
        avae.load(tmp_path / "x")
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(Mistake, match="expected the weights of a model"):
        avae.load(tmp_path / "x")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(Mistake, match="expected the weights of a model"):
        avae.load(tmp_path / "x")


def test_what_is_written_is_read_again(tmp_path, digits):
    config, data = ((packed.FOLDER / "digits" / f"{name}.json").read_text() for name in ("config", "data"))
    packed.write(tmp_path, digits, *(packed.json.loads(text) for text in (config, data)))
    again = avae.load(tmp_path)
    assert again.model == digits.model
    jax.tree.map(np.testing.assert_array_equal, again.weights, digits.weights)
    huge = digits.replace(weights=jax.tree.map(lambda leaf: leaf * 1e9, digits.weights))
    with pytest.raises(Mistake, match="float16 can hold"):
        packed.write(tmp_path, huge, {}, {})


def test_a_run_in_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert packed.is_shipped("digits")
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "config.json").write_text("{")
    assert not packed.is_shipped("digits")
    with pytest.raises(Mistake, match=r"digits/config\.json: not a readable config"):
        avae.load("digits")


def test_a_report_wants_a_folder_to_write_to():
    from avae.run import report

    with pytest.raises(Mistake, match="got digits, weights that the package has"):
        report("digits")
