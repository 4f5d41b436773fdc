from __future__ import annotations

import pytest
from redi_lab.evaluation.structure import (
    Group,
    Matrix,
    Scalar,
    Structure,
    UnstructuredError,
    join_thousands,
    read_structure,
)

ONE, TWO = Scalar("1"), Scalar("2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", ONE),
        ("(1)", ONE),
        ("1, 2", Group("", "", (ONE, TWO))),
        ("1 and 2", Group("", "", (ONE, TWO))),
        ("(1; 2)", Group("(", ")", (ONE, TWO))),
        ("[1,2)", Group("[", ")", (ONE, TWO))),
        (r"\{1,2\}", Group("{", "}", (ONE, TWO))),
        ("{1,2}", Group("", "", (ONE, TWO))),
        ("(1,2)(2,1)", Group("", "", (Group("(", ")", (ONE, TWO)), Group("(", ")", (TWO, ONE))))),
        ("x=1", Scalar("1", "x")),
        ("f(x)=1", Scalar("1", "f(x)")),
        ("x=1,2", Group("", "", (Scalar("1", "x"), Scalar("2", "x")))),
        (r"x\approx2", Scalar("2", "x")),
        (r"1\approx2", Scalar("1", "", ("2",))),
        ("1<x<=2", Group("(", "]", (ONE, TWO), "x")),
        ("2>=x>1", Group("(", "]", (ONE, TWO), "x")),
        (r"x\geq1", Group("[", ")", (ONE, Scalar(r"\infty")), "x")),
        (r"1\leq x", Group("[", ")", (ONE, Scalar(r"\infty")), "x")),
        (r"x\in(1,2)", Group("(", ")", (ONE, TWO), "x")),
        (r"1\pm2", Group("", "", (Scalar("1+2"), Scalar("1-2")))),
        (r"\begin{pmatrix}1&2\\2&1\end{pmatrix}", Matrix(((ONE, TWO), (TWO, ONE)))),
    ],
)
def test_read_structure(text: str, expected: Structure) -> None:
    assert read_structure(text) == expected


@pytest.mark.parametrize("text", ["(" * 50 + "1,2" + ")" * 50, "1," * 100, "x<y<z<1<2", "<6", r"\{x\mid x>0\}"])
def test_what_has_no_known_structure(text: str) -> None:
    with pytest.raises(UnstructuredError):
        read_structure(text)


def test_join_thousands() -> None:
    assert join_thousands("12,345,678 and (1,234) and 1,23") == "12345678 and (1,234) and 1,23"
