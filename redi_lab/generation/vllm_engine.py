"""The engine for long completions and many of them: vLLM, in worker processes or in this one.

    engine = VLLMEngine(python=".venv-vllm/bin/python", data_parallel_size=2)
    completions = engine.generate(folder, prompts, SamplingParams(0.6, 0.95, 1024, num_samples=4, seed=42))
    engine.close()

vLLM pins its own torch and transformers, so it may live in an environment of its own: a worker is
`redi_lab.generation.vllm_worker`, run as a file by that environment's Python.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, final

import numpy as np

from redi_lab.errors import UserError
from redi_lab.generation import vllm_worker
from redi_lab.generation.checkpoint import Checkpoint, content_stamp, loading
from redi_lab.generation.engines import Completion, Progress, SamplingParams
from redi_lab.generation.vllm_process import WORKER, WorkerProcess


class _Replica(Protocol):
    """One copy of the model."""

    def generate(self, requests: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Complete all requests, in any order; see `vllm_worker` for both forms."""

    def close(self) -> None:
        """Free the model."""


@final
class VLLMEngine:
    """Continuous batching with vLLM.

    Sampling is seeded by (seed, prompt, sample): what shares a batch, a replica or a run changes no completion, but for
    rounding. The streams are vLLM's own, so sampled completions differ from those of the transformers engine; greedy
    ones agree.

    Args:
        python: Python of the environment that has vLLM; None for the one that runs this.
        in_process: Run vLLM in this process. It changes the process for good (random state, threads, memory policy), so
            this is for scripts that do nothing else.
        data_parallel_size: Replicas, each a process with its share of the prompts, and on GPUs with its own devices.
        tensor_parallel_size: Devices that share one replica.
        dtype: "float32", "bfloat16", or "auto" for what the checkpoint was saved in.
        options: Further arguments of vLLM's `EngineArgs`, such as max_num_seqs or gpu_memory_utilization.

    Raises:
        ValueError: The arguments contradict each other.
    """

    def __init__(
        self,
        python: str | None = None,
        in_process: bool = False,
        data_parallel_size: int = 1,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if dtype not in ("float32", "bfloat16", "auto"):
            raise ValueError(f"VLLMEngine: dtype must be float32, bfloat16 or auto, got {dtype}")
        if in_process and (python is not None or data_parallel_size > 1):
            raise ValueError("VLLMEngine: in_process excludes another python and more than one replica")
        self._python = python or sys.executable
        self._in_process = in_process
        self._num_replicas = data_parallel_size
        self._tensor_parallel_size = tensor_parallel_size
        self._dtype = dtype
        self._options = dict(options or {})
        self._replicas: list[_Replica] = []
        self._stamp: tuple[object, ...] = ()
        self._versions: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Short name of the engine."""
        return "vllm"

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of vLLM (its CPU build is a distribution of its own), torch and transformers where it runs.

        Raises:
            UserError: There is no such Python.
        """
        if not self._versions:
            command = [self._python, "-I", WORKER, "--versions"]
            try:
                answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            except (OSError, subprocess.CalledProcessError) as error:
                raise UserError(f"engine.python={self._python} cannot be run: {error}") from error
            self._versions = json.loads(answer)
        return self._versions

    @property
    def settings(self) -> Mapping[str, Any]:
        """Precision, split over devices (which moves rounding), and vLLM's options."""
        return {
            "dtype": self._dtype,
            "tensor_parallel_size": self._tensor_parallel_size,
            "options": self._options,
        }

    def generate(
        self,
        checkpoint: Path,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_progress: Progress | None = None,
    ) -> list[Completion]:
        """See `Engine.generate`.

        A worker that is killed is started again and does what is left of its share.

        Raises:
            UserError: The folder cannot be loaded or names no end token; a prompt is empty or too long; vLLM fails, or
                is killed again and again.
        """
        read = Checkpoint.open(checkpoint)
        read.check_lengths(prompts, sampling.max_new_tokens, self._options.get("max_model_len"))
        requests = [
            _request(f"{problem} {sample}", prompt, sample, sampling, read.stops)
            for problem, prompt in enumerate(prompts)
            for sample in sampling.sample_indices
        ]
        completions: list[Completion] = []
        try:
            self._load(checkpoint, read)
            for made in self._run(requests):
                problem, sample = map(int, made["id"].split())
                completions.append(read.completion(problem, sample, made["token_ids"], made["logprobs"]))
                if on_progress is not None:
                    on_progress(len(completions), len(requests))
        except BaseException:
            self.close()  # replicas that are in the middle of something cannot be asked again
            raise
        return sorted(completions, key=lambda completion: (completion.problem_index, completion.sample_index))

    def close(self) -> None:
        """See `Engine.close`."""
        for replica in self._replicas:
            replica.close()
        self._replicas = []

    def _load(self, path: Path, checkpoint: Checkpoint) -> None:
        with loading(path):
            stamp = content_stamp(path)
        if self._replicas and self._stamp == stamp:
            return
        self.close()
        arguments: dict[str, Any] = {"dtype": self._dtype if self._dtype != "auto" else checkpoint.dtype}
        if checkpoint.max_positions is not None:
            arguments["max_model_len"] = checkpoint.max_positions
        arguments |= {"tensor_parallel_size": self._tensor_parallel_size} | self._options
        if self._in_process:
            self._replicas = [vllm_worker.Generator(str(path), arguments)]
        else:
            self._replicas = [
                WorkerProcess(self._python, path, arguments, rank, self._num_replicas)
                for rank in range(self._num_replicas)
            ]
        self._stamp = stamp

    def _run(self, requests: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Completions of all replicas as they come."""
        # All samples of a prompt go to one replica, which then reads the prompt once.
        shares: list[list[dict[str, Any]]] = [[] for _ in self._replicas]
        for request in requests:
            shares[int(request["id"].split()[0]) % len(shares)].append(request)
        if len(shares) == 1:
            yield from self._replicas[0].generate(requests)
            return
        done: SimpleQueue[dict[str, Any] | Exception | None] = SimpleQueue()
        for replica, share in zip(self._replicas, shares, strict=True):
            Thread(target=_put_all, args=(replica, share, done), daemon=True).start()
        running = len(shares)
        while running:
            item = done.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item


def _put_all(
    replica: _Replica, requests: Sequence[dict[str, Any]], done: SimpleQueue[dict[str, Any] | Exception | None]
) -> None:
    try:
        for made in replica.generate(requests):
            done.put(made)
        done.put(None)
    except Exception as error:  # it is raised again where the completions are read
        done.put(error)


def _request(
    name: str, prompt: Sequence[int], sample: int, sampling: SamplingParams, stops: Sequence[int]
) -> dict[str, Any]:
    return {
        "id": name,
        "prompt": list(prompt),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "stop": list(stops),
        "seed": None if sampling.temperature == 0 else _stream(sampling.seed, prompt, sample),
        "logprobs": sampling.wants_token_logps,
    }


def _stream(seed: int, prompt: Sequence[int], sample: int) -> int:
    """The seed of one completion's stream, below 2^63; equal prompts share their streams."""
    content = np.asarray([seed, sample, *prompt], dtype=np.int64).tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
