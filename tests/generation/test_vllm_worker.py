"""The worker's loop around a stand-in for vLLM's engine: requests may come while others run."""

from __future__ import annotations

import json
import sys
from queue import SimpleQueue
from types import ModuleType, SimpleNamespace
from typing import Any, final

import pytest

from redi_lab.generation import vllm_worker


@final
class TwoSeats:
    """Makes one token of at most two requests a step; a request ends after as many as its prompt's first one says."""

    def __init__(self, lines: SimpleQueue[str], later: dict[int, list[str]]) -> None:
        self.lines, self.later = lines, later
        self.left: dict[str, int] = {}
        self.steps = 0

    def add_request(self, name: str, prompt: dict[str, Any], params: Any) -> None:
        assert params.max_tokens == 9
        self.left[name] = prompt["prompt_token_ids"][0]

    def has_unfinished_requests(self) -> bool:
        return bool(self.left)

    def step(self) -> list[Any]:
        assert self.left
        self.steps += 1
        for line in self.later.get(self.steps, []):
            self.lines.put(line)
        running = list(self.left)[:2]
        for name in running:
            self.left[name] -= 1
        made = SimpleNamespace(token_ids=[7], logprobs=None)
        done = [name for name in running if self.left[name] == 0]
        for name in done:
            del self.left[name]
        return [SimpleNamespace(request_id=name, finished=name in done, outputs=[made]) for name in running]


@pytest.fixture(autouse=True)
def _vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two modules that the worker takes parameters from."""
    package, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    parameters.RequestOutputKind = SimpleNamespace(FINAL_ONLY="final")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)


def ask(name: str, steps: int) -> str:
    request = {"id": name, "prompt": [steps], "temperature": 0.0, "top_p": 1.0, "max_tokens": 9, "stop": [2]}
    return json.dumps(request | {"seed": None, "logprobs": False}) + "\n"


def test_requests_are_taken_up_while_others_run_and_all_are_answered() -> None:
    lines: SimpleQueue[str] = SimpleQueue()
    for line in (ask("long", 6), ask("short", 2)):
        lines.put(line)
    engine = TwoSeats(lines, {3: [ask("late", 1)], 5: [ask("last", 3), ""]})
    made = [completion["id"] for completion in vllm_worker.generate(engine, lines)]
    assert made == ["short", "late", "long", "last"]
    assert engine.steps == 8  # "late" ran beside "long", and so did the beginning of "last"


def test_without_requests_it_waits_for_one_and_ends() -> None:
    lines: SimpleQueue[str] = SimpleQueue()
    lines.put("")
    assert list(vllm_worker.generate(TwoSeats(lines, {}), lines)) == []
