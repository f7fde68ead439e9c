"""The password stands in pipes, in one place of the wrapper's memory until the login is decided,
and nowhere else: in no file, argument, environment variable or log."""

from __future__ import annotations

import contextlib
import os
import re
import unittest
from collections.abc import Iterator, Sequence

from tests.harness import faults, machine
from tests.harness.logins import (
    ACCEPTS,
    REJECTS,
    Case,
    Login,
    Way,
    both_ways,
    read_file,
    wait_until,
)
from tests.harness.machine import needs
from tests.harness.tools import CRASHES, READY, refuses

SECRET = b'Pw4711Tr1v1alNowhereElse'
TRIPLE = b'alice@example.org\0' + SECRET + b'\0<17.42@mail>\0'
ERROR = 'WordsThatNobodyMaySee'
UNREAD = f'{machine.program("nice")} -n 0'  # a tool that accepts and reads nothing
INTERNAL = faults.Raises('Tool.serves', 'RuntimeError', (ERROR,))

# In the output of strace -f -yy: a process, and a call that began, or went on after others came
# between.
CALL = re.compile(
    r'^(?P<pid>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)$'
)
MAY_HOLD_IT = re.compile(r'(?:readv?|writev?|pread64|pwrite64)\(\d+<pipe:\[\d+\]>, ')
OPENS_FOR_WRITING = re.compile(r'open(?:at|at2)?\(.*(?:O_WRONLY|O_RDWR|O_CREAT)')


class SecretsCase(Case):
    def setUp(self) -> None:
        super().setUp()
        self.accepts = self.tool('accepts', ACCEPTS)
        self.rejects = self.tool('rejects', REJECTS)

    def assert_in_no_file(self) -> None:
        """The password stands in no file of this test's folder, the logs among them."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if not name.startswith('trace'):
                    self.assertNotIn(SECRET, read_file(os.path.join(folder, name)), name)


@needs('strace', '/proc')
class Traced(SecretsCase):
    """Every system call of the wrapper, the tools and the session is looked at."""

    def trace(self, command: Sequence[str]) -> list[str]:
        """Return a command line that notes every system call of a command, as trace0, trace1..."""
        options = ['-f', '-yy', '-v', '-s', '2000', '-o', self.path(f'trace{self.count}')]
        return [machine.program('strace'), *options, '--', *command]

    def calls(self, number: int) -> Iterator[str]:
        """Yield the calls of a trace, also those that were interrupted, once in two parts."""
        begun: dict[str, str] = {}
        for line in read_file(self.path(f'trace{number}')).decode('latin-1').splitlines():
            match = CALL.match(line)
            if not match:  # a signal, or an end
                yield line
                continue
            call = f'{match["call"]}({match["rest"]}'
            if match['resumed']:
                call = begun.pop(match['pid'], '') + match['rest']
            if call.endswith('<unfinished ...>'):
                begun[match['pid']] = call[: -len('<unfinished ...>')]
            yield call

    @both_ways
    def test_system_calls_carry_it_through_pipes_only(self, way: Way) -> None:
        """The password appears in reads of pipes, and in writes to pipes, whether a tool accepts,
        refuses, crashes, times out, cannot be run or does not read it, and when the wrapper itself
        fails."""
        # In Python: a shell's pipe to cat would be one more place.
        reads = 'os.read(3, 600); os.close(3)\n'
        accepts = self.python_tool('py-accepts', f'{reads}os.execvp(argv[0], argv)')
        refuses_ = self.python_tool('py-refuses', f'{reads}sys.exit(1)')
        crashes = self.python_tool('py-crashes', f'{reads}os.kill(os.getpid(), 9)')
        hangs = self.python_tool('py-hangs', f'{reads}import time; time.sleep(1000)')
        short = TRIPLE[: TRIPLE.rindex(b'\0', 0, -1)]
        cases: list[tuple[list[str], bytes, int, int]] = [  # lines, triple, code, writes
            ([refuses_, accepts], TRIPLE, way.code, 2),
            ([refuses_], TRIPLE, 1, 1),
            ([crashes], TRIPLE, 111, 1),
            ([f'timeout=1 {hangs}'], TRIPLE, 111, 1),
            ([UNREAD], TRIPLE, 111, 1),
            ([UNREAD, accepts], TRIPLE, way.code, 2),
            (['/nonexistent/tool'], TRIPLE, 111, 1),
            (['users=bob ' + accepts], TRIPLE, 1, 0),
            (['nonsense'], TRIPLE, 111, 0),
            (['auth=0', accepts], TRIPLE, 0, 0),
            ([accepts], TRIPLE + b'x' * 512, 1, 0),
            ([accepts], short, 2, 0),
            (['name=fault ' + accepts], TRIPLE, 111, 0),
        ]
        started = []
        for lines, triple, code, writes in cases:
            command = self.launcher(INTERNAL) if 'fault' in lines[0] else self.command
            conf = self.write(f'conf{self.count}', '\n'.join(['log=stderr', *lines, '']))
            number = self.count
            login = self.start(
                *way.prog, triple=triple, env={'PWRAP_CONF': conf}, command=self.trace(command)
            )
            started.append((lines, code, writes, number, login))
        for lines, code, writes, number, login in started:
            with self.subTest(lines=lines):
                self.assertEqual(login.wait().code, code, login.log())
                calls = list(self.calls(number))
                holding = [call for call in calls if SECRET.decode() in call]
                self.assertEqual([call for call in holding if not MAY_HOLD_IT.match(call)], [])
                self.assertTrue([call for call in holding if call.startswith('read')])
                written = [call for call in holding if call.startswith('write')]
                self.assertEqual(len(written), writes)
        self.assert_in_no_file()

    def test_makes_no_file(self) -> None:
        """The wrapper opens no file for writing."""
        self.configure('/nonexistent/tool', f'{machine.program("false")}')
        number = self.count
        self.assertEqual(self.login('true', command=self.trace(self.command)).code, 1)
        opening = [call for call in self.calls(number) if OPENS_FOR_WRITING.match(call)]
        self.assertEqual(opening, [])


class Visible(SecretsCase):
    """What others on the machine can see, and what stays."""

    @both_ways
    def test_no_process_has_it_in_arguments_or_environment(self, way: Way) -> None:
        """Neither tool nor prog has the password in its arguments or its environment."""
        shows = 'env >>$dir/seen; for word; do echo "$word" >>$dir/seen; done; '
        self.configure(self.tool('looks', shows + ACCEPTS))
        prog = self.tool('prog', shows)
        link = self.path('bin/true')
        os.symlink(prog, link)
        login = self.login('true' if way.prog[0] == 'true' else prog, triple=TRIPLE)
        self.assertEqual((login.code, self.ran('prog')), (0, 1))
        seen = read_file(self.path('seen'))
        self.assertEqual(seen.count(b'PWRAP_CONF='), 2)
        self.assert_in_no_file()

    @both_ways
    def test_it_is_never_logged(self, way: Way) -> None:
        """It is never logged, wherever the NULs stand, and whatever the tools do."""
        chains = (
            [self.rejects],
            [self.tool('crashes', CRASHES)],
            ['/nonexistent/tool'],
            [self.tool('down', refuses(111)), self.rejects],
            ['nonsense'],
        )
        triples = (
            TRIPLE,
            b'\0' + SECRET + b'\0',
            b'alice\0' + SECRET,
            b'alice ' + SECRET,
            b'alice\0' + SECRET + b'x' * 600,
            SECRET * 30,
        )
        for number, lines in enumerate(chains):
            conf = self.write(f'conf{number}', '\n'.join(['log=stderr', *lines, '']))
            logins = [
                self.start(*way.prog, triple=triple, env={'PWRAP_CONF': conf})
                for triple in triples[: 6 if number == 0 else 2]
            ]
            for login in logins:
                self.assertNotEqual(login.wait().code, 0)
                login.result()
        self.assert_in_no_file()

    @both_ways
    def test_an_internal_error_does_not_tell_it(self, way: Way) -> None:
        """What an error inside the wrapper says is not logged, as it may have the password."""
        self.configure(self.accepts)
        login = self.login(*way.prog, triple=TRIPLE, command=self.launcher(INTERNAL))
        self.assertEqual(login.code, 111)
        [problem] = login.problems()
        self.assertRegex(problem, r'^internal error: RuntimeError in line \d+: please report it$')
        self.assertNotIn(ERROR.encode(), read_file(f'{login.folder}/2'))
        self.assert_in_no_file()


def pages(pid: int) -> Iterator[bytes]:
    """Yield the readable memory of a process, area by area."""
    memory = os.open(f'/proc/{pid}/mem', os.O_RDONLY)
    try:
        for line in read_file(f'/proc/{pid}/maps').splitlines():
            words = line.split()
            if b'r' in words[1] and words[-1] not in (b'[vvar]', b'[vvar_vclock]', b'[vsyscall]'):
                position, end = (int(number, 16) for number in words[0].split(b'-'))
                content = b''
                while position + len(content) < end:
                    at = position + len(content)
                    content += os.pread(memory, min(end - at, 1 << 20), at)
                yield content
    finally:
        os.close(memory)


def is_asleep(pid: int) -> bool:
    """Tell whether a process waits for something."""
    return read_file(f'/proc/{pid}/stat').rpartition(b')')[2].split()[0] == b'S'


def count_in_memory(pid: int, text: bytes) -> int:
    """Return how often a text stands in the memory of a process."""
    return sum(content.count(text) for content in pages(pid))


@needs('/proc')
class Memory(SecretsCase):
    """What somebody finds who may read the wrapper's memory."""

    def setUp(self) -> None:
        super().setUp()
        self.secret = os.urandom(64).hex().encode()
        self.pieces = [self.secret[start : start + 16] for start in range(0, 128, 16)]
        self.triple = TRIPLE.replace(SECRET, self.secret)
        self.session = self.tool('session', READY)

    @contextlib.contextmanager
    def held(self, *prog: str, command: Sequence[str] | None = None) -> Iterator[Login]:
        """Start a login, and hold it where something in it is READY."""
        reader, writer = os.pipe()
        login = self.start(*prog, triple=self.triple, descriptors={0: reader}, command=command)
        os.close(reader)
        ready = self.path('ready')
        try:
            wait_until(lambda: os.path.exists(ready) or login.over(), 'ready')
            self.assertFalse(login.over(), f'ended too early: {login.code} {login.log()}')
            # Until it waits for the tool, the wrapper's memory may still change while it is read.
            wait_until(lambda: is_asleep(login.pid), 'asleep')
            try:
                os.close(os.open(f'/proc/{login.pid}/mem', os.O_RDONLY))
            except PermissionError:
                self.skipTest('the memory of other processes cannot be read here')
            yield login
        finally:
            os.close(writer)
            with contextlib.suppress(FileNotFoundError):
                os.remove(ready)
        login.wait()

    @both_ways
    def test_one_place_while_a_tool_decides(self, way: Way) -> None:
        """While a tool decides, the password stands in the wrapper's memory once, also where what
        an earlier tool has not read came back."""
        holds = self.tool('holds', f'cat <&3 >/dev/null; {READY}; exit 1')
        self.configure(self.rejects, UNREAD, holds)
        with self.held(*way.prog) as login:
            for piece in self.pieces:
                self.assertEqual(count_in_memory(login.pid, piece), 1)

    def test_nowhere_while_a_session_runs(self) -> None:
        """Once a login is accepted, no part of the password is in the wrapper's memory."""
        for name, tools in (
            ('one tool', [self.accepts]),
            ('the third tool', [self.rejects, '/nonexistent/tool', self.accepts]),
        ):
            self.configure(*tools)
            with self.subTest(name), self.held(self.session) as login:
                wait_until(
                    lambda pid=login.pid: not os.listdir(f'/proc/{pid}/fd'),  # type: ignore[misc]
                    'the wrapper has nothing open any more',
                )
                self.assertEqual([count_in_memory(login.pid, one) for one in self.pieces], [0] * 8)
                # The search does find what is there: the login was logged.
                self.assertGreater(count_in_memory(login.pid, b'alice@example.org'), 0)

    def test_nowhere_in_the_environment_of_the_wrapper(self) -> None:
        """Neither arguments nor environment of the wrapper, which others may see, ever have it."""
        self.configure(self.accepts)
        with self.held(self.session) as login:
            for name in ('cmdline', 'environ'):
                self.assertNotIn(self.secret, read_file(f'/proc/{login.pid}/{name}'))


if __name__ == '__main__':
    unittest.main()
