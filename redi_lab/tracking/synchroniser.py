"""Brings a tracking store up to date with the local record of a run, now or in the background.

The local files are the queue: metrics are read back from `metrics.jsonl` behind the last confirmed line, everything
else waits in the outbox of `mlflow.json`. So a slow or broken store costs the training nothing but disk space.
"""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from redi_lab.tracking.journal import Record, read_records
from redi_lab.tracking.state import METRICS_FILE, Item, Kind, RunState
from redi_lab.tracking.store import MAX_METRICS_PER_CALL, MlflowStore, RunMissingError

_LOG = logging.getLogger(__name__)
_MAX_BACKOFF = 32
PATIENCE_SECONDS = 30.0
"""The longest that a command waits for a store, at the beginning and at the end of a run."""


@final
class Synchroniser:
    """Owns the state of one run and uploads what the store lacks. Safe to use from two threads.

    Args:
        output_dir: Folder of `metrics.jsonl` and `mlflow.json`.
        state: The run; saved in `output_dir` at every change.
    """

    def __init__(self, output_dir: Path, state: RunState) -> None:
        self.output_dir = output_dir
        self.state = state
        self._store: MlflowStore | None = None
        self._state_lock = threading.RLock()
        self._sync_lock = threading.Lock()

    @property
    def is_complete(self) -> bool:
        """Whether the store has confirmed everything recorded so far."""
        journal = self.output_dir / METRICS_FILE
        size = journal.stat().st_size if journal.exists() else 0
        with self._state_lock:
            state = self.state
            rest_is_sent = state.status_sent and all(item.sent for item in state.outbox)
            return state.run_id is not None and state.uploaded_bytes >= size and rest_is_sent

    def add(self, kind: Kind, payload: dict[str, Any]) -> None:
        """Put something in the outbox. What is there already is not sent twice, except artifacts: files change."""
        with self._state_lock:
            same = [item for item in self.state.outbox if item.kind == kind and item.payload == payload]
            if not same:
                self.state.outbox.append(Item(kind, payload))
            elif kind == "artifact":
                same[0].sent = False
                same[0].revision += 1
            self.state.save(self.output_dir)

    def set_status(self, status: str) -> None:
        """Record the status of the run: RUNNING, FINISHED, FAILED or KILLED."""
        with self._state_lock:
            self.state.status = status
            self.state.status_sent = False
            self.state.save(self.output_dir)

    def connect(self) -> None:
        """Open the store and find or create the run, unless that is done.

        Raises:
            StoreError: If the store fails.
        """
        with self._sync_lock:
            self._connect()

    def sync(self) -> int:
        """Upload everything that the store lacks.

        Returns:
            The number of metric lines sent.

        Raises:
            StoreError: If the store fails; what it has confirmed until then is recorded.
            UserError: If `metrics.jsonl` is damaged.
        """
        with self._sync_lock:
            store, run_id = self._connect()
            lines = self._send_metrics(store, run_id)
            for item in list(self.state.outbox):
                if not item.sent:
                    self._send_item(store, run_id, item)
            self._send_status(store, run_id)
            return lines

    def _connect(self) -> tuple[MlflowStore, str]:
        state = self.state
        if self._store is not None and state.run_id is not None:
            return self._store, state.run_id
        store = MlflowStore(state.tracking_uri, state.experiment_name, state.artifact_location)
        if state.run_id is not None:
            try:
                store.check_run(state.run_id)
            except RunMissingError:
                _LOG.warning(
                    "run %s is not in %s any more: uploading it as a new run", state.run_id, state.tracking_uri
                )
                with self._state_lock:
                    state.forget_uploads()
        if state.run_id is None:
            self._create_run(store)
        assert state.run_id is not None
        self._store = store
        return store, state.run_id

    def _create_run(self, store: MlflowStore) -> None:
        state = self.state
        # A creation may have succeeded although its answer was lost: look before creating another.
        run_id = store.find_run(state.key) if state.creating else None
        with self._state_lock:
            state.creating = True
            state.save(self.output_dir)
        if run_id is None:
            run_id = store.create_run(state.run_name, state.key, state.parent_run_id)
        with self._state_lock:
            state.run_id, state.experiment_id, state.creating = run_id, store.experiment_id, False
            state.save(self.output_dir)

    def _send_metrics(self, store: MlflowStore, run_id: str) -> int:
        journal = self.output_dir / METRICS_FILE
        if not journal.exists():
            return 0
        lines = metrics = 0
        batch: list[Record] = []
        for record in read_records(journal, self.state.uploaded_bytes):
            if batch and metrics + len(record.metrics) > MAX_METRICS_PER_CALL:
                lines += self._send_batch(store, run_id, batch)
                batch, metrics = [], 0
            batch.append(record)
            metrics += len(record.metrics)
        return lines + (self._send_batch(store, run_id, batch) if batch else 0)

    def _send_batch(self, store: MlflowStore, run_id: str, batch: list[Record]) -> int:
        store.log_metrics(run_id, batch)
        with self._state_lock:
            self.state.uploaded_lines += len(batch)
            self.state.uploaded_bytes = batch[-1].end
            self.state.save(self.output_dir)
        return len(batch)

    def _send_item(self, store: MlflowStore, run_id: str, item: Item) -> None:
        revision = item.revision
        is_sent = self._send(store, run_id, item)
        with self._state_lock:
            item.sent = is_sent and item.revision == revision  # an artifact that changed meanwhile is sent again
            self.state.save(self.output_dir)

    def _send(self, store: MlflowStore, run_id: str, item: Item) -> bool:
        match item.kind:
            case "params":
                store.log_params(run_id, item.payload)
            case "tags":
                store.set_tags(run_id, item.payload)
            case "dataset":
                store.log_dataset(run_id, **item.payload)
            case "artifact":
                path = self.output_dir / item.payload["path"]
                if not path.exists():
                    _LOG.warning("artifact %s is gone: not uploaded", path)
                    return False
                store.log_artifact(run_id, path)
        return True

    def _send_status(self, store: MlflowStore, run_id: str) -> None:
        with self._state_lock:
            status, is_sent = self.state.status, self.state.status_sent
        if is_sent:
            return
        store.set_status(run_id, status)
        with self._state_lock:
            self.state.status_sent = self.state.status == status
            self.state.save(self.output_dir)


@final
class BackgroundSync:
    """Runs a synchroniser every few seconds in a thread; failures are reported once and retried ever more rarely.

    Nobody waits for the store longer than `PATIENCE_SECONDS`.

    Args:
        synchroniser: What to run.
        flush_seconds: Seconds between uploads while all is well.
        on_end: Called by each thread as it ends, which may be later than `stop` returns.
    """

    def __init__(self, synchroniser: Synchroniser, flush_seconds: float, on_end: Callable[[], None]) -> None:
        self._synchroniser = synchroniser
        self._flush_seconds = flush_seconds
        self._on_end = on_end
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_warned = False
        self._backoff = 1

    def start(self) -> None:
        """Start the thread unless it runs, and wait until the run exists."""
        if self._thread is None:
            # Events of its own: a thread that was left behind in a slow call must not hear of its successor.
            self._stopping, connected = threading.Event(), threading.Event()
            arguments = (self._stopping, connected)
            self._thread = threading.Thread(target=self._run, args=arguments, name="redi-lab-mlflow", daemon=True)
            self._thread.start()
            connected.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        """Upload what is left (one attempt) and end the thread, or leave it behind in a slow call."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join(PATIENCE_SECONDS)
            self._thread = None

    def _report(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            state, folder = self._synchroniser.state, self._synchroniser.output_dir
            _LOG.warning(
                "MLflow store %s fails (%s). Training goes on; metrics are kept in %s.",
                state.tracking_uri,
                error,
                folder / METRICS_FILE,
            )

    def _run(self, stopping: threading.Event, connected: threading.Event) -> None:
        self._attempt(self._synchroniser.connect)
        connected.set()
        while not stopping.wait(self._flush_seconds * self._backoff):
            self._attempt(self._synchroniser.sync)
        self._attempt(self._synchroniser.sync)
        self._on_end()

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
            self._backoff = 1
        except Exception as error:  # nothing that happens to a copy of the record may end the training
            self._backoff = min(2 * self._backoff, _MAX_BACKOFF)
            self._report(error)


def upload_command(output_dir: Path) -> str:
    """The command that completes a run's upload."""
    return f"redi-lab upload {shlex.quote(str(output_dir))}"
