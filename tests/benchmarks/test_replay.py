"""The methods that benchmarks/replay.py plays decide as those that they stand for."""

import importlib
import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TRIALS = 54


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    pytest.importorskip("sklearn")
    return importlib.import_module("replay")


class MadeDraws:
    """Losses that fall with the epochs, noisily; one training in twenty diverges at the end."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        level, noise = random.uniform(1, 2, (TRIALS, 1, 1)), random.uniform(0, 1, (TRIALS, 10, 10))
        self.losses = level + noise + 1 / np.arange(1, 11)
        self.losses[random.uniform(size=(TRIALS, 10)) < 0.05, :] = math.nan
        self.level = level.ravel()

    def macs(self, trial: int) -> float:
        return 1.0 + trial % 3

    def truth(self, trial: int) -> float:
        return float(self.level[trial])

    def curve(self, trial: int, epochs: int) -> list[float]:
        return [float(loss) for loss in self.losses[trial, epochs, :epochs]]

    def repeated(self, trial: int, seeds: int) -> float:
        return self.truth(trial) + 0.0 * seeds


def by_optuna(draws: MadeDraws, pruner: BasePruner, schedules: list[list[int]]) -> list[tuple[int, int]]:
    """(trial, epoch at which it ended) of a study by Optuna; each schedule lists the epochs reported of
    one training, which has as many epochs as the last of its list."""
    study, ended = optuna.create_study(pruner=pruner), []
    for number in range(TRIALS):
        trial = study.ask()
        state = optuna.trial.TrialState.COMPLETE
        for epochs in schedules:
            curve = draws.curve(number, epochs[-1])
            if math.isnan(curve[-1]):
                state = optuna.trial.TrialState.FAIL
                ended.append((number, epochs[-1]))
                break
            for epoch in epochs:
                trial.report(curve[epoch - 1], epoch)
                if trial.should_prune() and (epoch, epochs) != (epochs[-1], schedules[-1]):
                    state = optuna.trial.TrialState.PRUNED
                    break
            if state != optuna.trial.TrialState.COMPLETE:
                ended.append((number, epoch))
                break
        else:
            ended.append((number, epoch))
        complete = state == optuna.trial.TrialState.COMPLETE
        study.tell(trial, curve[-1] if complete else None, state=state)
    return ended


def last_of_each(trainings: Iterator[Any]) -> list[tuple[int, int]]:
    return [(number, list(of)[-1].epochs) for number, of in groupby(trainings, lambda training: training.trial)]


@pytest.mark.usefixtures("quiet_optuna")
@pytest.mark.parametrize(
    ("rungs", "reduction", "bootstrap"),
    [((1, 3, 9), 3, 0), ((1, 3, 9), 3, 4), ((1, 2, 4, 8), 2, 0), ((1, 4), 4, 1)],
)
def test_stopping_is_optunas_successive_halving(
    replay: ModuleType, rungs: tuple[int, ...], reduction: int, bootstrap: int
) -> None:
    draws = MadeDraws(0)
    pruner = SuccessiveHalvingPruner(rungs[0], reduction, bootstrap_count=bootstrap)
    played = last_of_each(replay.stopped(draws, TRIALS, rungs=rungs, reduction=reduction, bootstrap=bootstrap))
    assert played == by_optuna(draws, pruner, [[rung] for rung in rungs])
    assert {epochs for _, epochs in played} == set(rungs)


@pytest.mark.usefixtures("quiet_optuna")
@pytest.mark.parametrize(("startup", "warmup", "interval"), [(5, 7, 3), (3, 2, 2), (0, 1, 1)])
def test_median_is_optunas(replay: ModuleType, startup: int, warmup: int, interval: int) -> None:
    draws = MadeDraws(1)
    played = last_of_each(replay.median(draws, TRIALS, startup=startup, warmup=warmup, interval=interval))
    assert played == by_optuna(draws, MedianPruner(startup, warmup, interval), [list(range(1, 10))])
    assert len({epochs for _, epochs in played}) > 1


@pytest.mark.parametrize("method", ["promoted", "halved"])
@pytest.mark.parametrize("reduction", [2, 3])
def test_only_the_best_of_a_rung_are_promoted(replay: ModuleType, method: str, reduction: int) -> None:
    losses: dict[int, dict[int, float]] = {0: {}, 1: {}, 2: {}}
    for trial, rung, _, loss in getattr(replay, method)(MadeDraws(2), TRIALS, reduction=reduction):
        assert trial not in losses[rung]
        losses[rung][trial] = loss
        if rung:
            below = sorted(loss for loss in losses[rung - 1].values() if not math.isnan(loss))
            assert losses[rung - 1][trial] <= below[len(below) // reduction - 1 if method == "promoted" else -1]
    assert losses[0].keys() == set(range(TRIALS))
    best = min((loss, trial) for trial, loss in losses[0].items() if not math.isnan(loss))[1]
    assert best in losses[1]
    if method == "halved":  # as ASHA goes on, ever better trials are among the best, so that more are promoted
        assert 0 < len(losses[2]) <= len(losses[1]) / reduction <= len(losses[0]) / reduction**2


def test_what_is_handed_over_is_the_leader_of_the_highest_rung_that_was_paid_for(replay: ModuleType) -> None:
    draws = MadeDraws(3)
    made = [(0, 0, 1, 1.0), (1, 0, 1, 2.0), (1, 1, 3, 1.5), (2, 0, 1, 0.5), (2, 1, 3, math.nan), (3, 1, 3, 1.2)]
    trainings = [replay.Training(*each) for each in made]
    assert replay.leaders(trainings) == [(0,), (0, 1), (1,), (1,), (1,), (3, 1)]
    paid = np.cumsum([epochs * draws.macs(trial) for trial, _, epochs, _ in made])
    found = replay.handed_over(trainings, draws, np.array([0.5, *paid]))
    assert np.isnan(found["best"][0])
    assert list(found["best"][1:]) == [draws.truth(trial) for trial in (0, 0, 1, 1, 1, 3)]
    later = paid[-1] + 2 * 9 * (draws.macs(3) + draws.macs(1))
    repeated = replay.handed_over(trainings, draws, np.array([later - 1, later]))["best of 3, 2 seeds"]
    assert repeated[1] == min(draws.truth(1), draws.truth(3))


def test_the_median_stays_within_reach_from_the_cost_after_the_last_above_it(replay: ModuleType) -> None:
    regrets = np.full((5, len(replay.GRID)), 0.001)
    regrets[:, 3] = regrets[:3, 10:] = 0.0004
    rows = replay.Played("table", "random", "best", regrets).rows()
    assert rows["median"].iloc[3] == rows["median"].iloc[10] == 0.0004
    assert replay.reached(rows["median"], rows.trainings) == replay.GRID[10]
    assert math.isnan(replay.reached(rows["median"][:9], rows.trainings[:9]))


def test_all_that_is_drawn_is_played_and_can_be_drawn(replay: ModuleType, tmp_path: Path) -> None:
    played = {"table": replay.METHODS, "surrogate": {**replay.METHODS, **replay.COSTLY}, "long": replay.LONG}
    made = []
    for world, methods in replay.DRAWN.items():
        assert methods.keys() <= played[world].keys()
        made += [replay.Played(world, method, "best", np.full((9, 20), 0.001)).rows() for method in methods]
    rows = replay.pd.concat(made)
    replay.picture(rows, tmp_path / "replay.png")
    assert (tmp_path / "replay.png").read_bytes().startswith(b"\x89PNG")
    assert len(replay.summary(rows)) == len(made)


@pytest.mark.slow
def test_the_surrogate_foretells_what_the_table_has(replay: ModuleType) -> None:
    surrogate = importlib.import_module("surrogate").Surrogate(replay.FOLDER, rough=0.0)
    table = replay.Table(replay.FOLDER)
    listed = replay.pd.read_csv(replay.FOLDER / "configurations.csv").to_dict("records")
    foretold = np.exp(surrogate.foretell(listed))
    known = np.isfinite(table.truth)
    assert np.corrcoef(np.log(foretold[known, -1]), np.log(table.macs[known]))[0, 1] > 0.9
    assert np.corrcoef(foretold[known, 4], table.truth[known])[0, 1] > 0.7
    draws = importlib.import_module("surrogate").SurrogateDraws(surrogate, 0)
    trial = draws.add(listed[0])
    assert draws.truth(trial) == pytest.approx(foretold[0, 4])
    again = [draws.curve(trial, 9) for _ in range(500)]
    assert np.mean([curve[-1] for curve in again]) == pytest.approx(draws.truth(trial), rel=0.02)
    assert all(len(curve) == 9 and min(curve[:7]) <= curve[6] for curve in again)


def test_studies_on_27_epochs_meet_the_best_as_often_as_all_configurations_do(replay: ModuleType) -> None:
    table = replay.Table(replay.FOLDER)
    draws = replay.LongDraws(table, 0, 4000)
    best = set(np.argsort(table.truth)[:24])
    assert np.mean([number in best for number in draws.order]) == pytest.approx(0.24, abs=0.02)
    seen = np.array([draws.curve(trial, 27)[-1] / draws.truth(trial) for trial in range(4000)])
    assert seen.mean() == pytest.approx(1, abs=0.01)
    assert seen.std() == pytest.approx(np.sqrt((table.luck**2).mean()), rel=0.1)
    assert all(math.isfinite(draws.curve(trial, 9)[-1]) for trial in range(4000))
