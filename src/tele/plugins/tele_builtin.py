"""Which plugins ship with tele? Their factories, which import an implementation on use."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from twisted.plugin import IPlugin
from zope.interface import implementer

from tele.errors import InvalidInput
from tele.interfaces import (
    HostUsersSurroundings,
    IArchive,
    IArchiveFactory,
    IAuditSink,
    IAuditSinkFactory,
    IBackend,
    IBackendFactory,
    IHostUsers,
    IHostUsersFactory,
    IRecorder,
    IRecorderFactory,
    ISessionTracer,
    ISessionTracerFactory,
    ISubsystem,
    ISubsystemFactory,
    RecorderSurroundings,
    Surroundings,
)

#: Sizes of the kernel's buffer, in MiB.
_BUFFERS = frozenset(1 << bits for bits in range(11))


def _path(arguments: str, surroundings: Surroundings, default: str) -> Path:
    """Return the path in ``arguments``, relative to ``data_dir``."""
    return surroundings.data_dir / (arguments or default)


@implementer(IPlugin, IBackendFactory)
class _Sqlite:
    kind = "sqlite"
    help = "sqlite[:PATH] - one durable file, auth.sqlite in data_dir by default"

    def make(self, arguments: str, surroundings: Surroundings) -> IBackend:
        from tele.store.sqlite import SqliteBackend

        return SqliteBackend(_path(arguments, surroundings, "auth.sqlite"), surroundings.reactor)


@implementer(IPlugin, IBackendFactory)
class _Postgres:
    kind = "postgresql"
    help = (
        "postgresql://[USER@]HOST[:PORT]/DATABASE[?sslrootcert=FILE&passfile=FILE] - a database of"
        " PostgreSQL 13 or later, for clusters with several auths; needs tele-ssh[postgres]"
    )

    def make(self, arguments: str, surroundings: Surroundings) -> IBackend:
        try:
            from tele.store.postgres import PostgresBackend
        except ImportError as error:
            raise InvalidInput(
                f"the store postgresql needs psycopg ({error}): pip install 'tele-ssh[postgres]'"
            ) from None

        return PostgresBackend(f"postgresql:{arguments}", surroundings.reactor)


@implementer(IPlugin, IBackendFactory)
class _Etcd:
    kind = "etcd"
    help = (
        "etcd://HOST:2379,HOST:2379[/PREFIX][?ca=FILE&user=NAME&password_file=FILE] - etcd 3.4 or"
        " later, for clusters with several auths"
    )

    def make(self, arguments: str, surroundings: Surroundings) -> IBackend:
        from tele.store.etcd import EtcdBackend

        return EtcdBackend(arguments, surroundings.reactor)


@implementer(IPlugin, IBackendFactory)
class _Memory:
    kind = "memory"
    help = "memory - nothing is stored; for tests"

    def make(self, arguments: str, surroundings: Surroundings) -> IBackend:
        from tele.store.memory import MemoryBackend

        if arguments:
            raise InvalidInput("memory takes no arguments")
        return MemoryBackend(surroundings.reactor)


@implementer(IPlugin, IArchiveFactory)
class _Directory:
    kind = "dir"
    help = "dir[:PATH] - a directory, recordings in data_dir by default"

    def make(self, arguments: str, surroundings: Surroundings) -> IArchive:
        from tele.recording.archives.directory import DirectoryArchive

        path = _path(arguments, surroundings, "recordings")
        archive: IArchive = DirectoryArchive(path, surroundings.reactor)
        return archive


@implementer(IPlugin, IArchiveFactory)
class _S3:
    kind = "s3"
    help = (
        "s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION&path_style=yes&ca_file=PATH -"
        " a bucket of Amazon S3 or of a store that speaks its protocol; uploads wait in s3 in"
        " data_dir"
    )

    def make(self, arguments: str, surroundings: Surroundings) -> IArchive:
        from tele.recording.archives.s3.archive import S3Archive
        from tele.recording.archives.s3.credentials import require_botocore
        from tele.recording.archives.s3.location import parse_location

        location = parse_location(arguments)
        require_botocore()
        folder = surroundings.data_dir / "s3"
        archive: IArchive = S3Archive(surroundings.reactor, location, folder)
        return archive


@implementer(IPlugin, IAuditSinkFactory)
class _File:
    kind = "file"
    help = "file:PATH - appends each event as a line of JSON"

    def make(self, arguments: str, surroundings: Surroundings) -> IAuditSink:
        from tele.audit.file_sink import FileSink
        from tele.workers import in_thread_pool

        if not arguments:
            raise InvalidInput("file needs a path: file:PATH")
        return FileSink(
            _path(arguments, surroundings, ""), partial(in_thread_pool, surroundings.reactor)
        )


@implementer(IPlugin, IRecorderFactory)
class _Tape:
    kind = "tape"
    help = "tape - writes each session to a spool in data_dir and uploads it to auth"

    def make(self, arguments: str, surroundings: RecorderSurroundings) -> IRecorder:
        from tele.plugins.taping import Taping

        if arguments:
            raise InvalidInput("tape takes no arguments")
        recorder: IRecorder = Taping(surroundings)
        return recorder


@implementer(IPlugin, ISubsystemFactory)
class _Command:
    kind = "command"
    help = "command:NAME COMMAND - a command line that the account's shell runs as the account"

    def make(self, arguments: str, surroundings: Surroundings) -> ISubsystem:
        from tele.plugins.commanding import CommandSubsystem

        name, _, line = arguments.partition(" ")
        if not name or not line.strip():
            raise InvalidInput("command needs a name and a command line: command:NAME COMMAND")
        subsystem: ISubsystem = CommandSubsystem(name, line.strip())
        return subsystem


@implementer(IPlugin, ISessionTracerFactory)
class _NoTracer:
    kind = "none"
    help = "none - nothing is traced; programs of roles with enhanced_recording do not start"

    def make(self, arguments: str, surroundings: Surroundings) -> ISessionTracer:
        from tele.plugins.not_tracing import NoTracer

        if arguments:
            raise InvalidInput("none takes no arguments")
        tracer: ISessionTracer = NoTracer()
        return tracer


@implementer(IPlugin, ISessionTracerFactory)
class _KernelTracer:
    kind = "bpf"
    help = (
        "bpf[:MIB] - BPF programs in the kernel of this machine, for a node that runs as root; MIB,"
        " a power of two, is what the kernel keeps of what was not read yet, 16 by default"
    )

    def make(self, arguments: str, surroundings: Surroundings) -> ISessionTracer:
        from tele.plugins.kernel_tracing import KernelTracer

        size = arguments or "16"
        if not size.isascii() or not size.isdecimal() or int(size[:5]) not in _BUFFERS:
            raise InvalidInput("bpf takes the size of its buffer in MiB: 1, 2, 4 and so on to 1024")
        tracer: ISessionTracer = KernelTracer(surroundings.reactor, buffer=int(size) << 20)
        return tracer


@implementer(IPlugin, IHostUsersFactory)
class _Local:
    kind = "local"
    help = "local - accounts of /etc/passwd, made with useradd and what belongs to it"

    def make(self, arguments: str, surroundings: HostUsersSurroundings) -> IHostUsers:
        from tele.node.local_accounts import LocalAccounts

        if arguments:
            raise InvalidInput("local takes no arguments")
        accounts: IHostUsers = LocalAccounts(surroundings.request)
        return accounts


sqlite = _Sqlite()
postgresql = _Postgres()
etcd = _Etcd()
memory = _Memory()
directory = _Directory()
s3 = _S3()
file = _File()
tape = _Tape()
command = _Command()
local = _Local()
no_tracer = _NoTracer()
kernel_tracer = _KernelTracer()
