"""What is published: the wheel, checked and run in an empty environment; versions that agree."""

import re
import subprocess
import tomllib

import pytest
from test_train import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'{{% set version = "{version}" %}}' in (ROOT / "packaging" / "conda" / "meta.yaml").read_text()
    released = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == version


def test_the_conda_recipe_has_the_same_dependencies():
    recipe = (ROOT / "packaging" / "conda" / "meta.yaml").read_text()
    for dependency in PROJECT["dependencies"]:
        name, bounds = re.match(r"([\w-]+)(.*)", dependency).groups()
        assert f"- {name} {bounds}\n" in recipe, dependency


def test_workflows_test_every_python_that_is_named():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", text).group(1)) == named


@pytest.mark.slow  # minutes: it installs everything; needs `pip install build twine`
def test_the_wheel_runs_in_an_empty_environment():
    done = subprocess.run([ROOT / "tools" / "check_release.sh"], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"avae-[\d.]+-py3-none-any\.whl", done.stdout)
    assert re.search(r"the first lines of the README in \d+ s", done.stdout)
