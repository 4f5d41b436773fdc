"""Samples on disk as they are drawn, so that an evaluation which was killed goes on where it was.

A completion follows from the checkpoint, the engine, the sampling parameters, its prompt and its sample index. So a
store is named by all of these except the number of samples: more samples of the same problems find the earlier ones.

    store = SampleStore(folder, {"checkpoint": digest, "engine": engine, "sampling": sampling, "prompts": digest})
    [samples] = draw_samples(engine, checkpoint, [Draw(prompts, sampling, store, chunk_completions=1024)])
    samples[problem][sample].text

One line of the file is what the engine drew together, a whole chunk or a single completion: it is there as a whole, or,
after a kill, not at all. A chunk is then drawn again from the same prompts in the same batches, so that even rounding
comes out as without the kill.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self, final

import filelock

from redi_lab.errors import UserError
from redi_lab.evaluation.results import content_digest
from redi_lab.files import appending, is_locked
from redi_lab.generation.engines import Completion, Engine, Progress, Request, SamplingParams

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """What is kept of a completion.

    Attributes:
        text: See `Completion`.
        finish_reason: "stop" or "length".
        num_tokens: How many tokens it has.
        token_ids: These tokens; None unless their log-probs were asked for.
        token_logps: See `Completion`; None likewise.
    """

    text: str
    finish_reason: str
    num_tokens: int
    token_ids: array[int] | None = None
    token_logps: array[float] | None = None

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Self:
        """What `as_row` made."""
        text, finish_reason, num_tokens, *tokens = row
        if not tokens:
            return cls(text, finish_reason, num_tokens)
        return cls(text, finish_reason, num_tokens, array("i", tokens[0]), array("f", tokens[1]))

    def as_row(self) -> list[Any]:
        """As JSON values."""
        row = [self.text, self.finish_reason, self.num_tokens]
        return row if self.token_logps is None else [*row, list(self.token_ids or ()), list(self.token_logps)]


Samples = dict[int, dict[int, Sample]]
"""Problem index → sample index → sample."""


@final
class SampleStore:
    """The samples of one checkpoint, engine, sampling and list of prompts; an append-only file of JSON lines.

    Args:
        folder: Where stores lie.
        identity: JSON values that decide a sample, together with its indices; the first line of the file.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._identity = json.loads(json.dumps(identity, allow_nan=False))
        self.path = folder / f"{content_digest(self._identity)[:32]}.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; waits where one is in."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_suffix(".lock")
        if is_locked(lock):
            _LOG.warning("another process draws the same samples into %s: waiting for it", self.path)
        with filelock.FileLock(lock):
            yield

    def read(self) -> Samples:
        """All samples. Only under the lock: a line that a kill left unfinished is removed.

        Raises:
            UserError: The file belongs to other samples.
        """
        samples: Samples = {}
        if not self.path.exists():
            return samples
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        head, *lines = content[:whole].split(b"\n")
        if head and head != self._head():
            raise UserError(f"{self.path}: its first line does not belong to its name; remove the file")
        for number, line in enumerate(lines, start=2):
            if line:
                self._add(samples, line, number)
        return samples

    def _add(self, samples: Samples, line: bytes, number: int) -> None:
        try:
            chunk = json.loads(line)
            found = [
                (problem, chunk["first_sample"] + offset, Sample.of_row(sample))
                for problem, drawn in zip(chunk["problems"], chunk["samples"], strict=True)
                for offset, sample in enumerate(drawn)
            ]
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"{self.path}:{number} is damaged, its samples will be drawn again: {type(error).__name__}: {error}",
                stacklevel=3,
            )
            return
        for problem, index, sample in found:
            samples.setdefault(problem, {}).setdefault(index, sample)

    def append(self, problems: Sequence[int], first_sample: int, samples: Sequence[Sequence[Sample]]) -> None:
        """Add one chunk. Only under the lock. After a power cut the last chunks may have to be drawn again.

        Args:
            problems: Indices.
            first_sample: Index of the first sample of each problem.
            samples: By problem, in the order of `problems`.
        """
        rows = [[sample.as_row() for sample in drawn] for drawn in samples]
        chunk = {"problems": list(problems), "first_sample": first_sample, "samples": rows}
        with appending(self.path, is_synced=False) as file:
            head = b"" if file.tell() else self._head() + b"\n"
            file.write(head + json.dumps(chunk).encode() + b"\n")

    def _head(self) -> bytes:
        return json.dumps(self._identity, sort_keys=True).encode()


@final
@dataclass(frozen=True)
class Draw:
    """Samples that are wanted.

    Attributes:
        prompts: Token ids of each prompt.
        sampling: Which samples of each, and how they are drawn.
        store: Of this very checkpoint, engine, sampling and prompts.
        chunk_completions: About how many completions an engine draws together that draws in batches. Not part of the
            store's name: with another number, samples differ by rounding alone.
        on_progress: Called with (completions there, completions wanted).
        problems: Indices of the prompts that are wanted; None for all.
    """

    prompts: Sequence[Sequence[int]]
    sampling: SamplingParams
    store: SampleStore
    chunk_completions: int
    on_progress: Progress = lambda done, total: None
    problems: Sequence[int] | None = None

    @property
    def wanted(self) -> Sequence[int]:
        """Indices of the prompts that are wanted."""
        return range(len(self.prompts)) if self.problems is None else self.problems

    def requests(self, samples: Samples) -> Iterator[tuple[list[int], Request]]:
        """What is missing, in chunks that do not depend on what is there: problems, and what to ask for them."""
        size = max(1, self.chunk_completions // self.sampling.num_samples)
        for start in range(0, len(self.wanted), size):
            for problems, wanted in _runs(samples, self.wanted[start : start + size], self.sampling):
                yield problems, Request([self.prompts[problem] for problem in problems], wanted)


def draw_samples(engine: Engine, checkpoint: Path, draws: Sequence[Draw]) -> list[list[list[Sample]]]:
    """Samples of all prompts: those in the stores, and the others from the engine, into the stores as they come.

    All that is missing is asked for at once, so that none waits for the longest of the others.

    Args:
        engine: What generates.
        checkpoint: Hugging Face folder.
        draws: What is wanted, with different stores.

    Returns:
        By draw, then wanted prompt, then sample.

    Raises:
        UserError: See the engine and `SampleStore.read`.
        RuntimeError: The engine returned other completions than were asked for.
    """
    with ExitStack() as locks:
        for draw in sorted(draws, key=lambda draw: draw.store.path):  # the same order in all processes
            locks.enter_context(draw.store.locked())
        found = [draw.store.read() for draw in draws]
        asked = [(i, *one) for i, draw in enumerate(draws) for one in draw.requests(found[i])]
        totals = [len(draw.wanted) * draw.sampling.num_samples for draw in draws]
        num_done = totals.copy()
        for i, _, request in asked:
            num_done[i] -= len(request.indices)
        counts = [0] * len(asked)

        def report(number: int, count: int) -> None:
            i = asked[number][0]
            num_done[i] += count - counts[number]
            counts[number] = count
            draws[i].on_progress(num_done[i], totals[i])

        for draw, done, total in zip(draws, num_done, totals, strict=True):
            draw.on_progress(done, total)
        requests = [request for _, _, request in asked]
        left = {(number, *indices) for number, request in enumerate(requests) for indices in request.indices}
        for number, completions in engine.stream(checkpoint, requests, report) if requests else ():
            made = {(number, one.problem_index, one.sample_index) for one in completions}
            if len(made) < len(completions) or not made <= left:
                raise RuntimeError("the engine returned a completion twice, or one that it was not asked for")
            left -= made
            i, problems, _ = asked[number]
            _keep(completions, problems, draws[i].store, found[i])
    if left:
        raise RuntimeError(f"the engine did not return {len(left)} of the completions that it was asked for")
    return [
        [[samples[problem][index] for index in draw.sampling.sample_indices] for problem in draw.wanted]
        for draw, samples in zip(draws, found, strict=True)
    ]


def _keep(completions: Sequence[Completion], problems: Sequence[int], store: SampleStore, samples: Samples) -> None:
    """Put what was drawn together into the store, and to the other samples."""
    drawn: dict[int, dict[int, Sample]] = {}
    for made in completions:
        sample = Sample(made.text, made.finish_reason, len(made.token_ids))
        if made.token_logps is not None:
            tokens = array("i", made.token_ids), array("f", made.token_logps)
            sample = replace(sample, token_ids=tokens[0], token_logps=tokens[1])
        drawn.setdefault(problems[made.problem_index], {})[made.sample_index] = sample
    for indices, group in groupby(drawn.items(), key=lambda item: list(item[1])):
        if indices != list(range(indices[0], indices[0] + len(indices))):
            raise RuntimeError(f"the engine returned samples {indices} of a problem together, which is no run of them")
        of_problems = dict(group)
        store.append(list(of_problems), indices[0], [list(one.values()) for one in of_problems.values()])
        for problem, new in of_problems.items():
            samples.setdefault(problem, {}).update(new)


def _runs(
    samples: Samples, chunk: Sequence[int], sampling: SamplingParams
) -> Iterator[tuple[list[int], SamplingParams]]:
    """What is missing in a chunk: problems that miss the same run of samples, and sampling parameters for that run."""
    incomplete: dict[tuple[int, int], list[int]] = {}
    for problem in chunk:
        missing = [index for index in sampling.sample_indices if index not in samples.get(problem, {})]
        for _, run in groupby(enumerate(missing), key=lambda item: item[1] - item[0]):
            indices = [index for _, index in run]
            incomplete.setdefault((indices[0], len(indices)), []).append(problem)
    for (first, count), problems in incomplete.items():
        yield problems, replace(sampling, first_sample=first, num_samples=count)
