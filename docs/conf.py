"""The site: `python -m sphinx -W docs docs/_build`, where avae is installed with its extra `docs`."""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
# Tutorials run while the site is built. What they compile runs once, so it is compiled quickly.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["PATH"] = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where `avae` is

import generated  # noqa: E402

project = "avae"
author = "The avae developers"
copyright = "The avae developers, Apache-2.0"
release = version = generated.version()

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "reference/_*"]
html_theme = "furo"
html_title = f"avae {version}"
html_copy_source = False
html_show_sourcelink = False
html_static_path: list[str] = []

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
smartquotes = False


def setup(app) -> None:
    """Writes the pages that come from the code, and reads docstrings as they are written: in Markdown's manner."""
    app.connect("builder-inited", lambda app: generated.write(HERE / "reference"))
    app.connect("autodoc-process-docstring", generated.docstring, priority=1)  # before napoleon
    app.connect("source-read", generated.links)
