"""The local record of a run besides its metrics, and what its tracking store has confirmed.

`record.json` says what the run is; only its logger writes it. `mlflow.json` says which run of which store mirrors it,
and how far; only the mirror writes it. Both are replaced atomically, so the two threads need no lock between them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, final

from pydantic import BaseModel, Field

from redi_lab.errors import UserError, in_short
from redi_lab.files import write_text

METRICS_FILE = "metrics.jsonl"
RECORD_FILE = "record.json"
STATE_FILE = "mlflow.json"
LOCK = ".record.lock"
"""Held by the one process that writes a record or mirrors it."""

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
_File = TypeVar("_File", bound=BaseModel)


@final
class RunRecord(BaseModel):
    """The content of `record.json`.

    Attributes:
        name: name shown in a store.
        experiment: MLflow experiment.
        key: random identity, a tag of the run in every store: finds it there whatever else was lost.
        status: how the run is doing.
        tags: name to text.
        params: dotted name to text.
        artifacts: files to show in a store; relative to the folder if they are inside it.
    """

    name: str
    experiment: str
    key: str = Field(default_factory=lambda: uuid.uuid4().hex)
    status: Status = "RUNNING"
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    artifacts: list[str] = []

    def save(self, folder: Path) -> None:
        """Replace `record.json`."""
        write_text(folder / RECORD_FILE, self.model_dump_json(indent=1) + "\n")


@final
class RunState(BaseModel):
    """The content of `mlflow.json`.

    Attributes:
        tracking_uri: store that mirrors the run.
        run_id: MLflow's id, None until the run exists there.
        experiment_id: MLflow's id of the experiment, None until the run exists.
        offset: bytes of `metrics.jsonl` that the store has confirmed.
        artifacts: path to size and time of the artifacts that it has confirmed.
    """

    tracking_uri: str
    run_id: str | None = None
    experiment_id: str | None = None
    offset: int = 0
    artifacts: dict[str, tuple[int, int]] = {}

    def save(self, folder: Path) -> None:
        """Replace `mlflow.json`."""
        write_text(folder / STATE_FILE, self.model_dump_json(indent=1) + "\n")


def load_record(folder: Path) -> RunRecord:
    """Read `record.json`.

    Raises:
        UserError: the folder has none, or it cannot be read.
    """
    record = _load(RunRecord, folder / RECORD_FILE)
    if record is None:
        raise UserError(f"{folder / RECORD_FILE} does not exist: name the output folder of a run")
    return record


def load_state(folder: Path) -> RunState | None:
    """Read `mlflow.json`; None if no store was ever named for the run.

    Raises:
        UserError: it cannot be read.
    """
    return _load(RunState, folder / STATE_FILE)


def _load(kind: type[_File], path: Path) -> _File | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({in_short(error)}); restore it, or delete it and name a store") from error


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, dotted name to text."""
    flat: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat
