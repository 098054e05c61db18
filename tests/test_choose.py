"""Defaults from the data: what is chosen for a file, and why."""

import numpy as np
import pytest

import avae
from avae import choose
from avae.config import experiment

RNG = np.random.default_rng(0)


def saved(path, array, **more):
    np.savez(path.with_suffix(".npz"), images=array, **more)
    return str(path.with_suffix(".npz"))


def values(choices):
    return {choice.name: choice.value for choice in choices}


@pytest.fixture
def ink():
    """Pictures in 8 bits, nearly black and white."""
    return (255 * (RNG.random((40, 10, 12)) > 0.8)).astype(np.uint8)


def test_black_and_white_is_bernoulli(tmp_path, ink):
    seen = choose.look(saved(tmp_path / "ink", ink, labels=np.arange(40) % 3))
    assert (seen.dim, seen.n, seen.shape, seen.labels, seen.dtype) == (2, 40, (10, 12, 1), 3, "uint8")
    assert (seen.low, seen.high, seen.near) == (0, 1, 1)
    config, choices = choose.chosen(seen)
    assert {"likelihood.name": "bernoulli", "transform.name": "rigid", "data.n_test": 4}.items() <= values(
        choices
    ).items()
    described = experiment(config)
    assert described.data.n_train == 36
    assert described.data.pose == "as_is"
    assert described.model.image_shape == (10, 12, 1)
    assert described.data.transform == described.model.transform == avae.Rigid()
    assert "data.mean" not in values(choices)
    assert all(choice.why in choose.as_text(choices) for choice in choices)


def test_noise_is_gaussian_at_mean_0_and_standard_deviation_1(tmp_path):
    seen = choose.look(saved(tmp_path / "noise", 40 + 7 * RNG.normal(size=(60, 8, 8))))
    config, choices = choose.chosen(seen)
    assert values(choices)["likelihood.name"] == "gaussian"
    assert config.data.mean == pytest.approx(40, abs=0.5)
    assert config.data.std == pytest.approx(7, abs=0.5)
    grey = choose.look(saved(tmp_path / "grey", RNG.uniform(0.3, 0.7, size=(60, 8, 8))))
    assert values(choose.chosen(grey)[1])["likelihood.name"] == "gaussian"


def test_volumes_are_turned(tmp_path):
    seen = choose.look(saved(tmp_path / "volumes", RNG.random((12, 8, 9, 10)) > 0.5))
    assert (seen.dim, seen.shape) == (3, (8, 9, 10, 1))
    assert values(choose.chosen(seen)[1])["transform.name"] == "rotation3d"
    colours = choose.look(saved(tmp_path / "colours", RNG.random((12, 8, 9, 3))))
    assert (colours.dim, colours.shape) == (2, (8, 9, 3))


def test_what_is_given_is_taken(tmp_path, ink):
    options = {
        "transform": "affine",
        "latent": 3,
        "likelihood": "gaussian",
        "epochs": 5,
        "mirror": True,
        "batch_size": 7,
    }
    config, choices = choose.chosen(
        choose.look(saved(tmp_path / "ink", ink)), options | {"background": 0.0, "seed": 4, "poses": "star"}
    )
    described = experiment(config)
    assert described.model.transform == avae.Mirrored(avae.Affine())
    assert (described.model.networks.latent, described.train.epochs, described.train.batch_size) == (3, 5, 7)
    assert described.train.poses == "star"
    assert (described.train.seed, described.data.seed, described.data.background) == (
        4,
        4,
        (-config.data.mean / config.data.std,),
    )
    whys = {choice.name: choice.why for choice in choices}
    assert {whys[name] for name in ("transform.name", "model.latent", "train.epochs")} == {"as you say"}


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32"])
def test_a_background_is_given_as_it_is_stored(tmp_path, dtype):
    images = (RNG.random((40, 6, 6)) > 0.5) * np.uint8(200)
    seen = choose.look(saved(tmp_path / "raw", images.astype(dtype)))
    level = {"uint8": 51, "bool": 1, "float32": 51}[dtype]
    config, choices = choose.chosen(seen, {"background": level, "likelihood": "gaussian"})
    read = {"uint8": 0.2, "bool": 1, "float32": 51}[dtype]
    assert config.data.background == pytest.approx(((read - config.data.mean) / config.data.std,), rel=1e-4)
    assert f"as you say: {level} in the data" in choose.as_text(choices)


def test_a_split_of_the_source_is_kept(tmp_path, ink):
    np.savez(tmp_path / "split.npz", train_images=ink[:30], test_images=ink[30:])
    config, _ = choose.chosen(choose.look(str(tmp_path / "split.npz")))
    assert (config.data.n_train, config.data.n_test) == (30, 10)


def test_too_few_and_nothing_finite(tmp_path, ink):
    with pytest.raises(avae.Mistake, match="expected at least 3 examples, got 2"):
        choose.chosen(choose.look(saved(tmp_path / "two", ink[:2])))
    with pytest.raises(avae.Mistake, match="expected numbers, got none that is finite"):
        choose.look(saved(tmp_path / "nan", np.full((4, 5, 5), np.nan)))
    with pytest.raises(avae.Mistake, match="nothing is at"):
        choose.look(str(tmp_path / "absent.npy"))
