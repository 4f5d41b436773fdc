"""Settings of a user's own class are held against its signature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redi_lab.errors import UserError
from redi_lab.run.arguments import check_arguments
from tests.config.test_settings import changed


class Mine:
    """A source; one of its parameters is called like a method of pydantic's models."""

    def __init__(
        self, path: Path, sizes: tuple[int, float], names: list[str] | None = None, copy: bool = False, help: Any = None
    ) -> None:
        self.path = path

    def load(self) -> None:
        """Nothing."""

    def digest(self) -> str:
        """Nothing."""
        return ""


def settings(**more: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.Mine", "path": "x", "sizes": [1, 2.0], **more}


@pytest.mark.parametrize("more", [{}, {"names": ["a"]}, {"copy": True}, {"names": {"any": "object"}}, {"help": [1]}])
def test_what_fits_the_signature_is_taken(more: dict[str, Any]) -> None:
    check_arguments(changed("train", "data.source", settings(**more)))


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"path": 3}, "data.source.path=3: must be a string"),
        ({"copy": 1}, "data.source.copy=1: must be true or false"),
        ({"names": [1]}, "data.source.names=1: must be a string"),
        ({"foo": 1}, "unknown key data.source.foo: data.source has path, sizes, names, copy, help"),
    ],
)
def test_what_does_not_is_refused(more: dict[str, Any], start: str) -> None:
    with pytest.raises(UserError) as caught:
        check_arguments(changed("train", "data.source", settings(**more)))
    assert str(caught.value).startswith(start)
