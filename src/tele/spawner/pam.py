"""How do PAM modules of the machine take part in a session (pam(3))?

Invariants:

* Loaded in a session's own process only, as root, before privileges are dropped: modules
  wait, fork and crash as they like. The spawner never loads it.
* PAM does not authenticate: the certificate did. A prompt of a module gets no answer.
* What a module denies is denied, with its message.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from tele.spawner.accounts import Refused

LIBRARY: Final = "libpam.so.0"
#: Bytes of all messages of modules.
TEXT_LIMIT: Final = 16 * 1024

# <security/_pam_types.h>
_SUCCESS, _BUF_ERR, _CONV_ERR, _NEW_AUTHTOK_REQD = 0, 5, 19, 12
_TTY, _RHOST = 3, 4
_ESTABLISH_CRED, _DELETE_CRED = 2, 4
_ERROR_MSG, _TEXT_INFO = 3, 4
_MAX_MESSAGES = 32


class _Message(ctypes.Structure):
    _fields_ = (("style", ctypes.c_int), ("text", ctypes.c_char_p))


class _Response(ctypes.Structure):
    _fields_ = (("text", ctypes.c_void_p), ("code", ctypes.c_int))


_Converse = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(_Message)),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class _Conversation(ctypes.Structure):
    _fields_ = (("converse", _Converse), ("data", ctypes.c_void_p))


class PamSession:
    """An account and a session at ``service``; ``terminal`` is a path or empty.

    Raises Refused when the library is not there or a module denies.
    """

    def __init__(self, service: str, user: str, host: str, terminal: str) -> None:
        #: Messages of modules to the user.
        self.messages = b""
        try:
            self._pam = ctypes.CDLL(LIBRARY)
            self._calloc = ctypes.CDLL(None).calloc
        except (OSError, AttributeError):
            raise Refused(f"this machine has no {LIBRARY}", "spawner") from None
        self._calloc.restype = ctypes.c_void_p
        self._calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
        self._pam.pam_strerror.restype = ctypes.c_char_p
        self._pam.pam_getenvlist.restype = ctypes.POINTER(ctypes.c_char_p)
        self._conversation = _Conversation(_Converse(self._converse), None)
        self._handle = ctypes.c_void_p()
        self._demand(
            self._pam.pam_start(
                service.encode(),
                user.encode(),
                ctypes.byref(self._conversation),
                ctypes.byref(self._handle),
            )
        )
        for item, value in ((_RHOST, host), (_TTY, terminal or "ssh")):
            self._demand(
                self._pam.pam_set_item(self._handle, item, ctypes.c_char_p(value.encode()))
            )

    def open(self) -> None:
        """Ask for the account, and open the session."""
        result = self._pam.pam_acct_mgmt(self._handle, 0)
        if result == _NEW_AUTHTOK_REQD:
            raise Refused("the account's password has expired and has to be changed first", "pam")
        self._demand(result)
        # As under sshd: a login without a password may have no credentials to establish.
        self._pam.pam_setcred(self._handle, _ESTABLISH_CRED)
        self._demand(self._pam.pam_open_session(self._handle, 0))

    def variables(self) -> dict[bytes, bytes]:
        """Return what modules want in the environment."""
        found: dict[bytes, bytes] = {}
        listed = self._pam.pam_getenvlist(self._handle)
        place = 0
        while listed and listed[place]:
            name, separator, value = listed[place].partition(b"=")
            # The spawner sets variables of the connection, as sshd does.
            if separator and not name.startswith(b"SSH_"):
                found[name] = value
            place += 1
        return found

    def close(self) -> None:
        """End the session."""
        self._pam.pam_close_session(self._handle, 0)
        self._pam.pam_setcred(self._handle, _DELETE_CRED)
        self._pam.pam_end(self._handle, _SUCCESS)

    def _demand(self, result: int) -> None:
        if result != _SUCCESS:
            why: bytes = self._pam.pam_strerror(self._handle, result) or b"denied"
            text = (self.messages or b"PAM denies the session: " + why).decode("utf-8", "replace")
            raise Refused(text.strip(), "pam")

    def _converse(self, count: int, messages: Any, responses: Any, _: Any) -> int:
        if not 0 < count <= _MAX_MESSAGES:
            return _CONV_ERR
        texts = [messages[index].contents for index in range(count)]
        if any(each.style not in (_ERROR_MSG, _TEXT_INFO) for each in texts):
            return _CONV_ERR
        answers = self._calloc(count, ctypes.sizeof(_Response))
        if not answers:
            return _BUF_ERR
        responses[0] = answers
        for each in texts:
            self.messages = (self.messages + (each.text or b"").rstrip(b"\n") + b"\n")[:TEXT_LIMIT]
        return _SUCCESS
