"""What the README promises, run as a reader would run it, in short form."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_train import ROOT, TINY

import avae

README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("[!_]*.md")),
]
BLOCKS = {language: re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) for language in ("sh", "python")}


@pytest.fixture(scope="module")
def python(compiled):
    """Runs `python ...` in the repository; the output, standard error included."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=os.environ | compiled, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory, python):
    """The README's main command with tiny sizes: its folder, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "rot_mnist"
    install, train = (block.splitlines()[0].partition("  #")[0].strip() for block in BLOCKS["sh"][:2])
    assert install == "python -m pip install -c constraints.txt -e ."
    assert train == "python train.py --config=configs/rot_mnist.py"
    tiny = [f"--config.{name}={value}" for name, value in (TINY | {"train.epochs": 1}).items()]
    done = python(*train.split()[1:], f"--workdir={workdir}", *tiny)
    assert done.returncode == 0, done.stdout
    return workdir, done.stdout


@pytest.mark.process
def test_the_main_command_shows_progress_and_ends_in_a_table_and_a_report(trained):
    workdir, printed = trained
    assert "AVAE in" in printed
    assert "plain VAE in" in printed
    assert "below a plain VAE of the same size" in printed or "above a plain VAE of the same size" in printed
    assert f"report: {workdir / 'report.html'}" in printed
    results = json.loads((workdir / "results.json").read_text())
    assert results["n_test"] == TINY["data.n_test"]
    assert np.isfinite(results["loss"]["avae"]["search"]["sampled"]["mean"])
    assert {path.name for path in (workdir / "figures").iterdir()} >= {"grid.png", "loss_curve.png", "orientation.png"}


@pytest.mark.process
def test_eval_writes_the_same_numbers_again(trained, python):
    workdir, _ = trained
    before = json.loads((workdir / "results.json").read_text())
    done = python("eval.py", f"--workdir={workdir}")
    assert done.returncode == 0, done.stdout
    after = json.loads((workdir / "results.json").read_text())
    assert after["loss"] == before["loss"]
    assert after["search"] == before["search"]
    assert after["orientation"] == before["orientation"]


def test_the_first_lines_run_on_the_weights_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS["python"][0], {"__name__": "example"})
    assert (tmp_path / "aligned.png").stat().st_size > 10_000


@pytest.mark.process  # half a minute to compile
def test_all_python_of_the_readme_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec("".join(BLOCKS["python"]), {"__name__": "example"})
    assert capsys.readouterr().out.count("[") >= 2  # arrays


def test_a_family_of_ones_own_runs_as_the_page_shows_it():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "transforms.md").read_text(), re.DOTALL)
    params = avae.init(jax.random.key(0), avae.MLP(image_shape=(8, 8, 1), latent=2, hidden=(8,)))
    names = {"__name__": "example", "params": params, "x": np.full((2, 8, 8, 1), 0.5, np.float32)}
    exec(example, names)
    assert names["found"].alpha.shape == (2, 1)
    assert (names["found"].loss <= names["found"].info.identity_loss).all()


def test_the_test_commands_are_those_that_ci_runs():
    install, test = BLOCKS["sh"][-1].strip().split(" && ")
    assert install == 'python -m pip install -c constraints.txt -e ".[test]"'
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert test in ci
    assert re.search(r'`(python -m pytest -m "process.*?")`', README).group(1) in ci


def test_every_file_that_the_readme_names_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    paths = re.findall(r"`((?:avae|configs|docs|benchmarks)/[\w/.]*)`", README)
    assert len(links) > 3
    assert len(paths) > 10
    for name in links + paths:
        assert (ROOT / name).exists(), name


def anchors(page):
    """The names that a Markdown page gives its headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_script_that_a_page_names_is_there(page):
    for name in re.findall(r"\b(?:avae|benchmarks|configs|notebooks|tests|tools)/[\w/]+\.py\b", page.read_text()):
        assert (ROOT / name).exists(), name


def test_a_heading_becomes_an_anchor(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Why poses drift, and what `holds` them\n```\n# no heading\n```\n")
    assert anchors(page) == {"why-poses-drift-and-what-holds-them"}


@pytest.mark.process
def test_eval_without_a_run_is_a_sentence(tmp_path, python):
    for arguments, message in (
        ([f"--workdir={tmp_path / 'nothing'}"], "no run here"),
        ([], "--workdir is missing"),
        (["surplus"], "unexpected argument"),
    ):
        done = python("eval.py", *arguments)
        assert done.returncode == 1
        assert message in done.stdout
        assert "Traceback" not in done.stdout


def test_the_readme_names_no_machine():
    assert str(pathlib.Path.home()) not in README
