r"""The embedded task: chains of additions, and a teacher who is sometimes careful, sometimes hasty, sometimes wrong.

It is small enough for a laptop and keeps what makes the paper's setting interesting: the teacher's right traces hold
some lucky haste, the wrong ones hold much more of it, so what there is to learn from mistakes is a way of working
rather than a list of facts. A problem is a start value and one or two additions::

    76 , first add 72 , second add 68 ?

The teacher ([teacher.py](teacher.py)) writes one line of work per addition: by columns from the right, or in the head.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, final

from redi_lab.data.simulated import SimulatedSource
from redi_lab.data.student_tokenizer import train_tokenizer
from redi_lab.data.teacher import HASTE, ORDINALS, ChainProblem

LOW, HIGH = 11, 99


@final
@dataclass(frozen=True)
class ArithmeticSource(SimulatedSource):
    """The embedded task; see `SimulatedSource`.

    With the default teacher a corpus has about 0.998 demonstrations and 0.3 pairs per problem.
    """

    num_problems: int = 7000

    name = "arithmetic"

    def draw(self, rng: random.Random) -> ChainProblem:
        """One addition with probability 0.2 (while any is left), else two."""
        count = 1 if rng.random() < 0.2 else 2
        return ChainProblem(rng.randint(LOW, HIGH), tuple(rng.randint(LOW, HIGH) for _ in range(count)))

    def kept_out(self) -> tuple[ChainProblem, ...]:
        """None: the task has no other benchmark."""
        return ()


def build_tokenizer() -> Any:
    """The tokenizer of the task: single digits, every word of the task whole, an addition like `` add 72`` one token.

    The operand is part of one token because a student of this size otherwise miscopies it, which would hide the
    arithmetic that the task is about.
    """
    ordinals = ORDINALS[:2]
    words = [*ordinals, *(f" {word}" for word in (*ordinals, "to", "so", *HASTE.split()))]
    signs = [" ,", " ?", " :", " .", " .\n", " {", " }", "\\boxed"]
    return train_tokenizer(words + signs, vocab_size=1000, whole_tokens=[f" add {n}" for n in range(LOW, HIGH + 1)])
