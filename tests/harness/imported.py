"""The script as a module, for tests of its functions, and what it reads out of a configuration."""

from __future__ import annotations

import posix
import types
from typing import Any
from unittest import mock

from tests.harness import machine

SCRIPT = machine.import_script()
STATUS = types.SimpleNamespace(st_uid=0, st_mode=0o100644, st_ino=1, st_dev=1)


def read_text(text: str | bytes) -> Any:
    """Return the Configuration that this text is, as if it stood in root's file /conf."""
    data = text if isinstance(text, bytes) else text.encode()
    reads = mock.Mock(return_value=(STATUS, data))
    named = mock.patch.dict(posix.environ, {b'PWRAP_CONF': b'/conf'})
    with named, mock.patch.object(SCRIPT, 'read_file', reads):
        return SCRIPT.Configuration()


def problems_of(text: str | bytes) -> list[str]:
    """Return what is wrong with the text, as the log says it."""
    return list(read_text(text).problems)


def tool_of(text: str | bytes) -> Any:
    """Return the one Tool in a text, which needs no newline; AssertionError if it has a mistake."""
    data = text if isinstance(text, bytes) else text.encode()
    configuration = read_text(data + b'\n')
    if configuration.problems or len(configuration.tools) != 1:
        raise AssertionError(list(configuration.problems))
    return configuration.tools[0]
