"""What programs tell the system log, received by the test."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

from tests.harness import machine
from tests.harness.processes import LONG_ENOUGH

if TYPE_CHECKING:
    from typing_extensions import Self


class LogLine(NamedTuple):
    """One syslog message: its priority (facility * 8 + severity), its tag such as `qmail-pwrap[17]`, and the text."""

    priority: int
    tag: str
    text: str

    @property
    def facility(self) -> int:
        return self.priority >> 3

    @property
    def severity(self) -> int:
        return self.priority & 7


class SyslogListener:
    """Receives what programs tell syslog(3) while the `with` block runs. It needs('syslog').

    It listens at /dev/log, where nobody else does: tests of root have a /dev of their own (machine.have_own_dev). Where
    they may not mount that, every program's lines arrive.
    """

    SHAPE = re.compile(r'<(\d+)>(?:\w{3} [ \d]\d \d\d:\d\d:\d\d )?(?:([^\s:]+): ?)?(.*)', re.DOTALL)

    def __init__(self) -> None:
        self._lines: list[LogLine] = []
        self._arrived = threading.Condition()
        self._marks = 0
        self._leaving = False

    def __enter__(self) -> Self:
        # Of several test runs at the same time in one /dev, one can have the log; the others wait here.
        self._turn = os.open('/dev', os.O_RDONLY)
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = os.path.realpath(machine.LOG)
        if os.path.exists(self.path):  # left behind by somebody who is gone
            os.unlink(self.path)
        self._socket.bind(self.path)
        os.chmod(self.path, 0o666)  # the tools log as the user who logged in
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        self._send_mark()
        self._thread.join(LONG_ENOUGH)
        self._socket.close()
        os.unlink(self.path)
        os.close(self._turn)

    def _receive(self) -> None:
        while (datagram := self._socket.recv(65536)) or not self._leaving:
            if not datagram:
                with self._arrived:
                    self._marks += 1
                    self._arrived.notify_all()
                continue
            # Latin-1 gives every byte a character of its own, so a test can look for bytes that should not be there.
            match = self.SHAPE.fullmatch(datagram.rstrip(b'\0\n').decode('latin-1'))
            line = (
                LogLine(int(match[1]), match[2] or '', match[3])
                if match
                else LogLine(-1, '', repr(datagram))
            )
            with self._arrived:
                self._lines.append(line)
                self._arrived.notify_all()

    def _send_mark(self) -> None:
        """Send an empty line, which arrives behind all that was sent before."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b'', self.path)

    def lines(self, tag: str = '') -> list[LogLine]:
        """Return what was sent so far, of programs whose tag begins with `tag`."""
        with self._arrived:
            wanted = self._marks + 1
        self._send_mark()  # which may have to wait until older lines are received
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._marks >= wanted, LONG_ENOUGH):
                raise AssertionError('what was sent to the log does not arrive')
            return [line for line in self._lines if line.tag.startswith(tag)]

    def clear(self) -> None:
        """Forget what was sent so far."""
        self.lines()  # which waits for it
        with self._arrived:
            self._lines.clear()

    def wait_for(self, pattern: str, timeout: float = LONG_ENOUGH) -> LogLine:
        """Return the first line whose text matches the regular expression somewhere, as soon as it arrives."""

        def found() -> LogLine | None:
            return next((line for line in self._lines if re.search(pattern, line.text)), None)

        with self._arrived:
            line = self._arrived.wait_for(found, timeout)
            if line is None:
                seen = '\n'.join(f'{line.priority} {line.tag}: {line.text}' for line in self._lines)
                raise AssertionError(
                    f'no line matching {pattern!r} in the log within {timeout:.0f} s. It has:\n{seen}'
                )
            return line
