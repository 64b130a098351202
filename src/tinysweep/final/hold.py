"""The course of a final, and what is printed of it: the race of the candidates, then the test of the winner and of
those that it is compared with. Who fails by its own configuration drops out of both, and the verdict is given
without it."""

from collections.abc import Sequence

from tinysweep import console
from tinysweep.errors import StudyError
from tinysweep.final.candidates import Candidate, FinalPlan, Stage
from tinysweep.final.race import IMAGE_MEANS, Race, gap_in_words, gap_text, run_race
from tinysweep.final.results import (
    Final,
    FinalModel,
    Outcome,
    RankedCandidate,
    Verdict,
    figure_of,
    gather_predictions,
    rank,
    tested_metrics,
    validation_figures,
    write_files,
)
from tinysweep.final.runs import Failure, Run, RunProgress, complete
from tinysweep.final.settings import seeds_in_words
from tinysweep.metrics import ALL_METRICS, METRICS
from tinysweep.results.verdict import Summary


def hold_final(plan: FinalPlan) -> None:
    """Race, choice, final models, verdict, in this order.

    Raises:
        StudyError: a run failed for a reason outside its configuration; the baseline or every candidate dropped
            out.
        KeyboardInterrupt: passed on, once the runs are stopped.
    """
    with RunProgress(plan.total) as progress:
        for line in plan.heading():
            progress.print(line)
        try:
            race, judged, failures = _judge(plan, progress)
            ranked = rank(plan, race, judged)
            order = [each.name for each in ranked] if plan.selects else [plan.candidates[0].name]
            roles, runs = _test(plan, order, failures, progress)
            progress.tell_found()
        except KeyboardInterrupt:
            progress.print(
                f"stopped; {progress.done} of {progress.total} runs are done; the same command goes on from here"
            )
            raise
    outcome = Outcome(plan, ranked, roles, runs, list(failures.values()))
    predictions = gather_predictions(roles, runs)
    final = outcome.final(predictions, [run for those in judged.values() for run in those])
    command = write_files(outcome, final, predictions)
    print(result(plan, final, len(predictions), command))


def _judge(plan: FinalPlan, progress: RunProgress) -> tuple[Race, dict[str, list[Run]], dict[str, Failure]]:
    """Train candidates on seed after seed as long as they are in the race; how it ended, and the runs, by name, of
    those that didn't fail."""
    jobs, told = plan.selection_jobs(), set[str]()
    tests = plan.total - len(jobs)
    runs: dict[str, list[Run]] = {job.name: [] for job in jobs}
    failures: dict[str, Failure] = {}
    while True:
        race = run_race(
            validation_figures(runs, plan.judge),
            plan.selection_seeds,
            plan.folds,
            plan.settings.confidence,
            drop=plan.settings.race,
        )
        for name in race.order[len(race.left) :]:
            if name not in told:
                progress.print(f"{name} is out of the race, {gap_in_words(plan.judge, race.gaps[name])}")
                told.add(name)
        missing = [job for job in jobs if job.name in race.left and job.seed >= len(runs[job.name])]
        progress.expect(len(missing) + tests)
        due = sum(job.seed < race.seeds for job in missing)
        if not due:
            return race, runs, failures
        missing.sort(key=lambda job: (job.seed, race.left.index(job.name)))
        # No worker is idle until the next look: those that aren't needed for it train what comes after it.
        more, failed = complete(missing[: -(-due // plan.workers) * plan.workers], plan.workers, progress)
        failures |= failed
        runs = {name: [*those, *more.get(name, [])] for name, those in runs.items() if name not in failed}


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
        parts.append("\n".join(console.wrap(_comparison(each)) for each in final.comparisons))
    places = [
        ("models", str(plan.folder / "runs" / Stage.test)),
        ("figures", f"{plan.folder / 'final.json'}, final.csv, predictions.csv"),
        ("train the winner", command),
    ]
    parts += [console.wrap(final.choice), "\n".join(f"{name:<18}{value}" for name, value in places)]
    return "\n" + "\n\n".join(parts)


def _candidates(plan: FinalPlan, final: Final) -> str:
    names = list(dict.fromkeys((*IMAGE_MEANS, plan.judge)))
    rows = [_row(each, names, plan.judge, gap_text(plan.judge, each.gap)) for each in final.candidates]
    for failure in final.dropped:
        rows.append(
            ["dropped out", failure.name, *["–"] * (len(names) + 2), f"seed {failure.seed}: {failure.reason}"]
        )
    headers = [_flat(METRICS[name].header) for name in names]
    header = ["", "", *headers, "params", "behind", f"{_flat(METRICS[plan.judge].header)} of each seed"]
    seeds = f"{seeds_in_words(plan.selection_seeds)} with {plan.held_out} held out"
    title = f"candidates by mean {METRICS[plan.judge].label} over {seeds}"
    said = f"{_spread(final)}, and how far they are behind the best ± standard error"
    return f"{console.wrap(f'{title}, {said}:')}\n{_align(header, rows)}"


def _models(plan: FinalPlan, final: Final, images: int) -> str:
    names = tested_metrics(final.tested, plan.judge)
    rows = [_row(each, names, "test_accuracy") for each in final.tested]
    headers = [_flat(ALL_METRICS[name].header).removeprefix("test ") for name in names]
    header = ["", "", *headers, "params", "accuracy of each seed"]
    title = f"final models on the {images:,} test images over {seeds_in_words(plan.settings.seeds)}"
    return f"{console.wrap(f'{title}, {_spread(final)}:')}\n{_align(header, rows)}"


def _row(each: RankedCandidate | FinalModel, metrics: Sequence[str], judge: str, *more: str) -> list[str]:
    means = [_mean(name, figure_of(each, name)) for name in metrics]
    seeds = " ".join(_figure(judge, figure_of(run, judge)) for run in each.runs)
    return [each.role, each.name, *means, f"{each.params:,}", *more, seeds]


def _flat(header: str) -> str:
    """A header in one line."""
    return header.replace("\n", " ")


def _mean(metric: str, found: Summary) -> str:
    mean = ALL_METRICS[metric].text(found.mean)
    if found.sd is None or found.low is None or found.high is None:
        return mean
    ends = map(ALL_METRICS[metric].possible, (found.low, found.high))
    sd, low, high = (_figure(metric, value) for value in (found.sd, *ends))
    return f"{mean} ± {sd} [{low}, {high}]"


def _figure(metric: str, value: float | None) -> str:
    """A figure without its unit, which stands beside it already."""
    return ALL_METRICS[metric].text(value).removesuffix("%")


def _spread(final: Final) -> str:
    return f"mean ± standard deviation [{100 * final.confidence:g}% interval of the mean]"


def _align(header: list[str], rows: list[list[str]]) -> str:
    if console.width(console.table([header, *rows], "l" * len(header))) + len(console.GAP) > console.room():
        rows = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
    align, advice = "l" * len(header), "final.csv has it, and final.json"
    return console.fitting_table([header, *rows], align, advice, least=3, indent=console.GAP)


def _comparison(found: Verdict) -> str:
    """The difference with its interval over test images, and what may be said."""
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" [{100 * found.low:+.2f}, {100 * found.high:+.2f} over test images]"
    points = f"{found.winner} less {found.against}: {100 * found.difference:+.2f} points"
    return f"{points}{interval}; {found.verdict}"
