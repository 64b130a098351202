"""One run, from a checked configuration to the record in its folder."""

import sys
from pathlib import Path

from tqdm import tqdm

from tinysweep import budget, curves, saved
from tinysweep.config import Config
from tinysweep.data import describe, load, load_test
from tinysweep.device import hardware
from tinysweep.errors import TinysweepError
from tinysweep.record import Record, RunFolder, State
from tinysweep.training import Epoch, evaluate, fit, require_finite


def run(config: Config, wanted: Path, overrides: list[str]) -> Record:
    """Gate, load, train, test once, and leave everything in the folder `wanted` (or the next free name).

    Nothing is written before the model has passed the budget and the data has been verified.

    Raises:
        TinysweepError: bad setting, over budget, bad data, or divergence; the last leaves a record.
        KeyboardInterrupt: passed on, once the record says interrupted.
    """
    shape = describe(config.data)
    config = budget.resolve(config, shape)
    cost = budget.gate(config, shape)
    machine = hardware(config.trainer)
    print(_heading(config, cost, machine.describe()), flush=True)
    data = load(config.data)
    record = Record(RunFolder.claim(wanted), config, cost, machine, overrides)
    record.begin()
    try:
        with _Progress(config.trainer.epochs) as progress:

            def on_epoch(epoch: Epoch) -> None:
                record.add(epoch)
                progress.show(epoch)

            result = fit(config, data, on_epoch)
        saved.save(record.folder.model, result, config.model, shape)
        if config.trainer.test:
            score = evaluate(result.model, load_test(config.data), machine)
            require_finite(score.loss, "the test loss", config)
            record.test = score
        curves.draw(record.history, config.name, record.folder.curves)
    except KeyboardInterrupt:
        record.close(
            State.interrupted, f"interrupted after epoch {len(record.history)} of {config.trainer.epochs}"
        )
        print(f"what was done until then: {record.folder.path}", file=sys.stderr)
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, TinysweepError) else f"{type(error).__name__}: {error}"
        record.close(State.failed, reason)
        raise
    record.close(State.complete)
    print(_summary(record), flush=True)
    return record


class _Progress:
    """A line for each epoch, and under them a bar with the time left where a person is watching."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.bar = tqdm(total=epochs, unit="epoch", file=sys.stderr, disable=None, leave=False)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, epoch: Epoch) -> None:
        validation = ""
        if epoch.validation_accuracy is not None:
            validation = (
                f"  validation loss {epoch.validation_loss:.4f}  accuracy {100 * epoch.validation_accuracy:.2f}%"
            )
        number = f"{epoch.epoch:>{len(str(self.epochs))}}/{self.epochs}"
        tqdm.write(
            f"epoch {number}  loss {epoch.train_loss:.4f}{validation}  {epoch.seconds:.1f} s", file=sys.stdout
        )
        sys.stdout.flush()
        self.bar.update()


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
