"""The report as its reader gets it: a page that is whole, true, safe and drawn, for every kind of study."""

import contextlib
import random
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from PIL import Image

import made_study as made
from conftest import Command, Ended
from tinysweep.commands import report
from tinysweep.errors import DataError, StudyError
from tinysweep.final.settings import read_words
from tinysweep.report import again
from tinysweep.report.page import body, find, page, write_report
from tinysweep.results.view import StudyView, open_view
from tinysweep.search.study import Status, status
from tinysweep.search.table import Table
from tinysweep.settings.compose import compose

pytestmark = pytest.mark.usefixtures("quiet_optuna")

PICTURES = ["accuracy_parameters.png", "curves.png", "importances.png", "search_history.png"]
SECTIONS = ["The final", "Accuracy against parameters", "Search history", "What mattered",
            "Parameters of each trial", "Learning curves", "Pruned, refused and failed trials",
            "The winner's mistakes", "The winner, layer by layer", "Trials, ranked", "Do it again"]  # fmt: skip
TWO = ("validation_accuracy", "params")

Report = Callable[..., Ended]


class Reader(HTMLParser):
    """What a page holds, as a browser would see it: its text without scripts, its tags, the addresses it names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in ("meta", "link", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes nothing"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def read(view: StudyView) -> Reader:
    """What the page of a study holds."""
    reader = Reader(body(view, find(view)))
    assert not reader.open
    return reader


def whole(view: StudyView) -> str:
    return page(view, find(view))


@pytest.fixture
def call(command: Command) -> Report:
    def run(*arguments: str) -> Ended:
        return command(*arguments, main=report.main)

    return run


def dumped(folder: Path) -> list[str]:
    """All that a study's database holds."""
    with contextlib.closing(sqlite3.connect(folder / "study.db")) as connection:
        return list(connection.iterdump())


# ---- the command


def test_a_study_becomes_a_page_and_four_pictures(call: Report, place: Path) -> None:
    folder = place / "outputs/sweeps/s"
    made.store(folder, made.mixed(count=16))
    before = dumped(folder)
    ended = call("outputs/sweeps/s")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines()[0] == "report    outputs/sweeps/s/report.html"
    assert len(ended.out.splitlines()) == 2
    assert sorted(path.name for path in (folder / "figures").iterdir()) == PICTURES
    for name in PICTURES:
        with Image.open(folder / "figures" / name) as image:
            assert image.format == "PNG"
            assert image.width >= 1000
    assert "Study s" in Reader((folder / "report.html").read_text()).words()
    assert dumped(folder) == before


def test_the_command_on_the_page_of_a_real_study_goes_on_with_that_study(
    command: Command, call: Report, place: Path, mnist_root: Path
) -> None:
    tiny = ["data.limit=32", "data.validation=50", "trainer.epochs=1", "trainer.threads=1"]
    words = [f"data.root={mnist_root}", *tiny, "model.width=2,3,40"]
    assert command("-m", *words, "hydra.sweeper.study_name=s", "hydra/launcher=basic").status == 0
    table = (place / "outputs/sweeps/s/trials.csv").read_text()
    assert call("outputs/sweeps/s").status == 0
    page = (place / "outputs/sweeps/s/report.html").read_text().partition("</main>")[0]
    assert "2 complete 1 over budget" in Reader(page.partition("<main>")[2]).words()
    commands = [shlex.split(unescape(text)) for text in re.findall(r"<pre[^>]*>([^<]*)</pre>", page)]
    assert commands[0][:2] == ["tinysweep", "-m"]
    again = command(*commands[0][1:], "hydra/launcher=basic")
    assert (again.status, again.err) == (0, "")
    assert (place / "outputs/sweeps/s/trials.csv").read_text() == table
    assert commands[1][0] == "tinysweep"
    alone = compose(*commands[1][1:])
    assert (alone.data.limit, alone.trainer.test) == (32, False)
    assert alone.model.width in (2, 3)


def test_a_page_is_made_anew_while_the_study_goes_on(call: Report, place: Path) -> None:
    made.store(place / "s", [made.completed(0, 0.9, 500), made.trial(1, Status.running)])
    assert call("s").status == 0
    assert "1 still in training" in Reader((place / "s/report.html").read_text()).words()
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{place}/s/study.db")
    study.add_trial(made.completed(2, 0.95, 600))
    assert call("s").status == 0
    assert "2 complete" in Reader((place / "s/report.html").read_text()).words()


def test_help_shows_examples_and_imports_nothing_slow() -> None:
    code = (
        "import sys; from tinysweep.commands.report import main; sys.argv = ['tinysweep-report', '--help']\n"
        "try: main()\nexcept SystemExit: print({'torch', 'plotly', 'optuna'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "tinysweep-report outputs/sweeps/quick" in shown
    assert shown.splitlines()[-1] == "set()"


@pytest.mark.parametrize("package", ["plotly", "scikit-learn"])
def test_a_missing_package_is_named_in_one_line(call: Report, place: Path, monkeypatch: Any, package: str) -> None:
    made.store(place / "s", [])
    module = {"scikit-learn": "sklearn"}.get(package, package)
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == module else True)
    ended = call("s")
    said = f"error: tinysweep-report needs the package {package}; pip install 'tinysweep[report]'\n"
    assert (ended.status, ended.err) == (1, said)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of which no report can be made, and one of which it can."""
    place = tmp_path_factory.mktemp("broken")
    for name in ("empty", "damaged", "foreign", "table", "aims", "garbled", "outputs/sweeps/kept"):
        (place / name).mkdir(parents=True)
    made.store(place / "s", [])
    made.store(place / "taken", [])
    (place / "taken/figures").write_text("a file")
    (place / "text").write_text("not a journal\n")
    (place / "damaged/study.db").write_text("not a database, but long enough to be taken for one" * 9)
    (place / "table/trials.csv").write_text("study,x\ns,1\n")
    Table("s", ["beauty"], []).write([made.completed(0, 0.9, 5)], place / "aims/trials.csv")
    Table("s", ["params"], []).write([made.completed(0, 0.9, 5)], place / "outputs/sweeps/kept/trials.csv")
    (place / "garbled/trials.csv").write_bytes(b"\xff\xfe\x00,1\n")
    optuna.create_study(study_name="foreign", storage=f"sqlite:///{place}/foreign/study.db")
    return place


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such folder; give a study's, such as outputs/sweeps/NAME; outputs/sweeps has"),
        (["empty"], "empty holds neither study.db nor trials.csv; give the folder of a study"),
        (["s", "--storage=gone.log"], "the storage gone.log: no such file"),
        (["s", "--storage=sqlite:///gone.db"], "the storage sqlite:///gone.db: no such file"),
        (["s", "--storage=text"], "the storage text is neither an SQLite database nor an Optuna journal"),
        (["damaged"], "the storage damaged/study.db is not an SQLite database"),
        (["foreign"], "study foreign in foreign/study.db was not made by tinysweep"),
        (["s", "--storage=sqlite:///foreign/study.db"], "sqlite:///foreign/study.db holds no study s"),
        (["s", "--study=other"], "s/study.db holds no study other; it has: s; choose one by --study NAME"),
        (["table"], "table/trials.csv is not a table of trials: it has no column number"),
        (["aims"], "aims/trials.csv has an objective 'beauty'; known are validation_accuracy"),
        (["garbled"], "garbled/trials.csv is not a table of trials"),
        (["taken"], "taken/figures can't be written"),
    ],
)  # fmt: skip
def test_what_cant_be_reported_is_refused_in_one_line(
    call: Report, place: Path, broken: Path, arguments: list[str], said: str
) -> None:
    shutil.copytree(broken, place, dirs_exist_ok=True)
    ended = call(*arguments)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"error: {said}")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err


# ---- where a study is read from


def test_a_study_is_read_as_it_is_stored(tmp_path: Path) -> None:
    trials = made.mixed()
    made.store(tmp_path / "s", trials)
    view = open_view(tmp_path / "s", None)
    assert (view.name, view.objectives, view.origin) == ("s", ["validation_accuracy"], "study.db")
    assert [(each.number, status(each), each.params) for each in view.trials] == [
        (each.number, status(each), each.params) for each in trials
    ]
    assert view.limit("params") == 20_000
    assert view.limit("macs") is None
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


def test_another_storage_is_read_where_it_is_given(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    study = optuna.create_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(journal))))
    study.set_user_attr("definition", made.definition(["validation_loss"]))
    study.add_trial(made.completed(0, 0.9, 5, objectives=["validation_loss"]))
    (tmp_path / "s").mkdir()
    assert open_view(tmp_path / "s", str(journal)).completed[0].params == {}
    assert list((tmp_path / "s").iterdir()) == []


def test_of_several_studies_in_one_storage_one_is_chosen_by_its_name(place: Path, call: Report) -> None:
    journal = JournalStorage(JournalFileBackend(str(place / "all.log")))
    for number, name in enumerate(("one", "two")):
        study = optuna.create_study(study_name=name, storage=journal)
        study.set_user_attr("definition", made.definition(["validation_loss"]))
        study.set_user_attr("retrain", [f"trainer.epochs={number}"])
        for trial in range(number):
            study.add_trial(made.completed(trial, 0.9, 5, objectives=["validation_loss"]))
    (place / "moved").mkdir()
    ended = call("moved", "--storage=all.log")
    assert ended.err.endswith("it has: one, two; choose one by --study NAME, in tinysweep-final by study=NAME\n")
    view = open_view(place / "moved", "all.log", "two")
    assert (view.name, len(view.trials), view.retrain) == ("two", 1, ["trainer.epochs=1"])
    made.leave(place / "moved", 0, [0.5])
    again_said = shlex.split(dict(again._afterwards(view))["This page"])
    assert again_said == ["tinysweep-report", "moved", "--storage", "all.log", "--study", "two"]
    assert call(*again_said[1:]).status == 0
    final = shlex.split(again.final_command(view) or "")
    assert final == ["tinysweep-final", "moved", "storage=all.log", "study=two"]
    settings, _ = read_words(final[2:])
    assert (settings.storage, settings.study) == ("all.log", "two")


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


def test_a_table_without_trials_is_an_empty_study(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    Table("s", ["params"], ["model.width"]).write([], folder / "trials.csv")
    assert open_view(folder, None).trials == []
    assert "no trial has begun" in read(open_view(folder, None)).words()


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


# ---- what the page says


def test_the_headline_says_what_was_found_under_which_budget(tmp_path: Path) -> None:
    trials = [made.completed(0, 0.98, 12_345), made.completed(1, 0.9936, 14_954), made.refused(2, 38_274),
              made.pruned(3, 0.5, 900), made.trial(4, Status.failed, reason="diverged")]  # fmt: skip
    words = read(made.view(tmp_path, trials)).words()
    assert "best validation accuracy 99.36% trial 1" in words
    assert "parameters 14,954 trial 1; the budget is < 20,000" in words
    assert "trials trained 4 1 more not trained" in words
    assert "2 complete 1 pruned 1 failed 1 over budget" in words
    assert "fewer than 20,000 trainable parameters" in words
    assert "over 34 s" in words


def test_the_headline_names_every_bound_and_long_times(tmp_path: Path) -> None:
    trials = [made.completed(0, 0.9, 500, seconds=4000.0), made.completed(4000, 0.8, 400, seconds=71.0)]
    words = read(
        made.view(tmp_path, trials, **{"budget.macs": "700000", "budget.activation_bytes": "9000"})
    ).words()
    assert "at most 700,000 MACs; at most 9,000 activation bytes" in words
    assert "over 1 h 7 min; 1 h 7 min of training" in words
    assert "budget, parameters < 20,000 none has completed yet" in read(made.view(tmp_path, [])).words()
    assert "none that all trials share" in read(made.view(tmp_path, [], **{"budget.params": "None"})).words()


def test_the_parts_stand_in_the_order_of_a_decision(tmp_path: Path) -> None:
    view = made.view(tmp_path, made.mixed())
    html = body(view, find(view))
    assert re.findall(r"<h2>([^<]*)</h2>", html) == [title.replace("'", "&#x27;") for title in SECTIONS]
    links = re.findall(r'href="#(\w+)"', html)
    assert links == re.findall(r'<section id="(\w+)"', html)


def test_reasons_that_differ_in_numbers_alone_share_a_row(tmp_path: Path) -> None:
    trials = [
        *(made.refused(number, 20_000 + number) for number in range(8)),
        made.trial(8, Status.failed, reason="x\ny"),
    ]
    page = made.view(tmp_path, trials)
    words = read(page).words()
    assert (
        "over budget 8 20,007 trainable parameters, must be fewer than budget.params=20000 0, 1, 2, 3, 4, 5, …"
        in words
    )
    assert "failed 1 x y 8" in words


def test_many_reasons_are_shown_in_part(tmp_path: Path) -> None:
    trials = [made.trial(number, Status.failed, reason="x" * number + "y" * 900) for number in range(45)]
    words = read(made.view(tmp_path, trials)).words()
    assert "And 5 more reasons, in trials.csv." in words
    assert "y" * 401 not in words


def test_the_ranking_holds_the_best_and_says_how_many_there_are(tmp_path: Path) -> None:
    trials = [made.completed(number, 0.9 + number / 1000, 500) for number in range(60)]
    words = read(made.view(tmp_path, trials)).words()
    assert "The best 50 of 60 completed trials, best validation accuracy first" in words
    assert "1 59 95.90%" in words
    assert "50 10 91.00%" in words
    assert "51 9 90.90%" not in words


def test_the_winner_is_laid_out_layer_by_layer(tmp_path: Path) -> None:
    made.leave(tmp_path, 0, [0.5])
    view = made.view(tmp_path, [made.completed(0, 0.9, 5)])
    words = read(view).words()
    assert "a residual model of width 4 for 1 × 28 × 28 images of 10 classes" in words
    assert "Conv2d 5x5 4×24×24 100" in words


@pytest.mark.parametrize(
    ("overrides", "study"),
    [
        (["sweeps=quick", "data.limit=9", "model.width=4", "trainer.threads=1", "trainer.test=false", "trial=0"],
         "tinysweep -m sweeps=quick data.limit=9 'model.width=range(2,26)' "
         "'optimizer.lr=tag(log,interval(0.01,1.0))' hydra.sweeper.study_name=s"),
        (["sweeps=mine", "model=plain", "trial=0"],
         "tinysweep -m 'model=choice(plain,residual)' 'model.width=range(2,26)' "
         "'optimizer.lr=tag(log,interval(0.01,1.0))' hydra.sweeper.study_name=s "
         "'hydra.sweeper.objective=[validation_accuracy]' hydra/sweeper/sampler=tpe hydra.sweeper.n_trials=1"),
    ],
)  # fmt: skip
def test_commands_make_a_study_that_noted_none_again(place: Path, overrides: list[str], study: str) -> None:
    made.leave(place / "s", 0, [0.5], overrides)
    (place / "s/experiment").mkdir()
    (place / "s/experiment/winner.yaml").touch()
    chosen = {"model": "plain", "model.width": 4, "optimizer.lr": 0.1}
    words = read(made.view(place / "s", [made.completed(0, 0.9, 5, chosen=chosen)])).words()
    assert study.replace("'", "") in words.replace("'", "")
    assert "tinysweep --config-dir s experiment=winner" in words
    assert "tinysweep-final s" in words
    assert "Commit 0123abcd" in words
    assert "torch 2.14.1" in words


def test_the_study_of_the_users_own_file_is_named(place: Path) -> None:
    (place / "sweeps").mkdir()
    (place / "sweeps/s.yaml").write_text("hydra: {sweeper: {params: {model.width: 'range(2,26)'}}}")
    made.leave(place / "s", 0, [0.5], ["sweeps=s", "model.width=4", "trial=0"])
    view = made.view(place / "s", [made.completed(0, 0.9, 5, chosen={"model.width": 4})])
    assert "The study tinysweep -m sweeps=s Trial 0 alone" in read(view).words()
    (place / "sweeps/s.yaml").write_text("hydra: {sweeper: [")
    assert "tinysweep -m 'model.width=range(2,26)' hydra.sweeper.study_name=s 'hydra." in read(view).words()


# ---- studies of every kind


def kinds() -> dict[str, tuple[list[FrozenTrial], tuple[str, ...]]]:
    generator = random.Random(0)
    one = made.completed(0, 0.99, 700, chosen=made.draw(generator))
    same = [made.completed(number, 0.99, 700, chosen=made.draw(generator)) for number in range(4)]
    perfect = [
        made.completed(number, 1.0, 700, validation_loss=0.0, chosen=made.draw(generator)) for number in range(3)
    ]
    pareto = [
        made.completed(n, 0.9 + n / 500, 500 + 90 * n, objectives=TWO, chosen=made.draw(generator))
        for n in range(12)
    ]
    sparse = [made.completed(number, generator.random(), 999, chosen=made.draw(generator, sparse=True))
              for number in range(12)]  # fmt: skip
    return {
        "empty": ([], ("validation_accuracy",)),
        "running": ([made.trial(0, Status.running)], ("validation_accuracy",)),
        "failures": ([made.trial(n, Status.failed, reason="boom") for n in range(3)], ("validation_accuracy",)),
        "refusals": ([made.refused(n, 10**n * 30_000) for n in range(3)], ("validation_accuracy",)),
        "one": ([one], ("validation_accuracy",)),
        "same": (same, ("validation_accuracy",)),
        "perfect": (perfect, ("validation_accuracy",)),
        "unsearched": ([made.completed(n, 0.9 + n / 100, 50) for n in range(3)], ("validation_accuracy",)),
        "pareto": (pareto, TWO),
        "sparse": (sparse, ("validation_accuracy",)),
        "mixed": (made.mixed(), ("validation_accuracy",)),
    }


KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_every_kind_of_study_gives_a_whole_page(tmp_path: Path, kind: str) -> None:
    trials, objectives = KINDS[kind]
    path, pictures = write_report(made.view(tmp_path, trials, objectives))
    words = Reader(path.read_text(encoding="utf-8").partition("</main>")[0].partition("<main>")[2]).words()
    for title in SECTIONS:
        assert title in words
    assert sorted(path.name for path in pictures) == PICTURES
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == PICTURES


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("empty", "No trial has begun yet."),
        ("failures", "No trial has completed yet."),
        ("empty", "Importances need at least two completed trials; there are none."),
        ("one", "Importances need at least two completed trials; there is one."),
        ("same", "Every completed trial has the same validation accuracy"),
        ("unsearched", "No parameter varies over all of the completed trials"),
        ("unsearched", "The study's trials have drawn no parameters."),
        ("mixed", "The trials' folders hold no history.csv"),
        ("one", "No trial was refused whose parameters were counted."),
        ("mixed", "There was no final yet"),
        ("mixed", "Needs the final, which tests the winner"),
        ("mixed", "The model can't be built again: trials/"),
        ("sparse", "not every trial draws them: optimizer.lr"),
        ("sparse", "So few trials give a hint"),
    ],
)
def test_what_cant_be_had_is_said_in_a_sentence(tmp_path: Path, kind: str, why: str) -> None:
    trials, objectives = KINDS[kind]
    assert why in read(made.view(tmp_path, trials, objectives)).words()


def test_a_study_of_thousands_stays_a_page_that_can_be_sent(tmp_path: Path) -> None:
    trials = made.mixed(count=5000)
    assert len(whole(made.view(tmp_path, trials)).encode()) < 7_000_000


# ---- nothing leaves, nothing gets in


def evil(folder: Path) -> StudyView:
    """A study in which every text is hostile."""
    made.leave(folder, 0, [0.5, 0.2], [made.EVIL, f"model.width={made.EVIL}"])
    spaces: dict[str, BaseDistribution] = {
        made.EVIL: CategoricalDistribution([made.EVIL, "a"]),
        f"x.{made.EVIL}": FloatDistribution(0, 1),
    }
    trials = [made.completed(number, 0.9 + number / 500, 900 + number, kinds=spaces, reason=made.EVIL,
                             chosen={made.EVIL: ("a", made.EVIL)[number % 2], f"x.{made.EVIL}": number / 12})
              for number in range(12)]  # fmt: skip
    trials += [made.trial(12, Status.failed, reason=made.EVIL), made.refused(13, 30_000, kinds=spaces)]
    trials[-1].user_attrs["reason"] = made.EVIL
    made.finish(folder, [0, 1, 2], [{0: 1}], name=made.EVIL, number=0)
    return made.view(folder, trials, name=made.EVIL, **{made.EVIL: made.EVIL, f"params.{made.EVIL}": made.EVIL})


def test_a_page_names_no_address_but_its_own_parts(tmp_path: Path) -> None:
    for view in (evil(tmp_path / "evil"), made.view(tmp_path / "s", made.mixed())):
        reader = read(view)
        assert all(address.startswith(("#", "data:")) for address in reader.addresses)


def test_hostile_text_is_shown_and_makes_no_tags(tmp_path: Path) -> None:
    view = evil(tmp_path)
    reader = read(view)
    plain = made.view(tmp_path / "plain", view.trials[:0])
    allowed = set(read(plain).tags) | {"table", "thead", "tbody", "tr", "th", "td", "button", "figure",
                                       "figcaption", "img", "h3", "script", "section", "ul", "li", "pre",
                                       "strong", "wbr", "b", "i", "code", "small", "span"}  # fmt: skip
    assert set(reader.tags) <= allowed
    assert reader.words().count("window.hit=1") > 10
    page = whole(view)
    # Three scripts run: plotly's, the page's own, and none of the study's, whose figures are data.
    assert (
        len(re.findall(r"<script(?! type=\"application/json\")", page.split("<main>")[1].split("</main>")[0])) == 0
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'unsafe-inline';")
    assert "http" not in policy[1]


# ---- in a browser

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
DRAWN = """[...document.querySelectorAll('.plot')].map((plot) => {
  const drawn = plot.querySelector('svg.main-svg')?.getBoundingClientRect();
  return [plot.getAttribute('aria-label'), drawn?.width ?? 0, drawn?.height ?? 0,
          plot.querySelectorAll('path, text').length];
})"""


@pytest.fixture(scope="module")
def browser() -> Any:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"needs Chromium as {CHROMIUM}")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


HARMLESS = {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
BUTTONS = "[...document.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title)"
FIGURES = ["accuracy against parameters", "search history", "importance of each parameter", "parallel coordinates",
           "learning curves", "parameters of refused trials", "confusion matrix"]  # fmt: skip


@pytest.mark.parametrize(("kind", "figures"), [("empty", 0), ("pareto", 5), ("mixed", 6), ("evil", 7)])
def test_a_browser_draws_the_page_and_asks_for_nothing_else(
    browser: Any, tmp_path: Path, kind: str, figures: int
) -> None:
    view = evil(tmp_path) if kind == "evil" else made.view(tmp_path, *KINDS[kind])
    for trial in view.completed[:2]:
        made.leave(tmp_path, trial.number, [0.5, 0.2])
    file = tmp_path / "report.html"
    file.write_text(whole(view))
    said: list[str] = []
    asked: list[str] = []
    shown = browser.new_page()
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("dialog", lambda dialog: said.append(dialog.message))
    shown.on("request", lambda request: asked.append(request.url))
    for width in (390, 1280):
        shown.set_viewport_size({"width": width, "height": 800})
        shown.goto(f"file://{file}")
        drawn = shown.evaluate(DRAWN)
        assert [label for label, *_ in drawn] == FIGURES[:figures]
        assert all(across > 100 and down > 100 and marks > 10 for _, across, down, marks in drawn)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("window.hit") is None
        assert set(shown.evaluate(BUTTONS)) <= HARMLESS  # such as no upload to another server
        assert shown.evaluate("document.querySelectorAll('svg a, main a:not([href^=\"#\"])').length") == 0
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {f"file://{file}"}
    shown.close()


def test_a_click_sorts_the_ranking_both_ways(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(whole(made.view(tmp_path, made.mixed())))
    page = browser.new_page()
    page.goto(f"file://{tmp_path}/report.html")
    column = "[...document.querySelectorAll('table.sortable tbody tr')].map((row) => +row.cells[4].dataset.sort)"
    before = page.evaluate(column)
    head = page.locator("table.sortable th").nth(4)
    head.locator("button").click()
    assert page.evaluate(column) == sorted(before) != before
    head.locator("button").click()
    assert page.evaluate(column) == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    page.close()
