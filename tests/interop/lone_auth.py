"""Auth as a process of its own, and a ledger of all that it has acknowledged."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve, field

from tele.audit.chain import event
from tele.certs.keys import PrivateKey
from tele.https.blocking import BlockingAuthority
from tele.https.identity import TlsIdentity
from tele.https.pinning import server_name
from tele.membership.identity import HostKeyPair, MemberIdentity, assemble, tls_authorities
from tele.model.api import audit, members, recordings, table, users
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById, Paged
from tele.model.api.roles import PutRole
from tele.model.api.tokens import NewToken
from tele.model.event import Event
from tele.model.identity import HostRole
from tele.model.resources import Metadata, Role, User, UserSpec
from tele.model.session import ChunkDigest, Manifest, RecordingStart
from tele.tape.verify import VERSION, to_sign
from three_processes import BIN, free_port, wait_for

CLUSTER = "lone"


@define
class LoneAuth:
    """Auth on ``folder/data`` (or ``data_dir``), without proxy and node.

    ``environment`` is added to what it runs with, ``settings`` to its section of the configuration.
    """

    folder: Path
    data_dir: Path = Factory(lambda self: self.folder / "data", takes_self=True)
    port: int = field(factory=free_port)
    environment: Mapping[str, str] = {}
    settings: str = ""
    process: subprocess.Popen[bytes] | None = None
    _names: dict[str, MemberIdentity] = field(factory=dict)

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.folder / "auth.yaml"

    @property
    def log(self) -> Path:
        """What it has logged."""
        return self.folder / "auth.log"

    def words(self, *more: str) -> list[str]:
        """The command that runs it."""
        command = [str(BIN / "twistd"), *(more or ("-n", "--pidfile="))]
        return [*command, "tele-auth", "--config", str(self.config)]

    @property
    def surroundings(self) -> dict[str, str]:
        """The environment of all commands."""
        return {**os.environ, "HOME": str(self.folder), **self.environment}

    def configure(self) -> None:
        """Write its configuration."""
        self.config.write_text(
            f"version: v1\ndata_dir: {self.data_dir}\n"
            f"auth: {{cluster_name: {CLUSTER}, listen: '127.0.0.1:{self.port}'"
            f"{self.settings and ', '}{self.settings}}}\n"
        )

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.configure()
        started = self._starts()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words(), cwd=self.folder, env=self.surroundings, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        # What was killed may keep the socket open for a moment.
        wait_for(lambda: self._starts() > started and self._serves(), "auth to serve")

    def _starts(self) -> int:
        """Return how often it has said that it listens."""
        return self.log.read_text().count("auth listening") if self.log.exists() else 0

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.data_dir / "auth.sock")) == 0

    def kill(self) -> None:
        """Kill it without warning."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        """End it, if it runs."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            finally:
                self.process.kill()
                self.process.wait()
                self.process = None

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``tele`` and return how it went."""
        return subprocess.run(
            [str(BIN / "tele"), *words], env=self.surroundings, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def owner(self) -> BlockingAuthority:
        """Auth, called by its owner."""
        return BlockingAuthority.local(str(self.data_dir / "auth.sock"))

    def member(self, name: str = "web1") -> tuple[BlockingAuthority, MemberIdentity]:
        """Auth, called by a node, which joins at the first call."""
        with self.owner() as owner:
            token = owner.perform(table.ADD_TOKEN, NewToken((HostRole.NODE,))).token
            info = owner.perform(table.CLUSTER, Nothing())
        trust = tls_authorities(info.authorities)
        address = f"127.0.0.1:{self.port}"
        if name not in self._names:
            keys = HostKeyPair.generate()
            request = members.JoinRequest(token, name, HostRole.NODE, keys.public)
            with BlockingAuthority(address, None, trust, server_name(CLUSTER)) as client:
                got = client.perform(table.JOIN, request)
            self._names[name] = assemble(keys, got, HostRole.NODE)
        identity = self._names[name]
        tls: TlsIdentity = identity.tls
        return BlockingAuthority(address, tls, trust, server_name(CLUSTER)), identity


@define
class Ledger:
    """What auth has said that it has: written here after its answer, never before."""

    auth: LoneAuth
    users: list[str] = field(factory=list)
    roles: list[str] = field(factory=list)
    events: list[str] = field(factory=list)
    chunks: dict[str, list[bytes]] = field(factory=dict)
    finished: list[str] = field(factory=list)

    def add(self, rounds: int = 1) -> None:
        """Have auth acknowledge a user, a role, events and a recording, ``rounds`` times."""
        node, identity = self.auth.member()
        with node, self.auth.owner() as owner:
            for _ in range(rounds):
                self._add(node, identity, owner)

    def _add(
        self, node: BlockingAuthority, identity: MemberIdentity, owner: BlockingAuthority
    ) -> None:
        name = f"u{len(self.users)}-{secrets.token_hex(4)}"
        owner.perform(table.ADD_USER, users.NewUser(User(Metadata(name), UserSpec(("access",)))))
        self.users.append(name)
        owner.perform(table.PUT_ROLE, PutRole(name, Role(Metadata(name))))
        self.roles.append(name)
        moment = datetime.now(UTC)
        recording_id = str(uuid.uuid4())
        said: list[Event] = [
            event(
                "auth.denied", str(uuid.uuid4()), moment, CLUSTER, user=name,
                server_id=identity.host.host_id,
            )
            for _ in range(3)
        ]  # fmt: skip
        node.perform(table.EMIT_EVENTS, audit.EmitEvents(tuple(said)))
        self.events += [each.id for each in said]
        start = RecordingStart(
            recording_id, "ssh", CLUSTER, name, "root", ("access",), "s1", "web1",
            identity.host.host_id, "192.0.2.7:1", moment,
        )  # fmt: skip
        node.perform(table.START_RECORDING, recordings.StartRecording(recording_id, start))
        chunks = self.chunks[recording_id] = []
        for number in range(3):
            data = secrets.token_bytes(3000)
            node.perform(table.PUT_CHUNK, recordings.PutChunk(recording_id, number, data))
            chunks.append(data)
        node.perform(
            table.FINISH_RECORDING,
            recordings.FinishRecording(recording_id, _manifest(identity, start, chunks)),
        )
        self.finished.append(recording_id)

    def missing(self) -> list[str]:
        """What auth, called now, does not have."""
        with self.auth.owner() as owner:
            users = {u.metadata.name for u in _all(owner, table.LIST_USERS)}
            roles = {r.metadata.name for r in _all(owner, table.LIST_ROLES)}
            events = _events(owner)
            lost = [f"user {each}" for each in self.users if each not in users]
            lost += [f"role {each}" for each in self.roles if each not in roles]
            lost += [f"event {each}" for each in self.events if each not in events]
            for recording_id, chunks in self.chunks.items():
                lost += _missing_of(owner, recording_id, chunks, recording_id in self.finished)
            return lost


def _manifest(identity: MemberIdentity, start: RecordingStart, chunks: Sequence[bytes]) -> Manifest:
    digests = tuple(
        ChunkDigest(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in enumerate(chunks)
    )
    manifest = Manifest(
        start.id, VERSION, start, datetime.now(UTC), digests, 3, False, False,
        identity.ssh_certificate.line,
    )  # fmt: skip
    key: PrivateKey = identity.keys.ssh
    return evolve(manifest, signature=key.sign(to_sign(manifest)))


def _all(owner: BlockingAuthority, operation: Any) -> list[Any]:
    found: list[Any] = []
    after = ""
    while True:
        page = owner.perform(operation, Paged(1000, after))
        found += page.items
        after = page.next
        if not after:
            return found


def _events(owner: BlockingAuthority) -> set[str]:
    found: set[str] = set()
    after = ""
    while True:
        page = owner.perform(table.LIST_EVENTS, audit.ListEvents(limit=1000, after=after))
        found |= {each.id for each in page.items}
        after = page.next
        if not after:
            return found


def _missing_of(
    owner: BlockingAuthority, recording_id: str, chunks: Sequence[bytes], finished: bool
) -> list[str]:
    try:
        details = owner.perform(table.GET_RECORDING, ById(recording_id))
        stored = [
            owner.perform(table.GET_CHUNK, recordings.GetChunk(recording_id, number)).data
            for number in range(len(chunks))
        ]
    except Exception as error:
        return [f"recording {recording_id}: {error}"]
    lost = [] if stored == list(chunks) else [f"recording {recording_id}: other bytes"]
    if finished and details.manifest is None:
        lost.append(f"recording {recording_id}: its manifest")
    return lost


#: Opens the store as any program would, reads all of it and closes it.
READ_STORE = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
print(file.execute("SELECT count(*) FROM items").fetchone()[0])
file.close()
"""


def in_python(program: str, *words: object) -> str:
    """Run a program in another Python; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    return done.stdout
