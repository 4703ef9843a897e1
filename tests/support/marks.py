"""Marks tests with the rows of the fault table that they prove."""

import pytest

LAST_ROW = 47


def row(number: int) -> pytest.MarkDecorator:
    """The row of the fault table that a test proves."""
    assert 1 <= number <= LAST_ROW
    return pytest.mark.row(number)
