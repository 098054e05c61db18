"""The README's figures, from training to table: half an hour. Run with `python -m pytest -m slow`."""

import json
import math

import numpy as np
import pytest

import avae
from avae import run
from avae.config import default, experiment
from avae.data import dataset as data
from avae.training import loop, run_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[0, 1, 2])
def results(request, tmp_path_factory):
    """The main job with one of three seeds, as it writes them."""
    workdir = tmp_path_factory.mktemp("runs") / "rot_mnist"
    config = default()
    config.train.seed = request.param
    run.run(config, workdir)
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def upright(tmp_path_factory):
    """A plain VAE trained on upright digits."""
    workdir = tmp_path_factory.mktemp("runs") / "vae_upright"
    config = run.plain_vae(default())
    config.data.pose = "upright"
    run_folder.claim(workdir, config)
    return loop.fit(experiment(config), workdir)


def test_the_main_job_reaches_its_loss_and_beats_the_plain_vae(results):
    assert results["loss"]["avae"]["search"]["sampled"]["mean"] <= 117
    assert results["gain"]["mean"] >= 13


def test_good_at_every_angle(results):
    assert results["curve"]["series"]["avae_search"]["range"] <= 4
    assert results["curve"]["series"]["avae_search"]["worst_harm"] <= 0.01


def test_search_is_as_good_as_exhaustive(results):
    assert results["search"]["n_images"] == 512
    assert results["search"]["n_angles"] == 720
    assert results["search"]["gap"]["mean"] <= 0.15


def test_each_class_is_encoded_at_few_orientations(results):
    assert results["orientation"]["mean_resultant"] >= 0.80


def test_without_search_the_upright_vae_loses_over_40_nats(upright):
    digits = data.load(data.Data(pose="upright", n_train=1, n_test=512)).test.images
    losses = []
    for degrees in range(0, 360, 15):
        pose = np.full((512, 1), math.radians(degrees), np.float32)
        turned = np.asarray(data.repose(digits, pose, avae.Rotation()))
        losses.append(float(avae.objective(upright, turned).total.mean()))
    assert max(losses) - losses[0] > 40


def test_search_never_harms_an_upright_digit(upright):
    digits = data.load(data.Data(pose="upright", n_train=1, n_test=512)).test.images
    found = avae.align(upright, digits)
    plain = avae.objective(upright, digits).total
    assert float((found.loss - plain).max()) <= 0.01


def test_gauss_newton_reaches_adams_loss_with_64_passes(upright):
    digits = data.load(data.Data(n_train=1, n_test=512)).test.images
    search = avae.Search()
    passes = search.n_starts + search.top_k * (search.n_local + 2 * (search.n_steps + 1))
    assert passes <= 64
    ours, paper = (float(avae.align(upright, digits, search=s).loss.mean()) for s in (search, avae.PAPER))
    assert ours <= paper + 0.05
