"""What is tried next: draws from the sampler, each composed and held to the budget before it may be launched."""

from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from tinysweep import budget
from tinysweep.config import Config
from tinysweep.data import describe
from tinysweep.errors import BudgetError, ConfigError
from tinysweep.ledger import Ledger
from tinysweep.model import with_width
from tinysweep.space import Space, Value
from tinysweep.study import TRAINED, Standing, Study, standing
from tinysweep.trial_config import Composer, digest, identity, override


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
    became: Standing
    reason: str
    params: int | None = None


class Proposer:
    """Asks the sampler, and closes at once whatever may not be trained."""

    def __init__(
        self, study: Study, space: Space, composer: Composer, ledger: Ledger, n_trials: int | None
    ) -> None:
        self.study, self.space, self.composer = study, space, composer
        self.ledger, self.n_trials = ledger, n_trials

    def propose(self) -> Proposal | Refusal:
        """The next trial: a signed, running one, or one that is closed already."""
        trial = self.study.ask()
        try:
            values = self._draw(trial)
            config = self.composer.config(values)
            shape = describe(config.data)
            config = budget.resolve(config, shape)
        except BudgetError as error:
            smallest = budget.count_params(with_width(config.model, 1), shape)
            self._constrain(trial, config, {"params": smallest})
            return self._refuse(trial, Standing.over_budget, str(error).splitlines()[0], smallest)
        except ConfigError as error:
            return self._refuse(trial, Standing.invalid, str(error))
        params = budget.count_params(config.model, shape)
        bounded = config.budget.macs is not None or config.budget.activation_bytes is not None
        if (
            params >= config.budget.params and not bounded
        ):  # a count alone is several times faster than a measurement
            self._constrain(trial, config, {"params": params})
            return self._refuse(trial, Standing.over_budget, budget.too_many(params, config.budget), params)
        cost = budget.measure(config.model, shape)
        costs = {"params": params, "macs": cost.macs, "activation_bytes": cost.activation_bytes}
        self._constrain(trial, config, costs)
        if excess := budget.excesses(cost, config.budget):
            return self._refuse(trial, Standing.over_budget, "; ".join(excess), params, macs=cost.macs)
        return self._claim(trial, config, values, costs)

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

    def _refuse(
        self, trial: Trial, became: Standing, reason: str, params: int | None = None, **notes: Any
    ) -> Refusal:
        notes |= {} if params is None else {"params": params}
        self.study.close(trial.number, became, reason, **notes)
        return Refusal(trial.number, became, reason, params)

    def _claim(
        self, trial: Trial, config: Config, values: dict[str, Value], costs: dict[str, int]
    ) -> Proposal | Refusal:
        """Make a configuration this trial's own, unless an earlier trial has it or the study is full."""
        key = digest(identity(config))
        trial.set_user_attr("key", key)
        self.study.wait_for_earlier(trial.number)
        trials = self.study.trials()
        if twin := self.ledger.twin(trials, key, trial.number):
            return self._repeat(trial, twin)
        if self.n_trials is not None:
            taken = self.ledger.count(trials, *TRAINED) + self.ledger.going(trials, trial.number)
            if taken >= self.n_trials:
                reason = f"other sweepers make up all {self.n_trials} trials"
                return self._refuse(trial, Standing.withdrawn, reason)
        for name, value in {**costs, "seed": config.trainer.seed}.items():
            trial.set_user_attr(name, value)
        return Proposal(trial.number, [override(name, value) for name, value in values.items()], config)

    def _repeat(self, trial: Trial, rival: FrozenTrial) -> Refusal:
        """Close a trial by the result that its configuration has already had, so that the sampler moves on."""
        became = standing(rival)
        values = rival.values if became == Standing.complete else None
        reason = f"same configuration as trial {rival.number}, {became.value}"
        notes = {name: rival.user_attrs[name] for name in ("params", "macs") if name in rival.user_attrs}
        self.study.close(trial.number, Standing.duplicate, reason, values, **notes)
        return Refusal(trial.number, Standing.duplicate, reason)


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
