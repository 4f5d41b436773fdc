"""The one exception for mistakes that a user can mend.

The command line prints a `UserError` as a single line and exits with status 2; every other exception is a defect of
the lab and keeps its traceback.
"""

from __future__ import annotations

from typing import final


@final
class UserError(ValueError):
    """Bad input or configuration. The message names the file, row, key or value, and what to do about it."""
