"""The files that a final leaves in its folder: final.json, final.csv, predictions.csv and experiment/best.yaml."""

import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd

from tinysweep.files import write_whole
from tinysweep.final.candidates import Entrant
from tinysweep.final.results import Candidate, Results, Tested
from tinysweep.final.runs import Failure, Run
from tinysweep.results.verdict import Comparison, method_in_words
from tinysweep.search.table import write_experiment

BEST = "best"
VALIDATION, TEST = ("validation_loss", "validation_accuracy"), ("test_loss", "test_accuracy")


def write(results: Results) -> str:
    """Write every file, each whole, final.json last, and return the command that trains the winner's recipe."""
    content = json.dumps(as_dict(results), indent=2, allow_nan=False)
    folder = results.plan.folder
    write_whole(folder / "predictions.csv", _csv(predictions(results)))
    write_whole(folder / "final.csv", _csv(table(results)))
    command = _write_best(results)
    write_whole(folder / "final.json", content + "\n")
    return command


def as_dict(results: Results) -> dict[str, Any]:
    """final.json: the choice in words, candidates, final models and comparisons, with the figures of every run."""
    plan = results.plan
    records = [run.record for trained in results.trained for run in trained.runs]
    return {
        "study": plan.view.name,
        "choice": results.choice,
        "confidence": plan.settings.confidence,
        "dropped": [_failure(failure) for failure in results.dropped],
        "candidates": [_candidate(results, candidate) for candidate in results.candidates],
        "tested": [_tested(results, tested) for tested in results.tested],
        "comparisons": [_comparison(results, other, found) for other, found in results.comparisons],
        "started": min(record["started"] for record in records),
        "finished": max(record["finished"] for record in records),
        "versions": {"python": records[-1]["python"], **records[-1]["versions"]},
    }


def _candidate(results: Results, candidate: Candidate) -> dict[str, Any]:
    return {
        **_entrant(candidate.entrant),
        "changed": candidate.entrant.changed,
        **{name: results.summary(candidate, name).as_dict() for name in VALIDATION},
        "chosen": candidate.entrant is results.winner.entrant,
        "runs": [_run(results, run, VALIDATION) for run in candidate.runs],
    }


def _failure(failure: Failure) -> dict[str, Any]:
    job = failure.job
    return {"name": job.name, "stage": job.stage.value, "seed": job.seed, "reason": failure.reason}


def _tested(results: Results, tested: Tested) -> dict[str, Any]:
    wrong = ~tested.correct
    return {
        "role": tested.role,
        **_entrant(tested.entrant),
        **{name: results.summary(tested, name).as_dict() for name in TEST},
        "runs": [
            _run(results, run, TEST) | {"errors": np.flatnonzero(missed).tolist()}
            for run, missed in zip(tested.runs, wrong, strict=True)
        ],
        "errors_in_every_seed": np.flatnonzero(wrong.all(axis=0)).tolist(),
        "errors_in_any_seed": np.flatnonzero(wrong.any(axis=0)).tolist(),
    }


def _comparison(results: Results, other: Tested, found: Comparison) -> dict[str, Any]:
    return {
        "winner": results.winner.entrant.name,
        "against": other.entrant.name,
        "role": other.role,
        **dataclasses.asdict(found),
        "test": method_in_words(len(other.labels)),
        "verdict": results.verdict(other, found),
    }


def _entrant(entrant: Entrant) -> dict[str, Any]:
    cost = entrant.cost
    return {"name": entrant.name, "trial": entrant.trial, "params": cost.params, "macs": cost.macs}


def _run(results: Results, run: Run, metrics: tuple[str, ...]) -> dict[str, Any]:
    return {
        "seed": run.job.seed,
        "folder": run.folder.path.relative_to(results.plan.view.folder).as_posix(),
        **{name: run.metric(name) for name in metrics},
        "seconds": run.record["train_seconds"],
    }


def table(results: Results) -> pd.DataFrame:
    """final.csv: a row for each run."""
    rows = []
    for trained in results.trained:
        for run in trained.runs:
            figures = {name: run.record["metrics"][name] for name in (*VALIDATION, *TEST)}
            own = {"stage": run.job.stage.value, "role": trained.role, **_entrant(trained.entrant)}
            rows.append(own | _run(results, run, ()) | figures)
    columns = ["stage", "role", "name", "trial", "seed", "params", "macs", *VALIDATION, *TEST, "seconds", "folder"]
    return pd.DataFrame(rows, columns=columns).astype({"trial": "Int64"})


def predictions(results: Results) -> pd.DataFrame:
    """predictions.csv: a row for each test image, a column of predicted classes for each final model."""
    columns: dict[str, Any] = {"index": np.arange(len(results.winner.labels)), "label": results.winner.labels}
    for tested in results.tested:
        for run, predicted in zip(tested.runs, tested.predicted, strict=True):
            columns[f"{tested.role}-seed-{run.job.seed}"] = predicted
    return pd.DataFrame(columns)


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def _write_best(results: Results) -> str:
    plan, winner = results.plan, results.winner.entrant
    recipe = dataclasses.replace(winner.recipe, name=f"{plan.view.name}-{BEST}")
    changes = f", with {' '.join(plan.retrain)}" if plan.retrain else ""
    origin = f"The winner of the final of the study {plan.view.name}: {winner.name}{changes}, on {results.images}."
    return write_experiment(plan.folder, BEST, recipe, origin)
