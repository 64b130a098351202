"""The learning curves of a run as a picture."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tinysweep.console import in_notebook
from tinysweep.data.pictures import OWN
from tinysweep.errors import ConfigError
from tinysweep.files import write_whole
from tinysweep.settings.schema import AugmentationConfig, Config
from tinysweep.training.loop import Epoch

TRAIN, VALIDATION, QUIET = "#1f77b4", "#d95f02", "#595959"
APART = 0.075  # of the height of a panel, between the figures at the ends of two curves
LONGEST = 28  # letters of a title above each panel, beside the legend
LOGARITHMIC = 5  # a panel whose largest figure is more than so many times its smallest

Figures = list[tuple[int, float]]  # by epoch


def first_plain_epoch(config: Config) -> int | None:
    """The epoch from which images are no longer augmented; None where they never were, or are to the end."""
    clean, ends = config.trainer.clean_epochs, config.trainer.epochs
    return ends - clean + 1 if clean and config.augmentation != AugmentationConfig() else None


def draw(history: list[Epoch], title: str, path: Path, plain_from: int | None = None) -> None:
    """Write the curves of a run as a PNG."""
    write_whole(path, picture(history, title, plain_from))


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


def picture(history: list[Epoch], title: str, plain_from: int | None = None) -> bytes:
    """Loss and error by epoch, on training images as far as they were counted and on those held out, as a PNG.
    `plain_from` is the epoch from which images are not augmented, after which training looks better than it is."""

    def known(read: Callable[[Epoch], float | None]) -> Figures:
        return [(epoch.epoch, value) for epoch in history if (value := read(epoch)) is not None]

    def percent(read: Callable[[Epoch], float | None]) -> Figures:
        return [(epoch, 100 * (1 - accuracy)) for epoch, accuracy in known(read)]

    losses = [known(lambda epoch: epoch.train_loss), known(lambda epoch: epoch.validation_loss)]
    errors = [percent(lambda epoch: epoch.train_accuracy), percent(lambda epoch: epoch.validation_accuracy)]
    panels = [("loss (cross-entropy)", losses, "{:.4f}"), ("error, %", errors, "{:.2f}%")]
    panels = [panel for panel in panels if any(panel[1])]
    plain = plain_from is not None and plain_from <= len(history)
    figure = Figure(figsize=(4.8 * len(panels), 3.9 if plain else 3.6), layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)  # type: ignore[union-attr, call-arg]
    longest = LONGEST * len(panels)
    title = title if len(title) <= longest else title[: longest - 1] + "…"
    figure.suptitle(title, x=0.01, ha="left", parse_math=False)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, curves, text) in zip(row, panels, strict=True):
        _panel(axes, curves, text)
        axes.set(xlabel="epoch", ylabel=label)
        if plain and plain_from:
            axes.axvspan(plain_from - 0.5, len(history) + 0.5, color="#000000", alpha=0.06, lw=0)
    handles, names = row[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=2, frameon=False)
    if plain:
        said = "grey: no augmentation; plain images are easier, so training figures improve at once"
        figure.supxlabel(said, fontsize="small", color=QUIET)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata=OWN)
    return stream.getvalue()


def _panel(axes: Axes, curves: Sequence[Figures], text: str) -> None:
    """The curves of training and validation, as far as there are any, each with its last figure beside its end."""
    styles = (("training", TRAIN), ("validation", VALIDATION))
    drawn = [(style, curve) for style, curve in zip(styles, curves, strict=True) if curve]
    for (name, colour), curve in drawn:
        axes.plot(*zip(*curve, strict=True), "o-", ms=3, color=colour, label=name)
    values = [value for _, curve in drawn for _, value in curve]
    _set_height(axes, min(values), max(values))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    to_share = axes.transData + axes.transAxes.inverted()
    ends = sorted((float(to_share.transform(curve[-1])[1]), curve[-1][1], style[1]) for style, curve in drawn)
    for place, (_, value, colour) in zip(_apart([share for share, *_ in ends]), ends, strict=True):
        axes.annotate(
            text.format(value),
            (1.02, place),
            xycoords="axes fraction",
            color=colour,
            va="center",
            fontsize="small",
        )


def _set_height(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis where figures span factors, so that the last epochs are not pressed together."""
    if low > 0 and high > LOGARITHMIC * low:
        room = (high / low) ** 0.06
        axes.set(yscale="log", ylim=(low / room, high * room))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set(ylim=(0, 1.08 * high or 1.0))


def _apart(shares: Sequence[float]) -> list[float]:
    """Places from the lowest up, moved as little as keeps two from covering each other."""
    if len(shares) < 2 or shares[1] - shares[0] >= APART:
        return list(shares)
    middle = max(sum(shares) / 2, APART / 2)
    return [middle - APART / 2, middle + APART / 2]
