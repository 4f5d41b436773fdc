r"""The second embedded task: longer chains of larger numbers, of which SFT leaves a part to learn.

    first add 967 , second add 304 , third add 48 , so 6 ?

The teacher goes by columns. It errs in one column of a trace at most: a slip that it notices is put right at once, in
right traces as in wrong ones, and one that it does not notice spoils the answer::

    first add 967 : 6+7=12 Wait , 6+7=13 6+1=7 so 973 .

A share of the problems takes away instead of adding. They share digits, words and ways of working with the others, but
no wrong trace of them is shown: what learning from mistakes does to them is transfer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, final

from redi_lab.data.simulated import SimulatedSource
from redi_lab.data.student_tokenizer import train_tokenizer
from redi_lab.data.teacher import HASTE, ORDINALS, ChainProblem
from redi_lab.data.traces import HeldOut

LENGTHS = (3, 4, 5)
"""Of chains that add, in training. Those that take are of these lengths or `LONG`, so that its word is known."""
LONG = 6
DIGITS = (2, 3, 4)
"""Of operands. A chain that adds begins with one digit; one that takes leaves the most, so that none falls below 0."""
_FURTHER = 600  # problems of each further benchmark, whatever a training keeps out


@final
@dataclass(frozen=True)
class ChainsSource(SimulatedSource):
    """The second embedded task; see `SimulatedSource`.

    Attributes:
        take_share: share of the problems that take away.
    """

    num_problems: int = 2500
    take_share: float = 0.2

    name = "chains"

    def draw(self, rng: random.Random) -> ChainProblem:
        """One that adds or takes."""
        takes = rng.random() < self.take_share
        return _problem(rng, rng.choice((*LENGTHS, LONG) if takes else LENGTHS), takes)

    def kept_out(self) -> tuple[ChainProblem, ...]:
        """Those that `taking` names."""
        rng = random.Random(f"{self.seed}/take")
        return tuple(_problem(rng, rng.choice(LENGTHS), takes=True) for _ in range(_FURTHER))

    def taking(self) -> tuple[HeldOut, ...]:
        """Problems of the second domain for evaluation."""
        return self.named("take", self.kept_out())

    def longer(self) -> tuple[HeldOut, ...]:
        """Problems that add for longer than any that is trained on."""
        rng = random.Random(f"{self.seed}/long")
        return self.named("long", (_problem(rng, LONG, takes=False) for _ in range(_FURTHER)))


def _problem(rng: random.Random, length: int, takes: bool) -> ChainProblem:
    rest, *operands = (_number(rng, digits) for digits in (max(DIGITS) if takes else 1, *rng.choices(DIGITS, k=length)))
    return ChainProblem(rest + takes * sum(operands), tuple(operands), takes, restates=False)


def _number(rng: random.Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1), 10**digits)


def build_tokenizer() -> Any:
    """The tokenizer of the task: single digits and signs, and every word whole."""
    ordinals = ORDINALS[:LONG]
    words = [*ordinals, *(f" {word}" for word in (*ordinals, "add", "take", "so", "Wait", *HASTE.split()))]
    return train_tokenizer([*words, " ,", " ?", " :", " .", " .\n", " {", " }", "\\boxed"], vocab_size=1000)
