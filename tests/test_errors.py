from __future__ import annotations

import signal

import pytest

from redi_lab.errors import RunInterruptedError, UserError, in_short, interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_an_exception_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(RunInterruptedError, match=f"^{number.name}; to go on, try again$"), interruptible("try again"):
        signal.raise_signal(number)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_messages_are_one_line() -> None:
    assert str(UserError("a.jsonl:3: \n  not JSON\n")) == "a.jsonl:3: not JSON"
    assert in_short(ValueError("cannot load:\n  no file\nand pages of advice")) == "cannot load: no file"
    assert in_short(ValueError("word " * 100)).endswith(" …")
    assert in_short(ValueError()) == "ValueError"
