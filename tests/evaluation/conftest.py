"""The tiny checkpoint and the stand-in for vLLM are those of the engines' tests."""

from tests.generation.conftest import checkpoint, mischief, python  # noqa: F401
