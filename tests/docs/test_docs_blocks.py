"""Every command and every file of the documentation is tested."""

from __future__ import annotations

from document_blocks import all_blocks
from not_run import COMMANDS_NOT_RUN, OTHER_BLOCKS, is_run, other
from test_docs_run import PAGES_RUN


def test_each_block_is_run_or_listed_with_the_reason() -> None:
    """A block is a configuration, which tests/architecture loads; a script or commands, which run
    with their page; or listed with the reason why it is neither.
    """
    left_out = []
    for block in all_blocks():
        first = block.text.splitlines()[0]
        if block.is_configuration or other(block.page, block.text):
            continue
        rest = [line for line in block.commands if is_run(line)]
        listed = block.commands and not rest
        if not listed and (block.page not in PAGES_RUN or not (rest or block.is_script)):
            left_out.append(f"{block.page}:{block.line}: {first}")
    assert left_out == []


def test_the_lists_name_only_what_exists() -> None:
    """What is listed as not run is on a page, and has a reason."""
    blocks = all_blocks()
    lines = {line for block in blocks for line in block.commands}
    listed = {other(block.page, block.text) for block in blocks}
    assert set(COMMANDS_NOT_RUN) - lines == set()
    assert set(OTHER_BLOCKS) - listed == set()
    assert all(len(why) > 10 for why in [*COMMANDS_NOT_RUN.values(), *OTHER_BLOCKS.values()])
