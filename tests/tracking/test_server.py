from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from redi_lab.errors import UserError
from redi_lab.tracking.server import runs_url, ui_command
from redi_lab.tracking.store import import_client

REPOSITORY = Path(__file__).parents[2]


def test_the_ui_is_reachable_from_this_machine_only() -> None:
    command = ui_command("sqlite:////data/outputs/mlflow.db", 5001)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    options = dict(itertools.pairwise(command))
    assert options["--host"] == "127.0.0.1"
    assert options["--port"] == "5001"
    assert options["--workers"] == "1"
    assert options["--default-artifact-root"] == "/data/outputs/mlflow-artifacts"


def test_a_remote_store_is_refused() -> None:
    with pytest.raises(UserError, match="is not a local database"):
        ui_command("http://127.0.0.1:5000")


def test_the_ui_opens_on_the_runs_of_training_with_their_columns(tracking_uri: str) -> None:
    """Also of an experiment that was made without them."""
    client = import_client()(tracking_uri=tracking_uri)
    number = client.create_experiment("older")
    url = urlsplit(runs_url(tracking_uri, "older", 5001))
    assert url.netloc == "127.0.0.1:5001"
    route = urlsplit(url.fragment)
    query = parse_qs(route.query)
    assert route.path == f"/experiments/{number}/runs"
    assert query["workflowType"] == ["machine_learning"]
    tags = client.get_experiment(number).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{query['viewStateShareKey'][0]}"])
    assert view["selectedColumns"] == ["metrics.`eval/pass_at_1`", "params.`objective`", "params.`optimizer.lr`"]


def test_a_store_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database")
    with pytest.raises(UserError, match=r"mlflow\.db"):
        runs_url(f"sqlite:///{tmp_path / 'mlflow.db'}", "redi_lab")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_the_ui_ends_its_children(tmp_path: Path, number: signal.Signals) -> None:
    """The server is replaced by a shell with a child of its own, which ignores the death of its parent."""
    pids = tmp_path / "pids"
    fake = f"sleep 300 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait"
    script = (
        "import sys\n"
        "from redi_lab.tracking import server\n"
        f"server.ui_command = lambda uri, port: ['sh', '-c', {fake!r}]\n"
        "sys.exit(server.serve_ui('sqlite:////x/mlflow.db'))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY) as ui:
        deadline = time.monotonic() + 60
        while not pids.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ui.send_signal(number)
        assert ui.wait(timeout=30) == 0
    for pid in map(int, pids.read_text().split()):
        assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an unreaped orphan still has a number
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")
