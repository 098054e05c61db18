"""README and docs/ hold the numbers of one table, and each has a command that gives it again."""

import importlib
import json
import pathlib
import re

import pytest
from test_train import ROOT

HEAD = "| what | command | avae | plain VAE | best rival | minutes |"


@pytest.fixture
def reproduce(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("reproduce")


def rows_of_the_readme():
    """The cells of its results by column, one dict per row."""
    lines = (ROOT / "README.md").read_text().splitlines()
    start = lines.index(HEAD)
    names = [cell.strip() for cell in HEAD.strip("| ").split(" | ")]
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return table
        table.append(dict(zip(names, [cell.strip() for cell in line.strip().strip("|").split("|")], strict=True)))
    return table


def test_every_result_of_the_readme_is_in_the_table(reproduce):
    entries = {entry["command"]: entry["numbers"] for entry in reproduce.read().values()}
    for row in rows_of_the_readme():
        numbers = entries[row["command"].strip("`")]
        for column in ("avae", "plain VAE"):
            assert row[column] == numbers.get(column, ""), row["what"]
        rival, _, whose = row["best rival"].partition(", ")
        assert rival == numbers.get("best rival", "") or re.search("as published|reduced", whose), row["what"]


def test_every_number_of_the_table_is_on_its_pages(reproduce):
    for name, entry in reproduce.read().items():
        for page in entry["pages"]:
            text = (ROOT / page).read_text()
            for what, number in entry["numbers"].items():
                assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", text), (name, what, page)


def test_what_is_in_the_table_is_from_the_recipes(reproduce):
    table = reproduce.read()
    assert list(table) == [name for name in reproduce.RECIPES if name in table]
    for name in table:
        recipe = reproduce.RECIPES[name]
        assert table[name]["command"] == recipe.command
        assert table[name]["pages"] == list(recipe.pages)
        assert table[name]["commit"]
        assert table[name]["machine"]
    assert reproduce.PAGE.read_text() == reproduce.page(table)


def test_tables_of_comparisons_are_on_the_page_as_they_were_written():
    results = (ROOT / "docs" / "results.md").read_text()
    for path in sorted((ROOT / "benchmarks" / "results").glob("rival_*.md")):
        for line in path.read_text().splitlines():
            assert not line.startswith("|") or line in results, (path.name, line)


def test_numbers_are_read_from_results(reproduce, tmp_path, monkeypatch):
    for seed, loss in enumerate((1.0, 2.0)):
        bound = {"avae": {"mean": -loss, "standard_error": 0.125}}
        (tmp_path / f"{seed}").mkdir()
        results = {"loss": {"avae": {"search": {"sampled": {"mean": loss}}}}, "bound": bound}
        (tmp_path / f"{seed}" / "results.json").write_text(json.dumps(results))
    read = reproduce.of_runs(avae=reproduce.SEARCHED, the_bound="bound.avae")
    assert read(tmp_path, "") == {"avae": "1.50", "the bound": "-1.50"}
    (tmp_path / "1" / "results.json").unlink()
    assert read(tmp_path, "")["the bound"] == "-1.00 ± 0.12"
    printed = "| network | J | bound |\n|---|---|---|\n| VAE, plain | 3.0 | -4.0 ± 0.1 |\n"
    assert reproduce.of_printed(2, best="VAE, plain")(tmp_path, printed) == {"best": "-4.0 ± 0.1"}
    lines = [{"seed": 0, "median": 9.0}, {"seed": 0, "median": 1.0}, {"seed": 1, "median": 2.0}]
    (tmp_path / "drift.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert reproduce.of_drift(tmp_path, "") == {"avae": "1.50°"}
    lines = ["| asked | method | right | minutes |", "|---|---|---|---|", "| line | avae | 0.7 | 3 epochs |"]
    (tmp_path / "mine.md").write_text("\n".join([*lines, "| line | VAE, plain | 0.6 | |", "| line | PCA | | -2 |"]))
    monkeypatch.setattr(reproduce, "TABLE", tmp_path / "kept" / "numbers.json")
    (tmp_path / "kept").mkdir()
    named = reproduce.of_table("mine")(tmp_path, "")
    assert named == {"line, avae": "0.7", "line, VAE, plain": "0.6", "line, PCA": "-2"}
    assert (tmp_path / "kept" / "mine.md").exists()
    rates = [{"name": "avae.align default 48", "images_per_second": 1234.5}]
    rates.append({"name": "PyTorch search 32", "images_per_second": 9.87})
    (tmp_path / "align_mlp_64.json").write_text(json.dumps({"rows": rates}))
    assert reproduce.of_speed(tmp_path, "") == {"avae": "1,234", "best rival": "9.9"}


def test_a_recipe_is_run_and_entered(reproduce, tmp_path, monkeypatch, capsys):
    script = tmp_path / "script.py"
    script.write_text("import os, sys; print(f'| row | {os.environ[\"SIZE\"]} |'); print(sys.argv[1], file=sys.stderr)")
    recipe = reproduce.Recipe("SIZE=7 python {script}", reproduce.of_printed(1, size="row"), ("{out}",))
    monkeypatch.setattr(reproduce, "RECIPES", {"mine": recipe})
    monkeypatch.setattr(reproduce, "TABLE", tmp_path / "numbers.json")
    monkeypatch.setattr(reproduce, "PAGE", tmp_path / "page.md")
    reproduce.main(["--only", "mine", "--given", f"script={script}", f"--root={tmp_path / 'runs'}"])
    assert "mine, size: 7 (before: none)" in capsys.readouterr().out
    (entry,) = reproduce.read().values()
    assert entry["numbers"] == {"size": "7"}
    assert float(entry["minutes"]) < 1
    assert "| mine | `SIZE=7 python {script}` | size 7 |" in (tmp_path / "page.md").read_text()
    with pytest.raises(SystemExit, match="expected --given script=PATH"):
        reproduce.main(["--only", "mine"])
    with pytest.raises(SystemExit):
        reproduce.main(["--only", "yours"])
    assert "expected names out of mine, got 'yours'" in capsys.readouterr().err
    reproduce.main(["--list"])
    assert capsys.readouterr().out.startswith("mine: SIZE=7 python {script}")


def test_every_command_names_a_script_that_is_there(reproduce):
    for recipe in reproduce.RECIPES.values():
        (script,) = re.findall(r"python (\S+\.py)", recipe.command)
        assert (pathlib.Path(ROOT) / script).exists()
