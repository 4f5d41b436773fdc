# ruff: noqa: E501 (a case is a line)
"""Verdicts on proofs: with a stand-in for coqc, and with Coq where REDI_LAB_TEST_COQC names its coqc."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from yaml import safe_load

from redi_lab.config.compose import CONFIG_DIR
from redi_lab.data.traces import HeldOut
from redi_lab.errors import UserError
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers import coq
from redi_lab.verifiers.base import WITH_TOOLS, Limits
from redi_lab.verifiers.coq import CoqVerifier
from tests.conftest import REPOSITORY

LIBRARIES = ["Lia", "List"]
PROBLEM = HeldOut("a", "Prove it.", ("Require Import Lia. Lemma a : 1 = 1.",))
STAND_IN = r"""#!/bin/sh
echo "$0 $*" >> {log}
[ "$1" = --version ] && echo "The Coq Proof Assistant, version 8.16.1" && exit
for file; do :; done
has() {{ grep -q "$1" "$file"; }}
fail() {{
    line=$(grep -n "$1" "$file" | head -n 1 | cut -d: -f1)
    printf 'Welcome\nFile "./given.v", line %s, characters 2-5:\nError:\n%s\nthere.\n\n' "$line" "$2" >&2
    exit 1
}}
has Hammer && exit {hammer}
has secrets && {{ env >&2; pwd >&2; exit 2; }}
has hang && sleep 60
has hungry && exec {python} -c "x = bytes(2**31)"
has chatty && exec yes
has crash && kill -SEGV $$
has anomaly && fail anomaly "Anomaly: Uncaught exception"
has deep && fail deep "Stack overflow."
has "Lemma a : 2 = 2" && fail "Definition proved" "has type 2 = 2"
has "Lemma a : odd" && fail "Lemma a : odd" "odd not found"
has oops && fail oops "Cannot
  unify"
has worse && fail worse "No such goal"
echo "Closed under the global context"
has unmarked && exit
sed -n 's/.*idtac "\(.*\)".*/\1/p' "$file"
has classical && printf 'Axioms:\nclassic : forall P : Prop,\n  P \\/ ~ P\n' && exit
has several && printf 'Axioms:\nclassic : x\nf is assumed to be guarded.\n' && exit
has silent && exit
echo "Closed under the global context"
"""


@pytest.fixture
def verifier(tmp_path: Path) -> Callable[..., CoqVerifier]:
    """A verifier with the stand-in; `log` beside it has a line for each call."""

    def make(
        tactics: tuple[str, ...] = (), axioms: tuple[str, ...] = (), hammer: int = 1, timeout_seconds: float = 20.0
    ) -> CoqVerifier:
        program = tmp_path / "coqc"
        program.write_text(STAND_IN.format(log=tmp_path / "log", python=sys.executable, hammer=hammer))
        program.chmod(0o755)
        return CoqVerifier(Limits(2, timeout_seconds, 512), str(program), LIBRARIES, axioms, tactics)

    return make


def proof(*tactics: str) -> str:
    return "```coq\nProof.\n  " + " ".join(f"{tactic}." for tactic in tactics) + "\nQed.\n```"


@pytest.mark.parametrize(
    ("text", "verdict", "reason"),
    [
        (proof("auto"), "right", "proved"),
        (proof("auto", "oops", "auto"), "wrong", "Cannot unify there. [at: oops.]"),
        ("Lemma a : 2 = 2. Proof. auto. Qed.", "wrong", "does not prove a: has type 2 = 2"),
        ("It is obvious.", "unknown", "no finished proof"),
        (proof("auto")[:-10], "unknown", "no finished proof"),
        ("Lemma a : 1 = 1. Proof. Admitted.", "wrong", "leaves something unproved: Admitted"),
        (proof("Load x"), "unknown", "Load is not given to Coq"),
        ("Require Import Evil. " + proof("auto")[8:-4], "unknown", "requires Evil, which verifier.libraries"),
        (proof("hungry"), "unknown", "coqc failed with status 1"),
        (proof("crash"), "unknown", "coqc failed with status"),
        (proof("anomaly"), "unknown", "coqc failed with status 1: Anomaly"),
        (proof("deep"), "unknown", "coqc failed with status 1: Stack overflow"),
        (proof("classical"), "wrong", "rests on what is not proved: classic"),
        (proof("several"), "wrong", "rests on what is not proved: classic, f"),
        (proof("silent"), "wrong", "rests on what is not proved: "),
        (proof("unmarked"), "unknown", "coqc did not say what it rests on"),
    ],
)
def test_verdicts(text: str, verdict: str, reason: str, verifier: Callable[..., CoqVerifier]) -> None:
    [grade] = verifier().grade_all([(text, PROBLEM)])
    assert grade.verdict == verdict, grade
    assert grade.reason.startswith(reason), grade


def test_axioms_that_are_allowed(verifier: Callable[..., CoqVerifier]) -> None:
    texts = [proof("classical"), proof("several")]
    grades = verifier(axioms=("classic",)).grade_all([(text, PROBLEM) for text in texts])
    assert [(grade.verdict, grade.reason) for grade in grades] == [
        ("right", "proved, with axioms"),
        ("wrong", "rests on what is not proved: f"),
    ]


def test_a_prover_that_hangs_gives_unknown_in_time_and_is_gone(
    verifier: Callable[..., CoqVerifier], tmp_path: Path
) -> None:
    start = time.monotonic()
    grades = verifier(tactics=("auto",), timeout_seconds=1.0).grade_all([(proof("hang"), PROBLEM)])
    assert [(grade.verdict, grade.reason) for grade in grades] == [("unknown", "timeout")]
    assert time.monotonic() - start < 15
    assert (tmp_path / "log").read_text().count("\n") == 1
    running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _command(path).startswith(b"sleep\x0060\x00")]
    assert [path for path in running if os.getpgid(int(path.parent.name)) == int(path.parent.name)] == []


def _command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_what_a_proof_prints_is_bounded(verifier: Callable[..., CoqVerifier], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coq, "_FILE_BLOCKS", 64)
    [grade] = verifier().grade_all([(proof("chatty"), PROBLEM)])
    assert (grade.verdict, grade.reason[:23]) == ("unknown", "coqc failed with status")


def test_coqc_sees_an_empty_folder_and_no_secret(
    verifier: Callable[..., CoqVerifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "furtive")
    monkeypatch.setenv("COQPATH", "/mine")
    [grade] = verifier().grade_all([(proof("secrets"), PROBLEM)])
    assert "furtive" not in grade.reason
    assert "COQPATH=/mine" in grade.reason
    folder = Path(grade.reason.rpartition(" ")[2])
    assert folder.name.startswith("redi_lab_coq_")
    assert not folder.exists()


def test_what_is_wrong_with_the_statement_is_no_fault_of_the_proof(verifier: Callable[..., CoqVerifier]) -> None:
    problems = [HeldOut("a", "", (answer,)) for answer in ("Lemma a : odd.", "7", 'Load "x". Lemma a : True.')]
    grades = verifier().grade_all([(proof("auto"), problem) for problem in problems])
    assert [grade.verdict for grade in grades] == ["unknown"] * 3
    assert [grade.reason[:15] for grade in grades] == ["its statement: "] * 3
    verifier().check([PROBLEM, problems[0]])  # which Coq alone can tell
    for problem in problems[1:]:
        with pytest.raises(UserError, match=r"^verifier=coq: the answer of a is no statement to prove \(.*Lemma same"):
            verifier().check([PROBLEM, problem])


def test_equal_proofs_are_compiled_once_and_verdicts_keep_their_order(
    verifier: Callable[..., CoqVerifier], tmp_path: Path
) -> None:
    texts = [proof("auto"), proof("oops"), f"Again: {proof('auto')}", "nothing", proof("auto")]
    grades = verifier().grade_all([(text, PROBLEM) for text in texts])
    assert [grade.verdict for grade in grades] == ["right", "wrong", "right", "unknown", "right"]
    assert (tmp_path / "log").read_text().count("\n") == 2


def test_what_tools_mend_stays_wrong_and_is_told_apart(verifier: Callable[..., CoqVerifier]) -> None:
    texts = [proof("auto"), proof("x", "oops", "y"), proof("- oops", "y", "- worse"), proof("- hang"), proof("silent")]
    made = verifier(tactics=("auto", "lia", "hammer"), timeout_seconds=5.0)
    grades = made.grade_all([(text, PROBLEM) for text in texts])
    assert [grade.verdict for grade in grades] == ["right", "wrong", "wrong", "unknown", "wrong"]
    assert grades[1].reason == f"{WITH_TOOLS} (1 used): Cannot unify there. [at: oops.]"
    assert grades[2].reason.startswith(f"{WITH_TOOLS} (2 used): Cannot unify")
    assert grades[4].reason.startswith("rests on")


def test_tools_that_do_not_help_leave_the_first_error(verifier: Callable[..., CoqVerifier]) -> None:
    made = verifier(tactics=("oops",))  # also fails with it
    [grade] = made.grade_all([(proof("oops"), PROBLEM)])
    assert grade == Grade(Verdict.WRONG, "Cannot unify there. [at: oops.]", "Proof.\n  oops.\nQed.")


@pytest.mark.parametrize(("status", "tactics"), [(0, ["auto", "hammer"]), (1, ["auto"])])
def test_hammer_is_a_tool_where_it_is_installed(
    status: int, tactics: list[str], verifier: Callable[..., CoqVerifier], tmp_path: Path
) -> None:
    settings = verifier(tactics=("auto", "hammer"), hammer=status).settings
    assert settings == {
        "name": "coq",
        "rules": 1,
        "version": "8.16.1",
        "libraries": LIBRARIES,
        "axioms": [],
        "tactics": tactics,
        "timeout_seconds": 20.0,
        "memory_mb": 512,
    }


def test_what_is_no_coqc_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("#!/bin/sh\necho Hello,\necho there\n")
    (tmp_path / "other").chmod(0o755)
    made = CoqVerifier(Limits(), str(tmp_path / "other"), [], [], [])
    with pytest.raises(
        UserError, match=r"^verifier\.coqc=/.*/other: does not tell Coq's version \(Hello, there\); give"
    ):
        _ = made.settings


def lemmas() -> list[dict[str, str]]:
    file = REPOSITORY / "redi_lab" / "verifiers" / "coq_lemmas.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def as_problem(row: dict[str, str]) -> HeldOut:
    return HeldOut(row["id"], row["statement"], (row["statement"],))


def listed(key: str) -> list[str]:
    return [str(value) for value in safe_load((CONFIG_DIR / "verifier" / "coq.yaml").read_text())[key]]


def test_the_lemmas_are_forty_statements_each_with_a_proof(verifier: Callable[..., CoqVerifier]) -> None:
    rows = lemmas()
    assert len({row["id"] for row in rows}) == len({row["statement"] for row in rows}) == len(rows) == 40
    made = CoqVerifier(Limits(), str(verifier()._coqc), listed("libraries"), [], [])
    made.check(map(as_problem, rows))
    grades = made.grade_all((row["proof"], as_problem(row)) for row in rows)
    assert [grade for grade in grades if grade.verdict != "right"] == []


@pytest.fixture
def real() -> CoqVerifier:
    program = os.environ.get("REDI_LAB_TEST_COQC")
    if program is None:
        pytest.skip("set REDI_LAB_TEST_COQC to a coqc")
    return CoqVerifier(Limits(2, 120.0, 1024), program, listed("libraries"), [], listed("tactics"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_coq_accepts_every_reference_proof_and_no_shortcut(real: CoqVerifier) -> None:
    rows = lemmas()
    grades = real.grade_all((row["proof"], as_problem(row)) for row in rows)
    assert {row["id"]: grade for row, grade in zip(rows, grades, strict=True) if grade.verdict != "right"} == {}
    short = real.grade_all(("Proof. reflexivity. Qed.", as_problem(row)) for row in rows[:12])
    assert {grade.verdict for grade in short} == {"wrong"}


SUM = HeldOut("sum", "", ("From Coq Require Import Arith. Lemma sum : forall a b : nat, a + b = b + a.",))
REAL = [
    ("Lemma sum : forall a b : nat, a + b = b + a. Proof. exact Nat.add_comm. Qed.", "right", "proved"),
    ("Lemma h : forall a, a + 0 = a. Proof. auto. Qed. Lemma sum : forall b a : nat, b + a = a + b. Proof. intros. apply Nat.add_comm. Qed.", "right", "proved"),
    ("Require Import Lia. Theorem other : forall a b, a + b = b + a. Proof. lia. Qed.", "right", "proved"),
    ("Proof. exact Asked.sum. Qed.", "wrong", "rests on what is not proved: Asked.sum"),
    ("Proof. intros. admit. Qed.", "wrong", "(in proof sum): Attempt to save a proof with given up goals"),
    ("Proof. intros. give_up. Qed.", "wrong", "(in proof sum): Attempt to save a proof with given up goals"),
    ("Lemma sum : forall a : nat, a = a. Proof. auto. Qed.", "wrong", "does not prove sum: "),
    ("Definition nat := bool. Definition sum' := tt. Lemma sum : forall a : nat, a = a. Proof. auto. Qed.", "wrong", "does not prove sum: "),
    ("Inductive eq (A : Type) (x y : A) : Prop := c. Lemma sum : forall a b : nat, eq nat (a + b) (b + a). Proof. intros. apply c. Qed.", "wrong", "does not prove sum: "),
    ("Fixpoint f (n : nat) : False := f n. Lemma sum : forall a b : nat, a + b = b + a. Proof. intros. destruct (f 0). Qed.", "wrong", "Recursive definition of f is ill-formed"),
    ("Inductive bad := mk (f : bad -> False). Lemma sum : forall a b : nat, a + b = b + a. Proof. Qed.", "wrong", "Non strictly positive occurrence"),
    ("Require Import Classical. Lemma sum : forall a b : nat, a + b = b + a. Proof. intros. destruct (classic (a + b = b + a)) as [H | H]; [exact H | destruct H; apply Nat.add_comm]. Qed.", "wrong", "rests on what is not proved: Classical_Prop.classic"),
    ("Proof. intros a b. idtac Closed under the global context. auto. Qed.", "wrong", ""),
    ("Proof. do 1000000000 idtac. Qed.", "unknown", "timeout"),
    ("Proof. assert (2000 * 2000 = 1) by (vm_compute; reflexivity). Qed.", "unknown", "coqc failed"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_coq_accepts_no_trick(real: CoqVerifier) -> None:
    real._listed, real._limits = [], Limits(2, 20.0, 1024)
    grades = real.grade_all((text, SUM) for text, *_ in REAL)
    for (text, verdict, reason), grade in zip(REAL, grades, strict=True):
        assert (grade.verdict, grade.reason[: len(reason)]) == (verdict, reason), (text, grade)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_tools_of_coq_mend_proofs(real: CoqVerifier) -> None:
    texts = {
        "Proof. intros. reflexivity. Qed.": 1,
        "Proof. intros a b. destruct a. - reflexivity. - simpl. rewrite nothing. reflexivity. Qed.": 2,
        "Lemma sum : forall a b : nat, a + b = a. Proof. auto. Qed.": 0,
        "Proof. intros a b. Qed.": 0,
    }
    assert real.settings["tactics"][:7] == ["auto", "lia", "nia", "ring", "field", "lra", "intuition"]
    grades = real.grade_all((text, SUM) for text in texts)
    assert {grade.verdict for grade in grades} == {"wrong"}
    assert [grade.reason.startswith(WITH_TOOLS) for grade in grades] == [bool(number) for number in texts.values()]
    assert [f"({number} used)" in grade.reason for number, grade in zip(texts.values(), grades, strict=True)][:2] == [
        True,
        True,
    ]
