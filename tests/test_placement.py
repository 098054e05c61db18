"""Batches on explicit meshes, inside `shard_map`, and committed to one device: the same results, where the batch is."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def found(compiled):
    environment = os.environ | compiled | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "tests/on_explicit_mesh.py"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_results_are_those_of_one_device(found):
    assert len(found["seen"]) == 9 + 2 * 5 + 1
    assert {name: seen["off"] for name, seen in found["seen"].items() if seen["off"] > 1e-3} == {}


def test_results_stay_where_the_batch_is(found):
    assert {name: seen for name, seen in found["seen"].items() if seen["devices"] != 4} == {}
    assert found["committed"] == [2]
