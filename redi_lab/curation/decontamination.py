r"""Finds problems of evaluation sets inside training data, by shared word n-grams; every match can be shown.

    index = index_benchmarks([Path("math500.jsonl"), Path("aime24.jsonl")], n=13)
    index.match(problem)  # ("math500/test/algebra/7", "convert the point 0 3 in …"), or None

What counts as a word (`normalised_words`): a run of letters or of digits, after case folding. Punctuation, brackets,
dollar signs, LaTeX's spacing (`\,` `\!` `\quad` `~`), sizes (`\left` `\big`) and fonts (`\text` `\mathrm`) are
not there at all, so neither other line breaks nor other LaTeX habits hide a problem. An operator in front of a word
belongs to it, so 3 + 4 is not 3 − 4, and commas between thousands vanish. There is no stemming and there are no
synonyms: a problem in other words is not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import final

from redi_lab.data.jsonl import read_jsonl
from redi_lab.errors import UserError

_SIGNS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "·": r"\cdot ",
        "×": r"\times ",
        "÷": "/",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "π": r"\pi ",
    }
)
_UNSEEN = re.compile(
    r"\\[hv]space\*?\s*\{[^{}]*\}|\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|q?quad|enspace|thinspace"
    r"|text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt)|mbox|operatorname\*?|boldsymbol|bm)(?![a-zA-Z])"
)
_FRACTION = re.compile(r"\\[dtc]?frac(?![a-z])\s*(\d?)")  # \frac12 is one half, not a twelfth of something
_ALIASES = re.compile(r"\\(le|ge|ne)q(?![a-z])")
_THOUSANDS = re.compile(r"(?<=\d)\s*,\s*(?=\d{3}(?!\d))")  # also joins lists such as 1, 100: the same in every text
_HYPHEN = re.compile(r"(?<=[a-z])-(?=[a-z]{2})")
_HAN = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"(?:[-+*/=<>]\s*)*(?:[{_HAN}]|[^\W\d_{_HAN}]+|\d+)|[-+*/=<>]+")


def normalised_words(text: str) -> list[str]:
    """The words that two texts are compared by; see the head of this module for what a word is.

    Chinese and Japanese characters are words of their own. Unicode signs are read as their LaTeX names.
    """
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS))
    text = _UNSEEN.sub(" ", text).casefold()
    text = _ALIASES.sub(r"\\\1 ", _FRACTION.sub(r" frac \1 ", text))
    text = re.sub(r"\\[^a-z]", " ", text)  # \, \! \; \( \) \[ \] \{ \} \\ and their like
    text = _THOUSANDS.sub("", re.sub(r"[{}$~^_\\]", " ", text))
    return ["".join(word.split()) for word in _WORD.findall(_HYPHEN.sub(" ", text))]


@final
class NgramIndex:
    """The n-grams of evaluation problems, and which problem each came from.

    Args:
        n: words in an n-gram, at least 1; 13 is usual. A text of fewer words matches only as a whole.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._first_owner: dict[str, str] = {}

    def add(self, benchmark_id: str, text: str) -> None:
        """Add an evaluation problem. An n-gram of several problems is known by the first of them."""
        for gram in self._grams(normalised_words(text)):
            self._first_owner.setdefault(gram, benchmark_id)

    def match(self, text: str) -> tuple[str, str] | None:
        """The evaluation problem that the text shares its first n-gram with.

        Returns:
            The id of the problem and the n-gram, its words separated by spaces; None where nothing is shared.
        """
        for gram in self._grams(normalised_words(text)):
            owner = self._first_owner.get(gram)
            if owner is not None:
                return owner, gram
        return None

    def _grams(self, words: Sequence[str]) -> Iterator[str]:
        """All windows of n words; the whole text if it is shorter, and nothing if it has no words."""
        if words:
            for start in range(max(1, len(words) - self.n + 1)):
                yield " ".join(words[start : start + self.n])


def index_benchmarks(files: Iterable[Path], n: int) -> NgramIndex:
    """Read evaluation sets into an index, one line in memory at a time.

    Args:
        files: JSONL files, also gzipped, whose rows have the problem under `problem`. A row's `id`, else its place
            `FILE:LINE`, names it in matches.
        n: see `NgramIndex`.

    Raises:
        UserError: a file cannot be read, is empty, or a row has no problem; the message names `FILE:LINE`.
    """
    index = NgramIndex(n)
    for file in files:
        is_empty = True
        for where, values in read_jsonl(file):
            is_empty = False
            text = values.get("problem")
            if not isinstance(text, str) or not normalised_words(text):
                raise UserError(f"{where}:problem: must be a string with words in it, got {text!r:.80}")
            name = values.get("id")
            index.add(where if name in (None, "") else str(name), text)
        if is_empty:
            raise UserError(f"{file}: has no rows to compare with; give rows of {{problem}}")
    return index
