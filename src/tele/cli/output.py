r"""How does a result reach the person or the program that asked?

Laws of this file:

* Data on standard output and nothing else; all other words on standard error.
* The only file of the command line that writes to its standard streams, but for replaying and
  exporting recordings. All text goes through :func:`tele.text.printable`.
* JSON and YAML have the keys of the API's values; their order is that of the values.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import click

from tele.text import printable, printable_json, printable_lines

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds to add to what is left of a certificate: one of 12 h is told as such at first.
ROUNDING = 30.0
FORMATS = ("text", "json", "yaml")


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


def say(text: str) -> None:
    """Tell a person something that is not data."""
    click.echo(printable_lines(text), err=True)


def print_text(text: object) -> None:
    """Print data that is text already: one line, or several."""
    click.echo(printable_lines(text))


def one_word(name: object) -> str:
    """Return a name as one word that is no option, for the loops of shell scripts."""
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
    rows = plain(items)
    if form == "names":
        for row in rows:
            print_text(one_word(name(row)))
    elif form == "text":
        show_table([c.title for c in columns], [[c.text(row) for c in columns] for row in rows])
    else:
        show_data(form, rows)


def show_one(form: str, item: Any, columns: Sequence[Column]) -> None:
    """Print one of our values; as text, a line for each column."""
    row = plain(item)
    if form == "text":
        width = max(len(c.title) for c in columns) + 1
        for column in columns:
            title = f"{column.title.capitalize()}:"
            click.echo(f"{title:{width}}  {printable(column.text(row))}".rstrip())
    else:
        show_data(form, row)


def show_data(form: str, value: Any) -> None:
    """Print what is in JSON form already, as ``json`` or ``yaml``."""
    if form == "yaml":
        from ruamel.yaml import YAML

        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.allow_unicode = False  # as for JSON, below
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.dump(value, sys.stdout)
        return
    click.echo(printable_json(value, indent=2))


def show_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns under their titles; the titles only if there is a row."""
    if not rows:
        return
    cells = [list(titles), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(titles))]
    for line in cells:
        click.echo("  ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)).rstrip())


def words(value: Any) -> str:
    """Return a list or a mapping of our JSON form as words on one line."""
    if isinstance(value, Mapping):
        return ",".join(f"{k}={v}" for k, v in value.items())
    return ",".join(map(str, value))


def ago(time: str, now: datetime | None = None) -> str:
    """Return how long ago a time of our JSON form was, for a person: ``5m ago``."""
    moment = datetime.now(UTC) if now is None else now
    return f"{span((moment - datetime.fromisoformat(time)).total_seconds())} ago"


def span(seconds: float) -> str:
    """Return a length of time in its largest unit: ``3h``."""
    rest = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if rest >= size:
            return f"{rest // size}{unit}"
    return f"{rest}s"
