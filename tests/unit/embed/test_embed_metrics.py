"""Where a part serves its numbers, if the configuration does not say it."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.task import Clock

from tele.config.metrics import NODE_DEFAULT
from tele.config.reading import parse
from tele.embed.metrics import metrics_service

PIN = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("node", "served"),
    [
        (f"{{join: {{auth: 'a:1', token_file: t, ca_pin: '{PIN}'}}}}", True),
        (f"{{join: {{proxy: 'p:1', token_file: t, ca_pin: '{PIN}'}}}}", False),
        (
            f"{{join: {{proxy: 'p:1', token_file: t, ca_pin: '{PIN}'}}, listen: '127.0.0.1:1'}}",
            True,
        ),
        (
            f"{{join: {{proxy: 'p:1', token_file: t, ca_pin: '{PIN}'}}, metrics: '127.0.0.1:1'}}",
            True,
        ),
        (f"{{join: {{auth: 'a:1', token_file: t, ca_pin: '{PIN}'}}, metrics: off}}", False),
    ],
    ids=["direct", "tunnel", "both", "tunnel, given", "direct, off"],
)
def test_a_node_that_listens_nowhere_binds_no_port(node: str, served: bool, tmp_path: Path) -> None:
    """Its numbers are served where its configuration says, and nowhere by default."""
    config = parse(f"version: v1\nnode: {node}\n", "tele.yaml", tmp_path).config.node
    assert config is not None
    made = metrics_service(Clock(), "node", config, lambda: "", lambda: ())  # type: ignore[arg-type]
    assert (made is not None) is served
    assert NODE_DEFAULT.address is not None
    assert NODE_DEFAULT.address.host == "127.0.0.1"
