"""The tiny checkpoint is that of the engines' tests."""

from tests.generation.conftest import checkpoint  # noqa: F401
