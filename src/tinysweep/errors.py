"""Errors whose message is the whole story: the command line prints it and exits, without a traceback."""


class TinysweepError(Exception):
    """Something the user can mend; the message says what was wrong, the value, the rule and what to do."""


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


def first_line(said: object) -> str:
    """The first line of a message that may run over many, or be empty."""
    return next(iter(str(said).strip().splitlines()), "")
