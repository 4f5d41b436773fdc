"""Questions of the embedded tasks with something wrong in them, in their own words.

flawed("76 , first add 72 ?", 0)  # "76 , first add 72 , first add 73 ?": a contradiction
flawed("76 , first add 72 ?", 1)  # "76 , first add 72 , 31 ?": something beside the point
"""

from __future__ import annotations

import re

FLAWS = ("contradiction", "irrelevance")
"""The kinds, by index."""
_STEP = re.compile(r" (\w+ (?:add|take) )(\d+)")  # behind a blank, since a word without one is another token


def flawed(problem: str, index: int) -> str:
    """The problem with a step that is given twice, where the index is even, else with a number that belongs to nothing.

    Args:
        problem: the text of a problem of an embedded task.
        index: its place among the others.
    """
    if index % 2:
        return f"{problem.removesuffix(' ?')} , {11 + index % 89} ?"

    def twice(found: re.Match[str]) -> str:
        number, step = int(found[2]), 1 + index % 7
        other = number + step if number < 90 else number - step  # of as many digits
        return f"{found[0]} , {found[1]}{other}"

    return _STEP.sub(twice, problem, count=1)
