"""A Python that, asked to run the vLLM worker, behaves like one without vLLM: an executable script for tests.

A completion is the prompt's last token, the seed's last digit, and the end token 22. MISCHIEF in the environment names
a file with what goes wrong, which happens once: "kill N" (SIGKILL after N completions, with half a line written),
"always kill", "fail" (an exception like vLLM's). SECONDS_A_TOKEN times the prompt's first token is how long it takes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve requests, as `redi_lab.generation.vllm_worker` does."""
    if sys.argv[-1] == "--versions":
        print('{"vllm": "0.0"}')
        return
    mischief = Path(os.environ["MISCHIEF"])
    told = mischief.read_text().split() if mischief.exists() else []
    if told and told[0] != "always":
        mischief.unlink()
    with mischief.with_suffix(".starts").open("a") as file:
        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        print(json.dumps({"pid": os.getpid(), "arguments": sys.argv[-2:], "devices": devices}), file=file)
    if told == ["fail"]:
        print("INFO starting\nValueError: the KV cache is too small\nINFO bye", file=sys.stderr)
        sys.exit(1)
    for count, request in enumerate(requests()):
        if told and told[-1] in (str(count), "kill"):
            print('{"id": "0', end="", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        tokens = [request["prompt"][-1], (request["seed"] or 0) % 10, 22][: request["max_tokens"]]
        logprobs = [-0.5] * len(tokens) if request["logprobs"] else None
        time.sleep(request["prompt"][0] * float(os.environ.get("SECONDS_A_TOKEN", "0")))
        print(json.dumps({"id": request["id"], "token_ids": tokens, "logprobs": logprobs}), flush=True)


def requests() -> Iterator[dict[str, Any]]:
    """As they come, of those that come together the last one first."""
    rest = b""
    while content := os.read(0, 1 << 16):
        *lines, rest = (rest + content).split(b"\n")
        yield from map(json.loads, reversed(lines))


if __name__ == "__main__":
    main()
