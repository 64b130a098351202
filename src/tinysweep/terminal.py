"""What commands share at the terminal: how they are interrupted, what becomes of them when nobody reads on, and,
for those that read finished work, their arguments and errors that are one clear line."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, ClassVar, TextIO

from tinysweep.errors import message_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# The exit statuses by which shells know a command that Ctrl-C stopped, and one whose reader went away.
INTERRUPTED, READER_GONE = 130, 141
FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's variable, which means the same in every command


def program(parser: argparse.ArgumentParser, task: Callable[[argparse.Namespace], None]) -> None:
    """Parse the command line and run `task` on it. Exits as `errors_in_a_line` says, and with 2 on arguments that
    the parser refuses."""
    parser.add_argument(
        "--version", action="version", version=version_line(), help="tell tinysweep's version and exit"
    )
    with errors_in_a_line():
        task(parser.parse_args())


@contextmanager
def errors_in_a_line(line_of: Callable[[Exception], str | None] = message_of) -> Iterator[None]:
    """Exit with status 1 and one line on an error that the user can mend, with 130 when interrupted or terminated;
    quietly when a reader such as `head` goes away. HYDRA_FULL_ERROR=1 shows the traceback of every error."""
    full_error = os.environ.get(FULL_ERROR) == "1"
    with outlets():
        try:
            yield
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            if full_error or (line := line_of(error)) is None:
                raise
            print(f"error: {line}", file=sys.stderr)
            raise SystemExit(1) from None


def version_line() -> str:
    """What --version prints."""
    from importlib.metadata import version  # noqa: PLC0415 few need it

    return f"tinysweep {version('tinysweep')}"


class _Outlet(io.FileIO):
    """Standard output or error, of which a reader such as `head` may read a part only: what is written after that
    goes nowhere."""

    outlasted: ClassVar[bool] = False

    def __init__(self, descriptor: int, missed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.missed = missed

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # so that it is said and judged once
            os.close(nowhere)
            if self.missed:
                self._judge(error)
            return memoryview(content).nbytes

    def _judge(self, error: OSError) -> None:
        broken = isinstance(error, BrokenPipeError)
        why = "nobody reads standard output any more"
        if not broken:
            why = f"standard output can't be written: {(error.strerror or str(error)).lower()}"
        if self.outlasted:
            print(f"{why}; the work goes on, and what comes of it is in its files", file=sys.stderr)
        elif broken:
            raise SystemExit(READER_GONE)
        else:
            print(f"error: {why}", file=sys.stderr)
            raise SystemExit(1)


@contextmanager
def outlets() -> Iterator[None]:
    """End a command quietly once nobody reads its standard output, unless its work outlasts that; standard error
    is missed by no command."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _outlet(before[0], missed=True), _outlet(before[1], missed=False)
    try:
        yield
    finally:
        try:
            sys.stderr.flush()
            sys.stdout.flush()
        finally:
            sys.stdout, sys.stderr = before


def _outlet(stream: TextIO | None, missed: bool) -> TextIO:
    if stream is None:  # closed from the start
        return Path(os.devnull).open("w")
    try:
        descriptor = stream.fileno()
    except OSError:  # it is no file, but whatever a program has put in its place
        return stream
    stream.flush()
    buffer, by_line = io.BufferedWriter(_Outlet(descriptor, missed)), bool(stream.line_buffering)
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=by_line)


@contextmanager
def outlasting_readers() -> Iterator[None]:
    """Let work go on to its end when nobody reads standard output any more, as its results lie in files; and let
    Ctrl-C, being terminated, or a terminal that is closed end it with its records closed and its workers ended.
    A signal that is ignored, as nohup has it, stays ignored."""
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]  # some unknown to Windows
    before = {number: signal.getsignal(number) for number in numbers if number is not None}
    taken = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    _Outlet.outlasted = True
    try:
        for number in taken:
            signal.signal(number, interrupt)
        yield
    finally:
        _Outlet.outlasted = False
        for number, handler in taken.items():
            signal.signal(number, handler)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """A signal handler that ends work as Ctrl-C does."""
    raise KeyboardInterrupt
