"""The head of a report, as HTML: what the study found, under what budget, when, and what its trials came to."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from optuna.trial import FrozenTrial

from tinysweep.report.final import Final
from tinysweep.report.markup import Html, definitions, join, tag
from tinysweep.report.style import COLOURS, shown, words
from tinysweep.results.verdict import Summary
from tinysweep.results.view import StudyView
from tinysweep.search.study import TRAINED, Status, status
from tinysweep.search.table import metric


def counts(view: StudyView) -> dict[Status, int]:
    """How many trials came to each end, of the ends that any came to."""
    found = Counter(status(trial) for trial in view.trials)
    return {state: found[state] for state in (*TRAINED, *Status) if found[state]}


def spread(name: str, summary: Summary) -> str:
    """A mean over seeds with its standard deviation, where there is one."""
    if summary.sd is None:
        return shown(name, summary.mean)
    if name.endswith("accuracy"):
        return f"{100 * summary.mean:.2f}% ± {100 * summary.sd:.2f}"
    return f"{summary.mean:.4f} ± {summary.sd:.4f}"


def headline(view: StudyView, final: Final | None, made: datetime) -> Html:
    """The study in a few numbers: what it found, under what budget, when, and what became of its trials."""
    best = view.completed[0] if view.completed else None
    tiles = []
    winner = final.winner if final else None
    if winner and "test_accuracy" in winner.summaries:
        found = winner.summaries["test_accuracy"]
        over = f"one seed of {winner.name}"
        if found.sd is not None:
            over = f"± {100 * found.sd:.2f} over {found.n} seeds of {winner.name}"
        tiles.append(("test accuracy", shown("test_accuracy", found.mean), over))
    for name in dict.fromkeys([view.objectives[0], "validation_accuracy"]) if best else []:
        trial = best if name == view.objectives[0] else max(view.completed, key=lambda each: metric(each, name))
        assert trial is not None
        tiles.append((f"best {words(name)}", shown(name, metric(trial, name)), f"trial {trial.number}"))
    limit = view.limit("params")
    if winner or best:
        size = winner.params if winner else int(metric(best, "params")) if best else 0
        of = winner.name if winner else f"trial {best.number}" if best else ""
        tiles.append(("parameters", f"{size:,}", f"{of}; the budget is <\u00a0{limit:,}" if limit else of))
    elif limit:
        tiles.append(("budget, parameters", f"< {limit:,}", "none has completed yet"))
    trained = len(view.of(*TRAINED))
    refused = len(view.trials) - trained - len(view.of(Status.running, Status.interrupted))
    tiles.append(("trials trained", f"{trained:,}", f"{refused:,} more not trained"))
    cards = [
        tag("div", tag("span", name), tag("strong", value), tag("small", note), class_="tile")
        for name, value, note in tiles
    ]
    return join([tag("div", join(cards), class_="tiles"), _about(view, made), _states(view)])


def _about(view: StudyView, made: datetime) -> Html:
    bounds = [f"fewer than {view.limit('params'):,} trainable parameters"] if view.limit("params") else []
    for kind in ("macs", "activation_bytes"):
        if bound := view.limit(kind):
            bounds.append(f"at most {bound:,} {words(kind)}")
    aims = " and ".join(words(name) for name in view.objectives)
    rows: list[tuple[object, object]] = [
        ("Budget", "; ".join(bounds) or "none that all trials share"),
        ("Aim", f"{aims} on images held out for validation; no trial of a search reads the test set"),
        ("Searched", _when(view.trials)),
        ("Read from", f"{view.origin}, {made:%Y-%m-%d %H:%M} UTC"),
    ]
    return definitions(rows)


def _when(trials: Sequence[FrozenTrial]) -> str:
    begun = [trial.datetime_start for trial in trials if trial.datetime_start]
    if not begun:
        return "no trial has begun"
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    first = min(begun).astimezone(UTC)
    words = f"begun {first:%Y-%m-%d %H:%M} UTC"
    if ends:
        words += f", over {_duration((max(ends) - min(begun)).total_seconds())}"
    seconds = sum(float(trial.user_attrs.get("seconds") or 0) for trial in trials)
    return f"{words}; {_duration(seconds)} of training in all trials together"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    if not hours and rest < 60:
        return f"{rest} s"
    return f"{hours:,} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _states(view: StudyView) -> Html:
    """A bar with a part for each state, and their numbers in words."""
    found = counts(view)
    parts = [
        tag("span", style=f"flex-grow: {number}; background: {COLOURS[state]}") for state, number in found.items()
    ]
    keys = [
        tag("li", tag("i", style=f"background: {COLOURS[state]}"), f"{number:,} {words(state)}")
        for state, number in found.items()
    ]
    bar = tag("div", join(parts), class_="states", aria_hidden="true")
    running = found.get(Status.running, 0)
    notes = [tag("p", f"{running:,} still in training: figures may change.", class_="note")] if running else []
    return join([bar, tag("ul", join(keys), class_="keys"), *notes])
