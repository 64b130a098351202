"""The course of a final, and what is printed of it: the choice among the candidates, then the test of the winner
and of those that it is compared with. Who fails by its own configuration drops out of both, and the verdict is
given without it."""

from collections.abc import Sequence
from textwrap import indent

from tinysweep import console
from tinysweep.errors import StudyError
from tinysweep.final.candidates import Candidate, FinalPlan, Stage
from tinysweep.final.results import (
    Final,
    FinalModel,
    Outcome,
    RankedCandidate,
    Verdict,
    gather_predictions,
    rank,
    write_files,
)
from tinysweep.final.runs import Failure, Run, RunProgress, complete
from tinysweep.final.settings import seeds_in_words
from tinysweep.metrics import ALL_METRICS, METRICS
from tinysweep.results.verdict import Summary


def hold_final(plan: FinalPlan) -> None:
    """Candidates, choice, final models, verdict, in this order.

    Raises:
        StudyError: a run failed for a reason outside its configuration; the baseline or every candidate dropped
            out.
        KeyboardInterrupt: passed on, once the runs are stopped.
    """
    with RunProgress(plan.total) as progress:
        for line in plan.heading():
            progress.print(line)
        try:
            judged, failures = complete(plan.selection_jobs(), plan.workers, progress)
            ranked = rank(plan, judged)
            left = [each.name for each in ranked] if plan.selects else [plan.candidates[0].name]
            roles, runs = _test(plan, left, failures, progress)
        except KeyboardInterrupt:
            progress.print(
                f"stopped; {progress.done} of {plan.total} runs are done; the same command goes on from here"
            )
            raise
    outcome = Outcome(plan, ranked, roles, runs, list(failures.values()))
    predictions = gather_predictions(roles, runs)
    final = outcome.final(predictions, [run for those in judged.values() for run in those])
    command = write_files(outcome, final, predictions)
    print(result(plan, final, len(predictions), command))


def _test(
    plan: FinalPlan, order: Sequence[str], failures: dict[str, Failure], progress: RunProgress
) -> tuple[dict[str, Candidate], dict[str, list[Run]]]:
    """Who is tested, by role, and the runs, by name. As long as one drops out, which `failures` then tells, the
    next in the order that was fixed before takes its place."""
    named = {candidate.name: candidate for candidate in plan.candidates}
    runs: dict[str, list[Run]] = {}
    while True:
        left = [named[name] for name in order if name not in failures]
        _require_verdict(plan, left, failures)
        roles = plan.roles(left)
        missing = [candidate for candidate in roles.values() if candidate.name not in runs]
        if not missing:
            return roles, runs
        more, failed = complete(plan.test_jobs(missing), plan.workers, progress)
        runs |= more
        failures |= failed


def _require_verdict(plan: FinalPlan, left: Sequence[Candidate], failures: dict[str, Failure]) -> None:
    """Refuse to go on where nobody is left, or nobody to compare the winner with who was asked for."""
    if plan.baseline and (failure := failures.get(plan.baseline.name)):
        raise StudyError(
            f"no verdict, because the baseline failed, {failure}; compare with another by baseline=NAME, or with "
            "none by baseline=null"
        )
    if not left:
        raise StudyError(
            f"no verdict, because every candidate failed, the last {list(failures.values())[-1]}; take more "
            "trials by top=N, or change the recipe, such as optimizer.lr=0.05"
        )


# ---- what is printed


def result(plan: FinalPlan, final: Final, images: int, command: str) -> str:
    """The tables, the verdicts, the choice in words, and where everything lies."""
    parts = [_candidates(plan, final)] if final.candidates else []
    parts.append(_models(plan, final, images))
    if final.comparisons:
        parts.append("\n".join(map(_comparison, final.comparisons)))
    places = [
        ("models", str(plan.folder / "runs" / Stage.test)),
        ("figures", f"{plan.folder / 'final.json'}, final.csv, predictions.csv"),
        ("train the winner", command),
    ]
    parts += [final.choice, "\n".join(f"{name:<18}{value}" for name, value in places)]
    return "\n" + "\n\n".join(parts)


def _candidates(plan: FinalPlan, final: Final) -> str:
    rows = [
        _row("chosen" if each.chosen else "", each, ("validation_loss", "validation_accuracy"), plan.judge)
        for each in final.candidates
    ]
    for failure in final.dropped:
        rows.append(["dropped out", failure.name, "–", "–", "–", f"seed {failure.seed}: {failure.reason}"])
    header = ["", "", "loss", "accuracy", "params", f"{METRICS[plan.judge].header} of each seed"]
    title = f"candidates by mean {METRICS[plan.judge].label} over {seeds_in_words(plan.selection_seeds)}"
    return f"{title}, {_spread(final)}:\n{_align(header, rows)}"


def _models(plan: FinalPlan, final: Final, images: int) -> str:
    rows = [_row(each.role, each, ("test_accuracy", "test_loss"), "test_accuracy") for each in final.tested]
    header = ["", "", "accuracy", "loss", "params", "accuracy of each seed"]
    title = f"final models on the {images:,} test images over {seeds_in_words(plan.settings.seeds)}"
    return f"{title}, {_spread(final)}:\n{_align(header, rows)}"


def _row(role: str, each: RankedCandidate | FinalModel, metrics: tuple[str, str], judge: str) -> list[str]:
    means = [_mean(name, getattr(each, name)) for name in metrics]
    seeds = " ".join(_figure(judge, getattr(run, judge)) for run in each.runs)
    return [role, each.name, *means, f"{each.params:,}", seeds]


def _mean(metric: str, found: Summary) -> str:
    mean = ALL_METRICS[metric].text(found.mean)
    if found.sd is None:
        return mean
    sd, low, high = (_figure(metric, value) for value in (found.sd, found.low, found.high))
    return f"{mean} ± {sd} [{low}, {high}]"


def _figure(metric: str, value: float | None) -> str:
    """A figure without its unit, which stands beside it already."""
    return ALL_METRICS[metric].text(value).removesuffix("%")


def _spread(final: Final) -> str:
    return f"mean ± standard deviation [{100 * final.confidence:g}% interval of the mean]"


def _align(header: list[str], rows: list[list[str]]) -> str:
    return indent(console.table([header, *rows], "l" * len(header)), console.GAP)


def _comparison(found: Verdict) -> str:
    """The difference with its interval over test images, and what may be said."""
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" [{100 * found.low:+.2f}, {100 * found.high:+.2f} over test images]"
    points = f"{found.winner} less {found.against}: {100 * found.difference:+.2f} points"
    return f"{points}{interval}; {found.verdict}"
