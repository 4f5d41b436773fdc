r"""Units of measure and money: which spellings are one unit, and which words beside a number are a unit at all.

canonical_unit("square centimeters")  ->  "cm^2"
"""

from __future__ import annotations

import re

_SAME_UNITS = """
cm centimeter centimetre; mm millimeter millimetre; m meter metre; km kilometer kilometre; in inch inche; ft foot feet;
yd yard; mi mile; kg kilogram; g gram; mg milligram; lb pound; oz ounce; ton tonne; s sec second; ms millisecond;
min minute; h hr hour; day; week; month; year yr; l liter litre; ml milliliter millilitre; gallon; N newton; J joule;
W watt; V volt; A ampere amp; Hz hertz; eV; K kelvin; Pa pascal; mol mole; C coulomb; erg; unit; mph; rad radian;
° degree deg; % percent percentage pct; ＄ dollar usd buck; cent ¢; € euro eur; £ gbp; ¥ yen yuan;
person people; child children
"""
_CANONICAL = {word: names.split()[0] for names in _SAME_UNITS.split(";") for word in names.split()}
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
# Words with the ending of a plural that are none, or that change the number.
_NOT_UNITS = re.compile(
    "is|was|has|does|plus|minus|times|less|unless|versus|thus|as|this|its|others|tens|dozens|hundreds|thousands|millions"
    "|billions|trillions|halves|thirds|quarters"
)


def canonical_unit(unit: str) -> str:
    """One name for the spellings of a unit, its factors separated by a space."""
    text = re.sub(r"\\(?:cdot|times)(?![a-z])|[⟦⟧{}()~.\s*]+", " ", unit).strip()
    text = re.sub(r" ?\^ ?", "^", re.sub(r" ?(?:/|\bper\b) ?", "/", text))
    text = re.sub(r"(?i)\b(square|sq|cubic|cu) ([^\s/]+)", lambda m: m[2] + _POWERS[m[1].casefold()], text)
    return re.sub(r"[^\s/^0-9-]+", lambda match: _name(match[0]), re.sub(r"\s+", " ", text))


def _name(word: str) -> str:
    for spelling in (word, word.casefold(), word.casefold().removesuffix("s")):
        if spelling in _CANONICAL:
            return _CANONICAL[spelling]
    return word.casefold()


def is_unit(canonical: str) -> bool:
    """Whether a number may be followed by it: known units, or what is counted, such as "apples"."""
    words = re.findall(r"[^\s/^0-9-]+", canonical)
    if words and all(word in _CANONICAL for word in words):
        return True
    return re.fullmatch(r"[a-z]{2,20}s", canonical) is not None and _NOT_UNITS.fullmatch(canonical) is None
