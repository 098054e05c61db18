"""The refinement of one pose: derivatives, Gauss-Newton on problems with known answers, Adam against plain optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import avae
from avae.objective import pose_loss
from avae.solvers import linearise, standard_deviation

RIGID = avae.Rigid(max_shift=2)

# x = (A, b, w): a linear prediction and a quadratic score, with the solution (A'WA)^-1 A'Wb.
LEAST_SQUARES = avae.CompositeLoss(
    predict=lambda x, alpha: x[0] @ alpha - x[1],
    score=lambda x, u: 0.5 * jnp.sum(x[2] * u**2),
    curvature=lambda x, u: x[2],
)

# x = (A, b, wall): many minima, and NaN behind a wall.
RUGGED = avae.CompositeLoss(
    predict=lambda x, alpha: 3 * jnp.sin(x[0] @ alpha) - x[1] + jnp.where(alpha[1] > x[2], jnp.nan, 0.0),
    score=lambda x, u: jnp.sum(u**2),
    curvature=lambda x, u: jnp.full_like(u, 2.0),
)


def linear_problem(seed=0):
    rng = np.random.default_rng(seed)
    matrix, alpha, weight = rng.normal(size=(6, 3)), rng.uniform(-1, 1, 3), rng.uniform(0.5, 2, 6)
    b = matrix @ alpha + 0.1 * rng.normal(size=6)
    return jax.tree.map(jnp.asarray, (matrix, b, weight))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_linearise_equals_reverse_mode(params, images, beta):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    transform = avae.Rigid()
    loss, x = pose_loss(params, transform, beta=beta), jnp.asarray(images[0], jnp.float64)
    alpha = jnp.array([0.7, 0.1, -0.05])

    @jax.jit
    def both(alpha):
        return linearise(loss, x, alpha, transform), jax.value_and_grad(lambda alpha: loss(x, alpha))(alpha)

    local, (value, gradient) = both(alpha)
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(local.value, value, rtol=1e-12)
    np.testing.assert_allclose(local.gradient, gradient, rtol=1e-8, atol=1e-10)
    assert local.hessian.shape == (transform.dof, transform.dof)
    np.testing.assert_allclose(local.hessian, local.hessian.T, rtol=1e-10)
    assert np.linalg.eigvalsh(local.hessian).min() > 0


@pytest.mark.usefixtures("x64")
def test_linearise_is_exact_on_least_squares():
    x = linear_problem()
    local = jax.jit(lambda alpha: linearise(LEAST_SQUARES, x, alpha, RIGID))(jnp.ones(3))
    np.testing.assert_allclose(local.hessian, jax.hessian(lambda a: LEAST_SQUARES(x, a))(jnp.ones(3)), rtol=1e-10)
    np.testing.assert_allclose(local.gradient, jax.grad(lambda a: LEAST_SQUARES(x, a))(jnp.ones(3)), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_gauss_newton_solves_least_squares_in_one_step():
    x = linear_problem()
    solver = avae.GaussNewton(damping=1e-9)
    refined = jax.jit(lambda alpha: solver.refine(LEAST_SQUARES, x, alpha, RIGID, 1))(jnp.zeros(3))
    root = np.sqrt(np.asarray(x[2]))
    solution, *_ = np.linalg.lstsq(np.asarray(x[0]) * root[:, None], np.asarray(x[1]) * root, rcond=None)
    np.testing.assert_allclose(refined.alpha, solution, atol=1e-5)
    np.testing.assert_allclose(refined.loss, LEAST_SQUARES(x, jnp.asarray(solution)), rtol=1e-8)
    assert refined.accepted == 1


@pytest.mark.parametrize("solver", [avae.GaussNewton(), avae.Adam(0.3)])
def test_never_ends_above_its_start(solver):
    n = 200
    rng = np.random.default_rng(0)
    x = (rng.normal(0, 2, (n, 5, 3)), rng.normal(0, 2, (n, 5)), rng.uniform(-1, 1, n))
    x, starts = jax.tree.map(lambda leaf: leaf.astype(np.float32), (x, rng.uniform(-1, 1, (n, 3))))
    n_steps = 8

    @jax.jit
    @jax.vmap
    def run(x, start):
        refined = solver.refine(RUGGED, x, start, RIGID, n_steps)
        return RUGGED(x, start), refined, RUGGED(x, refined.alpha)

    before, refined, after = run(x, starts)
    lost = np.isnan(before)
    assert 20 < lost.sum() < n - 20
    assert (refined.loss <= before + 1e-4)[~lost].all()
    assert (refined.loss < before - 0.1)[~lost].mean() > 0.8
    np.testing.assert_allclose(refined.loss[~lost], after[~lost], rtol=1e-4, atol=1e-4)
    assert (refined.accepted >= 0).all()
    assert (refined.accepted <= n_steps).all()
    assert not np.isfinite(refined.loss[lost & np.isnan(after)]).any()


@pytest.mark.usefixtures("x64")
def test_adam_equals_plain_optax():
    x = linear_problem()
    start = jnp.array([3.0, 0.3, -0.2])  # the angle runs through pi
    n_steps, solver = 12, avae.Adam(0.4)  # overshoots: the last is not the best
    optimizer = optax.adam(0.4)

    loss = lambda x, alpha: -LEAST_SQUARES(x, alpha)  # noqa: E731
    for f in (LEAST_SQUARES, loss):
        slope = jax.jit(jax.value_and_grad(lambda alpha, f=f: f(x, alpha)))
        alpha, state = start, optimizer.init(start)
        iterates, values = [], []
        for _ in range(n_steps + 1):
            value, gradient = slope(alpha)
            iterates.append(alpha)
            values.append(float(value))
            update, state = optimizer.update(gradient, state)
            alpha = alpha + update
            alpha = jnp.array([np.mod(alpha[0] + np.pi, 2 * np.pi) - np.pi, *np.clip(alpha[1:], -2, 2)])
        best = int(np.argmin(values))
        assert 0 < best < n_steps
        refined = jax.jit(lambda alpha, f=f: solver.refine(f, x, alpha, RIGID, n_steps))(start)
        np.testing.assert_allclose(refined.alpha, iterates[best], rtol=1e-9)
        np.testing.assert_allclose(refined.loss, values[best], rtol=1e-9)
        lowest = np.minimum.accumulate(values)
        assert refined.accepted == np.sum(lowest[1:] < lowest[:-1])


@pytest.mark.parametrize("solver", [avae.GaussNewton(), avae.Adam()])
def test_no_steps_keep_the_start(solver):
    x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), linear_problem())
    start = jnp.array([0.1, 0.2, 0.3])
    refined = jax.jit(lambda alpha: solver.refine(LEAST_SQUARES, x, alpha, RIGID, 0))(start)
    np.testing.assert_array_equal(refined.alpha, start)
    np.testing.assert_allclose(refined.loss, LEAST_SQUARES(x, start), rtol=1e-5)
    assert refined.accepted == 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("solver", [avae.GaussNewton(), avae.Adam()])
def test_a_pose_keeps_its_type_whatever_that_of_the_loss(solver):
    x = linear_problem()
    start = jnp.zeros(3, jnp.float32)
    refined = jax.jit(lambda alpha: solver.refine(LEAST_SQUARES, x, alpha, RIGID, 2))(start)
    assert (refined.alpha.dtype, refined.loss.dtype) == (np.float32, np.float64)
    assert refined.loss < LEAST_SQUARES(x, start)


@pytest.mark.usefixtures("x64")
def test_search_is_as_exact_as_its_data():
    x = jax.tree.map(lambda leaf: leaf[None], linear_problem())
    found = avae.search(LEAST_SQUARES, x, RIGID, settings={"n_starts": 4, "n_steps": 12})
    root = np.sqrt(np.asarray(x[2][0]))
    solution, *_ = np.linalg.lstsq(np.asarray(x[0][0]) * root[:, None], np.asarray(x[1][0]) * root, rcond=None)
    np.testing.assert_allclose(found.alpha[0], solution, atol=1e-9)


def deviation(precision, extent=None):
    precision = np.asarray(precision, np.float32)
    extent = np.ones(len(precision)) if extent is None else extent
    return np.asarray(standard_deviation(jnp.asarray(precision), jnp.asarray(extent, jnp.float32)))


def test_std_is_the_root_of_the_inverse():
    root = np.random.default_rng(0).normal(size=(6, 6)) * np.array([1e-2, 1, 30, 1e3, 1, 5])
    precision = root.T @ root
    expected = np.sqrt(np.diag(np.linalg.inv(precision.astype(np.float32).astype(float))))
    np.testing.assert_allclose(deviation(precision), expected, rtol=2e-3)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (np.diag([1e9, 1e2]), [1e-9**0.5, 0.1]),  # one known to a hair does not hide the other
        (np.diag([4.0, 0.0]), [0.5, np.inf]),
        (np.diag([4.0, 1e-9]), [0.5, np.inf]),
        (np.zeros((2, 2)), [np.inf, np.inf]),
        (1e4 * np.array([[1.0, 1.0, 0], [1.0, 1.0, 0], [0, 0, 1.0]]), [np.inf, np.inf, 0.01]),  # the first two as one
        ([[1e8, 1e4, 0], [1e4, 1.0, 0], [0, 0, 4.0]], [np.inf, np.inf, 0.5]),  # likewise, in other units
        ([[1.0, 0.999], [0.999, 1.0]], [(1 - 0.999**2) ** -0.5] * 2),  # nearly so is not so
        (np.full((2, 2), np.nan), [np.inf, np.inf]),
    ],
)
def test_std_is_infinite_along_what_is_not_known_and_only_there(precision, expected):
    np.testing.assert_allclose(deviation(precision), expected, rtol=1e-2)


def test_what_is_known_is_measured_over_the_range():
    precision = np.diag([1e-4, 1e-4])  # over a range of 1000 it says much, over one of 0.01 nothing
    np.testing.assert_allclose(deviation(precision, [1e3, 1e-2]), [100, np.inf], rtol=1e-4)
