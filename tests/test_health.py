"""The health of poses: models of which each number is known."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from template import SIDE, picture, template, turned

import avae
from avae.inference import health as room
from avae.inference.health import Health, health, known, warnings
from avae.settings import Search

DISC = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)) < 9
DEGREES = np.arange(6) * 53.0
IMAGES = turned(picture() * DISC, DEGREES)
NAMES = {"gap", "missed", "turned", "drift", "drift_share"}


def test_a_good_search_of_a_known_picture_is_healthy():
    found = health(template(picture() * DISC), IMAGES)
    assert found.gap < 0.5
    assert found.missed == 0
    assert found.turned < 0.3
    assert found.drift == pytest.approx(0, abs=1e-6)  # its decoder has no use for z
    assert warnings(found, SIDE, Search()) == []


def test_one_start_leaves_a_gap():
    params = template(picture() * DISC)
    weak = dataclasses.replace(params.model.search, n_starts=1, top_k=1, n_refined=1, n_steps=1)
    found = health(params.replace(model=dataclasses.replace(params.model, search=weak)), IMAGES)
    assert found.gap > 10
    assert found.missed > 0.5
    assert found.turned > 1
    told = warnings(found, SIDE, weak)
    assert "search.n_starts=2" in told[0]
    assert "moved by a known pose" in told[1]


@dataclasses.dataclass(frozen=True)
class Turning:
    """The latent turns the picture by `rate` radians per unit, or makes it brighter; the encoder gives x's mean."""

    rate: float
    bright: float = 0.0
    image_shape: tuple = (SIDE, SIDE, 1)
    latent: int = 1

    def encode(self, weights, x):
        return jnp.mean(x, keepdims=True).reshape(1) * 10, jnp.zeros(1)

    def decode(self, weights, z):
        moved = avae.warp(weights[None], avae.Rotation().matrix(self.rate * z)[None])[0]
        return moved * (1 + self.bright * z[0])


def latents(rate, bright=0.0):
    model = avae.Model(Turning(rate, bright), likelihood=avae.Gaussian(scale=0.1), transform=avae.Rotation())
    params = avae.Params(jnp.asarray((picture() * DISC)[..., None], jnp.float32), model)
    x = IMAGES * np.linspace(0.5, 1, len(IMAGES), dtype=np.float32)[:, None, None, None]
    spread = np.std([float(jnp.mean(image)) * 10 for image in x])
    return health(params, x), spread


def test_a_latent_that_turns_pictures_is_seen():
    found, spread = latents(0.3)
    np.testing.assert_allclose(found.drift, 0.3 * spread * SIDE / 2, rtol=0.3)
    assert found.drift_share > 0.6  # turned twice, the picture is softer


@pytest.mark.slow  # compiles searches of two kinds, half a minute
def test_a_latent_that_makes_pictures_brighter_is_no_drift():
    found, _ = latents(0.0, bright=0.5)
    assert found.drift < 0.2


def test_drift_is_told_in_words():
    told = warnings(Health(0.0, 0.0, 0.1, drift=2.0, drift_share=0.9), 20, Search())
    assert len(told) == 1
    assert "2.0 pixels at the rim (11.5 degrees)" in told[0]
    assert "model.latent" in told[0]
    assert warnings(Health(0.0, 0.0, 0.1, drift=2.0, drift_share=0.1), 20, Search()) == []  # a change of shape


@pytest.mark.slow  # compiles searches of two kinds, half a minute
@pytest.mark.parametrize("family", [avae.QuarterTurns(), avae.Translation(), avae.Mirrored(avae.Rigid())], ids=str)
def test_any_family_has_a_health(family):
    found = health(template(picture() * DISC, transform=family), IMAGES[:1])
    assert (found.gap is None) == (family.dof == 0)
    assert found.drift is None  # one image has no directions
    assert np.isfinite(found.turned)


@pytest.mark.slow  # compiles searches of two kinds, half a minute
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_blank_images_have_one_too(level):
    found = health(template(picture() * DISC), np.full((3, SIDE, SIDE, 1), level, np.float32))
    assert all(np.isfinite(value) for value in found)


@pytest.mark.parametrize("family", [avae.Rigid(), avae.Mirrored(avae.Rigid()), avae.Affine(), avae.Rigid3D()], ids=str)
def test_known_moves_keep_to_the_family(family):
    alpha = family.sample(jax.random.key(0))
    move = known(family, alpha, jax.random.key(1))
    assert np.isfinite(family.log_prior(move))
    np.testing.assert_array_equal(move[-family.dim :], 0)  # no shift
    np.testing.assert_allclose(known(avae.Translation(), jnp.array([0.1, -0.2]), jax.random.key(1)), [0.05, -0.1])


@pytest.mark.slow  # compiles searches of two kinds, half a minute
def test_a_run_logs_it_and_warns(tmp_path, monkeypatch, capsys, examined):
    from test_long_runs import tiny

    from avae.config import experiment
    from avae.training import loop, watch

    monkeypatch.setattr(room, "NATS", -1.0)  # any gap is too large
    config = tiny(**{"train.search.enabled": True, "train.epochs": 2})
    loop.fit(experiment(config), tmp_path, config)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "health_gap" in row]
    assert measured
    assert {f"health_{name}" for name in NAMES} <= set(measured[-1])
    assert "a denser one" in capsys.readouterr().err
    loop.fit(experiment(config), tmp_path, config)  # nothing left to do, and nothing is logged twice
    assert watch.read_metrics(tmp_path) == rows
