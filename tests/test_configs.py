"""Every file in configs/ describes an experiment; volumes and affine poses run from end to end, in short form."""

import importlib.util
import json

import numpy as np
import pytest
from test_train import ROOT

import avae
from avae import run
from avae.config import experiment

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
SHORT = {
    "data.n_train": 8,
    "data.n_test": 4,
    "model.hidden": (8,),
    "train.epochs": 1,
    "train.batch_size": 4,
    "train.search.n_starts": 8,
    "train.search.top_k": 2,
    "evaluation.baseline_epochs": 1,
    "evaluation.draws": 1,
    "evaluation.n_exhaustive": 2,
    "evaluation.n_angles": 8,
    "evaluation.n_curve": 2,
    "evaluation.n_bound": 2,
    "evaluation.bound_samples": 2,
    "evaluation.curve_step": 180,
}


def config_of(name, *of, **changes):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*of)
    for key, value in changes.items():
        config.update_from_flattened_dict({key: value})
    return config


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "own"], ids=lambda path: path.stem)
def test_every_config_is_an_experiment(path):
    described = experiment(config_of(path.stem))
    assert described.model.transform.dim == described.data.transform.dim


def test_own_images_have_the_settings_that_the_command_chooses(tmp_path):
    np.save(tmp_path / "stack.npy", np.random.default_rng(0).normal(5, 2, (20, 12, 12)).astype(np.float32))
    described = experiment(config_of("own", str(tmp_path / "stack.npy")))
    assert (described.data.pose, described.model.image_shape) == ("as_is", (12, 12, 1))
    assert described.data.n_train == 18
    with pytest.raises(avae.Mistake, match="expected the data behind a colon"):
        config_of("own")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("rot_voxels", {}, marks=pytest.mark.slow),
        pytest.param(
            "rot_voxels",
            {f"{owner}.name": "rotation3d" for owner in ("transform", "data.transform")},
            marks=pytest.mark.slow,
        ),
        pytest.param("affine_mnist", {"search.n_starts": 16, "search.n_steps": 2}, marks=pytest.mark.slow),
    ],
    ids=["cube_rotations", "rotation3d", "affine"],
)
def test_short_runs_end_in_a_report(tmp_path, name, changes):
    run.run(config_of(name, **SHORT, **changes), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    for way in ("search", "no_search"):
        assert np.isfinite([value["mean"] for value in results["loss"]["avae"][way].values()]).all()
    searched, plain = (results["loss"]["avae"][way]["at_mean"]["mean"] for way in ("search", "no_search"))
    assert searched <= plain * (1 + 1e-5)  # the two are summed in another order
    assert (tmp_path / "figures" / "slices.png").exists() == (name == "rot_voxels")
    assert avae.load(tmp_path).model.transform.dim == (3 if name == "rot_voxels" else 2)
