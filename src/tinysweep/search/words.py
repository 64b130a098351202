"""What a sweep says: a line a trial, how far the study is, its best trials, and why it can't go on."""

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from tinysweep import console
from tinysweep.errors import first_line
from tinysweep.metrics import METRICS
from tinysweep.search.propose import Refusal
from tinysweep.search.space import without_quotes
from tinysweep.search.study import TRAINED, Status, Study, count, failed_from_outside, status
from tinysweep.search.table import SEED, deviation, metric, pareto_front, rank_trials

SHOWN = 10  # of the best trials


def figure(trial: FrozenTrial, name: str) -> str:
    """A metric of a completed trial, with its standard deviation over seeds if it is their mean."""
    return METRICS[name].text(metric(trial, name), deviation(trial, name))


def trial_line(trial: FrozenTrial, best: FrozenTrial | None, objective: str, rungs: bool = False) -> str:
    """What became of a trial, after which rung if there are any, and the best so far."""
    notes, became = trial.user_attrs, status(trial)
    own = METRICS[objective].each_epoch and objective != "validation_loss"
    shown = dict.fromkeys(["validation_accuracy", *([objective] if own else [])])
    parts = [
        f"trial {trial.number:<4} {became.value:<11}",
        *([f"rung {notes.get('epochs') or '-':>3}"] if rungs else []),
        f"{METRICS['params'].text(notes.get('params')):>6} params",
        *(f"{METRICS[name].text(notes.get(name)):>7}" for name in shown),
        f"{METRICS['seconds'].text(notes.get('seconds') or 0.0):>8}",
    ]
    if best:
        parts.append(f"best {figure(best, objective)} (trial {best.number})")
    if became in (Status.failed, Status.interrupted):
        parts.append(first_line(notes.get("reason", "")))
    return "  ".join(parts)


def result(trials: list[FrozenTrial], objectives: list[str], searched: list[str]) -> str:
    """The best trials and the Pareto front as text tables."""
    best = rank_trials(trials, objectives)
    running = count(trials, Status.running)
    elsewhere = f"another sweep is at work on {running} more trial{'s' if running > 1 else ''}"
    if not best:
        return f"no trial has completed yet; {elsewhere}" if running else "no trial has completed"
    what = "completed trials"
    if any("seeds" in trial.user_attrs for trial in best):
        what = "configurations, each with the mean ± standard deviation of its seeds,"
        searched = ["seeds", *(name for name in searched if name != SEED)]
    weighed = objectives if len(objectives) > 1 else [*objectives, "params"]
    return "\n".join(
        [
            *([f"so far, as {elsewhere}:", ""] if running else []),
            console.wrap(
                f"the best {min(SHOWN, len(best))} of {len(best)} {what} by {aim_in_words(objectives[0])}:"
            ),
            table(best[:SHOWN], searched, objectives),
            "",
            console.wrap(f"Pareto front: {' against '.join(map(aim_in_words, weighed))}"),
            table(pareto_front(trials, objectives), searched, objectives),
        ]
    )


def aim_in_words(name: str) -> str:
    """A metric, and which way it is better."""
    return f"{METRICS[name].label} ({'higher' if METRICS[name].higher_is_better else 'lower'} is better)"


def table(trials: list[FrozenTrial], searched: list[str], objectives: Sequence[str] = ()) -> str:
    """Trials with their figures and parameters, a line each."""
    figures = ("validation_accuracy", "validation_loss", "params", "macs", "seconds")
    names = [*(name for name in objectives if name not in figures), *figures]
    rows = [["trial", *(METRICS[name].header for name in names), *map(console.setting_head, searched)]]
    for trial in trials:
        drawn = [_short(trial.params.get(name, trial.user_attrs.get(name))) for name in searched]
        rows.append([str(trial.number), *(figure(trial, name) for name in names), *drawn])
    heads, advice = ["trial", *names, *searched], "they are in trials.csv"
    align = "r" * len(heads)
    return console.fitting_table(rows, align, advice, least=3, names=heads, indent=console.GAP)


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(without_quotes(value))


def how_far(study: Study, n_trials: int | None) -> str:
    """How far a study is, in one line."""
    trials = [trial for trial in study.trials() if trial.number not in study.retried]
    kinds = {became.value.replace("_", " "): count(trials, became) for became in Status}
    kinds["failed earlier"] = len(study.retried)
    words = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    trained = count(trials, *TRAINED)
    of = f" of {n_trials}" if n_trials and trained <= n_trials else ""
    more = f", more than hydra.sweeper.n_trials={n_trials}" if n_trials and trained > n_trials else ""
    trials_word = "trial" if trained == 1 and not of else "trials"
    return f"study {study.optuna.study_name}: {trained}{of} {trials_word} trained{more} ({words or 'none begun'})"


def to_try_again(study: Study) -> str:
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


def refusals_line(refusals: list[Refusal]) -> str:
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
