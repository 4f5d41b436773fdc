"""Word problems of one step with small numbers: something that a model of 135 million parameters does now and then.

write(folder, num_train=400, num_heldout=300)  # train.jsonl and heldout.jsonl, which share no text
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

NAMES = (
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Ivy",
    "Jack",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
)
THINGS = ("apples", "books", "pencils", "marbles", "stickers", "coins", "cards", "shells", "eggs", "balls")
GAINS = ("buys {} more", "finds {} more", "gets {} more from a friend")
LOSSES = ("gives {} away", "loses {}", "sells {}")
LARGEST = 20
SEED = 0

PROMPT = """\
Tom has 4 apples. Tom buys 5 more. How many apples does Tom have now?
4 + 5 = 9. The answer is 9.

Lisa has 12 coins. Lisa loses 7. How many coins does Lisa have now?
12 - 7 = 5. The answer is 5.

Rosa has 8 cards. Rosa finds 9 more. How many cards does Rosa have now?
8 + 9 = 17. The answer is 17.

{problem}"""
"""Three examples, which also keep answers short."""


def draw(rng: random.Random) -> Iterator[tuple[str, int]]:
    """Distinct problems and their answers, for ever."""
    seen = set()
    while True:
        name, thing, start = rng.choice(NAMES), rng.choice(THINGS), rng.randint(3, LARGEST)
        gains = rng.random() < 0.5
        number = rng.randint(2, LARGEST if gains else start - 1)
        event = rng.choice(GAINS if gains else LOSSES).format(number)
        text = f"{name} has {start} {thing}. {name} {event}. How many {thing} does {name} have now?"
        if text not in seen:
            seen.add(text)
            yield text, start + number if gains else start - number


def write(folder: Path, num_train: int, num_heldout: int) -> tuple[Path, Path]:
    """Write both files, the held-out problems first: they are the same for any number to train on."""
    from redi_lab.files import write_text

    problems, files = draw(random.Random(SEED)), (folder / "train.jsonl", folder / "heldout.jsonl")
    folder.mkdir(parents=True, exist_ok=True)
    for file, number in ((files[1], num_heldout), (files[0], num_train)):
        rows = (
            {"id": f"{file.stem}/{index}", "problem": text, "answer": str(answer)}
            for index, (text, answer) in enumerate(islice(problems, number))
        )
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    return files
