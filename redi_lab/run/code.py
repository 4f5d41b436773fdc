"""The code's share of a fingerprint: what is computed counts, how it is explained does not."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import final

PACKAGE = Path(__file__).parents[1]


@cache
def code_digest(*folders: str, package: Path = PACKAGE) -> str:
    """SHA-256 over names and syntax trees of the modules in these folders, without comments and docstrings."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in (package / folder).glob("*.py")):
        tree = _WithoutProse().visit(ast.parse(file.read_bytes()))
        digest.update(f"{file.relative_to(package)}\0{ast.dump(tree)}\0".encode())
    return digest.hexdigest()


@final
class _WithoutProse(ast.NodeTransformer):
    """Takes out strings that stand alone: docstrings, also those under fields."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_prose = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_prose else node
