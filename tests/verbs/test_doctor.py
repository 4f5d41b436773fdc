"""What `doctor` says of a machine on which something is broken."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import constants

from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.run import preflight
from redi_lab.tracking.store import MlflowStore
from redi_lab.verbs.doctor import command as doctor
from redi_lab.verbs.doctor import machine, services
from redi_lab.verbs.doctor.machine import Finding


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_a_check_that_breaks_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Iterator[Finding]:
        raise RuntimeError("no\nway")

    def fine() -> Iterator[Finding]:
        yield Finding("ok", "here [or there]")
        yield Finding("warning", "slow", "wait")

    checks = {"broken": broken, "fine": fine}, {"elsewhere": fine}
    monkeypatch.setattr(doctor, "make_checks", lambda *_: checks)
    config = load_config("evaluate", ["checkpoint=."], check_paths=False)
    assert not doctor.run_doctor(config, "", "", "table")
    shown = capsys.readouterr().out
    assert "the check itself failed: RuntimeError: no way" in shown
    assert "here [or there]" in shown
    assert "Does not work: broken (" in shown

    del checks[0]["broken"]
    assert doctor.run_doctor(config, "", "", "json")
    told = json.loads(capsys.readouterr().out)
    assert told["elsewhere"][1] == {"status": "warning", "what": "slow", "fix": "wait"}


@pytest.mark.slow
def test_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything, as a user does; whatever else is missing, what tests need is there."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "format=json", f"paths.outputs_dir={tmp_path / 'outputs'}"])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0, found
    assert found["grader"][0]["status"] == found["training"][0]["status"] == "ok"
    assert not (tmp_path / "outputs").exists()


def test_unknown_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["doctor", "now"], ["doctor", "format=xml"], ["doctor", "storage=x"]):
        with pytest.raises(SystemExit):
            main(arguments)
    said = capsys.readouterr().err.splitlines()
    assert "doctor takes no words" in said[0]
    assert "format=xml: must be table or json" in said[1]
    assert "unknown key storage: there are sweep.storage, engine.python, format" in said[2]


def test_old_python_and_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("platform.python_version", lambda: "3.9.1")
        assert only(machine.check_python()).status == "failed"
    assert only(machine.check_python()).status == "ok"
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["pytest>=1", "rich>=99", "no-such-thing"]')
    (tmp_path / "requirements.lock").write_text("# pinned\npytest==1.0\nno-such-thing==3\n")
    ranges, lock = machine.check_packages(tmp_path)
    assert (ranges.status, lock.status) == ("failed", "warning")
    assert ranges.what.endswith("wanted >=99; no-such-thing is missing, wanted ")
    assert lock.what.endswith("no-such-thing missing for 3")
    assert next(machine.check_packages()).status == "ok"


def test_more_threads_than_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    _, threads = machine.check_torch()
    assert threads == Finding("warning", "8 threads wait for 1 cores", "export OMP_NUM_THREADS=1")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert only(machine.check_folder(tmp_path / "new" / "folder", "key")).status in ("ok", "warning")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    finding = only(machine.check_folder(tmp_path / "file" / "folder", "paths.outputs_dir"))
    assert (finding.status, finding.fix) == ("failed", "paths.outputs_dir=FOLDER")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_FEW_BYTES", 10**18)
    assert only(machine.check_folder(tmp_path, "key")).status == "warning"


def test_text_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    finding = only(machine.check_text())
    assert finding.status == "warning"
    assert finding.what.startswith("not UTF-8: files ANSI_X3.4-1968")
    assert finding.fix == "export PYTHONUTF8=1"
    assert only(machine.check_processes()).status == "ok"


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for is_there, status in ((True, "ok"), (False, "warning")):
        monkeypatch.setattr(preflight, "is_hub_reachable", lambda is_there=is_there: is_there)
        assert only(services.check_hub()).status == status
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert only(services.check_hub()).what.startswith("switched off by HF_HUB_OFFLINE; ")


def test_a_store_that_is_locked_or_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"

    def check() -> Finding:
        return only(services.check_mlflow(uri, "redi_lab"))

    assert check() == Finding("ok", f"{path}: made by the first run")
    assert not path.exists()
    MlflowStore(uri, "redi_lab")
    assert check().what.startswith(f"{path}: can be written, schema ")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        finding = check()
    assert (finding.status, finding.fix) == ("warning", "end what holds it (redi-lab ui?)")
    path.write_text("this is no database" * 100)
    assert "file is not a database" in check().what
    assert only(services.check_mlflow(None, "redi_lab")).status == "ok"


def test_the_storage_of_sweeps(tmp_path: Path) -> None:
    assert only(services.check_optuna("")).status == "ok"
    assert only(services.check_optuna(f"sqlite:///{tmp_path}/a.db")).what.endswith("a.db: 0 studies")
    (tmp_path / "file").touch()
    assert only(services.check_optuna(f"sqlite:///{tmp_path}/file/a.db")).status == "failed"
    unknown = only(services.check_optuna("oracle://me:secret@host/db"))
    assert unknown.status == "failed"
    assert "secret" not in unknown.what


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
    finding = only(services.check_vllm(str(python)))
    assert finding.status == status
    assert what in finding.what


def test_a_training_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_TINY", ("loss.alhpa=1",))
    finding = only(services.check_training())
    assert finding.status == "failed"
    assert "unknown key loss.alhpa" in finding.what
    assert finding.fix == "redi-lab loss.alhpa=1 debug=traceback"
