"""Problems of reasoning-gym: which side of the split they are on, and what is refused."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import pytest

from redi_lab.data.reasoning_gym import UNFREE, ReasoningGymSource, _start
from redi_lab.data.selection import text_key
from redi_lab.errors import UserError

TASKS = ["chain_sum", "gcd"]
needs_package = pytest.mark.skipif(
    find_spec("reasoning_gym") is None,
    reason="reasoning-gym is not installed (pip install 'redi-lab[reasoning-gym]')",
)


def source(tasks: list[str] | None = None, **settings: Any) -> ReasoningGymSource:
    return ReasoningGymSource(TASKS if tasks is None else tasks, **settings)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi_lab.data.reasoning_gym.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^data=reasoning_gym: .* pip install 'redi-lab\[reasoning-gym\]'$"):
        source().load()


@needs_package
def test_no_problem_is_ever_on_both_sides() -> None:
    """Whatever the seeds and numbers; `gcd` of small numbers has few texts, so that chance alone would repeat them."""
    few = {"gcd": {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 30}}
    held_out, others = set(), set()
    for number in range(3):
        one = source(options=few, num_heldout=20 + number, seed=number, heldout_seed=2 - number)
        kept = [row.problem for row in one.load().held_out]
        made = [row.problem for row in one.further(80, 0, ())[0]]
        assert len(set(kept)) == len(kept) == 20 + number
        assert len(set(made)) == len(made) == 80
        held_out |= {text_key(text) for text in kept}
        others |= {text_key(text) for text in made}
    assert len(held_out) > 25
    assert not held_out & others


@needs_package
def test_the_held_out_problems_are_the_same_for_every_seed() -> None:
    first, second = (source(seed=seed).load().held_out for seed in (1, 2))
    assert first == second
    assert len(first) == 300
    assert first != source(heldout_seed=1).load().held_out
    made = [source(seed=seed).further(20, 0, ())[0] for seed in (1, 2, 1)]
    assert made[0] == made[2] != made[1]
    assert {row.id.partition("/")[0] for row in made[0]} == set(TASKS)


@needs_package
def test_a_problem_is_found_again_by_its_id() -> None:
    one = source()
    for row in one.load().held_out[:8]:
        entry = source().entry(row.id)
        assert (entry["question"], str(entry["answer"])) == (row.problem, row.answers[0])


@needs_package
def test_difficulty_and_options_shape_the_problems() -> None:
    def terms(**settings: Any) -> set[int]:
        problems, _ = source(["chain_sum"], **settings).further(30, 0, ())
        return {len(re.findall(r"\d+", row.problem.rpartition(":")[2])) for row in problems}

    assert terms(options={"chain_sum": {"min_terms": 3, "max_terms": 3}}) == {3}
    assert max(terms(difficulty=0)) < max(terms(difficulty=3))
    assert terms(difficulty=3, options={"chain_sum": {"min_terms": 2, "max_terms": 2}}) == {2}
    digests = [source(difficulty=level).digest() for level in (0, 1, 0)]
    assert digests[0] == digests[2] != digests[1]


@needs_package
def test_excluded_problems_are_not_made_again() -> None:
    first, _ = source().further(10, 0, ())
    more, pairs = source().further(10, 5, {row.problem for row in first[:4]})
    assert pairs == ()
    assert [row.id for row in more[:6]] == [row.id for row in first[4:]]


@needs_package
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["chain_summ"]}, r"^data\.source\.tasks: chain_summ: .*did you mean chain_sum\?"),
        ({"tasks": ["composite"]}, r"^data\.source\.tasks: composite: reasoning-gym has no such task"),
        *(({"tasks": [task]}, rf"^data\.source\.tasks: {task}: its templates may not be used") for task in UNFREE),
        ({"difficulty": 99}, r"^data\.source\.difficulty=99: chain_sum has the levels 0 to \d"),
        ({"tasks": ["acre"], "difficulty": 0}, r"^data\.source\.difficulty=0: acre has no levels"),
        (
            {"options": {"gcd": {"digits": 3}}},
            r"^data\.source\.options\.gcd\.digits: gcd has no such option; .*max_value",
        ),
        ({"options": {"gcd": {"min_numbers": 0}}}, r"^data\.source\.options\.gcd: .*min_numbers must be at least 2"),
        ({"options": {"lcm": {}}}, r"^data\.source\.options\.lcm: data\.source\.tasks has no lcm"),
    ],
)
def test_what_is_not_there_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(**settings).check()


@needs_package
def test_a_task_that_is_used_up_says_so() -> None:
    tiny = {"gcd": {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 3}}
    with pytest.raises(UserError, match=r"^data\.source\.tasks: gcd has about \d different problems"):
        source(["gcd"], options=tiny).further(400, 0, ())


@needs_package
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some tasks leave files open
def test_all_tasks_make_problems_that_are_found_again() -> None:
    from reasoning_gym.factory import DATASETS

    tasks = sorted(set(DATASETS) - set(UNFREE) - {"composite"})
    assert len(tasks) > 100
    for task in tasks:
        [first, second], _ = source([task]).further(2, 0, ())
        assert first.problem != second.problem
        assert source([task]).entry(second.id)["question"] == second.problem, task


def test_pairs_of_tasks_have_streams_of_their_own() -> None:
    """Adjacent seeds of the package share all but one of their problems, so ours are far apart."""
    starts = [_start(task, seed) for task in TASKS for seed in range(40)]
    assert all(abs(a - b) > 10_000 for a, b in combinations(starts, 2))
