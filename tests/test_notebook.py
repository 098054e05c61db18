"""The notebook: its two forms are one, it finds what to install, and it runs from end to end in short form."""

import importlib.util
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


def installed(folder, monkeypatch):
    """What the first cell asks pip for where avae is not installed."""
    asked = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    exec(next(cell.source for cell in jupytext.read(SCRIPT).cells if cell.cell_type == "code"), {})
    ((*_, wanted),) = asked
    return wanted


def test_it_installs_from_a_clone_or_an_upload(tmp_path, monkeypatch):
    assert installed(ROOT / "notebooks", monkeypatch) == f"avae @ {ROOT.as_uri()}"
    with pytest.raises(SystemExit, match="upload its archive, or say in SOURCE where it is"):
        installed(tmp_path, monkeypatch)
    (tmp_path / "avae-main.zip").touch()
    assert installed(tmp_path, monkeypatch) == f"avae @ {(tmp_path / 'avae-main.zip').as_uri()}"


@pytest.mark.slow  # a training to compile: pytest -m slow tests/test_notebook.py
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
    for name in ("digits.png", "aligned.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    with np.load(tmp_path / "aligned.npz") as aligned:
        assert aligned["canonical"].shape == (8, 28, 28, 1)
        assert np.isfinite(aligned["alpha"]).all()
