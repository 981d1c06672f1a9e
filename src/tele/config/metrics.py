"""Where does a part serve its numbers?"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen

from tele.config.keys import key
from tele.model.addresses import Address


@frozen
class MetricsAddress:
    """An address, or ``off``."""

    address: Address | None

    def __str__(self) -> str:
        return "off" if self.address is None else str(self.address)


def _metrics(port: int) -> Any:
    return key(
        "Where monitoring reads ``/metrics``, ``/healthz`` and ``/readyz`` (:doc:`/howto/monitor`):"
        " ``host:port``, in clear and without a login, or ``off``.",
        MetricsAddress(Address("127.0.0.1", port)),
        port=port,
    )


AUTH_METRICS: Final = _metrics(3035)
PROXY_METRICS: Final = _metrics(3090)
NODE_DEFAULT: Final = MetricsAddress(Address("127.0.0.1", 3032))
NODE_METRICS: Final = key(
    f"As that of a proxy. Default: ``{NODE_DEFAULT}``; ``off`` for a node that listens nowhere.",
    None,
    port=3032,
)
