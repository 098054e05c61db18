"""One device, two or eight: the same run, and little moves between them. One process of its own computes it all."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.process
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def seen(compiled):
    environment = os.environ | compiled | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "tests/on_many_devices.py"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_weights_after_twenty_steps_are_those_of_one_device(seen):
    assert max(seen["distances"]) < 1e-5
    one, two, eight = seen["losses"]
    np.testing.assert_allclose(two, one, rtol=1e-5)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert one[-1] < one[0]


def test_one_all_reduce_a_step_and_nothing_gathered_but_the_scores_of_the_starts(seen):
    assert seen["moves"]["1"] == []
    for n in ("2", "8"):
        moves = seen["moves"][n]
        kinds = [kind for kind, _ in moves]
        assert kinds.count("all-reduce") == 1
        assert set(kinds) <= {"all-reduce", "all-gather"}
        assert all(shapes == ["16,8"] for kind, shapes in moves if kind == "all-gather")  # [batch, starts]
        reduced = next(shapes for kind, shapes in moves if kind == "all-reduce")
        assert {"8,784", "784,8", "8,2", "784"} <= set(reduced)  # the gradients, all at once


def test_every_device_holds_all_of_the_state(seen):
    assert seen["replicated"] == [True, True, True]


def test_remembered_poses_are_the_same_on_every_device_and_little_moves_for_them(seen):
    found = seen["remembered"]
    assert found["distance"] < 1e-5
    assert found["replicated"]
    gathered = [shape for kind, shapes in found["moves"] if kind != "all-reduce" for shape in shapes]
    assert set(gathered) <= {"16,8", "16,4", "16,1"}  # [batch, starts] of either search, and the poses [batch, size]
    reduced = [shapes for kind, shapes in found["moves"] if kind == "all-reduce" and shapes != [""]]
    assert len(reduced) == 1  # the gradients; each search has the mean of its gain besides


@pytest.mark.parametrize("what", ["align", "bound", "posterior"])
def test_a_split_batch_goes_through_in_parts_where_it_lies(seen, what):
    found = seen["in_parts"][what]
    assert found["loops"]
    assert found["close"]
    assert found["rows_per_device"] == [6]  # 48 over 8
    assert {kind for kind, _ in found["moves"]} <= {"all-gather"}
    gathered = [shape for _, shapes in found["moves"] for shape in shapes]
    assert all(np.prod([int(side) for side in shape.split(",")]) <= 48 * 4 for shape in gathered)  # [batch, starts]


def test_a_run_begun_on_two_devices_ends_on_eight(seen):
    assert seen["resumed"]["steps"] == 20
    assert seen["resumed"]["same_order"]
    assert seen["resumed"]["distance"] < 1e-5


def test_a_batch_that_cannot_be_split_is_a_sentence(seen):
    assert seen["mistake"] == ("train.batch_size: expected a multiple of the 8 devices, got 12; 8 or 16 would do")
