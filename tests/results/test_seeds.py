"""What differs by its seed alone is one row in tinysweep-compare: of trials, of single runs, and read again."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_tables import recorded, study, trial

from conftest import Command, Ended
from tinysweep.commands import compare
from tinysweep.results.merge import DEVIATIONS, SEEDS
from tinysweep.search.table import read_trials
from tinysweep.settings.schema import DataConfig, ModelConfig, TrainerConfig

ACCURACIES = {8: [0.9900, 0.9904, 0.9911], 16: [0.9915, 0.9896, 0.9901]}  # the luckiest seed is not of the best


@pytest.fixture
def run(command: Command) -> Callable[..., Ended]:
    def call(*arguments: str) -> Ended:
        ended = command(*arguments, main=compare.main)
        assert ended.status == 0, ended.err
        return ended

    return call


def seeded(number: int, accuracy: float | None, seed: int | None, **more: Any) -> dict[str, Any]:
    loss = None if accuracy is None else 1 - accuracy
    found = trial(number, accuracy, loss, 100, **{"trainer.seed": seed, **more})
    return {**found, "seed": seed or 0}


@pytest.fixture
def two_widths(place: Path) -> Path:
    """A study of two widths with three seeds each, of which a fourth failed."""
    pairs = [(width, seed) for seed in range(3) for width in ACCURACIES]
    trials = [
        seeded(at, ACCURACIES[width][seed], seed, **{"model.width": width})
        for at, (width, seed) in enumerate(pairs)
    ]
    return study(place, [*trials, seeded(6, None, 3, state="failed", **{"model.width": 16})], "two")


def ranked(ended: Ended) -> list[str]:
    block = next(block for block in ended.out.split("\n\n") if " first:" in block)
    return [line for line in block.split("\n")[1:] if line.split()[0].isdigit()]


@pytest.mark.usefixtures("two_widths")
def test_a_configuration_is_ranked_by_the_mean_of_its_seeds_and_shows_how_they_spread(
    run: Callable[..., Ended],
) -> None:
    ended = run("two", "--sort", "accuracy")
    first, second = ranked(ended)
    assert first.split()[1:6] == ["two", "0", "99.05%", "±", "0.06"]
    assert second.split()[1:6] == ["two", "1", "99.04%", "±", "0.10"]
    assert "two  7 trials  6 complete, 1 failed  two" in ended.out, "every trial is counted"
    merged = read_trials("outputs/compare.csv")
    rows = merged[merged.state == "complete"].set_index("model.width")
    for width, accuracies in ACCURACIES.items():
        assert rows.validation_accuracy[width] == pytest.approx(statistics.fmean(accuracies))
        assert rows[DEVIATIONS["validation_accuracy"]][width] == pytest.approx(statistics.stdev(accuracies))
        assert rows[SEEDS][width] == 3
        assert math.isnan(rows["trainer.seed"][width])
    assert merged.state.tolist() == ["complete", "complete", "failed"]


@pytest.mark.usefixtures("two_widths")
def test_each_seed_is_shown_apart_on_demand(run: Callable[..., Ended]) -> None:
    lucky, *others = ranked(run("two", "--sort", "accuracy", "--each-seed"))
    assert lucky.split()[:4] == ["1", "two", "1", "99.15%"]
    assert len(others) == 5
    assert len(read_trials("outputs/compare.csv")) == 7
    assert SEEDS not in read_trials("outputs/compare.csv").columns


def test_single_runs_are_told_apart_by_all_but_their_seed(run: Callable[..., Ended], place: Path) -> None:
    for seed, accuracy in enumerate((0.95, 0.97)):
        recorded(place / f"runs/a{seed}", accuracy, accuracy, trainer=TrainerConfig(seed=seed, threads=1 + seed))
    recorded(place / "runs/again", 0.5, trainer=TrainerConfig(seed=1))
    recorded(place / "runs/wider", 0.94, trainer=TrainerConfig(seed=2), model=ModelConfig(width=9))
    recorded(place / "runs/fewer", 0.93, trainer=TrainerConfig(seed=3), data=DataConfig(limit=99))
    lines = ranked(run("runs", "--columns", "accuracy,test_accuracy,seeds"))
    assert [line.split()[1] for line in lines] == ["a0", "wider", "fewer", "again"]
    assert lines[0].split()[2:] == ["96.00%", "±", "1.41", "96.00%", "±", "1.41", "2"]
    assert [line.split()[-1] for line in lines] == ["2", "1", "1", "1"]


def test_a_figure_that_a_seed_lacks_has_no_mean(run: Callable[..., Ended], place: Path) -> None:
    for seed in (0, 1):
        recorded(place / f"runs/{seed}", 0.9, None if seed else 0.9, trainer=TrainerConfig(seed=seed))
    assert ranked(run("runs", "--columns", "seeds,test_accuracy"))[0].split()[2:] == ["2", "–"]


@pytest.mark.usefixtures("two_widths")
def test_means_can_be_filtered_and_compared_again_beside_what_they_are_of(
    run: Callable[..., Ended], place: Path
) -> None:
    for seed in range(3):
        recorded(place / f"runs/{seed}", 0.9 + seed / 97, trainer=TrainerConfig(seed=seed))
    recorded(place / "runs/alone", 0.5, trainer=TrainerConfig(epochs=3))
    first = run("two", "runs", "--csv", "first.csv")
    assert ranked(run("first.csv", "--csv", "again.csv")) == ranked(first)
    run("first.csv", "two", "runs", "--csv", "both.csv")
    text = Path("first.csv").read_text()
    assert (Path("again.csv").read_text(), Path("both.csv").read_text()) == (text, text)
    assert len(ranked(run("first.csv", "--where", "seeds >= 3"))) == 3
    assert len(ranked(run("first.csv", "--where", "seeds == 1"))) == 1
    assert len(ranked(run("first.csv", "--where", "validation_accuracy_sd < 0.0008"))) == 1


@pytest.mark.usefixtures("two_widths")
def test_seeds_count_as_noise_beside_images_and_make_no_setting_that_differs(
    run: Callable[..., Ended], place: Path
) -> None:
    for number in range(6):
        recorded(place / f"two/trials/{number}", trainer=TrainerConfig(seed=number // 2))
    ended = " ".join(run("two", "--sort", "accuracy").out.split())
    means = [statistics.fmean(ACCURACIES[width]) for width in (8, 16)]
    images = sum(mean * (1 - mean) / 5000 for mean in means)
    seeds = sum(statistics.variance(ACCURACIES[width]) / 3 for width in (8, 16))
    error = 100 * math.sqrt(images + seeds)
    assert f"over images and seeds, being {error:.2f} points on 5,000 images and 3 and 3 seeds" in ended
    assert "trainer.seed" not in ended.partition("two apart:")[2]


def test_where_no_seed_is_chosen_equal_trials_stay_apart(run: Callable[..., Ended], place: Path) -> None:
    study(place, [trial(number, 0.9, 0.1, 100, **{"model.width": 8}) for number in (0, 1)])
    assert len(ranked(run("one"))) == 2
