"""Which signed heads of the audit are there? In files of nodes and proxies, in the archive.

Invariant: a head counts only if an auth of the cluster signed it. Others are ignored, and reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tele.cli.auth_client import Authority, Where
from tele.cli.output import print_notice
from tele.errors import InvalidInput
from tele.text import printable

if TYPE_CHECKING:
    from tele.audit.chain import Mark
    from tele.model.audit_head import SignedHead

#: The name of a host's file, and the ending of a file of the archive.
_FILE: Final = "audit-heads"
_ENDING: Final = ".head"
_FILE_LIMIT: Final = 64 * 1024 * 1024


def read_copies(paths: Sequence[Path]) -> dict[Path, list[SignedHead]]:
    """Return the heads in files and folders. Raises :class:`InvalidInput` if one has none."""
    from tele.audit.heads import read_lines

    found: dict[Path, list[SignedHead]] = {}
    for path in paths:
        heads = found[path] = []
        for file in _files(path):
            if file.stat().st_size > _FILE_LIMIT:
                raise InvalidInput(f"{file} is larger than any file of heads")
            heads += read_lines(file.read_bytes())
        if not heads:
            raise InvalidInput(
                f"{path} has no signed head of the audit: give the file {_FILE} of a node or proxy"
                f" (data_dir, in identity/node or identity/proxy), or a folder with it"
            )
    return found


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for each in sorted(path.rglob("*")):
        if (each.name == _FILE or each.name.endswith(_ENDING)) and each.is_file():
            yield each


def signed_marks(
    copies: dict[Path, list[SignedHead]],
    authority: Authority | None,
    ca: Path | None,
    where: Where,
) -> list[Mark]:
    """Return the events that auth signed as the head, by ``copies`` and by the archive at auth."""
    from tele.audit.heads import check_head, mark_of
    from tele.cli.recordings_verify import read_authority, trusted_hosts

    if authority is None and not copies:
        return []
    if ca is None:
        keys, cluster = trusted_hosts(authority, where)
    else:
        of = {head.cluster for heads in copies.values() for head in heads}
        keys = read_authority(ca)
        cluster = where.cluster or (min(of) if len(of) == 1 else "")
        if not cluster and authority is not None:
            cluster = trusted_hosts(authority, where)[1]
    everything: dict[str, list[SignedHead]] = {str(p): heads for p, heads in copies.items()}
    if authority is not None:
        everything["the archive"] = list(_archived(authority))
    marks: dict[tuple[int, str], Mark] = {}
    for place, heads in everything.items():
        bad = 0
        for head in heads:
            try:
                check_head(head, keys, cluster)
            except InvalidInput as error:
                bad += 1
                why = str(error)
            else:
                marks.setdefault((head.number, head.hash), mark_of(head))
        if bad:
            text = f"{place}: {bad} of {len(heads)} heads are ignored: {why}"
            print_notice(f"tele: {printable(text)}")
        if bad and bad == len(heads) and place != "the archive":
            raise InvalidInput(f"{place} has no head that auth of cluster {cluster!r} signed")
    return [marks[key] for key in sorted(marks)]


def _archived(authority: Authority) -> Iterator[SignedHead]:
    """Yield what is in the archive, by auth."""
    from tele.model.api.audit import LIST_AUDIT_HEADS, ListHeads

    after = ""
    while True:
        page = authority.perform(LIST_AUDIT_HEADS, ListHeads(after))
        yield from page.items
        if not page.next:
            return
        after = page.next
