"""The table in README.md and the marks of the tests name the same rows."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent


def test_every_row_of_the_table_has_a_test_and_every_mark_a_row() -> None:
    assert rows_of_table() == sorted(marked_rows())


def rows_of_table() -> list[int]:
    """The numbers in the first column."""
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    return [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]


def marked_rows() -> set[int]:
    """The rows in the marks of this folder's tests."""
    found = set()
    for path in FOLDER.glob("test_*.py"):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                calls = [mark for mark in function.decorator_list if isinstance(mark, ast.Call)]
                found |= {ast.literal_eval(mark.args[0]) for mark in calls if getattr(mark.func, "id", "") == "row"}
    return found
