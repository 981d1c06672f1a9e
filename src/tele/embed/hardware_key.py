"""How does a hardware security module open the signing keys? Through PKCS#11.

The module has a secret key that never leaves it. It makes an HMAC-SHA256 of a constant text, which
is the private key that opens the CAs' keys in the store; so a copy of the store and of auth's disk
opens nothing without the module. The argument is ``MODULE?token=LABEL&object=LABEL&pin_file=PATH``.

It needs the package ``python-pkcs11``: install ``tele-ssh[pkcs11]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from attrs import field, frozen

from tele.errors import InvalidInput, TeleError
from tele.private_files import read_secret

_CONTEXT: Final = b"tele-signing-keys@tele\n"
_BITS: Final = 256
_OPTIONS: Final = ("token", "object", "pin_file")


@frozen
class HardwareKey:
    """Which key of which token. Its repr shows no PIN."""

    module: str
    token: str
    object: str
    pin: str = field(repr=False)


def parse(arguments: str) -> HardwareKey:
    """Read the arguments and the PIN's file. Raises :class:`InvalidInput`."""
    module, _, query = arguments.partition("?")
    try:
        pairs = parse_qsl(query, strict_parsing=True)
    except ValueError:
        pairs = []
    options = dict(pairs)
    if not module or len(pairs) != len(_OPTIONS) or set(options) != set(_OPTIONS):
        raise InvalidInput("expected pkcs11:MODULE?token=LABEL&object=LABEL&pin_file=PATH")
    path = Path(options["pin_file"])
    try:
        pin = read_secret(path, "the PIN")
    except OSError as error:
        raise InvalidInput(f"the PIN cannot be read from {path}: {error.strerror}") from None
    return HardwareKey(module, options["token"], options["object"], pin.decode().strip())


def derive(arguments: str) -> bytes:
    """Return the private key that the module's key leads to: 32 bytes.

    Waits for the module. Raises :class:`TeleError`.
    """
    wanted = parse(arguments)
    with _session(wanted) as (library, session):
        key = session.get_key(
            object_class=library.constants.ObjectClass.SECRET_KEY, label=wanted.object
        )
        return bytes(key.sign(_CONTEXT, mechanism=library.Mechanism.SHA256_HMAC))


def make(arguments: str) -> bytes:
    """Make the key in the module, where it stays, and return what :func:`derive` does.

    Raises :class:`TeleError`, also if there is such a key.
    """
    wanted = parse(arguments)
    with _session(wanted, write=True) as (library, session):
        kinds = library.constants
        search = {
            kinds.Attribute.CLASS: kinds.ObjectClass.SECRET_KEY,
            kinds.Attribute.LABEL: wanted.object,
        }
        if list(session.get_objects(search)):
            raise InvalidInput(f"the token has a key {wanted.object!r} already")
        session.generate_key(
            library.KeyType.GENERIC_SECRET,
            _BITS,
            label=wanted.object,
            store=True,
            capabilities=library.MechanismFlag.SIGN,
            template={kinds.Attribute.SENSITIVE: True, kinds.Attribute.EXTRACTABLE: False},
        )
    return derive(arguments)


@contextmanager
def _session(wanted: HardwareKey, *, write: bool = False) -> Iterator[tuple[Any, Any]]:
    """Open a session with the token; errors of the module become our own."""
    try:
        import pkcs11
        import pkcs11.constants
        import pkcs11.exceptions
    except ImportError:
        raise TeleError(
            "a key in a hardware security module needs python-pkcs11: pip install tele-ssh[pkcs11]"
        ) from None
    try:
        token = pkcs11.lib(wanted.module).get_token(token_label=wanted.token)
        with token.open(rw=write, user_pin=wanted.pin) as session:
            yield pkcs11, session
    except (pkcs11.exceptions.PKCS11Error, RuntimeError) as error:
        why = str(error) or type(error).__name__
        raise TeleError(
            f"the key {wanted.object!r} of the token {wanted.token!r} cannot be used"
            f" ({wanted.module}): {why}"
        ) from None
