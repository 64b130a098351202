"""A report put together: the page out of its template, and the pictures beside it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import describe
from tinysweep.errors import TinysweepError
from tinysweep.files import write_whole
from tinysweep.final.results import Final, read_final
from tinysweep.metrics import METRICS
from tinysweep.network.budget import Cost, measure
from tinysweep.report import figures, noise, sections
from tinysweep.report.again import final_command, instructions
from tinysweep.report.importance import FEW, Importances, importances
from tinysweep.report.mistakes import Mistake, Predictions, mistakes, names_of_classes, read_predictions
from tinysweep.report.pictures import write_pictures
from tinysweep.report.style import STATUS, status_name
from tinysweep.results.view import LEADERS, StudyView
from tinysweep.settings.schema import Config

BEST_CURVES = 8
Held = TypeVar("Held")


@dataclass(frozen=True)
class Findings:
    """What a study found, as far as it can be had; else None, or in one sentence why not."""

    final: Final | str | None
    predictions: Predictions | str | None
    winner: int | None  # the trial that the final chose, or else the best so far
    model: tuple[Config, DataShape, Cost] | str | None  # the winner's, built again without weights
    important: list[Importances] | str


def find(view: StudyView) -> Findings:
    final = _or_why_not(lambda: read_final(view.folder))
    winner = view.completed[0].number if view.completed else None
    if isinstance(final, Final) and final.winner.trial is not None:
        winner = final.winner.trial
    found = [importances(view, objective) for objective in view.objectives]
    important = [each for each in found if isinstance(each, Importances)] or str(found[0])
    model = None if winner is None else _or_why_not(lambda: _model(view.config(winner)))
    return Findings(final, _or_why_not(lambda: read_predictions(view.folder)), winner, model, important)


def _or_why_not(read: Callable[[], Held]) -> Held | str:
    try:
        return read()
    except TinysweepError as error:
        return str(error)


def _model(config: Config) -> tuple[Config, DataShape, Cost]:
    shape = describe(config.data)
    return config, shape, measure(config.model, shape)


def write_report(view: StudyView) -> tuple[Path, list[Path]]:
    """Write report.html and the pictures into the study's folder; where they are."""
    found = find(view)
    drawn = draw(view, found)
    path = view.folder / "report.html"
    # A folder's name may hold bytes that are no text.
    write_whole(path, render(view, found, drawn).encode(errors="replace"))
    return path, write_pictures(view, drawn)


def draw(view: StudyView, found: Findings) -> dict[str, go.Figure | str]:
    """Every figure of a report; a sentence for one that can't be had."""
    kinds = ["params", *(kind for kind in ("macs", "activation_bytes") if view.limit(kind))]
    drawn = {
        "accuracy": figures.accuracy_parameters(view, found.winner),
        "history": figures.history(view),
        "importance": figures.importance_bars(found.important),
        "parallel": figures.parallel_coordinates(view),
        "curves": figures.curves(view, view.completed[:BEST_CURVES]),
        **{kind: figures.costs(view, kind) for kind in kinds},
    }
    if isinstance(predictions := found.predictions, Predictions):
        names = names_of_classes(view, found.winner, predictions.classes)
        drawn["confusion"] = figures.confusion_matrix(predictions, names)
    return drawn


def render(view: StudyView, found: Findings, drawn: dict[str, go.Figure | str]) -> str:
    """The whole page, with plotly and all else that it needs in it."""
    final, model = found.final, found.model
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {
        "from_json": json.loads,
        "label": lambda name: METRICS[name].label,
        "status_name": status_name,
        "thousands": "{:,}".format,
    }
    return environment.get_template("page.html.j2").render(
        **vars(found), view=view, figures=drawn, STATUS=STATUS, FEW=FEW, LEADERS=LEADERS,
        BEST_CURVES=BEST_CURVES,
        tiles=sections.tiles(view, final if isinstance(final, Final) else None),
        bounds=sections.bounds(view), period=sections.period(view.trials), made=datetime.now(UTC),
        counts=sections.status_counts(view), noise=noise.in_words(view),
        final_tables=sections.final_tables(final, view.objectives[0]) if isinstance(final, Final) else {},
        final_command=final_command(view),
        reasons=sections.reasons(view), ranking=sections.ranking(view), mistakes=_mistakes(view, found),
        layers=sections.layers(model[2]) if isinstance(model, tuple) else None,
        again=instructions(view, found.winner), plotly=get_plotlyjs(),
    )  # fmt: skip


def _mistakes(view: StudyView, found: Findings) -> list[Mistake] | str:
    predictions, winner = found.predictions, found.winner
    if not isinstance(predictions, Predictions) or not predictions.by_seed:
        return []
    names = names_of_classes(view, winner, predictions.classes)
    return _or_why_not(lambda: mistakes(view, predictions, winner, names))
