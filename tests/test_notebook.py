"""The notebook: its two forms are one, and it runs from end to end in short form."""

import os
import subprocess
import sys

import jupytext
import numpy as np
import pytest
from test_train import ROOT

SCRIPT = ROOT / "notebooks" / "avae_colab.py"


def test_the_pair_is_in_sync_and_without_outputs():
    """If not: jupytext --sync notebooks/avae_colab.py."""
    script = jupytext.read(SCRIPT)
    notebook = jupytext.read(SCRIPT.with_suffix(".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow  # two trainings to compile: pytest -m slow tests/test_notebook.py
def test_it_runs_in_short_form(tmp_path):
    environment = os.environ | {"AVAE_SMOKE": "1", "AVAE_RUNS": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT],
        env=environment,
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "degrees:" in done.stdout
    for name in ("digits.png", "training.png", "aligned.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    with np.load(tmp_path / "aligned.npz") as aligned:
        assert aligned["canonical"].shape == (8, 28, 28, 1)
        assert np.isfinite(aligned["alpha"]).all()
