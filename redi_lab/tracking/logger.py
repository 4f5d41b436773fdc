"""The Lightning logger of the lab: the local record of a run, and its mirror in MLflow, which may fail.

    logger = RunLogger(
        Path("/data/outputs/redi"), "redi-a0.8", tracking_uri="sqlite:////data/outputs/mlflow.db", experiment="redi"
    )
    Trainer(logger=logger).fit(module)

If the store is locked, deleted or down, training goes on, one warning names it, and `redi-lab upload OUTPUT_DIR`
completes the mirror later (see `redi_lab.tracking.mirror`).
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat, final

import filelock
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from redi_lab.errors import UserError
from redi_lab.files import write_text
from redi_lab.tracking.journal import MetricsJournal
from redi_lab.tracking.mirror import PARENT_TAG, BackgroundMirror, upload_command
from redi_lab.tracking.state import (
    LOCK,
    METRICS_FILE,
    RECORD_FILE,
    RunRecord,
    RunState,
    flatten,
    load_record,
    load_state,
)
from redi_lab.tracking.store import sqlite_path

_LOG = logging.getLogger(__name__)
_STATUSES: dict[str, Any] = {
    "success": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING",
}  # fmt: skip


@final
class RunLogger(Logger):
    """Records a run in a folder and, if there is a store, mirrors the folder there from a background thread.

    A folder belongs to one run: if it holds a record, that run is continued. Only rank zero writes anything.

    Args:
        folder: of the local record.
        run_name: name of the run in the UI.
        experiment: MLflow experiment, created if absent.
        tracking_uri: MLflow tracking URI, `sqlite:///` with an absolute path; None: local records alone. If the run was
            mirrored in another store before, it is copied to this one as a whole.
        parent: MLflow id of the run to nest this one under.
        tags: tags of the run.
        flush_seconds: seconds between two mirrorings. What was not mirrored is never lost, only late.

    Raises:
        UserError: another process writes the same folder, a file of the record is damaged, or the URI is unusable.
    """

    def __init__(
        self,
        folder: Path | str,
        run_name: str,
        *,
        experiment: str = "redi_lab",
        tracking_uri: str | None = None,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        flush_seconds: float = 5.0,
    ) -> None:
        super().__init__()
        if tracking_uri is not None:
            sqlite_path(tracking_uri)  # a relative path is a mistake, not a failing store
        self.folder = Path(folder).absolute()
        self.is_complete = tracking_uri is None
        self._uri = tracking_uri
        self._last_step = 0
        self._is_open = False
        self._journal: MetricsJournal | None = None
        nesting = {} if parent is None else {PARENT_TAG: parent}
        self._record = RunRecord(name=run_name, experiment=experiment, tags={**(tags or {}), **nesting})
        self._lock = filelock.FileLock(self.folder / LOCK, timeout=0, thread_local=False)
        self._mirror = BackgroundMirror(self.folder, tracking_uri, flush_seconds, self._lock.release)
        self._begin()

    @property
    def name(self) -> str:
        """The MLflow experiment."""
        return self._record.experiment

    @property
    def version(self) -> str | None:
        """The MLflow run id; None without a store, and while the run could not be created in it."""
        state = load_state(self.folder) if self._uri is not None else None
        return None if state is None else state.run_id

    @property
    def save_dir(self) -> str:
        """The folder."""
        return str(self.folder)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_metrics(self, metrics: Mapping[str, SupportsFloat], step: int | None = None) -> None:
        """Append a line to `metrics.jsonl`.

        Args:
            metrics: name to value. NaN and infinities are kept.
            step: optimizer step; None repeats that of the previous call.
        """
        self._last_step = self._last_step if step is None else step
        self._open()
        if self._journal is None:
            self._journal = MetricsJournal(self.folder / METRICS_FILE)
        self._journal.append(metrics, self._last_step)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def save(self) -> None:
        """Flush the metrics to the disk itself."""
        if self._journal is not None:
            self._journal.sync()

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Record parameters as text; nested mappings become dotted names. `args` and `kwargs` are Lightning's, ignored.

        MLflow's params cannot change: one that was recorded before with another value (a resumed run) keeps it, with a
        warning.
        """
        flat, known = flatten(vars(params) if isinstance(params, Namespace) else params), self._record.params
        if changed := sorted(name for name in flat if known.get(name, flat[name]) != flat[name]):
            _LOG.warning("params %s changed since this run began; MLflow keeps the first values", ", ".join(changed))
        self._update(params=flat | known)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_text(self, name: str, text: str) -> None:
        """Write a file into the folder, and show it as an artifact."""
        self._open()
        write_text(self.folder / name, text)
        self.log_artifact(self.folder / name)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_artifact(self, path: Path | str) -> None:
        """Show a file as an artifact under its own name. It is read later: leave it in place.

        Raises:
            FileNotFoundError: there is no such file.
        """
        absolute = Path(path).absolute()
        if not absolute.exists():
            raise FileNotFoundError(f"cannot log the artifact {absolute}: no such file")
        is_inside = absolute.is_relative_to(self.folder)
        name = str(absolute.relative_to(self.folder) if is_inside else absolute)
        self._update(artifacts=list(dict.fromkeys([*self._record.artifacts, name])))

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def finalize(self, status: str) -> None:
        """End the run and mirror what is left; says how to complete the mirror if that fails.

        Lightning calls this after every fit, validate and test; logging afterwards reopens the run.

        Args:
            status: "success", "failed" (Lightning's words), "interrupted" or "running".
        """
        if not self._is_open:
            return
        self._is_open = False
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._save(status=_STATUSES[status])
        if self._uri is None:
            self._lock.release()
            return
        report = self._mirror.stop()
        self.is_complete = report is not None and not report.missing
        if not self.is_complete:
            command = upload_command(self.folder)
            _LOG.warning("this run is not complete in %s; complete it with: %s", self._uri, command)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def _begin(self) -> None:
        self._acquire()
        try:
            wanted, before = self._record, None
            if (self.folder / RECORD_FILE).exists():
                before = load_record(self.folder)
                changes = {"name": wanted.name, "experiment": wanted.experiment}
                self._record = before.model_copy(update=changes | {"tags": before.tags | wanted.tags})
            if self._uri is not None:
                known = load_state(self.folder)
                is_same = known is not None and known.tracking_uri == self._uri
                if not is_same or before is None or before.experiment != wanted.experiment:
                    RunState(tracking_uri=self._uri).save(self.folder)
            self._start()
        except BaseException:
            self._lock.release()
            raise

    def _acquire(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()  # the mirror's thread releases it as it ends: until then it writes mlflow.json
        except filelock.Timeout:
            raise UserError(f"{self.folder} is being written by another run; choose another folder") from None

    def _open(self) -> None:
        """After `finalize`, reopen the run: the evaluation that follows a fit logs to the same one."""
        if not self._is_open:
            self._acquire()
            self._start()

    def _start(self) -> None:
        self._is_open = True
        self._save(status="RUNNING")
        if self._uri is not None:
            self._mirror.start()

    def _update(self, **changes: Any) -> None:
        self._open()
        self._save(**changes)

    def _save(self, **changes: Any) -> None:
        self._record = self._record.model_copy(update=changes)
        self._record.save(self.folder)
