"""One run, from a checked configuration to the record in its folder."""

import dataclasses
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from tinysweep.console import Progress
from tinysweep.data.load import Data, describe, load, load_test, pin
from tinysweep.errors import AbandonedError, ConfigError, PrunedError, message_of
from tinysweep.network import budget
from tinysweep.run import resume, saved
from tinysweep.run.checkpoint import Checkpoint
from tinysweep.run.record import Record, RunFolder, State
from tinysweep.settings.schema import Config, DataConfig
from tinysweep.training.device import Hardware, hardware
from tinysweep.training.loop import Epoch, evaluate, fit, require_finite


def run(
    config: Config, wanted: Path, overrides: list[str], report: Callable[[Epoch], None] | None = None
) -> Record:
    """Gate, load, train, test once, and leave everything in the folder `wanted` (or the next free name).

    Nothing is written before the model has passed the budget and the data has been verified. A trial of a sweep
    gives `report`, which is called after each epoch and may stop the run; it takes the place of all that is
    printed and drawn for a person, and of the checkpoint that `resume` goes on from.

    Raises:
        TinysweepError: bad setting, over budget, bad data, or divergence; the last leaves a record.
        KeyboardInterrupt: passed on, once the record says interrupted.
    """
    if config.resume is not None:
        raise ConfigError(f"resume={config.resume} goes on with a single run, by itself: tinysweep resume=FOLDER")
    shape = describe(config.data)
    config = budget.resolve(config, shape)
    cost = budget.gate(config, shape)
    machine = hardware(config.trainer)
    if not report:
        print(_heading(config, cost, machine.describe()), flush=True)
    data = _remembered(config.data) if report else load(config.data)
    if not report:  # a sweep and a final have said which images they mean
        config = dataclasses.replace(config, data=pin(config.data))
    record = Record(RunFolder.claim(wanted), config, cost, machine, overrides)
    with record.folder.held():
        return _carry_out(record, data, report, None if report else Checkpoint(record.folder, config, shape))


def go_on(path: Path) -> Record:
    """Go on with a run that was cut short, in its folder, to what it would have found if it hadn't been.

    Raises:
        TinysweepError: as `run`; or there is no such run, it is complete or still going on, or what decides its
            bits has changed. A run that is refused is left as it is.
        KeyboardInterrupt: passed on, once the record says interrupted.
    """
    folder = resume.run_folder(path)
    with folder.held():
        record = resume.reopen(folder)
        state = resume.kept(record)
        config, done = record.config, len(state["history"]) if state else 0
        print(_heading(config, record.cost, record.hardware.describe()), flush=True)
        data = load(config.data)
        print(f"goes on after epoch {done} of {config.trainer.epochs}", flush=True)
        return _carry_out(record, data, None, Checkpoint(folder, config, data.shape, state))


def _carry_out(
    record: Record, data: Data, report: Callable[[Epoch], None] | None, checkpoint: Checkpoint | None
) -> Record:
    """Train, from where the checkpoint is if there is one, and test; the record is closed in any case."""
    config, state, keep = record.config, None, None
    if checkpoint:
        state, keep, record.history = checkpoint.state, checkpoint.keep, list(checkpoint.history)
    record.begin()
    try:
        with nullcontext(report) if report else _Epochs(config.trainer.epochs, len(record.history)) as show:

            def on_epoch(epoch: Epoch) -> None:
                record.add(epoch)
                show(epoch)

            result = fit(_on(record.hardware, config), data, on_epoch, state, keep)
        if checkpoint:
            checkpoint.write()
        else:
            saved.save(record.folder.model, result, config, data.shape)
        if config.trainer.test:
            images = load_test(config.data)
            score = evaluate(result.model, images, record.hardware)
            require_finite(score.loss, "the test loss", config)
            record.take_test(score, images.labels)
        if not report:
            from tinysweep.run import curves  # noqa: PLC0415 training must not wait for matplotlib to be imported

            curves.draw(record.history, config.name, record.folder.curves)
    except KeyboardInterrupt:
        _close(record, checkpoint, State.interrupted)
        if not report:
            print(f"what was done until then: {record.folder.path}", file=sys.stderr)
            print(f"to go on: {resume.command(record.folder.path)}", file=sys.stderr)
        raise
    except (PrunedError, AbandonedError) as stop:
        record.close(State.pruned if isinstance(stop, PrunedError) else State.interrupted, str(stop))
        return record
    except Exception as error:
        _close(record, checkpoint, State.failed, error)
        raise
    record.close(State.complete)
    if not report:
        # Only now, so that a run that is killed before it is complete can go on.
        saved.save(record.folder.model, result, config, data.shape)
        print(_summary(record), flush=True)
    return record


def _close(record: Record, checkpoint: Checkpoint | None, state: State, error: Exception | None = None) -> None:
    """Close the record of a run cut short with those epochs from which it can go on."""
    if checkpoint:
        record.history = list(checkpoint.history)
    reason = f"interrupted after epoch {len(record.history)} of {record.config.trainer.epochs}"
    if error:
        reason = message_of(error) or f"{type(error).__name__}: {error}"
    record.close(state, reason, error)
    if checkpoint:
        checkpoint.write()


def _on(machine: Hardware, config: Config) -> Config:
    """A configuration for so many threads, whatever number of cores this machine has."""
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, threads=machine.threads))


_last_data: dict[str, Data] = {}


def _remembered(config: DataConfig) -> Data:
    """The data of the last trial that this process ran, if it was the same; reading and verifying takes a
    while."""
    key = repr(config)
    if key not in _last_data:
        _last_data.clear()
        _last_data[key] = load(config)
    return _last_data[key]


class _Epochs(Progress):
    """A line for each epoch."""

    def __init__(self, epochs: int, done: int) -> None:
        super().__init__(epochs, "epochs", done)
        self.digits, self.of = len(str(epochs)), epochs

    def __call__(self, epoch: Epoch) -> None:
        validation = ""
        if epoch.validation_accuracy is not None:
            validation = (
                f"  validation loss {epoch.validation_loss:.4f}  accuracy {100 * epoch.validation_accuracy:.2f}%"
            )
        number = f"{epoch.epoch:>{self.digits}}/{self.of}"
        self.print(f"epoch {number}  loss {epoch.train_loss:.4f}{validation}  {epoch.seconds:.1f} s")
        self.advance()


def _heading(config: Config, cost: budget.Cost, machine: str) -> str:
    return (
        f"{config.name}: {config.model.family} model of width {config.model.width}, {cost.params:,} trainable "
        f"parameters (fewer than {config.budget.params:,}), {cost.macs:,} MACs; {machine}"
    )


def _summary(record: Record) -> str:
    last = record.history[-1]
    rows = [("parameters", f"{record.cost.params:,} (budget: fewer than {record.config.budget.params:,})")]
    if last.validation_accuracy is not None:
        rows.append(("validation accuracy", f"{100 * last.validation_accuracy:.2f}%"))
    if record.test:
        rows.append(("test accuracy", f"{100 * record.test.accuracy:.2f}% (read once, after the last epoch)"))
    rows += [("training", f"{record.train_seconds:.1f} s"), ("record", str(record.folder.path))]
    return "\n".join(["", *(f"{name:<20} {value}" for name, value in rows)])
