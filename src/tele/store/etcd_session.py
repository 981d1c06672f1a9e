"""How is the store laid out in etcd, and what does a commit ask of it? Synchronous, for threads.

Invariants:

* A commit is one transaction, and so are several that wait, if no two of them name one key: each of
  them is done whole, or is a conflict, by itself.
* A commit whose outcome is unknown is an error, and is not tried again.
* The value of a lease has its date, POSIX milliseconds, in its first eight bytes. When it ends is
  decided by etcd's clock, up to :data:`SPREAD` later: leases that end about then share one.
* Nothing here knows the reactor.

Source: etcd's API reference, version 3.4 and later (``rpc.proto``).
"""

from __future__ import annotations

import math
import time
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attrs import define, field

from tele.errors import Conflict, StorageFull, TeleError, Unavailable
from tele.interfaces import Change, Delete, Item, Put
from tele.log import make_logger
from tele.store.etcd_client import Compacted, EtcdClient, LeaseGone, Place, Refused
from tele.store.threaded import Batch

log = make_logger(__name__)

FORMAT: Final = b"1"
#: Names below the prefix that are no keys: those begin with "/".
_FORMAT_KEY: Final = "#format"
_TICK_KEY: Final = "#tick"

#: Leases that end within so much of their time to live share one, between these bounds.
SPREAD: Final = (timedelta(seconds=1), timedelta(seconds=10))
_SPREAD_SHARE: Final = 64
#: How long changes can be read, and how often a revision is noted for that.
CHANGES_KEPT: Final = 3600.0
NOTE_SECONDS: Final = 60.0

#: What one transaction takes: etcd allows 128 operations (--max-txn-ops), where what is in a nested
#: transaction counts with the number of those beside it, and 1.5 MiB (--max-request-bytes).
MOST_COMMITS: Final = 32
MOST_CHANGES: Final = 128
#: A larger commit is transactions of so many changes, of which there are as many at most.
PART: Final = 64
MOST_BYTES: Final = 1 << 20

Answer = int | TeleError


@define
class _Transaction:
    """Commits that are done with one request: their places in the batch, and their changes."""

    commits: list[tuple[int, Sequence[Put | Delete]]] = field(factory=list)
    keys: set[str] = field(factory=set)
    size: int = 0

    def takes(self, changes: Sequence[Put | Delete]) -> bool:
        """Whether one more commit can be done with these."""
        keys = {change.key for change in changes}
        return not self.commits or (
            len(self.commits) < MOST_COMMITS
            and len(self.keys) + len(keys) <= MOST_CHANGES - MOST_COMMITS
            and self.size + _size(changes) <= MOST_BYTES
            and not self.keys & keys
        )

    def add(self, place: int, changes: Sequence[Put | Delete]) -> None:
        """Add a commit."""
        self.commits.append((place, changes))
        self.keys |= {change.key for change in changes}
        self.size += _size(changes)


class EtcdSession:
    """One connection; see :class:`tele.store.threaded.Session`."""

    def __init__(self, place: Place, patience: float) -> None:
        self._place = place
        self._client = EtcdClient(place, patience)
        #: Leases by their length and the part of time in which they end, in seconds.
        self._leases: dict[tuple[float, int], str] = {}
        #: When a revision was the newest, by the monotonic clock.
        self._noted: deque[tuple[float, int]] = deque()

    def prepare(self) -> tuple[int, str]:
        """Return the newest revision, and the cluster's id.

        Raises :class:`Unavailable`, also for the store of another version.
        """
        key = self._name(_FORMAT_KEY)
        words = {
            "compare": [{"key": key, "target": "MOD", "mod_revision": "0"}],
            "success": [{"request_put": {"key": key, "value": _text(FORMAT)}}],
            "failure": [{"request_range": {"key": key}}],
        }
        try:
            answer = self._client.change("kv/txn", words)
        except Refused as error:
            raise Unavailable(str(error)) from None
        if not answer.get("succeeded"):
            found = answer["responses"][0]["response_range"]["kvs"][0]
            if b64decode(found["value"]) != FORMAT:
                raise Unavailable(
                    f"{self._place.shown} has the store of another version of tele: upgrade this"
                    " auth"
                )
        return _revision(answer), answer["header"]["cluster_id"]

    # -- reading ----------------------------------------------------------------------
    def get(self, key: str, moment: float) -> Item | None:
        """See :class:`tele.store.threaded.Session`."""
        answer = self._client.read("kv/range", {"key": self._name(key)})
        return next(map(self._item, answer.get("kvs", ())), None)

    def get_many(self, keys: Sequence[str], moment: float) -> list[Item | None]:
        """See :class:`tele.store.threaded.Session`."""
        found: dict[str, Item] = {}
        revision = 0
        for start in range(0, len(keys), MOST_CHANGES):
            words = [
                {"request_range": {"key": self._name(key), "revision": str(revision)}}
                for key in keys[start : start + MOST_CHANGES]
            ]
            answer = self._client.read("kv/txn", {"success": words})
            revision = revision or _revision(answer)
            for each in answer.get("responses", ()):
                for item in map(self._item, each["response_range"].get("kvs", ())):
                    found[item.key] = item
        return [found.get(key) for key in keys]

    def select(
        self, start: str, end: str, limit: int, reverse: bool, moment: float
    ) -> Sequence[Item]:
        """See :class:`tele.store.threaded.Session`."""
        if start >= end:
            return []
        words = {"key": self._name(start), "range_end": self._name(end), "limit": str(limit)}
        if reverse:
            words |= {"sort_order": "DESCEND", "sort_target": "KEY"}
        answer = self._client.read("kv/range", words)
        return [self._item(each) for each in answer.get("kvs", ())]

    def newest(self) -> int:
        """See :class:`tele.store.threaded.Session`."""
        return _revision(self._client.read("kv/range", {"key": self._name(_FORMAT_KEY)}))

    # -- writing ----------------------------------------------------------------------
    def commit(self, batch: Batch, moment: float) -> list[Answer]:
        """See :class:`tele.store.threaded.Session`."""
        answers: dict[int, Answer] = {}
        waiting = _Transaction()
        for place, changes in enumerate(batch):
            problem = _problem(changes)
            if problem is not None:
                answers[place] = problem
                continue
            if not waiting.takes(changes):
                answers |= self._do(waiting, moment)
                waiting = _Transaction()
            waiting.add(place, changes)
        answers |= self._do(waiting, moment)
        return [answers[place] for place in range(len(batch))]

    def _do(self, transaction: _Transaction, moment: float) -> dict[int, Answer]:
        """Do the commits of a transaction; return the answer to each."""
        if not transaction.commits:
            return {}
        try:
            try:
                answer, done = self._sent(transaction, moment)
            except LeaseGone:  # etcd has ended it early, and has done nothing
                self._leases.clear()
                answer, done = self._sent(transaction, moment)
        except (StorageFull, Unavailable) as error:
            return {place: error for place, _ in transaction.commits}
        except TeleError as error:
            refused = Unavailable(f"the store cannot be written: {error}")
            return {place: refused for place, _ in transaction.commits}
        return {
            place: _revision(answer)
            if each.get("succeeded")
            else Conflict(f"{', '.join(sorted(c.key for c in changes))}: changed since it was read")
            for (place, changes), each in zip(transaction.commits, done, strict=True)
        }

    def _sent(
        self, transaction: _Transaction, moment: float
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the answer to a transaction, and the part of it for each commit."""
        words = [self._words(changes, moment) for _, changes in transaction.commits]
        if len(words) == 1:
            answer = self._client.change("kv/txn", words[0])
            return answer, [answer]
        answer = self._client.change("kv/txn", {"success": [{"request_txn": w} for w in words]})
        return answer, [each["response_txn"] for each in answer["responses"]]

    def _words(self, changes: Sequence[Put | Delete], moment: float) -> dict[str, Any]:
        """Return the transaction that is one commit."""
        compare = [
            {"key": self._name(each.key), "target": "MOD", "mod_revision": str(each.if_revision)}
            for each in changes
            if each.if_revision is not None
        ]
        last = {change.key: change for change in changes}  # etcd takes each key once
        success: list[dict[str, Any]] = []
        for key in sorted(last):
            change, words = last[key], {"key": self._name(key)}
            if isinstance(change, Delete):
                success.append({"request_delete_range": words})
                continue
            value = change.value
            if change.ttl is not None:
                ends = moment + change.ttl.total_seconds()
                value = max(0, round(ends * 1000)).to_bytes(8, "big") + value
                words["lease"] = self._lease(change.ttl)
            success.append({"request_put": words | {"value": _text(value)}})
        if len(success) > MOST_CHANGES:
            parts = [success[start : start + PART] for start in range(0, len(success), PART)]
            success = [{"request_txn": {"success": part}} for part in parts]
        return {"compare": compare, "success": success}

    def _lease(self, ttl: timedelta) -> str:
        """Return a lease that ends after ``ttl``, or a little later."""
        spread = min(max(ttl / _SPREAD_SHARE, SPREAD[0]), SPREAD[1]).total_seconds()
        now = time.monotonic()
        part = math.ceil((now + ttl.total_seconds()) / spread)
        name = (spread, part)
        if name not in self._leases:
            left = math.ceil(part * spread - now)
            answer = self._client.read("lease/grant", {"TTL": str(max(left, 1))})
            # One that is used no more ends by itself; parts in the past are not asked for again.
            self._leases = {
                each: lease for each, lease in self._leases.items() if each[0] * each[1] > now
            }
            self._leases[name] = answer["ID"]
        return self._leases[name]

    def sweep(self, moment: float) -> None:
        """See :class:`tele.store.threaded.Session`. Leases end by themselves.

        Writing shows those who follow the changes that they still get them.
        """
        words = {"key": self._name(_TICK_KEY), "value": ""}
        revision = _revision(self._client.change("kv/put", words))
        now = time.monotonic()
        if not self._noted or now - self._noted[-1][0] >= NOTE_SECONDS:
            self._noted.append((now, revision))
        if now - self._noted[0][0] > CHANGES_KEPT:
            _, old = self._noted.popleft()
            try:
                self._client.change("kv/compaction", {"revision": str(old)})
            except (Compacted, Refused) as error:  # another auth, or etcd itself, was here before
                log.debug("changes were forgotten before", error=str(error))

    # -- changes ----------------------------------------------------------------------
    def follow(self, revision: int, silence: float) -> Any:
        """Return (revision, changes) after ``revision``, again and again, without an end.

        Raises :class:`Unavailable`, also when nothing comes for ``silence`` seconds, and
        :class:`Compacted`.
        """
        words = {
            "key": self._name(""),
            "range_end": _text(_after(self._place.prefix.encode())),
            "start_revision": str(revision + 1),
        }
        for message in self._client.stream("watch", {"create_request": words}, silence):
            if message.get("canceled"):
                if "compact_revision" in message:
                    raise Compacted("the changes are not in etcd any more")
                raise Unavailable(f"{self._place.shown} ended the watch")
            events = message.get("events", ())
            if events:
                newest = max(int(each["kv"]["mod_revision"]) for each in events)
                yield newest, [each for each in map(self._change, events) if each is not None]

    def cluster(self) -> tuple[int, str]:
        """Return the newest revision, and the cluster's id."""
        answer = self._client.read("kv/range", {"key": self._name(_FORMAT_KEY)})
        return _revision(answer), answer["header"]["cluster_id"]

    def _change(self, event: Mapping[str, Any]) -> Change | None:
        kv = event["kv"]
        key = self._key(kv)
        if not key.startswith("/"):
            return None
        gone = event.get("type") == "DELETE"
        return Change(key, int(kv["mod_revision"]), None if gone else self._item(kv))

    # -- connection -------------------------------------------------------------------
    def interrupt(self) -> None:
        """See :class:`tele.store.threaded.Session`."""
        self._client.interrupt()

    def close(self) -> None:
        """Release the connection."""
        self._client.close()

    # -- names ------------------------------------------------------------------------
    def _name(self, key: str) -> str:
        return _text((self._place.prefix + key).encode())

    def _key(self, kv: Mapping[str, Any]) -> str:
        return b64decode(kv["key"]).decode().removeprefix(self._place.prefix)

    def _item(self, kv: Mapping[str, Any]) -> Item:
        value = b64decode(kv.get("value", ""))
        expires = None
        if "lease" in kv:
            expires = datetime.fromtimestamp(int.from_bytes(value[:8], "big") / 1000, UTC)
            value = value[8:]
        return Item(self._key(kv), value, int(kv["mod_revision"]), expires)


def _size(changes: Sequence[Put | Delete]) -> int:
    return sum(len(each.key) + len(each.value) for each in changes if isinstance(each, Put))


def _problem(changes: Sequence[Put | Delete]) -> TeleError | None:
    """Return why etcd does not take a commit, if it does not."""
    try:
        for change in changes:
            change.key.encode()
    except UnicodeEncodeError as error:
        return Unavailable(f"the store cannot be written: {error}")
    count = len({change.key for change in changes})
    compared = sum(change.if_revision is not None for change in changes)
    if count > PART * PART or compared > (MOST_CHANGES if count <= MOST_CHANGES else PART):
        return Unavailable(
            f"etcd takes {PART * PART} changes at once, not {count}, and {PART} that compare if"
            f" there are more than {MOST_CHANGES}, not {compared}"
        )
    return None


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _revision(answer: Mapping[str, Any]) -> int:
    return int(answer["header"]["revision"])


def _after(prefix: bytes) -> bytes:
    """Return the end of the range of all keys with a prefix."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
