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

_CLOSING_REMARK = re.compile(r"\.?\s*I hope it is correct.*", re.DOTALL | re.IGNORECASE)
_BARE_CHARACTERS = 300  # a text up to this long may be an answer and nothing else
_BARE_WORDS = 3
_SEVERAL_NUMBERS = re.compile(r"[0-9]\s+[0-9]")
_NUMBER_IN_TEXT = re.compile(r"(?<![0-9A-Za-z.,])[-+]?\$?[0-9]+(?:[.,][0-9]+)*%?(?![0-9A-Za-z])")
_DELIMITED = re.compile(r"\$\$[^$]+\$\$|\$[^$]+\$|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL)
_COMMAND = re.compile(r"\\(?:text\w*|mathrm|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+|\{[A-Za-z*]+\}")
_WORD = re.compile(r"[A-Za-z]{2,}")

_PLAIN_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_THOUSANDS = re.compile(r"([+-]?)([0-9]{1,3}(?:[, ][0-9]{3})+)((?:\.[0-9]*)?)")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_DROPPED = re.compile(
    r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\displaystyle(?![a-zA-Z])"  # sizes, not contents
    r"|(?<!\\)\\!\s*|(?<!\\)\\[,;: ]|~|\\\$|\$|\\[()\[\]]"  # spacing, money and mathematics delimiters
    r"|\^\s*(?:\{\s*)?\\circ(?![a-zA-Z])(?:\s*\})?|\\degree(?![a-zA-Z])|°"
)
# "32, 349" keeps its space: it is a list, and "32,349" a number.
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z,])\s+|\s+(?![0-9A-Za-z])|(?<=,)\s+(?![0-9])")
_SYMBOLS = str.maketrans(
    {
        **{
            "−": "-",
            "–": "-",
            "×": "\\times ",
            "·": "\\cdot ",
            "÷": "/",
            "π": "\\pi ",
            "θ": "\\theta ",
            "√": "\\sqrt ",
        },
        **{"≤": "\\leq ", "≥": "\\geq ", "≠": "\\neq ", "∞": "\\infty ", "∪": "\\cup ", "∈": "\\in ", "≈": "\\approx "},
        **{"（": "(", "）": ")", "，": ",", "；": ";", "：": ":", "％": "%", "±": "\\pm ", "½": "\\frac{1}{2}"},
    }
)
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Z])")
_ROOT = re.compile(r"√\s*([0-9]+(?:\.[0-9]+)?|[A-Za-z])")
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[A-Za-z(\[)\]])")
_SUPERSCRIPTS = re.compile(r"[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_PLAIN_SUPERSCRIPTS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")
_SUBSCRIPTS = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
_PLAIN_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_LETTER_TIMES = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)")  # 1.2 x 10^3

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
    return _marked_answer(text) or _bare_answer(text)


def gold_answer(gold: str) -> str:
    r"""The answer in an accepted answer, which may be a whole reference solution or an answer with its boxes.

    Of a solution, what `extract_answer` finds; of a short text, all its boxes: "\boxed{1} papers and \boxed{2} bins"
    is "1, 2". A gold without box or marker is the answer itself.
    """
    if len(gold) <= _BARE_CHARACTERS:
        spans = [(match.end(), _closing_brace(gold, match.end(), len(gold))) for match in _BOX.finditer(gold)]
        if len(spans) > 1 and all(end is not None for _, end in spans):
            return ", ".join(dict.fromkeys(gold[start:end].strip() for start, end in spans))
    found = extract_answer(gold) if _BOX.search(gold) else _marked_answer(gold)
    return found or gold


def _marked_answer(text: str) -> str | None:
    """What follows the last marker, "####", "A:" or "final answer is", without a closing remark."""
    markers = list(_MARKER.finditer(text[-_MARKER_TAIL:]))
    if not markers:
        return None
    found = _CLOSING_REMARK.sub("", markers[-1]["line"] or markers[-1]["phrase"] or "").strip()
    return _value_in_sentence(found.removesuffix(".").strip()) or None


def _value_in_sentence(text: str) -> str:
    """The only formula of a sentence, else its only number; the whole text where there are several, or no sentence."""
    if len(_WORD.findall(_COMMAND.sub(" ", text))) <= _BARE_WORDS:
        return text
    formulas = _DELIMITED.findall(text)
    numbers = _NUMBER_IN_TEXT.findall(text)
    if len(formulas) == 1 and not _NUMBER_IN_TEXT.search(_DELIMITED.sub(" ", text)):
        return str(formulas[0])
    return str(numbers[0]) if len(numbers) == 1 else text


def _bare_answer(text: str) -> str | None:
    """A short text without any marker: the answer itself if it is no prose, else the mathematics of its last line."""
    text = text.strip()
    if not text or len(text) > _BARE_CHARACTERS or (_SEVERAL_NUMBERS.search(text) and not _THOUSANDS.fullmatch(text)):
        return None
    delimited = _DELIMITED.findall(text)
    num_words = len(_WORD.findall(_DELIMITED.sub(" ", text) if delimited else _COMMAND.sub(" ", text)))
    begins_with_word = _WORD.match(text) is not None
    if num_words <= (0 if begins_with_word and delimited else 1 if begins_with_word else _BARE_WORDS):
        return text
    return str(delimited[-1]) if delimited else None


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


def spell_symbols(answer: str) -> str:
    """Write Unicode mathematics (×, π, ≤, x², 10⁻³) and 1.2x10^3 as LaTeX."""
    text = _ROOT.sub(r"\\sqrt{\1}", answer).translate(_SYMBOLS).replace("{,}", ",")
    if "\\begin" not in text:  # elsewhere \\\\ is no line break but a backslash escaped twice
        text = _DOUBLED_BACKSLASH.sub(r"\\", text)
    text = _SUPERSCRIPTS.sub(lambda match: "^{" + match[0].translate(_PLAIN_SUPERSCRIPTS) + "}", text)
    text = _SUBSCRIPTS.sub(lambda match: "_{" + match[0].translate(_PLAIN_SUBSCRIPTS) + "}", text)
    return _LETTER_TIMES.sub(r"\\times ", text)


def normalise(answer: str) -> str:
    r"""Rewrite an answer without marks that never change its value.

    Dropped: mathematics delimiters, `\left`/`\right`, thin spaces, money and degree signs, a final full stop, loose
    white space, the wrapping of `\text{…}` (its content stays) and the brackets of a choice letter. The percent
    sign stays: 28 and 28 % are told apart here, and left to the algebra system.
    """
    text = _TEXT_COMMAND.sub(r"\1", answer)
    text = _DROPPED.sub(lambda match: " " if match[0] in ("\\ ", "~", "\\;", "\\:") else "", text)
    text = _FRACTION.sub(r"\\frac", text.replace("\\%", "%"))
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
