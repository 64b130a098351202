"""A report put together: the page, part by part, and the pictures beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import TypeVar

from plotly.offline import get_plotlyjs

from tinysweep.errors import DataError
from tinysweep.files import write_whole
from tinysweep.report import figures, plots
from tinysweep.report.again import again, final_command
from tinysweep.report.final import Final, read_final, read_predictions
from tinysweep.report.headline import headline
from tinysweep.report.importance import Importances, importances
from tinysweep.report.markup import Html, join, tag, text
from tinysweep.report.mistakes import confusion, mistakes
from tinysweep.report.pictures import draw_all
from tinysweep.report.sections import ends, layers, ranking
from tinysweep.report.style import words
from tinysweep.report.verdict import verdict
from tinysweep.results.view import StudyView

TEMPLATE = Path(__file__).with_name("page.html.j2")
CONFUSION_PIXELS = 560
Held = TypeVar("Held")


@dataclass(frozen=True)
class Findings:
    """What several parts of a report and its pictures tell of; in words where it can't be had."""

    final: Final | str | None
    winner: int | None
    important: list[Importances] | str


def find(view: StudyView) -> Findings:
    """The final, the trial that it chose or else the best so far, and importances."""
    final = _read(read_final, view.folder)
    winner = view.completed[0].number if view.completed else None
    if isinstance(final, Final) and final.winner and final.winner.trial is not None:
        winner = final.winner.trial
    found = [importances(view, objective) for objective in view.objectives]
    had = [each for each in found if isinstance(each, Importances)]
    return Findings(final, winner, had or str(found[0]))


def write_report(view: StudyView) -> tuple[Path, list[Path]]:
    """Write report.html and the pictures; where they are.

    Raises:
        OSError: the study's folder can't be written.
    """
    found = find(view)
    path = view.folder / "report.html"
    # A folder's name may hold bytes that are no text.
    write_whole(path, page(view, found).encode(errors="replace"))
    return path, draw_all(view, found.winner, found.important, plots.BEST_CURVES)


def page(view: StudyView, found: Findings) -> str:
    """The whole page, with plotly and all else that it needs in it."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=text(f"{view.name} – tinysweep"), body=body(view, found), plotly=get_plotlyjs()
    )


def _read(reader: Callable[[Path], Held | None], folder: Path) -> Held | str | None:
    """What a file holds, why it can't be read, or None if it isn't there."""
    try:
        return reader(folder)
    except DataError as error:
        return str(error)


def body(view: StudyView, found: Findings) -> Html:
    """All that the page says, in the order in which a person decides."""
    final, winner = found.final, found.winner
    parts = [
        ("final", "The final", _final(view, final)),
        ("accuracy", "Accuracy against parameters", plots.accuracy(view, winner)),
        ("history", "Search history", plots.history(view)),
        ("importance", "What mattered", plots.importance(found.important)),
        ("parallel", "Parameters of each trial", plots.parameters(view)),
        ("curves", "Learning curves", plots.curves(view)),
        ("ends", "Pruned, refused and failed trials", _ends(view)),
        ("mistakes", "The winner's mistakes", _mistakes(view, winner)),
        ("layers", "The winner, layer by layer", layers(view, winner)),
        ("trials", "Trials, ranked", ranking(view)),
        ("again", "Do it again", again(view, winner)),
    ]
    return join(
        [
            tag("h1", f"Study {view.name}"),
            headline(view, final if isinstance(final, Final) else None, datetime.now(UTC)),
            tag("nav", join(tag("a", title, href=f"#{key}") for key, title, _ in parts), aria_label="contents"),
            *(tag("section", tag("h2", title), content, id=key) for key, title, content in parts),
        ]
    )


def _final(view: StudyView, final: Final | str | None) -> Html:
    if isinstance(final, Final):
        return verdict(final, view.objectives[0])
    if final is not None:
        return tag("p", f"{final}.", class_="note")
    said: list[object] = ["There was no final yet: each trial was trained with one seed, and none was tested. "]
    if command := final_command(view):
        said += [tag("code", command), " trains the best with several seeds and tests the winner."]
    return tag("p", *said, class_="note")


def _ends(view: StudyView) -> Html:
    if not view.trials:
        return tag("p", "No trial has begun yet.", class_="note")
    kinds = ["params", *(kind for kind in ("macs", "activation_bytes") if view.limit(kind))]
    shown = []
    for kind in kinds:
        caption = f"Trials by {words(kind)}; what was refused was never trained."
        shown.append(plots.plot(figures.costs(view, kind), f"{words(kind)} of refused trials", caption))
    return join([ends(view), tag("h3", "What the refused would have cost"), *shown])


def _mistakes(view: StudyView, winner: int | None) -> Html:
    predictions = _read(read_predictions, view.folder)
    if predictions is None:
        return tag("p", "Needs the final, which tests the winner and keeps its predictions.", class_="note")
    if isinstance(predictions, str):
        return tag("p", f"{predictions}.", class_="note")
    seeds = len(predictions.by_seed)
    over = f"summed over {seeds} seeds" if seeds != 1 else "of one seed"
    caption = f"Test images by true and predicted class, {over}. Only mistakes are coloured."
    return join(
        [
            plots.plot(
                confusion(view, predictions, winner), "confusion matrix", caption, CONFUSION_PIXELS, narrow=True
            ),
            tag("h3", "Misclassified test images"),
            mistakes(view, predictions, winner)
            if predictions.by_seed
            else tag("p", "None of the winner.", class_="note"),
        ]
    )
