"""Several ways to ask the same problems, and what they change.

Each way is a condition of a protocol. It puts words around a problem, or goes on after the answers of another one:

    asked, doubted = Condition("asked"), Condition("doubted", after="asked", follow_up="Are you sure?")
    prompt = asked.put("1+1?")                      # "1+1?"
    doubted.go_on(prompt, "2", "1+1?")              # three turns
    changes(before, after)["right_to_wrong"]        # of answers that were right, the share that is wrong now
    spread([plain, polite, rude])                   # verdicts: do the prompts differ at all?
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from redi_lab.data.chats import Dialogue, as_dialogue
from redi_lab.evaluation.comparison import POWER, mean_squares
from redi_lab.evaluation.metrics import CONFIDENCE, Estimate, Verdicts, ratio, t_quantile
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.grading.grader import Verdict

_SHUFFLES = 1_999
_PLACES = re.compile(r"\{(problem|reason)\}")


@final
@dataclass(frozen=True, slots=True)
class Condition:
    """One way to ask.

    Attributes:
        name: unique in a protocol.
        system: the system message.
        prefix: stands before the problem, on a line of its own.
        suffix: stands behind it, likewise.
        problem_key: column of a benchmark's rows that takes the problem's place.
        steps: how each step of a trace is written that stands below the problem, with `{number}` and `{text}`; right is
            not an accepted answer, but the number of the first wrong step, or 0 where none is.
        after: the condition whose answers this one goes on from.
        follow_up: what the user then says; `{problem}` stands for the problem, `{reason}` for that of the verdict.
        only_wrong: it goes on from wrong answers alone; the others stay as they are.
        is_judged: right is not an accepted answer, but finding fault with the question.
        against: the condition that it is compared with; None: the one that it follows, or the first of its kind.
    """

    name: str
    system: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    problem_key: str | None = None
    steps: str | None = None
    after: str | None = None
    follow_up: str | None = None
    only_wrong: bool = False
    is_judged: bool = False
    against: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a prompt, for the protocol of a result; empty where the problem is asked as it is."""
        return {key: value for key, value in asdict(self).items() if value and key not in ("name", "after", "against")}

    def put(self, problem: str) -> str:
        """The problem with what stands around it; as it is where the condition goes on from another."""
        if self.after is not None:
            return problem
        dialogue = as_dialogue(problem)
        first = "\n".join(part for part in (self.prefix, dialogue.turns[0], self.suffix) if part)
        system = dialogue.system if self.system is None else self.system
        if len(dialogue.turns) == 1 and system is None:
            return first
        return Dialogue([first, *dialogue.turns[1:]], system)

    def go_on(self, prompt: str, answer: str, problem: str, reason: str = "") -> Dialogue:
        """The prompt after an answer to another prompt, which got a verdict for that reason."""
        before, words = as_dialogue(prompt), {"problem": problem, "reason": reason}
        further = _PLACES.sub(lambda found: words[found[1]], self.follow_up or "")
        return Dialogue([*before.turns, answer, further], before.system)


def conditions_of(
    named: Mapping[str, Mapping[str, Any]], combined: Mapping[str, Mapping[str, Sequence[str]]]
) -> list[Condition]:
    """The conditions of a protocol.

    Args:
        named: the attributes of each by its name.
        combined: by place (system, prefix or suffix), then part: texts, of which every combination of one for each part
            is a condition. It is named by their numbers, and the texts of a place stand in the order of its parts.
    """
    conditions = [Condition(name, **settings) for name, settings in named.items()]
    parts = [(place, part, texts) for place, those in combined.items() for part, texts in those.items()]
    for choice in product(*(enumerate(texts, start=1) for _, _, texts in parts)) if parts else ():
        chosen = [(place, part, number, text) for (place, part, _), (number, text) in zip(parts, choice, strict=True)]
        words: dict[str, Any] = {
            place: " ".join(text for at, _, _, text in chosen if at == place and text) or None for place in combined
        }
        conditions.append(Condition("-".join(f"{part}{number}" for _, part, number, _ in chosen), **words))
    return conditions


def changes(before: EvaluationResult, after: EvaluationResult) -> dict[str, Estimate]:
    """What becomes of answers.

    Args:
        before: the answers.
        after: those that follow, of each problem a multiple of their number.

    Returns:
        `right_to_wrong`, `right_to_unknown`, `wrong_to_right`, `wrong_to_unknown`: shares, by the verdict before,
        without those of whose kind there was no answer. An answer that cannot be read is neither right nor wrong.
    """
    number = int(after.metrics["num_samples"])
    old = np.repeat(_verdicts(before), number // int(before.metrics["num_samples"]), axis=1)
    new = _verdicts(after)
    found: dict[str, Estimate] = {}
    for first, last in (("right", "wrong"), ("right", "unknown"), ("wrong", "right"), ("wrong", "unknown")):
        is_first = old == first
        hits, counts = (is_first & (new == last)).sum(axis=1), is_first.sum(axis=1)
        estimate = ratio(hits.astype(np.float64), counts.astype(np.float64), number)
        if estimate is not None:
            found[f"{first}_to_{last}"] = estimate
    return found


def length_ratio(new: EvaluationResult, old: EvaluationResult) -> Estimate:
    """Mean tokens of new completions over those of old ones, paired over problems, with a t-interval of its logarithm.

    Args:
        new: completions.
        old: of the same problems in the same order, two or more.
    """
    a, b = (
        np.array([row.num_tokens for row in one.rows]).reshape(-1, int(one.metrics["num_samples"])).mean(axis=1)
        for one in (new, old)
    )
    count, value = len(a), float(a.sum() / b.sum())
    half = t_quantile(count - 1) * float((a - value * b).std(ddof=1)) * math.sqrt(count) / float(a.sum())
    samples = int(min(one.metrics["num_samples"] for one in (new, old)))
    return Estimate(value, value * math.exp(-half), value * math.exp(half), None, count, samples)


def _verdicts(result: EvaluationResult) -> NDArray[np.str_]:
    """Shape (problems, samples)."""
    return np.array([row.verdict for row in result.rows]).reshape(-1, int(result.metrics["num_samples"]))


def balanced_pairs(
    before: EvaluationResult, after: EvaluationResult, prompts: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Pairs to learn from when to yield: as many that teach to keep a right answer as to give up a wrong one.

    A pair has a right and a wrong completion of the same dialogue. Where the answer in it was right, the right one
    resists the question that follows, else it accepts it. Source: arXiv 2410.14596, whose trees of dialogues have two
    models and more turns.

    Args:
        before: the answers.
        after: those that follow.
        prompts: what stands before each row of `after`; equal ones are one dialogue.

    Yields:
        Rows for `data=jsonl`, the kinds in turn: id, kind (resist, accept), prompt (messages), chosen, rejected.
    """
    each = len(after.rows) // len(before.rows)
    dialogues: dict[tuple[str, str], dict[str, tuple[str, Dialogue, str]]] = {}
    for place, (row, prompt) in enumerate(zip(after.rows, prompts, strict=True)):
        first = before.rows[place // each]
        if row.finish_reason == "stop" and row.text.strip() and first.text.strip():
            completions = dialogues.setdefault((first.verdict, prompt), {})
            completions.setdefault(row.verdict, (f"{row.id}/{first.sample}", as_dialogue(prompt), row.text))
    kinds: dict[str, list[dict[str, Any]]] = {Verdict.RIGHT: [], Verdict.WRONG: []}
    for (verdict, _), completions in dialogues.items():
        if verdict in kinds and {"right", "wrong"} <= completions.keys():
            name, dialogue, chosen = completions["right"]
            kind, rejected = "resist" if verdict == Verdict.RIGHT else "accept", completions["wrong"][2]
            pair = {"id": name, "kind": kind, "prompt": dialogue.messages, "chosen": chosen, "rejected": rejected}
            kinds[verdict].append(pair)
    for both in zip(*kinds.values(), strict=False):
        yield from both


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """How far conditions lie apart.

    Attributes:
        deviation: standard deviation of their true pass@1 beyond chance, with its 95 % interval.
        noise: the standard deviation that a condition's pass@1 would have if all were equal.
        range: from the lowest pass@1 to the highest.
        p_value: how often equal conditions would lie as far apart.
        detectable: the smallest true difference of two conditions that these problems find four times out of five.
    """

    deviation: Estimate
    noise: float
    range: float
    p_value: float
    detectable: float


def spread(conditions: Sequence[Verdicts]) -> Spread:
    """Do ways to ask differ, and by how much more than chance alone makes them?

    Scores are laid out as conditions × problems. The variance between conditions is (MS_c − MS_e)/problems, MS_e being
    what neither conditions nor problems explain, and its interval that of an F ratio. The test shuffles the conditions
    on each problem, always in the same ways.

    Args:
        conditions: verdicts, shape (problems, samples), of the same problems; two conditions or more, two problems or
            more.
    """
    scores = np.stack([correct.mean(axis=1) for correct in conditions])
    count, problems = scores.shape
    of_conditions, _, left = mean_squares(scores)
    freedom, freedom_left = count - 1, (count - 1) * (problems - 1)
    quantiles = (special.fdtri(freedom, freedom_left, (1 + sign * CONFIDENCE) / 2) for sign in (1, -1))
    variances = ((of_conditions / quantile - left) / problems for quantile in (1.0, *quantiles))
    value, low, high = (math.sqrt(max(0.0, variance)) for variance in variances)
    generator, observed, extreme = np.random.default_rng(0), scores.mean(axis=1).var(), 1
    for _ in range(_SHUFFLES):
        extreme += generator.permuted(scores, axis=0).mean(axis=1).var() >= observed - 1e-12
    quantile = t_quantile(freedom_left) + t_quantile(freedom_left, POWER)
    samples = min(correct.shape[1] for correct in conditions)
    means = scores.mean(axis=1)
    return Spread(
        Estimate(value, low, high, None, problems, samples),
        math.sqrt(left / problems),
        float(means.max() - means.min()),
        extreme / (1 + _SHUFFLES),
        quantile * math.sqrt(2 * left / problems),
    )
