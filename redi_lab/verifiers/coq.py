"""Proofs in Coq: a completion is right if coqc accepts its proof of the statement that is the problem's answer.

    with CoqVerifier(Limits(), coqc="coqc", libraries=["Lia"], axioms=[], tactics=["auto", "lia"]) as verifier:
        [grade] = verifier.grade_all([("Proof. intros; lia. Qed.", problem)])

The reason of a wrong proof is what Coq says of it.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, NamedTuple, Self, final

from redi_lab.errors import UserError
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers.base import WITH_TOOLS, Limits, Posed
from redi_lab.verifiers.coq_text import RefusedError, Statement, find_proof, read_sentences, with_tools

RULES_VERSION = 1  # goes up when a verdict changes, so that cached results are made anew
_BOX = 'ulimit -v "$1"; ulimit -t "$2"; ulimit -f "$3"; ulimit -c 0; shift 3; exec "$@"'
"""A shell that limits itself, then becomes the program: no code of this process runs between fork and exec."""
_FILE_BLOCKS = 2**17  # of 512 bytes, that a file may grow to
_TAIL_BYTES = 2**16
_REASON_CHARACTERS = 1000
_ENVIRONMENT = re.compile(r"PATH|LD_LIBRARY_PATH|(?:COQ|ROCQ|OCAML|CAML|OPAM)\w*")
_ERROR = re.compile(r'File "[^"]*", line (\d+), characters [\d-]+:\s*Error:\s*(.*)', re.DOTALL)
_BEYOND = re.compile(r"out of memory|stack overflow|anomaly", re.IGNORECASE)
_TOOLS = {
    "lia": ("Lia", "lia"),
    "nia": ("Lia", "nia"),
    "ring": ("Ring ArithRing ZArithRing", "ring"),
    "field": ("Field", "field"),
    "lra": ("Lqa Lra", "first [Lra.lra | Lqa.lra]"),
    "hammer": ("Hammer.Hammer", "hammer"),
}
"""Tactics that a library brings: the library, and how they are called."""


class _Ran(NamedTuple):
    """How coqc ended (None: it was out of time), and the ends of what it printed."""

    status: int | None
    output: str
    errors: str


class _Outcome(NamedTuple):
    """What became of a proof, and the line at which it failed, from 0."""

    verdict: Verdict
    reason: str
    line: int | None = None


@final
class CoqVerifier:
    """See `Verifier`.

    Args:
        limits: coqc processes at a time, time for one proof, and address space of a process.
        coqc: the compiler.
        libraries: what a text may Require, see `read_sentences`.
        axioms: what a proof may rest on, by the names that Print Assumptions gives them.
        tactics: tools that are tried where a proof fails; it stays wrong, with a reason that begins with `WITH_TOOLS`.
            They have as much time again.
    """

    def __init__(
        self, limits: Limits, coqc: str, libraries: Sequence[str], axioms: Sequence[str], tactics: Sequence[str]
    ) -> None:
        self._limits = limits
        self._coqc = str(Path(which(coqc) or coqc).absolute())
        self._libraries = frozenset(libraries)
        self._axioms = frozenset(axioms)
        self._listed = tactics

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What decides a verdict.

        Raises:
            UserError: the program is no coqc.
        """
        told = self._run(["--version"], "", self._limits.timeout_seconds)
        version = re.search(r"(?:Coq|Rocq).*version (\S+)", told.output)
        if version is None:
            said = " ".join((told.output + told.errors).split())[:200] or f"status {told.status}"
            raise UserError(
                f"verifier.coqc={self._coqc}: does not tell Coq's version ({said}); give the path of a coqc"
            )
        return {
            "name": "coq",
            "rules": RULES_VERSION,
            "version": version[1],
            "libraries": sorted(self._libraries),
            "axioms": sorted(self._axioms),
            "tactics": self._tactics,
            "timeout_seconds": self._limits.timeout_seconds,
            "memory_mb": self._limits.memory_mb,
        }

    @cached_property
    def _tactics(self) -> list[str]:
        """Those listed, without hammer where it is not installed."""
        is_there = "hammer" in self._listed and self._compile(["Require Hammer.Hammer."]).status == 0
        return [name for name in self._listed if is_there or name != "hammer"]

    def check(self, problems: Iterable[Posed]) -> None:
        """Look at the statements.

        Raises:
            UserError: an answer is none, or Coq is not to be given it.
        """
        for problem in problems:
            try:
                Statement.read(problem.answers, self._libraries)
            except RefusedError as refusal:
                raise UserError(
                    f"verifier=coq: the answer of {problem.id} is no statement to prove ({refusal}); write one, such as"
                    " Lemma same : forall n : nat, n = n."
                ) from refusal

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        """A verdict for each completion of a problem, in order; equal proofs are compiled once."""
        tasks = [(find_proof(text), tuple(problem.answers)) for text, problem in pairs]
        distinct = list(dict.fromkeys(tasks))
        pool = ThreadPoolExecutor(self._limits.num_workers)
        try:
            grades = dict(zip(distinct, pool.map(self._grade, distinct), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)
        return [grades[task] for task in tasks]

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left open."""

    def _grade(self, task: tuple[str | None, tuple[str, ...]]) -> Grade:
        text, answers = task
        if text is None:
            return Grade(Verdict.UNKNOWN, "no finished proof", None)
        try:
            statement = Statement.read(answers, self._libraries)
        except RefusedError as refusal:
            return Grade(Verdict.UNKNOWN, f"its statement: {refusal}", text)
        try:
            proof = statement.completed(read_sentences(text, self._libraries))
        except RefusedError as refusal:
            return Grade(refusal.verdict, str(refusal), text)
        found = self._prove(statement, proof, (), self._limits.timeout_seconds)
        if found.verdict is Verdict.WRONG and self._tactics and (number := self._mend(statement, proof, found)):
            return Grade(Verdict.WRONG, f"{WITH_TOOLS} ({number} used): {found.reason}", text)
        return Grade(found.verdict, found.reason, text)

    def _mend(self, statement: Statement, proof: list[str], found: _Outcome) -> int:
        """In how many places tools make a proof of a text that is none; 0 if they do not."""
        imports = [f"Require Import {_TOOLS[name][0]}." for name in self._tactics if name in _TOOLS]
        tools = " | ".join(_TOOLS.get(name, ("", name))[1] for name in self._tactics)
        end = monotonic() + self._limits.timeout_seconds
        for number in range(1, len(proof) + 1):
            mended = None if found.line is None else with_tools(proof, found.line, tools)
            if mended is None or mended == proof or end < monotonic():
                break
            proof = mended
            found = self._prove(statement, proof, imports, end - monotonic())
            if found.verdict is Verdict.RIGHT:
                return number
        return 0

    def _prove(
        self, statement: Statement, proof: Sequence[str], imports: Sequence[str], timeout_seconds: float
    ) -> _Outcome:
        mark = secrets.token_hex(16)
        lines, of_proof = statement.checking(proof, imports, mark)
        ran = self._compile(lines, timeout_seconds)
        if ran.status is None:
            return _Outcome(Verdict.UNKNOWN, "timeout")
        if ran.status == 0:
            return self._resting_on(*ran.output.rpartition(mark)[1:])
        error = _ERROR.search(ran.errors)
        said = " ".join((error[2] if error else ran.errors).split())[:_REASON_CHARACTERS]
        if error is None or ran.status != 1 or _BEYOND.search(said):
            return _Outcome(Verdict.UNKNOWN, f"coqc failed with status {ran.status}: {said}")
        line = int(error[1]) - 1
        if line < of_proof.start:
            return _Outcome(Verdict.UNKNOWN, f"its statement: {said}")
        if line >= of_proof.stop:
            return _Outcome(Verdict.WRONG, f"does not prove {statement.name}: {said}")
        return _Outcome(Verdict.WRONG, f"{said} [at: {lines[line]}]", line - of_proof.start)

    def _resting_on(self, mark: str, printed: str) -> _Outcome:
        """The verdict on an accepted proof, from what Print Assumptions says of it after the mark."""
        if not mark:
            return _Outcome(Verdict.UNKNOWN, "coqc did not say what it rests on")
        if printed.strip() == "Closed under the global context":
            return _Outcome(Verdict.RIGHT, "proved")
        names = re.findall(r"^(\S+)", printed.replace("Axioms:\n", "", 1), re.MULTILINE)
        others = [name for name in names if name not in self._axioms]
        if others or not names:
            return _Outcome(Verdict.WRONG, f"rests on what is not proved: {', '.join(others)}"[:_REASON_CHARACTERS])
        return _Outcome(Verdict.RIGHT, "proved, with axioms")

    def _compile(self, lines: Sequence[str], timeout_seconds: float | None = None) -> _Ran:
        arguments = ["-q", "-noglob", "-w", "none", "-native-compiler", "no", "given.v"]
        return self._run(arguments, "\n".join(lines), timeout_seconds or self._limits.timeout_seconds)

    def _run(self, arguments: Sequence[str], content: str, timeout_seconds: float) -> _Ran:
        """Run coqc in a folder with given.v alone, within the limits, without the environment's secrets."""
        # The processor's time is for the case that this process is killed, and nobody is left to stop coqc.
        limits = [str(self._limits.memory_mb * 1024), str(math.ceil(timeout_seconds) + 1), str(_FILE_BLOCKS)]
        kept = {name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)}
        with TemporaryDirectory(prefix="redi_lab_coq_") as name:
            folder = Path(name)
            (folder / "given.v").write_text(content, encoding="utf-8")
            with (folder / "output").open("w") as output, (folder / "errors").open("w") as errors:
                process = subprocess.Popen(
                    ["/bin/sh", "-c", _BOX, "sh", *limits, self._coqc, *arguments],
                    cwd=folder,
                    env=kept | {"TMPDIR": name},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
                try:
                    status: int | None = process.wait(timeout_seconds)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    status = None
            return _Ran(status, _tail(folder / "output"), _tail(folder / "errors"))


def _tail(file: Path) -> str:
    return file.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
