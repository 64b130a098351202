"""The course of a final, and what is printed of it: the choice among the candidates, then the test of the winner
and of those that it is compared with. Who fails by its own configuration drops out of both, and the verdict is
given without it."""

from collections.abc import Iterator, Sequence
from textwrap import indent

from tinysweep import console
from tinysweep.errors import StudyError
from tinysweep.final.candidates import Candidate, Plan, Stage
from tinysweep.final.results import Final, Outcome, Trained, gather_predictions, write_files
from tinysweep.final.runs import Failure, Run, RunProgress, complete
from tinysweep.final.settings import seeds_in_words
from tinysweep.metrics import METRICS, TEST_METRICS
from tinysweep.results.verdict import Summary


def hold_final(plan: Plan) -> None:
    """Candidates, choice, final models, verdict, in this order.

    Raises:
        StudyError: a run failed for a reason outside its configuration; the baseline or every candidate dropped
            out.
        KeyboardInterrupt: passed on, once the runs are stopped.
    """
    with RunProgress(plan.total) as progress:
        for line in plan.heading():
            progress.print(line)
        runs, failures = complete(plan.selection_jobs(), plan.workers, progress)
        ranked = [Trained("candidate", each, runs[each.name]) for each in plan.candidates if each.name in runs]
        ranked.sort(key=lambda trained: trained.rank(plan.judge))
        ordered = [trained.candidate for trained in ranked] if plan.selects else plan.candidates
        tested = _test(plan, ordered, failures, progress)
    outcome = Outcome(plan, ranked, tested, list(failures.values()))
    predictions = gather_predictions(tested)
    final = outcome.final(predictions)
    command = write_files(outcome, final, predictions)
    print(result(plan, final, len(predictions), command))


def _test(
    plan: Plan, ordered: Sequence[Candidate], failures: dict[str, Failure], progress: RunProgress
) -> list[Trained]:
    """The final models, the winner first. As long as one drops out, which `failures` then tells, the next in the
    order that was fixed before takes its place."""
    runs: dict[str, list[Run]] = {}
    while True:
        left = [candidate for candidate in ordered if candidate.name not in failures]
        _require_verdict(plan, left, failures)
        roles = plan.roles(left)
        missing = {role: candidate for role, candidate in roles.items() if candidate.name not in runs}
        if not missing:
            return [Trained(role, candidate, runs[candidate.name]) for role, candidate in roles.items()]
        more, failed = complete(plan.test_jobs(missing), plan.workers, progress)
        runs |= more
        failures |= failed


def _require_verdict(plan: Plan, left: Sequence[Candidate], failures: dict[str, Failure]) -> None:
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


def result(plan: Plan, final: Final, images: int, command: str) -> str:
    """The tables, the verdicts, the choice in words, and where everything lies."""
    parts = [_candidates(plan, final)] if final.candidates else []
    parts.append(_models(plan, final, images))
    if final.comparisons:
        parts.append("\n".join(_comparisons(final)))
    places = [
        ("models", str(plan.folder / "runs" / Stage.test)),
        ("figures", f"{plan.folder / 'final.json'}, final.csv, predictions.csv"),
        ("train the winner", command),
    ]
    parts += [final.choice, "\n".join(f"{name:<18}{value}" for name, value in places)]
    return "\n" + "\n\n".join(parts)


def _candidates(plan: Plan, final: Final) -> str:
    judge = METRICS[plan.judge]
    rows = [["", "", "loss", "accuracy", "params", f"{judge.header} of each seed"]]
    for each in final.candidates:
        means = (
            _mean("validation_loss", each.validation_loss),
            _mean("validation_accuracy", each.validation_accuracy),
        )
        seeds = " ".join(_figure(plan.judge, getattr(run, plan.judge)) for run in each.runs)
        rows.append(["chosen" if each.chosen else "", each.name, *means, f"{each.params:,}", seeds])
    for failure in final.dropped:
        rows.append(["dropped out", failure.name, "–", "–", "–", f"seed {failure.seed}: {failure.reason}"])
    title = f"candidates by mean {judge.label} over {seeds_in_words(plan.selection_seeds)}"
    return f"{title}, {_spread(final)}:\n{_aligned(rows)}"


def _models(plan: Plan, final: Final, images: int) -> str:
    rows = [["", "", "accuracy", "loss", "params", "accuracy of each seed"]]
    for each in final.tested:
        means = _mean("test_accuracy", each.test_accuracy), _mean("test_loss", each.test_loss)
        seeds = " ".join(_figure("test_accuracy", run.test_accuracy) for run in each.runs)
        rows.append([each.role, each.name, *means, f"{each.params:,}", seeds])
    over = seeds_in_words(plan.settings.seeds)
    return f"final models on the {images:,} test images over {over}, {_spread(final)}:\n{_aligned(rows)}"


def _comparisons(final: Final) -> Iterator[str]:
    """A line each: the difference with its interval over test images, and what may be said."""
    for found in final.comparisons:
        interval = ""
        if found.low is not None and found.high is not None:
            interval = f" [{100 * found.low:+.2f}, {100 * found.high:+.2f} over test images]"
        points = f"{found.winner} less {found.against}: {100 * found.difference:+.2f} points"
        yield f"{points}{interval}; {found.verdict}"


def _spread(final: Final) -> str:
    return f"mean ± standard deviation [{100 * final.confidence:g}% interval of the mean]"


def _mean(metric: str, found: Summary) -> str:
    shown = (METRICS | TEST_METRICS)[metric].shown(found.mean)
    if found.sd is None:
        return shown
    sd, low, high = (_figure(metric, value) for value in (found.sd, found.low, found.high))
    return f"{shown} ± {sd} [{low}, {high}]"


def _figure(metric: str, value: float | None) -> str:
    """A figure without its unit, which stands beside it already."""
    return (METRICS | TEST_METRICS)[metric].shown(value).removesuffix("%")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    return indent(console.table(rows, "l" * len(rows[0])), console.GAP)
