"""Orientations over training: the checkpoints of a run, oldest first, and their picture."""

import dataclasses

import numpy as np
import pytest
from test_train import fit, tiny

import avae
from avae.config import experiment
from avae.data import dataset as data
from avae.evaluation import history, metrics
from avae.report.figures import orientation_strip
from avae.run import draw_history
from avae.training import checkpoint
from avae.training.run_folder import load_experiment


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """40 steps with a checkpoint every 7, all kept."""
    workdir = tmp_path_factory.mktemp("run")
    return fit(tiny(**{"train.keep_last": 10}), workdir), workdir


def test_every_checkpoint_is_given_the_oldest_first(run):
    params, workdir = run
    steps, kept = zip(*checkpoint.load_all(workdir), strict=True)
    assert steps == (7, 14, 21, 28, 35, 40)
    np.testing.assert_array_equal(
        kept[-1].weights["encoder"]["Dense_0"]["bias"], params.weights["encoder"]["Dense_0"]["bias"]
    )


def test_orientations_are_those_of_align_at_each_checkpoint(run):
    params, workdir = run
    found = history.history(workdir, n_images=24, n_rows=3)
    np.testing.assert_allclose(list(found.rotations), [7 / 8, 14 / 8, 5])
    test = data.load(load_experiment(workdir).data).test
    alpha = avae.align(params, test.images).alpha
    expected = metrics.net_rotation(avae.Rotation(), alpha, test.poses)
    np.testing.assert_allclose(found.rotations[5.0], expected, atol=1e-5)
    np.testing.assert_array_equal(found.labels, test.labels)


def test_eval_draws_the_strip(run, capsys):
    path = draw_history(run[1])
    assert capsys.readouterr().out.endswith(f"history: {path}\n")
    assert path.stat().st_size > 10_000


def test_a_row_for_each_epoch_and_a_column_for_each_class():
    turns = np.tile(np.eye(2), (6, 1, 1))
    figure = orientation_strip({1.0: turns, 2.0: turns}, np.array([0, 1, 2] * 2), ["a", "b", "c"])
    assert len(figure.axes) == 6
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="in the plane"):
        orientation_strip({1.0: np.tile(np.eye(3), (6, 1, 1))}, np.zeros(6, int), ["a"])


def test_one_checkpoint_is_no_history(tmp_path, monkeypatch):
    described = experiment(tiny())
    monkeypatch.setattr(history, "load_experiment", lambda *_: described)
    monkeypatch.setattr(history, "load_all", lambda _: iter([(1, None)]))
    with pytest.raises(ValueError, match="expected at least two checkpoints, got 1"):
        history.history(tmp_path)
    np.save(tmp_path / "stack.npy", np.zeros((300, 28, 28, 1), np.float32))
    unlabelled = dataclasses.replace(described.data, name=str(tmp_path / "stack.npy"))
    monkeypatch.setattr(history, "load_experiment", lambda *_: dataclasses.replace(described, data=unlabelled))
    with pytest.raises(ValueError, match="expected data with labels"):
        history.history(tmp_path)
