"""Small files on disk: whole or not at all."""

import os
import pathlib

import pytest

from avae.runtime.files import expanded, write_whole


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "x"
    write_whole(path, "before")
    write_whole(path, "90° and \udcc3")
    assert path.read_text(encoding="utf-8") == "90° and ?"
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_survives_a_failure_and_no_draft_is_left(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_whole(path, "before")

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/runs") == expanded(pathlib.Path("~/runs")) == tmp_path / "runs"
    assert expanded("runs") == pathlib.Path("runs")
    assert os.fspath(expanded("~nobody-of-this-name/x")) == "~nobody-of-this-name/x"
