"""The map of the latents: where points lie, what is under them, and what has no place on it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from avae.report.latent_map import MAX_POINTS, SIDE, latent_map, principal


def drawn(n=6, latent=None, shape=(8, 8, 1), names=None):
    images = np.broadcast_to(np.linspace(0, 1, n).reshape(-1, *[1] * len(shape)), (n, *shape)).astype(np.float32)
    latent = np.random.default_rng(0).normal(size=(n, 4)) if latent is None else latent
    return latent_map(images, 1 - images, latent, np.arange(n) % 2, {0: "a", 1: "<b>"} if names is None else names)


def test_thumbnails_are_the_input_beside_its_canonical_form():
    found = drawn()
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.sheet))).convert("RGB"))
    for k, (*_, column, row) in enumerate(found.points):
        middle = sheet[row * SIDE + SIDE // 2, 2 * SIDE * column + SIDE // 2 :: SIDE][:2, 0]
        np.testing.assert_allclose(middle, [255 * k / 5, 255 - 255 * k / 5], atol=1)
    assert [point[3] for point in found.points[:2]] == ["test example 0, a", "test example 1, <b>"]
    assert found.points[0][2] == found.points[2][2] != found.points[1][2]


def test_principal_axes_are_those_of_the_largest_variance():
    latent = np.random.default_rng(0).normal(size=(200, 4)) * [0.1, 5, 1, 0.1]
    plane = principal(latent)
    assert abs(np.corrcoef(plane[:, 0], latent[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(plane[:, 1], latent[:, 2])[0, 1]) > 0.99
    np.testing.assert_array_equal(principal(latent[:, :2]), latent[:, :2])


def test_a_single_latent_is_a_line_and_one_that_is_not_finite_is_left_out():
    found = drawn(latent=np.array([[0.0], [1], [np.nan], [2], [np.inf], [3]]))
    assert len({y for _, y, *_ in found.points}) == 1
    assert [words.split(",")[0][-1] for *_, words, _, _ in found.points] == ["0", "1", "3", "5"]
    assert found.n_left_out == 2
    assert drawn(latent=np.full((6, 2), np.nan)) is None


@pytest.mark.parametrize("shape", [(8, 8, 2), (6, 8, 8, 1), (8, 8, 5)])
def test_any_shape_and_no_labels(shape):
    found = drawn(n=3, shape=shape, names={})
    assert found.classes == []
    assert {point[2] for point in found.points} == {"#0072B2"}


def test_no_more_points_than_a_page_can_hold():
    found = drawn(n=MAX_POINTS + 9)
    assert len(found.points) == MAX_POINTS
    assert len(found.sheet) < 1_000_000
