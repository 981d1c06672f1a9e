"""What can be configured of the recordings that auth keeps: how many, how long, sealed or not?"""

from __future__ import annotations

from datetime import timedelta

from attrs import frozen

from tele.config.keys import key
from tele.errors import InvalidInput
from tele.model.sizes import Size
from tele.tape.key_files import read_public


@frozen
class RecordingLimitsConfig:
    """How much of auth's archive recordings may take, in stored bytes; ``0`` is no limit.

    Over the limit of a session or a user the node records no more output of the session, and the
    recording has a gap. Over that of a node its recordings wait there. No session ends by a limit.
    """

    session: Size = key("One session.", Size(1 << 30))
    user: Size = key("One user, in a day.", Size(8 << 30))
    node: Size = key("One node, in a day.", Size(64 << 30))


def _max_age_problem(value: timedelta) -> str:
    return "" if not value or value >= timedelta(days=1) else "at least 1d, or 0s for ever"


@frozen
class RecordingsRetentionConfig:
    """Which recordings auth removes itself. None that is held, or not complete yet."""

    max_age: timedelta = key(
        "Recordings that auth learnt of so long ago are removed. ``0s``: they are kept.",
        timedelta(0),
        check=_max_age_problem,
    )
    max_size: Size = key(
        "When all recordings together are larger, the oldest of the hosts that recorded most are"
        " removed. ``0``: no limit.",
        Size(0),
    )


def _recovery_keys_problem(keys: tuple[str, ...]) -> str:
    for each in keys:
        try:
            read_public(each)
        except InvalidInput as error:
            return str(error)
    return ""


@frozen
class RecordingEncryptionConfig:
    """Whether recordings are sealed where they are made, so that no archive can read them."""

    enabled: bool = key(
        "Whether nodes and proxies seal new recordings. Auth opens them for those who may read"
        " them, with the key ``recordings.key`` in its ``data_dir``.",
        False,
    )
    recovery_keys: tuple[str, ...] = key(
        "Public keys (``tele recordings keygen``) whose private keys open exported recordings"
        " without auth.",
        (),
        check=_recovery_keys_problem,
    )
    searchable: bool = key(
        "Whether auth keeps what sealed recordings show as text, in clear in its ``data_dir``, so"
        " that ``tele recordings search`` finds it. Switched off, auth removes what it has kept.",
        False,
    )
