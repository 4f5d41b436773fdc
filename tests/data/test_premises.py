"""Questions with something wrong in them, in the words of the embedded tasks."""

from __future__ import annotations

import random

import pytest

from redi_lab.data import arithmetic, chains
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.chains import ChainsSource
from redi_lab.data.premises import flawed


def test_a_contradiction_and_a_stray_number() -> None:
    assert flawed("76 , first add 72 , second add 68 ?", 0) == "76 , first add 72 , first add 73 , second add 68 ?"
    assert flawed("76 , first add 95 ?", 6) == "76 , first add 95 , first add 88 ?"
    assert flawed("first add 9 , second add 8 , so 6 ?", 0) == "first add 9 , second add 8 , second add 9 , so 6 ?"
    assert flawed("76 , first add 72 ?", 1) == "76 , first add 72 , 12 ?"


@pytest.mark.parametrize(("source", "task"), [(ArithmeticSource(), arithmetic), (ChainsSource(), chains)])
def test_every_flaw_is_in_the_tasks_words(source: ArithmeticSource | ChainsSource, task: object) -> None:
    """No token that the problems themselves never have, but the digits of stray numbers."""
    rng, tokenizer = random.Random(0), task.build_tokenizer()  # type: ignore[attr-defined]
    texts = [source.draw(rng).text for _ in range(2000)]
    known = {token for text in texts for token in tokenizer(text)["input_ids"]} | set(
        tokenizer("0123456789 1")["input_ids"]
    )
    made = [flawed(text, place) for place, text in enumerate(texts)]
    assert not set(made) & set(texts)
    assert {token for text in made for token in tokenizer(text)["input_ids"]} <= known
