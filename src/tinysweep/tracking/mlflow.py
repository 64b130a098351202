"""MLflow: a run for each run, below one for its study; on a server, in a database, or in a file here."""

import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

# Before its import. What MLflow waits by itself are minutes, and what it tells its makers isn't ours to send.
for _name, _value in (
    ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "5"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
):
    os.environ.setdefault(_name, _value)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a server that is away is said in one line

from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

from tinysweep.settings.command_line import as_value  # noqa: E402
from tinysweep.settings.schema import TrackerConfig  # noqa: E402
from tinysweep.tracking.tracker import Beginning, Ending, Tracker  # noqa: E402

AT_ONCE = 100  # params that a server takes in one request
LONGEST = 6000  # characters of a param that it takes
STATUSES = {"complete": "FINISHED", "failed": "FAILED"}  # the others were killed: pruned, interrupted
GROUP = "tinysweep.group"

for _name in ("mlflow", "alembic"):  # which tell of every table that they make
    logging.getLogger(_name).setLevel(logging.ERROR)


class MLflow(Tracker):
    """A run is known by its id."""

    def __init__(self, config: TrackerConfig) -> None:
        super().__init__(config)
        folder = Path(config.folder).expanduser().absolute()
        uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        # A server knows where files belong; beside a database they would lie wherever the command was typed.
        self.artifacts = None if uri.startswith(("http", "databricks")) else (folder / "artifacts").as_uri()
        self.client = MlflowClient(uri, registry_uri=uri)
        self.known = -1  # the last step of which a run that goes on has a point

    def begin(self, run: Beginning, known: str | None) -> str:
        if known:
            self.id = known
            self.client.update_run(self.id, status="RUNNING")
            steps = [point.step for point in self.client.get_metric_history(self.id, "epoch")]
            self.known = max(steps, default=-1)
            return self.id
        tags = {f"tinysweep.{name}": text for name, text in run.about.items()}
        if self.config.group:
            tags |= {"tinysweep.study": self.config.group, "mlflow.parentRunId": self._parent()}
        self.id = self._create(run.name, tags)
        params = [Param(key, as_value(value)[:LONGEST]) for key, value in run.settings.items()]
        for start in range(0, len(params), AT_ONCE):
            self.client.log_batch(self.id, params=params[start : start + AT_ONCE])
        self._points(0, run.cost)
        return self.id

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if step > self.known:
            self._points(step, figures)

    def end(self, ending: Ending) -> None:
        self._points(ending.step, ending.figures)
        self._tag("tinysweep.state", ending.state)
        if ending.reason:
            self._tag("tinysweep.reason", ending.reason)
        if ending.curves:
            self.client.log_artifact(self.id, str(ending.curves))
        self.client.set_terminated(self.id, STATUSES.get(ending.state, "KILLED"))

    def open_group(self, about: dict[str, str]) -> None:
        self.id = self._parent()
        for name, text in about.items():
            self._tag(f"tinysweep.{name}", text)
        self.client.update_run(self.id, status="RUNNING")

    def close_group(self, figures: Mapping[str, float], others: bool) -> None:
        self._points(0, figures)
        if not others:
            self.client.set_terminated(self.id)

    def close_left(self, known: str, ending: Ending) -> None:
        self.id = known
        self.end(ending)

    def _experiment(self) -> str:
        name = self.config.experiment
        try:
            return str(self.client.create_experiment(name, artifact_location=self.artifacts))
        except MlflowException:  # it is there, and may have been made by another run just now
            if (found := self.client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)

    def _create(self, name: str, tags: dict[str, str]) -> str:
        return str(self.client.create_run(self._experiment(), run_name=name, tags=tags).info.run_id)

    def _parent(self) -> str:
        """The run of the study. Of two that sweepers have made at once, all take the earlier one."""
        content = self.config.key or self.config.group or ""
        mark = hashlib.sha256(content.encode()).hexdigest()[:32]  # what a search takes without quotes
        if found := self._earliest(mark):
            return found
        made = self._create(str(self.config.group), {GROUP: mark})
        self.client.set_terminated(made)  # it is a sweep that opens it
        earliest = self._earliest(mark) or made
        if earliest != made:
            self.client.delete_run(made)
        return earliest

    def _earliest(self, mark: str) -> str | None:
        order, where = ["attributes.start_time ASC"], f"tags.`{GROUP}` = '{mark}'"
        found = self.client.search_runs([self._experiment()], where, max_results=1, order_by=order)
        return str(found[0].info.run_id) if found else None

    def _points(self, step: int, figures: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self.client.log_batch(self.id, [Metric(name, value, now, step) for name, value in figures.items()])

    def _tag(self, name: str, text: str) -> None:
        legal = re.sub(r"[^\w\-. :/]", "_", name)  # a searched parameter may be +added
        self.client.log_batch(self.id, tags=[RunTag(legal, text[:LONGEST])])
