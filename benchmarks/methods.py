"""Ways to search, as replay.py plays them: each pays for one training after the other."""

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import optuna
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from surrogate import SurrogateDraws
from tinysweep.search.propose import suggest


class Training(NamedTuple):
    """What a study has paid for: a training of its trial of this number on the rung of this number (0 is the
    lowest), its epochs, and the validation loss that came of it, NaN where it diverged."""

    trial: int
    rung: int
    epochs: int
    loss: float


class Draws(Protocol):
    """The configurations of one study in the order in which they come."""

    def macs(self, trial: int) -> float: ...

    def truth(self, trial: int) -> float: ...

    def curve(self, trial: int, epochs: int) -> Sequence[float]: ...

    def repeated(self, trial: int, seeds: int) -> float: ...


Method = Callable[[Any, int], Iterator[Training]]


# ---- methods: each is given the draws and how many trials there are


def whole(draws: Draws, trials: int, *, epochs: int = 9) -> Iterator[Training]:
    """One whole training after the other."""
    for trial in range(trials):
        yield Training(trial, 0, epochs, draws.curve(trial, epochs)[-1])


def median(
    draws: Draws, trials: int, *, epochs: int = 9, startup: int = 5, warmup: int = 7, interval: int = 3
) -> Iterator[Training]:
    """Whole trainings, stopped where their best loss so far is above the median of the complete ones, as Optuna's
    MedianPruner does that."""
    complete: list[Sequence[float]] = []
    for trial in range(trials):
        curve = draws.curve(trial, epochs)
        if math.isnan(curve[-1]):
            yield Training(trial, 0, epochs, math.nan)
            continue
        for epoch in range(warmup, epochs + 1, interval) if len(complete) >= max(startup, 1) else ():
            if min(curve[:epoch]) > np.median([other[epoch - 1] for other in complete]):
                yield Training(trial, 0, epoch, curve[epoch - 1])
                break
        else:
            complete.append(curve)
            yield Training(trial, 1, epochs, curve[-1])


def stopped(
    draws: Draws, trials: int, *, rungs: Sequence[int] = (1, 3, 9), reduction: int = 3, bootstrap: int = 0
) -> Iterator[Training]:
    """Whole trainings of growing length: a trial goes on while it is among the best 1/reduction of those that
    have been on its rung, as Optuna's SuccessiveHalvingPruner decides (Li et al., 2018, arXiv:1810.05934, without
    promoting a trial later on)."""
    seen: list[list[float]] = [[] for _ in rungs]
    for trial in range(trials):
        for rung, epochs in enumerate(rungs):
            loss = draws.curve(trial, epochs)[-1]
            yield Training(trial, rung, epochs, loss)
            if math.isnan(loss):
                break
            place = bisect.bisect_left(seen[rung], loss)
            seen[rung].insert(place, loss)
            if len(seen[rung]) <= bootstrap or place >= max(1, len(seen[rung]) // reduction):
                break


def promoted(
    draws: Draws, trials: int, *, rungs: Sequence[int] = (1, 3, 9), reduction: int = 3
) -> Iterator[Training]:
    """ASHA itself with one worker: whenever a trial has come to be among the best 1/reduction of its rung, it is
    promoted, however old it is; else a new one begins."""
    seen: list[list[tuple[float, int]]] = [[] for _ in rungs]
    waiting: list[list[tuple[float, int]]] = [[] for _ in rungs]  # those of seen that haven't been promoted
    begun = 0
    while True:
        for rung in reversed(range(len(rungs) - 1)):
            if waiting[rung] and waiting[rung][0] in seen[rung][: len(seen[rung]) // reduction]:
                trial, above = waiting[rung].pop(0)[1], rung + 1
                break
        else:
            if begun == trials:
                return
            trial, above, begun = begun, 0, begun + 1
        loss = draws.curve(trial, rungs[above])[-1]
        yield Training(trial, above, rungs[above], loss)
        if not math.isnan(loss):
            bisect.insort(seen[above], (loss, trial))
            bisect.insort(waiting[above], (loss, trial))


def halved(
    draws: Draws, trials: int, *, rungs: Sequence[int] = (1, 3, 9), reduction: int = 3, group: int = 27
) -> Iterator[Training]:
    """Synchronous halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943): a group of trials on the lowest rung,
    its best 1/reduction on the next one, and so on; then the next group."""
    for first in range(0, trials, group):
        left = list(range(first, min(first + group, trials)))
        for rung, epochs in enumerate(rungs):
            losses = {}
            for trial in left:
                losses[trial] = draws.curve(trial, epochs)[-1]
                yield Training(trial, rung, epochs, losses[trial])
            ranked = sorted((loss, trial) for trial, loss in losses.items() if not math.isnan(loss))
            left = [trial for _, trial in ranked[: max(1, len(left) // reduction)]]


def proposed(
    draws: SurrogateDraws,
    trials: int,
    *,
    sampler: Callable[[int], BaseSampler],
    pruner: BasePruner | None = None,
    rungs: Sequence[int] = (),
    reduction: int = 3,
) -> Iterator[Training]:
    """A study of Optuna: its sampler, and its pruner on every epoch of a whole training, or on rungs."""
    if rungs:
        pruner = SuccessiveHalvingPruner(1, reduction)
    study = optuna.create_study(sampler=sampler(int(draws.random.integers(2**31))), pruner=pruner or NopPruner())
    for _ in range(trials):
        trial = study.ask()
        number = draws.add({key: suggest(trial, key, each) for key, each in draws.surrogate.space.items()})
        curve = draws.curve(number, 9) if not rungs else [math.nan] * len(rungs)
        for step in range(len(curve)):
            if rungs:
                curve[step] = draws.curve(number, rungs[step])[-1]
                yield Training(number, step, rungs[step], curve[step])
            trial.report(curve[step], reduction**step if rungs else step + 1)
            if step + 1 < len(curve) and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[-1])
            step = len(curve)
        if not rungs:
            ended = min(step + 1, len(curve))
            yield Training(number, int(step == len(curve)), ended, curve[ended - 1])


def tpe(seed: int) -> BaseSampler:
    """As conf/hydra/sweeper/sampler/tpe.yaml has it."""
    return TPESampler(n_startup_trials=10, multivariate=True, group=True, constant_liar=True, seed=seed)
