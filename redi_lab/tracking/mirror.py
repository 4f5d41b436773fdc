"""Makes a tracking store say what the local record of a run says: `mirror(folder)`, now or in the background.

A mirror compares and sends what is missing, so it can be killed anywhere and repeated. The store is asked for the run
(by its id, else by the key that is a tag of it), its params, tags and status. Metrics lie behind the confirmed offset
of `mlflow.json`; if the answer to a batch is lost, the batch is sent again, and since every line keeps its own time,
MLflow finds the points of equal step, time and value and stores them once.
"""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from redi_lab.errors import UserError
from redi_lab.files import locked
from redi_lab.tracking.journal import read_records
from redi_lab.tracking.state import LOCK, METRICS_FILE, RunRecord, RunState, load_record, load_state
from redi_lab.tracking.store import RUN_KEY_TAG, MlflowStore, StoreError, accepted, mlflow_key, open_store, sqlite_path

_LOG = logging.getLogger(__name__)
_MAX_BACKOFF = 32
MAX_METRICS_PER_CALL = 1000
MAX_PARAMS_PER_CALL = 100
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
PARENT_TAG = "mlflow.parentRunId"
PATIENCE_SECONDS = 30.0
"""The longest that a command waits for a store, at the beginning and at the end of a run."""


@final
@dataclass(frozen=True)
class MirrorReport:
    """What one mirroring did.

    Attributes:
        run_id: the run in the store.
        tracking_uri: the store.
        lines: lines of `metrics.jsonl` that were sent.
        items: params, tags and artifacts that were sent.
        missing: artifacts that could not be sent because their files are gone.
    """

    run_id: str
    tracking_uri: str
    lines: int
    items: int
    missing: tuple[str, ...]


def mirror(folder: Path) -> MirrorReport:
    """Send what the store does not have of a run; doing it again sends nothing. One process at a time, see `LOCK`.

    Args:
        folder: holds `record.json`, `mlflow.json` and, if there are metrics, `metrics.jsonl`.

    Raises:
        StoreError: the store fails; what it has confirmed until then is recorded.
        UserError: a file of the record is damaged.
    """
    from mlflow.entities import Param, RunTag

    store, record, state, run = find_or_create(folder)
    run_id, client = run.info.run_id, store.client
    lines = _send_metrics(folder, store, state, run_id)
    params = [Param(*p) for p in accepted(record.params, MAX_PARAM_LENGTH).items() if p[0] not in run.data.params]
    tags = accepted(record.tags, MAX_TAG_LENGTH).items() - run.data.tags.items()
    with store.doing("log params and tags"):
        for some in _batched(params, MAX_PARAMS_PER_CALL):
            client.log_batch(run_id, params=some)
        for some in _batched([RunTag(*item) for item in tags], MAX_PARAMS_PER_CALL):
            client.log_batch(run_id, tags=some)
    artifacts, missing = _send_artifacts(folder, store, record, state, run_id)
    with store.doing("set the run's status"):
        if run.info.status != record.status == "RUNNING":
            client.update_run(run_id, status=record.status)
        elif run.info.status != record.status:
            client.set_terminated(run_id, status=record.status)
    return MirrorReport(run_id, state.tracking_uri, lines, len(params) + len(tags) + artifacts, missing)


def find_or_create(folder: Path) -> tuple[MlflowStore, RunRecord, RunState, Any]:
    """Open the store of a run, and find the run in it or create it.

    Returns:
        The store, the local record, what is confirmed of it, and MLflow's run.

    Raises:
        StoreError: the store fails.
        UserError: a file of the record is damaged.
    """
    record, state = load_record(folder), load_state(folder)
    if state is None:
        raise UserError(f"{folder} was recorded without a store: name one, tracking_uri=URI")
    store = open_store(state.tracking_uri, record.experiment)
    run = store.find_run(state.run_id, record.key)
    if run is None:
        if state.run_id is not None:
            _LOG.warning("run %s is no longer in %s: uploading it as a new run", state.run_id, state.tracking_uri)
        with store.doing("create the run"):
            run = store.client.create_run(store.experiment_id, run_name=record.name, tags={RUN_KEY_TAG: record.key})
    if run.info.run_id != state.run_id:
        state = RunState(tracking_uri=state.tracking_uri, run_id=run.info.run_id, experiment_id=run.info.experiment_id)
        state.save(folder)
    return store, record, state, run


def _send_metrics(folder: Path, store: MlflowStore, state: RunState, run_id: str) -> int:
    """Send the lines behind the confirmed offset, in calls that confirm whole lines; how many there were."""
    from mlflow.entities import Metric

    lines = 0
    waiting: list[Metric] = []

    def send() -> None:
        for some in _batched(waiting, MAX_METRICS_PER_CALL):
            with store.doing("log metrics"):
                store.client.log_batch(run_id, metrics=some)
        waiting.clear()
        state.save(folder)

    for record in read_records(folder / METRICS_FILE, state.offset) if (folder / METRICS_FILE).exists() else ():
        if waiting and len(waiting) + len(record.metrics) > MAX_METRICS_PER_CALL:
            send()
        time = round(record.time * 1000)
        waiting += [Metric(mlflow_key(name), value, time, record.step) for name, value in record.metrics.items()]
        state.offset = record.end
        lines += 1
    if waiting:
        send()
    return lines


def _send_artifacts(
    folder: Path, store: MlflowStore, record: RunRecord, state: RunState, run_id: str
) -> tuple[int, tuple[str, ...]]:
    sent, missing = 0, []
    for name in record.artifacts:
        path = folder / name
        if not path.exists():
            missing.append(name)
            continue
        stamp = path.stat().st_size, path.stat().st_mtime_ns
        if state.artifacts.get(name) != stamp:
            with store.doing(f"log the artifact {path.name}"):
                store.client.log_artifact(run_id, str(path))
            state.artifacts[name] = stamp
            state.save(folder)
            sent += 1
    return sent, tuple(missing)


def _batched(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def upload(output_dir: Path | str, tracking_uri: str | None = None) -> MirrorReport:
    """Complete the mirror of a run.

    A run whose process was killed is ended as KILLED. A run that the store has lost is created anew, as a whole.

    Args:
        output_dir: folder with `record.json`.
        tracking_uri: another store than the run's own: the run is copied there as a whole and belongs there from now
            on.

    Raises:
        UserError: the folder is not that of a run, the run is still going on, or the store fails.
    """
    folder = Path(output_dir).absolute()
    load_record(folder)  # before a lock file is made in a folder that is not a run's
    with locked(folder / LOCK, f"{folder} is still being written; upload it when the run has ended"):
        record, known = load_record(folder), load_state(folder)
        if tracking_uri is not None and (known is None or tracking_uri != known.tracking_uri):
            sqlite_path(tracking_uri)
            RunState(tracking_uri=tracking_uri).save(folder)
            record.tags.pop(PARENT_TAG, None)  # an id of the other store
        if record.status == "RUNNING":
            record.status = "KILLED"
        record.save(folder)
        try:
            return mirror(folder)
        except StoreError as error:
            go_on = f"once the store works, go on with: {upload_command(folder)}"
            raise UserError(f"{error}. What arrived is recorded; {go_on}") from error


@final
class BackgroundMirror:
    """Mirrors a folder every few seconds in a thread; failures are reported once and retried ever more rarely.

    Nobody waits for the store longer than `PATIENCE_SECONDS`.

    Args:
        folder: of the run.
        tracking_uri: its store, for the warning.
        flush_seconds: seconds between two mirrorings while all is well.
        on_end: called by each thread as it ends, which may be later than `stop` returns.
    """

    def __init__(
        self, folder: Path, tracking_uri: str | None, flush_seconds: float, on_end: Callable[[], None]
    ) -> None:
        self._folder = folder
        self._uri = tracking_uri
        self._flush_seconds = flush_seconds
        self._on_end = on_end
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._report: MirrorReport | None = None
        self._backoff = 1
        self._has_warned = False

    def start(self) -> None:
        """Start a thread, and wait until the run exists."""
        # Events for this thread alone: one that was left behind in a slow call must not see its successor's.
        self._stopping, found = threading.Event(), threading.Event()
        arguments = (self._thread, self._stopping, found)
        self._thread = threading.Thread(target=self._run, args=arguments, name="redi-lab-mlflow", daemon=True)
        self._thread.start()
        found.wait(PATIENCE_SECONDS)

    def stop(self) -> MirrorReport | None:
        """Mirror what is left (one attempt) and end the thread, or leave it behind in a slow call.

        Returns:
            The report of that attempt; None if it failed or goes on.
        """
        assert self._thread is not None
        self._stopping.set()
        self._thread.join(PATIENCE_SECONDS)
        return None if self._thread.is_alive() else self._report

    def _run(self, before: threading.Thread | None, stopping: threading.Event, found: threading.Event) -> None:
        if before is not None:
            before.join()
        self._attempt(find_or_create)
        found.set()
        while not stopping.wait(self._flush_seconds * self._backoff):
            self._attempt(mirror)
        self._report = self._attempt(mirror)
        self._on_end()

    def _attempt(self, action: Callable[[Path], Any]) -> Any:
        try:
            done = action(self._folder)
            self._backoff = 1
            return done
        except Exception as error:  # whatever happens to a copy of the record, the training goes on
            self._backoff = min(2 * self._backoff, _MAX_BACKOFF)
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            path = self._folder / METRICS_FILE
            _LOG.warning(
                "MLflow store %s fails (%s). Training goes on; metrics are kept in %s.", self._uri, error, path
            )


def upload_command(folder: Path) -> str:
    """The command that completes a run's mirror."""
    return f"redi-lab upload {shlex.quote(str(folder))}"
