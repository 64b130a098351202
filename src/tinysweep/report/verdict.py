"""What the final decided, as HTML: the models on the test set, how sure the differences are, the candidates."""

from tinysweep.report.final import WINNER, Comparison, Final, Finalist
from tinysweep.report.headline import spread
from tinysweep.report.markup import Html, Number, breakable, join, table, tag
from tinysweep.report.style import short, shown
from tinysweep.results.verdict import Summary

SPREAD = "mean\u00a0±\u00a0sd"


def verdict(final: Final, judge: str) -> Html:
    """The final's choice in words, the tested models, how sure the differences are, and all candidates; `judge` is
    the metric by which they were chosen."""
    parts: list[object] = [tag("p", final.choice)]
    if final.tested:
        parts += [tag("h3", "On the test set"), _finalists(final.tested, ["test_accuracy", "test_loss"], final)]
    if final.comparisons:
        parts += [tag("h3", "Is the winner better?"), _comparisons(final)]
    if final.candidates:
        names = sorted(("validation_loss", "validation_accuracy"), key=lambda name: name != judge)
        parts += [tag("h3", "Candidates on validation images"), _finalists(final.candidates, names, final)]
    if final.dropped:
        rows = [[each.name, each.stage, each.seed, each.reason] for each in final.dropped]
        header = ["model", "failed in", "with seed", "reason"]
        parts += [tag("h3", "Dropped out"), table(header, rows, label="models that dropped out")]
    return join(parts)


def _finalists(found: list[Finalist], names: list[str], final: Final) -> Html:
    """A row a model; the interval and each seed's figure are those of the first metric."""
    first = names[0].replace("_", " ")
    header: list[object] = ["model", "role", "parameters", f"{first}, {SPREAD}"]
    header += [f"{100 * final.confidence:g}% interval", f"{first} of each seed"]
    header += [f"{name.replace('_', ' ')}, {SPREAD}" for name in names[1:]] + ["MACs"]
    changed = list(dict.fromkeys(name for each in found for name in each.changed))
    rows = []
    for each in found:
        leads = each.chosen or each.role == WINNER
        means: list[object] = [
            Number(spread(name, each.summaries[name]), each.summaries[name].mean)
            if name in each.summaries
            else "–"
            for name in names
        ]
        seeds = sorted(each.runs, key=lambda run: run["seed"])
        row: list[object] = [
            tag("strong", each.name) if leads else each.name,
            "chosen" if each.chosen else each.role,
        ]
        row += [
            Number(f"{each.params:,}", each.params),
            means[0],
            interval(names[0], each.summaries.get(names[0])),
        ]
        row += [tag("span", ", ".join(shown(names[0], run.get(names[0])) for run in seeds)), *means[1:]]
        row += [Number(f"{each.macs:,}", each.macs), *(short(each.changed.get(name)) for name in changed)]
        rows.append(row)
    return table([*header, *map(breakable, changed)], rows, label="models of the final")


def interval(name: str, summary: Summary | None) -> str:
    """The ends of a mean's interval; one seed has none."""
    if summary is None or summary.low is None or summary.high is None:
        return "–"
    return f"{shown(name, summary.low).removesuffix('%')} – {shown(name, summary.high)}"


def _comparisons(final: Final) -> Html:
    def points(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:+.2f}".replace("-", "−")

    def chance(p_value: float | None) -> Number:
        return Number("–" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}", p_value)

    def row(each: Comparison) -> list[object]:
        span = "–" if each.low is None else f"{points(each.low)} to {points(each.high)}"
        who = tag("span", f"{each.winner} against {each.against} ({each.role})")
        difference = Number(points(each.difference), each.difference)
        return [who, difference, span, chance(each.p_value), chance(each.p_value_seeds), each.verdict]

    header = ["models", "difference, percentage points", f"{100 * final.confidence:g}% interval"]
    header += ["p-value over images", "p-value over seeds", "verdict"]
    tests = "; ".join(dict.fromkeys(each.test for each in final.comparisons))
    rows = [row(each) for each in final.comparisons]
    return join([table(header, rows, label="comparisons"), tag("p", f"Test: {tests}.", class_="note")])
