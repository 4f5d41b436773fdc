"""Whoever has least to do gets the next item, and what a dead worker had is done by another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Any, final

import pytest

from redi_lab.errors import UserError
from redi_lab.executor import crew as crews
from redi_lab.executor.crew import Crew, WorkerDiedError

OPEN, DEATH = object(), WorkerDiedError("of a cold")


@final
class Hand:
    """A worker that does as `does` says: gives a result or an error at once, or leaves an item OPEN."""

    def __init__(self, does: Callable[[Any], Any] = lambda item: item, *, is_ready: bool = True) -> None:
        self.does = does
        self.open: dict[Any, Future[Any]] = {}
        self.had: list[Any] = []
        self.is_closed = False
        self.ready: Future[Any] = Future()
        if is_ready:
            self.ready.set_result(None)

    def submit(self, item: Any) -> Future[Any]:
        assert not self.is_closed
        self.had.append(item)
        future: Future[Any] = Future()
        result = self.does(item)
        if result is OPEN:
            self.open[item] = future
        elif isinstance(result, BaseException):
            for lost in (future, *self.open.values()):
                lost.set_exception(result)
        else:
            future.set_result(result)
        return future

    def plain(self, error: BaseException) -> BaseException:
        return error

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "POLL_SECONDS", 0.001)


def hire(*hands: Hand, num_workers: int | None = None, **options: Any) -> Crew:
    """A crew of these; those beyond `num_workers` stand in for the dead."""
    waiting = iter(hands)
    return Crew(lambda _: next(waiting), num_workers or len(hands), **options)


def test_nobody_waits_for_a_slow_worker() -> None:
    slow, quick = Hand(lambda _: OPEN), Hand()
    made = []
    for item, _ in hire(slow, quick, in_flight=2).run(iter(range(20))):
        made.append(item)
        if len(made) == 18:  # all but those that the slow one has
            assert set(slow.open) == set(range(20)) - set(made)
            for open_item, future in slow.open.items():
                future.set_result(open_item)
    assert sorted(made) == list(range(20))
    assert len(slow.had) == 2


def test_the_first_items_are_spread_evenly() -> None:
    hands = [Hand(lambda _: OPEN) for _ in range(3)]
    results = hire(*hands, in_flight=100).run(iter(range(7)))
    hands[0].does = lambda item: OPEN if len(hands[0].had) < 3 else item  # so that there is something to wait for
    next(results)
    assert [len(hand.had) for hand in hands] == [3, 2, 2]


def test_items_are_read_as_there_is_room_for_them() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    next(hire(Hand(), Hand(lambda _: OPEN), in_flight=3).run(items()))
    assert len(read) == 6


def test_a_source_that_has_none_now_is_asked_again() -> None:
    assert [item for item, _ in hire(Hand()).run(iter([None, 1, None, None, 2, None]))] == [1, 2]


def test_what_a_dead_worker_had_is_done_by_another_and_nothing_twice() -> None:
    dying = Hand(lambda item: DEATH if item == 2 else OPEN)
    successor = Hand()
    with closing(hire(dying, successor, num_workers=1, in_flight=3)) as crew:
        assert sorted(crew.run(iter(range(5)))) == [(number, number) for number in range(5)]
    assert dying.is_closed
    assert successor.is_closed
    assert sorted(successor.had) == list(range(5))


def test_who_hears_of_a_loss_decides_what_becomes_of_it() -> None:
    losses: list[tuple[Any, str]] = []
    crew = hire(Hand(lambda item: DEATH if item == 1 else item), Hand(), num_workers=1)
    made = list(crew.run(iter(range(3)), lambda item, reason: losses.append((item, reason))))
    assert made == [(0, 0), (2, 2)]
    assert losses == [(1, "of a cold")]


def test_workers_that_die_in_a_row_are_given_up_and_results_in_between_count() -> None:
    def mortal(item: Any) -> Any:
        return DEATH if item == "poison" else item

    hands = [Hand(mortal) for _ in range(4)]
    items = iter(["a", "poison"])
    with pytest.raises(UserError, match=r"^worker 0 died 3 times in a row, at last because of a cold$"):
        list(hire(*hands, num_workers=1).run(items))
    assert [hand.is_closed for hand in hands] == [True, True, True, False]

    deaths = iter([DEATH, 0, DEATH, DEATH, 0, DEATH, 0])  # never three in a row
    hands = [Hand(lambda _: next(deaths)) for _ in range(5)]
    assert len(list(hire(*hands, num_workers=1).run(iter(range(3))))) == 3


def test_an_error_of_the_work_comes_through() -> None:
    with pytest.raises(ValueError, match="bad row"):
        list(hire(Hand(lambda item: ValueError("bad row"))).run(iter([1])))


def test_a_worker_without_a_place_gets_nothing_until_it_has_one() -> None:
    late = Hand(is_ready=False)
    results = hire(Hand(), late).run(iter(range(6)))
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    assert late.had == []
    late.ready.set_result(None)
    assert len(list(results)) == 3
    assert late.had != []
