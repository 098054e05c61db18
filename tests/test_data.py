"""Examples at their poses: volumes and stacks, stretches, chunks, and what is said about settings."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.config import default, experiment
from avae.data import dataset as data, posing
from avae.data.dataset import Data
from avae.runtime.nested import plain
from avae.training import step as training

FURNITURE = Data(name="furniture", transform=avae.Rotation3D(), n_train=5, n_test=3)


def blobs(n, *space, seed=0):
    """Smooth blobs [n, *space] about the centre, one per example, with values in [0, 1]."""
    grids = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in space), indexing="ij")
    widths = np.random.default_rng(seed).uniform(1.5, 2.5, n)
    squares = sum(grid**2 for grid in grids)
    return np.stack([np.exp(-squares / (2 * width**2)) for width in widths]).astype(np.float32)


def spreads(image):
    """Variance of the mass of [*space, C] along x, y(, z)."""
    mass = image.sum(axis=-1, dtype=np.float64)
    mass = mass / mass.sum()
    found = []
    for axis, size in enumerate(mass.shape):
        along = mass.sum(axis=tuple(other for other in range(mass.ndim) if other != axis))
        found.append(along @ (np.arange(size) - along @ np.arange(size)) ** 2)
    return np.array(found[::-1])


@pytest.fixture
def stack(tmp_path):
    """A path under which a stack can be saved and loaded as examples."""

    def saved(images, **settings):
        np.save(tmp_path / "stack.npy", images)
        transform = avae.Rotation() if images.ndim == 3 else avae.Rotation3D()
        settings = {"n_train": len(images) - 2, "n_test": 2, "transform": transform} | settings
        return Data(name=str(tmp_path / "stack.npy"), **settings)

    return saved


# --- poses ----------------------------------------------------------------------------------------------------------


def test_furniture_is_the_upright_one_at_its_poses():
    upright = data.load(dataclasses.replace(FURNITURE, pose="upright"))
    fixed = data.load(FURNITURE)
    assert fixed.train.images.shape == (5, 32, 32, 32, 1)
    assert fixed.train.images.dtype == np.float32
    assert fixed.train.poses.shape == (5, 4)
    assert fixed.class_names == upright.class_names
    np.testing.assert_array_equal(fixed.test.labels, upright.test.labels)
    turned = avae.warp(upright.test.images, jax.vmap(avae.Rotation3D().matrix)(fixed.test.poses))
    np.testing.assert_allclose(fixed.test.images, turned, atol=1e-5)
    grey = (fixed.test.images > 0) & (fixed.test.images < 1)
    assert grey.mean() > 0.01
    assert not ((upright.test.images > 0) & (upright.test.images < 1)).any()


def test_turned_furniture_can_be_binarized():
    images = data.load(dataclasses.replace(FURNITURE, binarize="threshold")).train.images
    assert set(np.unique(images)) == {0.0, 1.0}


def test_cube_rotations_move_voxels_without_blur():
    turned = data.load(dataclasses.replace(FURNITURE, transform=avae.CubeRotations(), n_train=9)).train
    upright = data.load(dataclasses.replace(FURNITURE, pose="upright", n_train=9)).train
    assert set(np.unique(turned.images)) == {0.0, 1.0}
    assert (turned.images != upright.images).any(axis=(1, 2, 3, 4)).sum() >= 6
    np.testing.assert_array_equal(turned.images.sum(axis=(1, 2, 3, 4)), upright.images.sum(axis=(1, 2, 3, 4)))


def test_chunks_change_nothing(monkeypatch, stack):
    described = stack(blobs(9, 6, 6, 6), stretch=1.5)
    whole = data.load(described)
    monkeypatch.setattr(posing, "CHUNK", 2 * 6**3)
    sizes, real = [], posing.repose

    def watched(images, *rest):
        sizes.append(len(images))
        return real(images, *rest)

    monkeypatch.setattr(posing, "repose", watched)
    chunked = data.load(described)
    assert sizes == [2, 2, 2, 1, 2]
    np.testing.assert_array_equal(whole.train.images, chunked.train.images)


@pytest.mark.parametrize("shape", [(7, 6, 10), (7, 6, 8, 10)])
def test_frames_need_not_be_square(shape, stack):
    examples = data.load(stack(np.ones(shape, np.float32))).train
    assert examples.images.shape == (5, *shape[1:], 1)
    assert examples.images.min() >= 0
    assert examples.images.max() == 1
    turns = avae.QuarterTurns() if len(shape) == 3 else avae.CubeRotations()
    cut = data.load(stack(np.ones(shape, np.float32), transform=turns, n_train=5, background=0.0)).train
    assert {0.0, 1.0} == set(np.unique(cut.images))  # what does not fit is cut off


def test_real_values_are_kept():
    image = jnp.asarray(np.random.default_rng(0).normal(0, 50, (1, 8, 8, 1)), jnp.float32)
    turned = data.repose(image, jnp.full((1, 1), 0.4), avae.Rotation())
    assert turned.min() < -20
    assert turned.max() > 20
    assert turned.min() >= image.min()
    assert turned.max() <= image.max()


def test_values_outside_the_frame_are_zero_and_survive_the_clip():
    shifted = data.repose(jnp.full((1, 8, 8, 1), 3.0), jnp.array([[1.0, 0.0]]), avae.Translation(max_shift=1.0))
    np.testing.assert_array_equal(np.unique(shifted), [0, 3])


# --- poses of the test images alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pose", "test_pose", "as_if"),
    [
        ("upright", "", "upright"),
        ("upright", "fixed", "fixed"),
        ("upright", "upright", "upright"),
        ("fixed", "", "fixed"),
        ("fixed", "upright", "upright"),
        ("fresh", "", "fixed"),
        ("fresh", "fixed", "fixed"),
        ("fresh", "upright", "upright"),
    ],
)
def test_test_images_may_have_poses_of_their_own(pose, test_pose, as_if, stack):
    images = blobs(6, 8, 8) * np.linspace(0, 1, 8, dtype=np.float32)
    found = data.load(stack(images, pose=pose, test_pose=test_pose))
    np.testing.assert_array_equal(found.train.images, data.load(stack(images, pose=pose)).train.images)
    alike = data.load(stack(images, pose=as_if)).test
    np.testing.assert_array_equal(found.test.images, alike.images)
    np.testing.assert_array_equal(found.test.poses, alike.poses)
    assert (found.test.poses != 0).all() == (as_if == "fixed")


@pytest.mark.parametrize("test_pose", ["fresh", "tilted"])
def test_poses_of_test_images_stay(test_pose):
    message = f'data.test_pose: expected one of "", fixed, as_is, got {test_pose!r}'
    with pytest.raises(ValueError, match=message):
        Data(test_pose=test_pose)


# --- stretch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [(24, 24), (24, 30), (24, 24, 24)])
def test_stretch_scales_each_axis_by_its_factor(space, stack):
    images = blobs(8, *space)
    plain_images = data.load(stack(images, pose="upright")).train.images
    described = stack(images, pose="upright", stretch=1.4)
    found = data.load(described).train.images
    factors = data.factors(described, 6, jax.random.split(jax.random.split(jax.random.key(0))[0], 3)[1])
    assert factors.shape == (6, len(space))
    for before, after, factor in zip(plain_images, found, factors, strict=True):
        np.testing.assert_allclose(np.sqrt(spreads(after) / spreads(before)), factor, rtol=0.06)


def test_factors_are_log_uniform_and_each_axis_has_its_own():
    described = Data(stretch=2.0)
    logs = np.log2(data.factors(described, 4000, jax.random.key(0)))
    assert np.abs(logs).max() <= 1
    np.testing.assert_allclose(np.histogram(logs, 4, (-1, 1))[0] / logs.size, 0.25, atol=0.02)
    assert abs(np.corrcoef(logs.T)[0, 1]) < 0.05
    assert data.factors(Data(), 3, jax.random.key(0)) is None


def test_poses_stretches_and_pixels_have_keys_of_their_own(stack, monkeypatch):
    used = []

    def watched(real, *given):
        used.append(jax.random.key_data(given[-1]))
        return real(*given)

    for name in ("factors", "binarize"):
        monkeypatch.setattr(data, name, functools.partial(watched, getattr(data, name)))
    described = stack(np.full((9, 4, 4), 0.5, np.float32), stretch=2.0, binarize="sample", n_train=7)
    poses = data.load(described).train.poses
    assert len(used) == 4  # of training and of test images
    key = jax.random.split(jax.random.key(described.seed))[0]
    for root in (key, *jax.random.split(key, 3)):
        keys = jax.random.split(root, 7)
        if np.array_equal(jax.vmap(described.transform.sample)(keys), poses):
            break
    taken = {tuple(row) for row in np.asarray(jax.random.key_data(keys)).tolist()}
    assert not taken & {tuple(np.asarray(row).tolist()) for row in used}
    assert len({tuple(np.asarray(row).tolist()) for row in used}) == 4
    np.testing.assert_array_equal(jax.vmap(described.transform.sample)(keys), poses)


def test_the_stretch_comes_before_the_pose():
    image = jnp.asarray(blobs(1, 31, 31))[..., None]
    posed = data.repose(image, jnp.array([[math.pi / 2]]), avae.Rotation(), jnp.array([[1.5, 1.0]]))
    x, y = spreads(np.asarray(posed[0]))
    assert math.sqrt(y / x) == pytest.approx(1.5, rel=0.05)  # stretched along x, then turned to lie along y


def test_stretch_and_pose_blur_once():
    image = jnp.asarray(np.random.default_rng(0).random((1, 16, 16, 1)), jnp.float32)
    pose, factors = jnp.array([[0.7]]), jnp.array([[1.3, 0.8]])
    both = data.repose(image, pose, avae.Rotation(), factors)
    scale = jnp.array([[1 / 1.3, 0, 0], [0, 1 / 0.8, 0]])
    once = avae.warp(image, jnp.diag(jnp.array([1 / 1.3, 1 / 0.8])) @ avae.Rotation().matrix(pose[0]))
    twice = avae.warp(avae.warp(image, scale), avae.Rotation().matrix(pose[0]))
    np.testing.assert_allclose(both, once, atol=1e-5)
    assert jnp.abs(both - twice).max() > 0.05


def test_fresh_images_are_stretched_when_drawn(stack, monkeypatch):
    described = stack(blobs(6, 12, 12), pose="fresh", stretch=2.0)
    images = data.load(described).train.images[:]
    np.testing.assert_array_equal(images, data.load(dataclasses.replace(described, stretch=1.0)).train.images)
    seen = []

    def watched(images, poses, transform, factors, background):
        seen.append(None if factors is None else factors.shape)
        return data.repose(images, poses, transform, factors, background)

    monkeypatch.setattr(training, "repose", watched)
    for stretch in (1.0, 2.0):
        config = default()
        config.data.update({"name": described.name, "n_train": 4, "n_test": 2, "pose": "fresh", "stretch": stretch})
        config.model.image_shape = (12, 12, 1)
        config.train.search.enabled = False
        settings = experiment(config)
        state = jax.eval_shape(functools.partial(training.init_state, settings))
        jax.eval_shape(functools.partial(training.train_step, experiment=settings), state, images)
    assert seen == [None, (4, 2)]


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "digts"}, "nothing is at 'digts'; did you mean 'digits'"),
        ({"name": "furnitures"}, "did you mean 'furniture'"),
        ({"name": "furniture"}, "the furniture are volumes, but Rotation poses images"),
        ({"transform": avae.Rotation3D()}, "the digits are images, but Rotation3D poses volumes"),
        ({"side": 4}, "data.side: expected at least 8 voxels, got 4"),
        ({"up": "x"}, "data.up: expected one of y, z, got 'x'"),
        ({"stretch": 0.5}, r"data.stretch: expected a factor from 1 \(none\) to 4, got 0.5"),
        ({"stretch": 5.0}, "got 5.0"),
        ({"stretch": math.nan}, "got nan"),
        ({"n_test": 0}, "n_train and n_test of at least 1, got 12000 and 0"),
    ],
)
def test_a_wrong_setting_is_a_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        Data(**changes)


def test_a_missing_path_is_said_when_it_is_loaded():
    described = Data(name="elsewhere/stack.npy")  # a run may be read where its data are not
    with pytest.raises(ValueError, match=r"nothing is at 'elsewhere/stack\.npy'"):
        data.load(described)


def test_a_folder_may_be_called_nearly_like_embedded_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digit").mkdir()
    assert Data(name="digit").name == "digit"


def test_more_than_there_is_and_another_dimension_are_sentences(stack):
    with pytest.raises(ValueError, match=r"at most the 6 examples of .*, got 12000 \+ 2000"):
        data.load(Data(name=stack(blobs(6, 8, 8)).name))
    with pytest.raises(ValueError, match=r"expected images of .* to be volumes \[N, D, H, W\]"):
        data.load(stack(blobs(6, 8, 8), transform=avae.Rotation3D()))
    with pytest.raises(ValueError, match=r"at most the 600 .*, got 599 \+ 3"):
        data.load(dataclasses.replace(FURNITURE, n_train=599))


def test_only_grey_values_can_be_binarized(stack):
    with pytest.raises(ValueError, match=r"in \[0, 1\], but those of .*stack\.npy run from 0 to 255"):
        data.load(stack(np.tile(np.float32([0, 255]), (5, 2, 1)), binarize="sample"))


def test_a_config_describes_volumes_and_survives_json():
    config = default()
    config.data.update({"name": "furniture", "n_train": 8, "n_test": 2, "stretch": 1.2, "side": 16, "up": "y"})
    config.data.transform.name = config.transform.name = "rotation3d"
    config.model.image_shape = (32, 32, 32, 1)
    described = experiment(json.loads(json.dumps(plain(config)))).data
    family = avae.Rotation3D()
    assert described == Data("furniture", transform=family, n_train=8, n_test=2, side=16, up="y", stretch=1.2)
