"""Somebody at a command line, and a terminal."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.harness import machine
from tests.harness.logins import LONG_ENOUGH, Case, Login, readable

COLUMNS = 80
PASSWORD = 'Wr0ng+hOrse'  # long and odd enough to be found wherever it stands
ABOUT_PLACES = re.compile(r'warning: \S+: (others can change|not everybody can)')
ABOUT_THE_LOG = re.compile('warning: .*/dev/log')  # which a container has not

# The parts of what --test shows, each below such a heading.
TRUE, SESSION, RANDOM = 'with prog true', 'with a session', 'with a random password'
LOUD = 'LETS EVERYBODY IN'


class Tried(NamedTuple):
    """How --test ended, and the lines that it has printed, as they were before they were wrapped."""

    code: int | None
    lines: list[str]

    def part(self, heading: str) -> list[str]:
        """Return the lines of one part, without its heading; none if there is no such part."""
        found: list[str] = []
        inside = False
        for line in self.lines:
            if line.startswith('with '):
                inside = line.startswith(heading)
            elif inside:
                found.append(line)
        return found

    def rows(self, heading: str = TRUE) -> list[list[str]]:
        """Return what is shown of each tool in a part: number, name, what it said, and the rest."""
        return rows_in(self.part(heading))

    @property
    def is_loud(self) -> bool:
        """Whether it is told that somebody lets everybody in."""
        return any(LOUD in line for line in self.lines)


class Person(Case):
    """Somebody with a copy of the script, in a folder that nobody else can write to."""

    def setUp(self) -> None:
        super().setUp()
        self.command = (machine.copy_with_python(machine.SCRIPT, self.path('qmail_pwrap.py')),)

    def settings(self, *lines: str) -> None:
        """Write the configuration: exactly these lines, so that the log is the system's."""
        self.write('pwrap.conf', ''.join(line + '\n' for line in lines))

    def check(self, *operands: str, **options: Any) -> tuple[int | None, list[str]]:
        """Run --check, which must say nothing on descriptor 2.

        Return its exit code and the lines that it prints, as they were before they were wrapped.
        """
        said = self.say('--check', *operands, **options)
        self.assertEqual(said.errors, '')
        return said.code, unwrapped(said.output)

    def warnings(self, lines: list[str]) -> list[str]:
        """Return the warnings, but not those about this machine: places outside this test's folder, and its log."""
        return [
            line
            for line in lines
            if line.startswith('warning: ')
            and not ABOUT_THE_LOG.match(line)
            and (self.folder in line or not ABOUT_PLACES.match(line))
        ]

    def try_login(
        self, login: str = 'alice@example.org', given: bytes | None = None, **options: Any
    ) -> Tried:
        """Run --test, which must say nothing on descriptor 2, nor the password anywhere."""
        typed = f'{PASSWORD}\n'.encode() if given is None else given
        said = self.say('--test', login, given=typed, **options)
        self.assertEqual(said.errors, '')
        self.assertNotIn(PASSWORD, said.output)
        return Tried(said.code, unwrapped(said.output))


def unwrapped(output: str) -> list[str]:
    return output.replace('\n    ', ' ').splitlines()


def rows_in(lines: list[str]) -> list[list[str]]:
    """Return what --test shows of each tool: number, name, what it said, and the rest."""
    return [re.split(' {2,}', line) for line in lines if re.match(r'\d+  ', line)]


class Terminal:
    """A terminal of 80 columns, and what is shown there. It needs('/dev/pts')."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._shown = b''
        self._keyboard, self._screen = os.openpty()
        self._is_open = True
        case.addCleanup(self.close)
        case.addCleanup(os.close, self._screen)
        size = struct.pack('HHHH', 24, COLUMNS, 0, 0)
        fcntl.ioctl(self._screen, termios.TIOCSWINSZ, size)

    def take(self) -> None:
        """In the new process: be the one that the terminal, descriptor 0, belongs to."""
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def start(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        before: Callable[[], object] | None = None,
        **options: Any,
    ) -> Login:
        """Start the command here, without a descriptor 3; before() is called instead of take(), and has to do that.
        The options are those of Case.start()."""
        places = {0: self._screen, 1: self._screen, 2: self._screen}
        places.update(options.pop('descriptors', {}))
        options.setdefault('triple', None)
        return self.case.start(
            *words,
            descriptors=places,
            env={'LC_ALL': 'C.UTF-8', **(env or {})},
            before=before or self.take,
            **options,
        )

    @property
    def shown(self) -> str:
        return self._shown.decode('utf-8', 'replace')

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def close(self) -> None:
        """Hang up."""
        if self._is_open:
            self._is_open = False
            os.close(self._keyboard)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._screen)[3] & termios.ECHO)

    def wait_for(self, text: str) -> None:
        """Wait until this is shown."""
        deadline = time.monotonic() + LONG_ENOUGH
        while text not in self.shown:
            if time.monotonic() > deadline:
                raise AssertionError(f'{text!r} is not shown, but {self.shown!r}')
            self._read(0.05)

    def wait_for_end(self, login: Login) -> int:
        """Read along until a process has ended; return its exit code."""
        deadline = time.monotonic() + LONG_ENOUGH
        while not login.over():
            if time.monotonic() > deadline:
                raise AssertionError(f'not over, and shown is {self.shown!r}')
            self._read(0.05)
        while self._read(0):
            pass
        assert login.code is not None
        return login.code

    def _read(self, seconds: float) -> bool:
        """Take in what is shown within that time; tell whether there was anything."""
        ready = readable(self._keyboard, seconds)
        if ready:
            self._shown += os.read(self._keyboard, 65536)
        return ready
