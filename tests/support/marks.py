"""Marks tests with the rows of tests/faults/README.md that they prove."""

import pytest


def row(number: int) -> pytest.MarkDecorator:
    """Mark a test as a proof of row `number`."""
    return pytest.mark.row(number)
