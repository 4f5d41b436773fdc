from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from redi_lab.tracking.logger import RunLogger
from redi_lab.tracking.state import load_state


def test_mlflow_reads_the_tables_back(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        rows = {"columns": ["id", "answer"], "data": [["a", "</script>"], [name, "2"]]}
        (tmp_path / f"samples_{name}.json").write_text(json.dumps(rows))
    logger = RunLogger(tmp_path, "run", experiment="tables", tracking_uri=tracking_uri)
    logger.log_tables([tmp_path / "samples_one.json", tmp_path / "samples_two.json"])
    logger.finalize("success")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)  # load_table looks for runs there, whatever the client
    client, state = MlflowClient(tracking_uri), load_state(tmp_path)
    assert state is not None
    where = {"experiment_id": state.experiment_id, "run_ids": [logger.version]}
    table = client.load_table(artifact_file="samples_two.json", **where)
    assert table["id"].tolist() == ["a", "two"]
    assert table["answer"].tolist() == ["</script>", "2"]
    assert len(client.load_table(artifact_file="samples_one.json", **where)) == 2
