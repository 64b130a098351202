"""How much each searched parameter mattered for what a study aims at."""

import warnings
from dataclasses import dataclass

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial

from tinysweep.metrics import METRICS
from tinysweep.results.view import StudyView
from tinysweep.search.table import metric

# From here on the best tenth, which PED-ANOVA looks at, is enough trials, and fANOVA's forest takes long.
MANY = 100
FEW = 30


@dataclass(frozen=True)
class Importances:
    """Shares that sum to 1, by parameter, the largest first; and what they rest on."""

    objective: str
    shares: dict[str, float]
    method: str
    trials: int
    left_out: list[str]


def importances(view: StudyView, objective: str) -> Importances | str:
    """Importance of each parameter for one objective, or in one sentence why it can't be had.

    Of few trials by fANOVA (Hutter et al., 2014), the part of the variance that a parameter explains in a random
    forest; of many by PED-ANOVA (Watanabe et al., 2023), how much the best tenth's values of a parameter differ
    from those of all.
    """
    trials = view.completed
    if len(trials) < 2:
        return f"Importances need at least two completed trials; there {'is one' if trials else 'are none'}."
    if len({metric(trial, objective) for trial in trials}) == 1:
        same = METRICS[objective].label
        return f"Every completed trial has the same {same}, so nothing can be said of what mattered."
    many = len(trials) >= MANY
    varying = [
        name for name in view.searched
        if len({str(trial.params[name]) for trial in trials if name in trial.params}) > 1
    ]  # fmt: skip
    everywhere = [name for name in varying if all(name in trial.params for trial in trials)]
    judged = varying if many else everywhere
    if not judged:
        return "No parameter varies over all of the completed trials, so nothing can be said of what mattered."
    shares = _evaluate(trials, objective, judged, many)
    if not sum(shares.values()) > 0:
        return "No parameter explains the differences between the completed trials."
    order = sorted(shares, key=lambda name: (-shares[name], name))
    return Importances(
        objective, {name: shares[name] for name in order}, "PED-ANOVA" if many else "fANOVA", len(trials),
        [name for name in view.searched if name not in shares],
    )  # fmt: skip


def _evaluate(trials: list[FrozenTrial], objective: str, judged: list[str], many: bool) -> dict[str, float]:
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        evaluator = PedAnovaImportanceEvaluator() if many else FanovaImportanceEvaluator(seed=0)
    study = optuna.create_study(direction=METRICS[objective].direction)
    # A study of its own: the other one also has refused trials, which Optuna takes for pruned ones.
    study.add_trials(
        [
            create_trial(
                value=metric(trial, objective),
                params={name: trial.params[name] for name in judged if name in trial.params},
                distributions={name: trial.distributions[name] for name in judged if name in trial.params},
            )
            for trial in trials
        ]
    )
    found = get_param_importances(study, evaluator=evaluator, params=None if many else judged)
    return {name: float(share) for name, share in found.items()}
