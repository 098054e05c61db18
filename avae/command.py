"""What `train.py` and `eval.py` share: flags, and an end in a sentence whatever happens, unless it is a bug."""

import builtins
import contextlib
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import flags

from avae.runtime import devices
from avae.runtime.mistake import Mistake
from avae.training.checkpoint import NotSaved
from avae.training.loop import Interrupted, on_signal
from avae.training.watch import Diverged

# What the machine refuses, not the program: a full disk, a folder that cannot be read or written.
ENVIRONMENT = {getattr(errno, name) for name in (
    "ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "EIO", "ESTALE", "EMFILE", "ENFILE", "ENAMETOOLONG",
) if hasattr(errno, name)}  # fmt: skip


class AtOnce(SystemExit):
    """The end of a process whose threads may be in the middle of something."""


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM, outside of the steps of a training run; `signum` says which."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Ends the command in a sentence and an exit code for every reason but a bug, which keeps its traceback.

    The code is 1 for a mistake, and 128 + the signal's number after a signal or a closed pipe.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[reportAttributeAccessIssue]  # ASCII in many containers
    with on_signal(_stop), _no_signal_lost():
        try:
            yield
            sys.stdout.flush()
        except (Mistake, Diverged, NotSaved) as error:
            _end(1, f"error: {error}")
        except Interrupted as stop:
            _end(128 + stop.signum, str(stop))
        except KeyboardInterrupt as stop:
            signum = getattr(stop, "signum", signal.SIGINT)
            _end(128 + signum, f"stopped by {signal.Signals(signum).name}; start again to go on", AtOnce)
        except BrokenPipeError:  # SIGPIPE is 13, where there is one
            _end(128 + 13, "error: the reader of standard output or standard error is gone (closed pipe)", AtOnce)
        except OSError as error:
            if error.errno not in ENVIRONMENT:
                raise
            _end(1, f"error: {error}")


def script(main: Callable[[list[str]], None]) -> None:
    """Calls the `main` of a script, and ends the process with its code; a notebook that runs the script lives on."""
    try:
        main(sys.argv)
    except AtOnce as end:  # the interpreter would wait for the threads, and may crash in what they compute
        if hasattr(builtins, "__IPYTHON__"):
            raise
        os._exit(int(end.code or 0))


def parse(values: flags.FlagValues, argv: list[str]) -> None:
    """Sets the flags.

    Raises:
      Mistake: for one that does not exist or does not take its value.
    """
    try:
        surplus = values(argv)[1:]
    except flags.Error as error:
        if {"--help", "-h"} & set(argv):
            print(values.get_help())
            sys.exit(0)
        raise Mistake(str(_first_mistake(error) or error).strip()) from None
    except (AttributeError, KeyError) as error:  # an override of a setting that is not there
        names = re.search(r'mean "(.*?)" instead of "(.*?)"', str(error))
        hint = f"{names[2]}; did you mean {names[1]}?" if names else str(error)
        raise Mistake(f"no such setting: {hint}") from None
    if surplus:
        raise Mistake(f"unexpected argument {surplus[0]!r}; everything is given as --name=value")


def _first_mistake(error: BaseException | None) -> Mistake | None:
    """What a config raised first: flags raise errors of their own from it, whose text is a traceback."""
    found = None
    while error is not None:
        found, error = error if isinstance(error, Mistake) else found, error.__cause__ or error.__context__
    return found


def define_hosts(values: flags.FlagValues) -> Callable[[], None]:
    """Defines the flags of a run on many hosts; gives the function that joins the other processes, if there are any."""
    distributed = flags.DEFINE_bool(
        "distributed", False, "This is one of several processes; see docs/scale.md.", flag_values=values
    )
    given = {
        "coordinator": flags.DEFINE_string(
            "coordinator", None, "host:port of process 0, where the cluster does not say.", flag_values=values
        ),
        "num_processes": flags.DEFINE_integer(
            "num_processes", None, "How many processes there are, where the cluster does not say.", flag_values=values
        ),
        "process_id": flags.DEFINE_integer(
            "process_id", None, "Which of them this is, from 0, where the cluster does not say.", flag_values=values
        ),
    }

    def join() -> None:
        surplus = [f"--{name}" for name, flag in given.items() if flag.value is not None]
        if distributed.value:
            devices.join(**{name: flag.value for name, flag in given.items()})
        elif surplus:
            raise Mistake(f"{', '.join(surplus)}: expected --distributed beside it")

    return join


def _stop(signum: int, restore: Callable[[], None]) -> NoReturn:
    raise Stopped(signum)


@contextlib.contextmanager
def _no_signal_lost() -> Iterator[None]:
    """Sends a signal again that came while a destructor or a callback ran, where Python drops exceptions."""
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if isinstance(dropped.exc_value, Stopped):
            threading.Timer(0.1, os.kill, (os.getpid(), dropped.exc_value.signum)).start()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _end(code: int, sentence: str, kind: type[SystemExit] = SystemExit) -> NoReturn:
    """Ends the process; a standard stream that cannot be written any more is let go."""
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try again at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise kind(code)
