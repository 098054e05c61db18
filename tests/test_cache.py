"""The cache: written whole or not at all, checked, and built again where it is damaged or out of date."""

import json
import os
import pathlib

import numpy as np
import pytest

from avae.data.sources import cache


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """Calls `cached` on a cache of its own; the list of what was built, and its folder."""
    monkeypatch.setenv("AVAE_CACHE", str(tmp_path))
    built = []

    def cached(source="one", n=3):
        def build(made):
            built.append(source)
            cache.write(made / "images.npy", (np.full((2, 2), i, np.uint8) for i in range(n)))
            return {"n": n}

        return cache.cached("sets/a", source, build)

    return cached, built, tmp_path / "sets" / "a"


def test_it_is_built_once_and_memory_mapped(builds):
    cached, built, folder = builds
    for _ in range(2):
        arrays, facts = cached()
        assert isinstance(arrays["images"], np.memmap)
        np.testing.assert_array_equal(arrays["images"][:, 0, 0], [0, 1, 2])
        assert facts == {"n": 3}
    assert built == ["one"]
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_another_source_builds_it_again(builds, capsys):
    cached, built, _ = builds
    cached()
    arrays, _ = cached("two", n=4)
    assert len(arrays["images"]) == 4
    assert built == ["one", "two"]
    assert "made from something else" in capsys.readouterr().err


def damage(folder, how):
    path = folder / ("manifest.json" if how.startswith("manifest") else "images.npy")
    content = bytearray(path.read_bytes())
    if how.endswith("gone"):
        path.unlink()
    elif how.endswith("cut"):
        path.write_bytes(content[: len(content) // 2])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))  # whatever the resolution of the clock


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "manifest cut", "manifest gone"])
def test_what_is_damaged_is_named_and_built_again(builds, capsys, how):
    cached, built, folder = builds
    cached()
    damage(folder, how)
    arrays, _ = cached()
    np.testing.assert_array_equal(arrays["images"][:, 0, 0], [0, 1, 2])
    assert built == ["one", "one"]
    said = capsys.readouterr().err
    assert str(folder) in said
    assert "damaged" in said
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_a_build_that_fails_leaves_nothing(builds):
    _, _, folder = builds

    def full(made):
        (made / "images.npy").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match=r"cache: cannot write .*No space left on device.*AVAE_CACHE"):
        cache.cached("sets/a", "one", full)
    assert list(folder.parent.iterdir()) == []


def test_a_build_that_fails_leaves_what_was_there(builds):
    cached, _, _ = builds
    cached()

    def refused(made):
        raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        cache.cached("sets/a", "two", refused)
    arrays, _ = cached()
    assert len(arrays["images"]) == 3


def test_another_process_may_be_faster(builds):
    cached, built, folder = builds

    def late(made):
        cached()  # meanwhile
        cache.write(made / "images.npy", [np.zeros((2, 2), np.uint8)])
        return {"n": 1}

    arrays, _ = cache.cached("sets/a", "one", late)
    assert built == ["one"]
    assert len(arrays["images"]) == 3
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32])
def test_what_is_written_is_an_array_of_numpy(tmp_path, dtype):
    arrays = np.arange(24).reshape(4, 2, 3).astype(dtype)
    assert cache.write(tmp_path / "a.npy", iter(arrays)) == 4
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), arrays)
    assert np.load(tmp_path / "a.npy").dtype == dtype


def test_nothing_to_write_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="expected examples, got none"):
        cache.write(tmp_path / "a.npy", [])


def test_the_manifest_has_a_checksum_for_each_file(builds):
    cached, _, folder = builds
    cached()
    assert set(json.loads((folder / "manifest.json").read_text())["sha256"]) == {"images.npy"}


def test_the_root_follows_the_environment(monkeypatch):
    monkeypatch.delenv("AVAE_CACHE")
    assert cache.root() == pathlib.Path.home() / ".cache" / "avae"
    monkeypatch.setenv("AVAE_CACHE", "~/elsewhere")
    assert cache.root() == pathlib.Path.home() / "elsewhere"
