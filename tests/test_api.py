"""The rules that every public name keeps, by inspection."""

import ast
import dataclasses
import inspect
import pathlib
import subprocess
import sys
from typing import Any

import pytest

import avae

EVERYTHING = {name: getattr(avae, name) for name in dir(avae) if not name.startswith("_") and name != "TYPE_CHECKING"}
PUBLIC = {name: value for name, value in EVERYTHING.items() if not inspect.ismodule(value) and value is not Any}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isroutine(value)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
METHODS = {
    f"{owner}.{name}": value
    for owner, made in CLASSES.items()
    for name, value in vars(made).items()
    if inspect.isfunction(value) and not name.startswith("_")
}
MODULES = sorted(pathlib.Path(avae.__file__).parent.rglob("*.py"))


def test_public_names_are_those_of_the_package():
    assert {"Params", "Model", "align", "fit", "init", "load", "objective", "search", "warp"} <= set(PUBLIC)
    for name, value in (FUNCTIONS | CLASSES).items():
        assert value.__module__.split(".")[0] == "avae", name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'alignment'"):
        _ = avae.alignment


@pytest.mark.process
def test_aligning_imports_nothing_that_only_training_needs():
    heavy = "grain", "orbax.checkpoint", "scipy.fft", "matplotlib", "PIL", "ml_collections", "tensorflow"
    code = f"import sys, avae; avae.align, avae.Params; print(sorted(set(sys.modules) & set({heavy})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented(name):
    doc = inspect.getdoc(FUNCTIONS[name]) or ""
    assert doc.split("\n")[0].endswith((".", "?", ":"))
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    if parameters:
        assert "Args:" in doc
        assert "Returns:" in doc
        for parameter in parameters:
            assert f"  {parameter}:" in doc, parameter


@pytest.mark.parametrize("name", [*CLASSES, *METHODS])
def test_classes_and_methods_are_documented(name):
    value = (CLASSES | METHODS)[name]
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # what dataclasses and named tuples write by themselves


@pytest.mark.parametrize("name", [name for name, value in CLASSES.items() if dataclasses.is_dataclass(value)])
def test_dataclasses_are_frozen_and_describe_their_fields(name):
    made = CLASSES[name]
    assert made.__dataclass_params__.frozen
    fields = [field.name for field in dataclasses.fields(made)]
    assert not any(field == "rng" for field in fields)


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_random_keys_are_called_key(name):
    for parameter in inspect.signature((FUNCTIONS | METHODS)[name]).parameters.values():
        if name != "fit":  # a run has a seed, as in its config
            assert not any(word in parameter.name for word in ("rng", "seed", "prng")), parameter.name
        assert parameter.name == "key" or not parameter.name.endswith("key"), parameter.name


@pytest.mark.parametrize(
    ("name", "positional"), [("align", ["params", "x"]), ("search", ["loss_fn", "x", "transform"])]
)
def test_options_are_keyword_only(name, positional):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    assert [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY] == positional
    options = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert options[0].name == "key"  # first among the options
    assert all(option.default is None for option in options)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
    assert not [name for name in imported if name.startswith("jax._src")]
    assert "jax._src" not in path.read_text()
