"""The parts of a report that go through the trials, as HTML: their ends, their ranking, the winner's layers."""

import re
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from tinysweep.data.load import describe
from tinysweep.errors import TinysweepError
from tinysweep.network import budget
from tinysweep.network.budget import Cost
from tinysweep.report.headline import counts
from tinysweep.report.markup import Html, Number, breakable, join, table, tag
from tinysweep.report.style import COLOURS, short, shown, words
from tinysweep.results.view import StudyView
from tinysweep.search.study import Status, status
from tinysweep.search.table import metric

MOST_RANKED = 50
MOST_REASONS = 40
LONGEST_REASON = 400
MEANINGS = {
    Status.complete: "trained to the end",
    Status.pruned: "stopped early, as others did better by then",
    Status.failed: "raised an error, diverged or lost its worker",
    Status.over_budget: "refused before training, as it costs more than the budget allows",
    Status.invalid: "refused before training, as a setting breaks its rule",
    Status.duplicate: "not trained, as another trial has the same configuration",
    Status.withdrawn: "not trained, as other sweepers made up the number of trials",
    Status.interrupted: "cut short, and proposed again",
    Status.running: "in training when this page was made",
}


def ends(view: StudyView) -> Html:
    """How many trials ended how, and the reasons why those that didn't complete did not."""
    rows = [
        (tag("span", tag("i", style=f"background: {COLOURS[state]}"), words(state), class_="key"),
         Number(f"{number:,}", number), MEANINGS[state])
        for state, number in counts(view).items()
    ]  # fmt: skip
    parts: list[object] = [table(("state", "trials", "meaning"), rows, label="trials by state")]
    reasons = _reasons(view)
    if reasons:
        header = ("state", "trials", "reason, that of the last", "which")
        parts.append(table(header, reasons[:MOST_REASONS], label="reasons of trials that did not complete"))
    if len(reasons) > MOST_REASONS:
        parts.append(tag("p", f"And {len(reasons) - MOST_REASONS:,} more reasons, in trials.csv.", class_="note"))
    return join(parts)


def _reasons(view: StudyView) -> list[Sequence[object]]:
    """Reasons that differ in their numbers alone share a row; the commonest first."""
    groups: dict[tuple[Status, str], list[FrozenTrial]] = {}
    for trial in view.trials:
        if reason := trial.user_attrs.get("reason"):
            pattern = re.sub(r"[\d.,]+", "0", str(reason))
            groups.setdefault((status(trial), pattern), []).append(trial)
    rows: list[Sequence[object]] = []
    for (state, _), trials in sorted(groups.items(), key=lambda item: -len(item[1])):
        which = ", ".join(str(trial.number) for trial in trials[:6]) + (", …" if len(trials) > 6 else "")
        said = str(trials[-1].user_attrs["reason"])
        said = said if len(said) <= LONGEST_REASON else said[: LONGEST_REASON - 1] + "…"
        rows.append((words(state), Number(f"{len(trials):,}", len(trials)), said, which))
    return rows


def ranking(view: StudyView) -> Html:
    """The completed trials, best first."""
    if not view.completed:
        return tag("p", "No trial has completed yet.", class_="note")
    names = list(
        dict.fromkeys([*view.objectives, "validation_accuracy", "validation_loss", "params", "macs", "seconds"])
    )
    rows = []
    for rank, trial in enumerate(view.completed[:MOST_RANKED], 1):
        figures = [Number(shown(name, metric(trial, name)), metric(trial, name)) for name in names]
        values = [_value(trial.params.get(name)) for name in view.searched]
        rows.append([Number(str(rank), rank), Number(str(trial.number), trial.number), *figures, *values])
    header = ["rank", "trial", *(words(name) for name in names), *map(breakable, view.searched)]
    total = len(view.completed)
    which = f"The best {len(rows)} of {total:,}" if len(rows) < total else f"All {total:,}"
    best = f"best {words(view.objectives[0])} first"
    note = f"{which} completed trials, {best}; a click on a column's head sorts by it."
    return join([tag("p", note), table(header, rows, sortable=True, label="ranked trials")])


def _value(value: Any) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return short(value)
    return Number(short(value), float(value))


def layers(view: StudyView, number: int | None) -> Html:
    """The model of a trial, layer by layer, and what each costs."""
    if number is None:
        return tag("p", "No trial has completed yet.", class_="note")
    try:
        config = view.config(number)
        shape = describe(config.data)
        cost = budget.measure(config.model, shape)
    except TinysweepError as error:
        return tag("p", f"The model can't be built again: {error}.", class_="note")
    model = config.model
    size = f"{shape.channels} × {shape.size} × {shape.size} images of {shape.classes} classes"
    heading = (
        f"Trial {number}: a {model.family} model of width {model.width} for {size}. It has {cost.params:,} "
        f"trainable parameters, of fewer than {config.budget.params:,}. An image takes {cost.macs:,} "
        f"multiply-accumulates and, in int8, {cost.activation_bytes:,} bytes of activations at the peak."
    )
    return join([tag("p", heading), layer_table(cost)])


def layer_table(cost: Cost) -> Html:
    rows: list[Sequence[object]] = [
        (layer.name, layer.kind, "×".join(map(str, layer.output)), Number(f"{layer.params:,}", layer.params),
         Number(f"{layer.macs:,}", layer.macs), Number(f"{layer.activation_bytes:,}", layer.activation_bytes))
        for layer in cost.layers
    ]  # fmt: skip
    total = [Number(f"{value:,}", value) for value in (cost.params, cost.macs)]
    peak = Number(f"{cost.activation_bytes:,} peak", cost.activation_bytes)
    rows.append((tag("strong", "total"), "", "", *total, peak))
    return table(("layer", "kind", "output", "params", "MACs", "live bytes"), rows, label="layers")
