"""Completes the MLflow copy of a run whose store failed: `redi-lab upload OUTPUT_DIR`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import filelock

from redi_lab.errors import UserError
from redi_lab.tracking.logger import writer_lock
from redi_lab.tracking.state import load_state
from redi_lab.tracking.store import StoreError, sqlite_path
from redi_lab.tracking.synchroniser import Synchroniser, upload_command


@final
@dataclass(frozen=True)
class UploadReport:
    """What an upload did.

    Attributes:
        run_id: The MLflow run.
        tracking_uri: Its store.
        lines: Lines of `metrics.jsonl` that were sent now.
        items: Params, tags, datasets and artifacts that were sent now.
        missing_artifacts: Artifacts that could not be sent because their files are gone.
    """

    run_id: str
    tracking_uri: str
    lines: int
    items: int
    missing_artifacts: tuple[str, ...]


def upload(output_dir: Path | str, tracking_uri: str | None = None) -> UploadReport:
    """Send the part of a run that its store lacks; doing it again sends nothing.

    A run whose process was killed is ended as KILLED. A run that the store has lost is created anew, as a whole.

    Args:
        output_dir: Folder with `mlflow.json` and `metrics.jsonl`.
        tracking_uri: Another store than the run's own: the run is copied there as a whole and belongs there from now
            on.

    Raises:
        UserError: If the folder is no tracked run, the run is still going on, or the store fails.
    """
    folder = Path(output_dir).absolute()
    load_state(folder)  # before a lock file is made in a folder that is no run
    try:
        with writer_lock(folder):
            return _upload(folder, tracking_uri)
    except filelock.Timeout:
        raise UserError(f"{folder} is still being written; upload it when the run has ended") from None
    except StoreError as error:
        command = upload_command(folder)
        raise UserError(f"{error}. What arrived is recorded; once the store works, go on with: {command}") from error


def _upload(folder: Path, tracking_uri: str | None) -> UploadReport:
    state = load_state(folder)
    if tracking_uri is not None and tracking_uri != state.tracking_uri:
        sqlite_path(tracking_uri)
        state.forget_uploads()
        state.tracking_uri, state.artifact_location, state.parent_run_id = tracking_uri, None, None
    if state.status == "RUNNING":
        state.status, state.status_sent = "KILLED", False
    synchroniser = Synchroniser(folder, state)
    synchroniser.connect()  # may find that the store lost the run, and mark everything unsent
    unsent = [item for item in state.outbox if not item.sent]
    lines = synchroniser.sync()
    assert state.run_id is not None
    missing = tuple(str(item.payload["path"]) for item in unsent if not item.sent)
    return UploadReport(state.run_id, state.tracking_uri, lines, len(unsent) - len(missing), missing)
