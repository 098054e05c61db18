"""Batches are read ahead of the steps: the same ones, errors where they belong, and no thread left behind."""

import contextlib
import threading
import time

import numpy as np
import pytest

from avae.config import default, experiment
from avae.data import dataset as data
from avae.training import loop

IMAGES = np.random.default_rng(0).random((40, 3, 3, 1), np.float32)


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


def assert_no_reader_is_left():
    deadline = time.monotonic() + 30  # one that reads when it is told to end finishes that batch
    while readers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not readers()


@pytest.mark.parametrize("first", [0, 7])
def test_batches_read_ahead_are_those_of_their_steps(first):
    order = data.order(40, 8, seed=3)
    with contextlib.closing(data.batches(IMAGES, order, first, 12)) as batches:
        read = list(batches)
    assert len(read) == 12 - first
    for step, (index, batch) in enumerate(read, start=first):
        np.testing.assert_array_equal(index, order[step])
        np.testing.assert_array_equal(batch, IMAGES[order[step]])


def test_a_read_that_fails_is_told_when_its_batch_is_asked_for():
    class Rows:
        shape = IMAGES.shape

        def __getitem__(self, index):
            if wanted in index:
                raise OSError("unreadable")
            return IMAGES[index]

    order = data.order(40, 8, seed=3)
    wanted = order[2][0]
    with contextlib.closing(data.batches(Rows(), order, 0, 5)) as batches:
        assert len([next(batches), next(batches)]) == 2
        with pytest.raises(OSError, match="unreadable"):
            next(batches)
    assert_no_reader_is_left()


def test_no_reader_outlives_a_run_that_is_stopped(tmp_path, monkeypatch):
    config = default()
    config.update_from_flattened_dict(
        {"data.n_train": 64, "data.n_test": 8, "data.pose": "upright", "model.hidden": (8,), "model.latent": 2}
        | {"train.search.enabled": False, "train.batch_size": 16, "train.epochs": 50}
    )
    seen = []

    def stop(step):
        seen.append(len(readers()))
        return 15 if step == 2 else None

    monkeypatch.setattr(loop, "stop_signal", lambda: contextlib.nullcontext(stop))
    with pytest.raises(loop.Interrupted):
        loop.fit(experiment(config), tmp_path)
    assert seen == [1, 1, 1]
    assert_no_reader_is_left()
