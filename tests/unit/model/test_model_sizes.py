"""Numbers of bytes as people write them."""

from __future__ import annotations

import pytest

from tele.errors import InvalidInput
from tele.model.codec import from_json, to_json
from tele.model.sizes import Size, read_size


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("64KiB", 65536), ("1MiB", 1 << 20), ("999999TiB", 999999 << 40)]
)
def test_a_size_is_read_as_it_is_written(text: str, count: int) -> None:
    """The unit is the largest one without a fraction."""
    assert read_size(text) == Size(count)
    assert from_json(Size, text) == Size(count)
    assert to_json(Size(count)) == text


@pytest.mark.parametrize("value", ["", "1", "1MB", "1.5MiB", "-1KiB", "1 KiB", "1234567KiB", 65536])
def test_nothing_else_is_a_size(value: object) -> None:
    """A number without a unit could mean anything."""
    with pytest.raises(InvalidInput):
        from_json(Size, value)
