"""An older Python or JAX is named when avae is imported, with the version that is wanted."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
from test_train import ROOT

from avae.runtime import required

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_what_is_there_passes():
    required.check()


def test_an_older_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    with pytest.raises(ImportError, match=r"avae expects Python 3\.11 or newer, got 3\.10 \(.*python.*\)"):
        required.check()


@pytest.mark.parametrize("found", ["0.4.38", "0.9.9"])
def test_an_older_jax_is_named(found, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"jax": found}.get(name, "99.0"))
    expected = f'avae expects jax 0.10 or newer, got {found}; python -m pip install --upgrade "jax>=0.10"'
    with pytest.raises(ImportError, match=re.escape(expected)):
        required.check()


def test_the_versions_are_those_of_the_package():
    assert PROJECT["requires-python"] == ">={}.{}".format(*required.PYTHON)
    for name, wanted in required.LIBRARIES.items():
        assert f"{name}>={wanted[0]}.{wanted[1]}" in PROJECT["dependencies"]


@pytest.mark.process
def test_importing_the_package_asks_first():
    """Before JAX is imported, which may fail in its own way."""
    code = "import sys; sys.version_info = (3, 9, 0, 'final', 0); sys.modules['jax'] = None; import avae"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: avae expects Python 3.11 or newer, got 3.9")
