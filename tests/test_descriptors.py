"""Descriptors: tool and prog have those that the server gave, on the same things, and no others."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import unittest
from collections.abc import Collection, Iterator, Sequence

from tests.harness.logins import read_file
from tests.harness.probes import CAT, PROBE, ProbeCase
from tests.harness.tools import PYTHON_ACCEPTS


def identity(descriptor: int) -> tuple[int, int, int]:
    """Return what tells the thing behind a descriptor from others, and its flags."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, fcntl.fcntl(descriptor, fcntl.F_GETFL)


class Descriptors(ProbeCase):
    """A login compared with what the server gave, and with the tool run directly."""

    @contextlib.contextmanager
    def things(self) -> Iterator[Sequence[int]]:
        """Yield descriptors of different kinds: a device, a file, a pipe that does not block, a
        socket."""
        with contextlib.ExitStack() as stack:
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            opened = [
                os.open('/dev/null', os.O_RDWR),
                os.open(self.path('file'), os.O_RDWR | os.O_CREAT | os.O_APPEND),
                reader,
                writer,
            ]
            for number in opened:
                stack.callback(os.close, number)
            ends = [stack.enter_context(end) for end in socket.socketpair()]
            yield [*opened, *(end.fileno() for end in ends)]

    def compare(self, closed: Collection[int], others: Collection[int], tool: str = '') -> None:
        """Compare what prog has open with what the server gave, and with what the tool alone would
        have left."""
        probe, tool = self.python_tool('probe', PROBE), tool or self.yes
        self.configure(tool)
        with self.things() as things:
            numbers = (0, 1, 2, *others)
            given = {number: things[index % len(things)] for index, number in enumerate(numbers)}
            left = {to: identity(thing) for to, thing in given.items() if to not in closed}
            for way in self.ways_to(probe):
                for command in ((tool,), None):
                    with self.subTest(way.name, closed=closed, others=others, command=command):
                        seen = self.probe(
                            *way.prog, descriptors=given, closed=closed, command=command
                        )
                        self.assertEqual(seen['descriptors'], left)

    def test_closed_standard_streams_stay_closed(self) -> None:
        """Whichever of 0, 1 and 2 are closed: prog has the same descriptors on the same things,
        with 4, 9 and 27 among them, 3 closed and nothing added."""
        for bits in range(8):
            self.compare([number for number in (0, 1, 2) if bits >> number & 1], (4, 9, 27))

    def test_no_others_or_all_low_ones(self) -> None:
        """It is the same where nothing else is open, so that 3 is what a new pipe gets, and where
        all low ones are."""
        self.compare((), ())
        self.compare((0, 1, 2), ())
        # Not with a tool in shell: dash leaves its own file open where it gets a number above 9.
        self.compare((), range(4, 32), self.python_tool('becomes', PYTHON_ACCEPTS))

    def test_what_the_tool_changes_stays_changed(self) -> None:
        """Descriptors that a tool opens, closes or replaces before it becomes prog are so in
        prog."""
        probe = self.python_tool('probe', PROBE)
        for name, changes in {
            'closes': 'exec 0<&- 2>&- 9<&-',
            'opens': 'exec 4>/dev/null 5<$dir 8>/dev/null 9</',
            'replaces': 'exec 0</dev/zero 1>/dev/null 2>&1',
        }.items():
            tool = self.tool(name, f'cat <&3 >/dev/null; exec 3<&-; {changes}; exec "$@"')
            self.configure(tool)
            with self.subTest(name), open(os.devnull, 'rb') as null:
                given = {number: null.fileno() for number in (0, 1, 2, 9)}
                direct = self.probe(probe, command=(tool,), descriptors=given)['descriptors']
                self.assertEqual(self.probe(probe, descriptors=given)['descriptors'], direct)
                login = self.login(
                    '/bin/sh', '-c', 'exit 7'
                )  # the report comes through all the same
                self.assertEqual((login.code, login.result()['result']), (7, 'accepted'))

    def test_the_tool_has_what_the_server_gave_and_the_triple(self) -> None:
        """A tool before true finds just the server's descriptors and 3; before a session, the step's two
        ends besides, none of which is below 9: those numbers mean something to shell scripts and to Dovecot."""
        tool = self.python_tool('probe', PROBE + 'os._exit(1)')
        self.configure(tool)
        for prog, more in (('true', 0), ('prog', 2)):
            for closed, others in (((), ()), ((0, 1), (4, 8)), ((2,), (5,)), ((0, 1, 2), ())):
                with self.subTest(prog=prog, closed=closed), open(os.devnull) as null:
                    given = {number: null.fileno() for number in others}
                    login = self.login(prog, closed=closed, descriptors=given)
                    self.assertEqual(login.code, 1)
                    numbers = set(self.look()['descriptors'])
                    server = {0, 1, 2, 3, *others} - set(closed)
                    self.assertEqual(numbers & set(range(9)), server)
                    self.assertEqual(len(numbers - server), more)

    def test_the_clients_streams_are_left_alone(self) -> None:
        """Nothing is read from the client before prog reads, and nothing is written to it."""
        self.write('input', b'USER alice\r\nPASS secret\r\n')
        self.configure(f'{self.yes}')
        for way in self.ways_to(CAT):
            with self.subTest(way.name), open(self.path('input'), 'rb') as client:
                login = self.login(*way.prog, descriptors={0: client.fileno()})
                said = login.code, login.output(1), login.output(2)
                self.assertEqual(said, (0, read_file(self.path('input')), b''))


if __name__ == '__main__':
    unittest.main()
