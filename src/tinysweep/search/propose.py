"""What is tried next: draws from the sampler, each composed and held to the budget before it may be launched."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from tinysweep.data.load import describe, pin
from tinysweep.errors import BudgetError, ConfigError
from tinysweep.network import budget
from tinysweep.network.build import with_width
from tinysweep.search.compose_trial import NOTHING_HELD_OUT, Composer, digest, identity
from tinysweep.search.ledger import Ledger
from tinysweep.search.space import Points, Space, Value, untried
from tinysweep.search.study import TRAINED, Status, Study, status
from tinysweep.settings.schema import Config


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
        ledger: Ledger,
        n_trials: int | None,
        *,
        start: Sequence[dict[str, Value]] = (),
        grid: Points | None = None,
    ) -> None:
        """`start`: points that come before everything drawn; `grid`: those that are tried instead of drawing."""
        self.study, self.space, self.composer = study, space, composer
        self.ledger, self.n_trials, self.grid = ledger, n_trials, grid
        self.repeated: set[int] = set()
        self.start = list(start)
        self.trials: list[FrozenTrial] = []  # all of the study, as far as this sweeper knows

    def refresh(self) -> None:
        """Learn what has become of all trials meanwhile; to be called before a batch is gathered."""
        self.trials = self.study.trials()

    def propose(self) -> Proposal | Refusal:
        """The next trial: a signed, running one, or one that is closed already."""
        trial = self.study.draft(self.trials, self._given())
        try:
            values = self._draw(trial)
            config = self.composer.config(values, len(self.trials))
            if config.data.validation == 0:
                raise ConfigError(NOTHING_HELD_OUT)
            digest = pin(config.data, self.composer.digests).digest
            config = replace(config, data=replace(config.data, digest=digest))
            shape = describe(config.data)
            config = budget.resolve(config, shape)
        except BudgetError as error:
            smallest = budget.measure(with_width(config.model, 1), shape).params
            self._constrain(trial, config, {"params": smallest})
            return self._refuse(Status.over_budget, str(error).splitlines()[0], params=smallest)
        except ConfigError as error:
            return self._refuse(Status.invalid, str(error))
        cost = budget.measure(config.model, shape)
        costs: dict[str, Any] = {
            "params": cost.params,
            "macs": cost.macs,
            "activation_bytes": cost.activation_bytes,
        }
        self._constrain(trial, config, costs)
        if excess := budget.excesses(cost, config.budget):
            return self._refuse(Status.over_budget, "; ".join(excess), **costs)
        return self._claim(config, values, costs)

    def _given(self) -> dict[str, Any] | None:
        """The values of the next trial: those of one that was interrupted, or of a point to start with, each
        proposed once by this sweeper, or of the grid's next point; None for a draw."""
        for trial in self.ledger.cut_short(self.trials):
            if trial.number not in self.repeated:
                self.repeated.add(trial.number)
                return trial.params
        if start := untried(self.start, self.trials):
            self.start = start[1:]
            return start[0]
        return self.grid.upcoming(self.trials) if self.grid else None

    def _draw(self, trial: Trial) -> dict[str, Value]:
        """A value for each parameter that plays a role beside those drawn before it."""
        values: dict[str, Value] = {}
        for name, distribution in self.space.ordered.items():
            if self.composer.reads(name, values):
                values[name] = suggest(trial, name, distribution)
        return values

    def _constrain(self, trial: Trial, config: Config, costs: dict[str, int]) -> None:
        """Tell the sampler how far, as a part of the limit, a trial is over (positive) or within each bound."""
        limits = {
            "params": config.budget.params - 1,
            "macs": config.budget.macs,
            "activation_bytes": config.budget.activation_bytes,
        }
        for name, limit in limits.items():
            if limit is not None and name in costs:
                trial.set_constraint(name, (costs[name] - limit) / max(limit, 1))

    def _refuse(self, became: Status, reason: str, values: list[float] | None = None, **notes: Any) -> Refusal:
        entered = self.study.enter(became, reason, values, **notes)
        if entered.number == len(self.trials):
            self.trials.append(entered)
        else:  # another sweeper has entered some
            self.refresh()
        return Refusal(entered.number, became, reason, notes.get("params"))

    def _claim(self, config: Config, values: dict[str, Value], costs: dict[str, int]) -> Proposal | Refusal:
        """Make a configuration this trial's own, unless another trial has it or the study is full.

        Sweepers that come to one configuration at once all enter it, each before it looks for the others, so all
        but the one with the lowest number find that there is an earlier one.
        """
        key = digest(identity(config))
        self.refresh()
        if twin := self.ledger.twin(self.trials, key):
            reason, result, known = _repetition(twin)
            return self._refuse(Status.duplicate, reason, result, **known)
        notes: dict[str, Any] = {"key": key, **costs, "seed": config.trainer.seed}
        number = self.study.enter(**notes).number
        self.refresh()
        if twin := self.ledger.twin(self.trials, key, number):
            reason, result, known = _repetition(twin)
            return self._withdraw(number, Status.duplicate, reason, result, **known)
        if self.n_trials is not None:
            taken = self.ledger.count(self.trials, *TRAINED) + self.ledger.going(self.trials, number)
            if taken >= self.n_trials:
                reason = f"other sweepers make up all {self.n_trials} trials"
                return self._withdraw(number, Status.withdrawn, reason)
        return Proposal(number, self.composer.overrides(values, config), config)

    def _withdraw(
        self, number: int, became: Status, reason: str, values: list[float] | None = None, **notes: Any
    ) -> Refusal:
        self.study.close(number, became, reason, values, **notes)
        self.refresh()
        return Refusal(number, became, reason)


def _repetition(twin: FrozenTrial) -> tuple[str, list[float] | None, dict[str, Any]]:
    """Why a trial with the configuration of another is closed, that one's result, from which the sampler moves
    on, and what it cost."""
    became = status(twin)
    notes: dict[str, Any] = {name: twin.user_attrs[name] for name in ("params", "macs") if name in twin.user_attrs}
    reason = f"same configuration as trial {twin.number}, {became.value}"
    return reason, twin.values if became == Status.complete else None, notes


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
