"""What a person sees of a sweep: a line for each finished trial, a bar with the time left, and the result."""

import sys
from collections import Counter
from collections.abc import Sequence
from textwrap import indent
from types import TracebackType

from optuna.trial import FrozenTrial
from tqdm import tqdm

from tinysweep import console
from tinysweep.errors import first_line
from tinysweep.metrics import METRICS
from tinysweep.search.propose import Refusal
from tinysweep.search.space import without_quotes
from tinysweep.search.study import TRAINED, Status, Study, count, failed_from_outside, status
from tinysweep.search.table import metric, pareto_front, ranked

SHOWN = 10


class Screen:
    """Lines on standard output; the bar stands on standard error and only where that is a terminal."""

    def __init__(self, objectives: list[str], wanted: int | None, trials: list[FrozenTrial]) -> None:
        self.objectives = objectives
        self.best = next(iter(ranked(trials, objectives)), None)
        done = count(trials, *TRAINED)
        self.bar = tqdm(
            total=wanted, initial=done, unit="trial", file=sys.stderr, disable=None, leave=False, smoothing=0.1
        )

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def say(self, line: str) -> None:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def finished(self, trial: FrozenTrial) -> None:
        """The line of a trial that has just been trained."""
        if status(trial) == Status.complete:
            self.best = ranked([trial, *([self.best] if self.best else [])], self.objectives)[0]
            self.bar.set_postfix_str(f"best {figure(self.best, self.objectives[0])}")
        notes = trial.user_attrs
        words = [f"trial {trial.number:<4} {status(trial).value:<11}", f"{notes.get('params', 0):>6,} params"]
        accuracy = notes.get("validation_accuracy")
        words.append(f"{100 * accuracy:6.2f}%" if accuracy is not None else "      –")
        words.append(f"{notes.get('seconds') or 0.0:6.1f} s")
        if self.best:
            words.append(f"best {figure(self.best, self.objectives[0])} (trial {self.best.number})")
        if status(trial) in (Status.failed, Status.interrupted):
            words.append(first_line(notes.get("reason", "")))
        self.say("  ".join(words))
        self.bar.update(status(trial) != Status.interrupted)


def figure(trial: FrozenTrial, name: str) -> str:
    """A metric as people read it."""
    value = metric(trial, name)
    if name == "validation_accuracy":
        return f"{100 * value:.2f}%"
    if name == "validation_loss":
        return f"{value:.4f}"
    return f"{value:.1f} s" if name == "seconds" else f"{value:,.0f}"


def result(trials: list[FrozenTrial], objectives: list[str], searched: list[str]) -> str:
    """The best trials and the Pareto front as text tables."""
    best = ranked(trials, objectives)
    running = count(trials, Status.running)
    elsewhere = f"another sweep is at work on {running} more trial{'s' if running > 1 else ''}"
    if not best:
        return f"no trial has completed yet; {elsewhere}" if running else "no trial has completed"
    front = pareto_front(trials, objectives)
    return "\n".join(
        [
            *([f"so far, as {elsewhere}:", ""] if running else []),
            f"the best {min(SHOWN, len(best))} of {len(best)} completed trials by {_words(objectives[0])}:",
            table(best[:SHOWN], searched),
            "",
            front_title(objectives),
            table(front, searched),
        ]
    )


def _words(name: str) -> str:
    return f"{name.replace('_', ' ')} ({'higher' if METRICS[name].higher_is_better else 'lower'} is better)"


def table(trials: list[FrozenTrial], searched: list[str]) -> str:
    """Trials with their figures and parameters, a line each."""
    header = ["trial", "accuracy", "loss", "params", "MACs", "seconds", *searched]
    rows = [header]
    for trial in trials:
        cells = [str(trial.number)]
        cells += [figure(trial, name) for name in ("validation_accuracy", "validation_loss", "params", "macs")]
        cells.append(f"{metric(trial, 'seconds'):.1f}")
        rows.append(cells + [_short(trial.params.get(name)) for name in searched])
    return indent(console.table(rows, "r" * len(header)), console.GAP)


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(without_quotes(value))


def progress(study: Study, n_trials: int | None) -> str:
    """How far a study is, in one line."""
    trials = [trial for trial in study.trials() if trial.number not in study.retried]
    kinds = {became.value.replace("_", " "): count(trials, became) for became in Status}
    kinds["failed earlier"] = len(study.retried)
    words = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    trained = count(trials, *TRAINED)
    of = f" of {n_trials}" if n_trials and trained <= n_trials else ""
    more = f", more than hydra.sweeper.n_trials={n_trials}" if n_trials and trained > n_trials else ""
    return f"study {study.optuna.study_name}: {trained}{of} trials trained{more} ({words or 'none begun'})"


def from_outside(study: Study) -> str:
    """What the same command would try again, its causes once mended; nothing if there is nothing."""
    failed = [
        trial for trial in study.trials() if failed_from_outside(trial) and trial.number not in study.retried
    ]
    if not failed:
        return ""
    which, them = ("1 trial", "it") if len(failed) == 1 else (f"{len(failed)} trials", "them")
    last = f"trial {failed[-1].number}: {first_line(failed[-1].user_attrs.get('reason', ''))}"
    return (
        f"{which} failed for a reason outside the configuration ({last}); once that is mended, the same command "
        f"tries {them} again"
    )


def refused(refusals: list[Refusal]) -> str:
    """The line that sums up what was not launched."""
    kinds = Counter(refusal.became.value.replace("_", " ") for refusal in refusals)
    words = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    return f"not trained: {words} (the last, trial {refusals[-1].number}: {refusals[-1].reason})"


def nothing_fits(refusals: list[Refusal], trials: Sequence[FrozenTrial]) -> str:
    """Why a study in which no proposal may be trained ends."""
    sizes = [trial.user_attrs["params"] for trial in trials if "params" in trial.user_attrs]
    reasons = [trial.user_attrs["reason"] for trial in trials if "reason" in trial.user_attrs]
    parts = [
        f"{len(refusals):,} proposals in a row were refused" if refusals else "",
        f"the smallest model had {min(sizes):,} trainable parameters" if sizes else "",
        f"the last: {first_line(reasons[-1])}" if reasons else "",
    ]
    if {status(trial) for trial in trials} == {Status.invalid}:
        return f"nothing that is searched can be trained: {'; '.join(filter(None, parts))}"
    return f"no model fits: {'; '.join(filter(None, [*parts, 'search smaller models or raise the budget']))}"


def front_title(objectives: list[str]) -> str:
    """What the Pareto front that is shown weighs against each other."""
    names = objectives if len(objectives) > 1 else [*objectives, "params"]
    return "Pareto front: " + " against ".join(_words(name) for name in names)
