"""The table is proved as a whole: no row without a test."""

import ast
from pathlib import Path

from tests.support.marks import LAST_ROW


def test_every_row_of_the_table_has_a_test() -> None:
    assert proved_rows() == set(range(1, LAST_ROW + 1))


def proved_rows() -> set[int]:
    """The rows with which tests of this folder are marked."""
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                calls = [mark for mark in function.decorator_list if isinstance(mark, ast.Call)]
                found |= {ast.literal_eval(mark.args[0]) for mark in calls if getattr(mark.func, "id", "") == "row"}
    return found
