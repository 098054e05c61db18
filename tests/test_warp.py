"""The sampler against map_coordinates, PyTorch, NumPy and finite differences."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.ndimage import map_coordinates

import avae
from avae.transforms.warp import compose, invert, warp_one

warp = jax.jit(avae.warp)  # compiled once per shape: op by op, these tests take minutes
oracle = jax.jit(lambda x, read: map_coordinates(x, list(read), order=1, mode="constant"))
GOLDEN = pathlib.Path(__file__).parent / "golden" / "grid_sample.npz"


def positions(matrix, space):
    """Where each pixel reads, in pixel indices [d, *space], first axis first: the docstring of warp.py in NumPy."""
    d, half = len(space), min(space) / 2
    centre = (np.array(space) - 1) / 2
    p = (np.stack(np.meshgrid(*map(np.arange, space), indexing="ij"), -1) - centre) / half
    p = p[..., ::-1] @ np.asarray(matrix, float)[:, :d].T + np.asarray(matrix, float)[:, d]
    return np.moveaxis(p[..., ::-1] * half + centre, -1, 0)


def random_case(seed, shape, batch=(), spread=0.8):
    rng = np.random.default_rng(seed)
    d = len(shape) - 1
    matrix = np.concatenate([rng.normal(0, spread, (*batch, d, d)), rng.normal(0, 0.3, (*batch, d, 1))], axis=-1)
    return rng.normal(size=(*batch, *shape)), matrix


def linear(angle):
    """A counter-clockwise turn, without shift."""
    return avae.Rotation().matrix(jnp.asarray([angle]))


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 7, 2), (6, 11, 3), (9, 4, 1), (5, 5, 5, 1), (4, 6, 7, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_equals_map_coordinates(shape, dtype, tolerance):
    outside = 0
    with jax.enable_x64(dtype == np.float64):
        for seed in range(4):
            x, matrix = (array.astype(dtype) for array in random_case(seed, shape))
            read = positions(matrix, shape[:-1])
            outside += np.sum((read < 0) | (read > np.array(shape[:-1]).reshape(-1, *[1] * (len(shape) - 1)) - 1))
            expected = [oracle(x[..., c], read.astype(dtype)) for c in range(shape[-1])]
            out = warp(x, matrix)
            assert out.dtype == dtype
            np.testing.assert_allclose(out, np.stack(expected, axis=-1), rtol=0, atol=tolerance)
    assert outside > 0


@pytest.mark.parametrize("case", ["even", "odd", "volume"])
def test_equals_pytorch_grid_sample_on_squares(case):
    golden = np.load(GOLDEN)
    assert str(golden["torch_version"])
    out = warp(golden[f"{case}_x"], golden[f"{case}_matrix"])
    assert np.count_nonzero(golden[f"{case}_out"]) > 50
    np.testing.assert_allclose(out, golden[f"{case}_out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 7, 2), (20, 32, 1), (28, 28, 1), (4, 5, 6, 2)])
def test_identity_is_exact(shape):
    x, _ = random_case(0, shape)
    x = x.astype(np.float32)
    np.testing.assert_array_equal(warp(x, np.eye(len(shape) - 1, len(shape), dtype=np.float32)), x)


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
@pytest.mark.parametrize("side", [7, 28])
def test_quarter_turns_equal_rot90(side, turns):
    x = np.random.default_rng(0).random((side, side, 2), np.float32)
    np.testing.assert_allclose(warp(x, linear(turns * np.pi / 2)), np.rot90(x, turns), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (6, 10, 1), (9, 5, 1)])
def test_whole_pixel_shifts_are_exact(shape):
    x, _ = random_case(0, shape)
    x = x.astype(np.float32)
    half = min(shape[:2]) / 2
    matrix = np.array([[1, 0, 2 / half], [0, 1, -1 / half]], np.float32)  # read 2 to the right, 1 above
    expected = np.zeros_like(x)
    expected[1:, :-2] = x[:-1, 2:]
    np.testing.assert_allclose(warp(x, matrix), expected, atol=1e-5)


def test_border_is_soft_and_half_a_pixel_from_the_edge():
    x = np.ones((4, 4, 1), np.float32)
    for pixels, first in [(0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (1.0, 0.0)]:
        row = warp(x, np.array([[1, 0, -pixels / 2], [0, 1, 0]], np.float32))[1, :, 0]
        np.testing.assert_allclose(row, [first, 1, 1, 1], atol=1e-6)


def test_zeros_outside():
    x = np.ones((6, 6, 1), np.float32)
    out = np.asarray(warp(x, np.array([[2, 0, 0], [0, 2, 0]], np.float32)))[
        ..., 0
    ]  # the picture shrinks to half its size
    np.testing.assert_array_equal(out[[0, -1]], 0)
    np.testing.assert_array_equal(out[:, [0, -1]], 0)
    np.testing.assert_array_equal(out[2:4, 2:4], 1)


def picture(rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows], np.float32)[..., None]


def test_positive_angles_turn_counter_clockwise():
    letter = picture(["#....", "#....", "#....", "#....", "###.."])
    turned = picture([".....", ".....", "....#", "....#", "#####"])
    np.testing.assert_allclose(warp(letter, linear(np.pi / 2)), turned, atol=1e-5)


def test_positive_shifts_bring_the_point_at_shift_to_the_centre():
    letter = picture([".....", "...#.", "...#.", "...##", "....."])
    one_left = picture([".....", "..#..", "..#..", "..##.", "....."])
    one_up = picture(["...#.", "...#.", "...##", ".....", "....."])
    pixel = 1 / 2.5  # in half-widths
    np.testing.assert_allclose(warp(letter, avae.Rigid().matrix(jnp.array([0, pixel, 0]))), one_left, atol=1e-5)
    np.testing.assert_allclose(warp(letter, avae.Rigid().matrix(jnp.array([0, 0, pixel]))), one_up, atol=1e-5)


def test_rigid_turns_the_point_at_shift_about_itself():
    letter = picture([".....", "...#.", "...#.", "...##", "....."])
    expected = picture([".....", "...#.", ".###.", ".....", "....."])  # the letter's middle at the centre, on its back
    out = warp(letter, avae.Rigid().matrix(jnp.array([np.pi / 2, 1 / 2.5, 0])))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_rotation_does_not_shear_wide_frames():
    y, x = np.mgrid[:20, :32] - np.array([9.5, 15.5]).reshape(2, 1, 1)
    points = np.array([[7.0, 1.0], [-5.0, 3.0]])  # x, y in pixels about the centre
    spots = np.stack([np.exp(-((x - px) ** 2 + (y - py) ** 2) / 4) for px, py in points], axis=-1)
    for angle in (0.4, 1.2, 2.5):
        out = np.asarray(warp(spots.astype(np.float32), linear(angle)), float)
        found = np.stack([(out * axis[..., None]).sum((0, 1)) / out.sum((0, 1)) for axis in (x, y)], axis=-1)
        c, s = np.cos(angle), np.sin(angle)
        np.testing.assert_allclose(found, points @ np.array([[c, -s], [s, c]]), atol=0.05)
        np.testing.assert_allclose(
            np.linalg.norm(found[0] - found[1]), np.linalg.norm(points[0] - points[1]), atol=0.05
        )


@pytest.mark.parametrize("shape", [(5, 6, 2), (3, 4, 3, 1)])
@pytest.mark.usefixtures("x64")
def test_derivatives_equal_finite_differences(shape, finite_differences):
    x, matrix = random_case(3, shape, spread=0.5)
    read = positions(matrix, shape[:-1])
    assert np.abs(read - np.round(read)).min() > 1e-5  # away from the kinks
    by_matrix = finite_differences(lambda m: warp(x, m), matrix, h=1e-7)
    by_image = finite_differences(lambda x: warp(x, matrix), x, h=1e-3)
    assert np.abs(by_matrix).max() > 0.1
    for jacobian in (jax.jacfwd, jax.jacrev):
        image_jacobian, matrix_jacobian = jax.jit(jacobian(avae.warp, (0, 1)))(x, matrix)
        np.testing.assert_allclose(image_jacobian, by_image, atol=1e-9)
        np.testing.assert_allclose(matrix_jacobian, by_matrix, atol=2e-6)


@pytest.mark.usefixtures("x64")
def test_derivative_on_pixels_is_the_right_hand_one():
    x = np.random.default_rng(0).normal(size=(4, 5, 1))
    identity, half = jnp.eye(2, 3), 4 / 2
    to_the_right = np.concatenate([np.diff(x, axis=1), -x[:, -1:]], axis=1) * half
    downwards = np.concatenate([np.diff(x, axis=0), -x[-1:]], axis=0) * half
    for jacobian in (jax.jacfwd, jax.jacrev):
        by_matrix = jax.jit(jacobian(avae.warp, 1))(x, identity)
        np.testing.assert_allclose(by_matrix[..., 0, 2], to_the_right, atol=1e-12)
        np.testing.assert_allclose(by_matrix[..., 1, 2], downwards, atol=1e-12)
    forward = (warp(x, identity.at[0, 2].add(1e-6)) - x) / 1e-6
    np.testing.assert_allclose(forward, to_the_right, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_vjp_is_the_adjoint():
    x, matrix = random_case(0, (6, 9, 2), batch=(3,))
    y = np.random.default_rng(1).normal(size=x.shape)
    out, pull_back = jax.vjp(lambda x: warp(x, matrix), jnp.asarray(x))
    np.testing.assert_allclose(jnp.vdot(out, y), jnp.vdot(x, pull_back(jnp.asarray(y))[0]), rtol=1e-12)


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.usefixtures("x64")
def test_invert_and_compose_equal_numpy(d):
    rng = np.random.default_rng(d)
    for _ in range(5):
        a, b = rng.normal(size=(2, d, d + 1))
        a_full, b_full = (np.vstack([m, np.eye(1, d + 1, d)]) for m in (a, b))
        np.testing.assert_allclose(invert(jnp.asarray(a)), np.linalg.inv(a_full)[:d], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(compose(jnp.asarray(a), jnp.asarray(b)), (a_full @ b_full)[:d], atol=1e-12)


def test_compose_is_warp_after_warp(images):
    a, b = (avae.Rigid().matrix(jnp.array(alpha)) for alpha in ([1.2, 0.3, -0.2], [-0.5, 0.1, 0.4]))
    twice = warp(warp(images, a), b)
    assert np.abs(warp(images, compose(a, b)) - twice)[:, 3:-3, 3:-3].mean() < 0.03  # one blur
    assert np.abs(warp(images, compose(b, a)) - twice)[:, 3:-3, 3:-3].mean() > 0.05  # the order matters


def test_nan_matrix_gives_nan_under_a_trace_and_is_a_sentence_before(images):
    matrix = np.tile(np.eye(2, 3, dtype=np.float32), (3, 1, 1))
    matrix[1] = np.nan
    with pytest.raises(ValueError, match=r"finite matrices, but 1 of 3 are not, first 1: \[\[nan"):
        avae.warp(images, matrix)
    out = np.asarray(warp(images, matrix))
    np.testing.assert_array_equal(out[[0, 2]], images[[0, 2]])
    assert np.isnan(out[1]).all()


@pytest.mark.parametrize("shift", [50.0, -50.0, 1e30, -1e30])
def test_far_away_is_zero(images, shift):
    out = warp(images, np.array([[1, 0, shift], [0, 1, 0]], np.float32))
    np.testing.assert_array_equal(out, np.zeros_like(images))


@pytest.mark.parametrize("shape", [(6, 8, 2), (3, 4, 5, 1)])
def test_batch_equals_loop(shape):
    x, matrix = (array.astype(np.float32) for array in random_case(0, shape, batch=(3,)))
    out = warp(x, matrix)
    np.testing.assert_allclose(out, [warp(*one) for one in zip(x, matrix, strict=True)], atol=1e-6)
    np.testing.assert_allclose(warp(x, matrix[0]), [warp(one, matrix[0]) for one in x], atol=1e-6)


def test_jit_changes_nothing():
    x, matrix = (array.astype(np.float32) for array in random_case(0, (6, 8, 2), batch=(3,)))
    np.testing.assert_allclose(warp(x, matrix), avae.warp(x, matrix), atol=1e-6)


def test_runs_under_strict_dtype_promotion(images):
    with jax.numpy_dtype_promotion("strict"):
        warp(images, np.eye(2, 3, dtype=np.float32))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_keeps_the_dtype_of_the_image(images, dtype):
    out = warp(jnp.asarray(images, dtype), linear(0.3))
    assert out.dtype == dtype
    np.testing.assert_allclose(out.astype(jnp.float32), warp(images, linear(0.3)), atol=0.02)


@pytest.mark.parametrize(
    ("x_shape", "matrix_shape", "message"),
    [
        ((3, 8, 8, 1), (3, 3), r"matrix \[2, 3\] or \[3, 4\].*got shape \(3, 3\)"),
        ((3, 8, 8, 1), (2, 2), r"matrix \[2, 3\] or \[3, 4\].*got shape \(2, 2\)"),
        ((3, 8, 8, 1), (6,), r"got shape \(6,\)"),
        ((3, 8, 8, 1), (1, 3, 2, 3), r"got shape \(1, 3, 2, 3\)"),
        ((8, 8), (2, 3), r"rank 3 \(one example, channels last\) or 4 \(a batch\), got shape \(8, 8\)"),
        ((2, 3, 8, 8, 1), (2, 3), r"rank 3 .* or 4 .*got shape \(2, 3, 8, 8, 1\)"),
        ((8, 8, 1), (3, 4), r"rank 4 .* or 5 .*got shape \(8, 8, 1\)"),
        ((8, 8, 1), (1, 2, 3), r"got shape \(8, 8, 1\)"),
        ((3, 8, 8, 1), (2, 2, 3), "one matrix per image, got 2 matrices for 3 images"),
    ],
)
def test_wrong_shapes(x_shape, matrix_shape, message):
    with pytest.raises(ValueError, match=message):
        avae.warp(np.zeros(x_shape, np.float32), np.zeros(matrix_shape, np.float32))


@pytest.mark.parametrize(
    "linear",
    [np.zeros((2, 2)), np.ones((2, 2)), np.diag([1.0, 0.0]), np.diag([1.0, 2.0, 0.0]), 1e-9 * np.ones((3, 3))],
)
def test_singular_matrix(linear):
    d = len(linear)
    matrix = np.concatenate([linear, np.ones((d, 1))], axis=1).astype(np.float32)
    with pytest.raises(ValueError, match="invertible matrices, but 1 of 1 are not, first 0: "):
        avae.warp(np.ones((4,) * d + (1,), np.float32), matrix)


@pytest.mark.parametrize("linear", [np.diag([-1.0, 1.0]), 1e-3 * np.eye(2), np.diag([100.0, 0.01])])
def test_mirrors_and_strong_scales_are_no_mistake(images, linear):
    matrix = np.concatenate([linear, np.zeros((2, 1))], axis=1).astype(np.float32)
    np.testing.assert_allclose(avae.warp(images, matrix), warp(images, matrix), atol=1e-6)


def test_a_mirror_mirrors(images):
    mirror = np.array([[-1, 0, 0], [0, 1, 0]], np.float32)
    np.testing.assert_array_equal(avae.warp(images, mirror), images[:, :, ::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_wrong_dtype(dtype):
    with pytest.raises(ValueError, match=f"floating-point images, got dtype {np.dtype(dtype)}"):
        avae.warp(np.zeros((8, 8, 1), dtype), np.eye(2, 3, dtype=np.float32))


def test_neighbours_are_read_in_one_loop():
    """Also where the pixels are summed: four loops, one a neighbour, take several times as long."""

    def squares(x, matrix):
        return jnp.sum((x - warp_one(x, matrix)) ** 2)

    compiled = jax.jit(jax.vmap(squares)).lower(jnp.zeros((8, 48, 48, 1)), jnp.zeros((8, 2, 3))).compile()
    loops = [body for body in compiled.as_text().split("\n}") if " gather(" in body]
    assert sum(body.count(" gather(") for body in loops) == 4
    assert len(loops) == 1


def test_a_pose_that_is_no_number_gives_no_number():
    assert np.isnan(warp_one(jnp.ones((4, 4, 1)), jnp.full((2, 3), jnp.nan))).all()
