"""Every row of the table has its test."""

import ast
from pathlib import Path

from tests.abuse.rows import ROWS, row_named


def test_every_row_is_run() -> None:
    """The docstrings of this folder's tests name all rows, so that `make abuse` leaves none out."""
    named: set[str | None] = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        module = ast.parse(file.read_text())
        functions = [node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        functions = [node for node in functions if node.name.startswith("test_")]
        if any("abuse" in ast.unparse(decorator) for node in functions for decorator in node.decorator_list):
            named |= {row_named(ast.get_docstring(node), ast.get_docstring(module)) for node in functions}
    assert named == set(ROWS)
