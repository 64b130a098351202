"""Drafted trials enter a study whole, and are for samplers and storages what Optuna's own trials are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinysweep.search.drafts import Drafter
from tinysweep.search.storage import Database, open_storage

pytestmark = pytest.mark.usefixtures("quiet_optuna")

SPACE: dict[str, BaseDistribution] = {
    "width": IntDistribution(1, 64),
    "lr": FloatDistribution(0.01, 1, log=True),
    "depth": CategoricalDistribution(("[1,2]", "[2,2]")),
}
NOTES = {"sweeper": "é", "params": 7, "standing": "over_budget"}


def drawn(drafter: Drafter, params: dict[str, Any] | None = None) -> FrozenTrial:
    trial = drafter.begin(drafter.study.get_trials(deepcopy=False), params)
    for name, kind in SPACE.items():
        trial._suggest(name, kind)
    return drafter.storage.draft


def shown(trial: FrozenTrial) -> dict[str, Any]:
    """All that a storage says of a trial."""
    return {name: value for name, value in vars(trial).items() if name != "_trial_id"}


STORAGES: dict[str, Callable[[Path], BaseStorage]] = {
    "memory": lambda _: InMemoryStorage(),
    "sqlite": lambda folder: open_storage(None, folder),
    "journal": lambda folder: open_storage(str(folder / "journal.log"), folder),
}


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.COMPLETE])
def test_a_trial_is_in_the_storage_as_it_was_drafted_and_not_before(
    tmp_path: Path, kind: str, state: TrialState
) -> None:
    study = optuna.create_study(storage=STORAGES[kind](tmp_path), sampler=optuna.samplers.RandomSampler(seed=0))
    drafter = Drafter(study)
    for number in range(2):
        draft = drawn(drafter)
        drafter.storage.set_trial_system_attr(draft._trial_id, "constraints:params", 0.5)
        assert len(study.trials) == number
        values = [0.25] if state == TrialState.COMPLETE else None
        entered = drafter.enter(state, values, NOTES)
        found = study.trials[number]
        assert shown(found) == shown(entered)
        assert (found.number, found.state, found.values) == (number, state, values)
        assert found.user_attrs == NOTES
        assert set(found.params) == set(SPACE)
        assert (found.datetime_complete is not None) == state.is_finished()


def test_the_database_holds_what_optunas_own_would(tmp_path: Path) -> None:
    """Written at once or bit by bit, and read by a storage that knows nothing of the other."""
    trial = create_trial(
        state=TrialState.PRUNED,
        params={"width": 3, "lr": 0.1, "depth": "[2,2]"},
        distributions=SPACE,
        user_attrs=NOTES | {"nested": {"a": [1, None]}},
        system_attrs={"constraints:params": -0.5},
    )
    rows = []
    for name, storage in {"ours": Database, "optunas": RDBStorage}.items():
        url = f"sqlite:///{tmp_path / name}.db"
        study = optuna.create_study(storage=storage(url))
        for _ in range(3):
            study.add_trial(trial)
        rows.append([shown(each) for each in optuna.load_study(study_name=None, storage=url).trials])
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.RandomSampler(seed=0),
        optuna.samplers.TPESampler(seed=0, n_startup_trials=3, multivariate=True, group=True, constant_liar=True),
        optuna.samplers.TPESampler(seed=0, n_startup_trials=3),
        optuna.samplers.NSGAIISampler(seed=0, population_size=4),
    ],
    ids=["random", "tpe joint", "tpe", "nsgaii"],
)
def test_a_sampler_draws_drafts_as_it_draws_optunas_own_trials(sampler: BaseSampler) -> None:
    def objective(trial: FrozenTrial) -> float:
        return float(trial.params["width"] * trial.params["lr"])

    draws: list[Any] = []
    for drafted in (True, False):
        study = optuna.create_study(storage=InMemoryStorage(), sampler=sampler)
        sampler.reseed_rng()
        for part in (sampler, getattr(sampler, "_random_sampler", None)):
            if part is not None and hasattr(part, "_rng"):
                part._rng.rng.seed(0)
        drafter = Drafter(study)
        for _ in range(12):
            if drafted:
                drawn(drafter)
                number = drafter.enter(TrialState.RUNNING, None, {}).number
            else:
                number = study.ask(SPACE).number
            study.tell(number, objective(study.trials[number]))
        draws.append([trial.params for trial in study.trials])
        draws.append([set(trial.system_attrs) for trial in study.trials])
    assert draws[0] == draws[2]
    assert draws[1] == draws[3]


def test_what_is_given_is_not_drawn() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    given = {"width": 5, "lr": 0.5, "depth": "[2,2]"}
    assert drawn(Drafter(study), given).params == given


def test_a_sampler_is_shown_all_trials_but_the_draft() -> None:
    study = optuna.create_study()
    drafter = Drafter(study)
    drawn(drafter)
    assert drafter.drawn_from.get_trials() == []
    drafter.enter(TrialState.FAIL, None, {})
    drawn(drafter)
    states = (TrialState.FAIL,)
    assert [trial.number for trial in drafter.drawn_from.get_trials(states=states)] == [0]
    assert drafter.drawn_from.get_trials(states=(TrialState.RUNNING,)) == []
