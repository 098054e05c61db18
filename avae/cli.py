"""The command line: `avae inspect`, `train`, `align`, `report` and `export`.

avae train stack.mrcs --out run && avae align run stack.mrcs --out poses
"""

import argparse
import ast
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ml_collections import ConfigDict

from avae import choose
from avae.command import script, sentences
from avae.data import sources
from avae.poses import export, folder
from avae.run import fit_config, report
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake, suggestion
from avae.runtime.nested import flatten, plain
from avae.runtime.progress import say
from avae.training import run_folder
from avae.transforms import FAMILIES


class _Parser(argparse.ArgumentParser):
    """Mistakes end in a sentence, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise Mistake(f"{message}; `{self.prog} --help` says more")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; ends the process with its code if it was not given arguments."""
    if argv is None:
        script(lambda argv: _run(argv[1:]))
    else:
        _run(argv)


def _run(argv: Sequence[str]) -> None:
    with sentences():
        args = _parser().parse_args(argv)
        args.command(args)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="avae", description="Finds the pose of every image: an affine variational autoencoder.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str, **arguments: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        for argument, of in arguments.items():
            one.add_argument(argument, metavar=argument.upper(), help=of)
        return one

    def fit(one: argparse.ArgumentParser) -> None:
        one.add_argument("--fit", choices=sources.WAYS, default="", help="brings images of several sizes to one")

    data = "a stack (.npy, .npz, .mrcs, .tif, ...) or a folder of images"
    run, out = "the folder of a run", "the folder of the result; `~` is the home folder"
    one = add("inspect", _inspect, "Says what DATA holds, how it is read, and what a run would choose.", data=data)
    fit(one)
    one = add("train", _train, "Trains a model on DATA; started again, it goes on where it was stopped.", data=data)
    one.add_argument("--out", required=True, metavar="RUN", help=out)
    one.add_argument("--transform", choices=sorted(FAMILIES), help="the family of poses that is searched")
    one.add_argument("--latent", type=int, help="latent variables")
    one.add_argument("--likelihood", choices=("bernoulli", "gaussian"), help="of pixels")
    one.add_argument("--epochs", type=int, help="passes over the images")
    one.add_argument("--batch-size", type=int, help="images per step")
    one.add_argument("--mirror", action="store_true", help="objects may be seen in a mirror")
    one.add_argument("--background", type=float, help="level outside of the images, in their own values")
    fit(one)
    one.add_argument("--seed", type=int, default=0, help="of weights, split and draws")
    one.add_argument("--poses", metavar="POSES", help="known poses to begin with, as for `avae align --around`")
    one.add_argument("--start", metavar="RUN", help="begin with the weights of this run")
    one.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="any other setting")
    one = add(
        "align",
        _align,
        "Aligns DATA by a run: a table of poses, aligned images, averages.",
        run=run,
        data=data,
    )
    one.add_argument("--out", required=True, metavar="DIR", help=out)
    fit(one)
    one.add_argument("--also", action="append", default=[], metavar="DATA", help="masks or channels to move with them")
    poses = "known poses: star (those in DATA), a .star, a folder that `avae align` wrote, or a .npy"
    one.add_argument("--around", default="", metavar="POSES", help=f"search near {poses}")
    one.add_argument("--within", type=float, help="how far, in radians and half-widths; 0.2 if left")
    one.add_argument("--best", action="store_true", help="the checkpoint of lowest loss, not the newest")
    one = add("report", _report, "Measures a run on the images it held out, and writes its report.", run=run)
    one.add_argument("--data", help="where the data are now, if they were moved")
    one = add("export", _export, "Writes the poses for another tool.", poses="a folder that `avae align` wrote")
    one.add_argument("--to", required=True, choices=export.KINDS, help="RELION table, table, arrays, ITK transforms")
    one.add_argument(
        "--out", metavar="PATH", help="the file, or the folder of the transforms; beside the poses if left"
    )
    return parser


def _inspect(args: argparse.Namespace) -> None:
    seen = choose.look(_source(args.data), args.fit)
    _, choices = choose.chosen(seen)
    say(_described(seen))
    say("a run would choose\n" + choose.as_text(choices))


def _train(args: argparse.Namespace) -> None:
    out = expanded(args.out)
    seen = choose.look(_source(args.data), args.fit)
    names = ("transform", "latent", "likelihood", "epochs", "batch_size", "background", "seed", "start", "poses")
    config, choices = choose.chosen(seen, {name: getattr(args, name) for name in names} | {"mirror": args.mirror})
    _set(config, args.set)
    run_folder.check(out, config)
    say(_described(seen) + "\n" + choose.as_text(choices), sys.stderr)
    fit_config(config, out)
    say(f"trained: {out}\nnext: avae align {args.out} {args.data} --out POSES, or: avae report {args.out}")


def _align(args: argparse.Namespace) -> None:
    run, out, also = expanded(args.run), expanded(args.out), [_source(name) for name in args.also]
    if args.within is not None and not args.around:
        raise Mistake("--within: expected --around POSES beside it")
    options = {name: getattr(args, name) for name in ("best", "fit", "around", "within")}
    page = folder.align_source(run, _source(args.data), out, also=also, **options)
    say(f"poses: {page}")


def _report(args: argparse.Namespace) -> None:
    report(args.run, data=args.data)


def _export(args: argparse.Namespace) -> None:
    say(f"{args.to}: {folder.exported(expanded(args.poses), args.to, args.out)}")


def _source(name: str) -> str:
    return name if name in sources.EMBEDDED or name.startswith(sources.tfds.PREFIX) else str(expanded(name))


def _described(seen: choose.Look) -> str:
    noun = "images" if seen.dim == 2 else "volumes"
    size = " x ".join(map(str, seen.shape[:-1])) + (f", {seen.shape[-1]} channels" if seen.shape[-1] > 1 else "")
    lines = [
        f"{seen.name}: {seen.n:,} {noun} of {size}, stored as {seen.dtype}",
        f"values as read: {seen.low:.4g} to {seen.high:.4g}, mean {seen.mean:.4g}, standard deviation {seen.std:.4g}",
        f"background (median at the borders, as stored): {', '.join(f'{level:.4g}' for level in seen.background)}",
        f"labels: {seen.labels or 'none'}" + (f"; its own split: {seen.n_test:,} for tests" if seen.n_test else ""),
    ]
    return "\n".join(lines)


def _set(config: ConfigDict, given: Sequence[str]) -> None:
    """Settings "section.name=value" into the config.

    Raises:
      Mistake: for a name that is not there, or a value of another type.
    """
    known: Mapping[str, Any] = flatten(plain(config))
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            expected = f"expected section.name=value{suggestion(name, known)}"
            raise Mistake(f"--set: {expected}, got {text!r}")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        try:
            config.update_from_flattened_dict({name: parsed})
        except (TypeError, ValueError) as error:
            raise Mistake(f"--set: {name}: {error}") from None
