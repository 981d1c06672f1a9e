"""Operations on the plain host keys of hosts whose sessions end at proxies."""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from tele.model.api.operation import Nothing, Operation, Permitted, Users
from tele.model.api.proxying import WORD_LIMIT
from tele.model.bounds import AtMost

#: Characters of a reason.
REASON: Final = AtMost(1000)


@frozen
class ListPlainKeys:
    """The keys with which proxies answer for ``host``, a name or an id."""

    host: str = field(validator=AtMost(WORD_LIMIT))


@frozen
class PlainKey:
    """``key`` (a line) is the host key that a client sees behind one proxy."""

    proxy: str
    proxy_id: str
    key: str
    fingerprint: str


@frozen
class PlainKeyList:
    """The keys of one host. ``names`` are those by which clients call it."""

    node: str
    node_id: str
    names: tuple[str, ...]
    keys: tuple[PlainKey, ...]


@frozen
class ReplacePlainKey:
    """Give a proxy another key for a host, for a ``reason``: no login with the old one is taken.

    ``host`` and ``proxy`` are names or ids.
    """

    host: str = field(validator=AtMost(WORD_LIMIT))
    proxy: str = field(validator=AtMost(WORD_LIMIT))
    reason: str = field(validator=REASON)


LIST_PLAIN_KEYS: Final = Operation(
    "list_plain_keys", "GET", "/v1/proxying/keys", ListPlainKeys, PlainKeyList, (Users(),),
    "The plain host keys with which proxies answer for a host that the caller may see",
    cost=10,
)  # fmt: skip

REPLACE_PLAIN_KEY: Final = Operation(
    "replace_plain_key", "POST", "/v1/proxying/keys", ReplacePlainKey, Nothing,
    (Permitted("node", "update"),),
    "Give a proxy another plain host key for a host",
)  # fmt: skip
