"""Everything that a sweep needs, read and checked before its study is touched."""

import itertools
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler

from tinysweep.data.load import check, describe, pin, repeated_note
from tinysweep.errors import ConfigError, StudyError, first_line, require_package
from tinysweep.metrics import METRICS
from tinysweep.search.compose_trial import (
    DIGEST,
    NOTHING_HELD_OUT,
    Composer,
    digest,
    identity,
    interpolates,
)
from tinysweep.search.propose import Proposal
from tinysweep.search.space import (
    Points,
    Space,
    Value,
    extremes,
    grid,
    in_words,
    is_setting,
    read_space,
    read_start_points,
    require_rule,
    typed_value,
)
from tinysweep.search.storage.location import locate
from tinysweep.search.workers.choose import choose_pool
from tinysweep.search.workers.job import SweepContext
from tinysweep.settings.command_line import as_value
from tinysweep.settings.explain import require_schema
from tinysweep.settings.schema import DataConfig, Device, TrackerConfig
from tinysweep.settings.stored import flatten, rename_old_settings
from tinysweep.settings.sweeper import SweeperConfig
from tinysweep.targets import Target
from tinysweep.tracking.tracker import places, read_tracker
from tinysweep.training.score import check_metrics

DEFAULT_TRIALS = 20
TRIAL_SUBDIR = "trials/${trial}"  # as study.trial_path has it
MOST_CORNERS = 1000  # combinations of data settings that are checked before a sweep
SMALL_SPACE = 10_000  # points; in a finite space this small it is noticed at once when no point is left
PRUNABLE = "a single validation metric, such as validation_accuracy"
NEEDS = {"CmaEsSampler": "cmaes"}  # what samplers import when first asked
WHITELIST = ("optuna.samplers.*", "optuna.pruners.*", "hydra_plugins.hydra_optuna_sweeper.*")
RESOLVER = re.compile(r"\$\{[\w.]+:[^${}]*\}")  # with arguments that are plain text


class Plan:
    """One call of the sweeper, as the command line and the study's file ask for it.

    Raises:
        ConfigError: a wrong setting, space or launcher.
        DataError: the data can't be had, or is damaged.
    """

    def __init__(
        self,
        config: SweeperConfig,
        master: DictConfig,
        context: HydraContext,
        task: TaskFunction,
        arguments: list[str],
    ) -> None:
        self.config, self.objectives = config, config.objectives
        if config.storage is not None:
            locate(config.storage, Path())  # refused before data is fetched for it
        self.sampler = master.hydra.sweeper.sampler
        self.is_grid = is_grid(self.sampler)
        self.n_trials = config.n_trials or (None if self.is_grid else DEFAULT_TRIALS)
        self.space = read_space(config.params, arguments, _written_params(master))
        if not self.space.searched:
            raise ConfigError(
                "there is nothing to search: give a setting several values, such as model.width=4,8, or a study, "
                "such as sweeps=quick; a single run needs no -m"
            )
        self.pruner = build_pruner(master.hydra.sweeper.pruner)
        self._compose(context.config_loader, master)
        self.points = self._points()
        self.start = read_start_points(config.start_with or [], self.space)
        if self.is_grid and self.start:
            raise ConfigError(
                "hydra.sweeper.start_with has no meaning for a grid, which tries every point; leave it out"
            )
        data = self._data()
        for each in data:
            check_metrics(self.metrics, describe(each).classes)
        digests = [pin(each, self.composer.digests).digest for each in data]
        if known := dict.fromkeys(digest for digest in digests if digest is not None):
            self.definition[DIGEST] = ", ".join(known)
        self.name = config.study_name or default_name(self.space, self.definition)
        self.folder = self._pin(master)
        # Once, or every trial would fail for what can be known now. What one has trained on can be read.
        trained = any((self.folder / "trials").glob("*/model.pt"))
        check(data, images=not trained or len(data) > 1)
        for note in dict.fromkeys(filter(None, map(repeated_note, data))):
            print(note, flush=True)
        self.hydra, self.task, self.master = context, task, master

    def begin(self, mark: Path) -> None:
        """Get the workers ready; `mark` is a file in the study's folder by which they know it."""
        self.pool.begin(SweepContext(self.hydra, self.task, self.master, self.folder, mark))

    def _compose(self, loader: ConfigLoader, master: DictConfig) -> None:
        """Compose what all trials share, and each choice of a searched group, before anything is drawn from them;
        see to the study's definition and to what ends the overrides of every job."""
        with Composer(loader, master, self.space.fixed).base({}).as_job() as shared:
            require_schema(shared)
            if own := [name for name in self.space.searched if name.startswith("metrics.")]:
                raise ConfigError(f"{own[0]}: a sweep judges all trials by the same metric; give it one value")
            self.config.require_metrics(shared.metrics)
            if self.config.rungs:
                pruner = master.hydra.sweeper.pruner
                require_rungs(self.config.rungs, self.objectives, pruner, shared, self.space)
            require_comparable(self.objectives, shared, self.space, not isinstance(self.pruner, NopPruner))
            self._require_shared_rules(shared)
            self.tracker: TrackerConfig = read_tracker(shared)
            self.definition = define(self.space, self.objectives, shared, self.config.rungs)
            if target := shared.model.target:
                self.definition["model.digest"] = Target("model.target", target).digest()
            for name, target in shared.metrics.items():
                key = f"metrics.{name}"
                self.definition[f"{key}.source"] = Target(key, target).digest()
            self.metrics = dict(shared.metrics)
            decided = "trainer.threads" in self.space.searched or shared.trainer.threads
            device = Device.auto if "trainer.device" in self.space.searched else Device(shared.trainer.device)
            self.pool = choose_pool(master.hydra.launcher, device, self.config.batch_size)
        closing = ["trainer.test=false"]  # the test set stays unread whatever the configuration says
        if self.pool.threads and not decided:
            closing.insert(0, f"trainer.threads={self.pool.threads}")
        self.composer = Composer(loader, master, self.space.fixed, closing)
        self.composer.compose(*self.config.retrain)
        for name, choice in self._choices():
            with self.composer.base({name: choice}).as_job() as composed:
                require_schema(composed)

    def _require_shared_rules(self, shared: DictConfig) -> None:
        """Refuse a value that breaks its setting's rule and that all trials would have."""
        values = cast(dict[str, Any], OmegaConf.to_container(shared, resolve=False, enum_to_str=True))
        for name, value in flatten(values).items():
            if is_setting(name) and name not in self.space.searched and not interpolates(value):
                require_rule(name, value)

    def _choices(self) -> list[tuple[str, Value]]:
        """What is searched that changes the composition: each choice of a group, or of an addition."""
        searched = self.space.searched.items()
        return [(name, choice) for name, kind in searched if not is_setting(name) for choice in extremes(kind)]

    def _points(self) -> Points | None:
        """Every point of the grid, or of a small finite space, without the parameters that play no role at it;
        None where there is no end of points."""
        try:
            points = list(grid(self.space) if self.is_grid else grid(self.space, SMALL_SPACE))
        except ConfigError:
            if self.is_grid:
                raise
            return None
        ordered = ({name: point[name] for name in self.space.ordered} for point in points)
        return Points([self.composer.relevant(point) for point in ordered])

    @property
    def total(self) -> int | None:
        """How many trials the study will have, if nothing is refused."""
        return self.n_trials or (self.points.total if self.points else None)

    def _data(self) -> list[DataConfig]:
        """The data of all trials, each once: of every combination of the choices and ends of ranges that decide
        it."""

        def data(values: dict[str, Value]) -> Any:
            return OmegaConf.to_container(self.composer.base(values).settings.data)

        changing = {name for name, choice in self._choices() if data({name: choice}) != data({})}
        deciding = {name: extremes(distribution) for name, distribution in self.space.ordered.items()
                    if name.partition(".")[0] == "data" or name in changing}  # fmt: skip
        found: dict[str, DataConfig] = {}
        for corner in itertools.islice(itertools.product(*deciding.values()), MOST_CORNERS):
            try:
                chosen = self.composer.relevant(dict(zip(deciding, corner, strict=True)))
                with self.composer.settings(chosen) as composed:
                    each = cast(DataConfig, OmegaConf.to_object(composed.data))
            except ConfigError:
                if not deciding:
                    raise
                continue  # for this the gate refuses a trial, and the study goes on
            found[repr(each)] = each
        return list(found.values())

    def _pin(self, master: DictConfig) -> Path:
        """Fix for the launcher and, as overrides, for every job what they would find otherwise by themselves: the
        study's name and its places, which a job may look for from another folder. The study's folder."""
        subdir = cast(dict[str, Any], OmegaConf.to_container(master.hydra.sweep))["subdir"]
        if subdir != TRIAL_SUBDIR:
            raise ConfigError(
                f"hydra.sweep.subdir={subdir} can't be set: a sweep keeps its trials in trials/NUMBER below its "
                "folder, which hydra.sweep.dir sets; leave it out"
            )
        with read_write(master.hydra), open_dict(master.hydra):
            master.hydra.sweeper.study_name = self.name
            folder = Path(master.hydra.sweep.dir).expanduser().absolute()
            master.hydra.sweep.dir = str(folder)
            pinned = {"hydra.sweeper.study_name": self.name, "hydra.sweep.dir": str(folder)}
            if self.config.storage is not None:
                self.config.storage = locate(self.config.storage, folder).from_anywhere
                master.hydra.sweeper.storage = pinned["hydra.sweeper.storage"] = self.config.storage
            master.hydra.overrides.hydra.extend([f"{name}={as_value(text)}" for name, text in pinned.items()])
        return folder

    def job(self, proposal: Proposal) -> list[str]:
        """The overrides of a trial's job, the same that were composed and costed, where its data lies and it is
        logged, and which images of the user's own it is to find."""
        root, digest = proposal.config.data.root, proposal.config.data.digest
        relative = not root.startswith("~") and not Path(root).is_absolute()
        data = [f"data.root={as_value(str(Path(root).absolute()))}"] if relative else []
        data += [] if digest is None else [f"{DIGEST}={digest}"]
        data += [f"{key}={as_value(place)}" for key, place in places(self.tracker).items()]
        closing = [*data, *self.composer.closing, f"trial={proposal.number}"]
        return [*self.space.fixed, *proposal.overrides, *closing]


def _written_params(master: DictConfig) -> dict[str, Any]:
    """hydra.sweeper.params as a person wrote it, with its interpolations."""
    written = cast(dict[str, Any], OmegaConf.to_container(master.hydra.sweeper, resolve=False))
    params = written.get("params")
    return params if isinstance(params, dict) else {}


# ---- what Optuna draws and prunes by


def is_grid(node: DictConfig) -> bool:
    """Whether hydra/sweeper/sampler is the grid, whose points are given, not drawn."""
    return _class_name(node) == "GridSampler"


def build_sampler(node: DictConfig, joined: int) -> BaseSampler:
    """The Optuna sampler of hydra/sweeper/sampler.

    `joined` is how many sweepers were at the study before: each draws from a seed of its own, or a study that
    goes on would draw once more what it began with. A quasi-random sequence alone goes on by itself, and needs
    its seed.
    """
    name = _class_name(node)
    if name in NEEDS:
        require_package(name, NEEDS[name], "samplers")
    seeded = node.copy()
    OmegaConf.set_readonly(seeded, False)  # as Hydra's own configuration is
    if joined and node.get("seed") is not None and name != "QMCSampler":
        seeded.seed = int(np.random.SeedSequence([node.seed, joined]).generate_state(1)[0])
    sampler = _instantiate("sampler", seeded)
    assert isinstance(sampler, BaseSampler)
    return sampler


def build_pruner(node: DictConfig) -> BasePruner:
    """The Optuna pruner of hydra/sweeper/pruner."""
    pruner = _instantiate("pruner", node)
    assert isinstance(pruner, BasePruner)
    return pruner


def _instantiate(what: str, node: DictConfig) -> object:
    try:
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            return instantiate(node, _execution_whitelist_=WHITELIST)
    except Exception as error:  # whatever its own constructor raises
        raise ConfigError(f"hydra.sweeper.{what} ({_class_name(node)}): {first_line(error)}") from error


def _class_name(node: DictConfig) -> str:
    return str(node.get("_target_")).rpartition(".")[2]


# ---- what makes a study one study


def define(space: Space, objectives: list[str], base: DictConfig, rungs: Sequence[int] = ()) -> dict[str, str]:
    """The definition of a study as text by key, for comparison; `base` is the composition that its trials
    share."""
    container = OmegaConf.to_container(base, enum_to_str=True)
    assert isinstance(container, dict)
    settings = identity({str(key): value for key, value in container.items()})
    return {
        "objective": ", ".join(objectives),
        **({"rungs": ", ".join(map(str, rungs))} if rungs else {}),  # of which earlier versions knew nothing
        **{f"params.{name}": in_words(distribution) for name, distribution in sorted(space.searched.items())},
        **{name: _words(base, name, value) for name, value in settings.items() if name not in space.searched},
    }


def _words(base: DictConfig, name: str, value: Any) -> str:
    """A value, and what it comes to where it is left to a resolver whose arguments no trial changes, as in
    ${oc.env:WIDTH}: with another environment the study would be another one."""
    text = str(value)
    without = RESOLVER.sub("", text)
    return text if without == text or "${" in without else f"{text} = {OmegaConf.select(base, name)}"


def default_name(space: Space, definition: dict[str, str]) -> str:
    """A name that the same command makes again, so that it goes on with its study, and another command doesn't."""
    parts = [name.lstrip("+") for name in list(space.searched)[:3]]
    return "-".join([*parts, digest(definition)[:8]])


def require_same(study: optuna.Study, definition: dict[str, str]) -> None:
    """Note the definition in a new study; hold one that exists to its own.

    Raises:
        StudyError: it has another one; the message shows the differences.
    """
    noted: dict[str, Any] | None = study.user_attrs.get("definition")
    if noted is None:
        if study.get_trials(deepcopy=False):
            raise StudyError(f"study {study.study_name} was not made by tinysweep; choose another study_name")
        study.set_user_attr("definition", definition)
        return
    known = rename_old_settings(noted)
    keys = [key for key in {**known, **definition} if known.get(key) != definition.get(key)]
    if keys == [DIGEST] and DIGEST not in known:
        raise StudyError(
            f"study {study.study_name} was begun by an earlier version, which didn't note what data.root held, so "
            "new trials can't be compared with its own; begin another: hydra.sweeper.study_name=NAME"
        )
    if keys:
        changes = [f"  {key}: {known.get(key, '(none)')} -> {definition.get(key, '(none)')}" for key in keys]
        said = f"study {study.study_name} was begun with other settings, so its trials can't be compared:"
        advice = "undo the change, or begin another study: hydra.sweeper.study_name=NAME"
        raise StudyError("\n".join([said, *changes, advice]))


def require_comparable(objectives: list[str], base: DictConfig, space: Space, prunes: bool) -> None:
    """Refuse what no sweep can do: to judge by no images, to read the test set, to prune by several objectives."""
    held_out = space.searched.get("data.validation")
    if 0 in (extremes(held_out) if held_out else [base.data.validation]):
        raise ConfigError(NOTHING_HELD_OUT)
    if "trainer.test" in space.searched or any(map(_asks_for_test, space.fixed)):
        raise ConfigError(
            "trainer.test: a sweep never reads the test set; leave it out, and test the winner alone"
        )
    if prunes and not _is_prunable(objectives):
        raise ConfigError(
            f"hydra.sweeper.objective={','.join(objectives)} can't be pruned, only {PRUNABLE}, which every epoch "
            "shows; add hydra/sweeper/pruner=none"
        )


def require_rungs(
    rungs: list[int], objectives: list[str], pruner: DictConfig, base: DictConfig, space: Space
) -> None:
    """Refuse rungs that would only cost time, and those that the pruner doesn't take for its own."""
    said, name = f"hydra.sweeper.rungs=[{','.join(map(str, rungs))}]", _class_name(pruner)
    if not _is_prunable(objectives):
        aims = f"hydra.sweeper.objective={','.join(objectives)}"
        raise ConfigError(f"{said} can't be pruned by {aims}, only by {PRUNABLE}; leave the rungs out")
    if name == "NopPruner":
        advice = "add hydra/sweeper/pruner=successive_halving, or leave the rungs out"
        raise ConfigError(f"{said} needs a pruner, or every trial goes on after every rung; {advice}")
    searched = space.searched.get("trainer.epochs")
    epochs = [
        each for each in (extremes(searched) if searched else [base.trainer.epochs]) if isinstance(each, int)
    ]
    if epochs and rungs[-1] >= max(epochs):
        raise ConfigError(f"{said} must lie below trainer.epochs={max(epochs)}, the last training of a trial")
    least, factor = pruner.get("min_resource"), pruner.get("reduction_factor")
    if isinstance(least, int) and isinstance(factor, int):
        # Of two rungs between two of these it would judge the first; at a rung past two of them it judges twice.
        looks = [least * factor**number for number in range(len(rungs) + 1)]
        if any(not low <= rung < high for rung, (low, high) in zip(rungs, itertools.pairwise(looks), strict=True)):
            raise ConfigError(
                f"{said}: {name} judges at {', '.join(map(str, looks))} … epochs and needs one rung from each of "
                "them to the next; set hydra.sweeper.pruner.min_resource and reduction_factor, or other rungs"
            )


def _is_prunable(objectives: list[str]) -> bool:
    return len(objectives) == 1 and METRICS[objectives[0]].each_epoch


def _asks_for_test(text: str) -> bool:
    name, _, value = text.partition("=")
    asked = name.lstrip("+") == "trainer.test" and "${" not in value
    return asked and typed_value("trainer.test", value) is True
