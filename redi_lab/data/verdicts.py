"""What is known of a generation, in three values: right (True), wrong (False), or unknown (None) with its reason.

    decide(generation, is_truncated=False, has_answer=True)  # Decision(correct=None, reason="verifiers disagree")

A wrong negative poisons preference training, so "not known to be right" and "known to be wrong" are kept apart. What
becomes of the unknown ones is the caller's choice.
"""

from __future__ import annotations

from typing import NamedTuple

from redi_lab.data.traces import Generation

RIGHT = "right"
WRONG = "wrong"
DISAGREEMENT = "verifiers disagree"
NO_VERDICT = "a verifier gave no verdict"
NOT_ASKED = "no verifier was asked"
TRUNCATED = "truncated"
NO_ANSWER = "no final answer"

THOUGHT_TAGS = (
    ("<think>", "</think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
)
COMPLETE_REASONS = frozenset({"stop", "eos", "end_turn", "stop_sequence"})
"""Finish reasons of a teacher that was not cut off."""


class Decision(NamedTuple):
    """A verdict and why: RIGHT, WRONG, or the reason why nothing is known."""

    correct: bool | None
    reason: str


def truncation(generation: Generation, opening: str = "") -> str | None:
    """Why a generation is incomplete, or None if it seems complete.

    Args:
        generation: its text and, where the corpus has it, its finish reason.
        opening: text that opened the teacher's turn, such as ``"<think>"``; it is not part of any generation.

    Returns:
        "finish reason length", or "no </think>" where a tag was opened and never closed.
    """
    if generation.finish_reason is not None and generation.finish_reason.lower() not in COMPLETE_REASONS:
        return f"finish reason {generation.finish_reason}"
    text = generation.text if generation.text.startswith(opening) else opening + generation.text
    for start, end in THOUGHT_TAGS:
        if text.rfind(start) > text.rfind(end):  # -1 where a tag is missing
            return f"no {end}"
    return None


def decide(generation: Generation, *, is_truncated: bool, has_answer: bool) -> Decision:
    """The verdict that all verifiers support.

    Args:
        generation: with the words of its verifiers.
        is_truncated: see `truncation`.
        has_answer: whether a final answer is stated; a refusal for want of one says nothing about the reasoning.

    Returns:
        Right if every verifier that was asked accepts it. Wrong if every one rejects it, and it is complete and states
        an answer. Everything else is unknown.
    """
    words = [word for _, word in generation.verdicts]
    if words and all(words):
        return Decision(True, RIGHT)
    if is_truncated:
        return Decision(None, TRUNCATED)
    if not words:
        return Decision(None, NOT_ASKED)
    if None in words:
        return Decision(None, generation.unknown_reason or NO_VERDICT)
    if any(words):
        return Decision(None, DISAGREEMENT)
    return Decision(False, WRONG) if has_answer else Decision(None, NO_ANSWER)
