"""Training images that stay where they are stored until a step draws them."""

import dataclasses

import jax
import numpy as np
import pytest
from test_data import blobs

from avae.config import default, experiment
from avae.data import dataset as data, sources
from avae.data.dataset import Data
from avae.training import loop

ROWS = np.array([5, 0, 5, 3])


@pytest.fixture
def stack(tmp_path):
    np.save(tmp_path / "stack.npy", np.round(255 * blobs(10, 9, 8)).astype(np.uint8))
    return Data(name=str(tmp_path / "stack.npy"), n_train=7, n_test=3)


@pytest.mark.parametrize("pose", ["fresh", "upright"])
def test_images_on_disk_are_read_when_drawn(stack, pose):
    images = data.load(dataclasses.replace(stack, pose=pose)).train.images
    assert isinstance(images, sources.Rows)
    assert images.on_disk
    assert (len(images), images.shape, images.nbytes) == (7, (7, 9, 8, 1), 4 * 7 * 72)
    whole = np.asarray(images)
    stored = np.load(stack.name)[np.random.default_rng(0).permutation(10)[3:]]
    np.testing.assert_allclose(whole[..., 0] * 255, stored, atol=1e-4)
    assert images[ROWS].dtype == np.float32
    np.testing.assert_array_equal(images[ROWS], whole[ROWS])
    np.testing.assert_array_equal(images[2:4], whole[2:4])


@pytest.mark.parametrize(
    "changes",
    [{}, {"stretch": 1.5}, {"binarize": "threshold"}, {"pose": "upright", "stretch": 1.5}],
    ids=["fixed", "stretched", "binarized", "upright"],
)
def test_images_posed_when_drawn_are_those_posed_beforehand(stack, monkeypatch, changes):
    described = dataclasses.replace(stack, **changes)
    before = data.load(described)
    monkeypatch.setattr(data, "IN_MEMORY", 7 * 72 * 4 - 1)
    streamed = data.load(described)
    assert isinstance(before.train.images, np.ndarray)
    assert isinstance(streamed.train.images, data.Drawn)
    assert isinstance(streamed.test.images, np.ndarray)
    assert streamed.train.images.shape == before.train.images.shape
    np.testing.assert_allclose(streamed.train.images[ROWS], before.train.images[ROWS], atol=1e-6)
    np.testing.assert_array_equal(streamed.train.poses, before.train.poses)
    np.testing.assert_array_equal(streamed.test.images, before.test.images)


def test_an_image_binarized_when_drawn_is_the_same_in_every_batch(stack, monkeypatch):
    monkeypatch.setattr(data, "IN_MEMORY", 1)
    images = data.load(dataclasses.replace(stack, binarize="sample")).train.images
    batch = images[ROWS]
    assert set(np.unique(batch)) == {0.0, 1.0}
    np.testing.assert_array_equal(batch[0], batch[2])
    np.testing.assert_array_equal(batch[1], images[np.array([0])][0])


def test_a_large_archive_in_memory_is_converted_when_drawn(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", images=np.zeros((5, 4, 4), np.uint8))
    described = Data(name=str(tmp_path / "a.npz"), n_train=3, n_test=2, pose="fresh")
    assert isinstance(data.load(described).train.images, np.ndarray)
    monkeypatch.setattr(data, "IN_MEMORY", 1)
    assert isinstance(data.load(described).train.images, sources.Rows)


def test_grey_values_are_checked_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "IN_MEMORY", 1)
    np.save(tmp_path / "stack.npy", np.linspace(-1, 2, 5 * 16, dtype=np.float32).reshape(5, 4, 4))
    described = Data(name=str(tmp_path / "stack.npy"), n_train=3, n_test=2, binarize="threshold")
    with pytest.raises(ValueError, match=r"grey values in \[0, 1\], but those of .* run from -?\d"):
        data.load(described)


def test_bad_values_are_found_chunk_by_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.stacks, "CHUNK", 32)
    images = np.zeros((9, 4, 4), np.float32)
    images[[6, 2], 1, 1] = np.nan
    np.save(tmp_path / "stack.npy", images)
    with pytest.raises(ValueError, match=r"infinity in [12] of 7 examples of .*, first at index [26]$"):
        sources.read(str(tmp_path / "stack.npy"), dim=2, n_train=7, n_test=2)


def test_training_draws_one_batch_a_step(stack, tmp_path, monkeypatch):
    config = default()
    config.data.update(name=stack.name, n_train=7, n_test=3, pose="fresh")
    config.model.update(image_shape=(9, 8, 1), hidden=(4,), latent=2)
    config.train.update(epochs=4, batch_size=4)
    config.train.search.enabled = False
    drawn, real = [], sources.Rows.__getitem__

    def watched(self, index):
        images = real(self, index)
        if self.shape[0] == 7:  # not the test images
            drawn.append(images.shape)
        return images

    monkeypatch.setattr(sources.Rows, "__getitem__", watched)
    params = loop.fit(experiment(config), tmp_path)
    assert drawn[2:] == [(4, 9, 8, 1)] * 7
    assert drawn[:2] == [(7, 9, 8, 1)] * 2  # before the first step: their borders, and a look at up to 512 of them
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params.weights))


@pytest.mark.parametrize(
    ("shape", "offset", "message"),
    [
        ((10, 8, 8, 3), 0, r"training images of .*bad.npy: expected \[B, 28, 28, 1\], got shape \(7, 8, 8, 3\)"),
        ((10, 28, 28), -2, r"training images of .*bad.npy: expected values in \[0, 1\] for the Bernoulli"),
    ],
)
def test_images_that_do_not_go_with_the_model_are_a_sentence(tmp_path, shape, offset, message):
    np.save(tmp_path / "bad.npy", np.random.default_rng(0).random(shape).astype(np.float32) + offset)
    config = default()
    config.data.update(name=str(tmp_path / "bad.npy"), n_train=7, n_test=3, pose="fresh")
    config.train.batch_size = 4
    with pytest.raises(ValueError, match=message):
        loop.fit(experiment(config), tmp_path)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("part", ["test", "training"])
def test_every_value_is_looked_at_before_the_first_step(tmp_path, monkeypatch, part, suffix):
    images = np.random.default_rng(0).random((610, 4, 4)).astype(np.float32)
    order = np.random.default_rng(0).permutation(610)
    images[order[0 if part == "test" else -1], 2, 2] = 255  # the first test image, or the last training image of 600
    np.savez(tmp_path / "x.npz", images=images)
    np.save(tmp_path / "x.npy", images)
    config = default()
    config.data.update(name=str(tmp_path / f"x.{suffix}"), n_train=600, n_test=10, pose="fresh")
    config.model.update(image_shape=(4, 4, 1), hidden=(4,), latent=2)
    monkeypatch.setattr(loop, "_steps", None)  # no step is made
    with pytest.raises(ValueError, match=rf"{part} images of .*x\.{suffix}: expected values in \[0, 1\] .*, \d\d+"):
        loop.fit(experiment(config), tmp_path / "run")


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("binarize", ["none", "sample"])
def test_extremes_are_those_of_all_images(stack, monkeypatch, large, binarize):
    monkeypatch.setattr(data, "IN_MEMORY", 1 if large else 2**30)
    images = data.load(dataclasses.replace(stack, binarize=binarize, stretch=1.5, background=0.0)).train.images
    low, high = data.extremes(images)
    assert low.shape == high.shape == (9, 8, 1)
    whole = images[np.arange(7)]
    assert low.min() == low.max() <= whole.min()
    assert high.min() == high.max() >= whole.max()
    assert low.max() == 0
    assert high.min() <= 1


def test_real_values_on_disk_are_looked_at_once(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.linspace(-3, 7, 160).reshape(10, 4, 4))
    images = data.load(Data(name=str(tmp_path / "x.npy"), pose="fresh", n_train=8, n_test=2)).train.images
    whole = np.asarray(images)
    assert data.extremes(images)[:, 0, 0, 0].tolist() == [whole.min(), whole.max()]
    monkeypatch.setattr(sources.Rows, "_chunks", None)
    assert images.range() == (whole.min(), whole.max())
