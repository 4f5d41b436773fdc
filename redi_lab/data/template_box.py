"""Try a chat template in a process with little time and memory, before this one renders it.

    why_unusable("{% for m in messages %}…")  # None, or "it does not end"

A template is a program from whoever made the tokenizer. transformers' sandbox keeps it from files and code, but not
from looping for ever or building a text of 10 GB, and neither can be stopped within the process that does it.
"""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from pathlib import Path

CPU_SECONDS = 5  # a template takes milliseconds
MEMORY_BYTES = 2**30
MOST_CHARACTERS = 10**6  # that it may add to a turn of one word
_LARGE = 3  # exit status
_TURN = ({"role": "user", "content": "prompt"}, {"role": "assistant", "content": "completion"})
_DIALOGUE = (*_TURN, _TURN[0])
_LED = ({"role": "system", "content": "system"}, *_DIALOGUE)


@lru_cache
def why_unusable(template: str) -> str | None:
    """What makes a template dangerous to render, in words; None if nothing does. Other faults are not looked for."""
    command = [sys.executable, "-P", str(Path(__file__))]  # not -m: torch is not needed, and takes seconds
    try:
        done = subprocess.run(command, input=template.encode(), capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "it does not end"
    if done.returncode < 0:  # by SIGXCPU or for want of memory
        return f"it takes more than {CPU_SECONDS} s, or its process crashes"
    return "it writes or keeps too much text" if done.returncode == _LARGE else None


def _try() -> None:
    """Render standard input for turns of one word; everything but an exhausted limit is left to the real renderer."""
    import resource

    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """transformers' tag around what the assistant says."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    try:
        template = environment.from_string(sys.stdin.read())
        for turns, opens in ((_TURN[:1], True), (_TURN, False), (_DIALOGUE, True), (_LED, True)):
            if len(template.render(messages=turns, add_generation_prompt=opens, tools=None)) > MOST_CHARACTERS:
                sys.exit(_LARGE)
    except MemoryError:
        sys.exit(_LARGE)
    except Exception as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _try()
