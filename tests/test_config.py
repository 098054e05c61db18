"""Configs: search settings left to the family, what is kept on disk, and older configs."""

import dataclasses
import json

import pytest

import avae
from avae import settings
from avae.config import SEARCH, complete, default, experiment
from avae.runtime.nested import flatten, plain
from avae.settings import DEFAULTS, TWINS
from avae.training import run_folder
from avae.training.versions import VERSION, migrate, removed
from avae.transforms import FAMILIES

SETTINGS = list(SEARCH)
PLANAR = [name for name, family in FAMILIES.items() if family.dim == 2]


def changed(**changes):
    config = default()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def written(workdir):
    return json.loads((workdir / "config.json").read_text())


# --- search settings ------------------------------------------------------------------------------------------------


def test_search_settings_are_unset_by_default():
    config = default()
    assert sorted(config.search) == sorted(SETTINGS)
    assert sorted(config.train.search) == sorted([*SETTINGS, "enabled"])
    assert all(config.search[name] is None for name in SETTINGS)
    assert all(config.train.search[name] is None for name in SETTINGS)
    assert config.train.search.enabled


@pytest.mark.parametrize("name", PLANAR)
def test_the_family_alone_changes_the_search(name):
    described = experiment(changed(transform__name=name))
    family = FAMILIES[name]
    assert type(described.model.transform) is family
    assert described.model.search == TWINS.get(family, DEFAULTS[family])
    assert described.train.search == settings.training(DEFAULTS[family], slides=family.shifts > 0)


def test_networks_without_a_smaller_form_have_the_family_s_own_search():
    described = experiment(changed(model__name="conv"))
    assert described.model.search == DEFAULTS[avae.Rotation]


def test_the_ranges_of_the_family_are_those_given():
    described = experiment(changed(transform__name="affine", transform__max_shear=0.1))
    assert described.model.transform == avae.Affine(max_shear=0.1)


def test_one_setting_leaves_the_others():
    described = experiment(changed(transform__name="rigid", search__n_starts=16, train__search__n_steps=7))
    assert described.model.search == dataclasses.replace(DEFAULTS[avae.Rigid], n_starts=16)
    assert described.train.search == dataclasses.replace(
        settings.training(DEFAULTS[avae.Rigid], slides=True), n_steps=7
    )


def test_unset_settings_have_types():
    config = default()
    config.search.n_starts = 16
    config.search.solver = "adam"
    config.search.learning_rate = 0.1
    with pytest.raises(TypeError, match="n_starts"):
        config.search.n_starts = "many"
    with pytest.raises(TypeError, match="solver"):
        config.search.solver = 3
    changes = {"n_starts": 16, "solver": avae.Adam(0.1)}
    assert experiment(config).model.search == dataclasses.replace(TWINS[avae.Rotation], **changes)
    config.search.solver = "newton"
    with pytest.raises(avae.Mistake, match=r"search\.solver: expected one of gauss_newton, adam, got 'newton'"):
        experiment(config)


def test_training_without_search():
    assert experiment(changed(train__search__enabled=False)).train.search is None


@pytest.mark.parametrize("section", ["search", "train.search"])
def test_a_twin_that_the_networks_do_not_have_is_a_sentence(section):
    config = default()
    config.update_from_flattened_dict({f"{section}.twin": 3})
    with pytest.raises(ValueError, match=r"search.twin: expected 1, or a divisor of the sides of images \(28, 28, 1\)"):
        experiment(config)
    config.update_from_flattened_dict({f"{section}.twin": 2})
    experiment(config)


# --- frame ----------------------------------------------------------------------------------------------------------


def test_the_networks_take_the_frame_and_the_model_takes_images():
    model = experiment(changed(frame__margin=2)).model
    assert model.frame == avae.Frame(2)
    assert model.networks.image_shape == (32, 32, 1)
    assert model.image_shape == (28, 28, 1)
    assert experiment(default()).model.frame == avae.Frame()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"margn": 2}, "config.frame: unknown setting 'margn'; did you mean 'margin'"),
        ({"margin": -1}, "frame.margin: expected a whole number of at least 0, got -1"),
        ({"margin": 0.5}, "frame.margin: expected a whole number of at least 0, got 0.5"),
        ({"margin": "two"}, "frame"),
    ],
)
def test_a_wrong_frame_is_a_sentence(frame, message):
    config = plain(default())
    config["frame"] |= frame
    with pytest.raises(ValueError, match=message):
        experiment(config)


# --- on disk --------------------------------------------------------------------------------------------------------


def test_a_complete_config_says_all_of_the_search():
    config = complete(plain(changed(transform__name="affine", search__top_k=3)))
    search = {"n_starts": 512, "twin": 1, "top_k": 3, "n_local": (4, 4), "n_refined": 8, "n_steps": 12, "n_settle": 0}
    assert config["search"] == search | {"solver": "gauss_newton", "damping": 0.01, "learning_rate": None}
    assert config["train"]["search"]["n_starts"] == 64
    assert config["train"]["search"]["enabled"]
    assert complete(config) == config
    unset = {name for name, value in flatten(config).items() if value is None}
    searches = {"search.learning_rate", "train.search.learning_rate"}
    assert unset == searches | {"likelihood.scale", "likelihood.mask", "data.masks"}


def test_a_complete_config_describes_the_same_experiment():
    config = changed(transform__name="rigid", search__n_local=(3,), frame__margin=1)
    assert experiment(complete(plain(config))) == experiment(config)
    assert experiment(json.loads(json.dumps(complete(plain(config))))) == experiment(config)


def test_the_values_are_kept_when_the_family_s_change(monkeypatch, tmp_path):
    run_folder.claim(tmp_path, default())
    before = TWINS[avae.Rotation]
    monkeypatch.setitem(TWINS, avae.Rotation, avae.Search(n_starts=99))
    assert run_folder.load_experiment(tmp_path).model.search == before
    assert experiment(default()).model.search.n_starts == 99


def test_claim_writes_values(tmp_path):
    run_folder.claim(tmp_path, changed(search__n_starts=16))
    config = written(tmp_path)
    assert config["search"]["n_starts"] == 16
    assert config["search"]["top_k"] == TWINS[avae.Rotation].top_k
    assert config["train"]["search"]["n_steps"] == 3
    assert all(config["search"][name] is not None for name in SETTINGS if name != "learning_rate")
    assert run_folder.load_experiment(tmp_path) == experiment(changed(search__n_starts=16))


def old_config(*missing):
    """A config as an older version would have written it, without the settings named."""
    config = complete(plain(default()))
    for name in missing:
        *sections, last = name.split(".")
        section = config
        for part in sections:
            section = section[part]
        del section[last]
    return config


@pytest.mark.parametrize(
    "missing",
    [
        ("frame",),
        ("frame.margin",),
        ("search.damping", "train.search.damping", "search.n_local", "search.twin"),
        ("search",),
        ("data.test_pose", "data.stretch"),
        ("train.search",),
        ("evaluation",),
        ("transform.max_shear", "data.transform"),
    ],
)
def test_older_configs_take_defaults_for_what_they_lack(missing, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(old_config(*missing)))
    assert run_folder.load_experiment(tmp_path) == experiment(default())
    run_folder.claim(tmp_path, default())  # it is the same run
    assert written(tmp_path) == json.loads(json.dumps({"version": VERSION} | complete(default())))


def test_older_configs_keep_what_they_say():
    config = old_config("frame", "search.damping") | {"transform": {"name": "rigid", "max_shift": 0.1}}
    config["search"]["n_starts"] = 11
    described = experiment(complete(config))
    assert described.model.transform == avae.Rigid(0.1)
    assert described.model.search.n_starts == 11


def test_search_settings_may_change_but_those_of_training_and_the_frame_may_not(tmp_path):
    run_folder.claim(tmp_path, default())
    run_folder.claim(tmp_path, changed(search__n_starts=16))
    assert written(tmp_path)["search"]["n_starts"] == 16
    message = r"train.search.n_starts: 32 there, 16 here"
    with pytest.raises(ValueError, match=message):
        run_folder.claim(tmp_path, changed(train__search__n_starts=16))
    with pytest.raises(ValueError, match=r"frame.margin: 0 there, 2 here"):
        run_folder.claim(tmp_path, changed(frame__margin=2))
    with pytest.raises(ValueError, match=r"transform.name: 'rotation' there, 'rigid' here"):
        run_folder.claim(tmp_path, changed(transform__name="rigid"))


def test_a_setting_that_no_longer_exists_does_not_keep_a_run_from_being_read(tmp_path):
    config = old_config()
    config["train"]["beta_start"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run_folder.load_experiment(tmp_path) == experiment(default())
    run_folder.claim(tmp_path, default())
    assert "beta_start" not in written(tmp_path)["train"]


def test_a_run_whose_training_had_what_no_longer_exists_is_read_but_not_trained_on(tmp_path):
    config = old_config()
    config["train"]["beta_start"] = 8.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run_folder.load_experiment(tmp_path) == experiment(default())
    with pytest.raises(avae.Mistake, match=r"another config \(train.beta_start: 8.0 there, None here\)"):
        run_folder.claim(tmp_path, default())
    assert written(tmp_path)["train"]["beta_start"] == 8.0


def test_migration_changes_nothing_in_a_config_of_today():
    config = complete(default())
    assert migrate({"version": VERSION} | config) == config
    assert removed(config) == {}
    before = json.dumps(config)
    migrate(config)
    assert json.dumps(config) == before


@pytest.mark.parametrize("version", [VERSION + 1, "two"])
def test_a_config_of_a_newer_version_is_a_sentence(version, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"version": version, "nonsense": {}}))
    with pytest.raises(avae.Mistake, match=f"config.version: expected at most {VERSION}, .*a newer avae wrote this"):
        run_folder.load_experiment(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"frame": {"margn": 2}}', "config.frame: unknown setting 'margn'; did you mean 'margin'"),
        ('{"nonsense": 2}', "config: unknown setting 'nonsense'"),
        ('{"search": 5}', "config.search: expected a section of settings, got 5"),
        ('{"train": {"search": []}}', r"config.train.search: expected a section of settings, got \(\)"),
        ("[1, 2]", "config: expected a section of settings"),
        ('{"transform": {"name": "rotations"}}', "transform.name: .*did you mean 'rotation'"),
    ],
)
def test_a_damaged_config_is_a_sentence(content, message, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        run_folder.load_experiment(tmp_path)
