"""A login, in which the real script is started as a server starts it, in a folder with tools and a configuration."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import unittest
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.harness import faults, machine
from tests.harness.processes import (
    LONG_ENOUGH,
    Process,
    alive,
    read_file,
    readable,
    wait_until,
)
from tests.harness.tools import ACCEPTS, REJECTS

__all__ = [
    'ACCEPTS',
    'LONG_ENOUGH',
    'QUICK',
    'REJECTS',
    'RESULT',
    'SESSION',
    'TRIPLE',
    'WAYS',
    'Case',
    'Login',
    'Said',
    'Way',
    'alive',
    'both_ways',
    'read_file',
    'readable',
    'wait_until',
]

TRIPLE = b'alice@example.org\0secret\0<17.42@mail.example.org>\0'
TEST_LIMIT = 900.0  # seconds for one test

FIELD = r'[!-~]+'
RESULT = re.compile(
    rf'^result=(?P<result>accepted|found|rejected|temporary|disabled|unknown) ip=(?P<ip>{FIELD}) tool=(?P<tool>{FIELD})'
    rf'(?: code=(?P<code>\d+))? ms=(?P<ms>\d+) user="(?P<user>[!#-~]*)"$'
)


class Way(NamedTuple):
    """One of the two ways through the wrapper."""

    name: str
    prog: tuple[str, ...]
    code: int  # with which prog ends, and so the login, if it is accepted


QUICK = Way('prog true', ('true',), 0)  # the tool's exit code says it all
SESSION = Way('a session', ('/bin/sh', '-c', 'exit 7'), 7)  # any other prog: behind the report step
WAYS = (QUICK, SESSION)


def both_ways(test: Callable[[Any, Way], None]) -> Callable[[Any], None]:
    """Run a test once with prog true and once with a session, each time with a folder of its own.

    @both_ways
    def test_something(self, way: Way) -> None:
        login = self.login(*way.prog)
        self.assertEqual(login.code, way.code)
    """

    @functools.wraps(test)
    def on_both(self: Case) -> None:
        for way in WAYS:
            if way is not WAYS[0]:
                self.begin_again()
            with self.subTest(way=way.name):
                test(self, way)

    return on_both


class Login(Process):
    """A started login. code is its exit code, or minus the signal that ended it, once over() or wait() has said so."""

    folder: str  # with the files 1 and 2, which are its descriptors

    def output(self, number: int) -> bytes:
        """Return what stands on descriptor 1 or 2 so far, without the log."""
        text = read_file(f'{self.folder}/{number}')
        return b''.join(
            line for line in text.splitlines(True) if not line.startswith(b'qmail-pwrap[')
        )

    def log(self) -> list[str]:
        """Return the lines logged so far to descriptor 2, without their prefix."""
        lines = read_file(f'{self.folder}/2').decode('utf-8', 'backslashreplace').split('\n')
        return [
            re.sub(r'^qmail-pwrap\[\d+\]: ', '', line)
            for line in lines
            if line.startswith('qmail-pwrap[')
        ]

    def problems(self) -> list[str]:
        """Return the logged lines but the result."""
        return [line for line in self.log() if 'result=' not in line]

    def result(self) -> dict[str, str]:
        """Return the fields of the one result line; AssertionError if there is not exactly one well formed."""
        lines = [line for line in self.log() if 'result=' in line]
        match = RESULT.match(lines[0]) if len(lines) == 1 else None
        if not match or len(lines[0]) >= 1000:
            raise AssertionError(f'not one well formed result line: {self.log()}')
        return match.groupdict()


class Said(NamedTuple):
    """What a command said to a person."""

    code: int | None
    output: str
    errors: str


class Case(unittest.TestCase):
    """A test with a folder of its own, for tools, a configuration and the logins that use them."""

    command: Sequence[str]  # what a server is told to run

    def setUp(self) -> None:
        self.command = (machine.command(),)
        self.addCleanup(os.umask, os.umask(0o022))
        self._limit_time()
        self.folder = machine.make_folder('pwrap-test-')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.conf = self.path('pwrap.conf')
        os.mkdir(self.path('bin'))  # first on PATH
        self._processes: list[Process] = []
        self.count = 0

    def _limit_time(self) -> None:
        """Have an exception in this test should it wait for ever."""

        def late(*_: object) -> None:
            raise AssertionError(f'the test is not over after {TEST_LIMIT:.0f} s')

        with contextlib.suppress(ValueError):  # not in the main thread
            self.addCleanup(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, late))
            signal.setitimer(signal.ITIMER_REAL, TEST_LIMIT)
            self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)

    def begin_again(self) -> None:
        """End all that this test has started, and set it up anew."""
        self.tearDown()
        self.doCleanups()
        self.setUp()

    # Files

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> str:
        """Write a file into the folder, as a whole, by rename; return its path."""
        path = self.path(name)
        with open(path + '.new', 'wb') as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(path + '.new', mode)
        os.rename(path + '.new', path)
        return path

    def tool(self, name: str, body: str) -> str:
        """Make a tool of a few lines of shell; return its path. It notes in NAME.ran that it ran; body finds the
        folder in $dir."""
        return self.write(
            name, f'#!/bin/sh\ndir={self.folder}; echo $$ >>$dir/{name}.ran\n{body}\n', 0o755
        )

    def python_tool(self, name: str, body: str) -> str:
        """Make a tool of a few lines of Python, with os and sys imported, and prog in argv; return its path."""
        head = f'#!{machine.PYTHON} -IS\nimport os, sys\nargv = sys.argv[1:]\n'
        return self.write(name, f'{head}{body}\n', 0o755)

    def ran(self, name: str) -> int:
        """Return how often a tool ran."""
        try:
            return len(read_file(self.path(name + '.ran')).splitlines())
        except FileNotFoundError:
            return 0

    def configure(self, *lines: str) -> None:
        """Write the configuration: these lines, below log=stderr."""
        self.write('pwrap.conf', '\n'.join(['log=stderr', *lines]) + '\n')

    def launcher(self, *given: faults.Fault, name: str = 'launcher') -> tuple[str, ...]:
        """Return a command that runs the script with faults inside, in its place."""
        return (faults.make_launcher(self.path(name), machine.SCRIPT, given),)

    # Processes

    def ways_to(self, prog: str) -> Iterator[Way]:
        """Yield a program as the prog of both ways: by the name true, which the tool finds first on PATH, and by its
        path."""
        link = self.path('bin/true')
        with contextlib.suppress(FileNotFoundError):
            os.remove(link)
        os.symlink(prog, link)
        yield QUICK
        yield Way(SESSION.name, (prog,), 0)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the small environment that a login gets, and more."""
        return {
            'PATH': f'{self.path("bin")}:{machine.SYSTEM_PATH}',
            'PWRAP_CONF': self.conf,
            **more,
        }

    def run_process(self, process: Process) -> None:
        """Have a process end with this test."""
        self.addCleanup(process.end)
        self._processes = [one for one in self._processes if not one.settle()] + [process]

    def start(
        self,
        *prog: str,
        triple: bytes | int | None = TRIPLE,
        command: Sequence[str] | None = None,
        env: Mapping[Any, Any] | None = None,
        whole_env: Mapping[Any, Any] | None = None,
        descriptors: Mapping[int, int] | None = None,
        closed: Collection[int] = (),
        before: Callable[[], object] | None = None,
    ) -> Login:
        """Start a login as a server does.

        Descriptor 3 is a pipe with the triple (or, if triple is a number, that descriptor, or closed if it is None), 0
        is /dev/null, 1 and 2 are files. descriptors, a dictionary by number, replaces or adds some, closed closes some.
        env is added to a small environment, which whole_env replaces. before() is called in the new process.
        """
        self.count += 1
        folder = self.path(f'login{self.count}')
        os.mkdir(folder)
        words = [*(self.command if command is None else command), *prog]
        environment = {**self.environment(), **(env or {})} if whole_env is None else whole_env
        if {machine.SCRIPT, machine.command()} & {*words} and not {
            'PWRAP_CONF',
            b'PWRAP_CONF',
        } & environment.keys():
            raise AssertionError(
                'without PWRAP_CONF this would read the configuration of the machine'
            )
        mine = [os.open(os.devnull, os.O_RDONLY)]
        try:
            for number in (1, 2):
                mine.append(
                    os.open(f'{folder}/{number}', os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                )
            given = dict(enumerate(mine))
            given.update(descriptors or {})
            if isinstance(triple, bytes):
                reader, writer = os.pipe()
                mine.append(reader)
                os.write(writer, triple)
                os.close(writer)
                triple = reader
            if triple is not None:
                given[3] = triple
            given = {to: number for to, number in given.items() if to not in closed}
            login = Login(words, environment, given, self.folder, before)
        finally:
            for number in mine:
                os.close(number)
        login.folder = folder
        self.run_process(login)
        return login

    def login(self, *prog: str, **options: Any) -> Login:
        """Start a login, with the options of start(), and wait for its end."""
        return self.start(*prog, **options).wait()

    def assert_ends(
        self,
        login: Login,
        code: int,
        result: str,
        tool: str | None = None,
        problem: str | None = None,
    ) -> None:
        """Wait for the end of a login: with this exit code, with one result line that says this and names this tool,
        and with one line about a problem that matches, or none."""
        fields = login.wait().result()
        self.assertEqual((login.code, fields['result']), (code, result), login.log())
        shown = None if result in ('accepted', 'found', 'disabled') else str(code)
        self.assertEqual(fields['code'], shown, login.log())
        if tool is not None:
            self.assertEqual(fields['tool'], tool, login.log())
        self.assertEqual(len(login.problems()), 1 if problem else 0, login.log())
        if problem:
            self.assertRegex(login.problems()[0], problem)

    def say(self, *words: str, given: bytes = b'', **options: Any) -> Said:
        """Run the command as a person does, with given on its standard input and descriptor 3 closed."""
        name = f'given{self.count}'
        with open(self.write(name, given), 'rb') as reader:
            descriptors = {0: reader.fileno(), **options.pop('descriptors', {})}
            login = self.login(*words, triple=None, descriptors=descriptors, **options)
        output, errors = (read_file(f'{login.folder}/{number}').decode() for number in (1, 2))
        return Said(login.code, output, errors)

    def run_program(
        self, *words: str, given: bytes = b'', seconds: float = LONG_ENOUGH, **more: str
    ) -> Said:
        """Run a program of the system to its end, with output and errors together; AssertionError if it takes too
        long."""
        output = self.path('program.output')
        source = self.write('program.input', given)
        with open(source, 'rb') as reader, open(output, 'wb') as writer:
            descriptors = {0: reader.fileno(), 1: writer.fileno(), 2: writer.fileno()}
            path = machine.program(words[0]) or words[0]
            process = Process(
                [path, *words[1:]], self.environment(**more), descriptors, self.folder
            )
        self.run_process(process)
        process.wait(seconds)
        process.end()
        return Said(process.code, read_file(output).decode('utf-8', 'backslashreplace'), '')
