"""The two stages of a final: the choice among the candidates, then the test of the winner and of those that it is
compared with. Who fails by its own configuration drops out of both, and the verdict is given without it."""

from collections.abc import Sequence

from tinysweep.errors import StudyError
from tinysweep.final.candidates import Entrant
from tinysweep.final.files import write
from tinysweep.final.plan import Plan
from tinysweep.final.progress import Screen, result
from tinysweep.final.results import Candidate, Results, Tested
from tinysweep.final.runs import Failure, Run, complete
from tinysweep.final.workers import Pool


def conduct(plan: Plan) -> None:
    """Candidates, choice, final models, verdict, in this order.

    Raises:
        StudyError: a run failed for a reason outside its configuration; the baseline or every candidate dropped
            out.
        KeyboardInterrupt: passed on, once the runs are stopped.
    """
    with Screen(plan.total) as screen, Pool(plan.workers) as pool:
        screen.say(*plan.heading())
        candidates, dropped = _judged(plan, pool, screen) if plan.selects else ([], {})
        ordered = [candidate.entrant for candidate in candidates] if plan.selects else plan.candidates
        tested = _tested(plan, ordered, dropped, pool, screen)
    results = Results(plan, candidates, tested, list(dropped.values()))
    print(result(results, write(results)))


def _judged(plan: Plan, pool: Pool, screen: Screen) -> tuple[list[Candidate], dict[str, Failure]]:
    """The candidates by their means, the best first, and what made others drop out."""
    runs, dropped = complete(plan.selection_jobs(), pool, screen)
    left = [entrant for entrant in plan.candidates if entrant.name in runs]
    candidates = [Candidate("candidate", entrant, runs[entrant.name]) for entrant in left]
    return sorted(candidates, key=lambda candidate: candidate.rank(plan.judge)), dropped


def _tested(
    plan: Plan, ordered: Sequence[Entrant], dropped: dict[str, Failure], pool: Pool, screen: Screen
) -> list[Tested]:
    """The final models, the winner first. As long as one drops out, which `dropped` then tells, the next in the
    order that was fixed before takes its place."""
    runs: dict[str, list[Run]] = {}
    while True:
        left = [entrant for entrant in ordered if entrant.name not in dropped]
        _require_verdict(plan, left, dropped)
        roles = plan.roles(left)
        missing = {role: entrant for role, entrant in roles.items() if entrant.name not in runs}
        if not missing:
            return [Tested(role, entrant, runs[entrant.name]) for role, entrant in roles.items()]
        more, failed = complete(plan.test_jobs(missing), pool, screen)
        runs |= more
        dropped |= failed


def _require_verdict(plan: Plan, left: Sequence[Entrant], dropped: dict[str, Failure]) -> None:
    """Refuse to go on where nobody is left, or nobody to compare the winner with who was asked for."""
    if plan.baseline and (failure := dropped.get(plan.baseline.name)):
        raise StudyError(
            f"no verdict, because the baseline failed, {failure}; compare with another by baseline=NAME, or with "
            "none by baseline=null"
        )
    if not left:
        raise StudyError(
            f"no verdict, because every candidate failed, the last {list(dropped.values())[-1]}; take more trials "
            "by top=N, or change the recipe, such as optimizer.lr=0.05"
        )
