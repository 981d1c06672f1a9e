"""Twisted's own test cases for Conch pass on our classes, except for the intended differences."""

from __future__ import annotations

import unittest
from collections import Counter

import pytest

from conch_suite import cases, read_differences, run

REASONS = {test: each.reason for each in read_differences() for test in each.tests}
CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_what_conch_is_tested_for(name: str) -> None:
    """A test passes on our classes or is on the list, never both."""
    case: unittest.TestCase = CASES[name]
    failed = run(case)
    if name in REASONS:
        assert failed, f"{name} passes: take it off docs/conch_differences.toml"
    else:
        assert not failed, failed


def test_the_list_of_differences() -> None:
    """Each test on the list exists, once, and each entry has a reason."""
    listed = Counter(test for each in read_differences() for test in each.tests)
    assert [test for test, count in listed.items() if count > 1 or test not in CASES] == []
    assert all(each.reason.strip() and each.tests for each in read_differences())
