"""Descriptor 3: every tool reads exactly the bytes that the server wrote, if they are a triple."""

from __future__ import annotations

import array
import fcntl
import os
import random
import socket
import termios
from collections.abc import Iterator, Sequence

from tests.harness.logins import (
    ACCEPTS,
    TRIPLE,
    Case,
    Login,
    Way,
    both_ways,
    read_file,
    wait_until,
)
from tests.harness.tools import records

TRIPLES = [
    TRIPLE,
    b'a\0b\0',
    b'\0b\0',
    b'\0b\0\0',
    b'a\0b\0c\0more\0and more',
    b'a\0b\0no end',
    b'a\0b\0\0\0\0',
    b'a\0 \0',
    bytes(range(1, 256)) + b'\0\xff\n\0\n\0',
    b'x' * 300 + b'\0' + b'y' * 210 + b'\0',
    b'a\0' + b'b' * 509 + b'\0',
    b'a\0b\0' + b'c' * 508,
]
AT_ONCE = 6  # logins
REFUSED = [  # verdict and code, and what is no triple
    ('rejected', 1, 'one byte too long', b'a' * 510 + b'\0b\0'),
    ('rejected', 1, 'too long behind a triple', b'a\0b\0' + b'x' * 509),
    ('rejected', 1, 'much too long', b'a\0b\0' + b'x' * 60000),
    ('rejected', 1, 'too long without a NUL', b'a' * 513),
    ('rejected', 1, 'the NUL is the first byte too much', b'a' * 512 + b'\0'),
    ('rejected', 1, 'nothing but NULs', b'\0' * 600),
    ('rejected', 1, 'a long password', b'a\0' + b'b' * 600 + b'\0'),
    ('temporary', 2, 'nothing', b''),
    ('temporary', 2, 'no NUL', b'alice'),
    ('temporary', 2, 'one NUL', b'alice\0'),
    ('temporary', 2, 'a password without its end', b'alice\0secret'),
    ('temporary', 2, 'only a NUL', b'\0'),
    ('temporary', 2, 'as long as can be', b'a' * 300 + b'\0' + b'b' * 211),
]


def generated_triples(count: int) -> Iterator[bytes]:
    """Yield triples of any bytes: at most 512, with two fields or more and a password."""
    source = random.Random(11)
    special = [
        *(b'', b'"', b"'", b'\n', b'\r\n', b'\\', b'%s%n', b'$(id)', b'`id`', b' ', b'-', b'--'),
        *(b'\x1b[2J', b'\xff\xfe', b'result=accepted', 'äöü'.encode(), b'*', b'alice@example.org'),
        *(b'\x80', b'\x7f', b'\x01', b'='),
    ]

    def some_bytes(length: int) -> bytes:
        return bytes(source.choices(range(1, 256), k=length))

    def field() -> bytes:
        parts = range(source.randrange(4))
        return b''.join(
            source.choice(special) if source.random() < 0.5 else some_bytes(source.randrange(20))
            for _ in parts
        )

    for number in range(count):
        fields = [field() for _ in range(source.choice((2, 3, 3, 3, 4, 9)))]
        fields[1] = fields[1] or b'p'
        triple = b'\0'.join(fields) + b'\0'
        if number % 7 == 0:  # more behind the last NUL
            triple += some_bytes(source.randrange(30))
        if number % 11 == 0:  # as long as can be
            triple = some_bytes(max(0, 512 - len(triple))) + triple
        yield triple[:512] if triple[:512].count(0) >= 2 else b'a\0b\0'


class Bytes(Case):
    @both_ways
    def test_every_tool_reads_what_the_server_wrote(self, way: Way) -> None:
        """Whatever bytes these are: the first tool and those behind it, to the end of descriptor 3."""
        chain = [
            self.tool('first', 'cat <&3 >"$RECORD.1"; exit 1'),
            self.tool('second', 'cat <&3 >"$RECORD.2"; exec 3<&-; exec "$@"'),
        ]
        self.configure(*chain)
        triples = [*TRIPLES, *generated_triples(24)]
        lengths = {len(triple) for triple in triples}
        self.assertTrue(min(lengths) < 10 and max(lengths) == 512, 'a lopsided test')
        for first in range(0, len(triples), AT_ONCE):
            some = triples[first : first + AT_ONCE]
            names = [self.path(f'record{number}') for number in range(len(some))]
            logins = [
                self.start(*way.prog, triple=triple, env={'RECORD': name})
                for triple, name in zip(some, names)
            ]
            for triple, name, login in zip(some, names, logins):
                with self.subTest(triple=triple):
                    self.assert_ends(login, way.code, 'accepted', chain[-1])
                    seen = [read_file(f'{name}.{number}') for number in (1, 2)]
                    self.assertEqual(seen, [triple, triple])

    def test_a_verdict_is_that_of_the_tool_run_directly(self) -> None:
        """A tool that decides by what it reads decides behind the wrapper as without it."""
        judge = self.write(
            'judge',
            '#!/bin/sh\n'
            'read -r line <&3; exec 3<&-\n'
            'case ${#line} in *[0-4]) exec "$@" ;; *[56]) exit 1 ;; *7) exit 111 ;; esac\n'
            'exit 100\n',
            0o755,
        )
        self.configure(judge)
        codes = set()
        prog = ('/bin/sh', '-c', 'exit 7')
        for triple in generated_triples(20):
            with self.subTest(triple=triple):
                direct = self.start(*prog, triple=triple, command=[judge])
                wrapped = self.start(*prog, triple=triple)
                self.assertEqual(direct.wait().code, wrapped.wait().code)
                codes.add(wrapped.code)
        self.assertEqual(codes, {7, 1, 111, 100})


class Limits(Case):
    def test_at_most_513_bytes_are_read(self) -> None:
        """What is beyond stays where it is: 513 tell that it is too long."""
        self.configure('/nonexistent/tool')
        reader, writer = os.pipe()
        with open(reader, 'rb') as left, open(writer, 'wb') as given:
            given.write(b'a\0b\0' + b'x' * 2000)
            given.close()
            self.assert_ends(self.start('true', triple=reader), 1, 'rejected', '-')
            self.assertEqual(len(left.read()), 2004 - 513)

    @both_ways
    def test_no_tool_sees_what_is_no_triple(self, way: Way) -> None:
        """More than 512 bytes are rejected with 1. Fewer than two fields are the server's mistake:
        2, but temporary, so that nobody is banned for it. The log has one line, descriptors 1 and 2
        nothing."""
        yes = self.tool('yes', ACCEPTS)
        for verdict, code, name, data in REFUSED:
            self.configure(yes)
            with self.subTest(name):
                login = self.start(*way.prog, triple=data)
                self.assert_ends(login, code, verdict, '-')
                self.assertEqual((login.output(1), login.output(2)), (b'', b''))
        self.assertEqual(self.ran('yes'), 0)

    @both_ways
    def test_without_a_descriptor_3_that_can_be_read(self, way: Way) -> None:
        """It is the server's mistake: 2, temporary. One line says why, and no tool runs."""
        yes = self.tool('yes', ACCEPTS)
        self.configure(yes)
        folder = os.open('/', os.O_RDONLY)
        writing = os.open(self.write('file', ''), os.O_WRONLY)
        for number in (folder, writing):
            self.addCleanup(os.close, number)
        for name, descriptor, why in (
            ('closed', None, 'Bad file descriptor'),
            ('a folder', folder, 'Is a directory'),
            ('only for writing', writing, 'Bad file descriptor'),
        ):
            with self.subTest(name):
                login = self.start(*way.prog, triple=descriptor)
                problem = f'^descriptor 3 is not open, or cannot be read: {why}$'
                self.assert_ends(login, 2, 'temporary', '-', problem)
                self.assertEqual((login.output(1), login.output(2)), (b'', b''))
        self.assertEqual(self.ran('yes'), 0)

    def test_a_broken_file_does_not_hide_it(self) -> None:
        """What is no triple ends as it does whatever the configuration says."""
        for lines in (('nonsense',), ()):
            for verdict, code, name, data in REFUSED[::4]:
                with self.subTest(name, lines=lines):
                    self.configure(*lines)
                    self.assert_ends(self.start('true', triple=data), code, verdict, '-')


class Kinds(Case):
    """A pipe, a socket or a file, blocking or not; at once or in pieces."""

    KINDS = ('pipe', 'socket', 'file', 'non-blocking pipe', 'non-blocking socket')

    def setUp(self) -> None:
        super().setUp()
        self.tool_that_keeps = self.tool('keeps', records('seen'))
        self.configure(self.tool_that_keeps)

    def start_sending(self, kind: str, pieces: Sequence[bytes]) -> Login:
        """Start a login that gets these pieces one by one, each only after the one before was
        read."""
        writer = None
        if kind == 'file':
            name = self.write(f'triple{self.count}', b''.join(pieces))
            reader = os.open(name, os.O_RDONLY)
        elif kind.endswith('socket'):
            reader, writer = (end.detach() for end in socket.socketpair())
        else:
            reader, writer = os.pipe()
        os.set_blocking(reader, not kind.startswith('non-blocking'))
        login = self.start('true', triple=reader)
        unread = array.array('i', [0])

        def was_read() -> bool:
            fcntl.ioctl(reader, termios.FIONREAD, unread)
            return not unread[0] or login.over()

        if writer is not None:
            for piece in pieces:
                os.write(writer, piece)
                wait_until(was_read, 'the piece was read')
            os.close(writer)
        os.close(reader)
        return login

    def test_however_it_arrives(self) -> None:
        """The tool gets the bytes."""
        long = b'u' * 490 + b'\0' + b'p' * 19 + b'\0' + b'\n'
        for kind in self.KINDS:
            for name, pieces in (
                ('at once', [TRIPLE]),
                ('byte by byte', [bytes([byte]) for byte in b'a\0bcd\0e\0']),
                (
                    'at the NULs',
                    [b'alice@example.org\0', b'secret\0', b'<17.42@mail.example.org>\0'],
                ),
                ('within a field', [b'alice', b'@example.org\0sec', b'ret\0']),
                ('512 bytes', [long[:300], long[300:]]),
            ):
                with self.subTest(kind, pieces=name):
                    login = self.start_sending(kind, pieces)
                    self.assert_ends(login, 0, 'accepted', self.tool_that_keeps)
                    self.assertEqual(read_file(self.path('seen')), b''.join(pieces))

    def test_what_is_no_triple_in_pieces(self) -> None:
        """The limits count for the whole."""
        for kind in self.KINDS:
            for name, pieces, code, verdict in (
                ('too long', [b'a' * 200, b'a' * 300, b'\0b\0', b'a' * 20], 1, 'rejected'),
                ('no second field', [b'alice', b'\0'], 2, 'temporary'),
                ('an open field', [b'a\0', b'secret'], 2, 'temporary'),
            ):
                with self.subTest(kind, pieces=name):
                    login = self.start_sending(kind, pieces)
                    self.assert_ends(login, code, verdict, '-')
        self.assertEqual(self.ran('keeps'), 0)
