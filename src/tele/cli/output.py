r"""Output of commands: tables, JSON, YAML and notices.

Invariants:

* Standard output has data only; notices go to standard error.
* No other module of the command line writes to the standard streams, except for replaying and
  exporting recordings. All text goes through :func:`tele.text.printable`.
* JSON and YAML have the keys of the API's values, in the same order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from io import StringIO
from itertools import islice
from typing import Any, NamedTuple, TextIO, TypeVar

import click

from tele.text import printable, printable_json, printable_lines

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds to add to the lifetime left of a certificate, so that a new one of 12 h shows as 12 h.
ROUNDING = 30.0
FORMATS = ("text", "json", "yaml")
#: Seconds between a node's time of a start and the time of its report, from which both are shown.
MUCH_LATER = 300.0
#: Items that are written at once.
BATCH = 100


def format_option(*more: str) -> Callable[[F], F]:
    """Give a command ``--format text|json|yaml`` and ``more``; the argument is ``form``."""
    return click.option(
        "--format",
        "form",
        type=click.Choice((*FORMATS, *more)),
        default="text",
        show_default=True,
        help="How to print the result.",
    )


def print_notice(text: str) -> None:
    """Print a notice on standard error."""
    click.echo(printable_lines(text), err=True)


def print_text(text: object) -> None:
    """Print text, one line or several."""
    click.echo(printable_lines(text))


def one_word(name: object) -> str:
    """Return a name as one word that is not an option, for loops of shell scripts."""
    word = printable(name).replace(" ", "\\x20")
    return f"\\x2d{word[1:]}" if word.startswith("-") else word


class Column(NamedTuple):
    """One column of a table: its title, and its text for one item (in JSON form)."""

    title: str
    text: Callable[[Mapping[str, Any]], object]


def plain(value: Any) -> Any:
    """Return the JSON form of one of our values, or of a sequence of them."""
    from tele.model.codec import to_json

    return [to_json(v) for v in value] if isinstance(value, list | tuple) else to_json(value)


def show_list(
    form: str,
    items: Sequence[Any],
    columns: Sequence[Column],
    name: Callable[[Mapping[str, Any]], object] = lambda item: item["name"],
) -> None:
    """Print a list of our values. ``name`` is what ``--format names`` prints of each."""
    show_pages(form, [items], columns, name)


def show_pages(
    form: str,
    pages: Iterable[Sequence[Any]],
    columns: Sequence[Column],
    name: Callable[[Mapping[str, Any]], object] = lambda item: item["name"],
) -> None:
    """Print a list of our values, each page as soon as it has arrived."""
    rows = (plain(list(items)) for items in pages)
    if form == "names":
        for some in rows:
            _print_lines(one_word(name(row)) for row in some)
    elif form == "text":
        table = Table([c.title for c in columns])
        for some in rows:
            table.show([[c.text(row) for c in columns] for row in some])
    else:
        show_items(form, (row for some in rows for row in some))


def show_items(form: str, items: Iterable[Any]) -> None:
    """Print a list in JSON form as ``json`` or ``yaml``, item by item."""
    some = False
    for batch in _batches(items):
        if form == "yaml":
            show_data(form, batch)
        else:
            text = ",\n".join(printable_json(item, indent=2) for item in batch)
            start = ",\n" if some else "[\n"
            click.echo(f"{start}  {text.replace(chr(10), chr(10) + '  ')}", nl=False)
        some = True
    if form != "yaml" and some:
        click.echo("\n]")
    elif not some:
        show_data(form, [])


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch


def show_one(form: str, item: Any, columns: Sequence[Column], **more: str) -> None:
    """Print one of our values, and ``more`` of it; as text, a line for each column."""
    show_row(form, plain(item) | more, columns)


def show_row(form: str, row: Any, columns: Sequence[Column]) -> None:
    """Print a value in JSON form; as text, a line for each column."""
    if form == "text":
        width = max(len(c.title) for c in columns) + 1
        for column in columns:
            title = f"{column.title.capitalize()}:"
            click.echo(f"{title:{width}}  {printable(column.text(row))}".rstrip())
    else:
        show_data(form, row)


def show_data(form: str, value: Any) -> None:
    """Print a value in JSON form as ``json`` or ``yaml``."""
    if form == "yaml":
        _write_yaml(value, sys.stdout)
        return
    click.echo(printable_json(value, indent=2))


def yaml_of(value: Any) -> str:
    """Return a value in JSON form as YAML."""
    text = StringIO()
    _write_yaml(value, text)
    return text.getvalue()


def _write_yaml(value: Any, file: TextIO) -> None:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = False  # as for JSON, above
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(value, file)


class Table:
    """Aligned columns under their titles; nothing if there is no row.

    Rows may be shown in several batches: columns are as wide as all cells so far.
    """

    def __init__(self, titles: Sequence[str]) -> None:
        self._widths = [len(title) for title in titles]
        self._titles: list[list[str]] = [list(titles)]

    def show(self, rows: Sequence[Sequence[object]]) -> None:
        """Print some rows."""
        if not rows:
            return
        cells = [*self._titles, *([printable(cell) for cell in row] for row in rows)]
        self._titles = []
        for line in cells:
            self._widths = [max(w, len(c)) for w, c in zip(self._widths, line, strict=True)]
        _print_lines(
            "  ".join(f"{c:{w}}" for c, w in zip(line, self._widths, strict=True)).rstrip()
            for line in cells
        )


def show_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    Table(titles).show(rows)


def _print_lines(lines: Iterable[str]) -> None:
    text = "\n".join(lines)
    if text:
        click.echo(text)


def words(value: Any) -> str:
    """Return a list or a mapping in JSON form as comma separated text."""
    if isinstance(value, Mapping):
        return ",".join(f"{k}={v}" for k, v in value.items())
    return ",".join(map(str, value))


def ago(time: str, now: datetime | None = None) -> str:
    """Return how long ago a time in JSON form was: ``5m ago``."""
    moment = datetime.now(UTC) if now is None else now
    return f"{span((moment - datetime.fromisoformat(time)).total_seconds())} ago"


def span(seconds: float) -> str:
    """Return a length of time in its largest unit: ``3h``."""
    rest = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if rest >= size:
            return f"{rest // size}{unit}"
    return f"{rest}s"


def started_ago(row: Any) -> str:
    """Return how long ago a session started, and when it was reported if that was much later."""
    began = ago(row["started"])
    if row["received"] is None:
        return began
    started, received = (datetime.fromisoformat(row[k]) for k in ("started", "received"))
    if abs((received - started).total_seconds()) < MUCH_LATER:
        return began
    return f"{began} (reported {ago(row['received'])})"
