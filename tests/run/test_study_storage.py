"""Where studies are kept: what is refused, and that the lock excludes."""

from __future__ import annotations

import threading
from pathlib import Path

import optuna
import pytest

from redi_lab.errors import UserError
from redi_lab.redaction import redact
from redi_lab.run.study_storage import check_storage, open_storage, study_lock


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///study.db", "give the file an absolute path: sqlite:////absolute/path"),
        ("journal://host/x", "give the file an absolute path: journal:////absolute/path"),
        ("study.db", "must begin with sqlite:///, journal:/// or postgresql://"),
        ("mysql+pymysql://u:secret@h/d", "mysql+pymysql://u:***@h/d: must begin with"),
        (
            "postgresql+no_such_driver://u:secret@h/d",
            "postgresql+no_such_driver://u:***@h/d: its driver is not installed",
        ),
    ],
)
def test_a_url_is_refused_without_connecting(url: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_storage(url)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_password_is_never_shown() -> None:
    assert redact("mysql+pymysql://me:pass@db:3306/x") == "mysql+pymysql://me:***@db:3306/x"
    assert redact("sqlite:////tmp/a.db") == "sqlite:////tmp/a.db"


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_study_is_found_again(kind: str, tmp_path: Path) -> None:
    url = f"{kind}:///{tmp_path}/new folder/study"
    check_storage(url)
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    study.tell(study.ask(), 1.0)
    assert len(optuna.load_study(study_name="s", storage=open_storage(url)).trials) == 1


def test_an_unwritable_place_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be opened"):
        open_storage(f"sqlite:///{tmp_path}/file/study.db")


def test_the_lock_excludes(tmp_path: Path) -> None:
    url, order = f"sqlite:///{tmp_path}/study.db", list[str]()

    def second() -> None:
        with study_lock(url):
            order.append("second")

    with study_lock(url):
        other = threading.Thread(target=second)
        other.start()
        other.join(timeout=0.3)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
