"""Samples on disk as they are drawn, so that an evaluation which was killed goes on where it was.

A completion follows from the checkpoint, the engine, the sampling parameters, its prompt and its sample index. So a
store is named by all of these except the number of samples: more samples of the same problems find the earlier ones.

    store = SampleStore(folder, {"checkpoint": digest, "engine": engine, "sampling": sampling, "prompts": digest})
    samples = draw_samples(engine, checkpoint, prompts, sampling, store, chunk_completions=1024)
    samples[problem][sample].text

One line of the file is one chunk, what the engine was asked at once: it is there as a whole, or, after a kill, not at
all, and then drawn again from the same prompts in the same batches. So even rounding comes out as without the kill.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, final

import filelock

from redi_lab.errors import UserError
from redi_lab.evaluation.results import content_digest
from redi_lab.files import appending, is_locked
from redi_lab.generation.engines import Engine, Progress, SamplingParams

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """What is kept of a completion; `finish_reason` is "stop" or "length"."""

    text: str
    finish_reason: str
    num_tokens: int


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
                (problem, chunk["first_sample"] + offset, Sample(*sample))
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
        """Add one chunk, and return when it is on disk. Only under the lock.

        Args:
            problems: Indices.
            first_sample: Index of the first sample of each problem.
            samples: By problem, in the order of `problems`.
        """
        rows = [[astuple(sample) for sample in drawn] for drawn in samples]
        chunk = {"problems": list(problems), "first_sample": first_sample, "samples": rows}
        with appending(self.path) as file:
            head = b"" if file.tell() else self._head() + b"\n"
            file.write(head + json.dumps(chunk).encode() + b"\n")

    def _head(self) -> bytes:
        return json.dumps(self._identity, sort_keys=True).encode()


def draw_samples(
    engine: Engine,
    checkpoint: Path,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    store: SampleStore,
    chunk_completions: int,
    on_progress: Progress | None = None,
) -> list[list[Sample]]:
    """Samples of all prompts: those in the store, and the others from the engine, chunk by chunk into the store.

    Args:
        engine: What generates.
        checkpoint: Hugging Face folder.
        prompts: Token ids of each prompt.
        sampling: Which samples are wanted, and how they are drawn.
        store: Of this very checkpoint, engine, sampling and prompts.
        chunk_completions: About how many completions the engine is asked for at once. Not part of the store's name:
            with another number, samples differ by rounding alone.
        on_progress: Called with (completions there, completions wanted).

    Returns:
        By prompt, then sample.

    Raises:
        UserError: See the engine and `SampleStore.read`.
        RuntimeError: The engine returned other completions than were asked for.
    """
    total = len(prompts) * sampling.num_samples
    with store.locked():
        samples = store.read()
        done = total - sum(len(_missing(samples, problem, sampling)) for problem in range(len(prompts)))
        report = on_progress or (lambda done, total: None)
        report(done, total)
        size = max(1, chunk_completions // sampling.num_samples)
        for start in range(0, len(prompts), size):
            chunk = range(start, min(start + size, len(prompts)))
            for problems, wanted in _requests(samples, chunk, sampling):
                shifted = partial(_shift, report, done, total)
                drawn = _generate(engine, checkpoint, [prompts[problem] for problem in problems], wanted, shifted)
                store.append(problems, wanted.first_sample, drawn)
                for problem, new in zip(problems, drawn, strict=True):
                    samples.setdefault(problem, {}).update(enumerate(new, start=wanted.first_sample))
                done += len(problems) * wanted.num_samples
    return [[samples[problem][index] for index in sampling.sample_indices] for problem in range(len(prompts))]


def _missing(samples: Samples, problem: int, sampling: SamplingParams) -> list[int]:
    return [index for index in sampling.sample_indices if index not in samples.get(problem, {})]


def _requests(
    samples: Samples, chunk: Sequence[int], sampling: SamplingParams
) -> Iterator[tuple[list[int], SamplingParams]]:
    """What is missing in a chunk: problems that miss the same run of samples, and sampling parameters for that run."""
    incomplete: dict[tuple[int, int], list[int]] = {}
    for problem in chunk:
        missing = _missing(samples, problem, sampling)
        for _, run in groupby(enumerate(missing), key=lambda item: item[1] - item[0]):
            indices = [index for _, index in run]
            incomplete.setdefault((indices[0], len(indices)), []).append(problem)
    for (first, count), problems in incomplete.items():
        yield problems, replace(sampling, first_sample=first, num_samples=count)


def _shift(on_progress: Progress, before: int, total: int, done: int, _: int) -> None:
    on_progress(before + done, total)


def _generate(
    engine: Engine,
    checkpoint: Path,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    on_progress: Progress,
) -> list[list[Sample]]:
    completions = engine.generate(checkpoint, prompts, sampling, on_progress)
    wanted = [(problem, index) for problem in range(len(prompts)) for index in sampling.sample_indices]
    if [(completion.problem_index, completion.sample_index) for completion in completions] != wanted:
        raise RuntimeError(f"the engine must return {len(wanted)} completions by problem, then sample; it did not")
    kept = [Sample(c.text, c.finish_reason, len(c.token_ids)) for c in completions]
    return [kept[start : start + sampling.num_samples] for start in range(0, len(kept), sampling.num_samples)]
