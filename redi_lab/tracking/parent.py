"""A parent run for each command, under which its stages are nested."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from redi_lab.errors import RunInterruptedError
from redi_lab.tracking.store import MlflowStore, RunMissingError, StoreError

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
    store, run_id = _open(tracking_uri, experiment_name, name, tags or {}, artifact_location, run_id)
    status = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    except (KeyboardInterrupt, RunInterruptedError):
        status = "KILLED"
        raise
    finally:
        if store is not None and run_id is not None:
            _end(store, run_id, status)


def _open(
    tracking_uri: str,
    experiment_name: str,
    name: str,
    tags: Mapping[str, str],
    artifact_location: str | None,
    run_id: str | None,
) -> tuple[MlflowStore | None, str | None]:
    try:
        store = MlflowStore(tracking_uri, experiment_name, artifact_location)
        if run_id is not None and _is_reopened(store, run_id):
            return store, run_id
        run_id = store.create_run(name, uuid.uuid4().hex)
        store.set_tags(run_id, tags)
    except StoreError as error:
        _LOG.warning("MLflow store %s fails (%s); stages will not be nested under a run", tracking_uri, error)
        return None, None
    return store, run_id


def _is_reopened(store: MlflowStore, run_id: str) -> bool:
    try:
        store.check_run(run_id)
    except RunMissingError:
        return False
    store.set_status(run_id, "RUNNING")
    return True


def _end(store: MlflowStore, run_id: str, status: str) -> None:
    try:
        store.set_status(run_id, status)
    except StoreError as error:
        _LOG.warning("MLflow store %s fails (%s); parent run %s stays open", store.tracking_uri, error, run_id)
