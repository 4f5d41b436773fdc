from __future__ import annotations

import pytest

from redi_lab.grading.notation import canonical_unit, is_unit, normalise, squeeze


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"$\left( 3, \frac{\pi}{2} \right)$", r"( 3, \frac{\pi}{2} )"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"90^\circ", "90°"),
        (r"90^{\circ}", "90°"),
        (r"\$7.50", "＄7.50"),
        ("$5", "＄5"),
        ("$5$", "5"),
        (r"28 \%", "28 %"),
        (r"\text{(C)}", "⟦(C)⟧"),
        (r"15\mbox{ cm}^2", "15⟦cm⟧^2"),
        (r"5\,\mathrm{m}", "5 ⟦m⟧"),
        (r"x \leftarrow y", r"x \leftarrow y"),
        ("two words", "two words"),
        ("x²+1", "x^{2}+1"),
        ("1.22x10⁻¹⁸", r"1.22\times 10^{-18}"),
        ("√53", r"\sqrt{53}"),
        ("12π", r"12\pi"),
        ("a₁₂", "a_{12}"),
        ("14{,}916", "14,916"),
        ("５/２", "5/2"),
        (r"(3,\\frac{1}{2})", r"(3,\frac{1}{2})"),
        (r"\begin{pmatrix}1\\x\end{pmatrix}", r"\begin{pmatrix}1\\x\end{pmatrix}"),
        (r"1 \text{ or } 2", "1 , 2"),
        (r"{\color{red}{5}}", "{{5}}"),
        ("185\\", "185"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_squeeze_keeps_what_parts_numbers() -> None:
    assert squeeze("x ^ {2} + 1") == "x^2+1"
    assert squeeze("1 000") != squeeze("1000")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("", ""),
        ("centimeters", "cm"),
        ("⟦square inches⟧", "in^2"),
        (r"⟦kg⟧\cdot⟦m⟧/⟦s⟧^{2}", "kg m/s^2"),
        ("miles per hour", "mi/h"),
        ("＄", "＄"),
        ("dollars", "＄"),
        ("percent", "%"),
        ("Apples", "apples"),
    ],
)
def test_canonical_unit(unit: str, expected: str) -> None:
    assert canonical_unit(unit) == expected


@pytest.mark.parametrize("unit", ["cm", "kg m/s^2", "apples", "%", "＄"])
def test_what_a_number_may_be_followed_by(unit: str) -> None:
    assert is_unit(unit)


@pytest.mark.parametrize("unit", ["", "wrong", "millions", "million", "is wrong", "less", "apple pies"])
def test_words_that_may_change_the_number_are_no_unit(unit: str) -> None:
    assert not is_unit(unit)
