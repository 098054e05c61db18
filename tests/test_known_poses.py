"""Poses that are known beforehand, and poses applied to what is not an image: points, labels, other channels."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from template import SIDE, picture, template, turned

import avae

DEGREES = np.array([20.0, 75, 200, 310])
TRUE = -np.radians(DEGREES, dtype=np.float32)[:, None]


def apart(a, b):
    return np.abs(np.angle(np.exp(1j * (np.asarray(a) - np.asarray(b)))))


def test_a_search_near_known_poses_finds_them():
    params, x = template(picture()), turned(picture(), DEGREES)
    found = avae.align(params, x, around=TRUE + 0.15, within=0.3)
    assert apart(found.alpha, TRUE).max() < 0.02
    one = avae.align(params, x[:1], around=TRUE[:1] + 0.15, within=[0.3])
    np.testing.assert_allclose(one.alpha, found.alpha[:1], atol=1e-3)
    still = avae.objective(params, x, TRUE + 0.15).total
    np.testing.assert_allclose(found.info.identity_loss, still, rtol=1e-4)


def test_it_stays_near_where_something_better_is_far_away():
    params, x = template(picture()), turned(picture(), DEGREES)
    far = avae.align(params, x, around=TRUE + 1.5, within=0.1)
    assert apart(far.alpha, TRUE + 1.5).max() < 0.8
    assert (np.asarray(far.loss) > np.asarray(avae.align(params, x).loss) + 1).all()


def test_with_shifts_it_does_not_slide_away():
    params = template(picture(), avae.Gaussian(0.1), transform=avae.Rigid())
    x = turned(picture(), DEGREES)
    near = np.concatenate([TRUE, np.full((4, 2), 0.15, np.float32)], axis=1)
    found = avae.align(params, x, around=near, within=(0.1, 0.02, 0.02), search={"n_steps": 0, "n_settle": 0})
    assert np.abs(np.asarray(found.alpha - near))[:, 1:].max() < 0.03


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"around": TRUE[:2]}, r"expected one pose per image, shape \(4, 1\), got \(2, 1\)"),
        ({"around": TRUE, "within": 0.0}, "within: expected one number above 0"),
        ({"around": TRUE, "within": (0.1, 0.2)}, "one for each of the 1 directions"),
        ({"around": np.zeros((4, 1)), "transform": avae.QuarterTurns()}, "within: expected one number"),
    ],
)
def test_wrong_neighbourhoods_are_named(given, said):
    with pytest.raises(avae.Mistake, match=said):
        avae.align(template(picture()), turned(picture(), DEGREES), **given)


def test_points_go_where_the_pixels_go():
    """A spot at a point of the image is found at the transformed point of the warped image, in 2D and 3D."""
    for shape, matrix in (
        ((21, 25), avae.Affine().matrix(jnp.array([0.4, 0.1, -0.1, 0.2, 0.1, -0.05]))),
        ((15, 17, 19), jnp.array([[0.0, -1, 0, 0.1], [1, 0, 0, 0.05], [0, 0, 1, -0.1]])),
    ):
        point = np.array([size // 2 + 2 for size in shape[::-1]], np.float32)  # x first
        x = np.zeros((*shape, 1), np.float32)
        x[tuple(int(p) for p in point[::-1])] = 1
        x[..., 0] = ndimage.gaussian_filter(x[..., 0], 1.0)
        moved = avae.transform_points(matrix, point[None], shape)[0]
        seen = ndimage.center_of_mass(np.asarray(avae.warp(x, matrix))[..., 0])[::-1]
        np.testing.assert_allclose(moved, seen, atol=0.05)
        half = min(shape) / 2
        centre = (np.array(shape[::-1]) - 1) / 2
        unit = avae.transform_points(matrix, (point[None] - centre) / half)[0]
        np.testing.assert_allclose(np.asarray(unit) * half + centre, moved, atol=1e-3)


def test_a_set_of_points_for_each_image():
    matrices = avae.align(template(picture()), turned(picture(), DEGREES)).matrix
    points = np.random.default_rng(0).uniform(0, SIDE - 1, (4, 5, 2))
    moved = avae.transform_points(matrices, points, (SIDE, SIDE))
    np.testing.assert_allclose(moved[2], avae.transform_points(matrices[2], points[2], (SIDE, SIDE)), rtol=1e-5)
    with pytest.raises(avae.Mistake, match="one matrix per set of points, got 4 and 3"):
        avae.transform_points(matrices, points[:3])
    with pytest.raises(avae.Mistake, match=r"got shapes \(4, 2, 3\) and \(5, 2\)"):
        avae.transform_points(matrices, points[0])
    with pytest.raises(avae.Mistake, match="shape: expected 2 sizes"):
        avae.transform_points(matrices, points, (SIDE,))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32])
def test_labels_keep_their_values(dtype):
    labels = (np.random.default_rng(0).random((3, 12, 12, 1)) * 4).astype(dtype)
    matrix = avae.Rotation().matrix(jnp.array([0.5]))
    moved = np.asarray(avae.warp(labels, matrix, order=0))
    assert moved.dtype == labels.dtype
    assert set(np.unique(moved)) <= set(np.unique(labels)) | {0}
    by_scipy = [
        ndimage.affine_transform(
            label[..., 0].astype(int),
            np.asarray(matrix)[::-1, 1::-1],
            5.5 - np.asarray(matrix)[::-1, 1::-1] @ [5.5, 5.5],
            order=0,
            mode="constant",
        )
        for label in labels
    ]
    np.testing.assert_array_equal(moved[:, 3:-3, 3:-3, 0], np.stack(by_scipy).astype(dtype)[:, 3:-3, 3:-3])
    with pytest.raises(avae.Mistake, match="or give order=0 for labels"):
        avae.warp(labels, matrix)
    with pytest.raises(avae.Mistake, match="order: expected 0"):
        avae.warp(labels, matrix, order=3)
