r"""Numbers with what stands beside them: units, percent, currency, thousands commas.

    read_quantity("15⟦cm⟧^2")  ->  text "15", unit "cm^2"

A unit that only one side states is ignored; units that both state must be the same one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import final

_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}"
)
_CONJUNCTION = re.compile(r"\s*,?\s*(?:and|or|,)\s*")
_MARKED_UNIT = re.compile(
    r"(?P<value>.*?[^\s/])\s*(?P<unit>(?:(?:/|\\cdot)?\s*⟦[^⟦⟧]*⟧(?:\^\{?-?[0-9]\}?)?\s*)+)", re.DOTALL
)
_WORD_UNIT = re.compile(
    r"(?P<value>[-+]?(?:[0-9.,/ ]*[0-9]|\\frac\{[0-9]+\}\{[0-9]+\}))\s*"
    r"(?P<unit>(?:[A-Za-z]{3,}|cm|mm|km|kg|mg|ft|in|mi|lb|oz|hr|ms|ml|mL|Hz|eV|sq)(?:[ /][A-Za-z]{1,20})*"
    r"(?:\^\{?[0-9]\}?)?)\.?"
)
_NOT_UNITS = re.compile(r"(?:sin|cos|tan|sqrt|exp|log|ln|pi|infty|and|or|mod)(?![a-z])")
_PERCENT = re.compile(r"(?P<value>.*\S)\s*(?:%|⟦?\s*(?:percent|percentage|pct)\s*⟧?)", re.DOTALL | re.IGNORECASE)
_CURRENCY = re.compile(r"[$€£¥₹₽₩]|⟦\s*(?:dollars?|euros?|USD|EUR)\s*⟧|(?<=[0-9])\s*(?:dollars?|euros?|USD|EUR)\b")
_SAME_UNITS = (
    "cm centimeter centimetre",
    "mm millimeter millimetre",
    "m meter metre",
    "km kilometer kilometre",
    "in inch inche",
    "ft foot feet",
    "yd yard",
    "mi mile",
    "kg kilogram",
    "g gram",
    "lb pound",
    "s sec second",
    "min minute",
    "h hr hour",
    "day",
    "week",
    "month",
    "year yr",
    "cent",
    "l liter litre",
    "ml milliliter millilitre",
    "mph",
)
_CANONICAL = {word: words.split()[0] for words in _SAME_UNITS for word in words.split()}
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}


class UnitsDiffer(Enum):
    """Whether two units are two different ones."""

    NO = "no"
    YES = "yes"
    MAYBE = "maybe"


@final
@dataclass(frozen=True, slots=True)
class Quantity:
    """A value as text, its unit ("" for none) and whether it is a percentage."""

    text: str
    unit: str = ""
    is_percent: bool = False
    is_text: bool = False

    def readings_beside(self, other: Quantity) -> list[tuple[str, str]]:
        """The pairs of values to compare: a lone percent sign is a unit, or a hundredth."""
        pairs = [(self.text, other.text)]
        if self.is_percent and not other.is_percent:
            pairs.append((f"({self.text})/100", other.text))
        if other.is_percent and not self.is_percent:
            pairs.append((self.text, f"({other.text})/100"))
        return pairs

    def units_differ(self, other: Quantity) -> UnitsDiffer:
        """Compare units; one that only one side states is no difference."""
        left, right = canonical_unit(self.unit), canonical_unit(other.unit)
        if not left or not right or left == right:
            return UnitsDiffer.NO
        bases = [unit.partition("^")[0] for unit in (left, right)]
        return UnitsDiffer.YES if all(base in _CANONICAL.values() for base in bases) else UnitsDiffer.MAYBE


def unwrap_text(answer: str) -> str:
    r"""Mark what stands in \text{…} as ⟦…⟧; words that join parts become a comma, letters of mathematics stay."""

    def replace(match: re.Match[str]) -> str:
        content = match[1].strip("~ \t\n")
        if _CONJUNCTION.fullmatch(match[1]):
            return " , "
        is_name = content in ("e", "i", "d") or match.string[: match.start()].rstrip().endswith(("_", "_{"))
        return content if is_name or not content else f"⟦{content}⟧"

    return _TEXT_COMMAND.sub(replace, answer)


def read_quantity(text: str) -> Quantity:
    """Take currency, percent and unit off a value; a text alone is kept as text."""
    text = _CURRENCY.sub("", text).strip()
    if re.fullmatch(r"⟦[^⟦⟧]*⟧", text):
        content = text[1:-1].strip()
        return Quantity(content, is_text=not content.replace(".", "").replace(",", "").isdigit())
    percent = _PERCENT.fullmatch(text)
    if percent:
        return Quantity(_plain(percent["value"]), is_percent=True)
    marked = _MARKED_UNIT.fullmatch(text)
    if marked:
        return Quantity(_plain(marked["value"]), re.sub(r"[⟦⟧]", "", marked["unit"]).strip())
    word = _WORD_UNIT.fullmatch(text)
    if word and not _NOT_UNITS.match(word["unit"]):
        return Quantity(_plain(word["value"]), word["unit"])
    return Quantity(_plain(text))


def _plain(text: str) -> str:
    """Without marks and a stray last backslash."""
    return re.sub(r"[⟦⟧]", "", text).strip().removesuffix("\\").strip()


def canonical_unit(unit: str) -> str:
    """One name for the spellings of a common unit: "square centimeters" is cm^2."""
    text = re.sub(r"[{}.\s]+", " ", unit).strip().casefold().replace(" ^", "^").removesuffix(" ")
    power = ""
    for word, exponent in _POWERS.items():
        if text.startswith(word + " "):
            text, power = text[len(word) + 1 :], exponent
    base, caret, exponent = text.partition("^")
    singular = base if base in _CANONICAL else base.removesuffix("s")
    return _CANONICAL.get(singular, singular) + (caret + exponent.strip() if caret else power)
