r"""Find the final answer in a completion, and compare two answers cheaply and exactly.

Everything here is linear in the length of the text and safe on hostile input, so it may run in the parent process;
what it cannot decide goes to `redi_lab.evaluation.grading`, which asks a computer-algebra system in a boxed worker.

    extract_answer("so it is $\\boxed{\\frac{1}{2}}$.")  ->  "\\frac{1}{2}"
"""

from __future__ import annotations

import re
from fractions import Fraction

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
# Boxes parted by nothing more than this are one answer given in parts: "\boxed{1} and \boxed{2}".
_BOX_SEPARATOR = re.compile(r"(?:[\s,;$]|\\[()\[\],;! ]|\\q?quad|\\text\{\s*(?:and|or)\s*\}|and|or){0,12}")
_MAX_JOINED_BOXES = 16
_MARKER_TAIL = 4000  # characters: a marker line stands at the end of a completion
_MARKER = re.compile(
    r"^[ \t]*(?:\#\#\#\#|A:)[ \t]*(?P<line>[^\n]*)"
    r"|final[ \t]+answer(?:[ \t]+is)?[ \t]*[:：]?[ \t]+(?P<phrase>[^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)

_PLAIN_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_THOUSANDS = re.compile(r"([+-]?)([0-9]{1,3}(?:[, ][0-9]{3})+)((?:\.[0-9]*)?)")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_DROPPED = re.compile(
    r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\displaystyle(?![a-zA-Z])"  # sizes, not contents
    r"|\\!\s*|\\[,;: ]|~|\\\$|\$|\\[()\[\]]"  # spacing, money and mathematics delimiters
    r"|\^\s*(?:\{\s*)?\\circ(?![a-zA-Z])(?:\s*\})?|\\degree(?![a-zA-Z])|°"
)
# "32, 349" keeps its space: it is a list, and "32,349" a number.
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z,])\s+|\s+(?![0-9A-Za-z])|(?<=,)\s+(?![0-9])")
_CHOICE = re.compile(r"\(([A-Za-z])\)")


def extract_answer(text: str) -> str | None:
    r"""Return the final answer that a completion states, or None.

    The last `\boxed{…}` with balanced braces counts; boxes directly before it, parted only by commas or "and", belong
    to the same answer (so hedging with two boxes is not rewarded for the second). Without any box, the last marker
    counts: a line "#### 18" or "A: 18", or the phrase "final answer is …". A last box that is never closed was cut
    off: no answer, whatever stood before it.

    Args:
        text: The completion, of any length.

    Returns:
        The answer as written, stripped; None where none is stated.
    """
    starts = [match.span() for match in _BOX.finditer(text)]
    if starts:
        return _boxed_answer(text, starts[-_MAX_JOINED_BOXES:])
    markers = list(_MARKER.finditer(text[-_MARKER_TAIL:]))
    if not markers:
        return None
    found = (markers[-1]["line"] or markers[-1]["phrase"] or "").strip()
    return found.removesuffix(".").strip() or None


def _boxed_answer(text: str, starts: list[tuple[int, int]]) -> str | None:
    """The content of the last box, joined with the boxes that run up to it."""
    begin, content_begin = starts[-1]
    end = _closing_brace(text, content_begin, len(text))
    if end is None:
        return None
    parts = [text[content_begin:end].strip()]
    for earlier_begin, earlier_content in reversed(starts[:-1]):
        earlier_end = _closing_brace(text, earlier_content, begin)
        if earlier_end is None or not _BOX_SEPARATOR.fullmatch(text, earlier_end + 1, begin):
            break
        parts.append(text[earlier_content:earlier_end].strip())
        begin = earlier_begin
    return ", ".join(part for part in reversed(parts) if part) or None


def _closing_brace(text: str, start: int, stop: int) -> int | None:
    r"""Position of the brace that closes the one just before `start`; `\{` and `\}` are letters, not braces."""
    depth = 1
    position = start
    while position < stop:
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


def normalise(answer: str) -> str:
    r"""Rewrite an answer without marks that never change its value.

    Dropped: mathematics delimiters, `\left`/`\right`, thin spaces, money and degree signs, a final full stop, loose
    white space, the wrapping of `\text{…}` (its content stays) and the brackets of a choice letter. The percent
    sign stays: 28 and 28 % are told apart here, and left to the algebra system.
    """
    text = _TEXT_COMMAND.sub(r"\1", answer)
    text = _DROPPED.sub(lambda match: " " if match[0] in ("\\ ", "~", "\\;", "\\:") else "", text)
    text = text.replace("\\%", "%").replace("dfrac", "frac").replace("tfrac", "frac")
    text = _LOOSE_SPACE.sub("", text.strip().removesuffix("."))
    choice = _CHOICE.fullmatch(text)
    return choice[1] if choice else text


def plain_number(normalised: str) -> Fraction | None:
    """The exact value of an integer or decimal (leading zeros, thousands commas allowed), else None."""
    grouped = _THOUSANDS.fullmatch(normalised)
    if grouped:
        normalised = grouped[1] + re.sub(r"[, ]", "", grouped[2]) + grouped[3]
    if not _PLAIN_NUMBER.fullmatch(normalised):
        return None
    return Fraction(normalised.removesuffix("."))


def compare_exactly(answer: str, gold: str) -> bool | None:
    """Compare two answers without any algebra.

    Returns:
        True when the normalised texts or the exact numbers are the same, False for two different plain numbers,
        None when only algebra can tell.
    """
    left, right = normalise(answer), normalise(gold)
    if left == right:
        return True
    # Words are compared without case; a single letter may be a variable, where case matters.
    if len(left) > 1 and left.isalpha() and left.casefold() == right.casefold():
        return True
    left_number, right_number = plain_number(left), plain_number(right)
    if left_number is None or right_number is None:
        return None
    return left_number == right_number
