"""A study as it is read, from whichever storage holds it, or from its table alone."""

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import made_study as made
from tinysweep.errors import DataError, StudyError
from tinysweep.metrics import METRICS
from tinysweep.results.view import open_view
from tinysweep.search.study import status
from tinysweep.search.table import Table, metric, rank_trials

pytestmark = pytest.mark.usefixtures("quiet_optuna")

TWO = ("validation_accuracy", "params")


def test_a_study_is_read_as_it_is_stored(tmp_path: Path) -> None:
    trials = made.mixed()
    made.store(tmp_path / "s", trials)
    view = open_view(tmp_path / "s", None)
    assert (view.name, view.objectives, view.origin) == ("s", ["validation_accuracy"], "study.db")
    assert [(each.number, status(each), each.params) for each in view.trials] == [
        (each.number, status(each), each.params) for each in trials
    ]
    assert (view.limit("params"), view.limit("macs")) == (20_000, None)
    assert view.searched == made.KINDS


def test_a_folder_that_was_renamed_still_holds_its_study(tmp_path: Path) -> None:
    made.store(tmp_path / "s", [made.completed(0, 0.9, 5)])
    (tmp_path / "s").rename(tmp_path / "kept")
    assert open_view(tmp_path / "kept", None).name == "s"


def test_a_trial_that_waits_to_be_proposed_is_not_shown(tmp_path: Path) -> None:
    made.store(tmp_path / "s", [made.completed(0, 0.9, 5)])
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s/study.db")
    study.enqueue_trial({"model": "plain"})
    assert [each.number for each in open_view(tmp_path / "s", None).trials] == [0]


def test_of_several_studies_in_another_storage_one_is_chosen_by_its_name(tmp_path: Path) -> None:
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "all.log")))
    for number, name in enumerate(("one", "two")):
        study = optuna.create_study(study_name=name, storage=journal)
        study.set_user_attr("definition", made.definition(["validation_loss"]))
        study.set_user_attr("retrain", [f"trainer.epochs={number}"])
        for trial in range(number):
            study.add_trial(made.completed(trial, 0.9, 5, objectives=["validation_loss"]))
    (tmp_path / "moved").mkdir()
    with pytest.raises(StudyError, match=r"it has: one, two; choose one by --study NAME"):
        open_view(tmp_path / "moved", str(tmp_path / "all.log"))
    view = open_view(tmp_path / "moved", str(tmp_path / "all.log"), "two")
    assert (view.name, len(view.trials), view.retrain) == ("two", 1, ["trainer.epochs=1"])
    assert list((tmp_path / "moved").iterdir()) == []


@pytest.mark.parametrize("spoilt", ["empty", "foreign", "no trials", "not a database"])
def test_a_database_without_the_trials_does_not_hide_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoilt: str
) -> None:
    Table("s", ["params"], []).write([made.completed(0, 0.9, 5)], tmp_path / "trials.csv")
    database = tmp_path / "study.db"
    if spoilt == "empty":
        database.touch()
    elif spoilt == "not a database":
        database.write_text("something else " * 99)
    else:
        study = optuna.create_study(study_name="s", storage=f"sqlite:///{database}")
        if spoilt == "no trials":
            study.set_user_attr("definition", made.definition(["params"]))
    before = database.read_bytes()
    view = open_view(tmp_path)
    assert (len(view.trials), view.origin) == (1, "trials.csv alone")
    warned = capsys.readouterr().err
    assert warned.startswith("warning: ")
    assert warned.endswith(f"; {tmp_path}/trials.csv is read instead\n")
    assert database.read_bytes() == before
    with pytest.raises(StudyError):
        open_view(tmp_path, None, "another")


def test_a_budget_that_is_searched_is_no_common_bound(tmp_path: Path) -> None:
    assert made.view(tmp_path, [], **{"params.budget.params": "choice(1000,2000)"}).limit("params") is None
    assert made.view(tmp_path, [], **{"budget.macs": "70000"}).limit("macs") == 70_000


@pytest.mark.parametrize("objectives", [("validation_accuracy",), TWO])
def test_the_table_alone_gives_the_same_trials_as_the_storage(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    trials = made.mixed(objectives=objectives)
    Table("s", list(objectives), list(made.KINDS)).write(trials, tmp_path / "trials.csv")
    made.leave(tmp_path, 2, [0.3])
    view = open_view(tmp_path, None)
    assert (view.name, view.objectives, view.origin) == ("s", list(objectives), "trials.csv alone")
    assert view.limit("params") == 20_000
    for read_back, one in zip(view.trials, trials, strict=True):
        assert (read_back.number, status(read_back), read_back.state) == (one.number, status(one), one.state)
        moments = {"started", "finished"}
        noted = {name: note for name, note in read_back.user_attrs.items() if name not in moments}
        assert (read_back.params, noted) == (one.params, one.user_attrs)
        assert read_back.datetime_start == one.datetime_start
        if one.state.name == "COMPLETE":
            assert read_back.values == one.values
    assert {name: type(kind) for name, kind in view.searched.items()} == {
        name: type(kind) for name, kind in made.KINDS.items()
    }


def test_a_damaged_record_is_said_to_be_damaged(tmp_path: Path) -> None:
    view = made.view(tmp_path, [made.completed(0, 0.9, 5)])
    with pytest.raises(DataError, match=r"trials/0/record\.json is missing or damaged"):
        view.config(0)
    made.leave(tmp_path, 0, [0.5])
    assert view.config(0).model.width == 4
    for content in ("[]", '{"config": 3}', '{"config": {"model": {"depth": "x"}}}', '{"config": {"no": 1}}', "{}"):
        (tmp_path / "trials/0/record.json").write_text(content)
        with pytest.raises(DataError, match=r"trials/0/record\.json"):
            view.config(0)


@pytest.mark.parametrize("objectives", [("validation_accuracy",), ("validation_loss",), TWO])
def test_the_best_so_far_only_gets_better_and_ends_with_the_best(
    tmp_path: Path, objectives: tuple[str, ...]
) -> None:
    trials = made.mixed()
    for objective in objectives:
        figures = [figure for _, figure in made.view(tmp_path, trials, objectives).best_so_far(objective)]
        assert figures == sorted(figures, reverse=not METRICS[objective].higher_is_better)
        assert figures[-1] == metric(rank_trials(trials, [objective])[0], objective)
