"""Accuracy against parameters: the winners of the finals in results/frontier as means over their seeds, with 95%
intervals, beside what others have published, by what kind of figure it is. Writes frontier.csv and frontier.png.

    python benchmarks/frontier.py

A folder holds the final.json of `tinysweep-final` and, if the models were tested with several views as well, the
views.csv of `benchmarks/views.py --test --csv`.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tinysweep.files import write_whole
from tinysweep.report.style import SERIES
from tinysweep.results.verdict import Summary, summarise

FRONTIER = Path(__file__).parent.parent / "results/frontier"
CONFIDENCE = 0.95
CLAIMED = {"last epoch": "s", "best epoch": "^", "typical run": "D", "best of 210 runs": "v"}  # and their markers


@dataclass(frozen=True)
class Point:
    """The accuracy of a winner, over its seeds."""

    budget: int
    params: int
    views: int
    accuracy: Summary


def points(folder: Path, budget: int) -> Iterator[Point]:
    """A winner with one view, and with each other number of views."""
    winner = json.loads((folder / "final.json").read_text())["tested"][0]
    yield Point(budget, winner["params"], 1, Summary(**winner["test_accuracy"]))
    if (path := folder / "views.csv").exists():
        for views, rows in pd.read_csv(path).query("views > 1").groupby("views"):
            yield Point(budget, winner["params"], int(str(views)), summarise(list(rows["accuracy"]), CONFIDENCE))


def table(found: list[Point]) -> pd.DataFrame:
    rows = [
        {"budget": point.budget, "params": point.params, "views": point.views}
        | {
            name: round(100 * value, 3)
            for name, value in dataclasses.asdict(point.accuracy).items()
            if name != "n"
        }
        | {"seeds": point.accuracy.n}
        for point in found
    ]
    return pd.DataFrame(rows)


def draw(found: list[Point], claims: pd.DataFrame, path: Path) -> None:
    """One figure of both."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    for kind, marker in CLAIMED.items():
        of_kind = claims[claims.kind == kind]
        axes.scatter(of_kind.params, of_kind.accuracy, marker=marker, s=34, facecolors="none",
                     edgecolors="#777777", label=f"published: {kind}")  # fmt: skip
    for views, colour in zip(sorted({point.views for point in found}), (SERIES[1], SERIES[0]), strict=False):
        draw_means(axes, [point for point in found if point.views == views], colour, views)
    axes.set(xscale="log", xlabel="trainable parameters", ylabel="test accuracy, %")
    axes.set_xticks([500, 1000, 2000, 5000, 10000, 20000], ["500", "1,000", "2,000", "5,000", "10,000", "20,000"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="#ececec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(path, dpi=150, metadata={"Software": None})


def draw_means(axes: Axes, found: list[Point], colour: str, views: int) -> None:
    accuracies = [100 * point.accuracy.mean for point in found]
    below = [100 * (point.accuracy.mean - (point.accuracy.low or point.accuracy.mean)) for point in found]
    above = [100 * ((point.accuracy.high or point.accuracy.mean) - point.accuracy.mean) for point in found]
    axes.errorbar([point.params for point in found], accuracies, yerr=(below, above), color=colour, marker="o",
                  ls="none", elinewidth=1.5, capsize=3, ms=5, label=label(views))  # fmt: skip


def label(views: int) -> str:
    how = "" if views == 1 else f", {views} views of an image"
    return f"tinysweep: mean over seeds, last epoch{how}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    finals = {
        int(path.parent.name.removesuffix("k")) * 1000: path.parent for path in FRONTIER.glob("*k/final.json")
    }
    found = [point for budget in sorted(finals) for point in points(finals[budget], budget)]
    rows = table(found)
    print(rows.to_string(index=False))
    write_whole(FRONTIER / "frontier.csv", rows.to_csv(index=False))
    draw(found, pd.read_csv(FRONTIER / "claims.csv"), FRONTIER / "frontier.png")


if __name__ == "__main__":
    main()
