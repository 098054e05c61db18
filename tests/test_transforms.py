"""The transform families: group axioms, priors, starts and geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avae.transforms import FAMILIES, Rigid, Rotation, spread
from avae.warp import compose

every_family = pytest.mark.parametrize("family", [make() for make in FAMILIES.values()], ids=list(FAMILIES))


def samples(family, n, seed=0):
    return jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(seed), n))


def pairwise(family, a, b):
    return np.asarray(jax.jit(jax.vmap(family.distance))(a, b))


@every_family
@pytest.mark.usefixtures("x64")
def test_group_axioms(family):
    unit = np.eye(family.dim, family.dim + 1)
    assert family.identity.shape == (family.size,)
    np.testing.assert_array_equal(family.matrix(family.identity), unit)
    np.testing.assert_array_equal(family.inverse(family.identity), unit)
    alpha = samples(family, 5)
    matrix, inverse = jax.jit(jax.vmap(lambda alpha: (family.matrix(alpha), family.inverse(alpha))))(alpha)
    assert matrix.shape == inverse.shape == (5, family.dim, family.dim + 1)
    for a, b in [(matrix, inverse), (inverse, matrix)]:
        np.testing.assert_allclose(jax.vmap(compose)(a, b), np.tile(unit, (5, 1, 1)), atol=1e-14)


@every_family
@pytest.mark.usefixtures("x64")
def test_retract_is_smooth_and_still_at_zero(family, finite_differences):
    zero, moved = jnp.zeros(family.dof), jax.jit(lambda alpha, step: family.matrix(family.retract(alpha, step)))
    slope = jax.jit(jax.jacfwd(moved, 1))
    for alpha in samples(family, 3):
        np.testing.assert_allclose(family.retract(alpha, zero), alpha, atol=1e-15)
        expected = finite_differences(lambda step, alpha=alpha: moved(alpha, step), zero)
        np.testing.assert_allclose(slope(alpha, zero), expected, atol=1e-8)
        assert (
            np.linalg.matrix_rank(expected.reshape(-1, family.dof)) == family.dof
        )  # every direction moves the picture


@every_family
@pytest.mark.usefixtures("x64")
def test_project_is_idempotent_and_in_the_support(family):
    far = 5 * jax.random.normal(jax.random.key(0), (50, family.size))
    project = jax.jit(jax.vmap(family.project))
    once = project(far)
    np.testing.assert_allclose(project(once), once, atol=1e-14)
    assert np.isfinite(jax.jit(jax.vmap(family.log_prior))(once)).all()
    assert (once[:, 0] >= -np.pi).all()
    assert (once[:, 0] < np.pi).all()
    turns = (far[:, 0] - once[:, 0]) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-12)
    inside = samples(family, 50)
    np.testing.assert_allclose(project(inside), inside, atol=1e-14)


@every_family
@pytest.mark.usefixtures("x64")
def test_distance_is_a_metric(family):
    a, b, c = (samples(family, 200, seed) for seed in range(3))
    np.testing.assert_array_equal(pairwise(family, a, a), 0)
    np.testing.assert_allclose(pairwise(family, a, b), pairwise(family, b, a), atol=1e-12)
    assert (pairwise(family, a, b) > 0).all()
    assert (pairwise(family, a, c) <= pairwise(family, a, b) + pairwise(family, b, c) + 1e-12).all()


@every_family
def test_distance_wraps(family):
    just_below, just_above = (family.identity.at[0].set(angle) for angle in (np.pi - 0.1, -np.pi + 0.1))
    np.testing.assert_allclose(family.distance(just_below, just_above), 0.2, atol=1e-5)
    np.testing.assert_allclose(family.distance(family.identity, just_below), np.pi - 0.1, atol=1e-5)


@every_family
@pytest.mark.parametrize("key", [None, 3])
@pytest.mark.parametrize("n", [1, 7, 32])
def test_starts_are_stratified(family, key, n):
    key = None if key is None else jax.random.key(key)
    make = jax.jit(family.starts, static_argnums=0)
    starts = np.asarray(make(n, key))
    assert starts.shape == (n, family.size)
    np.testing.assert_array_equal(starts[0], family.identity)
    np.testing.assert_array_equal(starts, make(n, key))
    assert len(np.unique(starts, axis=0)) == n
    assert np.isfinite(jax.jit(jax.vmap(family.log_prior))(starts)).all()
    arcs = np.round(starts[:, 0] / (2 * np.pi / n)).astype(int) % n
    assert sorted(arcs) == list(range(n))  # one angle in each arc


@every_family
def test_a_key_moves_every_start_but_the_identity(family):
    centres, drawn, others = family.starts(8), family.starts(8, jax.random.key(0)), family.starts(8, jax.random.key(1))
    assert (np.abs(drawn - centres)[1:] > 0).all()
    assert (np.abs(drawn - others)[1:] > 0).all()


@every_family
def test_cells_cover_the_circle_and_shrink(family):
    few, many = family.cell(8), family.cell(64)
    assert few.shape == (family.dof,)
    assert (many > 0).all()
    assert (many < few).all()
    np.testing.assert_allclose(family.cell(1)[0], np.pi, rtol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_spread_fills_the_cube(d):
    points = np.asarray(spread(64, d))
    np.testing.assert_array_equal(points[0], 0)
    assert np.abs(points).max() <= 1
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose((points**2).mean(axis=0), 1 / 3, atol=0.04)
    octants = np.unique(points[1:] > 0, axis=0, return_counts=True)[1]
    assert len(octants) == 2**d
    assert octants.min() >= 0.4 * 64 / 2**d
    moved = (spread(64, d, jax.random.key(0)) - points) % 2  # all by one shift
    np.testing.assert_allclose(moved, np.tile(moved[0], (64, 1)), atol=1e-4)


def test_rigid_starts_fill_the_box():
    for key in (None, jax.random.key(0)):
        shifts = np.asarray(Rigid(max_shift=0.5).starts(64, key))[:, 1:] / 0.5
        quadrants = np.unique(np.sign(shifts[1:]), axis=0, return_counts=True)[1]
        assert len(quadrants) == 4
        assert quadrants.min() >= 12
        np.testing.assert_allclose(shifts.std(axis=0), 3**-0.5, atol=0.07)


@every_family
def test_samples_are_uniform(family):
    alpha = np.asarray(samples(family, 4000))
    assert np.isfinite(jax.jit(jax.vmap(family.log_prior))(alpha)).all()
    half_widths = np.array([np.pi, 0.2, 0.2][: family.size])
    scaled = alpha / half_widths
    assert np.abs(scaled).max() <= 1
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=0.04)  # standard error 0.009
    np.testing.assert_allclose((scaled**2).mean(axis=0), 1 / 3, atol=0.02)  # standard error 0.005
    correlation = np.corrcoef(np.concatenate([np.cos(np.pi * scaled[:, :1]), scaled], axis=1).T)
    np.testing.assert_allclose(correlation, np.eye(len(correlation)), atol=0.08)
    assert len(np.unique(np.floor(scaled[:, 0] * 4))) == 8  # every eighth of the circle


def test_log_prior_integrates_to_one():
    np.testing.assert_allclose(np.exp(Rotation().log_prior(jnp.zeros(1))) * 2 * np.pi, 1, rtol=1e-6)
    rigid, n, reach = Rigid(max_shift=0.3), 200, 0.5  # midpoints of a box larger than the support
    middle = (np.arange(n) + 0.5) / n * 2 * reach - reach
    shifts = np.stack(np.meshgrid([1.0], middle, middle, indexing="ij"), -1).reshape(-1, 3).astype(np.float32)
    density = np.exp(jax.vmap(rigid.log_prior)(shifts), dtype=float)
    np.testing.assert_allclose(density.sum() * (2 * reach / n) ** 2 * 2 * np.pi, 1, rtol=1e-5)


def test_log_prior_outside_the_box():
    rigid = Rigid(max_shift=0.3)
    for shift in ([0.31, 0.0], [-0.31, 0.0], [0.0, 0.31], [0.0, -0.31]):
        assert rigid.log_prior(jnp.array([1.0, *shift])) == -np.inf
        assert np.isfinite(rigid.log_prior(jnp.array([1.0, *shift]) * 0.9))


def test_rigid_project_clips_the_shift():
    np.testing.assert_allclose(
        Rigid(max_shift=0.3).project(jnp.array([4.0, 0.5, -0.7])), [4 - 2 * np.pi, 0.3, -0.3], atol=1e-6
    )


@every_family
def test_is_hashable_and_static(family):
    assert hash(family) == hash(type(family)())
    assert family == type(family)()
    compiled = jax.jit(lambda family, alpha: family.matrix(alpha), static_argnums=0)
    for _ in range(2):
        np.testing.assert_allclose(compiled(type(family)(), family.identity), family.matrix(family.identity))
    assert compiled._cache_size() == 1
    assert Rigid(max_shift=0.1) != Rigid(max_shift=0.2)


@pytest.mark.parametrize("max_shift", [0, -0.1, 2.1, float("nan"), float("inf")])
def test_bad_range(max_shift):
    with pytest.raises(ValueError, match=rf"0 < max_shift <= 2 half-widths, got {max_shift}"):
        Rigid(max_shift=max_shift)
