"""The first real results: what the documentation and conf/experiment/best_20k.yaml say is what results/ holds."""

import dataclasses
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml  # type: ignore[import-untyped]

import tinysweep
from tinysweep.search.space import is_setting, parse
from tinysweep.search.table import read_trials
from tinysweep.settings.stored import flatten

ROOT = Path(__file__).parents[2]
DOCUMENTATION = "\n".join(page.read_text() for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
STUDY = ROOT / "results/budget20k"
each_study = pytest.mark.parametrize(
    "study", [STUDY, ROOT / "results/budget20k-random"], ids=lambda path: path.name
)


def final(study: Path) -> dict[str, Any]:
    content = json.loads((study / "final.json").read_text())
    assert isinstance(content, dict)
    return content


def winner(study: Path) -> dict[str, Any]:
    return next(tested for tested in final(study)["tested"] if tested["role"] == "winner")


def accuracies(tested: dict[str, Any]) -> list[float]:
    return [run["test_accuracy"] for run in tested["runs"]]


def in_words(tested: dict[str, Any]) -> str:
    """As the documentation gives it, such as "**99.63%** ± 0.02"."""
    found = accuracies(tested)
    return f"**{100 * statistics.mean(found):.2f}%** ± {100 * statistics.stdev(found):.2f}"


def test_the_winner_keeps_the_budget_and_reaches_what_is_claimed_of_it() -> None:
    found = winner(STUDY)
    assert found["params"] < 20_000
    assert len(found["runs"]) == 5
    assert statistics.mean(accuracies(found)) >= 0.9960


@each_study
def test_each_accuracy_is_that_of_its_errors(study: Path) -> None:
    for tested in final(study)["tested"]:
        for run in tested["runs"]:
            assert run["test_accuracy"] == pytest.approx(1 - len(run["errors"]) / 10_000)
        assert tested["test_accuracy"]["mean"] == pytest.approx(statistics.mean(accuracies(tested)))


@each_study
def test_the_winner_is_among_the_best_of_its_study(study: Path) -> None:
    trials = read_trials(study / "trials.csv")
    complete = trials[trials["state"] == "complete"].sort_values("validation_loss")
    candidates = len(final(study)["candidates"]) or 1
    assert winner(study)["trial"] in set(complete["number"].head(candidates))


@each_study
def test_no_trial_broke_the_budget(study: Path) -> None:
    trials = read_trials(study / "trials.csv")
    assert trials["state"].isin(["complete", "pruned"]).sum() == 44
    assert trials["params"].max() < 20_000


def test_best_20k_is_the_recipe_of_the_winning_trial() -> None:
    found = winner(STUDY)
    config = tinysweep.compose("experiment=best_20k")
    resolved = tinysweep.resolve(config, tinysweep.describe(config.data))
    assert tinysweep.measure(resolved.model, tinysweep.describe(config.data)).params == found["params"]
    trials = read_trials(STUDY / "trials.csv")
    trial = trials[trials["number"] == found["trial"]].iloc[0]
    names = list(trials.columns)
    searched = [name for name in names[names.index("folder") + 1 :] if is_setting(name)]
    assert len(searched) > 5
    for name in searched:
        section, _, leaf = name.partition(".")
        value = getattr(getattr(config, section), leaf)
        wanted = parse(name, trial[name])
        assert value == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), name
    assert config.model.family == trial["model"]


@each_study
def test_the_documentation_gives_these_means(study: Path) -> None:
    for tested in final(study)["tested"]:
        assert in_words(tested) in DOCUMENTATION


def test_the_documentation_gives_each_seed_of_the_winner() -> None:
    seeds = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies(winner(STUDY)))
    assert re.sub(r"\s+", " ", DOCUMENTATION).count(seeds) == 1


# ---- the frontier


def stored(recipe: Path) -> dict[str, Any]:
    """The settings of a recipe by their dotted names, but for what it is called and its views."""
    flat = flatten(yaml.safe_load(recipe.read_text()))
    return {name: value for name, value in flat.items() if name not in ("name", "model.views")}


@pytest.mark.parametrize("study", sorted((ROOT / "results/frontier").glob("*k")), ids=lambda path: path.name)
def test_the_frontier_is_what_its_finals_found(study: Path) -> None:
    budget = int(study.name.removesuffix("k")) * 1000
    trials, found = read_trials(study / "trials.csv"), winner(study)
    assert trials["params"].max() < budget
    assert found["trial"] in set(trials[trials["state"] == "complete"]["number"])
    rows = pd.read_csv(study.parent / "frontier.csv").query("budget == @budget")
    assert rows["params"].unique() == [found["params"]]
    once = rows.query("views == 1").iloc[0]
    assert once["mean"] == pytest.approx(100 * statistics.mean(accuracies(found)), abs=6e-4)
    assert once["seeds"] == len(found["runs"]) >= 5
    views = pd.read_csv(study / "views.csv")
    assert list(views.query("views == 1")["accuracy"]) == pytest.approx(accuracies(found))
    for row in rows.itertuples():
        of_views = views.query("views == @row.views")["accuracy"]
        assert row.mean == pytest.approx(100 * of_views.mean(), abs=6e-4)


@pytest.mark.parametrize("budget", ["1k", "2k"])
def test_the_best_of_a_small_budget_is_the_recipe_of_its_final(budget: str) -> None:
    wanted = stored(ROOT / f"results/frontier/{budget}/best.yaml")
    config = flatten(dataclasses.asdict(tinysweep.compose(f"experiment=best_{budget}")))
    assert {name: config[name] for name in wanted} == wanted
