"""The pages of docs/: each is in the site, and what they show in Python runs, in short form."""

import functools
import importlib.util
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_train import ROOT

import avae

DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("[!_]*.md"))
RUN = {"index", "poses", "performance", "transforms"}  # the last in test_readme.py


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)


def test_every_page_is_in_the_contents():
    listed = re.findall(
        r"^(?!:)([\w/]+)$", "\n".join(re.findall(r"```{toctree}(.*?)```", INDEX, re.DOTALL)), re.MULTILINE
    )
    assert sorted([*listed, "index"]) == PAGES


INDEX = (DOCS / "index.md").read_text()


def test_every_page_with_python_is_run():
    """Tutorials run when the site is built, the reference in test_reference.py."""
    assert {page for page in PAGES if blocks(page)} == RUN


def test_the_page_of_the_proposal(images, params, monkeypatch):
    monkeypatch.setattr(avae, "distill", functools.partial(avae.distill, steps=2, batch_size=2))
    model = avae.Model(avae.MLP(image_shape=(12, 12, 1), hidden=(4,), latent=2), transform=avae.QuarterTurns())
    names = {"avae": avae, "x": images, "params": avae.init(jax.random.key(0), model)}
    exec(blocks("performance")[0], names)
    assert names["found"].alpha.shape == (3, 1)


@pytest.mark.process  # a training and an alignment to compile
def test_the_pages_that_load_and_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(blocks("index")[0], {})
    assert (tmp_path / "aligned.png").stat().st_size > 10_000
    monkeypatch.setattr(
        avae, "fit", functools.partial(avae.fit, epochs=1, batch_size=8, latent=2, transform="rotation")
    )
    x = np.random.default_rng(0).integers(0, 255, (24, 12, 12), np.uint8)
    names = {"x": x}
    exec(blocks("poses")[0], names)
    assert names["found"].canonical.shape == (24, 12, 12, 1)


@pytest.mark.slow  # minutes; needs `pip install -e ".[docs]"`, best in an environment of its own
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs the extra docs")
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", DOCS, tmp_path],
        text=True, capture_output=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        assert (tmp_path / f"{page}.html").exists()
