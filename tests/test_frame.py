"""The canonical frame: its shape, what its margin is for, and who works in which frame."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.config import default, experiment
from avae.networks.vae import Posterior
from avae.training import step as training
from avae.transforms.warp import warp_one

SEARCH = avae.Search(n_starts=4, top_k=1, n_local=(), n_steps=1)
WIDE = avae.Frame(margin=2)


def model_of(image_shape, frame=WIDE, transform=None):
    transform = transform or (avae.Rotation() if len(image_shape) == 3 else avae.Rotation3D())
    networks = avae.MLP(image_shape=frame.shape(image_shape), hidden=(8,), latent=2)
    return avae.Model(networks, transform=transform, frame=frame)


def params_of(image_shape, frame=WIDE, transform=None):
    rng = np.random.default_rng(0)
    blank = jax.eval_shape(lambda: avae.init(jax.random.key(0), model_of(image_shape, frame, transform)))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), blank)


objective = jax.jit(avae.objective)


@functools.partial(jax.jit, static_argnums=(0, 3))
def back_to_images(model, y, alpha, space):
    """Canonical images [B, ...] back in frames `space`, for poses [B, size]."""
    return jax.vmap(lambda y, alpha: model.from_canonical(y, model.transform, alpha, space))(y, alpha)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def round_trip(model, x, alpha):
    """One image into the canonical frame and back."""
    canonical = model.to_canonical(x, model.transform, alpha)
    return model.from_canonical(canonical, model.transform, alpha, x.shape[:-1])


# --- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [(12, 12, 1), (7, 12, 3), (5, 6, 9, 2)])
@pytest.mark.parametrize("frame", [avae.Frame(), avae.Frame(1), avae.Frame(2)])
def test_shape_and_image_shape_are_inverse(frame, image):
    shape = frame.shape(image)
    assert frame.image_shape(shape) == image
    assert shape[-1] == image[-1]
    assert model_of(image, frame).image_shape == image


def test_shapes_by_hand():
    assert avae.Frame().shape((28, 28, 1)) == (28, 28, 1)
    assert avae.Frame(margin=3).shape((12, 10, 1)) == (18, 16, 1)
    assert avae.Frame(margin=1).shape((4, 5, 6, 1)) == (6, 7, 8, 1)


@pytest.mark.parametrize(("shape", "frame"), [((8, 8, 1), avae.Frame(4)), ((8, 4, 1), avae.Frame(2))])
def test_a_shape_that_no_image_has_is_a_sentence(shape, frame):
    message = rf"networks take \({shape[0]}, {shape[1]}, 1\), too small for a margin of {frame.margin}"
    with pytest.raises(ValueError, match=message):
        avae.Model(avae.MLP(image_shape=shape), frame=frame)


@dataclasses.dataclass(frozen=True)
class Shapeless:
    def encode(self, weights, x):
        return jnp.zeros(2), jnp.zeros(2)

    def decode(self, weights, z):
        return jnp.zeros((12, 12, 1))


def test_networks_without_a_shape():
    assert avae.Model(Shapeless()).image_shape is None
    with pytest.raises(ValueError, match="canonical frame of its own expects networks with an `image_shape`"):
        avae.Model(Shapeless(), frame=WIDE)


@pytest.mark.parametrize("margin", [-1, 0.5, None])
def test_wrong_frames(margin):
    with pytest.raises(avae.Mistake, match=f"frame.margin: expected a whole number of at least 0, got {margin}"):
        avae.Frame(margin)


# --- warps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 10, 2), (4, 6, 5, 1)])
def test_the_frame_of_the_image_changes_nothing(shape):
    model, x = model_of(shape, avae.Frame()), noise(*shape)
    alpha = jax.jit(model.transform.sample)(jax.random.key(0))
    family, sampler = model.transform, jax.jit(warp_one)
    to_canonical = jax.jit(model.to_canonical, static_argnums=1)
    np.testing.assert_allclose(to_canonical(x, family, alpha), sampler(x, family.matrix(alpha)), atol=1e-5)
    back = jax.jit(model.from_canonical, static_argnums=(1, 3))(x, family, alpha, shape[:-1])
    np.testing.assert_allclose(back, sampler(x, family.inverse(alpha)), atol=1e-5)
    np.testing.assert_array_equal(to_canonical(x, family, family.identity), x)


@pytest.mark.parametrize("shape", [(8, 8, 1), (6, 10, 1), (4, 5, 6, 1)])
def test_a_margin_alone_pads_with_zeros(shape):
    model, x = model_of(shape, avae.Frame(margin=2)), noise(*shape)
    canonical = jax.jit(model.to_canonical, static_argnums=1)(x, model.transform, model.transform.identity)
    padded = np.pad(x, [(2, 2)] * (len(shape) - 1) + [(0, 0)])
    np.testing.assert_allclose(canonical, padded, atol=1e-5)
    np.testing.assert_allclose(round_trip(model, x, model.transform.identity), x, atol=1e-5)


def corner(*space):
    """A smooth spot near one corner [*space, 1]."""
    grids = np.meshgrid(*(np.arange(side) for side in space), indexing="ij")
    squares = sum((grid - 1.5) ** 2 for grid in grids)
    return jnp.asarray(np.exp(-squares / 2)[..., None], jnp.float32)


@pytest.mark.parametrize(("space", "margin"), [((12, 12), 4), ((12, 16), 4), ((10, 12, 10), 4)])
def test_a_margin_keeps_corners(space, margin):
    x = corner(*space)
    errors = {}
    for width in (0, margin):
        model = model_of(x.shape, avae.Frame(width))
        turn = [np.pi / 4] if len(space) == 2 else [np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)]
        back = round_trip(model, x, jnp.array(turn))
        errors[width] = float(jnp.abs(back - x).sum() / x.sum())
    assert errors[margin] < 0.2
    assert errors[0] > 1.5 * errors[margin]


# --- who works in which frame ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "family"), [((6, 8, 1), avae.Rotation()), ((3, 4, 5, 1), avae.CubeRotations())])
def test_align_with_a_frame(shape, family):
    params = params_of(shape, transform=family)
    model, x = params.model, noise(2, *shape)
    found = avae.align(params, x, search=SEARCH)
    assert found.canonical.shape == (2, *WIDE.shape(shape))
    assert found.reconstruction.shape == x.shape
    assert found.info.finite.all()
    canonical = jax.jit(jax.vmap(lambda x, alpha: model.to_canonical(x, family, alpha)))(x, found.alpha)
    np.testing.assert_allclose(found.canonical, canonical, atol=1e-5)
    np.testing.assert_allclose(found.latent, avae.encode(params, canonical).mu, atol=1e-4)
    back = back_to_images(model, avae.decode(params, found.latent), found.alpha, shape[:-1])
    np.testing.assert_allclose(found.reconstruction, back, atol=1e-4)
    np.testing.assert_allclose(found.loss, objective(params, x, found.alpha).total, rtol=1e-5)


@pytest.mark.parametrize("frame", [avae.Frame(), WIDE])
def test_no_pose_is_the_identity(frame):
    params, x = params_of((6, 8, 1), frame), noise(3, 6, 8, 1)
    plain = objective(params, x)
    identity = objective(params, x, np.zeros((3, 1), np.float32))
    for a, b in zip(plain, identity, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    elsewhere = objective(params, x, np.ones((3, 1), np.float32))
    assert (jnp.abs(elsewhere.total - identity.total) > 1e-2).all()


def test_encode_takes_canonical_images_and_align_takes_images():
    params = params_of((6, 8, 1))
    encoded = avae.encode(params, noise(2, 10, 12, 1))
    assert isinstance(encoded, Posterior)
    assert encoded.mu.shape == (2, 2)
    with pytest.raises(ValueError, match=r"x: expected \[B, 10, 12, 1\], got shape \(2, 6, 8, 1\)"):
        avae.encode(params, noise(2, 6, 8, 1))
    for function in (avae.align, avae.objective):
        with pytest.raises(ValueError, match=r"x: expected \[B, 6, 8, 1\], got shape \(2, 10, 12, 1\)"):
            function(params, noise(2, 10, 12, 1))


@pytest.mark.parametrize("shape", [(6, 8, 1), (4, 5, 6, 1)])
def test_samples_are_images_unless_left_in_the_frame(shape):
    params = params_of(shape)
    posed, unposed = avae.sample(params, 3), avae.sample(params, 3, posed=False)
    assert posed.shape == (3, *shape)
    assert unposed.shape == (3, *WIDE.shape(shape))
    assert (posed > 0.01).mean() > 0.5
    key = jax.random.split(jax.random.key(0))[1]
    alpha = jax.vmap(params.model.transform.sample)(jax.random.split(key, 3))
    back = back_to_images(params.model, unposed, alpha, shape[:-1])
    np.testing.assert_allclose(posed, back, atol=1e-5)


def test_training_with_a_frame_lowers_the_loss(images):
    config = default()
    config.update_from_flattened_dict(
        {
            "model.image_shape": (12, 12, 1), "model.hidden": (16,), "model.latent": 2,
            "frame.margin": 2, "train.warmup_steps": 0, "train.learning_rate": 0.01,
            "train.search.n_starts": 4, "train.search.top_k": 1, "train.search.n_refined": 1, "train.search.n_steps": 0,
        }
    )  # fmt: skip
    described = experiment(config)
    state, losses = training.init_state(described), []
    for _ in range(20):
        state, metrics = training.train_step(state, images, described)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


# --- volumes of three different sides -------------------------------------------------------------------------------

SPACE = (13, 17, 15)  # z, y, x


def spot(at):
    """A ball [D, H, W, 1] at a place (x, y, z), in voxels from the centre."""
    grids = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in SPACE), indexing="ij")
    squares = sum((grid - place) ** 2 for grid, place in zip(grids, at[::-1], strict=True))
    return np.exp(-squares / 2)[..., None].astype(np.float32)


def centroid(volume):
    """Where its mass is (x, y, z), in voxels from the centre."""
    grids = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in SPACE), indexing="ij")
    mass = np.asarray(volume, np.float64)[..., 0]
    return np.array([(grid * mass).sum() / mass.sum() for grid in grids[::-1]])


def test_rotation_does_not_shear_volumes_of_three_different_sides():
    places = np.array([[3.5, 0, 0], [0, -3.5, 0.5], [0, 1, 3.5], [-2.0, 2, -2]])
    spots = np.stack([spot(place) for place in places])
    family = avae.Rotation3D()
    turn = family.project(jnp.array([0.8, 0.3, -0.4, 0.33]))
    matrix = np.asarray(family.matrix(turn))
    turned = np.stack([centroid(volume) for volume in avae.warp(spots, matrix)])
    apart = lambda points: np.linalg.norm(points[:, None] - points[None], axis=-1)  # noqa: E731
    np.testing.assert_allclose(apart(turned), apart(places), atol=0.1)
    assert np.abs(turned - places).max() > 1
    np.testing.assert_allclose(turned @ matrix[:, :3].T, places, atol=0.1)  # a pull map: from where it is read


@pytest.mark.parametrize(("axis", "plane"), [(3, (2, 1)), (1, (1, 0)), (2, (0, 2))])
def test_quarter_turns_in_each_plane_are_exact(axis, plane):
    """About z, about x and about y: `plane` names the two array axes (z, y, x) = (0, 1, 2) that it turns."""
    x = np.zeros((*SPACE, 1), np.float32)
    x[3:10, 5:12, 4:11] = np.random.default_rng(0).uniform(size=(7, 7, 7, 1))  # the central cube
    turn = np.zeros(4, np.float32)
    turn[[0, axis]] = np.sqrt(0.5)
    turned = avae.warp(x, avae.Rotation3D().matrix(jnp.asarray(turn)))
    np.testing.assert_allclose(turned[3:10, 5:12, 4:11], np.rot90(x[3:10, 5:12, 4:11], axes=plane[::-1]), atol=1e-5)
    np.testing.assert_allclose(turned.sum(), x.sum(), rtol=1e-5)
