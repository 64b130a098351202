"""Whole studies played on a table of real trainings (table.py), a thousand a method, to decide how to search.

    python -W ignore benchmarks/replay.py

Three worlds. `table`: the configurations of the table in random order, each once, a seed drawn for each training;
the truth of a configuration is its mean loss over both seeds after 9 epochs.
`surrogate`: a regression of the table (surrogate.py) for samplers, which propose what the table lacks, and for
random search with as many configurations as it likes; its truth is a loss without a seed's luck. Samplers and
their pruners are Optuna's own; a study of theirs takes seconds, so there are fewer of them (--costly). And `long`:
the table where the truth is the loss after 27 epochs, as far as it is known.

Cost is epochs times MACs, in whole trainings of the table's mean configuration. Handed over is the best by the
study's own losses on the highest rung that it has reached ("best"), or of its best three the best when repeated
with more seeds, for which it has to save. Regret is the true loss of that, less the table's best, or less what the
best of 100 random configurations of the surrogate has in the median.

Printed are how well the surrogate foretells, how rankings agree with that after 27 epochs, and a row a method:
from what cost on the median regret stays within 0.0005, and 10,000 times that regret at some costs.
FOLDER/replay.csv has the medians with their 95% intervals and between which regrets 95% of the studies lie,
FOLDER/replay.md the rows that are printed, FOLDER/replay.png the picture.
"""

import argparse
import bisect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.pruners import MedianPruner

from methods import Draws, Method, Training, halved, median, promoted, proposed, stopped, tpe, whole
from surrogate import Array, Surrogate, SurrogateDraws
from tinysweep.files import write_whole
from tinysweep.report.style import LIMIT, SERIES

FOLDER = Path(__file__).parents[1] / "results" / "table20k"
CLOSE = 0.0005  # of loss
GRID = np.geomspace(1, 100, 41)  # costs, in whole trainings
SHOWN = (2, 5, 10, 20, 40, 100)  # of the grid, about
COSTLY_MOST = 41.0  # whole trainings that a study with a costly sampler may take: an hour of two cores
MINUTES = 1.45  # that two cores of the CPU in docs/measured.md, a training each, take for a whole training
NORMAL = 1.96  # standard errors, 95%
MOST_TRIALS = 500
LONG_TRIALS = 250
TITLES = {
    "table": "table: 100 configurations",
    "surrogate": "regression of the table",
    "long": "27 epochs as the truth",
}
DRAWN: dict[str, dict[str, int]] = {  # what the picture shows, with the place of its colour in SERIES
    "table": {
        "random": 0, "random, median": 2, "random, rungs 3 9, best third": 3, "random, rungs 1 3 9, best third": 1,
        "random, ASHA 1 3 9, best third": 4,
    },
    "surrogate": {
        "random": 0, "random, rungs 1 3 9, best third": 1, "TPE": 5, "TPE, median": 2,
        "TPE, rungs 1 3 9, best third": 6,
    },
    "long": {
        "random, 9 epochs": 0, "random, 27 epochs": 2, "random, rungs 3 27, best third": 1,
        "random, rungs 1 3 9 27, best third": 4,
    },
}  # fmt: skip


METHODS: dict[str, Method] = {
    "random": whole,
    "random, median": median,
    "random, rungs 1 3 9, best third": stopped,
    "random, rungs 1 3 9, best quarter": partial(stopped, reduction=4),
    "random, rungs 1 9, best third": partial(stopped, rungs=(1, 9)),
    "random, rungs 3 9, best third": partial(stopped, rungs=(3, 9)),
    "random, ASHA 1 3 9, best third": promoted,
    "random, groups of 27, 1 3 9, best third": halved,
}
LONG: dict[str, Method] = {
    "random, 9 epochs": whole,
    "random, 27 epochs": partial(whole, epochs=27),
    "random, rungs 1 3 9 27, best third": partial(stopped, rungs=(1, 3, 9, 27)),
    "random, rungs 3 9 27, best third": partial(stopped, rungs=(3, 9, 27)),
    "random, rungs 3 27, best third": partial(stopped, rungs=(3, 27)),
    "random, rungs 3 27, best half": partial(stopped, rungs=(3, 27), reduction=2),
    "random, rungs 9 27, best third": partial(stopped, rungs=(9, 27)),
}
COSTLY: dict[str, Method] = {
    "TPE": partial(proposed, sampler=tpe),
    "TPE, median": partial(proposed, sampler=tpe, pruner=MedianPruner(5, 7, 3)),
    "TPE, rungs 1 3 9, best third": partial(proposed, sampler=tpe, rungs=(1, 3, 9)),
}
HANDED = {"best": 0, "best of 3, 2 seeds": 2, "best of 3, 5 seeds": 5}  # seeds of each of the three


# ---- what comes of them


def play(method: Method, draws: Draws, trials: int, most: float) -> list[Training]:
    """A study that ends once it has paid `most`."""
    paid, found = 0.0, list[Training]()
    for training in method(draws, trials):
        found.append(training)
        paid += training.epochs * draws.macs(training.trial)
        if paid >= most:
            break
    return found


def leaders(trainings: Sequence[Training]) -> list[tuple[int, ...]]:
    """After each training, the best three trials by their own losses on the highest rung that any has reached."""
    highest, best, found = -1, list[tuple[float, int]](), list[tuple[int, ...]]()
    for training in trainings:
        if not math.isnan(training.loss) and training.rung >= highest:
            best = best if training.rung == highest else []
            highest = training.rung
            bisect.insort(best, (training.loss, training.trial))
            del best[3:]
        found.append(tuple(trial for _, trial in best))
    return found


def handed_over(
    trainings: Sequence[Training], draws: Draws, costs: Array, ways: Mapping[str, int] = HANDED
) -> dict[str, Array]:
    """The true loss of what a study would hand over when it has paid each of the costs (epochs times MACs): the
    leader, or of the best three that which is best when repeated with more seeds, for which it has to save."""
    paid = np.cumsum([training.epochs * draws.macs(training.trial) for training in trainings])
    after = leaders(trainings)
    each = {trials: 9 * sum(map(draws.macs, trials)) for trials in set(after)}
    found = {}
    for handed, seeds in ways.items():
        spent = paid + seeds * np.array([each[trials] for trials in after])
        chosen: dict[tuple[int, ...], float] = {(): math.nan}
        true = []
        for cost in costs:
            over = np.flatnonzero(spent <= cost)
            trials = after[over[-1]] if len(over) else ()
            if trials not in chosen:
                judged = {trial: draws.repeated(trial, seeds) if seeds else 0.0 for trial in trials}
                chosen[trials] = draws.truth(min(trials, key=judged.__getitem__))
            true.append(chosen[trials])
        found[handed] = np.array(true)
    return found


class Table:
    """The trainings of table.py: by configuration, epochs and seed the validation loss after every epoch."""

    def __init__(self, folder: Path) -> None:
        rows = pd.read_csv(folder / "epochs.csv").sort_values("epoch")
        self.curves: dict[Any, list[float]] = {
            key: list(curve) for key, curve in rows.groupby(["configuration", "epochs", "seed"]).validation_loss
        }
        self.macs = pd.read_csv(folder / "configurations.csv").macs.to_numpy(float)
        self.truth = np.array([self.mean(number, 9) for number in range(len(self.macs))])
        self.long = {key[0]: curve[-1] for key, curve in self.curves.items() if key[1] == 27}
        pairs = [[self.curves[number, 9, seed][-1] for seed in (0, 1)] for number in range(len(self.macs))]
        luck = np.diff(np.log(pairs)).ravel() / math.sqrt(2)
        self.luck = luck[np.isfinite(luck)]  # of a seed after 9 epochs, in the logarithm of the loss

    def mean(self, number: int, epochs: int) -> float:
        """The loss of a configuration after a whole training, mean of two seeds; NaN if one diverged."""
        return (self.curves[number, epochs, 0][-1] + self.curves[number, epochs, 1][-1]) / 2


class TableDraws:
    """The table's configurations in a random order, each once, and a seed drawn for each training."""

    def __init__(self, table: Table, seed: int) -> None:
        self.table, random = table, np.random.default_rng(seed)
        self.order = [int(number) for number in random.permutation(len(table.macs))]
        self.seeds = random.integers(2, size=(len(table.macs), 10)).tolist()

    def macs(self, trial: int) -> float:
        return float(self.table.macs[self.order[trial]])

    def truth(self, trial: int) -> float:
        return float(self.table.truth[self.order[trial]])

    def curve(self, trial: int, epochs: int) -> Sequence[float]:
        return self.table.curves[self.order[trial], epochs, self.seeds[trial][epochs]]

    def repeated(self, trial: int, seeds: int) -> float:
        """The mean loss of whole trainings with so many seeds, of which the table has two: what its truth is."""
        curves = [self.table.curves[self.order[trial], 9, seed] for seed in range(min(seeds, 2))]
        return sum(curve[-1] for curve in curves) / len(curves)


class LongDraws:
    """Configurations whose last rung has 27 epochs. The table has 45 of those, of the best 24 after 9 epochs
    and of the first of the others; so a study's configurations, drawn with repeats, come as often from the ones
    as 24 of 100, else from the others. The one seed of 27 epochs is their truth, and what a study sees of it
    has in addition the luck that a seed has after 9."""

    def __init__(self, table: Table, seed: int, trials: int) -> None:
        self.table, random = table, np.random.default_rng(seed)
        good = np.argsort(table.truth)[:24]
        known = [
            number
            for number, loss in table.long.items()
            if not any(math.isnan(each) for each in (loss, *(table.mean(number, epochs) for epochs in (1, 3, 9))))
        ]
        strata = [np.array(known)[np.isin(known, good, invert=others)] for others in (False, True)]
        from_others = random.uniform(size=trials) > len(good) / len(table.macs)
        self.order = [int(random.choice(strata[int(others)])) for others in from_others]
        self.seeds = random.integers(2, size=(trials, 10)).tolist()
        self.luck = np.exp(random.choice(table.luck, size=trials) * random.choice((-1, 1), size=trials)).tolist()

    def macs(self, trial: int) -> float:
        return float(self.table.macs[self.order[trial]])

    def truth(self, trial: int) -> float:
        return self.table.long[self.order[trial]]

    def curve(self, trial: int, epochs: int) -> Sequence[float]:
        if epochs == 27:
            return [self.truth(trial) * self.luck[trial]]
        return self.table.curves[self.order[trial], epochs, self.seeds[trial][epochs]]


def agreement(table: Table) -> pd.DataFrame:
    """Spearman's correlation of the losses after whole trainings, means of two seeds, with that after 27 epochs,
    of configurations as studies meet them."""
    draws = LongDraws(table, 0, 10_000)
    means = {str(epochs): [table.mean(number, epochs) for number in draws.order] for epochs in (1, 3, 9)}
    known = pd.DataFrame({**means, "27": [table.long[number] for number in draws.order]})
    return known.corr("spearman")[["27"]].rename_axis("epochs").reset_index()


# ---- the command


class Played(NamedTuple):
    """Regrets of all studies of a method for one way to hand over, (studies, costs of GRID); NaN before there is
    anything to hand over, and where it wasn't played so far."""

    world: str
    method: str
    handed: str
    regrets: Array

    def rows(self) -> pd.DataFrame:
        """A row a cost: the median, its 95% interval (of order statistics), and where 95% of the studies lie. A
        study that has nothing to hand over counts as worse than all."""
        count = len(self.regrets)
        ranked = np.sort(np.where(np.isnan(self.regrets), np.inf, self.regrets), axis=0)
        grid = GRID[: self.regrets.shape[1]]
        half = NORMAL * math.sqrt(count) / 2
        at = {"median": count / 2, "low": count / 2 - half, "high": count / 2 + half,
              "studies_low": 0.025 * count, "studies_high": 0.975 * count}  # fmt: skip
        named = {name: ranked[min(max(int(place), 0), count - 1)] for name, place in at.items()}
        head = {"world": self.world, "method": self.method, "handed_over": self.handed, "studies": count}
        return pd.DataFrame({**head, "trainings": grid, "minutes": grid * MINUTES, **named})


def reached(median: pd.Series, trainings: pd.Series) -> float:
    """From what cost on the median regret stays within CLOSE."""
    above = np.flatnonzero(median.to_numpy() > CLOSE)
    first = above[-1] + 1 if len(above) else 0
    return float(trainings.iloc[first]) if first < len(median) else math.nan


class World(NamedTuple):
    """What studies are played on: the draws of the study of a number, how many trials there are, the cost of a
    whole training, and the loss from which regrets are counted."""

    name: str
    begin: Callable[[int], Any]
    trials: int
    unit: float
    best: float
    ways: Mapping[str, int] = HANDED  # to hand over, with the seeds of each


def run(world: World, name: str, method: Method, studies: int, most: float) -> list[Played]:
    """Play the studies of a method, each until it has paid for `most` whole trainings. Random configurations of
    the study of a number are the same for each method."""
    found, costs = [], GRID[: np.searchsorted(GRID, most, side="right")]
    for number in range(studies):
        draws = world.begin(number)
        trainings = play(method, draws, world.trials, most * world.unit)
        found.append(handed_over(trainings, draws, costs * world.unit, world.ways))
    regrets = {handed: np.array([each[handed] for each in found]) - world.best for handed in world.ways}
    return [Played(world.name, name, handed, each) for handed, each in regrets.items()]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a method and way to hand over."""
    lines = []
    for key, group in rows.groupby(["world", "handed_over", "method"], sort=False):
        line = dict(zip(("world", "handed over", "method"), key, strict=True), studies=group.studies.iloc[0])
        line["trainings to 5"] = reached(group["median"], group.trainings)
        for cost in SHOWN:
            at = group[np.isclose(group.trainings, cost, rtol=0.06)]
            line[f"{cost}"] = 1e4 * at["median"].iloc[0] if len(at) else math.nan
        lines.append(line)
    return pd.DataFrame(lines).replace(math.inf, math.nan).round(1)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown has it."""
    cells = [["" if pd.isna(cell) else str(cell) for cell in row] for row in table.itertuples(index=False)]
    lines = [list(table.columns), ["---"] * len(table.columns), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def picture(rows: pd.DataFrame, path: Path) -> None:
    """Median regret against cost, with the 95% intervals of the medians."""
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    for axes, (world, methods) in zip(figure.subplots(1, 3, sharey=True), DRAWN.items(), strict=True):
        for method, place in methods.items():
            colour = SERIES[place]
            one = rows[(rows.world == world) & (rows.method == method) & (rows.handed_over == "best")]
            one = one[np.isfinite(one.high)]
            axes.plot(one.trainings, 1e4 * one["median"], color=colour, label=method, lw=1.8)
            axes.fill_between(one.trainings, 1e4 * one.low, 1e4 * one.high, color=colour, alpha=0.18, lw=0)
        axes.axhline(1e4 * CLOSE, color=LIMIT, lw=1, ls="--")
        axes.set(xscale="log", xlim=(1, 100), ylim=(0, 30), xlabel="cost, in whole trainings of 9 epochs")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axes.set_title(TITLES[world], loc="left", fontsize=11)
        axes.grid(color="#ececec")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="upper right")
    figure.axes[0].set_ylabel("regret: validation loss above the best, 0.0001")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="of each method that draws at random")
    parser.add_argument("--costly", type=int, default=40, help="studies of each method with a sampler of Optuna")
    parser.add_argument("--rough", type=float, default=1.0, help="0 makes the surrogate smooth; see surrogate.py")
    parser.add_argument("--noise", type=float, default=1.0, help="the luck of the surrogate's seeds, times this")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the table lies")
    parser.add_argument("--out", type=Path, help="where the results go; the table's folder by default")
    options = parser.parse_args()
    began = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    out, table = options.out or options.folder, Table(options.folder)
    surrogate = Surrogate(options.folder, rough=options.rough, noise=options.noise)
    print(markdown(surrogate.quality.round(3)))
    print(markdown(agreement(table).round(2)))
    unit, best, known = 9 * float(table.macs.mean()), float(np.nanmin(table.truth)), surrogate.best_of_hundred
    worlds = [
        World("table", partial(TableDraws, table), len(table.macs), unit, best),
        World("surrogate", partial(SurrogateDraws, surrogate, trials=MOST_TRIALS), MOST_TRIALS, unit, known),
    ]
    empty = World("surrogate", partial(SurrogateDraws, surrogate), MOST_TRIALS, unit, known)
    long = partial(LongDraws, table, trials=LONG_TRIALS)
    far = World("long", long, LONG_TRIALS, unit, min(table.long.values()), {"best": 0})
    plan = [(world, *each, options.studies, GRID[-1]) for world in worlds for each in METHODS.items()]
    plan += [(far, *each, options.studies, GRID[-1]) for each in LONG.items()]
    plan += [(empty, *each, options.costly, COSTLY_MOST) for each in COSTLY.items()]
    tables = list[pd.DataFrame]()
    for each in plan:
        tables.append(pd.concat([ways.rows() for ways in run(*each)]))
        told = markdown(summary(tables[-1]))
        print(told if len(tables) == 1 else "".join(told.splitlines(keepends=True)[2:]), end="", flush=True)
    rows = pd.concat(tables)
    out.mkdir(parents=True, exist_ok=True)
    text = rows.round({"trainings": 2, "minutes": 1} | dict.fromkeys(rows.columns[6:], 6))
    write_whole(out / "replay.csv", text.to_csv(index=False, lineterminator="\n"))
    write_whole(out / "replay.md", markdown(summary(rows)))
    picture(rows, out / "replay.png")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
