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
