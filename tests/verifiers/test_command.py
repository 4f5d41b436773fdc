"""A program of the user's as verifier: what it says counts, and what becomes of it costs no more than one verdict."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from redi_lab.data.traces import HeldOut
from redi_lab.errors import UserError
from redi_lab.verifiers.base import Limits
from redi_lab.verifiers.command import CommandVerifier

PROGRAM = """
import json, os, sys, time
starts = open({starts!r}, "a")
starts.write("x")
starts.close()
for line in sys.stdin:
    row = json.loads(line)
    text = row["completion"]
    if text == "die":
        print("first line\\nValueError: cannot " + "go on", file=sys.stderr, flush=True)
        sys.exit(3)
    if text == "kill":
        os.kill(os.getpid(), 9)
    if text == "hang":
        time.sleep(60)
    if text == "mute":
        os.close(1)
        time.sleep(60)
    if text == "noise":
        print("a line for debugging", flush=True)
    if text == "late":
        row["id"] -= 1
    verdict = "perhaps" if text == "odd" else "right" if text in row["answers"] else "wrong"
    reply = {{"id": row["id"], "verdict": verdict, "reason": row["problem"]}}
    print(json.dumps(reply), flush=True)
"""
PROBLEM = HeldOut("a", "1+1?", ("2", "two"))


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    return tmp_path / "starts"


@pytest.fixture
def verifier(tmp_path: Path, starts: Path) -> Iterator[CommandVerifier]:
    program = tmp_path / "mine.py"
    program.write_text(PROGRAM.format(starts=str(starts)))
    with CommandVerifier(Limits(timeout_seconds=3.0), [sys.executable, "-S", str(program)]) as made:
        yield made


def test_one_process_gives_all_verdicts(verifier: CommandVerifier, starts: Path) -> None:
    texts = ["2", "3", "two", "", '2\n{"id": 9}\u2028\ud800 "', "x" * 300_000]
    for _ in range(2):
        grades = verifier.grade_all([(text, PROBLEM) for text in texts])
        assert [grade.verdict for grade in grades] == ["right", "wrong", "right", "wrong", "wrong", "wrong"]
        assert {grade.reason for grade in grades} == {"1+1?"}
    assert starts.read_text() == "x"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("die", "it ended with status 3: ValueError: cannot go on"),
        ("kill", "it ended with status -9: it printed nothing"),
        ("hang", "no verdict in 3 s"),
        ("noise", "no verdict on 2, but 'a line for debugging'"),
        ("odd", "no verdict on 2, but "),
        ("late", "no verdict on 2, but "),
    ],
)
def test_what_becomes_of_it_costs_one_verdict_and_one_line(
    text: str, reason: str, verifier: CommandVerifier, starts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        first, failed, last = verifier.grade_all([("2", PROBLEM), (text, PROBLEM), ("2", PROBLEM)])
    assert (first.verdict, failed.verdict, last.verdict) == ("right", "unknown", "right")
    assert failed.reason.startswith(f"the verifier failed: {reason}")
    assert starts.read_text() == "xx"
    [record] = caplog.records
    assert record.getMessage().startswith("verifier.command=[")
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_program_that_gives_no_verdict_at_all_ends_the_command(verifier: CommandVerifier) -> None:
    with pytest.raises(
        UserError, match=r"^verifier\.command=\[.*mine\.py\]: it ended with status 3: .* 3 attempts: corr"
    ):
        verifier.grade_all([("die", PROBLEM)] * 9)


def test_a_program_that_has_answered_is_asked_again_and_again(verifier: CommandVerifier) -> None:
    grades = verifier.grade_all([(text, PROBLEM) for text in ["2", *["die"] * 4, "2"]])
    assert [grade.verdict for grade in grades] == ["right", *["unknown"] * 4, "right"]


def test_what_is_no_program_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    with (
        CommandVerifier(Limits(), [str(tmp_path / "text")]) as made,
        pytest.raises(UserError, match="cannot be started"),
    ):
        made.grade_all([("2", PROBLEM)] * 3)


def test_it_ends_with_its_input_and_what_it_started_ends_too(tmp_path: Path) -> None:
    """It says goodbye when there is nothing left to read; a child of it that stays is killed."""
    child = tmp_path / "child"
    program = (
        "import json, subprocess, sys\n"
        "made = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        f"open({str(child)!r}, 'w').write(str(made.pid))\n"
        "for line in sys.stdin: print(json.dumps({'id': json.loads(line)['id'], 'verdict': 'unknown'}), flush=True)\n"
        f"open({str(tmp_path / 'goodbye')!r}, 'w')\n"
    )
    with CommandVerifier(Limits(), [sys.executable, "-c", program]) as made:
        [grade] = made.grade_all([("2", PROBLEM)])
    assert (grade.verdict, grade.reason) == ("unknown", "")
    assert (tmp_path / "goodbye").exists()
    status = Path(f"/proc/{child.read_text()}/stat")
    deadline = time.monotonic() + 5
    while status.exists() and status.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_settings_know_the_content_of_the_program(verifier: CommandVerifier, tmp_path: Path) -> None:
    before = verifier.settings
    assert before["name"] == "command"
    assert set(before["files"]) == {sys.executable, str(tmp_path / "mine.py")}
    with (tmp_path / "mine.py").open("a") as program:
        program.write("# more\n")
    assert verifier.settings != before
