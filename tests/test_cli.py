"""The command line: what it says, and how it ends."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from template import picture, turned
from test_train import ROOT

from avae import cli

IMAGES = turned(picture(), np.arange(20) * 31.0)[..., 0]


@pytest.fixture
def stack(tmp_path):
    np.save(tmp_path / "stack.npy", IMAGES)
    return str(tmp_path / "stack.npy")


def ends(capsys, *argv):
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 1
    return capsys.readouterr().err


def test_inspect_says_what_is_there_and_what_would_be_chosen(stack, capsys):
    cli.main(["inspect", stack])
    said = capsys.readouterr().out
    assert "20 images of 20 x 20, stored as float32" in said
    assert "labels: none" in said
    assert "transform.name" in said
    assert "rigid" in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("trian", "x"), "invalid choice: 'trian'"),
        (("train", "{stack}"), "the following arguments are required: --out"),
        (("train", "{stack}", "--out", "{out}", "--transform", "rigit"), "invalid choice: 'rigit'"),
        (("train", "{stack}", "--out", "{out}", "--set", "train.epoch=3"), "did you mean 'train.epochs'"),
        (("train", "{stack}", "--out", "{out}", "--set", "train.epochs=many"), "--set: train.epochs: "),
        (("inspect", "{stack}x"), "nothing is at"),
        (("align", "{out}", "{stack}", "--out", "{out}/poses"), "no run here"),
        (("export", "{out}", "--to", "star"), "there is no poses.npz"),
        (("report", "{out}"), "no run here"),
    ],
)
def test_mistakes_end_in_a_sentence(argv, said, stack, tmp_path, capsys):
    argv = [part.format(stack=stack, out=tmp_path / "out") for part in argv]
    assert said in ends(capsys, *argv)
    assert not (tmp_path / "out").exists()


def test_the_commands_of_the_readme_and_the_docs_are_commands():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "poses.md").read_text()
    lines = re.findall(r"^ {0,4}(avae [a-z].*?)(?:#.*)?$", text, re.MULTILINE)
    commands = [part.split() for line in lines for part in line.split(" && ")]
    assert len(commands) >= 4
    for command in commands:
        assert cli._parser().parse_args(command[1:]).command


@pytest.mark.process
def test_python_m_avae_in_an_ascii_terminal(stack):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "avae", "inspect", stack], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "20 images" in done.stdout
