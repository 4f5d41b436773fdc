"""What is known locally of a run in a tracking store: `mlflow.json` beside the run's `metrics.jsonl`.

The file says which run in which store the folder belongs to, how far the metrics have been uploaded, and holds an
outbox of everything else (params, tags, datasets, artifacts) with a mark on what has arrived. It is replaced
atomically after every successful upload, so that whatever a crash leaves behind can be completed later, once.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from redi_lab.errors import UserError
from redi_lab.files import write_text

STATE_FILE = "mlflow.json"
METRICS_FILE = "metrics.jsonl"

Kind = Literal["params", "tags", "dataset", "artifact"]


@final
@dataclass
class Item:
    """One thing to upload that is not a metric.

    Attributes:
        kind: What `payload` is.
        payload: params and tags: name to text. dataset: name, digest, source, num_rows, context.
            artifact: path (relative to the output folder when it lies inside it).
        sent: Whether the store has confirmed it.
        revision: Counts how often it was logged; an artifact that is logged again has changed.
    """

    kind: Kind
    payload: dict[str, Any]
    sent: bool = False
    revision: int = 0


@final
@dataclass
class RunState:
    """The content of `mlflow.json`.

    Attributes:
        tracking_uri: Store that the run belongs to.
        experiment_name: MLflow experiment.
        run_name: Name shown in the store.
        artifact_location: Artifact root of a new experiment; None leaves it to the server.
        parent_run_id: Run that this one is nested under.
        key: Random identity, tagged on the run: finds a run whose creation was not confirmed.
        run_id: MLflow's id, None until the run exists.
        experiment_id: MLflow's id of the experiment, None until the run exists.
        creating: Whether a creation was begun and not confirmed.
        uploaded_lines: Lines of `metrics.jsonl` that the store has confirmed.
        uploaded_bytes: Their length.
        status: RUNNING, FINISHED, FAILED or KILLED.
        status_sent: Whether the store has confirmed `status`.
        outbox: Everything else, in order.
    """

    tracking_uri: str
    experiment_name: str
    run_name: str
    artifact_location: str | None = None
    parent_run_id: str | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    experiment_id: str | None = None
    creating: bool = False
    uploaded_lines: int = 0
    uploaded_bytes: int = 0
    status: str = "RUNNING"
    status_sent: bool = True
    outbox: list[Item] = field(default_factory=list)

    def forget_uploads(self) -> None:
        """Mark everything as not uploaded: the run is about to be created anew."""
        self.run_id = self.experiment_id = None
        self.creating = False
        self.key = uuid.uuid4().hex
        self.uploaded_lines = self.uploaded_bytes = 0
        self.status_sent = self.status == "RUNNING"
        for item in self.outbox:
            item.sent = False

    def save(self, output_dir: Path) -> None:
        """Replace `mlflow.json` atomically."""
        write_text(output_dir / STATE_FILE, json.dumps(asdict(self), indent=1) + "\n")


def load_state(output_dir: Path) -> RunState:
    """Read `mlflow.json`.

    Raises:
        UserError: If the folder has none or it cannot be read.
    """
    path = output_dir / STATE_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return RunState(**{**fields, "outbox": [Item(**item) for item in fields["outbox"]]})
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name the output folder of a tracked run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); restore it or delete it to start a new MLflow run") from error
