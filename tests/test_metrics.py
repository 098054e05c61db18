"""Closed forms: known angles, offsets, wraps, folds and permutations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation as SpatialRotation

from avae.data.dataset import repose
from avae.evaluation import metrics
from avae.transforms import Affine3D, Rigid, Rotation, Rotation3D


def test_net_angle_of_rotations_is_the_wrapped_sum():
    alpha, pose = np.array([[0.3], [2.0], [-3.0]]), np.array([[0.4], [2.0], [-1.0]])
    expected = np.array([0.7, 4.0 - 2 * math.pi, 2 * math.pi - 4.0])
    np.testing.assert_allclose(metrics.net_angle(Rotation(), alpha, pose), expected, atol=1e-6)


def test_net_angle_ignores_shifts_and_takes_families_apart():
    alpha, pose = np.array([[0.5, 0.1, -0.2]]), np.array([[-0.2, 0.15, 0.0]])
    np.testing.assert_allclose(metrics.net_angle(Rigid(), alpha, pose), [0.3], atol=1e-6)
    np.testing.assert_allclose(metrics.net_angle(Rigid(), alpha, pose[:, :1], Rotation()), [0.3], atol=1e-6)


def test_net_angle_is_the_angle_of_the_twice_warped_picture(images):
    """A quarter turn in all, in two parts: the picture itself says so, and `numpy.rot90` the direction."""
    smooth = jnp.asarray(images[:1])
    quarter = jnp.array([[math.pi / 2]])
    turned = repose(repose(smooth, quarter, Rotation()), quarter, Rotation())
    np.testing.assert_allclose(turned[0], np.rot90(images[0], 2), atol=1e-5)
    np.testing.assert_allclose(np.abs(metrics.net_angle(Rotation(), quarter, quarter)), math.pi, atol=1e-6)
    np.testing.assert_allclose(metrics.net_angle(Rotation(), quarter, 0 * quarter), math.pi / 2, atol=1e-6)


def turns(angles):
    """Rotations of the plane [N, 2, 2] by angles in radians."""
    c, s = np.cos(angles), np.sin(angles)
    return np.moveaxis(np.array([[c, -s], [s, c]]), -1, 0)


def about(axis, angles):
    """Rotations of space [N, 3, 3] about an axis by angles in radians."""
    axis = np.asarray(axis) / np.linalg.norm(axis)
    return SpatialRotation.from_rotvec(np.asarray(angles)[:, None] * axis).as_matrix()


def random_rotations(n, seed=0):
    return SpatialRotation.random(n, np.random.default_rng(seed)).as_matrix()


def test_net_rotation_is_the_polar_factor_of_what_both_poses_do(images):
    """On matrices with scale and shear, the nearest rotation; on pure rotations, their product."""
    family = Rotation3D()
    alpha, pose = (np.asarray(jax.vmap(family.sample)(jax.random.split(jax.random.key(k), 5))) for k in range(2))
    outer, inner = (np.asarray(jax.vmap(family.matrix)(q))[..., :3] for q in (pose, alpha))
    np.testing.assert_allclose(metrics.net_rotation(family, alpha, pose), outer @ inner, atol=1e-5)

    family = Affine3D()
    alpha = np.asarray(jax.vmap(family.sample)(jax.random.split(jax.random.key(2), 5)))
    found = metrics.net_rotation(family, alpha, pose, Rotation3D())
    product = outer @ np.asarray(jax.vmap(family.matrix)(alpha))[..., :3]
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-9)
    others = found @ about([1, 2, 3], [0.02])
    assert (np.linalg.norm(product - found, axis=(1, 2)) < np.linalg.norm(product - others, axis=(1, 2))).all()
    with pytest.raises(ValueError, match="one dimension"):
        metrics.net_rotation(family, alpha, pose, Rotation())


def test_net_angle_wants_the_plane():
    with pytest.raises(ValueError, match="two-dimensional"):
        metrics.net_angle(Rotation3D(), np.eye(4)[:1], np.eye(4)[:1])


def test_resultant_length():
    assert metrics.resultant_length(turns([1.0, 1.0, 1.0 + 2 * math.pi])) == pytest.approx(1)
    assert metrics.resultant_length(turns([0.0, math.pi])) == pytest.approx(0)
    assert metrics.resultant_length(turns([-0.5, 0.5])) == pytest.approx(math.cos(0.5))
    random = np.random.default_rng(0).uniform(-math.pi, math.pi, 10_000)
    assert metrics.resultant_length(turns(random)) < 0.03


def test_resultant_length_in_space():
    same = np.repeat(random_rotations(1), 4, axis=0)
    assert metrics.resultant_length(same) == pytest.approx(1)
    assert metrics.resultant_length(random_rotations(10_000)) < 0.03
    assert metrics.resultant_length(about([1, 1, 0], [-0.5, 0.5])) == pytest.approx((1 + 2 * math.cos(0.5)) / 3)
    some = random_rotations(7)
    best = max(np.einsum("nij,ij->n", some, r).mean() / 3 for r in random_rotations(20_000, seed=1))
    assert best <= metrics.resultant_length(some) + 1e-9
    assert best == pytest.approx(metrics.resultant_length(some), abs=0.01)


def test_class_resultants_do_not_mix_classes():
    found = metrics.class_resultants(turns([1.0, 1.0, -2.0, -2.0, 0.0, math.pi]), [3, 3, 7, 7, 5, 5])
    assert list(found) == [3, 5, 7]
    assert found == pytest.approx({3: 1.0, 7: 1.0, 5: 0.0})


def test_rotation_errors_remove_the_offset_of_each_class_across_the_wrap():
    degrees = np.array([170, 180, -170, -180, 40, 40, 40, 60])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    errors = metrics.rotation_errors(turns(np.radians(degrees)), labels)
    np.testing.assert_allclose(errors, [10, 0, 10, 0, 0, 0, 0, 20], atol=1e-5)


def test_rotation_errors_in_space_remove_the_offset_of_each_class():
    offset = random_rotations(2)
    spread = about([1, -2, 1], np.radians([0, 5, -10, 0, 170]))
    rotations = np.concatenate([offset[0] @ spread, offset[1] @ spread])
    errors = metrics.rotation_errors(rotations, np.repeat([4, 9], 5))
    np.testing.assert_allclose(errors, np.tile([0, 5, 10, 0, 170], 2), atol=1e-4)


def test_rotation_errors_use_the_best_offset():
    """No other offset has a smaller mean error, on angles without any structure."""
    angles = np.random.default_rng(1).uniform(-math.pi, math.pi, 51)
    best = metrics.rotation_errors(turns(angles), np.zeros(51)).mean()
    offsets = np.linspace(-math.pi, math.pi, 721)
    all_errors = np.abs(np.angle(np.exp(1j * (angles[:, None] - offsets))))
    assert best <= np.degrees(all_errors.mean(axis=0).min()) + 1e-5


def test_rotation_errors_of_large_classes_try_a_few_offsets_only(monkeypatch):
    monkeypatch.setattr(metrics, "N_CANDIDATES", 2)
    errors = metrics.rotation_errors(turns(np.radians([0.0, 2.0, 50.0, 1.0, 3.0])), np.zeros(5))
    np.testing.assert_allclose(errors, [1, 1, 49, 0, 2], atol=1e-5)  # every third is tried: 0 and 1, not the median 2


def test_rotation_errors_modulo_half_a_turn():
    angles, labels = turns(np.radians([10.0, 190.0, 10.0, 190.0, 14.0])), np.zeros(5)
    np.testing.assert_allclose(metrics.rotation_errors(angles, labels, fold=2), [0, 0, 0, 0, 4], atol=1e-5)
    assert metrics.rotation_errors(angles, labels).max() > 170
    with pytest.raises(ValueError, match=r"fold: expected 1 .*\(3, 3, 3\), got 2"):
        metrics.rotation_errors(random_rotations(3), np.zeros(3), fold=2)


def test_summary_counts_fifteen_degrees_in():
    assert metrics.summarise_errors([0.0, 15.0, 16.0, 49.0]) == {"mean": 20.0, "median": 15.5, "within_15": 0.5}


def test_permuted_cluster_labels_are_perfect():
    labels = np.arange(100) % 10
    clusters = np.random.default_rng(0).permutation(10)[labels]
    assert metrics.assignment_accuracy(clusters, labels) == 1
    assert metrics.assignment_accuracy(np.zeros(100), labels) == pytest.approx(0.1)


def test_cluster_accuracy_of_separated_classes():
    labels = np.arange(200) % 10
    centres = 20 * np.asarray(jax.random.normal(jax.random.key(0), (10, 5)))
    latents = centres[labels] + np.asarray(jax.random.normal(jax.random.key(1), (200, 5)))
    assert metrics.cluster_accuracy(latents, labels) == 1
    assert metrics.cluster_accuracy(latents[:4], labels[:4]) == 1
    latents[:8] = 0  # one point: as many clusters as there are
    assert metrics.cluster_accuracy(latents[:8], labels[:8]) == pytest.approx(1 / 8)
    assert metrics.cluster_accuracy(latents, np.zeros(200)) is None


def test_cluster_accuracy_leaves_out_latents_that_are_not_finite():
    labels = np.array([0, 0, 1, 1, 1])
    latents = np.array([[0.0], [0.1], [5.0], [5.1], [np.nan]])
    assert metrics.cluster_accuracy(latents, labels) == 1
    assert metrics.cluster_accuracy(np.full((5, 1), np.nan), labels) is None
    assert metrics.cluster_accuracy(latents[2:], labels[2:]) is None
