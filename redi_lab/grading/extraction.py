r"""Find the final answer that a completion states. Linear in the length of the text, whatever it holds.

extract_answer("so it is $\\boxed{\\frac{1}{2}}$.")        ->  "\\frac{1}{2}"
extract_answer("The answer is 150.")                       ->  "150"
extract_answer("She has 4 + 5 = 9 left", "last_number")    ->  "9"
"""

from __future__ import annotations

import re
from typing import Literal

Answers = Literal["boxed", "marker", "last_number"]

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
# Boxes with nothing more than this between them are one answer given in parts: "\boxed{1} and \boxed{2}".
_BOX_SEPARATOR = re.compile(r"(?:[\s,;$]|\\[()\[\],;! ]|\\q?quad|\\text\{\s*(?:and|or)\s*\}|and|or){0,12}")
_MAX_JOINED_BOXES = 16

_TAIL = 4000  # characters: a marker stands at the end of a completion
_SHORT = 300  # characters: a text up to this long may be an answer and nothing else
_MARKER = re.compile(
    r"^ ?(?:####|A:)"
    r"|\bfinal answer(?: is(?: that)?)? ?[:：]?"
    r"|\banswers?(?: ?[:：=]| (?:is|are)(?: that\b| ?[:：])?(?=\s)|(?= ?(?:\$|\\[(\[])))"
    r"|\b(?:is|are) ?[:：](?=\s)",
    re.IGNORECASE | re.MULTILINE,
)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*[ .]*")
_CLOSING_REMARK = re.compile(r"I hope it is correct|<\|", re.IGNORECASE)
_CLAUSE = re.compile(r"[,;] (?:since|because|as|which|where|when|achieved|attained|reached)\b|(?<=[^A-Z.])\. (?=[A-Z])")

_FORMULA = r"\$\$[^$]+\$\$|\$[^$]+\$|\\\[(?:[^\\]|\\[^\]])+\\\]|\\\((?:[^\\]|\\[^)])+\\\)"
_NUMBER = r"(?<![\w.,])[-+−]?[$€£]?(?:[0-9]+(?:[.,][0-9]+)*|\.[0-9]+)(?:/[0-9]+)?[%€]?(?![0-9A-Za-z])"
_DELIMITED = re.compile(_FORMULA)
_NUMBER_IN_TEXT = re.compile(_NUMBER)
# A sentence that ends in its value. A formula in the middle of one only says what the sentence is about.
_STATED = re.compile(
    rf"(?:\b(?:is|are|equals|equal to|find that|get|obtain|by|at)|:) (?P<value>{_FORMULA}|{_NUMBER}(?=\.\s*\Z|,))"
    r"(?=[.\s]*\Z|, (?:achieved|attained|reached) when\b)"
)
_MATHEMATICS = re.compile(r"[0-9$\\]")
_COMMAND = re.compile(r"\\(?:text\w*|mathrm|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+|\{[A-Za-z*]+\}")
_WORD = re.compile(r"[A-Za-z]{2,}")
_SEVERAL_NUMBERS = re.compile(r"[0-9]\s+[0-9](?![0-9]{2}(?:[\s.]|\Z))")  # "1 000" is one
_MANY_WORDS = 3


def extract_answer(text: str, answers: Answers = "boxed") -> str | None:
    r"""Return the final answer that a completion states, or None.

    "boxed": the last `\boxed{…}` with balanced braces; boxes right before it, separated only by commas or "and",
    belong to the same answer. A last box that is never closed was cut off: no answer. A text without any box is
    searched for a marker ("#### 18", "A: 18", "the answer is …", "… is: …", a last line in bold); a short one may be
    the answer itself, or one sentence that ends in it.
    "marker": the last box or marker of the text.
    "last_number": the last box or marker of the text, else its last number.

    Args:
        text: The completion, of any length.
        answers: Where the answer stands.

    Returns:
        The answer as written, stripped; None where none is stated.
    """
    boxes = [match.span() for match in _BOX.finditer(text)][-_MAX_JOINED_BOXES:]
    if boxes and answers == "boxed":
        return _boxed_answer(text, boxes)
    statement = _marked_statement(text)
    if boxes and (statement is None or _BOX.search(statement)):
        return _boxed_answer(text, boxes)
    if statement is not None:
        return _value_in(statement)
    if answers == "last_number":
        numbers = _NUMBER_IN_TEXT.findall(text[-_TAIL:])
        return str(numbers[-1]) if numbers else None
    return _bare_answer(text.strip()) if answers == "boxed" else None


def gold_answer(gold: str) -> str:
    r"""The answer in an accepted answer, which may be a whole reference solution or an answer with its boxes.

    Of a solution, what `extract_answer` finds; of a short text, all its boxes: "\boxed{1} papers and \boxed{2} bins"
    is "1, 2". A gold without box or marker is the answer itself.
    """
    if len(gold) <= _SHORT:
        spans = [(match.end(), _closing_brace(gold, match.end(), len(gold))) for match in _BOX.finditer(gold)]
        if len(spans) > 1 and all(end is not None for _, end in spans):
            return ", ".join(dict.fromkeys(gold[start:end].strip() for start, end in spans))
    if _BOX.search(gold):
        return extract_answer(gold) or gold
    statement = _marked_statement(gold)
    return (statement and _value_in(statement)) or gold


def _marked_statement(text: str) -> str | None:
    """Everything after the last marker, or the last line if it is bold; None without either."""
    tail = re.sub(r"[ \t]+", " ", text[-_TAIL:]).rstrip()
    bold = _BOLD.fullmatch(tail[tail.rfind("\n") + 1 :].strip())
    if bold and not _MARKER.search(bold[1]):
        return bold[1]
    tail = tail.replace("**", "")
    markers = list(_MARKER.finditer(tail))
    return tail[markers[-1].end() :] if markers else None


def _value_in(statement: str) -> str | None:
    """The value that follows a marker: the first line or formula, of a sentence its last value or only number."""
    statement = _CLOSING_REMARK.split(statement, maxsplit=1)[0].strip()
    formula = _DELIMITED.match(statement)
    start = formula.end() if formula else 0
    rest = statement[start:].partition("\n")[0]
    if formula and len(_WORD.findall(rest)) > 1 and not _MATHEMATICS.search(rest):
        return str(formula[0])  # "$x=4$ in the end", but not "$1$ and $2$" or "$5$ cm"
    line = statement[:start] + rest
    found = _CLAUSE.split(line, maxsplit=1)[0].strip().strip('"').removesuffix(".").strip()
    if len(_WORD.findall(_COMMAND.sub(" ", found))) <= _MANY_WORDS:
        return found or None
    stated = _STATED.search(found + ".")
    if stated:
        return stated["value"]
    numbers = _NUMBER_IN_TEXT.findall(_DELIMITED.sub(" ", found))
    return str(numbers[0]) if len(numbers) == 1 and not _DELIMITED.search(found) else found


def _bare_answer(text: str) -> str | None:
    """A short text without marker: the answer itself unless it is prose; a sentence that ends in its value."""
    if not text or len(text) > _SHORT or _SEVERAL_NUMBERS.search(text):
        return None
    delimited = _DELIMITED.search(text)
    num_words = len(_WORD.findall(_DELIMITED.sub(" ", text) if delimited else _COMMAND.sub(" ", text)))
    begins_with_word = _WORD.match(text) is not None
    if num_words <= (0 if begins_with_word and delimited else 1 if begins_with_word else _MANY_WORDS):
        return text
    stated = list(_STATED.finditer(text))
    return stated[0]["value"] if len(stated) == 1 and not _CLAUSE.search(text[: stated[0].start()]) else None


def _boxed_answer(text: str, boxes: list[tuple[int, int]]) -> str | None:
    """The content of the last box, joined with the boxes that run up to it."""
    begin, content_begin = boxes[-1]
    end = _closing_brace(text, content_begin, len(text))
    if end is None:
        return None
    parts = [text[content_begin:end].strip()]
    for earlier_begin, earlier_content in reversed(boxes[:-1]):
        earlier_end = _closing_brace(text, earlier_content, begin)
        if earlier_end is None or not _BOX_SEPARATOR.fullmatch(text, earlier_end + 1, begin):
            break
        parts.append(text[earlier_content:earlier_end].strip())
        begin = earlier_begin
    return ", ".join(part for part in reversed(parts) if part) or None


def _closing_brace(text: str, start: int, stop: int) -> int | None:
    r"""Position of the brace that closes the one just before `start`; `\{` and `\}` are letters, not braces."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start, stop):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None
