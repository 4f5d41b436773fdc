"""Rules for tests: nothing is filtered, and an option is changed by its name."""

from __future__ import annotations

from typing import Any

from redi_lab.curation.curator import RowRules

_PLAIN: dict[str, Any] = {
    "unknown": "unused",
    "require_complete": False,
    "require_answer": False,
    "demonstrations": "first",
    "negatives": "paired",
    "pair_order": "first",
    "pairs_per_problem": 1,
    "problem_duplicates": "keep",
    "generation_duplicates": "keep",
    "near_threshold": 0.8,
    "drop_negatives": (),
    "max_prompt_tokens": None,
    "max_completion_tokens": None,
    "max_sequence_tokens": None,
    "thinking_prefix": "",
    "seed": 42,
}


def rules(**changes: Any) -> RowRules:
    """The paper's choice of pairs without its negatives of unknown verdict, except for the changes."""
    return RowRules(**_PLAIN | changes)
