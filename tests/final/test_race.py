"""The race of candidates on made figures: what it drops, how seldom the best, and what its standard errors are."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tinysweep.final.race import Gap, Race, gap_in_words, gap_text, gaps, run_race

Array = NDArray[np.float64]
SEEDS, IMAGES = 5, 30


def made(
    generator: np.random.Generator, levels: list[float], spreads: list[float], seeds: int = SEEDS
) -> dict[str, list[Array]]:
    """Figures of candidates of such levels. Images are easier or harder for all; how well a candidate is trained
    varies by its spread from seed to seed, and by one from image to image."""
    hardness = generator.exponential(10, (seeds, IMAGES))
    return {
        str(number): list(
            level + hardness + spread * generator.normal(size=(seeds, 1)) + generator.normal(size=hardness.shape)
        )
        for number, (level, spread) in enumerate(zip(levels, spreads, strict=True))
    }


@pytest.mark.parametrize("spreads", [[1.0] * 3, [0.0] * 3, [1.0] * 8, [2.0, 1.0, 1.0, 1.0]])
def test_the_best_is_dropped_in_no_more_races_than_confidence_allows(spreads: list[float]) -> None:
    generator, races = np.random.default_rng(0), 200
    equal = [0.0] * len(spreads)  # in which the first is as good as any, so that it is dropped most often
    lost = sum("0" not in run_race(made(generator, equal, spreads), SEEDS, 9, 0.9).left for _ in range(races))
    assert lost <= 0.1 * races


def test_most_of_the_clearly_worse_are_dropped_before_the_last_seed_and_most_of_the_good_stay() -> None:
    generator, races, stayed, seeds = np.random.default_rng(1), 100, np.zeros(6), np.zeros(6)
    for _ in range(races):
        race = run_race(made(generator, [0, 0.2, 0.4, 6, 8, 10], [1.0] * 6), SEEDS, 9, 0.95)
        stayed += [str(number) in race.left for number in range(6)]
        seeds += [race.gaps[name].seeds if name in race.gaps else race.seeds for name in map(str, range(6))]
    assert (stayed[:3] > 0.9 * races).all()
    assert (stayed[3:] < 0.1 * races).all()
    assert (seeds[3:] / races < 3.5).all()


def test_it_waits_for_the_next_look_and_is_over_when_one_is_left() -> None:
    figures = made(np.random.default_rng(2), [0, 0.1, 0], [0.1] * 3)
    assert run_race({name: [] for name in figures}, SEEDS, 9, 0.95) == Race(["0", "1", "2"], 2)
    assert run_race({name: each[:1] for name, each in figures.items()}, 1, 9, 0.95).seeds == 1
    two = run_race({name: each[:2] for name, each in figures.items()}, SEEDS, 9, 0.95)
    assert (set(two.left), two.seeds, set(two.order)) == ({"0", "1", "2"}, 3, {"0", "1", "2"})
    whole = run_race(figures, SEEDS, 9, 0.95)
    assert (len(whole.left), whole.seeds) == (3, SEEDS)
    assert whole.gaps.keys() == set(whole.left[1:])
    alone = run_race(made(np.random.default_rng(2), [0, 50, 60], [0.1] * 3), SEEDS, 9, 0.95)
    assert (alone.left, alone.seeds, alone.order) == (["0"], 2, ["0", "1", "2"])
    assert [gap.seeds for gap in alone.gaps.values()] == [2, 2]
    assert len(run_race(made(np.random.default_rng(2), [0, 50, 60], [0.1] * 3), 5, 9, 0.95, drop=False).left) == 3


def test_seeds_beyond_the_look_that_decides_change_nothing() -> None:
    figures = made(np.random.default_rng(3), [0, 0.1, 50], [0.1] * 3)
    early = {name: each[:2] for name, each in figures.items()}
    more = {**early, "0": figures["0"][:4], "2": [*early["2"], np.full(IMAGES, -1e6)]}
    assert run_race(early, SEEDS, 9, 0.95) == run_race(more, SEEDS, 9, 0.95)
    assert set(run_race(early, SEEDS, 9, 0.95).left) == {"0", "1"}
    with_rest = {**figures, "2": early["2"]}
    race = run_race(with_rest, SEEDS, 9, 0.95)
    assert (set(race.left), race.seeds, race.gaps["2"].seeds, race.order[-1]) == ({"0", "1"}, SEEDS, 2, "2")


def test_ties_go_to_the_first() -> None:
    figures = [np.zeros(IMAGES)] * 2
    for names in (["a", "b"], ["b", "a"]):
        race = run_race(dict.fromkeys(names, figures), 2, 9, 0.95)
        assert race.left == names
        assert race.gaps[names[1]].difference == 0


def test_a_gap_by_hand() -> None:
    """Two seeds with four images each; differences 1, 1, 2, 4 and 0, 0, 1, 3, of mean 2 and 1."""
    worse = np.array([[1.0, 1, 2, 4], [0, 0, 1, 3]])
    found = gaps({"a": np.zeros((2, 4)), "b": worse}, "a", 9, 0.95)["b"]
    over_images = (2 * 2 / 4) / 4  # variances 2 and 2, of means over 4 images, of a mean over 2 seeds
    over_seeds = 0.5 / 2
    assert found.difference == 1.5
    assert found.standard_error == pytest.approx(max(over_images, over_seeds) ** 0.5)
    assert found.degrees == 1
    assert found.tellable == pytest.approx(found.standard_error * (6.3138 + 1.3764), rel=1e-4)
    shared = gaps({"a": np.zeros((2, 4)), "b": worse}, "a", 1, 0.95)["b"]
    assert shared.standard_error == pytest.approx((2 / 4) ** 0.5), (
        "of one fold, the images are no more by two seeds"
    )


def test_one_seed_has_an_error_over_images_alone() -> None:
    found = gaps({"a": np.zeros((1, 4)), "b": np.array([[1.0, 1, 2, 4]])}, "a", 9, 0.95)["b"]
    assert found.degrees == 3
    assert found.standard_error == pytest.approx((2 / 4) ** 0.5)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_standard_error_is_not_below_the_spread_of_differences(spread: float) -> None:
    """Of models that vary with their seeds and of such that don't."""
    generator, found = np.random.default_rng(4), []
    for _ in range(1000):
        figures = {name: np.stack(each) for name, each in made(generator, [0, 0], [spread] * 2).items()}
        found.append(gaps(figures, "0", 9, 0.95)["1"])
    spread_of_differences = np.std([gap.difference for gap in found])
    error = np.sqrt(np.mean([gap.standard_error**2 for gap in found]))
    assert 0.95 * spread_of_differences < error < 1.5 * spread_of_differences


def test_gaps_are_written_in_the_unit_of_their_metric() -> None:
    gap = Gap("trial 7", 2, 0.00123, 0.0004, 4, 0.001)
    assert gap_text("validation_loss", gap) == "0.00123 ± 0.00040"
    assert gap_text("validation_loss", None) == "–"
    words = "0.12 ± 0.04 points in validation accuracy behind trial 7 after 2 seeds"
    assert gap_in_words("validation_accuracy", gap) == words
