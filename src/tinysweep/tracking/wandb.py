"""Weights & Biases: a run for each run, in the group of its study; in files here until they are synced."""

from collections.abc import Mapping
from pathlib import Path

import wandb

from tinysweep.tracking.tracker import PATIENCE, Beginning, Ending, Tracker


class WeightsAndBiases(Tracker):
    """A run is known by its id."""

    def begin(self, run: Beginning, known: str | None) -> str:
        online = self.config.online
        if online and not wandb.login(prompt=False):  # it would ask at the terminal, and wait
            raise RuntimeError("not logged in; wandb login, or set WANDB_API_KEY")
        folder = Path(self.config.folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)  # else it takes a temporary one without a word
        self.run = wandb.init(
            project=self.config.project,
            group=self.config.group,
            name=run.name,
            id=known,
            resume="allow" if known and online else None,
            dir=str(folder),
            mode="online" if online else "offline",
            config={"settings": run.settings, "cost": run.cost, "about": run.about},
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                init_timeout=PATIENCE / 2,
                finish_timeout=PATIENCE / 2,
            ),
        )
        return str(self.run.id)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step)

    def end(self, ending: Ending) -> None:
        said = {"state": ending.state, **({"reason": ending.reason} if ending.reason else {})}
        self.run.summary.update({**ending.figures, **said})
        if ending.curves:
            self.run.log({"curves": wandb.Image(str(ending.curves))}, step=ending.step)
        self.run.finish(exit_code=int(ending.state == "failed"))
