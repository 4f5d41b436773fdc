from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from redi_lab.errors import UserError
from redi_lab.evaluation.samples import Draw, Sample, SampleStore, draw_samples
from redi_lab.generation.engines import Completion, Progress, Request, SamplingParams
from tests.evaluation import evaluate_worker
from tests.evaluation.evaluate_worker import NUM_PROBLEMS
from tests.evaluation.scripted_engine import ScriptedEngine

SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_new_tokens=5, num_samples=2, seed=0)
PROMPTS = [[0], [1], [2], [3], [4]]


def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, sample: f"p{prompt[0]} s{sample} \ud800\u2028")


def draw(
    engine: ScriptedEngine, folder: Path, sampling: SamplingParams = SAMPLING, chunk: int = 4
) -> list[list[Sample]]:
    wanted = Draw(PROMPTS, sampling, SampleStore(folder, {"is": "it"}), chunk)
    return draw_samples(engine, Path("checkpoint"), [wanted])[0]


def stored(path: Path) -> Counter[tuple[int, int]]:
    """How often each (problem, sample) is in a store."""
    chunks = [json.loads(line) for line in path.read_text().split("\n")[1:-1]]
    return Counter(
        (problem, chunk["first_sample"] + offset)
        for chunk in chunks
        for problem, drawn in zip(chunk["problems"], chunk["samples"], strict=True)
        for offset in range(len(drawn))
    )


def path_in(folder: Path) -> Path:
    return SampleStore(folder, {"is": "it"}).path


def test_each_chunk_is_a_line_and_comes_back(tmp_path: Path) -> None:
    drawn = draw(engine(), tmp_path)
    assert drawn[3] == [Sample(f"p3 s{sample} \ud800\u2028", "stop", 2) for sample in range(2)]
    assert path_in(tmp_path).read_bytes().count(b"\n") == 1 + 3  # head, and chunks of two problems
    asked = engine()
    assert draw(asked, tmp_path) == drawn
    assert asked.requests == []


def test_tokens_and_their_log_probs_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    drawn = draw(engine(), tmp_path, replace(SAMPLING, wants_token_logps=True))
    assert drawn[4][1].token_ids == array("i", [1, 2])
    assert drawn[4][1].token_logps == array("f", [-0.5, -0.25])
    asked = engine()
    assert draw(asked, tmp_path, replace(SAMPLING, wants_token_logps=True)) == drawn
    assert asked.requests == []


def test_some_problems_alone_are_drawn_and_returned(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, {"is": "it"})
    asked = engine()
    some = replace(SAMPLING, num_samples=1)
    [drawn] = draw_samples(asked, Path("checkpoint"), [Draw(PROMPTS, some, store, 2, problems=[1, 3, 4])])
    assert asked.requests == [([(1,), (3,)], range(1)), ([(4,)], range(1))]
    assert [sample.text[:2] for [sample] in drawn] == ["p1", "p3", "p4"]
    draw(asked, tmp_path, some, chunk=100)
    assert asked.requests[2:] == [([(0,), (2,)], range(1))]


def test_further_samples_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    draw(engine(), tmp_path)
    asked = engine()
    five = draw(asked, tmp_path, replace(SAMPLING, num_samples=5), chunk=100)
    assert asked.requests == [([(0,), (1,), (2,), (3,), (4,)], range(2, 5))]
    assert [sample.text for sample in five[4]] == [f"p4 s{index} \ud800\u2028" for index in range(5)]
    assert draw(asked, tmp_path, replace(SAMPLING, first_sample=1, num_samples=1)) == [[five[p][1]] for p in range(5)]


def test_a_hole_between_stored_samples_is_filled(tmp_path: Path) -> None:
    draw(engine(), tmp_path, replace(SAMPLING, first_sample=2, num_samples=1))
    asked = engine()
    draw(asked, tmp_path, replace(SAMPLING, num_samples=4), chunk=100)
    assert [indices for _, indices in asked.requests] == [range(2), range(3, 4)]
    assert set(stored(path_in(tmp_path)).values()) == {1}


@pytest.mark.parametrize("kept", range(0, 400, 23))
def test_a_torn_line_costs_its_chunk_alone(tmp_path: Path, kept: int) -> None:
    """Whatever number of bytes a kill left behind: nothing is lost, nothing is there twice."""
    whole = draw(engine(), tmp_path)
    path = path_in(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: min(kept, len(content) - 1)])
    assert draw(engine(), tmp_path) == whole
    assert path.read_bytes() == content


def test_a_damaged_line_is_drawn_again_with_a_warning(tmp_path: Path) -> None:
    whole = draw(engine(), tmp_path)
    path = path_in(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"problems": [2, 3]', b'"problems": [2, \x003]'))
    asked = engine()
    with pytest.warns(UserWarning, match=r"jsonl:3 is damaged, its samples will be drawn again"):
        assert draw(asked, tmp_path) == whole
    assert asked.requests == [([(2,), (3,)], range(2))]


def test_a_store_under_anothers_name_is_refused(tmp_path: Path) -> None:
    draw(engine(), tmp_path)
    other = SampleStore(tmp_path, {"is": "another"})
    path_in(tmp_path).rename(other.path)
    with pytest.raises(UserError, match="its first line does not belong to its name; remove the file"):
        draw_samples(engine(), Path("checkpoint"), [Draw(PROMPTS, SAMPLING, other, 4)])


def test_progress_counts_what_is_there_already(tmp_path: Path) -> None:
    draw(engine(), tmp_path, replace(SAMPLING, num_samples=1))
    seen: list[tuple[int, int]] = []
    store = SampleStore(tmp_path, {"is": "it"})
    draw_samples(engine(), Path("c"), [Draw(PROMPTS, SAMPLING, store, 4, lambda *counts: seen.append(counts))])
    assert seen == [(done, 10) for done in range(5, 11)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda drawn: drawn[:-1], "did not return 3 of the completions"),  # of three chunks
        (lambda drawn: [*drawn, drawn[0]], "returned a completion twice"),
        (lambda drawn: [replace(drawn[0], sample_index=2), *drawn[1:]], "or one that it was not asked for"),
    ],
)
def test_other_completions_than_wanted_are_a_defect(
    change: Callable[[list[Completion]], list[Completion]], message: str, tmp_path: Path
) -> None:
    class Wrong(ScriptedEngine):
        def stream(
            self, checkpoint: Path, requests: Sequence[Request], on_progress: Progress | None = None
        ) -> Iterator[tuple[int, list[Completion]]]:
            for number, drawn in super().stream(checkpoint, requests, on_progress):
                yield number, change(drawn)

    with pytest.raises(RuntimeError, match=message):
        draw(Wrong(lambda prompt, sample: ""), tmp_path)


def test_completions_are_there_as_soon_as_they_are_finished_and_in_any_order(tmp_path: Path) -> None:
    """An engine that draws single completions, the last first, and is killed after seven."""
    one_by_one = OneByOne(7)
    with pytest.raises(KeyboardInterrupt):
        draw(one_by_one, tmp_path)
    assert sum(stored(path_in(tmp_path)).values()) == 7
    whole = draw(engine(), tmp_path / "whole")
    rest = OneByOne(100)
    assert draw(rest, tmp_path) == whole
    assert rest.num_drawn == 3
    assert set(stored(path_in(tmp_path)).values()) == {1}


class OneByOne(ScriptedEngine):
    def __init__(self, most: int) -> None:
        super().__init__(engine().says)
        self.most = most
        self.num_drawn = 0

    def stream(
        self, checkpoint: Path, requests: Sequence[Request], on_progress: Progress | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        for number, drawn in reversed(list(super().stream(checkpoint, requests, on_progress))):
            for made in reversed(drawn):
                if self.num_drawn == self.most:
                    raise KeyboardInterrupt
                self.num_drawn += 1
                yield number, [made]


def test_several_are_one_queue_with_a_store_and_a_bar_each(tmp_path: Path) -> None:
    asked = engine()
    seen: list[list[tuple[int, int]]] = [[], []]
    stores = [SampleStore(tmp_path, {"is": name}) for name in ("one", "other")]
    draw_samples(asked, Path("c"), [Draw(PROMPTS[:1], replace(SAMPLING, num_samples=1), stores[0], 4)])
    asked.requests.clear()
    draws = [
        Draw(prompts, SAMPLING, store, 4, lambda *counts, bar=bar: bar.append(counts))
        for prompts, store, bar in zip((PROMPTS[:2], PROMPTS[3:]), stores, seen, strict=True)
    ]
    first, second = draw_samples(asked, Path("c"), draws)
    assert asked.requests == [([(0,)], range(1, 2)), ([(1,)], range(2)), ([(3,), (4,)], range(2))]
    assert [sample.text[:5] for samples in first for sample in samples] == ["p0 s0", "p0 s1", "p1 s0", "p1 s1"]
    assert [sample.text[:5] for samples in second for sample in samples] == ["p3 s0", "p3 s1", "p4 s0", "p4 s1"]
    assert seen == [[(1, 4), (2, 4), (3, 4), (4, 4)], [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]]


def test_of_two_at_once_one_draws_and_the_other_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    def slow(prompt: tuple[int, ...], sample: int) -> str:
        begun.set()
        may_go_on.wait(10)
        return "text"

    first = threading.Thread(target=draw, args=(ScriptedEngine(slow), tmp_path))
    first.start()
    assert begun.wait(10)
    asked = engine()
    second = threading.Thread(target=draw, args=(asked, tmp_path))
    second.start()
    while not caplog.records:
        time.sleep(0.01)
    may_go_on.set()
    first.join(10)
    second.join(10)
    assert asked.requests == []
    assert "another process draws the same samples" in caplog.text
    assert set(stored(path_in(tmp_path)).values()) == {1}


def _kill_and_compare(
    checkpoint: Path, folder: Path, kills: int, chance: random.Random, *engine: str, lines: int = NUM_PROBLEMS
) -> None:
    """Kill the worker `kills` times, each a random while after a new line of so many, then finish and compare."""
    samples = folder / "killed" / "samples"
    command = [sys.executable, evaluate_worker.__file__, str(folder / "killed"), str(checkpoint), *engine]
    for kill in range(kills):
        worker = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        goal = 1 + (kill + 1) * lines // (kills + 2)
        while worker.poll() is None and sum(p.read_bytes().count(b"\n") for p in samples.glob("*.jsonl")) < goal:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.02)
        worker.kill()
        worker.wait()
    assert not list((folder / "killed").glob("*.json"))  # no result yet
    results = []
    for name in ("killed", "whole"):
        evaluation = evaluate_worker.make(folder / name, checkpoint, *engine)
        with closing(evaluation.engine):
            results.append(evaluation.result())
    assert results[0] == results[1]
    [store], [whole] = samples.glob("*.jsonl"), (folder / "whole" / "samples").glob("*.jsonl")
    assert store.read_bytes() == whole.read_bytes() or engine  # in any order with vLLM
    assert len(stored(store)) == NUM_PROBLEMS * evaluate_worker.NUM_SAMPLES
    assert set(stored(store).values()) == {1}


@pytest.mark.parametrize("num_chunks", range(3))
def test_interrupted_and_resumed_is_as_never_interrupted(tmp_path: Path, num_chunks: int) -> None:
    class Interrupted(ScriptedEngine):
        def stream(
            self, checkpoint: Path, requests: Sequence[Request], on_progress: Progress | None = None
        ) -> Iterator[tuple[int, list[Completion]]]:
            yield from itertools.islice(super().stream(checkpoint, requests, on_progress), num_chunks)
            raise KeyboardInterrupt

    whole = draw(engine(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        draw(Interrupted(engine().says), tmp_path)
    resumed = engine()
    assert draw(resumed, tmp_path) == whole
    assert len(resumed.requests) == 3 - num_chunks
    assert path_in(tmp_path).read_bytes() == path_in(tmp_path / "whole").read_bytes()


@pytest.mark.slow  # each kill starts a process that imports torch
def test_killed_ten_times(checkpoint: Path, tmp_path: Path) -> None:
    _kill_and_compare(checkpoint, tmp_path, 10, random.Random())


@pytest.mark.slow
def test_killed_with_replicas_of_vllm(
    checkpoint: Path, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_A_TOKEN", "0.005")
    _kill_and_compare(checkpoint, tmp_path, 4, random.Random(), python, lines=2 * NUM_PROBLEMS)
