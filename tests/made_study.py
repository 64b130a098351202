"""Studies made for tests without training: trials as a sweep leaves them, and the files beside them."""

import csv
import dataclasses
import json
import math
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinysweep.final.candidates import Stage
from tinysweep.final.results import Final, FinalModel, FinalRun, RankedCandidate, ValidationRun, Verdict
from tinysweep.final.runs import Failure
from tinysweep.metrics import METRICS
from tinysweep.results.verdict import Summary
from tinysweep.results.view import StudyView
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.study import STATES, Status
from tinysweep.settings.schema import Config, DataConfig, ModelConfig

BEGAN = datetime(2026, 1, 2, 3, 4, 5)
KINDS: dict[str, BaseDistribution] = {
    "model": CategoricalDistribution(["plain", "residual"]),
    "model.width": IntDistribution(2, 25),
    "optimizer.lr": FloatDistribution(0.01, 1.0, log=True),
}
EVIL = (
    "</script><script>window.hit=1</script><img src=x onerror='window.hit=1'><b>\"q\"</b>&lt;<a href='//x'>%{x}$y$"
)


def trial(
    number: int,
    became: Status = Status.complete,
    chosen: dict[str, Any] | None = None,
    objectives: Sequence[str] = ("validation_accuracy",),
    kinds: dict[str, BaseDistribution] | None = None,
    **notes: Any,
) -> FrozenTrial:
    """A trial as a study holds it."""
    running = became == Status.running
    chosen = chosen or {}
    made = create_trial(
        state=TrialState.RUNNING if running else STATES.get(became, TrialState.FAIL),
        values=[float(notes[name]) for name in objectives] if became == Status.complete else None,
        params=chosen,
        distributions={name: (kinds or KINDS)[name] for name in chosen},
        user_attrs=notes if running else {"standing": became.value, **notes},
    )
    made.number, made.datetime_start = number, BEGAN + timedelta(seconds=number)
    made.datetime_complete = None if running else made.datetime_start + timedelta(seconds=30)
    return made


def completed(number: int, accuracy: float, params: int, **more: Any) -> FrozenTrial:
    """A completed trial with all of its figures."""
    notes: dict[str, Any] = {
        "validation_accuracy": accuracy, "validation_loss": 3 * (1 - accuracy) + 0.001, "params": params,
        "macs": 70 * params, "activation_bytes": 9000, "epochs": 4, "seconds": 12.5, "seed": 0,
    }  # fmt: skip
    return trial(number, **{**notes, **more})


def refused(number: int, params: int, **more: Any) -> FrozenTrial:
    reason = f"{params:,} trainable parameters, must be fewer than budget.params=20000"
    return trial(number, Status.over_budget, reason=reason, params=params, **more)


def pruned(number: int, accuracy: float, params: int, **more: Any) -> FrozenTrial:
    reason = "stopped by MedianPruner after epoch 1 of 4"
    figures: dict[str, Any] = {"validation_accuracy": accuracy, "validation_loss": 3 * (1 - accuracy)}
    return trial(
        number, Status.pruned, reason=reason, params=params, macs=70 * params, seconds=3.0, **figures, **more
    )


def draw(generator: random.Random, *, sparse: bool = False) -> dict[str, Any]:
    """Values for KINDS; `sparse`: the learning rate is drawn by some trials only."""
    chosen: dict[str, Any] = {"model": generator.choice(["plain", "residual"])}
    chosen["model.width"] = generator.randint(2, 25)
    if not sparse or generator.random() < 0.6:
        chosen["optimizer.lr"] = math.exp(generator.uniform(math.log(0.01), 0))
    return chosen


def mixed(
    seed: int = 0, count: int = 40, objectives: Sequence[str] = ("validation_accuracy",)
) -> list[FrozenTrial]:
    """Trials of every status, most of them completed; the learning rate decides their accuracy."""
    generator, trials = random.Random(seed), list[FrozenTrial]()
    others = [state for state in Status if state not in (Status.complete, Status.over_budget, Status.pruned)]
    for number in range(count):
        chosen, kind = draw(generator), number % 8
        accuracy = 0.99 - 0.1 * abs(math.log(chosen["optimizer.lr"] / 0.1)) / 3 - 0.002 * generator.random()
        if kind in (1, 4):
            made = refused(number, generator.randint(20_000, 90_000), chosen=chosen)
        elif kind == 6:
            made = pruned(number, accuracy - 0.1, generator.randint(900, 19_999), chosen=chosen)
        elif kind == 7 and number < 8 * len(others):
            made = trial(number, others[number // 8], chosen, reason=f"because {number}")
        else:
            size = generator.randint(900, 19_999)
            made = completed(number, accuracy, size, chosen=chosen, objectives=objectives)
        trials.append(made)
    return trials


def definition(objectives: Sequence[str] = ("validation_accuracy",), **more: str) -> dict[str, str]:
    """A definition as a sweep notes it."""
    space = {"params.model": "choice(plain,residual)", "params.model.width": "whole from 2 to 25",
             "params.optimizer.lr": "real from 0.01 to 1 log"}  # fmt: skip
    bounds = {"budget.params": "20000", "budget.macs": "None", "budget.activation_bytes": "None"}
    return {"objective": ", ".join(objectives), **space, "data.name": "mnist", **bounds, **more}


def view(
    folder: Path,
    trials: list[FrozenTrial],
    objectives: Sequence[str] = ("validation_accuracy",),
    name: str = "s",
    **more: str,
) -> StudyView:
    """A study as it is when it has been read, without a storage."""
    return StudyView(name, folder, trials, list(objectives), definition(objectives, **more), "study.db")


def store(folder: Path, trials: list[FrozenTrial], objectives: Sequence[str] = ("validation_accuracy",)) -> None:
    """Put trials into study.db in a folder, whose name is the study's."""
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=folder.name,
        storage=open_storage(None, folder),
        directions=[METRICS[name].direction for name in objectives],
    )
    study.set_user_attr("definition", definition(objectives))
    study.add_trials(trials)


def leave(
    folder: Path,
    number: int,
    losses: Sequence[float],
    overrides: Sequence[str] = (),
    rungs: Sequence[int] = (),
    **data: Any,
) -> None:
    """What the run of a trial leaves in its folder: a record and its history; `rungs` are those of its epochs."""
    home = folder / "trials" / str(number)
    home.mkdir(parents=True, exist_ok=True)
    config = Config(model=ModelConfig(width=4), data=DataConfig(**data))
    record = {
        "state": "complete", "device": "cpu", "threads": 2, "precision": "fp32", "python": "3.11.7", "seed": 0,
        "versions": {"tinysweep": "0.1.0", "torch": "2.14.1"}, "git_commit": "0123abcd",
        "overrides": list(overrides), "config": dataclasses.asdict(config),
    }  # fmt: skip
    (home / "record.json").write_text(json.dumps(record))
    with (home / "history.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        more = ["epochs"] if rungs else []
        rows.writerow(["epoch", "train_loss", "validation_loss", "validation_accuracy", "lr", "seconds", *more])
        for place, loss in enumerate(losses):
            of = rungs[place : place + 1]
            epoch = rungs[: place + 1].count(of[0]) if of else place + 1
            rows.writerow([epoch, loss + 0.1, loss, 1 - loss, 0.1, 1.0, *of])


def summary(values: Sequence[float]) -> Summary:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Summary(mean, None, None, None, 1)
    return Summary(mean, 0.0004, mean - 0.001, mean + 0.001, len(values))


def finish(
    folder: Path, labels: Sequence[int], wrong: Sequence[dict[int, int]], name: str = "trial 2", number: int = 2
) -> None:
    """A final of a winner, whose seeds give images `wrong` classes by index, and of a baseline that is right."""
    home = folder / "final"
    home.mkdir(parents=True, exist_ok=True)
    seeds, accuracies = range(len(wrong)), [1 - len(errors) / len(labels) for errors in wrong]
    size: dict[str, Any] = {"name": name, "trial": number, "params": 1234, "macs": 56789}
    judged = [ValidationRun(seed=seed, folder=f"final/runs/validation/w-{seed}", validation_loss=0.03,
                            validation_accuracy=0.991, seconds=9.0) for seed in seeds]  # fmt: skip
    tested = [FinalRun(seed=seed, folder=f"final/runs/test/w-{seed}", test_loss=0.02, seconds=9.0,
                       test_accuracy=accuracies[seed], errors=sorted(wrong[seed])) for seed in seeds]  # fmt: skip
    candidate = RankedCandidate(
        **size, changed={"model.width": 4}, chosen=True, validation_loss=summary([0.03] * len(wrong)),
        validation_accuracy=summary([0.991]), runs=judged,
    )  # fmt: skip
    winner = FinalModel(
        **size, role="winner", test_loss=summary([0.02] * len(wrong)), test_accuracy=summary(accuracies),
        runs=tested, errors_in_every_seed=[], errors_in_any_seed=[],
    )  # fmt: skip
    baseline = dataclasses.replace(winner, role="baseline", name="era_seed", trial=None)
    verdict = Verdict(
        winner=name, against="era_seed", role="baseline", difference=0.0016, low=0.0006, high=0.0026,
        p_value=0.0004, test="a paired test", verdict="the winner is better",
    )  # fmt: skip
    final = Final(
        study="s", choice="Chosen on validation images.", confidence=0.95,
        dropped=[Failure("trial 9", Stage.validation, 1, "diverged")], candidates=[candidate],
        tested=[winner, baseline], comparisons=[verdict], started="", finished="", versions={},
    )  # fmt: skip
    (home / "final.json").write_text(json.dumps(dataclasses.asdict(final)))
    with (home / "predictions.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["index", "label", *(f"winner-seed-{seed}" for seed in seeds), "baseline-seed-0"])
        rows.writerows(
            [index, true, *(errors.get(index, true) for errors in wrong), true]
            for index, true in enumerate(labels)
        )
