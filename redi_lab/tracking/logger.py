"""The Lightning logger of the lab: local files first, MLflow as a copy that may fail.

    logger = ResilientMLflowLogger(
        tracking_uri="sqlite:////data/outputs/mlflow.db", experiment_name="redi", run_name="redi-a0.8",
        output_dir=Path("/data/outputs/redi"),
    )
    Trainer(logger=logger).fit(module)

If the store is locked, deleted or down, training goes on, one warning names it, and `redi-lab upload OUTPUT_DIR`
completes the run later (see `redi_lab.tracking.upload`).
"""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat, final

import filelock
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from redi_lab.errors import UserError
from redi_lab.files import write_text
from redi_lab.tracking.environment import environment_tags, environment_text
from redi_lab.tracking.journal import MetricsJournal
from redi_lab.tracking.state import METRICS_FILE, STATE_FILE, RunState, load_state
from redi_lab.tracking.store import PARENT_TAG, sqlite_path
from redi_lab.tracking.synchroniser import BackgroundSync, Synchroniser, upload_command

_LOG = logging.getLogger(__name__)
_STATUSES = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


@final
class ResilientMLflowLogger(Logger):
    """Logs a run to `<output_dir>/metrics.jsonl` and, from a background thread, to MLflow.

    An output folder belongs to one run: if it holds an `mlflow.json`, that run is continued (same store and
    experiment) or uploaded as a whole to the newly named store. Only rank zero writes anything.

    Args:
        tracking_uri: MLflow tracking URI; `sqlite:///` needs an absolute path.
        experiment_name: MLflow experiment, created if absent.
        run_name: Name of the run in the UI.
        output_dir: Folder of the local record.
        artifact_location: Artifact root of a new experiment. None means `mlflow-artifacts` beside a sqlite file, and
            the server's own choice for others.
        parent_run_id: Run to nest this one under.
        tags: Tags of the run.
        flush_seconds: Seconds between uploads to MLflow. What was not uploaded is never lost, only late.

    Raises:
        UserError: If another process writes the same folder, its `mlflow.json` is damaged, or the URI is unusable.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment_name: str,
        run_name: str,
        output_dir: Path | str,
        artifact_location: str | None = None,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        flush_seconds: float = 5.0,
    ) -> None:
        super().__init__()
        if flush_seconds <= 0:
            raise UserError(f"flush_seconds must be positive, got {flush_seconds}")
        sqlite_path(tracking_uri)  # a relative path is a mistake, not a failing store
        self._output_dir = Path(output_dir).absolute()
        self._name = experiment_name
        self._last_step = 0
        self._journal: MetricsJournal | None = None
        self._state = RunState(tracking_uri, experiment_name, run_name, artifact_location, parent_run_id)
        self._lock = writer_lock(self._output_dir)
        self._synchroniser = Synchroniser(self._output_dir, self._state)
        self._background = BackgroundSync(self._synchroniser, flush_seconds, self._lock.release)
        self._open_run(dict(tags or {}))

    @property
    def name(self) -> str:
        """The MLflow experiment."""
        return self._name

    @property
    def version(self) -> str | None:
        """The MLflow run id; None while the run could not be created, and on ranks other than zero."""
        return self._synchroniser.state.run_id

    @property
    def save_dir(self) -> str:
        """The output folder."""
        return str(self._output_dir)

    @property
    def experiment_id(self) -> str | None:
        """The id of the MLflow experiment; None while the run could not be created."""
        return self._synchroniser.state.experiment_id

    @property
    def is_complete(self) -> bool:
        """Whether the store has confirmed everything logged so far."""
        return self._synchroniser.is_complete

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_metrics(self, metrics: Mapping[str, SupportsFloat], step: int | None = None) -> None:
        """Append metrics to the journal; MLflow gets them with the next flush.

        Args:
            metrics: Name to value. NaN and infinities are kept.
            step: Optimizer step; None repeats that of the previous call.
        """
        self._last_step = self._last_step if step is None else step
        self._writing_journal().append(metrics, self._last_step)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def save(self) -> None:
        """Bring the metrics to the disk itself."""
        if self._journal is not None:
            self._journal.sync()

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log parameters; nested mappings become dotted names.

        MLflow's params cannot change: one that was logged before with another value (a resumed run) keeps it, with a
        warning.

        Args:
            params: Name to value; values are logged as text.
            args: Ignored, part of Lightning's interface.
            kwargs: Ignored, part of Lightning's interface.
        """
        self._writing_journal()
        flat = _flatten(vars(params) if isinstance(params, Namespace) else params)
        known: dict[str, str] = {}
        for item in self._synchroniser.state.outbox:
            known.update(item.payload if item.kind == "params" else {})
        changed = sorted(name for name in flat.keys() & known.keys() if flat[name] != known[name])
        if changed:
            _LOG.warning("params %s changed since this run began; MLflow keeps the first values", ", ".join(changed))
        new = {name: value for name, value in flat.items() if name not in known}
        if new:
            self._synchroniser.add("params", new)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_config(self, text: str) -> None:
        """Write the complete configuration to `config.yaml` in the output folder and log it as an artifact."""
        self._log_text("config.yaml", text)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_artifact(self, path: Path | str) -> None:
        """Log a file or folder as an artifact under its own name. It is read later: leave it in place.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        absolute = Path(path).absolute()
        if not absolute.exists():
            raise FileNotFoundError(f"cannot log the artifact {absolute}: no such file")
        self._writing_journal()
        is_inside = absolute.is_relative_to(self._output_dir)
        relative = absolute.relative_to(self._output_dir) if is_inside else absolute
        self._synchroniser.add("artifact", {"path": str(relative)})

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_tables(self, paths: Sequence[Path]) -> None:
        """Log JSON files of {columns, data}, as `mlflow.log_table` does, so that the UI shows them as tables.

        Call it once a run: the tag that names the tables is replaced.

        Args:
            paths: the files; each is logged under its own name.
        """
        for path in paths:
            self.log_artifact(path)
        tables = [{"path": path.name, "type": "table"} for path in paths]
        self._synchroniser.add("tags", {"mlflow.loggedArtifacts": json.dumps(tables)})

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_dataset(self, name: str, digest: str, source: str, num_rows: int, context: str = "training") -> None:
        """Log a dataset that the run reads.

        Args:
            name: Name shown in the UI.
            digest: Hash of the content. MLflow shows 36 characters of it; the dataset's profile has all.
            source: Where the data comes from (path or URI).
            num_rows: Number of rows.
            context: What it is read for: "training", "validation", "evaluation".
        """
        self._writing_journal()
        payload = {"name": name, "digest": digest, "source": source, "num_rows": num_rows, "context": context}
        self._synchroniser.add("dataset", payload)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_environment(self) -> None:
        """Log commit, versions and platform as tags and every installed package as `environment.txt`."""
        self._log_text("environment.txt", environment_text())
        self._synchroniser.add("tags", dict(environment_tags()))

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def finalize(self, status: str) -> None:
        """Upload what is left and end the run; says how to complete it if that fails.

        Lightning calls this after every fit, validate and test; logging afterwards reopens the run.

        Args:
            status: "success", "failed" (Lightning's words), "interrupted", or one of MLflow's.
        """
        if self._journal is None:
            return
        self._synchroniser.set_status(_STATUSES.get(status, status.upper()))
        self._background.stop()
        self._journal.close()
        self._journal = None
        if not self._synchroniser.is_complete:
            uri = self._synchroniser.state.tracking_uri
            _LOG.warning("this run is not complete in %s; complete it with: %s", uri, upload_command(self._output_dir))

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def _open_run(self, tags: dict[str, str]) -> None:
        self._acquire_folder()
        try:
            if (self._output_dir / STATE_FILE).exists():
                self._continue_run()
            self._start()
        except BaseException:
            self._lock.release()
            raise
        if tags:
            self._synchroniser.add("tags", tags)

    def _acquire_folder(self) -> None:
        self._output_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()  # the upload thread releases it as it ends: until then it writes mlflow.json
        except filelock.Timeout:
            raise UserError(f"{self._output_dir} is being written by another run; choose another folder") from None

    def _continue_run(self) -> None:
        wanted, found = self._state, load_state(self._output_dir)
        if (found.tracking_uri, found.experiment_name) != (wanted.tracking_uri, wanted.experiment_name):
            found.forget_uploads()
            found.tracking_uri, found.experiment_name = wanted.tracking_uri, wanted.experiment_name
        found.run_name, found.artifact_location = wanted.run_name, wanted.artifact_location
        has_new_parent = found.parent_run_id != wanted.parent_run_id
        found.parent_run_id = wanted.parent_run_id
        self._synchroniser.state = self._state = found
        if has_new_parent and wanted.parent_run_id is not None:
            self._synchroniser.add("tags", {PARENT_TAG: wanted.parent_run_id})

    def _start(self) -> None:
        self._journal = MetricsJournal(self._output_dir / METRICS_FILE)
        if self._state.run_id is not None:
            self._synchroniser.set_status("RUNNING")
        else:
            self._state.status, self._state.status_sent = "RUNNING", True
            self._state.save(self._output_dir)
        self._background.start()

    def _writing_journal(self) -> MetricsJournal:
        if self._journal is None:  # finalized before: the evaluation that follows a fit logs to the same run
            self._acquire_folder()
            self._start()
        assert self._journal is not None
        return self._journal

    def _log_text(self, name: str, text: str) -> None:
        write_text(self._output_dir / name, text)
        self.log_artifact(self._output_dir / name)


def writer_lock(output_dir: Path) -> filelock.FileLock:
    """Return the lock that the one writer of an output folder holds; taking it fails at once if it is held."""
    return filelock.FileLock(output_dir / ".mlflow.lock", timeout=0, thread_local=False)


def _flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat
