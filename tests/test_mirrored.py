"""Mirror images: a factor of two elements in front of any family, in the plane and in space."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blocks import example
from linear import draw_images, linear_params, log_mean_exp, log_p_given_pose
from test_recovery import blobs

import avae
from avae import settings
from avae.config import complete, default, experiment
from avae.data.dataset import Data
from avae.data.posing import posed
from avae.evaluation import metrics
from avae.inference.pose_proposal import Modes, draw, log_density, mixture
from avae.inference.posterior import moments
from avae.report import figures, tables
from avae.transforms.spatial import Still3D
from avae.transforms.warp import compose, warp_one

FAMILIES = [avae.QuarterTurns(), avae.Rigid(), avae.Rotation3D(), Still3D()]
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
O2 = avae.Mirrored(avae.Rotation())


def drawn(family, n=16):
    return jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(0), n))


def on_hand(flag, poses):
    return jnp.pad(jnp.asarray(poses, jnp.float32), ((0, 0), (1, 0)), constant_values=flag)


# --- what a pose does -----------------------------------------------------------------------------------------------


@each
def test_group_laws(family):
    both = avae.Mirrored(family)
    alpha = drawn(both)
    described = jax.vmap(lambda a: (both.matrix(a), both.inverse(a), both.mirrored(a)))
    matrices, inverses, mirrored = jax.jit(described)(alpha)
    unit = np.tile(np.eye(family.dim, family.dim + 1), (16, 1, 1))
    np.testing.assert_allclose(jax.jit(jax.vmap(compose))(matrices, inverses), unit, atol=1e-5)
    np.testing.assert_array_equal(both.matrix(both.identity), unit[0])
    np.testing.assert_array_equal(np.linalg.det(matrices[:, :, :-1]) < 0, mirrored)
    assert 0 < mirrored.sum() < 16
    assert (both.dim, both.on_grid, both.size, both.dof) == (family.dim, family.on_grid, family.size + 1, family.dof)


@pytest.mark.parametrize("family", [avae.QuarterTurns(), avae.CubeRotations()], ids=["plane", "space"])
def test_finite_groups_are_closed_and_of_twice_the_size(family):
    both = avae.Mirrored(family)
    linear = np.asarray(jax.vmap(both.matrix)(both.lattice))[:, :, :-1]
    assert len(linear) == 2 * len(family.lattice)
    elements = {matrix.tobytes() for matrix in linear + 0.0}
    products = np.einsum("nij,mjk->nmik", linear, linear).reshape(-1, *linear.shape[1:]) + 0.0
    assert {matrix.tobytes() for matrix in products} == elements


@pytest.mark.parametrize("family", [avae.QuarterTurns(), Still3D()], ids=["plane", "space"])
def test_the_mirror_exchanges_left_and_right_exactly(family):
    both, x = avae.Mirrored(family), jax.random.normal(jax.random.key(0), (4,) * (family.dim - 1) + (4, 1))
    for pose in on_hand(1, family.lattice[:2]):
        expected = np.flip(jax.jit(warp_one)(x, family.matrix(pose[1:])), axis=family.dim - 1)
        for on_grid in (True, False):
            mirrored = jax.jit(functools.partial(warp_one, on_grid=on_grid))(x, both.matrix(pose))
            np.testing.assert_array_equal(mirrored, expected)


def test_angles_and_shifts_mean_what_they_mean_in_the_family(images):
    alpha = np.array([0.7, 0.1, -0.15], np.float32)
    matrix = avae.Mirrored(avae.Rigid()).matrix(jnp.array([1, *alpha]))
    expected = avae.warp(images, avae.Rigid().matrix(alpha))[:, :, ::-1]
    np.testing.assert_allclose(avae.warp(images, matrix), expected, atol=1e-5)
    np.testing.assert_array_equal(matrix[:, 2], alpha[1:])


# --- geometry and prior ---------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("key", [None, 0])
def test_starts_are_those_of_the_family_for_each_hand(family, key):
    both = avae.Mirrored(family)
    starts = jax.jit(lambda key: both.starts(8, key))(None if key is None else jax.random.key(key))
    np.testing.assert_array_equal(starts[0], both.identity)
    assert (starts[:, 0] == 0).sum() == (starts[:, 0] == 1).sum() == len(starts) / 2
    assert np.isfinite(jax.vmap(both.log_prior)(starts)).all()
    if key is None:
        hand = jax.jit(lambda: family.starts(4))()
        np.testing.assert_allclose(starts, np.concatenate([on_hand(0, hand), on_hand(1, hand)]), atol=1e-6)
    if family.dof == 0:
        np.testing.assert_array_equal(starts, both.lattice)
        assert len(starts) == 2 * len(family.lattice)


def test_any_number_of_starts_and_their_cells():
    for n in (1, 2, 5):
        starts = jax.jit(O2.starts, static_argnums=0)(n)
        assert len(starts) == n
        assert (starts[:, 0] == 0).sum() == (n + 1) // 2
        np.testing.assert_allclose(O2.cell(n), math.pi / ((n + 1) // 2))


@each
def test_the_prior_is_half_that_of_the_family(family):
    both = avae.Mirrored(family)
    poses = drawn(both, 1000)
    prior, once = jax.jit(jax.vmap(lambda a: (both.log_prior(a), family.log_prior(a[1:]))))(poses)
    np.testing.assert_allclose(prior, once - math.log(2), rtol=1e-6)
    assert both.log_prior(both.identity.at[0].set(0.5)) == -np.inf
    assert abs(poses[:, 0].mean() - 0.5) < 0.06


@each
def test_steps_keep_the_hand(family):
    both = avae.Mirrored(family)
    a, step = drawn(both)[0], 0.05 * jnp.arange(1.0, family.dof + 1)
    moved = jax.jit(both.retract)(a, step)
    np.testing.assert_array_equal(moved[0], a[0])
    np.testing.assert_allclose(moved[1:], jax.jit(family.retract)(a[1:], step), rtol=1e-6)
    np.testing.assert_allclose(both.step(a, moved), step, atol=1e-5)
    np.testing.assert_allclose(both.distance(a, moved), family.distance(a[1:], moved[1:]), atol=1e-6)
    other = both.project(moved.at[0].set(1 - a[0]))
    assert both.distance(a, other) == np.inf
    assert not both.connected(a, other)
    assert both.connected(a, moved) == (family.dof > 0 or bool((a == moved).all()))


# --- bad input ------------------------------------------------------------------------------------------------------


class Reflecting(avae.Rotation):
    """Mirrors without saying so."""

    def matrix(self, alpha):
        return super().matrix(alpha) * jnp.array([[-1.0], [1.0]])


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (O2, r"mirrored expects a family without mirror images, got Mirrored\(family=Rotation"),
        (avae.Rotation, "mirrored expects a family such as avae.Rotation"),
        ("rotation", r"mirrored expects a family such as avae.Rotation\(\), got 'rotation'"),
    ],
)
def test_what_cannot_be_mirrored_is_a_sentence(family, message):
    with pytest.raises(avae.Mistake, match=message):
        avae.Mirrored(family)


def test_other_families_may_not_mirror():
    for family in (Reflecting(), avae.Mirrored(Reflecting())):
        with pytest.raises(avae.Mistake, match="neither singular nor mirrored"):
            avae.Model(transform=family)
    assert avae.Model(transform=O2).transform == O2
    with pytest.raises(avae.Mistake, match="Mirrored poses data of dimension 2"):
        avae.Model(avae.Conv(image_shape=(8, 8, 8, 1)), transform=O2)


# --- settings and config --------------------------------------------------------------------------------------------


@each
def test_settings_are_those_of_the_family_twice(family):
    both, shape = avae.Mirrored(family), (16,) * family.dim + (1,)
    training_of = lambda family: settings.training_of(avae.Model(avae.MLP(shape), transform=family))  # noqa: E731
    for of_family in (settings.of_family, training_of):
        twice, once = (vars(of_family(one)) for one in (both, family))
        changed = {name: 2 * once[name] for name in ("n_starts", "top_k", "n_refined")}
        assert twice == once | changed
    assert training_of(both).n_starts <= 128


def test_a_twin_is_searched_with_twice_its_starts():
    found, once = (settings.plan(avae.Model(transform=family)).search for family in (O2, avae.Rotation()))
    assert (found.twin, found.n_starts) == (2, 2 * once.n_starts)


def test_a_config_says_that_poses_may_be_mirrored():
    config = default()
    assert not config.transform.mirror
    config.transform.mirror = config.data.transform.mirror = True
    config.transform.name = "rigid"
    found = experiment(config)
    assert found.model.transform == avae.Mirrored(avae.Rigid())
    assert found.data.transform == O2
    assert found.train.search == settings.training_of(found.model)
    assert experiment(complete(config)) == found
    older = complete(default())
    for section in (older, older["data"]):
        del section["transform"]["mirror"]
    assert experiment(complete(older)) == experiment(default())
    config = complete(default()) | {"transform": complete(default())["transform"] | {"mirror": "yes"}}
    with pytest.raises(avae.Mistake, match=r"transform.mirror: expected True or False, got 'yes'"):
        experiment(config)


# --- search ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [avae.Rigid(), avae.Rotation3D()], ids=["plane", "space"])
def test_mirrored_pictures_are_found_with_the_right_hand(family):
    both, side, n = avae.Mirrored(family), 16 if family.dim == 2 else 8, 4
    loss = avae.CompositeLoss(
        predict=lambda x, alpha: warp_one(x["source"], both.matrix(alpha)),
        score=lambda x, u: 0.5 * jnp.sum((u - x["target"]) ** 2),
        curvature=lambda x, u: jnp.ones_like(u),
    )
    source = np.stack([blobs(side, family.dim)] * n)
    true = drawn(both, n)
    at_poses = jax.jit(jax.vmap(lambda image, alpha: warp_one(image, both.matrix(alpha))))
    x = {"target": at_poses(source, true), "source": source}
    search = {"n_starts": 128, "n_local": (), "n_steps": 6}
    found = avae.search(loss, x, both, settings=search)
    np.testing.assert_array_equal(found.alpha[:, 0], true[:, 0])
    assert 0 < true[:, 0].sum() < n
    assert (jax.jit(jax.vmap(both.distance))(found.alpha, true) < 0.05).all()


def test_align_of_an_image_and_of_its_mirror_image_is_the_same(params, images):
    both = params.replace(model=dataclasses.replace(params.model, transform=avae.Mirrored(avae.QuarterTurns())))
    found, flipped = (avae.align(both, x) for x in (images, images[:, :, ::-1]))
    assert found.info.start_losses.shape == (3, 8)
    np.testing.assert_allclose(found.loss, flipped.loss, rtol=1e-5)
    np.testing.assert_array_equal(found.alpha[:, 0], 1 - flipped.alpha[:, 0])
    np.testing.assert_allclose(found.canonical, flipped.canonical, atol=1e-6)


def test_a_pose_network_proposes_poses_of_both_hands():
    network = avae.PoseNetwork(n_bins=8, hidden=(4,))
    params, x = example(O2, pose_network=network)
    losses_of = jax.vmap(lambda pose: network.loss(params.pose_weights, x[0], pose, O2))
    poses, losses = jax.jit(lambda: (network.propose(params.pose_weights, x[0], 8, O2), losses_of(O2.starts(8))))()
    assert set(np.asarray(poses[:, 0]).tolist()) == {0.0, 1.0}
    assert np.isfinite(jax.vmap(O2.log_prior)(poses)).all()
    assert np.isfinite(losses).all()


# --- bounds and posterior -------------------------------------------------------------------------------------------


def test_a_proposal_draws_as_its_density_says():
    """Modes on both hands: the density adds up to one over both, and so many draws are on each hand."""
    centre = jnp.array([[0, 3.0], [1, -1.0], [1, 2.0]])
    covariance = jnp.array([0.04, 0.3, 0.1])[:, None, None]
    keys, grid = jax.random.split(jax.random.key(0), 2000), np.linspace(-np.pi, np.pi, 400, endpoint=False)[:, None]

    @jax.jit
    def results(poses):
        mixed = mixture(centre, covariance, jnp.log(jnp.array([0.5, 0.3, 0.2])), 0.1, O2)
        density = jax.vmap(lambda alpha: log_density(mixed, O2, alpha))
        return density(poses), jax.vmap(lambda key: draw(mixed, O2, key))(keys)

    density, poses = results(np.concatenate([on_hand(0, grid), on_hand(1, grid)]))
    hands = np.exp(density).reshape(2, -1).mean(axis=1) * 2 * np.pi
    np.testing.assert_allclose(hands, [0.5, 0.5], atol=1e-3)
    assert abs(poses[:, 0].mean() - 0.5) < 0.04
    left, right = (poses[poses[:, 0] == flag, 1] for flag in (0, 1))
    assert np.mean(np.abs((left - 3 + np.pi) % (2 * np.pi) - np.pi) < 0.6) > 0.88
    assert np.mean(np.minimum(np.abs(right + 1), np.abs(right - 2)) < 1.2) > 0.88


def test_the_width_of_a_mode_is_that_of_its_own_hand():
    modes = Modes(jnp.array([[0, 0.5]]), jnp.zeros(1), jnp.full((1, 1, 1), 0.01), jnp.array([True]))
    draws = jnp.array([[0, 0.6], [0, 0.4], [1, -2.0], [1, -2.5]])
    weights, covariance = jax.jit(lambda: moments(modes, draws, jnp.full(4, 0.25), O2))()
    np.testing.assert_allclose(weights, [1.0])
    np.testing.assert_allclose(covariance, [[[0.01]]], rtol=1e-4)


def test_the_bound_is_that_of_both_hands():
    params = linear_params(O2)
    x, _ = draw_images(params, 6)
    truth = np.logaddexp(*log_p_of_hands(params, x).T) - np.log(2)
    found = avae.log_likelihood(params, x, method="multi_start", n_samples=500)
    np.testing.assert_array_less(np.abs(found.value - truth), 0.1 + 4 * np.asarray(found.standard_error))
    with pytest.raises(avae.Mistake, match="expects a family of one dimension"):
        avae.log_likelihood(params, x, method="quadrature")


def log_p_of_hands(params, x):
    """log p(x | hand) [B, 2] in closed form, the angle integrated out."""
    grid = np.linspace(-np.pi, np.pi, 180, endpoint=False)[:, None]
    return np.stack([log_mean_exp(log_p_given_pose(params, x, on_hand(flag, grid))) for flag in (0, 1)], axis=1)


@pytest.mark.slow
def test_bound_and_posterior_are_those_of_both_hands():
    """Each hand has probability 1/2 before, and after what the closed form says."""
    params = linear_params(O2)
    x, _ = draw_images(params, 6)
    hands = log_p_of_hands(params, x)
    truth = np.logaddexp(*hands.T) - np.log(2)
    found = avae.pose_posterior(params, x, search={"n_starts": 16, "n_local": (), "n_steps": 3})
    error = np.asarray(found.evidence.standard_error)
    np.testing.assert_array_less(np.abs(found.evidence.value - truth), 0.1 + 4 * error)
    weights = np.exp(found.log_weights)
    np.testing.assert_allclose(
        np.sum(weights * np.asarray(found.draws)[..., 0], axis=1), np.exp(hands[:, 1] - truth) / 2, atol=0.15
    )
    assert np.isfinite(found.entropy).all()
    spread = np.sqrt(np.asarray(found.covariance)[:, 0, 0, 0])
    assert (spread < 0.6).all()


# --- data and report ------------------------------------------------------------------------------------------------


def test_data_are_posed_mirrored(images):
    transform = Data(transform=O2).transform
    poses = on_hand(1, [[0.0], [math.pi / 2], [-math.pi]])
    expected = [np.rot90(image, turns)[:, ::-1] for image, turns in zip(images, range(3), strict=True)]
    np.testing.assert_allclose(posed(images, poses, transform, None, (0.0,)), expected, atol=1e-5)


def test_agreement_is_measured_after_the_best_flip_of_each_class():
    labels = np.repeat([0, 1], 10)
    pose = np.asarray(drawn(O2, 20))
    canonical = np.where(labels == 0, 0.0, 1.0)  # class 1 is encoded mirrored, and at another angle
    flag = (canonical + pose[:, 0]) % 2
    turn = np.where(labels == 0, 0.3, -1.1)  # pull maps: R(pose) F^p R(alpha) F^a = R(turn) F^c
    angle = np.where(pose[:, 0] == 1, -1, 1) * (turn - pose[:, 1])
    alpha = np.stack([flag, angle], axis=1)
    rotations = metrics.net_rotation(O2, alpha, pose)
    np.testing.assert_allclose(metrics.planar_angle(rotations), turn, atol=1e-5)
    np.testing.assert_allclose(metrics.rotation_errors(rotations, labels), 0, atol=1e-3)
    np.testing.assert_allclose(list(metrics.class_resultants(rotations, labels).values()), 1, atol=1e-6)
    assert metrics.mirror_images(O2, alpha, rotations, labels) == {"found": pytest.approx(0.6), "agree": 1.0}

    alpha[0, 0] = 1 - alpha[0, 0]  # one of the wrong hand
    rotations = metrics.net_rotation(O2, alpha, pose)
    assert metrics.mirror_images(O2, alpha, rotations, labels)["agree"] == 0.95
    assert metrics.mirror_images(O2, alpha, rotations, None)["agree"] is None
    assert metrics.mirror_images(avae.Rotation(), alpha, rotations, labels) is None
    np.testing.assert_allclose(metrics.rotation_errors(rotations, labels), [180] + [0] * 19, atol=1e-3)
    np.testing.assert_allclose(metrics.rotation_errors(rotations, labels, fold=2), [90] + [0] * 19, atol=1e-3)
    np.testing.assert_allclose(metrics.class_resultants(rotations, labels)[0], 0.9, atol=1e-6)
    assert figures.png(figures.orientation_histograms(rotations, labels))


def test_agreement_in_space():
    both = avae.Mirrored(avae.Rotation3D())
    pose = np.asarray(drawn(both, 12))
    alpha = pose * [1, 1, -1, -1, -1]  # undone by the inverse where not mirrored
    mirror = pose[:, 0] == 1
    alpha[mirror, 3:] *= -1  # F R(q) F turns about the mirrored axis the other way: y and z change sign
    rotations = metrics.net_rotation(both, alpha, pose)
    np.testing.assert_allclose(rotations, np.tile(np.eye(3), (12, 1, 1)), atol=1e-5)
    flipped = rotations * np.where(np.arange(12) == 0, -1, 1)[:, None, None]
    np.testing.assert_allclose(metrics.rotation_errors(flipped, np.zeros(12)), [180] + [0] * 11, atol=1e-2)
    np.testing.assert_allclose(metrics.resultant_length(flipped), 11 / 12, atol=1e-5)


def test_the_report_says_how_many_are_mirrored():
    numbers = {"mirrored": {"found": 0.48, "agree": 0.97}, "orientation": {"classes": {"0": {}}}}
    assert tables.mirror_images(numbers).rows == [("found mirrored", "48.0%"), ("of the hand of their class", "97.0%")]
    numbers = {"mirrored": {"found": 0.48, "agree": None}, "orientation": {"classes": {}}}
    assert tables.mirror_images(numbers).rows == [("found mirrored", "48.0%")]
