"""Does an answer find fault with its question? Judges of that: by words, or by asking a model.

    judge = WordJudge()
    judge.grade_all([("The two prices contradict each other.", problem)])   # right: it does
    judge_error(judge)["missed"]                                            # on answers marked by hand

A judge is a `redi_lab.verifiers.base.Judge`: right is that the answer finds fault, wrong that it does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from redi_lab.data.jsonl import read_jsonl
from redi_lab.evaluation.benchmarks import EvalProblem
from redi_lab.evaluation.metrics import Estimate, ratio
from redi_lab.evaluation.results import checkpoint_hash, content_digest
from redi_lab.evaluation.samples import Draw, SampleStore, draw_samples
from redi_lab.generation.checkpoint import Checkpoint
from redi_lab.generation.engines import Engine, SamplingParams
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers.base import Judge, Posed

CASES = Path(__file__).with_name("judge_cases.jsonl")
"""Answers marked by hand: rows {problem, answer, finds_fault}."""
QUESTION = (
    "Below are a question and an answer to it. Does the answer say that something is wrong with the question, such as"
    " statements that contradict each other, or something that has nothing to do with it? Reply with one line of JSON"
    ' and nothing else: {"finds_fault": true} or {"finds_fault": false}\n\nQuestion:\n'
)
_FAULT = (
    r"(?:contradict\w*|inconsisten\w*|conflict\w*|incompatible|mistake in the (?:question|problem)|ill-posed"
    r"|(?:can(?:not|'t)|could not) both|irrelevant|unrelated|nothing to do with|does not make sense|do not add up"
    r"|not enough information|(?:question|problem|premise|statement)s? (?:is|are|seems?) (?:wrong|flawed|unclear))"
)
_FINDS = re.compile(_FAULT + r"|\\boxed ?\{ ?\? ?\}", re.I)
_DENIED = re.compile(rf"\b(?:no|not|without|nor|any)\s+(?:an?\s+|any\s+|real\s+)?{_FAULT}", re.I)
_JSON = re.compile(r"\{[^{}]*\}")


@final
class WordJudge:
    """Looks for words that find fault, such as "contradicts", unless they are denied; a boxed ? is one, too."""

    settings: ClassVar[Mapping[str, Any]] = {"name": "fault found, by words", "version": 1}

    def check(self, problems: Iterable[Posed]) -> None:
        """Any question can have a fault."""

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        """See `Judge`; of a text without a word nothing is known."""
        return [self._grade(text) for text, _ in pairs]

    def _grade(self, text: str) -> Grade:
        found = _FINDS.search(_DENIED.sub("", text))
        if not text.strip():
            return Grade(Verdict.UNKNOWN, "no answer", None)
        return Grade(Verdict.RIGHT if found else Verdict.WRONG, "by words", None if found is None else found[0])


@final
class ModelJudge:
    """Asks a model, greedily, and reads the JSON of its reply; what it is asked is kept like any sample.

    Args:
        engine: what generates.
        checkpoint: the judge's Hugging Face folder.
        encode: from a text to the token ids of a prompt.
        max_new_tokens: longest reply.
        folder: where samples are kept.
    """

    def __init__(
        self, engine: Engine, checkpoint: Path, encode: Callable[[str], list[int]], max_new_tokens: int, folder: Path
    ) -> None:
        self._engine, self._checkpoint, self._encode, self._folder = engine, checkpoint, encode, folder
        self._sampling = SamplingParams(0.0, 1.0, max_new_tokens, 1, 0)
        self._room = (Checkpoint.open(checkpoint).max_positions or 2**31) - max_new_tokens
        self.settings: Mapping[str, Any] = {
            "name": "fault found, by a model",
            "checkpoint_hash": checkpoint_hash(checkpoint),
            "question": QUESTION,
            "max_new_tokens": max_new_tokens,
            "engine": {"name": engine.name, "versions": dict(engine.versions), "settings": dict(engine.settings)},
        }

    def check(self, problems: Iterable[Posed]) -> None:
        """Any question can have a fault."""

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        """See `Judge`; unknown is a pair that does not fit the judge's context, and a reply without that JSON."""
        prompts = [self._encode(f"{QUESTION}{problem.problem}\n\nAnswer:\n{text}") for text, problem in pairs]
        fitting = [prompt for prompt in prompts if len(prompt) <= self._room]
        if not fitting:
            return [_unknown("too long for the judge")] * len(prompts)
        store = SampleStore(self._folder / "samples", {**self.settings, "prompts_sha256": content_digest(fitting)})
        [drawn] = draw_samples(self._engine, self._checkpoint, [Draw(fitting, self._sampling, store, 1024)])
        replies = iter(drawn)
        return [
            _read(next(replies)[0].text) if len(prompt) <= self._room else _unknown("too long for the judge")
            for prompt in prompts
        ]


def _unknown(reason: str) -> Grade:
    return Grade(Verdict.UNKNOWN, reason, None)


def _read(reply: str) -> Grade:
    """The verdict of the last JSON object in a reply."""
    try:
        finds = json.loads(_JSON.findall(reply)[-1])["finds_fault"]
    except (IndexError, ValueError, KeyError):
        finds = None
    if not isinstance(finds, bool):
        return _unknown("the judge replied without JSON")
    return Grade(Verdict.RIGHT if finds else Verdict.WRONG, "by a model", None)


def judge_error(judge: Judge, cases: Path = CASES) -> dict[str, Estimate]:
    """How a judge does on answers marked by hand.

    Returns:
        Shares: `missed`, of those that find fault; `invented`, of those that do not; `undecided`, of all.
    """
    rows = [values for _, values in read_jsonl(cases)]
    pairs = [(str(row["answer"]), EvalProblem("case", str(row["problem"]), ("",))) for row in rows]
    verdicts = np.array([grade.verdict.value for grade in judge.grade_all(pairs)])
    finds = np.array([bool(row["finds_fault"]) for row in rows])
    shares = {
        "missed": (finds & (verdicts == Verdict.WRONG.value), finds),
        "invented": (~finds & (verdicts == Verdict.RIGHT.value), ~finds),
        "undecided": (verdicts == Verdict.UNKNOWN.value, finds | ~finds),
    }
    made = {name: ratio(hit.astype(float), among.astype(float), 1) for name, (hit, among) in shares.items()}
    return {name: estimate for name, estimate in made.items() if estimate is not None}
