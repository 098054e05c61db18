"""What comparisons with others compute besides the networks: moments, purity, classifiers, and who is compared."""

import importlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import ROOT

import avae


@pytest.fixture
def script(monkeypatch):
    """A script of benchmarks/ or benchmarks/rivals/ as a module, by name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "rivals")
    return importlib.import_module


def blobs():
    """A picture [32, 32, 1] whose third moments along and across its long axis are not zero."""
    y, x = (np.mgrid[:32, :32] + 0.5) / 16 - 1
    spots = ((0.0, 0.0, 1.0), (0.45, 0.05, 0.6), (-0.2, 0.2, 0.5), (-0.35, -0.02, 0.4))
    return sum(h * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.02) for a, b, h in spots)[..., None].astype(np.float32)


@pytest.mark.parametrize("mirror", [False, True])
def test_moments_bring_every_pose_of_a_picture_to_one(script, mirror):
    family = avae.Mirrored(avae.Rigid()) if mirror else avae.Rigid()
    poses = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 12))
    poses = poses.at[:, -2:].multiply(0.3)
    images = np.asarray(avae.warp(jnp.tile(blobs(), (12, 1, 1, 1)), jax.vmap(family.matrix)(poses)))
    pull = script("moments").pull_maps(images, mirror=mirror, centred=True)
    straight = np.asarray(avae.warp(images, np.float32(pull)))
    assert np.abs(straight - straight[:1]).max() < 0.15 < 0.5 < np.abs(images - images[:1]).max()
    errors = script("baselines").angle_errors(pull, poses, family, np.zeros(12, int))
    assert errors["median error"] < 2
    assert errors["median error, either hand"] < 2


def test_a_mirror_image_counts_as_the_thing_itself_where_the_hand_does_not_matter(script):
    family = avae.Mirrored(avae.Rotation())
    poses = np.array([[0, 0.3], [0, 0.3], [0, 0.3], [1, 0.3]], np.float32)
    back = jnp.asarray(poses).at[3].set(jnp.array([0, -0.3]))  # which leaves the last upright, but mirrored
    pull = np.asarray(jax.vmap(family.inverse)(back))
    errors = script("baselines").angle_errors(pull[2:], poses[2:], family, np.zeros(2, int))
    assert errors["median error"] == pytest.approx(90)  # of 0 and 180
    assert errors["median error, either hand"] == pytest.approx(0, abs=1e-3)


def test_purity_and_names_of_clusters(script):
    scores = script("scores")
    clusters, labels = np.array([0, 0, 0, 1, 1, 2]), np.array([5, 5, 7, 7, 7, 7])
    assert scores.purity(clusters, labels) == pytest.approx(5 / 6)
    codes = np.random.default_rng(0).normal(size=(90, 40)) * 0.01
    labels = np.repeat([0, 1, 2], 30)
    codes[:, 0] += labels
    assert set(scores.clustered(codes, labels).values()) == {1.0}


def test_a_classifier_tells_what_the_codes_hold_and_nothing_else(script):
    scores, rng = script("scores"), np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 100)
    good, bad = rng.normal(size=(2, 200, 4))
    good[:, 0] += 6 * (labels == "b")
    right = {name: [scores.told(codes, labels, seed) for seed in (0, 1)] for name, codes in (("x", good), ("y", bad))}
    rows = scores.compared(right, "x")
    assert rows["x"]["accuracy"] > 0.97
    assert 0.35 < rows["y"]["accuracy"] < 0.65
    assert rows["y"]["least"] > 0.2
    assert rows["y"]["low"] < rows["y"]["accuracy"] < rows["y"]["high"]
    assert rows["x"]["ahead"] == rows["x"]["least"] == rows["x"]["most"] == 0


def test_whose_code_was_run_is_said(script, tmp_path):
    of = script("baselines").provenance
    with pytest.raises(avae.Mistake, match="expected the folder of a checkout"):
        of(str(tmp_path / "none"))
    assert "no licence file" in of(str(tmp_path))
    (tmp_path / "LICENSE.md").write_text("MIT License\n\nCopyright")
    run = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*run, "init", "-q"], check=True)
    subprocess.run([*run, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    assert f"{tmp_path.name} " in of(str(tmp_path))
    assert of(str(tmp_path)).endswith(" (MIT License)")
    assert len(of(str(tmp_path)).split()[1]) == 40


def test_cells_come_with_both_of_their_labels(script):
    images, kinds = script("cells").cells(40)
    assert images.shape == (40, 64, 64, 1)
    assert set(kinds["line"]) == {"dunn", "dlm8"}
    assert set(kinds["treatment"]) == {"control", "cytd", "jasp"}


@pytest.mark.slow  # two networks are compiled and trained, a minute
def test_a_network_is_trained_for_its_minutes(script):
    baselines, images = script("baselines"), np.tile(blobs(), (64, 1, 1, 1))
    task = baselines.described(images, "rotation", mirror=True, latent=2, seed=0)
    for described in (task, baselines.plain(task)):
        fit = baselines.trained(described, images, 0.01)
        assert 1 <= fit.epochs <= baselines.MOST
        assert fit.minutes > 0
        assert baselines.encoded(fit.params, images).shape == (64, 2)
