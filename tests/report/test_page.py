"""The report as its reader gets it: a page that is whole, true, safe and drawn, for every kind of study."""

import contextlib
import functools
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial
from PIL import Image

import made_study as made
from conftest import Command, Ended
from report_reader import Reader, main_part, read_page, whole_page
from tinysweep.commands import report
from tinysweep.final.race import Gap
from tinysweep.final.results import RankedCandidate
from tinysweep.report import sections
from tinysweep.results.view import StudyView
from tinysweep.search.study import Status
from tinysweep.search.table import Table

pytestmark = pytest.mark.usefixtures("quiet_optuna")

PICTURES = ["accuracy_parameters.png", "curves.png", "importances.png", "search_history.png"]
TITLES = ["The final", "Accuracy against parameters", "Search history", "What mattered",
          "Parameters of each trial", "Learning curves", "Pruned, refused and failed trials",
          "The winner's mistakes", "The winner, layer by layer", "Trials, ranked", "Do it again"]  # fmt: skip
ONE, TWO = ("validation_accuracy",), ("validation_accuracy", "params")

Report = Callable[..., Ended]


@pytest.fixture
def call(command: Command) -> Report:
    return functools.partial(command, main=report.main)


def dumped(folder: Path) -> list[str]:
    """All that a study's database holds."""
    with contextlib.closing(sqlite3.connect(folder / "study.db")) as connection:
        return list(connection.iterdump())


def test_the_table_of_candidates_says_how_far_behind_each_is_and_who_is_out() -> None:
    of: dict[str, Any] = {"trial": 1, "params": 100, "macs": 200, "changed": {}, "chosen": False, "runs": []}
    figures: dict[str, Any] = {name: made.summary([0.5]) for name in ("validation_loss", "validation_accuracy")}
    best = RankedCandidate(name="best", **{**of, "chosen": True}, **figures)
    gap = Gap("best", 3, 0.0125, 0.002, 4, 0.005)
    out = RankedCandidate(name="out", **of, **figures, gap=gap, out_of_race=True)
    names = ["validation_loss", "validation_accuracy"]
    found = sections.models([best, out], names, 0.95)
    column = found.header.index("behind the best, ± standard error")
    assert [row[1] for row in found.rows] == ["chosen", "out of the race"]
    assert [row[column] for row in found.rows] == [
        sections.Number("–", None), sections.Number("0.01250 ± 0.00200", 0.0125)
    ]  # fmt: skip
    assert len(sections.models([best], names, 0.95).header) == len(found.header) - 1, "as of earlier versions"


# ---- the command


def test_a_study_becomes_a_page_and_four_pictures_while_it_goes_on(call: Report, place: Path) -> None:
    folder = place / "outputs/sweeps/s"
    made.store(folder, [*made.mixed(count=16), made.trial(16, Status.running)])
    before = dumped(folder)
    ended = call("outputs/sweeps/s")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines()[0] == "report    outputs/sweeps/s/report.html"
    assert len(ended.out.splitlines()) == 2
    assert sorted(path.name for path in (folder / "figures").iterdir()) == PICTURES
    for name in PICTURES:
        with Image.open(folder / "figures" / name) as image:
            assert (image.format, image.width) == ("PNG", 1200)
    page = main_part((folder / "report.html").read_text())
    assert "Study s" in page.words
    assert "2 still in training: figures may change." in page.words
    assert dumped(folder) == before
    optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db").add_trial(made.completed(17, 1, 600))
    assert call("outputs/sweeps/s").status == 0
    assert "best validation accuracy 100.00% trial 17" in main_part((folder / "report.html").read_text()).words


def test_help_shows_examples_and_imports_nothing_slow() -> None:
    code = (
        "import sys; from tinysweep.commands.report import main; sys.argv = ['tinysweep-report', '--help']\n"
        "try: main()\nexcept SystemExit: print({'torch', 'plotly', 'optuna'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "tinysweep-report outputs/sweeps/quick" in shown
    assert shown.splitlines()[-1] == "set()"


@pytest.mark.parametrize("package", ["jinja2", "plotly", "scikit-learn"])
def test_a_missing_package_is_named_in_one_line(call: Report, monkeypatch: Any, package: str) -> None:
    module = {"scikit-learn": "sklearn"}.get(package, package)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else True)
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


# ---- what the page says


def test_the_headline_says_what_was_found_under_which_budget(tmp_path: Path) -> None:
    trials = [made.completed(0, 0.98, 12_345), made.completed(1, 0.9936, 14_954), made.refused(2, 38_274),
              made.pruned(3, 0.5, 900), made.trial(4, Status.failed, reason="diverged")]  # fmt: skip
    words = read_page(made.view(tmp_path, trials)).words
    assert "best validation accuracy 99.36% trial 1" in words
    assert "parameters 14,954 trial 1; the budget is < 20,000" in words
    assert "trials trained 4 1 more not trained" in words
    assert "2 complete 1 pruned 1 failed 1 over budget" in words
    assert "fewer than 20,000 trainable parameters" in words
    assert "over 34 s" in words


def test_the_headline_names_every_bound_and_long_times(tmp_path: Path) -> None:
    trials = [made.completed(0, 0.9, 500, seconds=4000.0), made.completed(4000, 0.8, 400, seconds=71.0)]
    more = {"budget.macs": "700000", "budget.activation_bytes": "9000"}
    words = read_page(made.view(tmp_path, trials, **more)).words
    assert "at most 700,000 MACs; at most 9,000 activation bytes" in words
    assert "over 1 h 7 min; 1 h 7 min of training" in words
    assert "none that all trials share" in read_page(made.view(tmp_path, [], **{"budget.params": "None"})).words


def test_reasons_that_differ_in_numbers_alone_share_a_row_and_many_are_shown_in_part(tmp_path: Path) -> None:
    trials = [made.refused(number, 20_000 + number) for number in range(8)]
    trials += [made.trial(8, Status.failed, reason="x\ny")]
    trials += [made.trial(9 + number, Status.failed, reason="z" * number + "y" * 900) for number in range(43)]
    words = read_page(made.view(tmp_path, trials)).words
    alike = "over budget 8 20,007 trainable parameters, must be fewer than budget.params=20000 0, 1, 2, 3, 4, 5, …"
    assert alike in words
    assert "failed 1 x y 8" in words
    assert "And 5 more reasons, in trials.csv." in words
    assert "y" * 401 not in words


def test_the_ranking_holds_the_best_and_says_how_many_there_are(tmp_path: Path) -> None:
    trials = [made.completed(number, 0.9 + number / 1000, 500) for number in range(60)]
    words = read_page(made.view(tmp_path, trials)).words
    assert "The best 50 of 60 completed trials, best validation accuracy first" in words
    assert "1 59 95.90%" in words
    assert "50 10 91.00%" in words
    assert "51 9 90.90%" not in words


def test_the_winner_is_laid_out_layer_by_layer_and_its_commands_are_told(tmp_path: Path) -> None:
    made.leave(tmp_path, 0, [0.5], ["data.limit=9", "trial=0"])
    words = read_page(made.view(tmp_path, [made.completed(0, 0.9, 5)])).words
    assert "a residual model of width 4 for 1 × 28 × 28 images of 10 classes" in words
    assert "Conv2d 5x5 4×24×24 100" in words
    assert "Trial 0 alone tinysweep data.limit=9" in words
    assert "The study doesn't say how it was begun" in words
    assert "Commit 0123abcd" in words


# ---- studies of every kind


def kinds() -> dict[str, tuple[list[FrozenTrial], tuple[str, ...]]]:
    generator = random.Random(0)
    numbers = range(12)
    return {
        "empty": ([], ONE),
        "running": ([made.trial(0, Status.running)], ONE),
        "failures": ([made.trial(n, Status.failed, reason="boom") for n in range(3)], ONE),
        "refusals": ([made.refused(n, 10**n * 30_000) for n in range(3)], ONE),
        "one": ([made.completed(0, 0.99, 700, chosen=made.draw(generator))], ONE),
        "same": ([made.completed(n, 0.99, 700, chosen=made.draw(generator)) for n in range(4)], ONE),
        "perfect": ([made.completed(n, 1.0, 700, validation_loss=0.0, chosen=made.draw(generator))
                     for n in range(3)], ONE),
        "unsearched": ([made.completed(n, 0.9 + n / 100, 50) for n in range(3)], ONE),
        "pareto": ([made.completed(n, 0.9 + n / 500, 500 + 90 * n, objectives=TWO, chosen=made.draw(generator))
                    for n in numbers], TWO),
        "sparse": ([made.completed(n, generator.random(), 999, chosen=made.draw(generator, sparse=True))
                    for n in numbers], ONE),
        "mixed": (made.mixed(), ONE),
    }  # fmt: skip


KINDS = kinds()


@functools.cache
def page_of(kind: str) -> Reader:
    with tempfile.TemporaryDirectory() as folder:
        return read_page(made.view(Path(folder), *KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_study_gives_a_whole_page_in_the_order_of_a_decision(kind: str) -> None:
    page = page_of(kind)
    assert [unescape(title) for title in re.findall(r"<h2>([^<]*)</h2>", page.html)] == TITLES
    links = re.findall(r'href="#(\w+)"', page.html)
    assert links == re.findall(r'<section id="(\w+)"', page.html)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("empty", "budget, parameters < 20,000 none has completed yet"),
        ("empty", "no trial has begun"),
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
        ("mixed", "The commands are incomplete, as trials/"),
        ("sparse", "not every trial draws them: optimizer.lr"),
        ("sparse", "So few trials give a hint"),
    ],
)
def test_what_cant_be_had_is_said_in_a_sentence(kind: str, why: str) -> None:
    assert why in page_of(kind).words


@pytest.mark.slow
def test_a_study_of_thousands_stays_a_page_that_can_be_sent(tmp_path: Path) -> None:
    assert len(whole_page(made.view(tmp_path, made.mixed(count=5000))).encode()) < 7_000_000


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


def test_hostile_text_is_shown_and_makes_neither_tags_nor_addresses(tmp_path: Path) -> None:
    whole = whole_page(evil(tmp_path))
    page = main_part(whole)
    own = (
        "a b button code dd details div dl dt figcaption figure h1 h2 h3 i img li nav p pre script section small "
        "span strong summary table tbody td th thead tr ul wbr"
    )
    assert set(page.tags) <= set(own.split())
    assert page.words.count("window.hit=1") > 10
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    # Of a study there are no scripts but its figures, which are data.
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page.html, flags=re.DOTALL)
    assert {kind for kind, _ in scripts} == {' type="application/json"'}
    assert not any("<" in data for _, data in scripts)
    assert sum("window.hit=1" in data for _, data in scripts) > 3
    assert len(scripts) == page.tags.count("script") == page.html.count("<script")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', whole)
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
HARMLESS = {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
BUTTONS = "[...document.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title)"
FIGURES = ["accuracy against parameters", "search history", "importance of each parameter", "parallel coordinates",
           "learning curves", "parameters of refused trials", "confusion matrix"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Any:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"needs Chromium as {CHROMIUM}")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "figures"), [("empty", 0), ("pareto", 5), ("mixed", 6), ("evil", 7)])
def test_a_browser_draws_the_page_and_asks_for_nothing_else(
    browser: Any, tmp_path: Path, kind: str, figures: int
) -> None:
    view = evil(tmp_path) if kind == "evil" else made.view(tmp_path, *KINDS[kind])
    for trial in view.completed[:2]:
        made.leave(tmp_path, trial.number, [0.5, 0.2])
    file = tmp_path / "report.html"
    file.write_text(whole_page(view))
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


@pytest.mark.slow
def test_a_click_sorts_the_ranking_both_ways(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(whole_page(made.view(tmp_path, made.mixed())))
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


@pytest.mark.slow
def test_what_is_wider_than_the_page_says_that_it_scrolls(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(whole_page(made.view(tmp_path, made.mixed())))
    page = browser.new_page()
    told = """[...document.querySelectorAll('.scroll')].map((each) =>
      [each.scrollWidth > each.clientWidth + 1, !each.previousElementSibling.hidden])"""
    for width in (600, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(f"file://{tmp_path}/report.html")
        page.wait_for_timeout(300)
        found = page.evaluate(told)
        assert all(wide == hinted for wide, hinted in found)
        assert width > 600 or any(wide for wide, _ in found)
    page.close()
