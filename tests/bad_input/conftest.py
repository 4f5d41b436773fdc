"""The sound folder that cases spoil is that of the pipeline's tests."""

from tests.pipeline.conftest import qwen_folder  # noqa: F401
