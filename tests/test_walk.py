"""Which files of a folder are examples, of which label and part; what is left out is counted and named."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from avae.data import sources
from avae.data.sources import walk
from avae.runtime import files


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def find(root, **options):
    return [
        (str(file.path.relative_to(root)), file.category) for file in walk.find(root, (".png",), "images", **options)
    ]


@pytest.fixture
def root(tmp_path):
    touch(tmp_path / "root" / "cells" / "0.png", tmp_path / "root" / "cells" / "1.PNG")
    return tmp_path / "root"


CELLS = [("cells/0.png", "cells"), ("cells/1.PNG", "cells")]


def test_linked_folders_and_files_are_followed(root, tmp_path, capsys):
    touch(tmp_path / "store" / "deep" / "2.png")
    (root / "debris").symlink_to(tmp_path / "store")
    (root / "cells" / "3.png").symlink_to(tmp_path / "store" / "deep" / "2.png")
    assert find(root) == [*CELLS, ("cells/3.png", "cells"), ("debris/deep/2.png", "debris")]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("target", [".", "..", "cells", "cells/again"])
def test_circles_end(root, capsys, target):
    (root / "cells" / "again").symlink_to((root / target).absolute())
    assert find(root)[:2] == CELLS
    assert len(find(root)) <= 4
    assert "again" in capsys.readouterr().err


def test_a_folder_that_is_linked_twice_is_read_twice(root, capsys):
    (root / "other").symlink_to(root / "cells")
    assert [category for _, category in find(root)] == ["cells", "cells", "other", "other"]


def test_what_is_left_out_is_counted_and_named(root, capsys, monkeypatch):
    touch(root / "notes.txt", root / "cells" / "2.bmp", root / ".hidden" / "9.png", root / "__MACOSX" / "9.png")
    (root / "gone.png").symlink_to(root / "nowhere")
    (root / "locked").mkdir()
    real = pathlib.Path.iterdir

    def iterdir(self):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(pathlib.Path, "iterdir", iterdir)
    assert find(root) == CELLS
    said = capsys.readouterr().err
    assert "4 left out that are no images" in said
    for words in ("2.bmp", "notes.txt", "gone.png (a link to nothing", "locked (Permission denied)"):
        assert words in said
    find(root, quiet=True)
    assert capsys.readouterr().err == ""


def test_a_class_may_have_a_name_that_begins_with_underscores(root):
    touch(root / "__background__" / "0.png")
    assert ("__background__/0.png", "__background__") in find(root)


def test_files_of_other_kinds_alone_are_named(tmp_path):
    touch(tmp_path / "a.bmp")
    with pytest.raises(ValueError, match=r"expected images .* found none \(left out: a\.bmp\)"):
        find(tmp_path)


def test_names_need_not_be_text(tmp_path, capsys):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    for name in (b"\xe9t\xe9", "été".encode()):
        folder = root / os.fsdecode(name)
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((5, 4), i, np.uint8)).save(folder / os.fsdecode(b"\xff%d.png" % i))
    (root / os.fsdecode(b"\xff.txt")).write_text("")
    raw = sources.read(str(root), dim=2, n_train=4, n_test=2)
    assert raw.class_names == (r"\xe9t\xe9", "été")
    assert r"\xff.txt" in capsys.readouterr().err
    assert len(sources.fingerprint(str(root), dim=2)) == 16
    with pytest.raises(ValueError, match="at most"):
        sources.read(str(root), dim=2, n_train=9, n_test=2)


def test_a_tilde_is_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert files.expanded("~/data") == pathlib.Path("/home/someone/data")
    assert files.expanded("~nobody-of-that-name/data") == pathlib.Path("~nobody-of-that-name/data")
