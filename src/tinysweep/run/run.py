"""One run, from a checked configuration, or from where it was cut short, to the record in its folder."""

import dataclasses
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tinysweep.console import Progress
from tinysweep.data.catalogue import is_own
from tinysweep.data.load import Data, describe, load, load_test, pin, repeated_note
from tinysweep.errors import AbandonedError, ConfigError, DataError, PrunedError, first_line, is_outage, message_of
from tinysweep.metrics import ALL_METRICS, FURTHER, METRICS
from tinysweep.network import budget
from tinysweep.run.checkpoint import Checkpoint, read_state, save
from tinysweep.run.record import Record, RunFolder, State
from tinysweep.run.tracked import beginning, ending, point
from tinysweep.settings.command_line import as_value, line
from tinysweep.settings.schema import Config, DataConfig
from tinysweep.tracking.tracker import Tracking, require
from tinysweep.training.device import Hardware, hardware
from tinysweep.training.loop import Epoch, Result, fit, require_finite
from tinysweep.training.schedule import shorten
from tinysweep.training.score import check_metrics, evaluate

SAME_BITS = ("tinysweep", "torch")  # packages that must be of the same version for a run to go on

OnEpoch = Callable[[Epoch], None]


def run(
    config: Config,
    wanted: Path,
    overrides: list[str],
    report: OnEpoch | None = None,
    rungs: Sequence[int] = (),
    done: Sequence[Epoch] = (),
    *,
    keep_validation: bool = False,
) -> Record:
    """Gate, load, train, test once, and leave everything in the folder `wanted` (or the next free name).

    Nothing is written before the model has passed the budget and the data has been verified. A trial of a sweep
    gives `report`, which is called after each epoch and may stop the run; it takes the place of all that is
    printed and drawn for a person, and of the checkpoint that `resume` goes on from. It may give `rungs` as well,
    the epochs of trainings that come one after another, each a whole one, the last being that of `config`; `done`
    are the epochs of those that need no training again. `keep_validation` leaves the loss of each validation
    image, by which a final compares its candidates.

    Raises:
        TinysweepError: bad setting, over budget, bad data, or divergence; the last leaves a record.
        KeyboardInterrupt: passed on, once the record says interrupted.
    """
    if config.resume is not None:
        raise ConfigError(f"resume={config.resume} goes on with a single run, by itself: tinysweep resume=FOLDER")
    if not report:  # that of a sweep or a final was looked at before, and one that fails stops no trial
        require(config.tracker)
    shape = describe(config.data)
    config = budget.resolve(config, shape)
    cost = budget.gate(config, shape)
    check_metrics(config.metrics, shape.classes)
    machine = hardware(config.trainer)
    if not report:
        print(_heading(config, cost, machine), flush=True)
    data = _load_once(config.data) if report else load(config.data)
    if not report and (repeated := repeated_note(config.data)):
        print(repeated, flush=True)
    if not report:  # a sweep and a final have said which images they mean
        config = dataclasses.replace(config, data=pin(config.data))
    record, folder = Record.begin(config, cost, machine, overrides), RunFolder.claim(wanted)
    with folder.hold():
        checkpoint = None if report else Checkpoint(folder, config, shape)
        live = _LiveRun(folder, record, machine, data, report, checkpoint, rungs, list(done), keep_validation)
        return live.complete()


def go_on(path: Path) -> Record:
    """Go on with a run that was cut short, in its folder, to what it would have found if it hadn't been.

    Raises:
        TinysweepError: as `run`; or there is no such run, it is complete or still going on, or what decides its
            bits has changed. A run that is refused is left as it is.
        KeyboardInterrupt: passed on, once the record says interrupted.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise ConfigError(
            f"resume={path}: no such folder; give that of a run, such as outputs/runs/DATE/TIME-NAME"
        )
    if not folder.record.is_file():
        raise ConfigError(f"resume={path} is not the folder of a run: it holds no record.json")
    with folder.hold():
        begun = _read_unfinished(folder)
        require(begun.config.tracker)
        config, shape = begun.config, describe(begun.config.data)
        check_metrics(config.metrics, shape.classes)
        cost, machine = budget.gate(config, shape), _same_hardware(folder, begun)
        if begun.epochs and not folder.model.exists():
            raise DataError(
                f"{path} has no model.pt to go on from; a run of a final keeps none before its end, nor did one "
                "of an earlier version: begin it anew"
            )
        checkpoint = Checkpoint(folder, config, shape)
        if folder.model.exists():  # else no epoch had ended
            checkpoint.state = read_state(folder, config)
        record = dataclasses.replace(
            Record.begin(config, cost, machine, begun.overrides),
            git_commit=begun.git_commit,
            started=begun.started,
            tracked=begun.tracked,
        )
        print(_heading(config, cost, machine), flush=True)
        data = load(config.data)
        print(f"goes on after epoch {len(checkpoint.history)} of {config.trainer.epochs}", flush=True)
        return _LiveRun(folder, record, machine, data, checkpoint=checkpoint).complete()


def resume_command(folder: Path) -> str:
    """The words that go on with the run in a folder, as a shell takes them."""
    return line(["tinysweep", f"resume={as_value(str(folder))}"])


def _read_unfinished(folder: RunFolder) -> Record:
    """The record of a run that this machine's packages can go on with."""
    try:
        begun = Record.read(folder.record)
    except Exception as error:
        raise DataError(f"{folder.record} is damaged ({type(error).__name__}: {first_line(error)})") from error
    if begun.config.trial is not None:
        raise ConfigError(f"{folder.path} is a trial of a study, with which the command of its sweep goes on")
    if begun.state == State.complete:
        raise ConfigError(f"{folder.path}: this run is complete; a longer one is another run")
    for package in SAME_BITS:
        if begun.versions.get(package) != (here := importlib.metadata.version(package)):
            raise ConfigError(
                f"{folder.path} was begun with {package} {begun.versions.get(package)}, and this is {here}, which "
                "may lead to other bits; install that version, or begin the run anew"
            )
    return begun


def _same_hardware(folder: RunFolder, begun: Record) -> Hardware:
    """This machine, with as many threads as the run was begun with, as they decide how sums are rounded."""
    here = hardware(begun.config.trainer)
    if (here.device.type, here.precision) != (begun.device, begun.precision):
        raise ConfigError(
            f"{folder.path} was begun on {begun.device} in {begun.precision}, and this is {here.device.type} in "
            f"{here.precision}, which leads to other bits; go on where it was begun, or begin it anew"
        )
    return dataclasses.replace(here, threads=begun.threads)


@dataclass
class _LiveRun:
    """A run that has a folder; a trial's has a report, a single one's a checkpoint and a person who watches."""

    folder: RunFolder
    record: Record
    machine: Hardware
    data: Data
    report: OnEpoch | None = None
    checkpoint: Checkpoint | None = None
    rungs: Sequence[int] = ()
    history: list[Epoch] = field(default_factory=list)
    keep_validation: bool = False

    def __post_init__(self) -> None:
        self.config = self.record.config
        self.tracking = Tracking(self.config.tracker)
        if self.checkpoint:
            self.history = self.checkpoint.history

    def complete(self) -> Record:
        """Train, from where the checkpoint is if there is one, and test; the record is closed in any case."""
        self.folder.write_config(self.config)
        self.folder.write(self.record, self.history)
        try:
            self._begin_tracking()
            result = self._train()
            self._test(result)
            if self.checkpoint:
                from tinysweep.run import curves  # noqa: PLC0415 training must not wait for matplotlib to be imported

                plain = curves.first_plain_epoch(self.config)
                curves.draw(self.history, self.config.name, self.folder.curves, plain)
        except KeyboardInterrupt:
            self._close(State.interrupted)
            if self.checkpoint:
                print(f"what was done until then: {self.folder.path}", file=sys.stderr)
                print(f"to go on: {resume_command(self.folder.path)}", file=sys.stderr)
            raise
        except (PrunedError, AbandonedError) as stop:
            self._close(State.pruned if isinstance(stop, PrunedError) else State.interrupted, str(stop))
            return self.record
        except Exception as error:
            # A trial that met an outage is handed out again; of itself it hasn't failed.
            ended = State.interrupted if self.config.trial is not None and is_outage(error) else State.failed
            self._close(ended, message_of(error) or f"{type(error).__name__}: {error}", error)
            raise
        self.record.close(State.complete)
        self.folder.write(self.record, self.history)
        if self.checkpoint:
            self._save(result)  # only now, so that a run that is killed before it is complete can go on
        self._end_tracking()
        if self.checkpoint:
            print(_summary(self.folder, self.record), flush=True)
        return self.record

    def _begin_tracking(self) -> None:
        known, done = self.record.tracked, self.history
        self.record.tracked = self.tracking.begin(beginning(self.record, self.folder.path, len(done)), known)
        if self.record.tracked != known:
            self.folder.write(self.record, done)
        for step, epoch in enumerate(done if known is None else [], 1):  # the rungs of an earlier trial
            self.tracking.log(step, point(epoch))

    def _end_tracking(self) -> None:
        self.tracking.end(ending(self.record, self.folder, len(self.history)))

    def _train(self) -> Result:
        # As many threads as were decided on, whatever number of cores this machine has.
        trainer = dataclasses.replace(self.config.trainer, threads=self.machine.threads)
        config, checkpoint = dataclasses.replace(self.config, trainer=trainer), self.checkpoint
        if self.rungs:
            return self._train_rungs(config)
        if not checkpoint:
            result = fit(config, self.data, self._take, progress=False)
            self._save(result)
            return result
        with Progress(trainer.epochs, "epochs", len(self.history)) as progress:

            def on_epoch(epoch: Epoch) -> None:
                self._take(epoch)
                progress.print(_epoch_line(epoch, trainer.epochs))

            result = fit(config, self.data, on_epoch, checkpoint.state, checkpoint.keep, progress)
            checkpoint.write()
        return result

    def _train_rungs(self, config: Config) -> Result:
        """Train the rungs that aren't done, one after another; each is reported once its model is there."""
        done = {epoch.epochs for epoch in self.history}
        for epochs in (rung for rung in self.rungs if rung not in done):
            result = fit(shorten(config, epochs), self.data, partial(self._take, rung=epochs), progress=False)
            self._save(result)
            if self.report:
                self.report(self.history[-1])
        return result

    def _take(self, epoch: Epoch, rung: int | None = None) -> None:
        epoch = dataclasses.replace(epoch, epochs=rung)
        self.history.append(epoch)
        self.folder.write(self.record, self.history)  # so that a run killed later has left all its epochs
        self.tracking.log(len(self.history), point(epoch))  # no step twice, though each rung has an epoch 1
        if self.report and epoch.epoch != rung:
            self.report(epoch)

    def _test(self, result: Result) -> None:
        if self.keep_validation and (held_out := self.data.validation):
            self.folder.write_validation(held_out.labels, evaluate(result.model, held_out, self.machine))
        if self.config.trainer.test:
            images = load_test(self.config.data)
            score = evaluate(result.model, images, self.machine, self.config.metrics)
            require_finite(score.loss, "the test loss", self.config)
            self.record.take_test(score)
            self.folder.write_predictions(images.labels, score.predicted)

    def _save(self, result: Result) -> None:
        save(self.folder.model, result.model.state_dict(), self.config, self.data.shape)

    def _close(self, state: State, reason: str | None = None, error: Exception | None = None) -> None:
        """Close the record of a run cut short with those epochs from which it can go on."""
        if self.checkpoint:
            self.history = self.checkpoint.history
        done, of = (self.history[-1].epoch, self.history[-1].epochs) if self.history else (0, None)
        interrupted = f"interrupted after epoch {done} of {of or self.config.trainer.epochs}"
        self.record.close(state, reason or interrupted, error)
        self.folder.write(self.record, self.history)
        if self.checkpoint:
            self.checkpoint.write()
        self._end_tracking()


_last_data: dict[str, Data] = {}


def _load_once(config: DataConfig) -> Data:
    """The data of the last trial that this process ran, if it was the same; reading and verifying takes a
    while."""
    key = repr(config)
    if key not in _last_data:
        _last_data.clear()
        _last_data[key] = load(config)
    return _last_data[key]


def _heading(config: Config, cost: budget.Cost, machine: Hardware) -> str:
    return (
        f"{config.name}: {config.model.kind} model of width {config.model.width}, {cost.params:,} trainable "
        f"parameters (fewer than {config.budget.params:,}), {cost.macs:,} MACs; {machine.describe()}"
    )


def _epoch_line(epoch: Epoch, epochs: int) -> str:
    validation = ""
    if epoch.validation_accuracy is not None:
        loss = METRICS["validation_loss"].text(epoch.validation_loss)
        accuracy = METRICS["validation_accuracy"].text(epoch.validation_accuracy)
        validation = f"  validation loss {loss}  accuracy {accuracy}"
        own = ((METRICS[name], value) for name, value in epoch.further.items() if name not in METRICS)
        validation += "".join(f"  {metric.header} {metric.text(value)}" for metric, value in own)
    number = f"{epoch.epoch:>{len(str(epochs))}}/{epochs}"
    return f"epoch {number}  loss {epoch.train_loss:.4f}{validation}  {epoch.seconds:.1f} s"


def _summary(folder: RunFolder, record: Record) -> str:
    rows = [("parameters", f"{record.cost['params']:,} (budget: fewer than {record.config.budget.params:,})")]
    # Images of one's own are seldom balanced as those of the known data sets are.
    further = [*(FURTHER if is_own(record.config.data.name) else ()), *record.config.metrics]
    for part, note in (("validation", ""), ("test", " (read once, after the last epoch)")):
        for name in (f"{part}_accuracy", *(f"{part}_{each}" for each in further)):
            if (value := record.metrics.get(name)) is not None:
                rows.append((ALL_METRICS[name].label, ALL_METRICS[name].text(value) + note))
    rows += [("training", f"{record.train_seconds:.1f} s"), ("record", str(folder.path))]
    room = max(20, *(len(name) for name, _ in rows))
    return "\n".join(["", *(f"{name:<{room}} {value}" for name, value in rows)])
