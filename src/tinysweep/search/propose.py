"""What is tried next: draws from the sampler, each composed and held to the budget before it may be launched."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from tinysweep.data.load import describe, pin
from tinysweep.errors import BudgetError, ConfigError
from tinysweep.network import budget
from tinysweep.network.build import with_width
from tinysweep.search.compose_trial import NOTHING_HELD_OUT, Composer, digest, identity
from tinysweep.search.space import Points, Space, Value, untried_points
from tinysweep.search.study import TRAINED, Status, Study, is_being_trained, status
from tinysweep.settings.schema import BudgetConfig, Config

WAIT_SECONDS = 0.02  # between looks at whether another sweeper has decided on its proposal


@dataclass(frozen=True)
class Proposal:
    """A trial that may be trained: within the budget, and unlike every other."""

    number: int
    overrides: list[str]
    config: Config


@dataclass(frozen=True)
class Refusal:
    """A trial that may not, and why; what it would have cost if that was the reason."""

    number: int
    became: Status
    reason: str
    params: int | None = None


class Proposer:
    """Asks the sampler, and closes at once whatever may not be trained."""

    def __init__(
        self,
        study: Study,
        space: Space,
        composer: Composer,
        n_trials: int | None,
        *,
        start: Sequence[dict[str, Value]] = (),
        grid: Points | None = None,
    ) -> None:
        """`start`: points that come before everything drawn; `grid`: those that are tried instead of drawing."""
        self.study, self.space, self.composer = study, space, composer
        self.n_trials, self.start, self.grid = n_trials, list(start), grid
        self.repeated: set[int] = set()

    def propose(
        self, given: dict[str, Any] | None = None, trials: list[FrozenTrial] | None = None
    ) -> Proposal | Refusal:
        """The next trial: one to be launched, or one that is closed already. Its parameters may be `given`;
        `trials` are all that there are, if they have just been read."""
        trials = self.study.trials() if trials is None else trials
        trial = self.study.ask(self._next_point(trials) if given is None else given, trials)
        try:
            values = self._draw(trial)
            config = self.composer.config(values, trial.number)
            if config.data.validation == 0:
                raise ConfigError(NOTHING_HELD_OUT)
            images = pin(config.data, self.composer.digests).digest
            config = replace(config, data=replace(config.data, digest=images))
            shape = describe(config.data)
            config = budget.resolve(config, shape)
        except BudgetError as error:
            smallest = budget.measure(with_width(config.model, 1), shape).params
            _constrain(trial, config.budget, {"params": smallest})
            return self._refuse(trial, Status.over_budget, str(error).splitlines()[0], params=smallest)
        except ConfigError as error:
            return self._refuse(trial, Status.invalid, str(error))
        cost = budget.measure(config.model, shape)
        costs: dict[str, Any] = {name: getattr(cost, name) for name in ("params", "macs", "activation_bytes")}
        _constrain(trial, config.budget, costs)
        if excess := budget.excesses(cost, config.budget):
            return self._refuse(trial, Status.over_budget, "; ".join(excess), **costs)
        if refusal := self._claim(trial, digest(identity(config))):
            return refusal
        self.study.note(trial, **costs, seed=config.trainer.seed)
        return Proposal(trial.number, self.composer.overrides(values, config), config)

    def _next_point(self, trials: list[FrozenTrial]) -> dict[str, Any] | None:
        """The values of the next trial: those of one that was interrupted, or of a point to start with, each
        proposed once by this sweeper, or of the grid's next point; None for a draw."""
        for trial in self._cut_short(trials):
            if trial.number not in self.repeated:
                self.repeated.add(trial.number)
                return trial.params
        if start := untried_points(self.start, trials):
            self.start = start[1:]
            return start[0]
        return self.grid.upcoming(trials) if self.grid else None

    def _cut_short(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that were interrupted and whose configurations have not been taken up again."""
        ledger = self.study.ledger(trials)
        known = (trial for trial in ledger.interrupted if "key" in trial.user_attrs)
        stopped = {trial.user_attrs["key"]: trial for trial in sorted(known, key=lambda trial: trial.number)}

        def is_taken(key: str) -> bool:
            became = map(self.study.status, ledger.of_key(key))
            return any(each == Status.running or each in TRAINED for each in became)

        return [trial for key, trial in stopped.items() if not is_taken(key)]

    def _draw(self, trial: Trial) -> dict[str, Value]:
        """A value for each parameter that plays a role beside those drawn before it."""
        values: dict[str, Value] = {}
        for name, distribution in self.space.ordered.items():
            if self.composer.reads(name, values):
                values[name] = suggest(trial, name, distribution)
        return values

    def _claim(self, trial: Trial, key: str) -> Refusal | None:
        """Make a configuration this trial's own, unless an earlier trial has it or the study is full.

        Of sweepers that come to one configuration, or the last free place, at once, the trial with the lower
        number gets it. So each shows its key, and waits until all trials before its own show theirs or are closed.
        """
        trial.set_user_attr("key", key)
        ledger = self.study.ledger(self.study.trials())
        while any(other.number < trial.number and self._is_undecided(other) for other in ledger.open):
            time.sleep(WAIT_SECONDS)
            ledger = self.study.ledger(self.study.trials())
        earlier = [other for other in ledger.open if other.number < trial.number and is_being_trained(other)]
        for other in ledger.of_key(key):
            if self.study.status(other) in TRAINED or other in earlier:
                reason, result, notes = _repetition(other)
                return self._refuse(trial, Status.duplicate, reason, result, **notes)
        if self.n_trials is not None and ledger.trained + len(earlier) >= self.n_trials:
            return self._refuse(trial, Status.withdrawn, f"other sweepers make up all {self.n_trials} trials")
        return None

    def _is_undecided(self, trial: FrozenTrial) -> bool:
        is_open = trial.state == TrialState.RUNNING and not is_being_trained(trial)
        return is_open and self.study.is_attended(trial)

    def _refuse(
        self, trial: Trial, became: Status, reason: str, values: list[float] | None = None, **notes: Any
    ) -> Refusal:
        self.study.close(trial.number, became, reason, values, **notes)
        return Refusal(trial.number, became, reason, notes.get("params"))


def _constrain(trial: Trial, bounds: BudgetConfig, costs: dict[str, int]) -> None:
    """Tell the sampler how far, as a part of the limit, a trial is over (positive) or within each bound."""
    limits = {
        "params": bounds.params - 1,
        "macs": bounds.macs,
        "activation_bytes": bounds.activation_bytes,
    }
    for name, limit in limits.items():
        if limit is not None and name in costs:
            trial.set_constraint(name, (costs[name] - limit) / max(limit, 1))


def _repetition(other: FrozenTrial) -> tuple[str, list[float] | None, dict[str, Any]]:
    """Why a trial with the configuration of another is closed, that one's result, from which the sampler moves
    on, and what it cost."""
    became = status(other)
    known = other.user_attrs
    notes: dict[str, Any] = {name: known[name] for name in ("params", "macs") if name in known}
    reason = f"same configuration as trial {other.number}, {became.value}"
    return reason, other.values if became == Status.complete else None, notes


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Value:
    """A draw from a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        chosen: Any = trial.suggest_categorical(name, distribution.choices)
        return chosen  # type: ignore[no-any-return]  # Hydra's grammar makes no other kinds
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )
