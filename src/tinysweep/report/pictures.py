"""The main figures of a report as PNG files, for a README or a slide: plotly's own way there needs a browser."""

import html
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from tinysweep.data.pictures import OWN
from tinysweep.files import write_whole
from tinysweep.results.view import StudyView

PICTURES = {  # by the name of the figure: that of the file, and the title
    "history": ("search_history", "search history"),
    "accuracy": ("accuracy_parameters", "accuracy against parameters"),
    "importance": ("importances", "what mattered"),
    "curves": ("curves", "the best trials"),
}
MARKERS = {"circle": "o", "triangle-down": "v", "square": "s", "x": "X", "star": "*", "cross": "P", "diamond": "D",
           "hourglass": "d", "circle-open": "o"}  # fmt: skip
PIXELS = 100  # of plotly that make an inch
POINTS = 0.72  # of matplotlib that make a pixel of plotly
STAR = 1.5  # matplotlib's stars are smaller than its circles
LONGEST = 40  # letters of a name


def write_pictures(view: StudyView, drawn: Mapping[str, go.Figure | str]) -> list[Path]:
    """Write the pictures into the study's folder `figures`; one that can't be had says why."""
    folder = view.folder / "figures"
    folder.mkdir(exist_ok=True)
    name = view.name if len(view.name) <= LONGEST else view.name[: LONGEST - 1] + "…"
    for key, (file, title) in PICTURES.items():
        write_whole(folder / f"{file}.png", png(drawn[key], f"{name}: {title}"))
    return [folder / f"{file}.png" for file, _ in PICTURES.values()]


def png(drawn: go.Figure | str, title: str) -> bytes:
    """A figure as a PNG: what a report's figures ask of plotly, drawn by matplotlib."""
    # A name may hold $, which is no formula, and letters that the font lacks, which show as boxes.
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        if isinstance(drawn, str):
            figure.text(0.5, 0.5, drawn, ha="center", va="center", color="#555555", wrap=True)
        else:
            _draw(figure, drawn)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, metadata=OWN)
    return stream.getvalue()


def _draw(figure: Figure, drawn: go.Figure) -> None:
    figure.set_size_inches(8, drawn.layout.height / PIXELS)
    up = {axis.plotly_name: axis for axis in drawn.select_yaxes()}
    across = {axis.plotly_name: axis for axis in drawn.select_xaxes()}
    heights = [axis.domain[1] - axis.domain[0] if axis.domain else 1 for axis in up.values()]
    panels = figure.subplots(len(up), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, vertical, horizontal in zip(panels, up.values(), across.values(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        _set_axis(axes, "x", horizontal)
        _set_axis(axes, "y", vertical)
    places = dict(zip(up, panels, strict=True))
    bars = [trace for trace in drawn.data if trace.type == "bar"]
    for trace in drawn.data:
        axes = places[(trace.yaxis or "y").replace("y", "yaxis")]
        if trace.type == "bar":
            _add_bars(axes, trace, bars.index(trace), len(bars))
        elif trace.x:
            _add_points(axes, trace)
    for shape in drawn.layout.shapes:
        panels[0].axvline(shape.x0, color=shape.line.color, lw=shape.line.width, ls="--")
    for note in drawn.layout.annotations:
        x = 10**note.x if drawn.layout.xaxis.type == "log" else note.x
        panels[0].annotate(
            note.text, (x, note.y), (note.xshift, 4), xycoords=("data", "axes fraction"), ha=note.xanchor,
            va=note.yanchor, textcoords="offset points", color=note.font.color, fontsize=9,
        )  # fmt: skip
    if panels[0].get_legend_handles_labels()[0]:
        corner = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
        panels[0].legend(**corner, ncols=6, frameon=False, fontsize=9)


def _set_axis(axes: Axes, which: str, asked: Any) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    if asked.type == "log":
        axes.set(**{f"{which}scale": "log"})
    if asked.range:
        axes.set(**{f"{which}lim": [10**end if asked.type == "log" else end for end in asked.range]})
    if asked.autorange == "reversed":
        axis.set_inverted(True)
    if asked.tickvals is not None:
        axis.set_ticks(asked.tickvals, [html.unescape(text) for text in asked.ticktext])
        axis.set_minor_locator(NullLocator())
    elif which == "x":
        axis.set_major_locator(MaxNLocator(integer=True))
    if asked.showgrid is not False:
        axis.grid(color=asked.gridcolor)
    axis.set_label_text(asked.title.text or "")


def _add_points(axes: Axes, trace: Any) -> None:
    """A trace of markers, a line or both, which may go by steps."""
    symbol = trace.marker.symbol or "circle"
    size = POINTS * (trace.marker.size or 6) * (STAR if symbol == "star" else 1)
    colour = trace.marker.color or trace.line.color
    if (bars := trace.error_y).array:
        axes.errorbar(
            trace.x,
            trace.y,
            [bars.arrayminus, bars.array],
            fmt="none",
            ecolor=bars.color,
            elinewidth=0.8,
            capsize=2,
        )
    axes.plot(
        trace.x, trace.y, color=colour, alpha=trace.marker.opacity, lw=trace.line.width,
        marker=MARKERS[symbol] if "markers" in trace.mode else "", ms=size,
        markerfacecolor="none" if symbol.endswith("open") else colour,
        ls="-" if "lines" in trace.mode else "",
        drawstyle="steps-post" if trace.line.shape == "hv" else "default",
        label="_" if trace.showlegend is False else trace.name,
    )  # fmt: skip


def _add_bars(axes: Axes, trace: Any, index: int, count: int) -> None:
    """Horizontal bars, those of several traces beside each other."""
    thick = 0.75 / count
    places = [place + (index - (count - 1) / 2) * thick for place in trace.y]
    bars = axes.barh(places, trace.x, thick, color=trace.marker.color, label=trace.name if count > 1 else "_")
    axes.bar_label(bars, trace.text, padding=4, fontsize=9)
