"""``tele backup`` and ``tele restore``: what auth cannot make again, as one sealed file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tele.cli.output import print_notice, print_text
from tele.errors import InvalidInput, TeleError

if TYPE_CHECKING:
    from tele.backups.contents import BackupInfo
    from tele.config.reading import Loaded
    from tele.model.api.cluster import BackupTaken


@click.command()
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The configuration of auth.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of tele up.  [default: that of tele up]",
)
@click.option(
    "--for",
    "recipients",
    multiple=True,
    metavar="KEY",
    help="A public key of tele ca keygen, whose private key opens the backup. Repeatable.",
)
@click.option(
    "--passphrase-file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="A file with a passphrase that opens the backup; - is standard input.",
)
@click.option("--recordings", is_flag=True, help="Include the recordings of the archive dir.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(
    file: Path,
    config: Path | None,
    folder: Path | None,
    recipients: tuple[str, ...],
    passphrase_file: Path | None,
    recordings: bool,
) -> None:
    """Write a backup of auth to FILE, encrypted, while auth runs.

    On auth's machine, as the account that auth runs as. It has the state, the CAs' keys as they are
    stored, the audit, which is verified, and the keys that open them if they are in data_dir.
    """
    import os
    import shutil
    from datetime import UTC, datetime

    from tele._version import VERSION
    from tele.backups.contents import BackupInfo
    from tele.backups.sealed_stream import SealedFor
    from tele.backups.taking import AuthFiles, copy_store, write_backup
    from tele.cli.audit_verify import verified_store
    from tele.config.scalars import Chosen
    from tele.embed.auth import STORE_FILE
    from tele.embed.signing_key import source
    from tele.model.api.cluster import BackupTaken
    from tele.tape.key_files import read_public

    if file.exists():
        raise InvalidInput(f"{file} exists already; a backup replaces no file")
    loaded = _configured(config, folder)
    auth = loaded.config.auth
    if auth is None:
        raise loaded.problem("auth", "missing section: a backup needs the configuration of auth")
    if auth.store.kind != "sqlite":
        raise InvalidInput(
            f"the store {auth.store.kind} is not in a file of this machine: back up a database with"
            " its own tools, such as pg_dump"
        )
    data_dir = loaded.config.data_dir
    kept = auth.recordings
    if recordings and kept.kind != "dir":
        raise InvalidInput(f"recordings are in {kept}: copy them there, and leave --recordings out")
    for_whom = SealedFor(
        tuple(read_public(text) for text in recipients),
        _passphrase(passphrase_file, confirm=True) if passphrase_file or not recipients else None,
    )
    files = AuthFiles(
        data_dir,
        data_dir / (auth.store.arguments or STORE_FILE),
        data_dir / (kept.arguments or "recordings") if recordings else None,
    )
    store = copy_store(files)
    try:
        verdict = verified_store(store)
        if verdict.problem:
            raise TeleError(f"the audit is not whole: {verdict.problem}: run tele audit verify")
        info = BackupInfo(auth.cluster_name, datetime.now(UTC), VERSION, recordings)
        size = write_backup(file, files, store, info, for_whom, os.urandom)
    finally:
        shutil.rmtree(store.parent, ignore_errors=True)
    print_notice(f"wrote {file}: {size} bytes")
    taken = BackupTaken(
        recordings, len(recipients), for_whom.passphrase is not None, verdict.events, verdict.head
    )
    _report(data_dir, taken)
    if auth.signing_keys.sealed_by != Chosen("file"):
        kept_in = source(auth.signing_keys.sealed_by)
        print_notice(f"it does not have the key that opens the CAs' keys, which is in {kept_in}")
    if kept.kind == "dir" and not recordings:
        print_notice("it has no recordings: include them with --recordings, or copy them")
    _show(info, verdict.events, verdict.head)


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="An empty folder, or one that is not there: data_dir of auth.",
)
@click.option(
    "--identity",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file of tele ca keygen whose public key the backup is for.",
)
@click.option(
    "--passphrase-file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="A file with the passphrase; - is standard input.",
)
@click.option("--check", is_flag=True, help="Only check that it can be restored; write nothing.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(
    file: Path,
    folder: Path | None,
    identity: Path | None,
    passphrase_file: Path | None,
    check: bool,
) -> None:
    """Restore the backup FILE into the folder --dir.

    All of it is checked first, the audit, too. Compare the cluster, the date and the mark that are
    printed with those of the backup: who has a public key can make a backup for it.
    """
    import tempfile

    from tele.backups.restoring import restore as restored
    from tele.backups.sealed_stream import OpenedBy
    from tele.cli.audit_verify import verified_store
    from tele.private_files import read_secret
    from tele.tape.key_files import SIGNING_KEY, read_private

    if check == (folder is not None):
        raise click.UsageError("give either --dir or --check")
    if identity is not None and passphrase_file is not None:
        raise InvalidInput("--identity and --passphrase-file exclude each other")
    if identity is not None:
        by = OpenedBy(read_private(read_secret(identity, "--identity"), SIGNING_KEY))
    else:
        by = OpenedBy(passphrase=_passphrase(passphrase_file, confirm=False))
    marks: list[tuple[int, str]] = []

    def audited(info: BackupInfo, store: Path) -> None:
        verdict = verified_store(store)
        if verdict.problem:
            raise TeleError(
                f"the audit in the backup of {info.cluster} is not whole: {verdict.problem}"
            )
        marks.append((verdict.events, verdict.head))

    if folder is not None:
        info = restored(file, folder, by, audited)
    else:
        with tempfile.TemporaryDirectory(prefix="tele-restore-") as name:
            info = restored(file, Path(name), by, audited)
    print_notice(f"restored into {folder}" if folder else f"{file} can be restored")
    _show(info, *marks[0])


def _configured(config: Path | None, folder: Path | None) -> Loaded:
    from tele.cli.folder import Folder, default_folder
    from tele.config.reading import load

    if config is not None and folder is not None:
        raise InvalidInput("--config and --dir exclude each other")
    if config is None:
        config = Folder(folder or default_folder()).config
        if not config.exists():
            raise InvalidInput(f"there is no {config}: give --config FILE of auth, or --dir")
    return load(config)


def _report(data_dir: Path, taken: BackupTaken) -> None:
    """Tell the auth that runs on ``data_dir``, for its audit."""
    from tele.cli.auth_client import LOCAL_SOCKET
    from tele.https.blocking import BlockingAuthority
    from tele.model.api.cluster import REPORT_BACKUP

    try:
        with BlockingAuthority.local(str(data_dir / LOCAL_SOCKET)) as auth:
            auth.perform(REPORT_BACKUP, taken)
    except TeleError as error:
        print_notice(f"the backup is not in the audit, which auth writes: {error}")


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    import sys

    from tele.cli.lists import read_password

    if file is not None:
        return read_password(file, "--passphrase-file", "the passphrase")
    if not sys.stdin.isatty():
        raise click.UsageError(
            "no terminal to ask for a passphrase: use --passphrase-file or a key"
        )
    asked: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return asked


def _show(info: BackupInfo, events: int, head: str) -> None:
    from tele.audit.chain import Mark
    from tele.model.codec import format_time

    print_text(f"cluster: {info.cluster}")
    print_text(f"created: {format_time(info.created)}")
    print_text(f"ok: events up to {events} are whole")
    print_text(f"head: {Mark(events, head)}")
