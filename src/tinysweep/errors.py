"""Errors whose message is the whole story: the command line prints it and exits, without a traceback."""

import errno
import importlib.util
import re

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "work in a folder that can be written to",
    errno.EACCES: "work in a folder that you may read and write",
    errno.EPERM: "work in a folder that you may read and write",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a part of this path is a file and must be a folder; move it away, or give another path",
    errno.EEXIST: "a file is where a folder must be; move it away, or give another path",
    errno.EISDIR: "a folder is where a file must be; move it away, or give another path",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
}
# What a machine says of a disk that is full for a moment, or of a file server or network that is away.
_OUTAGES = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EAGAIN, errno.EBUSY, errno.ENFILE,
    errno.EMFILE, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT,
}  # fmt: skip
# Up to the last @ of a word, as one may have forgotten to write it %40 in a password.
PASSWORD = re.compile(r"(://[^/@:\s]*:)(?:\S*|[^@]*)(?=@)|([?&]\w*pass\w*=)[^&'\"\s]*", re.IGNORECASE)
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class TinysweepError(Exception):
    """Something the user can mend; the message says what was wrong, the value, the rule and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(TinysweepError):
    """A setting breaks its rule."""


class BudgetError(TinysweepError):
    """A model costs more than the budget allows."""


class DataError(TinysweepError):
    """A data set is missing, damaged or unusable."""


class DivergedError(TinysweepError):
    """Training produced a loss that is not a finite number."""


class StudyError(TinysweepError):
    """A study can't go on: it was changed, holds nothing that fits, fails too often, or its storage doesn't
    answer."""


class PrunedError(TinysweepError):
    """A trial was stopped early, because others did better by then."""


class AbandonedError(TinysweepError):
    """A trial's sweeper has died, and another has closed the trial meanwhile."""


class OutageError(TinysweepError, ConnectionError):
    """A study's storage doesn't answer now, and may in a while."""


# What a run fails of by its own configuration, and would fail of again. Whatever else ends one came from outside.
OF_CONFIGURATION = (ConfigError, BudgetError, DivergedError)


def is_from_outside(error: str | None, reason: str) -> bool:
    """Whether a run failed for a reason outside its configuration, such as a full disk or a bug of this program,
    so that it may well succeed once that is mended. `error` is the name of the error's class; earlier versions
    didn't note it, but began the reason with that of every error which wasn't their own."""
    if error is None:
        return bool(re.match(r"\w+(Error|Exception): |its worker died", reason))
    return error not in {kind.__name__ for kind in OF_CONFIGURATION}


def is_outage(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, is that of a storage, a disk or a network that is away or full
    for a while, not of what was asked of it."""
    while error is not None:
        broken = isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, BrokenPipeError)
        if broken or (isinstance(error, OSError) and error.errno in _OUTAGES):
            return True
        error = error.__cause__
    return False


def require_package(what: str, package: str, extra: str, module: str = "") -> None:
    """Refuse to go on without a package of an extra; `module` is what it is imported as, if not by its name."""
    if importlib.util.find_spec(module or package) is None:
        raise ConfigError(f"{what} needs the package {package}; pip install 'tinysweep[{extra}]'")


def without_password(text: str) -> str:
    """A text in which the password of a database's address is left out: it is no one else's to read."""
    return PASSWORD.sub(r"\1\2***", text)


def first_line(said: object) -> str:
    """The first line of a message that may run over many, or be empty; never with a password."""
    return next(iter(without_password(str(said)).strip().splitlines()), "")


def message_of(error: Exception) -> str | None:
    """What a user is to read of an error that isn't the program's own: ours, or what the machine has refused, a
    file or memory; None for one of any other kind."""
    if isinstance(error, TinysweepError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and not isinstance(error, BrokenPipeError):
        remedy = _REMEDIES.get(error.errno or 0)
        where = str(error.filename or "")
        parts = (f"{where[:200]}…" if len(where) > 200 else where, error.strerror.lower())
        return ": ".join(filter(None, parts)) + (f"; {remedy}" if remedy else "")
    # PyTorch has a type for a GPU's memory only, and it isn't imported here.
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    ):
        return (
            f"memory is used up ({first_line(error) or type(error).__name__}); make the model or "
            "trainer.batch_size smaller"
        )
    return None
