"""The code's share of a fingerprint follows what is computed, not how it is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from redi_lab.run.code import code_digest

LOSS = '''"""A loss."""

RATE = 0.5
"""Of the negative term."""


def loss(x: float) -> float:
    """The weighted loss."""
    return x * RATE
'''


def digest(folder: Path, source: str, name: str = "loss.py") -> str:
    """The digest of a package of one module."""
    (folder / "losses").mkdir(parents=True)
    (folder / "losses" / name).write_text(source)
    return code_digest("losses", package=folder)


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("RATE = 0.5", "RATE = 0.5  # a comment", True),
        ('"""A loss."""\n\n', "", True),
        ("The weighted", "The very weighted", True),
        ('"""Of the negative term."""\n', "", True),
        ("x * RATE", "(x\n * RATE)", True),
        ("RATE = 0.5", "RATE = 0.25", False),
        ("x * RATE", "x / RATE", False),
        ("return x", 'return "a string" or x', False),
    ],
)
def test_prose_does_not_count_and_numbers_do(tmp_path: Path, old: str, new: str, is_same: bool) -> None:
    assert old in LOSS
    changed = digest(tmp_path / "b", LOSS.replace(old, new))
    assert (changed == digest(tmp_path / "a", LOSS)) == is_same


def test_the_names_of_modules_count(tmp_path: Path) -> None:
    assert digest(tmp_path / "a", LOSS) != digest(tmp_path / "b", LOSS, "other.py")


def test_the_code_of_the_lab_is_found() -> None:
    assert code_digest("losses") == code_digest("losses") != code_digest("losses", "data")
