"""Views of volumes whose look is known, galleries of pictures of any size, and histograms of many classes."""

import io
import math

import matplotlib.image
import numpy as np
import pytest

from avae.evaluation.curves import turns
from avae.report import figures, pictures
from avae.transforms.warp import warp


def cube(side=12, half=3):
    """A solid cube [side, side, side] in the middle."""
    volume = np.zeros((side,) * 3, np.float32)
    inner = slice(side // 2 - half, side // 2 + half)
    volume[inner, inner, inner] = 1
    return volume


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return matplotlib.image.imread(io.BytesIO(buffer.getvalue()))[..., :3]


def dark(picture):
    """Centre [x, y] of what is not white, in pixels from the picture's centre."""
    y, x = np.nonzero(picture < 0.9)
    return np.array([x.mean(), y.mean()]) - (picture.shape[0] - 1) / 2


def test_empty_space_is_white_and_solids_are_not():
    assert (pictures.render(np.zeros((6, 8, 10))) == 1).all()
    view = pictures.render(cube(), size=48)
    assert view.shape == (48, 48)
    assert view[0, 0] == 1
    assert view[24, 24] < 0.9


def test_channels_are_grey_magenta_and_green_or_colour():
    ramp = np.linspace(0, 1, 64).reshape(8, 8, 1)
    np.testing.assert_allclose(pictures.picture(3 + 2 * ramp, 3, 5), ramp[..., 0], atol=1e-12)
    two = pictures.picture(np.concatenate([ramp, 1 - ramp], axis=-1))
    np.testing.assert_array_equal(two, np.concatenate([ramp, 1 - ramp, ramp], axis=-1))
    many = np.random.default_rng(0).random((8, 8, 5))
    np.testing.assert_array_equal(pictures.picture(many), many[..., :3])
    assert np.isfinite(pictures.picture(np.full((8, 8, 1), np.nan))).all()


def test_contrast_of_stains_is_their_own_and_that_of_colour_is_shared():
    images = np.random.default_rng(0).random((4, 8, 8, 3))
    assert pictures.contrast(images) == (images.min(), images.max())
    low, high = pictures.contrast(images[..., :2] * [1, 100])
    shown = pictures.picture(images[0, ..., :2] * [1, 100], low, high)
    assert shown[..., 0].std() > 0.2
    assert shown[..., 1].std() > 0.2


def test_volumes_of_several_channels_are_rendered_as_their_mean():
    two = np.stack([cube(), np.roll(cube(), 2, axis=0)], axis=-1)
    np.testing.assert_allclose(pictures.picture(two), pictures.render(two.mean(axis=-1)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("space", [(8, 8), (6, 8, 8)], ids=str)
def test_examples_of_any_number_of_channels_are_drawn(space, channels):
    images = np.random.default_rng(0).random((2, *space, channels))
    matrix = np.tile(np.eye(len(space), len(space) + 1), (2, 1, 1))
    assert pixels(pictures.grid(images, images, images, matrix)).std() > 0.05
    if len(space) == 3:
        assert pixels(pictures.slices(images, images, images, matrix)).std() > 0.05


def test_a_view_is_the_projection_along_its_own_axes():
    """A small ball out along each axis is seen where `view` says."""
    for axis in range(3):  # x, y, z
        volume = np.zeros((16,) * 3)
        place = [8, 8, 8]
        place[2 - axis] += 4
        volume[tuple(slice(i - 1, i + 1) for i in place)] = 1
        expected = 48 / 16 * (pictures.view(3) @ (4 * np.eye(3)[axis]))[:2]
        np.testing.assert_allclose(dark(pictures.render(volume, size=48)), expected, atol=1.0)


def test_what_is_nearer_hides_what_is_behind():
    """The viewer at +z, above, sees the near plate's shade: the far one changes nothing."""
    near = np.zeros((12, 12, 12))
    near[9:12, 1:11, 1:11] = 1
    far = np.zeros((12, 12, 12))
    far[4:6, 8:10, 8:10] = 1  # behind the middle of the plate, along the line of sight
    covered = pictures.render(far, size=48) < 0.9
    assert covered.sum() > 10
    view, both = pictures.render(near, size=48), pictures.render(near + far, size=48)
    np.testing.assert_allclose(both[covered], view[covered], atol=0.02)


def test_light_comes_from_above():
    view = pictures.render(cube(24, 6), size=96)
    top, front = view[48 - 32, 48], view[48 + 12, 48 - 8]
    assert top > front + 0.05


def test_view_is_a_rotation():
    np.testing.assert_allclose(pictures.view(3) @ pictures.view(3).T, np.eye(3), atol=1e-12)
    assert np.linalg.det(pictures.view(3)) == pytest.approx(1)
    assert pictures.view(3)[2] @ [0, -1, 0] > 0  # the top is turned towards the viewer


def test_central_slices_have_y_down_and_name_their_axes():
    volume = np.zeros((4, 6, 8, 1))
    volume[2, 3, 4] = 1
    volume[0] = 0.5
    across_z, across_y, across_x = pictures.central_slices(volume)
    assert (across_z.shape, across_y.shape, across_x.shape) == ((6, 8, 1), (4, 8, 1), (6, 4, 1))
    assert across_z[3, 4] == across_y[2, 4] == across_x[3, 2] == 1
    assert (across_x[:, 0] == 0.5).all()


@pytest.mark.parametrize("space", [(8, 8), (6, 8, 8)], ids=str)
def test_grids_take_canonical_frames_of_another_size(space):
    rng = np.random.default_rng(0)
    dim = len(space)
    images = rng.random((9, *space, 1))
    canonical = rng.random((9, *(2 * side + 4 for side in space), 1))
    matrix = np.tile(np.eye(dim, dim + 1), (9, 1, 1))
    figure = pictures.grid(images, canonical, images, matrix, images)
    n = 9 if dim == 2 else 8
    assert len(figure.axes) == 4 * n
    boxes = np.array([ax.get_position(original=True).size for ax in figure.axes])
    np.testing.assert_allclose(boxes, boxes[:1] + 0 * boxes)
    drawn = pixels(figure)
    assert drawn.shape[1] == 1280
    assert drawn.std() > 0.05
    if dim == 3:
        figure = pictures.slices(images, canonical, images, matrix)
        assert len(figure.axes) == 3 * 4 * 3
        assert figure.axes[0].get_title() == "x-y"


def test_tick_points_to_what_becomes_up():
    """A quarter turn counter-clockwise brings the right to the top."""
    images = np.zeros((1, 9, 9, 1))
    figure = pictures.grid(images, images, images, turns(np.array([math.pi / 2]), 2))
    (line,) = figure.axes[0].get_lines()
    (x0, x1), (y0, y1) = line.get_data()
    assert x1 > x0 > 4
    np.testing.assert_allclose([y0, y1], 4, atol=1e-5)


def test_turns_are_those_of_numpy(images):
    quarter = turns(np.array([math.pi / 2]), 2)
    np.testing.assert_allclose(warp(images[:1], quarter)[0], np.rot90(images[0]), atol=1e-5)
    volume = np.stack([images[0], images[1]] * 6)[None]
    turned = np.asarray(warp(volume, turns(np.array([math.pi / 2]), 3)))
    np.testing.assert_allclose(turned[0], np.rot90(volume[0], axes=(1, 2)), atol=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_orientation_histograms_show_the_twenty_largest_classes(dim):
    labels = np.repeat(np.arange(23), 3)[:-2]  # the last has one member, two others are left out by order
    rotations = turns(np.linspace(0, 3, len(labels)), dim)[..., :dim]
    figure = figures.orientation_histograms(rotations, labels, {label: f"class {label}" for label in range(23)})
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert len(titles) == 20
    assert titles[0].startswith("class 0\nR = ")
    assert titles[-1].startswith("class 19\n")


def test_titles_are_literal_cut_and_never_empty():
    names = {0: "Ba$$in", 1: "$\\frac{", 2: "", 3: "y" * 300, 4: "\x00\n", 5: "数据"}
    rotations = turns(np.zeros(6), 2)[..., :2]
    figure = figures.orientation_histograms(rotations, np.arange(6), names)
    figures.png(figure)
    titles = [ax.get_title().split("\n")[0] for ax in figure.axes if ax.get_title()]
    assert titles == ["Ba$$in", "$\\frac{", "(no name)", "y" * 14 + "…", "??", "数据"]
    figures.png(figures.orientation_strip({1.0: rotations}, np.arange(6), list(names.values())))
    figures.png(figures.training_curve({"$x^{": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}]}))
    figures.png(figures.training_curve({"AVAE": [{"step": 1, "loss": math.nan}]}))
    figures.png(figures.bound_against_latents({"$a, 64": [(2, -1.0), (4, -0.5)]}))


def test_histograms_in_space_are_of_the_angle_to_the_medoid():
    rotations = turns(np.radians([0.0, 0.0, 0.0, 95.0]), 3)[..., :3]
    (ax,) = figures.orientation_histograms(rotations, np.zeros(4, int)).axes
    heights = {round(bar.get_x()): bar.get_height() for bar in ax.patches if bar.get_height()}
    assert heights == pytest.approx({0: 0.075, 90: 0.025})
    t, density = ax.get_lines()[0].get_data()
    assert np.trapezoid(density, t) == pytest.approx(1, abs=1e-3)


def test_averages_share_a_contrast_and_their_titles_are_literal():
    raw, aligned = np.full((2, 8, 8, 1), 0.5), np.random.default_rng(0).random((2, 12, 12, 1))
    figure = pictures.averages(raw, aligned, ["$\\frac{", "b"])
    first = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(first, (0.5 - aligned.min()) / np.ptp(aligned), rtol=1e-5)
    assert [ax.get_title() for ax in figure.axes] == ["$\\frac{", "b", "", ""]
    assert pixels(figure).std() > 0.02
