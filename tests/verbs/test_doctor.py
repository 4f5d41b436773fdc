"""What `doctor` says of a machine on which something is broken."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import constants

from redi_lab.cli import main
from redi_lab.run import preflight
from redi_lab.tracking.store import MlflowStore, StoreError
from redi_lab.verbs import doctor as checks
from redi_lab.verbs.doctor import Finding, examine


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_a_check_that_breaks_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[Finding]:
        raise RuntimeError("no\nway")

    def fine() -> Iterator[Finding]:
        yield Finding("ok", "here [or there]")
        yield Finding("warning", "slow", "wait")

    assert not examine({"broken": broken, "fine": fine})
    shown = capsys.readouterr().out
    assert "the check itself failed: RuntimeError: no way" in shown
    assert "here [or there]" in shown
    assert "Does not work: broken\n" in shown
    assert examine({"fine": fine})
    assert "slow" in capsys.readouterr().out


@pytest.mark.slow
def test_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything, as a user does; whatever else is missing, what tests need is there."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", f"paths.outputs_dir={tmp_path / 'outputs'}"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0, shown
    assert "two steps of a tiny student" in shown
    assert not (tmp_path / "outputs").exists()


def test_unknown_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["doctor", "now"], ["doctor", "storage=x"]):
        with pytest.raises(SystemExit):
            main(arguments)
    said = capsys.readouterr().err.splitlines()
    assert "doctor takes no words" in said[0]
    assert "unknown key storage: there are engine.python" in said[1]


def test_old_python_and_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(checks.check_versions()).status == "ok"
    wanted = ["pytest>=1", "rich>=99", "no-such-thing", "nor-this; extra == 'dev'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: wanted)
    monkeypatch.setattr("platform.python_version", lambda: "3.9.1")
    python, packages = checks.check_versions()
    assert (python.status, packages.status) == ("failed", "failed")
    assert python.what.startswith("Python 3.9.1 on ")
    assert packages.what.endswith("wanted >=99; no-such-thing is missing, wanted ")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert only(checks.check_folder(tmp_path / "new" / "folder", "key")).status in ("ok", "warning")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    finding = only(checks.check_folder(tmp_path / "file" / "folder", "paths.outputs_dir"))
    assert (finding.status, finding.fix) == ("failed", "paths.outputs_dir=FOLDER")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_FEW_BYTES", 10**18)
    assert only(checks.check_folder(tmp_path, "key")).status == "warning"


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for is_there, status in ((True, "ok"), (False, "warning")):
        monkeypatch.setattr(preflight, "is_hub_reachable", lambda is_there=is_there: is_there)
        assert only(checks.check_hub()).status == status
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert only(checks.check_hub()).what == "switched off by HF_HUB_OFFLINE"


def test_a_store_that_does_not_work_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise StoreError("schema 1, wanted 2")

    (tmp_path / "m.db").touch()
    monkeypatch.setattr("redi_lab.tracking.store.MlflowStore", refuse)
    finding = only(checks.check_mlflow(f"sqlite:///{tmp_path}/m.db", "redi_lab"))
    assert (finding.status, finding.what.split(";")[0]) == ("warning", "schema 1, wanted 2")
    assert finding.fix.startswith("logger.tracking_uri=URI")


def test_a_store_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    assert only(checks.check_mlflow(f"sqlite:///{path}", "redi_lab")).status == "ok"
    assert not path.exists()
    assert only(checks.check_mlflow(None, "redi_lab")).status == "ok"


@pytest.mark.slow
def test_a_real_store_that_is_locked_or_no_database(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    MlflowStore(f"sqlite:///{path}", "redi_lab")
    assert only(checks.check_mlflow(f"sqlite:///{path}", "redi_lab")).status == "ok"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert "locked" in only(checks.check_mlflow(f"sqlite:///{path}", "redi_lab")).what
    path.write_text("this is no database" * 100)
    assert "file is not a database" in only(checks.check_mlflow(f"sqlite:///{path}", "redi_lab")).what


@pytest.mark.parametrize(
    ("script", "status", "what"),
    [
        ("echo 0.32.0", "ok", "0.32.0 in "),
        ("echo 'ImportError: libcuda.so' >&2; exit 1", "failed", "ImportError: libcuda.so"),
        (None, "failed", "cannot be run (No such file or directory)"),
    ],
)
def test_vllm_elsewhere(script: str | None, status: str, what: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(python.stat().st_mode | stat.S_IEXEC)
    finding = only(checks.check_vllm(str(python)))
    assert finding.status == status
    assert what in finding.what


def test_a_training_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of the command; a whole training that succeeds is part of `test_this_machine`."""
    monkeypatch.setattr(checks, "_TINY", ("loss.alhpa=1",))
    said = subprocess.CompletedProcess[str]([], 2, "", "warning\nredi_lab: unknown key loss.alhpa\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: said)
    finding = only(checks.check_training())
    assert (finding.status, finding.what) == ("failed", "redi_lab: unknown key loss.alhpa")
    assert finding.fix == "redi-lab loss.alhpa=1 debug=traceback"
