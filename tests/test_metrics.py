"""Closed forms: known angles, offsets, wraps, folds and permutations."""

import builtins
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avae import metrics
from avae.data import repose
from avae.transforms import Rigid, Rotation


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


def test_resultant_length():
    assert metrics.resultant_length([1.0, 1.0, 1.0 + 2 * math.pi]) == pytest.approx(1)
    assert metrics.resultant_length([0.0, math.pi]) == pytest.approx(0)
    assert metrics.resultant_length([-0.5, 0.5]) == pytest.approx(math.cos(0.5))
    random = np.random.default_rng(0).uniform(-math.pi, math.pi, 10_000)
    assert metrics.resultant_length(random) < 0.03


def test_class_resultants_do_not_mix_classes():
    found = metrics.class_resultants([1.0, 1.0, -2.0, -2.0, 0.0, math.pi], [3, 3, 7, 7, 5, 5])
    assert list(found) == [3, 5, 7]
    assert found == pytest.approx({3: 1.0, 7: 1.0, 5: 0.0})


def test_rotation_errors_remove_the_offset_of_each_class_across_the_wrap():
    degrees = np.array([170, 180, -170, -180, 40, 40, 40, 60])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    errors = metrics.rotation_errors(np.radians(degrees), labels)
    np.testing.assert_allclose(errors, [10, 0, 10, 0, 0, 0, 0, 20], atol=1e-9)


def test_rotation_errors_use_the_best_offset():
    """No other offset has a smaller mean error, on angles without any structure."""
    angles = np.random.default_rng(1).uniform(-math.pi, math.pi, 51)
    best = metrics.rotation_errors(angles, np.zeros(51)).mean()
    offsets = np.linspace(-math.pi, math.pi, 721)
    all_errors = np.abs(np.angle(np.exp(1j * (angles[:, None] - offsets))))
    assert best <= np.degrees(all_errors.mean(axis=0).min()) + 1e-9


def test_rotation_errors_modulo_half_a_turn():
    angles, labels = np.radians([10.0, 190.0, 10.0, 190.0, 14.0]), np.zeros(5)
    np.testing.assert_allclose(metrics.rotation_errors(angles, labels, fold=2), [0, 0, 0, 0, 4], atol=1e-9)
    assert metrics.rotation_errors(angles, labels).max() > 170


def test_summary_counts_fifteen_degrees_in():
    assert metrics.summarise_errors([0.0, 15.0, 16.0, 49.0]) == {"mean": 20.0, "median": 15.5, "within_15": 0.5}


def test_permuted_cluster_labels_are_perfect():
    labels = np.arange(100) % 10
    clusters = np.random.default_rng(0).permutation(10)[labels]
    assert metrics.assignment_accuracy(clusters, labels) == 1
    assert metrics.assignment_accuracy(np.zeros(100), labels) == pytest.approx(0.1)


def test_cluster_accuracy_of_separated_classes():
    pytest.importorskip("sklearn")
    labels = np.arange(200) % 10
    centres = 20 * np.asarray(jax.random.normal(jax.random.key(0), (10, 5)))
    latents = centres[labels] + np.asarray(jax.random.normal(jax.random.key(1), (200, 5)))
    assert metrics.cluster_accuracy(latents, labels) == 1
    assert metrics.cluster_accuracy(latents[:4], labels[:4]) == 1  # fewer examples than clusters


def test_cluster_accuracy_without_scikit_learn(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert metrics.cluster_accuracy(np.zeros((20, 2)), np.arange(20) % 10) is None
