"""What lies where the command is pointed at, as one table."""

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_tables import recorded, study, table, trial

import tinysweep
from tinysweep.errors import DataError
from tinysweep.results.merge import Merged, find, merge, read_table
from tinysweep.results.view import from_table
from tinysweep.search.table import COLUMNS, read_trials
from tinysweep.settings.schema import Config, Family, ModelConfig, TrainerConfig


def merged_from(*paths: Path | str) -> Merged:
    return merge(find(list(map(Path, paths))))


def test_every_way_to_point_at_a_study_or_a_run_finds_it_once(place: Path) -> None:
    one = study(place / "outputs/sweeps", [trial(0, 0.9, 0.3, 100)])
    run = recorded(place / "outputs/runs/2026-01-02/03-04-05-default")
    recorded(one / "trials/0")  # belongs to its study
    recorded(one / "final/runs/test/trial-0-seed-0")
    ways = [Path("outputs"), place / "outputs/sweeps", one, one / "trials.csv", run, run / "record.json"]
    for paths in (ways, ways[::-1], ways[:1]):
        found = find(paths)
        assert [path.resolve() for path in found.tables] == [one / "trials.csv"]
        assert [folder.resolve() for folder in found.runs] == [run]
        assert not found.begun
    assert list(find([one / "final"]).runs) == [one / "final/runs/test/trial-0-seed-0"]


def test_two_studies_are_one_table_with_the_columns_and_types_of_each(place: Path) -> None:
    searched = {"model.width": 8, "optimizer.lr": 1e-05}
    study(place, [trial(0, 0.9, 0.1 + 0.2, 100, **searched), trial(1, 0.8, 0.4, 90)])
    other = [
        trial(0, 0.7, 0.5, 10**12, **{"optimizer.lr": 0.3, "model.depth": "[1,2]", "model.padding": True}),
        trial(1, None, None, 99, state="over_budget", reason='too "large",\nby far', folder=None),
    ]
    study(place, other, "two")
    both = merged_from("one", "two").frame
    assert list(both.columns) == [*COLUMNS, "model.width", "optimizer.lr", "model.depth", "model.padding"]
    assert {name: str(both[name].dtype) for name in COLUMNS} == COLUMNS
    sources = [read_trials(f"{name}/trials.csv") for name in ("one", "two")]
    plain = list(COLUMNS)[:-1]
    pd.testing.assert_frame_equal(both[plain], pd.concat(sources, ignore_index=True)[plain])
    assert both.folder.fillna("").tolist() == ["one/trials/0", "one/trials/1", "two/trials/0", ""]
    assert both["model.width"].fillna("").tolist() == ["8", "", "", ""]  # not 8.0
    assert both["optimizer.lr"].fillna("").tolist() == ["1e-05", "", "0.3", ""]
    assert both["model.padding"].fillna("").tolist() == ["", "", "True", ""]


def test_in_python_studies_and_runs_are_one_table_with_numbers_where_there_are_any(place: Path) -> None:
    searched = {"model.width": 8, "optimizer.lr": 0.5, "model.padding": True, "model.depth": "[1,2]"}
    one = study(place, [trial(0, 0.9, 0.3, 100, **searched)])
    study(place, [trial(0, 0.8, 0.4, 90, **{"model.width": 16})], "two")
    recorded(place / "run", model=ModelConfig(width=12))
    (recorded(place / "damaged") / "record.json").write_text("{")
    with pytest.warns(UserWarning, match=r"left out: .*damaged"):
        frame = tinysweep.compare(one, "two", "run", "damaged")
    assert frame["model.width"].tolist()[:2] == [8, 16]
    assert (frame["model.width"] > 10).sum() == 2
    assert frame["optimizer.lr"].tolist()[0] == 0.5
    assert frame["model.padding"].tolist()[0] is True
    assert frame["model.depth"].tolist()[0] == "[1,2]"
    assert len(frame) == 3
    assert str(frame.validation_accuracy.dtype) == "Float64"
    with pytest.raises(DataError, match="nowhere"):
        tinysweep.compare("nowhere")


def test_a_folder_that_another_machine_wrote_is_found_below_the_study_that_is_here(place: Path) -> None:
    trials = [trial(number, 0.9, 0.3, 100, folder=f"/elsewhere/one/trials/{number}") for number in (0, 1)]
    recorded(study(place, trials) / "trials/0")
    assert merged_from("one").frame.folder.tolist() == ["one/trials/0", "/elsewhere/one/trials/1"]


def test_a_merged_table_made_inside_a_study_still_leads_to_its_trials(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study(place, [trial(0, 0.9, 0.3, 100)]))
    assert merged_from("").frame.folder.tolist() == ["./trials/0"]


def test_a_single_run_is_a_row_and_joins_the_searched_parameters(place: Path) -> None:
    searched = {"model": "plain", "scheduler": "step", "model.width": 8, "model.depth": "[1,2]", "data.limit": 100}
    study(place / "sweeps", [trial(0, 0.9, 0.3, 100, **searched, odd=1)])
    recorded(place / "runs/day/a", 0.95, 0.97, name="a", model=ModelConfig(Family.separable, 4, depth=[1, 2]))
    recorded(place / "runs/day/b", None, None, name="b", trainer=TrainerConfig(seed=7, epochs=2))
    made = merged_from("sweeps", "runs").frame
    differing = ["trainer.epochs", "trainer.seed"]
    assert list(made.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert set(made.columns) >= {"test_accuracy", *searched, "odd", *differing}
    a, b = (made.iloc[at].to_dict() for at in (1, 2))
    expected: dict[str, Any] = {
        "study": "runs",
        "state": "complete",
        "validation_accuracy": 0.95,
        "validation_loss": pytest.approx(0.05),
        "params": 500,
        "macs": 400,
        "activation_bytes": 30,
        "epochs": 1,
        "seconds": 2.5,
        "seed": Config().trainer.seed,
        "folder": "runs/day/a",
        "test_accuracy": 0.97,
        "model": "residual",  # as an override says it better than the family
        "scheduler": "cosine",  # which nobody typed
        "model.width": "4",
        "model.depth": "[1,2]",
        "data.limit": "null",
    }
    assert {name: a[name] for name in expected} == expected
    assert all(pd.isna(a[name]) for name in ("number", "objective", "odd"))
    assert (b["seed"], b["trainer.seed"]) == (7, "7")
    assert all(pd.isna(b[name]) for name in ("validation_accuracy", "validation_loss", "test_accuracy"))


def test_runs_alone_have_the_settings_in_which_they_differ_and_no_others(place: Path) -> None:
    for seed in (0, 1):
        recorded(place / f"runs/{seed}", name=f"n{seed}", trainer=TrainerConfig(seed=seed, threads=1 + seed))
    assert merged_from("runs").parameters == ["trainer.seed"]
    alone = merged_from("runs/0")
    assert alone.parameters == []
    assert "test_accuracy" not in alone.frame, "no run was tested"


def test_a_copy_of_a_table_counts_once_and_so_does_a_trial_given_as_a_run(place: Path) -> None:
    one = study(place, [trial(0, 0.9, 0.3, 100, **{"model.width": 8}), trial(1, None, None, 9, state="failed")])
    recorded(one / "trials/0")
    shutil.copy("one/trials.csv", "copy.csv")
    merged = merged_from("one", "copy.csv", "one/trials")
    assert (len(merged.frame), merged.repeated) == (2, 3)


def test_studies_of_one_name_and_runs_whose_folders_end_alike_are_told_apart(place: Path) -> None:
    for folder, loss in (("a", 0.3), ("b", 0.2)):
        study(place / folder, [trial(0, 0.9, loss, 100)])
        recorded(place / "runs" / folder / "seed-0")
    merged = merged_from("a", "b", "runs")
    assert merged.names.tolist() == ["one (a/one) 0", "one (b/one) 0", "a/seed-0", "b/seed-0"]
    assert merged.frame.study.tolist() == ["one", "one", "runs", "runs"]
    assert merged.places == {"one (a/one)": "a/one", "one (b/one)": "b/one", "runs": "runs"}


@pytest.mark.parametrize("content", ['{"state": "compl', '{"what": 1}', "[]"])
def test_a_record_that_cannot_be_read_is_left_out_unless_it_is_all_there_is(place: Path, content: str) -> None:
    (place / "runs/bad").mkdir(parents=True)
    (place / "runs/bad/record.json").write_text(content)
    with pytest.raises(DataError, match=r"runs/bad/record.json (can't be read|is not the record of a run)"):
        merged_from("runs")
    recorded(place / "runs/good")
    merged = merged_from("runs")
    assert (merged.names.tolist(), len(merged.damaged)) == (["good"], 1)


@pytest.mark.parametrize("sign", [";", "\t"])
def test_a_table_that_is_separated_otherwise_is_refused_with_what_to_do(place: Path, sign: str) -> None:
    path = table(place / "a.csv", [trial(0, 0.9, 0.3, 100)])
    path.write_text(path.read_text().replace(",", sign))
    for read in (read_table, from_table):
        with pytest.raises(DataError, match="; save it with commas"):
            read(path)


def test_a_table_can_come_through_a_pipe(place: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, table(place / "a.csv", [trial(0, 0.9, 0.3, 100)]).read_bytes())
    os.close(writing)
    assert merged_from(f"/dev/fd/{reading}").names.tolist() == ["one 0"]
    os.close(reading)
