"""OpenR1-Math-Raw as a `TraceSource`: the selection of the REDI paper (§3), without its token limits.

    OpenR1Source().load()                          # from the hub, about 8 GB
    OpenR1Source("openr1/train.jsonl").load()      # a local file or folder with the same columns

Rules, in order, each refusal counted under its name:

1. A row's id is its index in the source (from 0). The result is in the order of the paper's shuffle, which is
   `datasets.Dataset.shuffle(seed=42)`, that is `numpy.random.default_rng(42).permutation(num_rows)`. Each row is
   selected for itself, so rows are read in the order of the source and only the selected ones are shuffled.
2. `problem_is_valid` must be "yes" (stripped, any case) and `source` none of `excluded_sources`.
3. Problem, generations and both verdict lists, as long as the generations, must be there. One rule is ours: a row with
   an empty generation is dropped, since nothing can be learnt from it as an answer.
4. A generation is correct iff `llama_verification` and `math_verify_reparsed_answer` are both true; otherwise it is
   incorrect, a missing verdict included. (So a right trace that one verifier rejects can become a negative.)
5. Demonstrations and pairs are chosen by `redi_lab.data.selection.curate`.

The limits on tokens (800 for prompts, 19,000 for responses) are applied after tokenisation, by the data module.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import final

from redi_lab.data.pairing import Negatives
from redi_lab.data.rows import Row, Values
from redi_lab.data.selection import NO_GENERATIONS
from redi_lab.data.table_source import TableSource, one_by_one, peek
from redi_lab.data.traces import Dropped, Generation, Problem
from redi_lab.errors import UserError

NOT_VALID = "problem_is_valid"
NO_PROBLEM = "no problem"
NO_VERDICTS = "verdict lists do not match the generations"
EMPTY_GENERATION = "empty generation"

_COLUMNS = ("problem", "problem_is_valid", "source", "generations", "correctness")
_VERDICTS = ("llama_verification", "math_verify_reparsed_answer")
_NOT_AN_ANSWER = ("", "proof", "notfound")  # what the column `answer` holds where nothing can be graded

Words = tuple[tuple[str, bool | None], ...]


@final
class OpenR1Source(TableSource):
    """The demonstrations and pairs of OpenR1-Math-Raw; see `TableSource` for the arguments that it has in common.

    Args:
        shuffle_seed: seed of the order of the result, and of the choice of held-out problems.
        excluded_sources: values of the column `source` whose rows are dropped.
        num_heldout: valid problems with an answer that can be graded, kept for evaluation; 0 in the paper.
    """

    def __init__(
        self,
        path: str = "open-r1/OpenR1-Math-Raw",
        split: str = "train",
        revision: str | None = None,
        shuffle_seed: int = 42,
        excluded_sources: Sequence[str] = ("cn_k12",),
        num_heldout: int = 0,
        streaming: bool = False,
        negatives: Negatives = "first",
    ) -> None:
        self._excluded = tuple(excluded_sources)
        options = sorted(self._excluded)
        super().__init__(
            path,
            split,
            revision,
            num_heldout,
            shuffle_seed,
            options,
            streaming=streaming,
            is_shuffled=True,
            negatives=negatives,
        )

    def parse(self, rows: Iterator[Row]) -> Iterator[Problem | Dropped]:
        """See `TableSource.parse`; other columns are refused, and rows that break a rule dropped."""
        first, rows = peek(rows)
        check_columns(first, _COLUMNS, "OpenR1-Math-Raw", other="OpenR1-Math-220k", column="correctness_math_verify")
        return one_by_one(rows, lambda row, index: parse_row(row.values, str(index), self._excluded))


def parse_row(values: Values, identity: str, excluded_sources: Collection[str]) -> Problem | Dropped:
    """One raw row as a problem, or the rule that drops it."""
    valid = values.get("problem_is_valid")
    if not isinstance(valid, str) or valid.strip().lower() != "yes":
        return Dropped(identity, NOT_VALID, len(_list(values.get("generations"))))
    correctness = values.get("correctness")
    words = {name: correctness.get(name) if isinstance(correctness, dict) else None for name in _VERDICTS}
    return parse_shared(
        values,
        identity,
        excluded_sources,
        words,
        lambda _, text, verdicts: Generation(text, _is_right(verdicts), verdicts),
    )


def _is_right(verdicts: Words) -> bool:
    """The joint verdict "LandMV"."""
    return all(word for _, word in verdicts)


def parse_shared(
    values: Values,
    identity: str,
    excluded_sources: Collection[str],
    verdicts: dict[str, object],
    generation: Callable[[int, str, Words], Generation],
) -> Problem | Dropped:
    """The rules that OpenR1-Math-Raw and OpenR1-Math-220k share.

    Args:
        values: of the raw row.
        identity: its id.
        excluded_sources: values of the column `source` whose rows are dropped.
        verdicts: of each verifier, what should be a list as long as the generations.
        generation: from index, text and verdicts of a generation to its record.
    """
    source, problem, answer = (values.get(key) for key in ("source", "problem", "answer"))
    texts = _list(values.get("generations"))
    words = {name: _list(given) for name, given in verdicts.items()}
    reason = None
    if source in excluded_sources:
        reason = f"source {source}"
    elif not isinstance(problem, str) or not problem.strip():
        reason = NO_PROBLEM
    elif not texts:
        reason = NO_GENERATIONS
    elif not all(
        len(given) == len(texts) and all(isinstance(w, bool | None) for w in given) for given in words.values()
    ):
        reason = NO_VERDICTS
    elif not all(isinstance(text, str) and text.strip() for text in texts):
        reason = EMPTY_GENERATION
    if reason is not None:
        return Dropped(identity, reason, len(texts))
    is_answer = isinstance(answer, str) and answer.strip().lower() not in _NOT_AN_ANSWER
    return Problem(
        identity,
        str(problem),
        str(answer) if is_answer else None,
        tuple(
            generation(index, text, tuple(zip(words, given, strict=True)))
            for index, (text, *given) in enumerate(zip(texts, *words.values(), strict=True))
        ),
        source if isinstance(source, str) else None,
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def check_columns(row: Row, columns: Sequence[str], name: str, *, other: str, column: str) -> None:
    """Check that a row has the columns of the data set `name`; `column` is one that only the data set `other` has.

    Raises:
        UserError: some are missing.
    """
    missing = [wanted for wanted in columns if wanted not in row.values]
    if missing:
        hint = f" (these are columns of {other})" if column in row.values else ""
        raise UserError(
            f"{row.where}: not a row of {name}: without {', '.join(missing)}; it has {', '.join(row.values)}{hint}"
        )
