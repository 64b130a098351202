"""What commands share at the terminal: how they are interrupted, and, for those that read finished work, their
arguments and errors that are one clear line."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from tinysweep.errors import TinysweepError, machine_fault

INTERRUPTED = 130  # the exit status by which shells know a command that Ctrl-C stopped


def program(parser: argparse.ArgumentParser, task: Callable[[argparse.Namespace], None]) -> None:
    """Parse the command line and run `task` on it.

    Exits with status 1 and one line on an error that the user can mend, with 2 on arguments that the parser
    refuses, with 130 when interrupted or terminated. A reader that goes away, such as `head`, ends it quietly.
    """
    end_as_interrupted()
    options = parser.parse_args()
    try:
        task(options)
        sys.stdout.flush()
    except TinysweepError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # Python flushes once more at its end; what is left goes nowhere instead of into another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        line = machine_fault(error)
        if line is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(1) from None


def end_as_interrupted() -> None:
    """Let being terminated, or a terminal that is closed, end this command as Ctrl-C does: with its records closed
    and its workers ended. A signal that is ignored, as nohup has it, stays ignored."""
    for name in ("SIGTERM", "SIGHUP"):  # the latter is unknown to Windows
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """A signal handler that ends a command as Ctrl-C does."""
    raise KeyboardInterrupt
