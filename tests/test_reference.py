"""The reference of the site: it has every public name, with an example that is right, and every setting."""

import doctest
import importlib.util
import re

import pytest
from test_api import PUBLIC
from test_train import ROOT

import avae

PAGE = (ROOT / "docs" / "reference" / "api.md").read_text()


@pytest.fixture(scope="module")
def generated():
    """The module of the site that reads the code."""
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted({*PUBLIC, "SHIPPED"}))
def test_every_public_name_is_documented_and_in_an_example(name):
    assert re.search(rf"(auto\w+|py:data):: avae\.{name}$", PAGE, re.MULTILINE)
    examples = "".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    shown = name if name in ("Alignment", "Mistake", "fit") else f"avae.{name}"
    assert shown in examples or name == "Alignment"  # what align returns


def test_names_of_the_page_are_there():
    for name in re.findall(r"auto\w+:: avae\.(\w+)$", PAGE, re.MULTILINE):
        assert hasattr(avae, name), name


def test_the_examples_are_right():
    text = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(text, {}, "api.md", "api.md", 0)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.attempted > 40
    assert result.failed == 0


def test_every_setting_has_a_meaning(generated):
    assert generated.undescribed() == []
    table = generated.configuration()
    assert "| `train.epochs` | `30` | passes over the training images. |" in table


def test_every_command_is_on_the_page(generated):
    page = generated.command()
    for name in ("inspect", "train", "align", "report", "export"):
        assert f"## avae {name}\n" in page
