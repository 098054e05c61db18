"""What the site takes from the code: the help of the commands, the settings of a config, and docstrings."""

import argparse
import dataclasses
import inspect
import pathlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from avae import cli
from avae.config import default
from avae.data.described import Data
from avae.experiment import Evaluation, Train
from avae.networks.pose_network import PoseNetwork
from avae.networks.vae import LIKELIHOODS, NETWORKS
from avae.runtime.nested import flatten, plain
from avae.settings import SOLVERS, Search
from avae.transforms.frame import Frame

ROOT = pathlib.Path(__file__).parent.parent
# The classes that a section of a config describes: their docstrings explain its settings.
SECTIONS: Mapping[str, tuple[Any, ...]] = {
    "data": (Data,),
    "model": tuple(NETWORKS.values()),
    "frame": (Frame,),
    "likelihood": tuple(LIKELIHOODS.values()),
    "transform": (),
    "search": (Search, *SOLVERS.values()),
    "pose_network": (PoseNetwork,),
    "train": (Train,),
    "evaluation": (Evaluation,),
}
# Settings that choose between classes, or belong to many of them.
WORDS = {
    "data.transform": "see `transform`: the family from whose prior the poses of the data are drawn.",
    "model.name": '"mlp" or "conv": `avae.MLP`, `avae.Conv`.',
    "likelihood.name": '"bernoulli" or "gaussian"; "paper" is the published code\'s squared error.',
    "likelihood.floor": "Bernoulli: the mean is clamped to [floor, 1 - floor].",
    "likelihood.mask": 'a weight for each pixel of all images: None, "disc", or a .npy file.',
    "transform.name": "a [family of poses](../transforms.md).",
    "transform.mirror": "whether objects may also be seen in a mirror.",
    "transform.spacing": "size of a voxel along x, y, z.",
    "transform.max_angle": "in the plane: the largest angle, in radians.",
    "transform.max_shift": "the largest shift, in half-widths.",
    "transform.max_scale": "the largest factor of size, and its inverse the smallest.",
    "transform.max_shear": "the largest tangent of a shear.",
    "search": "settings of the search; None for those of the family.",
    "search.solver": '"gauss_newton" or "adam".',
    "pose_network.enabled": "whether training also fits a network that proposes poses.",
    "train.search": "see `search`: settings of the search in training; None for a cheaper form of that at inference.",
    "train.search.enabled": "whether training searches at all; False trains a plain VAE.",
}


def version() -> str:
    """That of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def write(folder: pathlib.Path) -> None:
    """Writes the generated parts of the reference."""
    (folder / "_command.md").write_text(command(), encoding="utf-8")
    (folder / "_configuration.md").write_text(configuration(), encoding="utf-8")


def command() -> str:
    """`avae --help` and that of every command, in Markdown."""
    parser = cli._parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parts = [f"```text\n{parser.format_help()}```"]
    parts += [f"## avae {name}\n\n```text\n{one.format_help()}```" for name, one in commands.choices.items()]
    return "\n\n".join(parts) + "\n"


def configuration() -> str:
    """A table for every section of a config: setting, default, meaning."""
    parts, settings = [], plain(default())
    for section, classes in SECTIONS.items():
        words = {name: text for one in classes for name, text in attributes(one)}
        rows = ["| setting | default | meaning |", "|---|---|---|"]
        for name, value in settings[section].items():
            full = f"{section}.{name}"
            meaning = WORDS.get(full) or words.get(name) or ""
            shown = "" if isinstance(value, Mapping) else f"`{value!r}`"
            rows.append(f"| `{full}` | {shown} | {meaning.replace('|', chr(92) + '|')} |")
        parts.append(f"## {section}\n\n{WORDS.get(section, '')}\n\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def undescribed() -> list[str]:
    """Settings of a config without a meaning in the table."""
    table = configuration()
    return [name for name in flatten(plain(default())) if re.search(rf"`{re.escape(name)}` \|.*\|  \|", table)]


def attributes(cls: Any) -> Iterator[tuple[str, str]]:
    """The names and texts under "Attributes:" in the docstring of a class."""
    text = inspect.getdoc(cls) or ""
    _, _, listed = text.partition("Attributes:\n")
    names = [field.name for field in dataclasses.fields(cls)]
    for match in re.finditer(r"^  (\w+): (.*?)(?=^  \w+: |^\S|\Z)", listed, re.MULTILINE | re.DOTALL):
        if match[1] in names:
            yield match[1], " ".join(match[2].split())


def docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are Markdown: one backtick for code, indented equations, stars that are only stars."""
    out: list[str] = []
    section = False
    for line in lines:
        section = section or bool(re.match(r"(Args|Attributes|Returns|Raises|Yields):$", line))
        code = not section and line.startswith("    ")
        if code and (not out or not out[-1].strip() or not out[-1].startswith("    ")):
            out += ["", "::", ""]
        out.append(line if code else "".join(_escaped(line)))
    lines[:] = out


def links(app: Any, name: str, source: list[str]) -> None:
    """Files of the repository that are no pages of the site are offered for download."""
    source[0] = re.sub(r"\[([^\]]+)\]\((\.\./(?:benchmarks|avae|configs)/[^)]+)\)", r"{download}`\1 <\2>`", source[0])


def _escaped(line: str) -> Iterator[str]:
    """The parts of a line, with two backticks for one, and no meaning in stars and bars."""
    for i, part in enumerate(re.split(r"`([^`]*)`", line)):
        after = "\\ " if i and not i % 2 and re.match(r"[\w^\[]", part) else ""
        yield f"``{part}``" if i % 2 else after + re.sub(r"([*|])", r"\\\1", part)
