"""Does a sampler learn from refusals, and how long do they take? Nothing is trained.

    python benchmarks/gate.py

Proposals go through tinysweep's own proposer and study. The space is one in which most uniform draws are over
budget. A trial within it is told log(parameters) at once as its accuracy, which pulls the sampler to the limit.
"""

import argparse
import contextlib
import io
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import hydra
import optuna
import pandas as pd
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from epoch_time import cpu_model
from tinysweep.errors import StudyError
from tinysweep.files import write_whole
from tinysweep.search.plan import Plan
from tinysweep.search.plugin import BudgetSweeper
from tinysweep.search.propose import Proposal, Proposer
from tinysweep.search.study import Status
from tinysweep.search.sweep import Sweep
from tinysweep.settings.compose import register_schema
from tinysweep.settings.searchpath import CONFIG_FOLDER
from tinysweep.training.device import usable_cores

RESULT = Path(__file__).parents[1] / "results" / "gate.csv"
SPACE = [
    "model=choice(plain,residual,separable)",
    "model.depth=choice([1,1,1],[1,2,1],[2,2],[2,2,2],[1,3,2])",
    "model.width=range(4,97)",
    "model.growth=interval(1,2.5)",
    "model.kernel=choice(3,5)",
    "model.hidden=choice(0,32,128)",
]
NOTHING_FITS = {
    "width searched": SPACE,
    "width=auto": [part for part in SPACE if not part.startswith("model.width")],
}


def make_plan(folder: Path, *overrides: str) -> Plan:
    """The plan that `tinysweep -m` makes of these overrides."""
    register_schema()
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        running = GlobalHydra.instance().hydra
        assert running is not None
        words = [*overrides, f"hydra.sweep.dir={folder}", "hydra.sweeper.study_name=benchmark"]
        master = running.compose_config("config", words, RunMode.MULTIRUN)
        context = HydraContext(config_loader=running.config_loader, callbacks=Callbacks())
        plugins = Plugins.instance()
        sweeper = plugins.instantiate_sweeper(hydra_context=context, task_function=_no_task, config=master)
        assert isinstance(sweeper, BudgetSweeper)
        arguments: Any = OmegaConf.to_container(master.hydra.overrides.task)
        return Plan(sweeper.wanted, master, context, _no_task, arguments)


def _no_task(_: object) -> None:
    raise AssertionError("nothing is trained here")


def proposals(sampler: str, seed: int, number: int) -> list[str]:
    """What became of `number` proposals, in their order: "proposed" for those that might be trained."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"hydra/sweeper/sampler={sampler}", f"hydra.sweeper.sampler.seed={seed}"]
        plan = make_plan(Path(folder), *SPACE, *words)
        study = Sweep(plan)._open()
        proposer = Proposer(study, plan.space, plan.composer, None)
        found = []
        for _ in range(number):
            answer = proposer.propose()
            if isinstance(answer, Proposal):
                params = study.trial(answer.number).user_attrs["params"]
                study.close(answer.number, Status.complete, None, [math.log(params)])
            found.append("proposed" if isinstance(answer, Proposal) else answer.became.value)
    return found


def learning(samplers: list[str], seeds: int, number: int) -> pd.DataFrame:
    """A row a sampler and seed, with the share of proposals over budget in each third and of duplicates."""
    rows = []
    for sampler in samplers:
        for seed in range(seeds):
            began = time.perf_counter()
            found = proposals(sampler, seed, number)
            row: dict[str, Any] = {"sampler": sampler, "seed": seed, "proposals": number}
            third = number // 3
            parts = {"first": found[:third], "middle": found[third:-third], "last": found[-third:], "all": found}
            for name, part in parts.items():
                row[f"over_budget_{name}"] = part.count(Status.over_budget) / len(part)
            others = sum(word not in ("proposed", Status.over_budget) for word in found)
            row |= {"other_refusals": others / number, "seconds": time.perf_counter() - began}
            rows.append(row)
            print(f"{sampler}, seed {seed}: {row['over_budget_all']:.1%} over budget, {row['seconds']:.0f} s")
    return pd.DataFrame(rows)


def refusing(sampler: str, space: list[str], number: int) -> dict[str, Any]:
    """What a study costs in which nothing fits: a whole sweep, which `number` refusals end."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"hydra/sweeper/sampler={sampler}", f"hydra.sweeper.max_rejections={number}", "budget.params=100"]
        plan = make_plan(Path(folder), *space, *words)
        before = len(plan.composer.composed)  # the shared base, composed to check the plan
        began, cpu_began = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(StudyError):
            Sweep(plan).run()
            raise AssertionError("something fits")
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        made = len(plan.composer.composed) - before
    per = {"ms_a_refusal": 1000 * seconds / number, "cpu_ms_a_refusal": 1000 * cpu / number}
    return {"refusals": number, "seconds": seconds, **per, "compositions": made}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=600, help="proposals a seed (default: 600)")
    parser.add_argument("--seeds", type=int, default=5, help="sampler seeds, from 0 (default: 5)")
    parser.add_argument("--refusals", type=int, default=1000, help="refusals to time (default: 1000)")
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random"], help="hydra/sweeper/sampler")
    parser.add_argument("--out", type=Path, default=RESULT, help="the CSV to write")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    frame = learning(options.samplers, options.seeds, options.proposals)
    uniform = frame.loc[frame["sampler"] == "random", "over_budget_all"]
    if len(uniform):
        print(f"\nuniform draws over budget: {uniform.mean():.1%} of {len(uniform) * options.proposals:,}")
    shares = [name for name in frame.columns if name.startswith(("over_budget", "other"))]
    print(f"share of proposals refused, mean over {options.seeds} seeds:")
    print((100 * frame.groupby("sampler", sort=False)[shares].mean()).round(1).to_string())
    rows = []
    for sampler in options.samplers:
        for name, space in NOTHING_FITS.items():
            rows.append({"sampler": sampler, "space": name} | refusing(sampler, space, options.refusals))
    times = pd.DataFrame(rows)
    print(f"\na space in which nothing fits:\n{times.round(2).to_string(index=False)}")
    both = pd.concat([frame.assign(part="learning"), times.assign(part="refusing")], ignore_index=True)
    both["cores"], both["cpu"], both["optuna"] = usable_cores(), cpu_model(), optuna.__version__
    options.out.parent.mkdir(exist_ok=True)
    first = [both.pop("part")]
    write_whole(options.out, pd.concat([*first, both], axis=1).round(4).to_csv(index=False))


if __name__ == "__main__":
    main()
