"""The learning curves of a run as a picture."""

import io
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tinysweep.console import in_notebook
from tinysweep.data.pictures import OWN
from tinysweep.errors import ConfigError
from tinysweep.files import write_whole
from tinysweep.training.loop import Epoch

TRAIN, VALIDATION = "#1f77b4", "#d95f02"


def draw(history: list[Epoch], title: str, path: Path) -> None:
    """Write the curves of a run as a PNG."""
    write_whole(path, picture(history, title))


class LiveCurves:
    """The curves so far in the output of a notebook's cell, each picture in place of the one before:
    `fit(config, data, on_epoch=LiveCurves())`."""

    def __init__(self, title: str = "") -> None:
        """Nothing is shown before the first epoch.

        Raises:
            ConfigError: this is no notebook.
        """
        if not in_notebook():
            raise ConfigError(
                "LiveCurves() draws in a notebook, and this program runs in none; the history of what fit returns "
                "holds the figures, and a run of the command tinysweep leaves curves.png"
            )
        self.title, self.history, self.cell = title, list[Epoch](), 0

    def __call__(self, epoch: Epoch) -> None:
        from IPython import display, get_ipython  # noqa: PLC0415 it is there in a notebook

        # An epoch seen before begins another training; one that was interrupted goes on in the same curves.
        self.history = [*(each for each in self.history if each.epoch < epoch.epoch), epoch]
        image = display.Image(picture(self.history, self.title))
        if self.cell != (cell := get_ipython().execution_count):
            self.cell, self.shown = cell, display.display(image, display_id=True)
        else:
            self.shown.update(image)


def picture(history: list[Epoch], title: str) -> bytes:
    """Loss (logarithmic) and validation error by epoch, as a PNG."""
    epochs = [epoch.epoch for epoch in history]
    validated = [epoch for epoch in history if epoch.validation_accuracy is not None]
    figure = Figure(figsize=(9 if validated else 5, 3.6), layout="constrained")
    figure.suptitle(title, parse_math=False)
    axes = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    axes[0].plot(epochs, [epoch.train_loss for epoch in history], "o-", ms=3, color=TRAIN, label="training")
    axes[0].set(ylabel="loss (cross-entropy)", yscale="log")
    if validated:
        numbers = [epoch.epoch for epoch in validated]
        losses = [epoch.validation_loss for epoch in validated]
        errors = [100 * (1 - (epoch.validation_accuracy or 0)) for epoch in validated]
        axes[0].plot(numbers, losses, "o-", ms=3, color=VALIDATION, label="validation")
        axes[1].plot(numbers, errors, "o-", ms=3, color=VALIDATION)
        axes[1].set(ylabel="validation error, %", ylim=(0, None))
        axes[1].annotate(
            f"{errors[-1]:.2f}%", (numbers[-1], errors[-1]), (0, 8), textcoords="offset points", ha="right"
        )
    axes[0].legend(frameon=False)
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata=OWN)
    return stream.getvalue()
