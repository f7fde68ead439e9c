"""The script as a module, for tests of its functions, and what it reads out of a configuration."""

from __future__ import annotations

from typing import Any

from tests.harness import machine

SCRIPT = machine.import_script()


def read_text(text: str | bytes) -> Any:
    """Return the Configuration that this text is, as if it stood in a file."""
    data = text if isinstance(text, bytes) else text.encode()
    configuration = SCRIPT.Configuration(b'/conf')
    configuration.add_text(data.decode('latin-1'))
    return configuration


def problems_of(text: str | bytes) -> list[str]:
    """Return what is wrong with the text, as the log says it."""
    return [problem.text for problem in read_text(text).problems]


def tool_of(text: str | bytes) -> Any:
    """Return the one Tool in a text, which needs no newline; AssertionError if it has a mistake."""
    data = text if isinstance(text, bytes) else text.encode()
    configuration = read_text(data + b'\n')
    if configuration.problems or len(configuration.tools) != 1:
        raise AssertionError([problem.text for problem in configuration.problems])
    return configuration.tools[0]
