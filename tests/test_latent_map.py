"""The map of the latents, where points lie and what is under them; and strips of pictures along each latent."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

import avae
from avae.evaluation import examples
from avae.evaluation.examples import strips
from avae.report import pictures
from avae.report.figures import png
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


def test_strips_are_decoded_along_each_latent(params):
    latent = np.random.default_rng(0).normal(2, [0.5, 1, 0], (50, 3))
    found = strips(params, np.concatenate([latent, np.full((1, 3), np.nan)]))
    assert found.names == ["latent 1", "latent 2", "latent 3"]
    assert found.pictures.shape == (3, 9, 12, 12, 1)
    z = latent.mean(axis=0) + np.array([0, 2 * latent[:, 1].std(), 0])
    np.testing.assert_allclose(found.pictures[1, -1], avae.decode(params, z[None])[0], atol=1e-5)
    middle = np.broadcast_to(found.pictures[:, 4:5], found.pictures.shape)
    np.testing.assert_allclose(middle[0], middle[1], atol=1e-5)
    np.testing.assert_allclose(found.pictures[2], middle[2], atol=1e-5)  # it does not vary
    assert np.abs(found.pictures[0] - middle[0]).max() > 0.01
    assert strips(params, np.full((4, 3), np.inf)) is None


def test_strips_of_many_latents_are_along_principal_axes(monkeypatch):
    monkeypatch.setattr(examples, "decode", lambda params, z: z.reshape(len(z), 3, 4, 1))  # the latents themselves
    latent = np.random.default_rng(0).normal(size=(100, 12)) * np.linspace(1, 5, 12)
    latent[:, 7] *= 20
    found = strips(None, latent)
    assert found.names == [f"axis {k + 1}" for k in range(8)]
    ends = (found.pictures[0, -1] - found.pictures[0, 0]).ravel()
    assert np.argmax(np.abs(ends)) == 7
    assert np.linalg.norm(ends) == pytest.approx(4 * latent[:, 7].std(), rel=0.02)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 2), (6, 8, 8, 1)])
def test_strips_are_drawn_in_rows_with_titles(shape):
    steps = np.linspace(-2, 2, 9)
    drawn = np.random.default_rng(0).random((2, 9, *shape))
    drawn[1] = np.nan
    figure = pictures.strips(["latent 1", "$\\frac{"], steps, drawn)
    each = 5 if len(shape) == 4 else 9
    assert len(figure.axes) == 2 * each
    assert [ax.get_title() for ax in figure.axes[:each]][:: each // 2] == ["-2", "mean", "+2"]
    assert len(png(figure)) > 5_000
