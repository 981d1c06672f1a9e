"""How are diagrams made? ``.. diagram:: TITLE`` draws SVG from lines of box-drawing characters.

Invariants:

* A page needs no program and no browser to be built; HTML gets SVG in the page's own colours,
  every other format the characters themselves.
* A line that leads nowhere is a warning: the neighbour in its direction has to be a line that
  meets it, an arrowhead, or text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any, Final

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

_log = logging.getLogger(__name__)
#: Size of a cell in pixels, and the part of an arrowhead.
WIDTH, HEIGHT, HEAD = 8.0, 17.0, 4.0
#: Where the lines of a character lead from the middle of its cell.
ARMS: Final = {
    "─": "ew", "│": "ns", "┌": "es", "┐": "sw", "└": "en", "┘": "nw", "├": "ens", "┤": "nsw",
    "┬": "esw", "┴": "enw", "┼": "ensw", "╌": "ew", "╎": "ns",
}  # fmt: skip
DASHED: Final = "╌╎"
#: Arrowheads: from where their line comes. It may also meet a line with its point.
ARROWS: Final = {"▶": "w", "◀": "e", "▲": "s", "▼": "n"}
POINTED: Final = {"▶": "ew", "◀": "ew", "▲": "ns", "▼": "ns"}
STEPS: Final = {"n": (0, -1), "e": (1, 0), "s": (0, 1), "w": (-1, 0)}
OPPOSITE: Final = {"n": "s", "s": "n", "e": "w", "w": "e"}
_TEXT = re.compile(rf"[^\s{''.join((*ARMS, *ARROWS))}]+(?: [^\s{''.join((*ARMS, *ARROWS))}]+)*")


def cells(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """Yield column, row and character of all that is drawn."""
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            if character in ARMS or character in ARROWS:
                yield column, row, character


def loose_ends(lines: list[str]) -> list[str]:
    """Return where a line leads to nothing, or to a line that does not meet it."""
    found = []
    for column, row, character in cells(lines):
        for arm in ARMS.get(character, ARROWS.get(character, "")):
            step = STEPS[arm]
            other_column, other_row = column + step[0], row + step[1]
            if not 0 <= other_row < len(lines):
                continue  # a line may leave the drawing
            other = lines[other_row][other_column : other_column + 1] or " "
            meets = OPPOSITE[arm] in (ARMS.get(other) or POINTED.get(other) or "ensw")
            if other == " " or not meets:
                found.append(f"line {row + 1}, column {column + 1}: {character} leads nowhere")
    return found


def svg(lines: list[str], title: str) -> str:
    """Return the drawing."""
    width, height = max(map(len, lines)) * WIDTH, len(lines) * HEIGHT
    drawn = []
    for column, row, character in cells(lines):
        x, y = (column + 0.5) * WIDTH, (row + 0.5) * HEIGHT
        for arm in ARMS.get(character, ""):
            step = STEPS[arm]
            dashes = ' stroke-dasharray="3 3"' if character in DASHED else ""
            to_x, to_y = x + step[0] * WIDTH / 2, y + step[1] * HEIGHT / 2
            drawn.append(f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}"{dashes}/>')
        if character in ARROWS:
            back = STEPS[ARROWS[character]]
            tip = (x - back[0] * WIDTH / 2, y - back[1] * HEIGHT / 2)
            base = (x + back[0] * WIDTH / 2, y + back[1] * HEIGHT / 2)
            side = (back[1] * HEAD, back[0] * HEAD)
            drawn.append(
                f'<path fill="currentColor" d="M{tip[0]:g} {tip[1]:g}'
                f"L{base[0] + side[0]:g} {base[1] + side[1]:g}"
                f'L{base[0] - side[0]:g} {base[1] - side[1]:g}Z"/>'
            )
    for row, line in enumerate(lines):
        for found in _TEXT.finditer(line):
            length = len(found[0]) * WIDTH
            drawn.append(
                f'<text x="{found.start() * WIDTH:g}" y="{(row + 0.72) * HEIGHT:g}" '
                f'textLength="{length:g}">{escape(found[0])}</text>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{width:g}px;width:100%" role="img" aria-label="{escape(title)}" '
        'font-family="monospace" font-size="13">'
        '<g stroke="currentColor" stroke-width="1.2" stroke-linecap="square" fill="none">'
        + "".join(each for each in drawn if each.startswith("<path"))
        + '</g><g fill="currentColor">'
        + "".join(each for each in drawn if each.startswith("<text"))
        + "</g></svg>"
    )


class drawing(nodes.literal_block):
    """A diagram as its characters; HTML draws it."""


class Diagram(SphinxDirective):
    """``.. diagram:: TITLE``, with the characters as its content."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the drawing; warn of its loose ends."""
        lines = [line.rstrip() for line in self.content]
        for each in loose_ends(lines):
            _log.warning("diagram: %s", each, location=self.get_location())
        text = "\n".join(lines)
        made = drawing(text, text, title=self.arguments[0], language="none")
        self.set_source_info(made)
        return [made]


def _draw(translator: Any, node: drawing) -> None:
    lines = node.astext().splitlines()
    translator.body.append(f'<div class="diagram">{svg(lines, node["title"])}</div>\n')
    raise nodes.SkipNode


def _as_literal(translator: Any, node: drawing) -> None:
    translator.visit_literal_block(node)


def _after_literal(translator: Any, node: drawing) -> None:
    translator.depart_literal_block(node)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    literal = (_as_literal, _after_literal)
    app.add_node(drawing, html=(_draw, None), man=literal, text=literal, latex=literal)
    app.add_directive("diagram", Diagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
