r"""One spelling for what authors write in many: Unicode mathematics as LaTeX, and marks without meaning dropped.

    normalise(r"$\dfrac{1}{2}\,\text{ cm}$")  ->  r"\frac{1}{2} ⟦cm⟧"

    canonical_unit("square centimeters")    ->  "cm^2"

Words of `\text{…}` and its kin stand between ⟦ and ⟧ afterwards, money is marked by ＄, €, £ or ¥, degrees by °.
"""

from __future__ import annotations

import re

_SYMBOLS = str.maketrans(
    {chr(ord("０") + digit): str(digit) for digit in range(10)}
    | dict(
        zip(
            "−–（），；：％±·×÷",
            ["-", "-", "(", ")", ",", ";", ":", "%", "\\pm ", "\\cdot ", "\\times ", "/"],
            strict=True,
        )
    )
    | dict(zip("½⅓⅔¼¾", [f"\\frac{{{a}}}{{{b}}}" for a, b in ((1, 2), (1, 3), (2, 3), (1, 4), (3, 4))], strict=True))
    | {"≤": "\\leq ", "≥": "\\geq ", "≠": "\\neq ", "∞": "\\infty ", "∪": "\\cup ", "∈": "\\in ", "≈": "\\approx "}
    | {
        "π": "\\pi ",
        "θ": "\\theta ",
        "∅": "\\emptyset ",
        "ℝ": "\\mathbb{R}",
        "\u00a0": " ",
        "⟦": "",
        "⟧": "",
        "～": "~",
    }
)
_ROOT = re.compile(r"√\s*(\{?)(?!\{)([0-9]+(?:\.[0-9]+)?|[A-Za-z])?")
_SUPERSCRIPTS, _SUBSCRIPTS = "⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"
_SCRIPTS = re.compile(f"(?P<up>[{_SUPERSCRIPTS}]+)|[{_SUBSCRIPTS}]+")
_PLAIN = str.maketrans(_SUPERSCRIPTS + _SUBSCRIPTS, "+-01234567890123456789")
_LETTER_TIMES = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)")  # 1.2 x 10^3
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[A-Za-z(\[)\]])")

_DROPPED = re.compile(
    r"\\(?:left|right)(?![a-zA-Z])\s*\.?|\\(?:displaystyle|limits|bigl?|bigr?|Bigl?|Bigr?)(?![a-zA-Z])"  # sizes
    r"|(?<!\\)\\!\s*|\{,\}|\\\(|\\\)|(?<!\\)\\\[|\\\]|\\boxed(?=\{)|\\fbox(?=\{)"
)
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\s+")
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])|\\circ(?![a-zA-Z])(?=\s*$)")
_COLOUR = re.compile(r"\\(?:color|textcolor)\s*\{[a-zA-Z]{1,20}\}")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Z])")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|nomal)?|math(?:rm|bf|it|sf|tt)|mbox|operatorname|boldsymbol|bm)\s*\{([^{}]*)\}"
)
_CONJUNCTION = re.compile(r"\s*,?\s*(?:and|or|,)\s*")
_ALIASES = re.compile(
    r"\\(?:(?P<leq>leqslant|leqq|le(?!q|ft))|(?P<geq>geqslant|geqq|ge(?!q))|(?P<neq>ne(?!q|g))|(?P<lt>lt)"
    r"|(?P<gt>gt)|(?P<varnothing>varnothing))(?![a-zA-Z])|(?P<at_most><=)|(?P<at_least>>=)|(?P<unequal>!=)"
)
_ALIAS_OF = {"leq": "\\leq ", "geq": "\\geq ", "neq": "\\neq ", "lt": "<", "gt": ">", "varnothing": "\\emptyset ",
             "at_most": "\\leq ", "at_least": "\\geq ", "unequal": "\\neq "}  # fmt: skip

# Units of measure and money: which spellings are one unit.
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


def normalise(answer: str) -> str:
    r"""Rewrite an answer in the one spelling that the reader knows. Linear in its length; never raises."""
    text = _ROOT.sub(lambda m: f"\\sqrt{{{m[2]}}}" if m[2] and not m[1] else f"\\sqrt {m[1]}{m[2] or ''}", answer)
    text = text.translate(_SYMBOLS)
    if "\\begin" not in text:  # there, \\ ends a row; elsewhere it is a backslash that was escaped twice
        text = _DOUBLED_BACKSLASH.sub(r"\\", text)
    text = _SCRIPTS.sub(lambda m: f"{'^' if m['up'] else '_'}{{{m[0].translate(_PLAIN)}}}", text)
    text = text.replace("\\langle", "(").replace("\\rangle", ")")
    text = _LETTER_TIMES.sub(r"\\times ", text).replace("\\$", "＄").replace("\\%", "%").replace("{:}", ":")
    text = _ALIASES.sub(lambda m: _ALIAS_OF[str(m.lastgroup)], text)
    text = _without_dollars(_FRACTION.sub(r"\\frac", _DEGREE.sub("°", _COLOUR.sub("", text))))
    text = _TEXT.sub(_marked, _DROPPED.sub(_kept, text))
    return _SPACES.sub(" ", text).strip().removesuffix(".").removesuffix("\\").strip()


def _kept(match: re.Match[str]) -> str:
    return "," if match[0] == "{,}" else ""


def _without_dollars(text: str) -> str:
    """Drop the delimiters of mathematics; a lone dollar sign before a number is money."""
    if text.count("$") == 1:
        return re.sub(r"\$(?=\s*[0-9.])", "＄", text).replace("$", "")
    return text.replace("$", " ")


def _marked(match: re.Match[str]) -> str:
    """Words between ⟦ and ⟧; what joins parts is a comma, and a letter or a number is mathematics."""
    if _CONJUNCTION.fullmatch(match[1]):
        return " , "
    before = match.string[: match.start()].rstrip("~ \\,;!")[-2:]
    is_symbol = before.endswith(("_", "_{")) or match[1] in ("e", "i", "d") or not re.search("[A-Za-z]", match[1])
    is_unit = before[-1:].isdigit() or before[-1:] in tuple("}/⟧")
    if is_symbol or (len(match[1]) == 1 and not is_unit):
        return match[1]
    return f"⟦{match[1].strip('~ ')}⟧"


def squeeze(text: str) -> str:
    """The text without loose white space and braces around single characters, to compare spellings."""
    text = re.sub(
        r"\{(\w)\}", r"\1", re.sub(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])|(?<=[A-Za-z])\s+|\s+(?=[A-Za-z])", "", text)
    )
    return re.sub(r"[⟦⟧]", "", text)


def canonical_unit(unit: str) -> str:
    """One name for the spellings of a unit, its factors separated by a space."""
    text = re.sub(r"\\(?:cdot|times)(?![a-z])|[⟦⟧{}()~.\s*]+", " ", unit).strip()
    text = re.sub(r" ?\^ ?", "^", re.sub(r" ?(?:/|\bper\b) ?", "/", text))
    text = re.sub(r"(?i)\b(square|sq|cubic|cu) ([^\s/]+)", lambda m: m[2] + _POWERS[m[1].casefold()], text)
    return re.sub(r"[^\s/^0-9-]+", lambda match: _unit(match[0]), re.sub(r"\s+", " ", text))


def _unit(word: str) -> str:
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
