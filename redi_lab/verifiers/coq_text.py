r"""Proofs that models write: where they stand, and what of them Coq may be given.

    find_proof("So: ```coq\nLemma a : True.\nProof. auto. Qed.\n```")   # None where no proof ends
    read_sentences("Proof. auto. Qed.", libraries=["Lia"])              # ["Proof.", "auto.", "Qed."]

Coq has commands that read and write files and load programs, so nothing is looked for that is forbidden: a sentence is
given only if it begins as tactics do (in lower case), or with one of a few commands. A text is brought into a form in
which Coq finds the same sentences as this module does: without comments, strings and unusual spaces.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple, Self, final

from redi_lab.grading.grader import Verdict

MAX_CHARACTERS = 20_000
_STATES = "Lemma|Theorem|Fact|Remark|Corollary|Proposition|Property|Example"
_COMMANDS = frozenset(f"{_STATES}|Proof|Qed|Defined|Definition|Fixpoint|Inductive|Ltac|Import|Open".split("|"))
_UNPROVED = frozenset({"Admitted", "Abort", "Axiom", "Axioms", "Parameter", "Parameters", "Conjecture", "Hypothesis"})
_NEVER = re.compile(
    r"\b(?:native_compute|native_cast_no_check|psatz\w*|Declare|Load|LoadPath|Redirect|Extraction|Extract|Drop|ML|Cd)\b"
    r"|\bpar\s*:"
)
"""Also within sentences: what starts processes, and, once more, what reads and writes files."""
_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_BEGIN = re.compile(rf"^[ \t]*(?:From|Require|Import|Open|{_STATES}|Definition|Fixpoint|Inductive|Ltac|Proof)\b", re.M)
_END = re.compile(r"\b(?:Qed|Defined|Admitted|Abort)\s*\.(?=\s|\Z)")
_MARKS = re.compile(r"((?:(?:[-+*]+|(?:\d+ ?: ?)?\{|\}) ?)*)(?:(?:all|!|\d[\d, -]*) ?:(?!=) ?)?")
_STATED = re.compile(rf"(?:{_STATES})\s+([\w']+)")
_REQUIRE = re.compile(r"(?:From ([\w.]+) )?Require(?: Import| Export)?((?: [\w.]*\w)+)\.")


@final
class RefusedError(Exception):
    """A text that Coq is not given; says why. The verdict is unknown, or wrong where it leaves something unproved."""

    def __init__(self, reason: str, verdict: Verdict = Verdict.UNKNOWN) -> None:
        super().__init__(reason)
        self.verdict = verdict


def find_proof(text: str) -> str | None:
    """The proof in a completion: the last block of code in which one ends, or the text from its first command on."""
    blocks = _FENCE.findall(text)
    begin = _BEGIN.search(text)
    for candidate in reversed(blocks) if blocks else [text[begin.start() :]] if begin else []:
        ends = list(_END.finditer(candidate))
        if ends:
            return str(candidate[: ends[-1].end()])
    return None


def read_sentences(text: str, libraries: Collection[str]) -> list[str]:
    """The sentences of a text, each on one line, as Coq reads them.

    Args:
        text: of a model or a benchmark.
        libraries: what it may Require.

    Raises:
        RefusedError: something of it may not be given to Coq.
    """
    if len(text) > MAX_CHARACTERS:
        raise RefusedError(f"longer than {MAX_CHARACTERS} characters")
    text = re.sub(r"[\r\n\t]", " ", _without_comments(text)).strip()
    if not text.isprintable() or '"' in text:
        raise RefusedError("holds a string or an unusual character, and is not given to Coq")
    sentences = [" ".join(sentence.split()) for sentence in re.split(r"(?<=\.) +", text)]
    for sentence in sentences:
        _check(sentence, libraries)
    return sentences


def _without_comments(text: str) -> str:
    """Comments, which may be nested, become spaces."""
    kept, depth, end = [], 0, 0
    for mark in re.finditer(r"\(\*|\*\)", text):
        if depth == 0:
            kept.append(text[end : mark.start()])
        depth += 1 if mark[0] == "(*" else -1
        if depth < 0:
            raise RefusedError("closes a comment that is not open")
        end = mark.end()
    if depth:
        raise RefusedError("a comment never ends")
    return " ".join([*kept, text[end:]])


def _check(sentence: str, libraries: Collection[str]) -> None:
    """Refuse a sentence that is neither a tactic nor one of the harmless commands."""
    if never := _NEVER.search(sentence):
        raise RefusedError(f"{never[0]} is not given to Coq")
    marks, tactic = split_marks(sentence)
    if is_tactic(tactic) or (marks and not tactic):
        return
    head = re.split(r"\W", tactic, maxsplit=1)[0]
    if head in _UNPROVED:
        raise RefusedError(f"leaves something unproved: {head}", Verdict.WRONG)
    if head in ("From", "Require"):
        _check_required(sentence, libraries)
    elif head not in _COMMANDS:
        raise RefusedError(f"{head or tactic[:20]} is not given to Coq")


def _check_required(sentence: str, libraries: Collection[str]) -> None:
    match = _REQUIRE.fullmatch(sentence)
    if match is None:
        raise RefusedError("a Require that is not given to Coq")
    for name in match[2].split():
        full = f"{match[1]}.{name}" if match[1] else name
        own = re.fullmatch(r"Coq\.(?:\w+\.)*(\w+)", full)
        if not (full in libraries or (own and own[1] in libraries)):
            raise RefusedError(f"requires {full}, which verifier.libraries does not list")


def split_marks(sentence: str) -> tuple[str, str]:
    """The bullets and braces that a sentence begins with, and the rest without a goal selector."""
    match = _MARKS.match(sentence)
    assert match is not None  # all of it may be missing
    return match[1], sentence[match.end() :]


def is_tactic(text: str) -> bool:
    """Whether what follows the marks is a tactic; all commands begin with a capital letter."""
    return re.match(r"[a-z_(]|\[>", text) is not None


@final
class Statement(NamedTuple):
    """What is to be proved: sentences before it, and itself with its name."""

    before: list[str]
    sentence: str
    name: str

    @classmethod
    def read(cls, answers: Sequence[str], libraries: Collection[str]) -> Self:
        """The one accepted answer of a problem.

        Raises:
            RefusedError: it is no statement.
        """
        if len(answers) != 1:
            raise RefusedError(f"{len(answers)} statements")
        *before, sentence = read_sentences(answers[0], libraries)
        match = _STATED.match(sentence)
        if match is None:
            raise RefusedError("does not end in a Lemma or Theorem")
        return cls(before, sentence, match[1])

    def completed(self, proof: Sequence[str]) -> list[str]:
        """A proof with the statement, where it only begins with Proof, and without what the statement brings along."""
        proof = [sentence for sentence in proof if sentence not in self.before]
        return proof if _stated(proof) else [self.sentence, *proof]

    def checking(self, proof: Sequence[str], imports: Sequence[str], mark: str) -> tuple[list[str], range]:
        """A file in which Coq checks a completed proof, a sentence a line, and the lines that are the proof's, from 0.

        The statement is read before the proof, which can therefore not change its meaning, and compared with what was
        proved by Coq's kernel. What the proof rests on is printed after the mark.
        """
        stated = _stated(proof)
        proved = self.name if self.name in stated else stated[-1]
        head = [*self.before, "Module Asked.", self.sentence, "Admitted.", "End Asked.", *imports, "Module Given."]
        tail = [
            "End Given.",
            f"Definition proved : ltac:(let t := type of Asked.{self.name} in exact t) := Given.{proved}.",
            f'Goal True. idtac "{mark}". Abort.',
            "Print Assumptions proved.",
        ]
        return [*head, *proof, *tail], range(len(head), len(head) + len(proof))


def _stated(proof: Sequence[str]) -> list[str]:
    """The names of what a text proves."""
    return [match[1] for sentence in proof if (match := _STATED.match(sentence))]


def with_tools(proof: Sequence[str], place: int, tools: str) -> list[str] | None:
    """A proof in which tools end the goal at which a sentence fails; None if that is no tactic.

    They take the place of the tactic and of those behind it, up to the next bullet, brace or command.

    Args:
        proof: sentences.
        place: of the one that fails.
        tools: alternatives, such as "auto | lia".
    """
    marks, tactic = split_marks(proof[place])
    if not is_tactic(tactic):
        return None
    end = next(i for i in range(place + 1, len(proof) + 1) if i == len(proof) or not is_tactic(proof[i]))
    return [*proof[:place], f"{marks}all: solve [{tools}].", *proof[end:]]
