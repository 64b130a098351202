"""What a person sees of a final: a line for each finished run, a bar with the time left, and the result."""

import sys
from collections.abc import Sequence
from textwrap import indent
from types import TracebackType

from tqdm import tqdm

from tinysweep import console
from tinysweep.final.plan import Job, Stage
from tinysweep.final.results import Results
from tinysweep.final.runs import Run
from tinysweep.final.settings import seeds_in_words
from tinysweep.results.verdict import Summary


class Screen:
    """Lines on standard output; the bar stands on standard error and only where that is a terminal."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total
        self.bar = tqdm(total=total, unit="run", file=sys.stderr, disable=None, leave=False)

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if kind is KeyboardInterrupt:
            self.say(f"stopped; {self.done} of {self.total} runs are done; the same command goes on from here")

    def say(self, *lines: str) -> None:
        for line in lines:
            tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def begin(self, there: int) -> None:
        """Some runs need not be trained: they count as done, but not for the pace."""
        if there:
            self.done += there
            self.bar.total = (self.bar.total or 0) - there
            self.bar.refresh()
            self.say(f"{there} run{'s are' if there > 1 else ' is'} there already")

    def finished(self, run: Run) -> None:
        """The line of a run that has just been trained."""
        self.done += 1
        if run.job.stage == Stage.test:
            figures = f"loss {run.metric('test_loss'):.4f}  {100 * run.metric('test_accuracy'):6.2f}%"
        else:
            figures = f"loss {run.metric('validation_loss'):.4f}  {100 * run.metric('validation_accuracy'):6.2f}%"
        self.say(f"{_title(run.job)}  {figures}  {run.record['train_seconds']:6.1f} s")
        self.bar.update()

    def failed(self, job: Job, reason: str) -> None:
        """The line of a run that left nothing to go by."""
        self.say(f"{_title(job)}  failed: {reason}")
        self.bar.update()


def _title(job: Job) -> str:
    return f"{job.stage:<10}  {job.name:<10}  seed {job.seed:<2}"


def result(results: Results, command: str) -> str:
    """The tables, the verdicts, the choice in words, and where everything lies."""
    plan = results.plan
    parts = []
    if results.candidates:
        parts.append(_candidates(results))
    parts.append(_tested(results))
    if verdicts := _verdicts(results):
        parts.append(verdicts)
    folder = plan.folder
    places = [
        ("models", str(results.winner.runs[0].folder.path.parent)),
        ("figures", f"{folder / 'final.json'}, final.csv, predictions.csv"),
        ("train the winner", command),
    ]
    parts += [results.choice, "\n".join(f"{name:<18}{value}" for name, value in places)]
    return "\n" + "\n\n".join(parts)


def _candidates(results: Results) -> str:
    plan = results.plan
    rows = [["", "", "loss", "accuracy", "params", f"{plan.judge.removeprefix('validation_')} of each seed"]]
    for candidate in results.candidates:
        loss, accuracy = (results.summary(candidate, f"validation_{name}") for name in ("loss", "accuracy"))
        chosen = "chosen" if candidate.entrant is results.winner.entrant else ""
        judged = candidate.figures(plan.judge)
        shown = (f"{one:.4f}" if plan.judge == "validation_loss" else f"{100 * one:.2f}" for one in judged)
        params = f"{candidate.entrant.cost.params:,}"
        rows.append([chosen, candidate.entrant.name, _loss(loss), _accuracy(accuracy), params, " ".join(shown)])
    for failure in results.dropped:
        rows.append(["dropped out", failure.job.name, "–", "–", "–", f"seed {failure.job.seed}: {failure.reason}"])
    title = f"candidates by mean {plan.judge.replace('_', ' ')} over {seeds_in_words(plan.selection_seeds)}"
    return f"{title}, {_spread(results)}:\n{_aligned(rows)}"


def _tested(results: Results) -> str:
    rows = [["", "", "accuracy", "loss", "params", "accuracy of each seed"]]
    for tested in results.tested:
        loss, accuracy = (results.summary(tested, f"test_{name}") for name in ("loss", "accuracy"))
        each = " ".join(f"{100 * one:.2f}" for one in tested.figures("test_accuracy"))
        params = f"{tested.entrant.cost.params:,}"
        rows.append([tested.role, tested.entrant.name, _accuracy(accuracy), _loss(loss), params, each])
    images, seeds = len(results.winner.labels), seeds_in_words(results.plan.settings.seeds)
    return f"final models on the {images:,} test images over {seeds}, {_spread(results)}:\n{_aligned(rows)}"


def _verdicts(results: Results) -> str:
    """A line for each comparison: the difference with its interval over test images, and what may be said."""
    lines = []
    for other, found in results.comparisons:
        interval = ""
        if found.low is not None and found.high is not None:
            interval = f" [{100 * found.low:+.2f}, {100 * found.high:+.2f} over test images]"
        points = f"{results.winner.entrant.name} less {other.entrant.name}: {100 * found.difference:+.2f} points"
        lines.append(f"{points}{interval}; {results.verdict(other, found)}")
    return "\n".join(lines)


def _spread(results: Results) -> str:
    return f"mean ± standard deviation [{100 * results.plan.settings.confidence:g}% interval of the mean]"


def _accuracy(summary: Summary) -> str:
    if summary.sd is None or summary.low is None or summary.high is None:
        return f"{100 * summary.mean:.2f}%"
    return (
        f"{100 * summary.mean:.2f}% ± {100 * summary.sd:.2f} [{100 * summary.low:.2f}, {100 * summary.high:.2f}]"
    )


def _loss(summary: Summary) -> str:
    if summary.sd is None or summary.low is None or summary.high is None:
        return f"{summary.mean:.4f}"
    return f"{summary.mean:.4f} ± {summary.sd:.4f} [{summary.low:.4f}, {summary.high:.4f}]"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    return indent(console.table(rows, "l" * len(rows[0])), console.GAP)
