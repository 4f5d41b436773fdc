"""A parent run for each command, under which its stages are nested."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from redi_lab.errors import RunInterruptedError
from redi_lab.tracking.store import MlflowStore, RunMissingError, StoreError, import_client, sqlite_path
from redi_lab.tracking.synchroniser import PATIENCE_SECONDS

_LOG = logging.getLogger(__name__)


@contextmanager
def parent_run(
    tracking_uri: str,
    experiment_name: str,
    name: str,
    tags: Mapping[str, str] | None = None,
    artifact_location: str | None = None,
    run_id: str | None = None,
) -> Iterator[str | None]:
    """Open a run for the time of a block; give its id to the loggers of the stages as `parent_run_id`.

    It ends as FINISHED, KILLED (a signal) or FAILED (any other exception). A store that fails costs the nesting and one
    warning, never the command.

    Args:
        tracking_uri: MLflow tracking URI.
        experiment_name: MLflow experiment, created if absent.
        name: Name of the run in the UI.
        tags: Tags of the run.
        artifact_location: See `MlflowStore`.
        run_id: A run to go on with; another is opened if the store has it no more.

    Yields:
        The run id; None if the run could not be created, and on ranks other than zero.

    Raises:
        UserError: If the URI is unusable.
    """
    if rank_zero_only.rank not in (0, None):
        yield None
        return
    sqlite_path(tracking_uri)  # a relative path is a mistake, not a failing store
    import_client()
    run = _Run(tracking_uri, experiment_name, artifact_location, name, tags or {}, run_id)
    thread = threading.Thread(target=run.live, name="redi-lab-mlflow-parent", daemon=True)
    thread.start()
    if not run.opened.wait(PATIENCE_SECONDS):
        _LOG.warning("MLflow store %s does not answer; stages will not be nested under a run", tracking_uri)
    try:
        yield run.run_id
        run.status = "FINISHED"
    except (KeyboardInterrupt, RunInterruptedError):
        run.status = "KILLED"
        raise
    finally:
        run.ended.set()
        thread.join(PATIENCE_SECONDS)


@final
class _Run:
    """The life of a parent run, in a thread of its own: the command waits for the store only so long.

    Attributes:
        run_id: of the run once `opened` is set; None where the store fails. A run to go on with keeps its id even so.
        status: with which it is to end.
        opened: set when that is known.
        ended: to be set when the command has ended.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        artifact_location: str | None,
        name: str,
        tags: Mapping[str, str],
        run_id: str | None,
    ) -> None:
        self._store = uri, experiment, artifact_location
        self._name, self._tags = name, tags
        self.run_id = run_id
        self.status = "FAILED"
        self.opened, self.ended = threading.Event(), threading.Event()

    def live(self) -> None:
        """Open the run, wait for the end of the command, and record how that was."""
        try:
            store = MlflowStore(*self._store)
            self._open(store)
        except StoreError as error:
            _LOG.warning("MLflow store %s fails (%s); stages may not be nested under a run", self._store[0], error)
            return
        finally:
            self.opened.set()
        self.ended.wait()
        try:
            assert self.run_id is not None
            store.set_status(self.run_id, self.status)
        except StoreError as error:
            _LOG.warning("MLflow store %s fails (%s); parent run %s stays open", store.tracking_uri, error, self.run_id)

    def _open(self, store: MlflowStore) -> None:
        if self.run_id is not None and _is_reopened(store, self.run_id):
            return
        self.run_id = store.create_run(self._name, uuid.uuid4().hex)
        self.opened.set()
        store.set_tags(self.run_id, self._tags)


def _is_reopened(store: MlflowStore, run_id: str) -> bool:
    try:
        store.check_run(run_id)
    except RunMissingError:
        return False
    store.set_status(run_id, "RUNNING")
    return True
