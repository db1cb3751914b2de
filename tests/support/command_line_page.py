"""docs/command_line.md, made from the commands' own help: ``python -m tests.support.command_line_page`` writes it."""

from __future__ import annotations

from pathlib import Path

from hotwheels.amct_pytorch.cli.main import group

PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"
_WIDTH = 110
_HEAD = """# Command line

`amct` is installed with the package; `python -m hotwheels.amct_pytorch` is the same program. Exit codes: 0 done,
1 a result differs or a check fails, 2 bad input. `eval "$(amct completion bash)"` completes commands and options in a
shell. [specification.md](specification.md#spec-19) has the rules.

This page is written by `python -m tests.support.command_line_page` from the help of the commands; a test compares both.

The environment variables: [environment.md](environment.md).
"""


def page() -> str:
    """Returns the page as the commands are now."""
    context = group.make_context("amct", [], resilient_parsing=True, terminal_width=_WIDTH)
    parts = [_HEAD]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = command.make_context(name, [], context, resilient_parsing=True, terminal_width=_WIDTH)
        lines = "\n".join(line.rstrip() for line in command.get_help(inner).splitlines())
        parts.append(f"## amct {name}\n\n```\n{lines}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
