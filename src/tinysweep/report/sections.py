"""What the sections of a report say, as values for its page: tiles, tables, and a few sentences."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from optuna.trial import FrozenTrial

from tinysweep.final.race import gap_text
from tinysweep.final.results import (
    Final,
    FinalModel,
    FinalRun,
    RankedCandidate,
    ValidationRun,
    Verdict,
    figure_of,
    tested_metrics,
)
from tinysweep.metrics import ALL_METRICS, METRICS, PER_CENT, TEST_METRICS
from tinysweep.network.budget import Cost
from tinysweep.report.style import status_name, value_text
from tinysweep.results.verdict import Summary
from tinysweep.results.view import StudyView
from tinysweep.search.study import TRAINED, Status, status
from tinysweep.search.table import SEED, deviation, metric, own_metrics

MOST_RANKED = 50
MOST_REASONS = 40
LONGEST_REASON = 400
SPREAD = "mean\u00a0±\u00a0sd"


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page, what it is, and of what."""

    name: str
    figure: str
    note: str


@dataclass(frozen=True)
class Number:
    """A number in a table: how it is written, and what a column is sorted by; None is a gap."""

    text: str
    value: float | None


@dataclass(frozen=True)
class Line:
    """Text in a table that is never broken into lines, however long it is."""

    text: str
    is_strong: bool = False


Row = list[str | Number | Line]


@dataclass(frozen=True)
class PageTable:
    """A table, and what it is for those who can't see it. Text in its cells is broken into lines if it is long."""

    label: str
    header: list[str]
    rows: list[Row]
    is_sortable: bool = False
    left_out: int = 0  # further rows

    @property
    def numeric(self) -> set[int]:
        """The columns of numbers, in which a gap may be text."""
        columns = range(len(self.header))
        return {column for column in columns if any(isinstance(row[column], Number) for row in self.rows)}


def count_cell(value: int) -> Number:
    return Number(f"{value:,}", value)


# ---- the head of the page


def tiles(view: StudyView, final: Final | None) -> list[Tile]:
    """The study in a few figures: what it found, under what budget, and how many trials that took."""
    winner, found = final.winner if final else None, []
    if winner:
        tested, over = winner.test_accuracy, f"one seed of {winner.name}"
        if tested.sd is not None:
            over = f"± {100 * tested.sd:.2f} over {tested.n} seeds of {winner.name}"
        found.append(Tile("test accuracy", TEST_METRICS["test_accuracy"].text(tested.mean), over))
    if view.completed:
        found += [_best_tile(view, name) for name in dict.fromkeys([view.objectives[0], "validation_accuracy"])]
    if winner or view.completed:
        found.append(_size_tile(view, winner))
    elif limit := view.limit("params"):
        found.append(Tile("budget, parameters", f"< {limit:,}", "none has completed yet"))
    trained = len(view.of(*TRAINED))
    refused = len(view.trials) - trained - len(view.of(Status.running, Status.interrupted))
    return [*found, Tile("trials trained", f"{trained:,}", f"{refused:,} more not trained")]


def _best_tile(view: StudyView, name: str) -> Tile:
    best = min(view.completed, key=lambda trial: METRICS[name].loss(metric(trial, name)))
    seeds = best.user_attrs.get("seeds")
    of = f"mean of {seeds} seeds, as trial {best.number}" if seeds else f"trial {best.number}"
    return Tile(f"best {METRICS[name].label}", METRICS[name].text(metric(best, name)), of)


def _size_tile(view: StudyView, winner: FinalModel | None) -> Tile:
    size = winner.params if winner else metric(view.completed[0], "params")
    of = winner.name if winner else f"trial {view.completed[0].number}"
    limit = view.limit("params")
    return Tile("parameters", f"{size:,.0f}", f"{of}; the budget is <\u00a0{limit:,}" if limit else of)


def bounds(view: StudyView) -> list[str]:
    """The limits that all trials share."""
    params = view.limit("params")
    found = [f"fewer than {params:,} trainable parameters"] if params else []
    others = {METRICS[kind].label: view.limit(kind) for kind in ("macs", "activation_bytes")}
    return found + [f"at most {bound:,} {kind}" for kind, bound in others.items() if bound]


def period(trials: Sequence[FrozenTrial]) -> str:
    """When a study was searched, and how much training that took."""
    begun = [trial.datetime_start for trial in trials if trial.datetime_start]
    if not begun:
        return "no trial has begun"
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    over = f", over {_duration((max(ends) - min(begun)).total_seconds())}" if ends else ""
    seconds = sum(float(trial.user_attrs.get("seconds") or 0) for trial in trials)
    return (
        f"begun {min(begun).astimezone(UTC):%Y-%m-%d %H:%M} UTC{over}; {_duration(seconds)} of training in all "
        "trials together"
    )


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    if not hours and rest < 60:
        return f"{rest} s"
    return f"{hours:,} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def status_counts(view: StudyView) -> dict[Status, int]:
    """How many trials have each status, of those that any has."""
    found = Counter(status(trial) for trial in view.trials)
    return {each: found[each] for each in (*TRAINED, *Status) if found[each]}


# ---- the final


def final_tables(final: Final, judge: str) -> dict[str, PageTable]:
    """The tables of a final by their titles; `judge` is the metric by which candidates were chosen."""
    validation = list(dict.fromkeys([judge, "validation_loss", "validation_accuracy"]))
    test, confidence = tested_metrics(final.tested, judge), final.confidence
    return {
        "On the test set": models(final.tested, test, confidence),
        "Is the winner better?": comparisons(final),
        "Candidates on validation images": models(final.candidates, validation, confidence),
        "Dropped out": dropped_models(final),
    }


def models(
    found: Sequence[RankedCandidate] | Sequence[FinalModel], names: Sequence[str], confidence: float
) -> PageTable:
    """A row a model; the interval, each seed's figure and the gap are those of the first metric."""
    first, *others = (ALL_METRICS[name] for name in names)
    header = ["model", "role", "parameters", f"{first.label}, {SPREAD}", f"{100 * confidence:g}% interval"]
    has_gaps = any(getattr(each, "gap", None) for each in found)
    header += ["behind the best, ± standard error"] if has_gaps else []
    header += [f"{first.label} of each seed", *(f"{one.label}, {SPREAD}" for one in others), "MACs"]
    searched = list(dict.fromkeys(name for each in found for name in getattr(each, "changed", {})))
    rows: list[Row] = []
    for each in found:
        if isinstance(each, FinalModel):
            leads, changed, gap = each.role == "winner", dict[str, object](), None
        else:
            leads, changed, gap = each.chosen, each.changed, each.gap
        runs: Sequence[ValidationRun | FinalRun] = each.runs
        seeds = [figure_of(run, first.name) for run in sorted(runs, key=lambda run: run.seed)]
        rows.append([
            Line(each.name, is_strong=True) if leads else each.name,
            each.role,
            count_cell(each.params),
            mean_cell(first.name, figure_of(each, first.name)),
            interval_text(first.name, figure_of(each, first.name)),
            *([Number(gap_text(first.name, gap), gap.difference if gap else None)] if has_gaps else []),
            Line(", ".join(first.text(figure) for figure in seeds)),
            *(mean_cell(one.name, figure_of(each, one.name)) for one in others),
            count_cell(each.macs),
            *(value_text(changed.get(name)) for name in searched),
        ])  # fmt: skip
    return PageTable("models of the final", [*header, *searched], rows)


def mean_cell(name: str, summary: Summary) -> Number:
    """A mean over seeds with its standard deviation, where there is one."""
    text = ALL_METRICS[name].text(summary.mean)
    if summary.sd is not None:
        is_share = ALL_METRICS[name].format == PER_CENT
        text += f" ± {100 * summary.sd:.2f}" if is_share else f" ± {summary.sd:.4f}"
    return Number(text, summary.mean)


def interval_text(name: str, summary: Summary) -> str:
    """The ends of a mean's interval; one seed has none."""
    if summary.low is None or summary.high is None:
        return "–"
    shown, possible = ALL_METRICS[name].text, ALL_METRICS[name].possible
    return f"{shown(possible(summary.low)).removesuffix('%')} – {shown(possible(summary.high))}"


def comparisons(final: Final) -> PageTable:
    """How sure it is that the winner is better than the others."""

    def points(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:+.2f}".replace("-", "−")

    def chance(p_value: float | None) -> Number:
        return Number("–" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}", p_value)

    def row(each: Verdict) -> Row:
        return [
            Line(f"{each.winner} against {each.against} ({each.role})"),
            Number(points(each.difference), each.difference),
            f"{points(each.low)} to {points(each.high)}" if each.low is not None else "–",
            chance(each.p_value),
            chance(each.p_value_seeds),
            each.verdict,
        ]

    header = ["models", "difference, percentage points", f"{100 * final.confidence:g}% interval"]
    header += ["p-value over images", "p-value over seeds", "verdict"]
    return PageTable("comparisons", header, [row(each) for each in final.comparisons])


def dropped_models(final: Final) -> PageTable:
    """Those of whom no verdict is given."""
    rows: list[Row] = [[each.name, each.stage, str(each.seed), each.reason] for each in final.dropped]
    return PageTable("models that dropped out", ["model", "failed in", "with seed", "reason"], rows)


# ---- the trials


def reasons(view: StudyView) -> PageTable:
    """Why trials did not complete. Reasons that differ in their numbers alone share a row; the commonest first."""
    groups: dict[tuple[Status, str], list[FrozenTrial]] = {}
    for trial in view.trials:
        if reason := trial.user_attrs.get("reason"):
            pattern = re.sub(r"[\d.,]+", "0", str(reason))
            groups.setdefault((status(trial), pattern), []).append(trial)
    rows: list[Row] = []
    for (each, _), trials in sorted(groups.items(), key=lambda item: -len(item[1])):
        which = ", ".join(str(trial.number) for trial in trials[:6]) + (", …" if len(trials) > 6 else "")
        said = str(trials[-1].user_attrs["reason"])
        said = said if len(said) <= LONGEST_REASON else said[: LONGEST_REASON - 1] + "…"
        rows.append([status_name(each), count_cell(len(trials)), said, which])
    header = ["state", "trials", "reason, that of the last", "which"]
    label, more = "reasons of trials that did not complete", max(0, len(rows) - MOST_REASONS)
    return PageTable(label, header, rows[:MOST_REASONS], left_out=more)


def ranking(view: StudyView) -> PageTable:
    """The best of the completed trials, best first."""
    own = [name for name in own_metrics(view.completed) if all(name in each.user_attrs for each in view.completed)]
    names = [*view.objectives, *own, "validation_accuracy", "validation_loss", "params", "macs", "seconds"]
    shown = [METRICS[name] for name in dict.fromkeys(names)]
    rows: list[Row] = []
    repeated = any("seeds" in trial.user_attrs for trial in view.completed)
    searched = ["seeds", *(name for name in view.searched if name != SEED)] if repeated else [*view.searched]
    for rank, trial in enumerate(view.completed[:MOST_RANKED], 1):
        figures = [metric(trial, one.name) for one in shown]
        rows.append([
            count_cell(rank),
            Number(str(trial.number), trial.number),
            *(Number(one.text(figure, deviation(trial, one.name)), figure)
              for one, figure in zip(shown, figures, strict=True)),
            *(_value(trial.params.get(name, trial.user_attrs.get(name))) for name in searched),
        ])  # fmt: skip
    header = ["rank", "trial", *(one.label for one in shown), *searched]
    what = "configurations, ranked by the mean over their seeds, ± standard deviation"
    return PageTable(what if repeated else "ranked trials", header, rows, is_sortable=True)


def _value(value: object) -> str | Number:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value_text(value)
    return Number(value_text(value), float(value))


def layers(cost: Cost) -> PageTable:
    """A model layer by layer, and what each costs."""
    rows: list[Row] = [
        [layer.name, layer.kind, "×".join(map(str, layer.output)),
         *map(count_cell, (layer.params, layer.macs, layer.activation_bytes))]
        for layer in cost.layers
    ]  # fmt: skip
    peak = Number(f"{cost.activation_bytes:,} peak", cost.activation_bytes)
    rows.append([Line("total", is_strong=True), "", "", count_cell(cost.params), count_cell(cost.macs), peak])
    return PageTable("layers", ["layer", "kind", "output", "params", "MACs", "live bytes"], rows)
