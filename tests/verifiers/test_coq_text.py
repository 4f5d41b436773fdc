# ruff: noqa: E501 (a case is a line)
"""What of a model's text Coq may be given."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redi_lab.grading.grader import Verdict
from redi_lab.verifiers.coq_text import RefusedError, Statement, find_proof, read_sentences, with_tools

LIBRARIES = ["Lia", "List", "mathcomp.ssreflect.seq"]
PROOF = "Proof.\n  intros n.\n  lia.\nQed."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"So:\n```coq\n{PROOF}\n```\nDone.", PROOF),
        (f"```\nProof. Qed.\n```\nNo, better:\n```coq\n{PROOF}\n(* end *)\n```", PROOF),
        (f"```coq\n{PROOF}\n```\nand in Python:\n```python\nprint(1)\n```", PROOF),
        (f"It holds.\nLemma a : True.\n{PROOF}\nThis ends it.", f"Lemma a : True.\n{PROOF}"),
        (f"```coq\n{PROOF[:-4]}", None),  # cut off
        ("```coq\nCheck 1.\n```", None),
        ("The proof is left to the reader. Qed.", None),
        ("Proof by induction, and so on.", None),
        ("", None),
    ],
)
def test_the_proof_is_the_last_block_that_ends_one_or_begins_with_a_command(text: str, found: str | None) -> None:
    assert find_proof(text) == found


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Proof. auto.\n\n  Qed.", ["Proof.", "auto.", "Qed."]),
        ("(* a (* nested \" *) Load x. *)Proof.\tnow\n auto. Qed.", ["Proof.", "now auto.", "Qed."]),
        ("Proof. - { split. } + 1: lia. all: auto. Qed.", ["Proof.", "- { split.", "} + 1: lia.", "all: auto.", "Qed."]),
        ("Lemma a : Nat.add 1 1 = 2. reflexivity. Qed.", ["Lemma a : Nat.add 1 1 = 2.", "reflexivity.", "Qed."]),
        ("Require Import Lia. From Coq Require Import Lists.List Lia.", None),
        ("From Coq.Lists Require Import List. From mathcomp.ssreflect Require Import seq.", None),
        ("Require Import Coq.micromega.Lia. Import ListNotations. Open Scope nat_scope.", None),
        ("Definition f (x : nat) := x. Fixpoint g (n : nat) := 0. Ltac t := auto. (idtac). [> auto ].", None),
    ],
)  # fmt: skip
def test_what_coq_is_given(text: str, sentences: list[str] | None) -> None:
    found = read_sentences(text, LIBRARIES)
    assert found == sentences or (sentences is None and len(found) > 1)


HOSTILE = [
    'Declare ML Module "x".', "Load evil.", 'Load "/tmp/x".', 'Redirect "x" Print nat.', 'Cd "/tmp".', "Drop.",
    'Add LoadPath "/tmp" as X.', 'Add ML Path "/tmp".', 'Extraction "x.ml" f.', "Recursive Extraction f.",
    "Separate Extraction f.", "Require Import Extraction.", "Require Evil.", "From Evil Require Import Lia.",
    "Require Import Evil.Lia.", "Require Import Lia Evil.", "From Coq Require Import extraction.Extraction.",
    "Require Import Lia.Load.", "From Coq Require Import Lia. Load evil.", "#[local] Load evil.", "Local Load evil.",
    "Time Print x.", "Fail Print x.", "Timeout 3 Print x.", "- Print x.", "{ Print x.", "} } + 1: { Print x.",
    "all: Print x.", "2,3 : Print x.", "[x]: { Print x.", "[x] : Print x.", "[ x ]:{ Axiom a : False.", "all: { Print x.", "!: { Print x.", "1 : 2 : { Print x.", "auto.\nPrint x.", "auto. (* c *) Print x.",
    "auto.(**)Print x.", "(* (* *) *) Print x.", "(*) auto. *) Print x.", "auto.\rPrint x.", "auto.\fPrint x.",
    "auto.\x0bPrint x.", "auto.\u00a0Print x.", "auto.\u2028Print x.", "auto.\x00Print x.", "\ufeffPrint x.",
    "native_compute.", "exact (ltac:(native_compute)).", "par: auto.", "par : auto.", "psatz Z 2.",
    "Print nat.", "Check nat.", "Set Guard Checking.", "Unset Guard Checking.", "#[bypass_check(guard)] Fixpoint f := f.",
    "Section S.", "End Given.", "End Asked.", "Module M.", "Notation x := y.", "Hint Resolve x.", "Print Assumptions x.",
    "Reset Initial.", "Back 3.", "Restart.", "Undo.", "Abort All.", "Goal False.", "Ltac2 x := 1.", "Search nat.",
    "Primitive x := y.", "Register x as y.", "Canonical x.", "Coercion f : x >-> y.", "Instance x : y.", "Let x := 1.",
    'idtac "x".', "exact \"x\".", "*) auto.", "(* never ends", "( auto. Qed" + "." * 3 + " Load x.", "", ".", "Ｌoad x.",
    "auto" * 6000 + ".",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_could_do_harm_is_refused_and_unknown(text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read_sentences(f"Proof. {text} Qed." if text else "", LIBRARIES)
    assert caught.value.verdict in (Verdict.UNKNOWN, *([Verdict.WRONG] if "Abort" in text else []))


@pytest.mark.parametrize(
    "text", ["Admitted.", "Axiom x : False.", "Parameter x : False.", "- Abort.", "Conjecture x : 1."]
)
def test_what_leaves_something_unproved_is_wrong(text: str) -> None:
    with pytest.raises(RefusedError, match="leaves something unproved") as caught:
        read_sentences(f"Proof. auto. {text}", LIBRARIES)
    assert caught.value.verdict is Verdict.WRONG


COMMANDS = ["Load x", "Axiom a : False", "Redirect y", "Cd z", "Set Debug", "Print LoadPath", "Declare ML Module m"]


@given(st.lists(st.sampled_from([". ", ".", " ", "\n", "(*", "*)", "{", "}", "- ", "1: ", "auto", "Qed", *COMMANDS])))
def test_no_sentence_that_is_given_is_another_command(parts: list[str]) -> None:
    """As Coq divides a text that has neither comments nor strings: at a dot before a space."""
    try:
        given_to_coq = "\n".join(read_sentences("".join(parts), LIBRARIES))
    except RefusedError:
        return
    assert "(*" not in given_to_coq
    for sentence in given_to_coq.replace("\n", " ").split(". "):
        head = sentence.lstrip("{}-+* 1:")
        assert not head.startswith(tuple(COMMANDS)), given_to_coq


@pytest.mark.parametrize(
    "text", ["(*" * 9_000, "```a\n" * 4_000, "- " * 9_000, "1," * 9_000, "a.b" * 6_000, "Require A" * 2_000]
)
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    find_proof(text)
    find_proof("Proof. " + text)
    with pytest.raises(RefusedError):
        read_sentences(f"Require {text}. Load x.", LIBRARIES)
    assert time.process_time() - start < 1.0


def test_a_statement_is_read_before_the_proof_and_compared_with_what_was_proved() -> None:
    statement = Statement.read(["Require Import Lia. Lemma a : 1 = 1."], LIBRARIES)
    assert statement == (["Require Import Lia."], "Lemma a : 1 = 1.", "a")
    assert statement.completed(["Proof.", "auto.", "Qed."]) == ["Lemma a : 1 = 1.", "Proof.", "auto.", "Qed."]
    proof = statement.completed(["Require Import Lia.", "Lemma b : 1 = 1.", "auto.", "Qed."])
    lines, of_proof = statement.checking(proof, ["Require Import List."], "MARK")
    assert lines == [
        *(
            "Require Import Lia.",
            "Module Asked.",
            "Lemma a : 1 = 1.",
            "Admitted.",
            "End Asked.",
            "Require Import List.",
        ),
        *("Module Given.", "Lemma b : 1 = 1.", "auto.", "Qed.", "End Given."),
        "Definition proved : ltac:(let t := type of Asked.a in exact t) := Given.b.",
        'Goal True. idtac "MARK". Abort.',
        "Print Assumptions proved.",
    ]
    assert of_proof == range(7, 10)


@pytest.mark.parametrize(
    "answers",
    [[], ["7"], ["x = y."], ["Lemma a : 1 = 1. auto."], ["Load x. Lemma a : True."], ["Lemma a : 1.", "Lemma b : 2."]],
)
def test_what_is_no_statement_is_refused(answers: list[str]) -> None:
    with pytest.raises(RefusedError):
        Statement.read(answers, LIBRARIES)


@pytest.mark.parametrize(
    ("place", "mended"),
    [
        (1, ["Proof.", "all: solve [T].", "- a.", "b.", "- { c.", "} d.", "Qed."]),
        (2, ["Proof.", "i.", "- all: solve [T].", "- { c.", "} d.", "Qed."]),
        (3, ["Proof.", "i.", "- a.", "all: solve [T].", "- { c.", "} d.", "Qed."]),
        (4, ["Proof.", "i.", "- a.", "b.", "- { all: solve [T].", "} d.", "Qed."]),
        (5, ["Proof.", "i.", "- a.", "b.", "- { c.", "} all: solve [T].", "Qed."]),
        (0, None),
        (6, None),
    ],
)
def test_tools_take_the_place_of_a_tactic_and_of_those_behind_it(place: int, mended: list[str] | None) -> None:
    assert with_tools(["Proof.", "i.", "- a.", "b.", "- { c.", "} d.", "Qed."], place, "T") == mended
