"""TensorBoard: event files in a folder for each run, below one for each study."""

import itertools
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from tinysweep.settings.command_line import as_value
from tinysweep.tracking.tracker import Beginning, Ending, Tracker

# An interrupted run may go on, and the first status of a run is the one that is shown.
STATUSES = {"complete": STATUS_SUCCESS, "pruned": STATUS_SUCCESS, "failed": STATUS_FAILURE}


class TensorBoard(Tracker):
    """A run is known by its folder."""

    def begin(self, run: Beginning, known: str | None) -> str:
        folder = Path(known) if known else self._claim(run.name)
        # What the run had logged after the epoch that it goes on from would stand there twice.
        self.writer = SummaryWriter(str(folder), purge_step=run.done + 1 if known else None)
        if not known:
            self._introduce(run)
        self.writer.flush()
        return str(folder)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # for whoever watches

    def end(self, ending: Ending) -> None:
        for name, value in ending.figures.items():
            self.writer.add_scalar(name, value, ending.step)
        self.writer.add_text("state", f"{ending.state}: {ending.reason}" if ending.reason else ending.state)
        if ending.curves:
            with Image.open(ending.curves) as picture:
                self.writer.add_image("curves", np.asarray(picture.convert("RGB")), dataformats="HWC")
        if ending.state in STATUSES:
            self._summary(_status(STATUSES[ending.state]))
        self.writer.close()

    def _claim(self, name: str) -> Path:
        """A folder that no other run has: `name`, or `name-2`, `name-3`, …"""
        parent = Path(self.config.folder).expanduser() / (self.config.group or "runs")
        for number in itertools.count(1):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return folder
        raise AssertionError("unreachable: count() doesn't end")

    def _introduce(self, run: Beginning) -> None:
        """Settings and cost, as text, and as what the tab HParams compares runs by."""
        shown = {
            key: value if isinstance(value, bool | int | float) else as_value(value)
            for key, value in (run.settings | run.cost).items()
        }
        experiment, start, _ = hparams(shown, dict.fromkeys(run.metrics, 0.0))
        self._summary(experiment)
        self._summary(start)
        for title, content in (("configuration", run.settings), ("cost", run.cost), ("about", run.about)):
            lines = (f"    {key}: {as_value(value)}" for key, value in content.items())  # four blanks: as it is
            self.writer.add_text(title, "\n".join(lines))

    def _summary(self, summary: object) -> None:
        self.writer._get_file_writer().add_summary(summary)


def _status(status: int) -> Summary:
    """How a run ended, for HParams; the function of tensorboard's own that makes this imports TensorFlow."""
    content = HParamsPluginData(
        session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()),
        version=metadata.PLUGIN_DATA_VERSION,
    )
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    held = SummaryMetadata(plugin_data=plugin)
    return Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=held)])
