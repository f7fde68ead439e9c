"""What the system lacks or refuses: no log, no processes, descriptors or memory left, no /proc,
much load. The verdict is right, or a temporary failure."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import resource
import signal
import socket
import unittest
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from tests.harness import faults, machine
from tests.harness.logins import (
    ACCEPTS,
    QUICK,
    REJECTS,
    SESSION,
    WAYS,
    Case,
    Login,
    Way,
    both_ways,
    read_file,
    wait_until,
)
from tests.harness.machine import needs
from tests.harness.probes import PLAIN
from tests.harness.syslog import SyslogListener
from tests.harness.tools import LOOPS, READS, refuses

# A uid and gid that nobody has, and no other run of the tests: their processes would count against its limits.
NOBODYS = random.randrange(62000, 64000)
NO_PROCESSES = 'cannot run: ' + os.strerror(errno.EAGAIN)
TOO_LITTLE = f'cannot run: {os.strerror(errno.ENOMEM)}|^internal error: '
LOOKUP = b'alice\0\0\0'  # with AUTHORIZED=1, where a tool that reads nothing may accept


def limit(which: int, amount: int) -> Callable[[], None]:
    """Return what sets a limit in a new process."""
    return lambda: resource.setrlimit(which, (amount, amount))


class Wanted(NamedTuple):
    """How a login is to end."""

    code: int
    result: str
    tool: str | None = None
    problem: str | None = None


class SystemCase(Case):
    def setUp(self) -> None:
        super().setUp()
        self.accepts = self.tool('accepts', ACCEPTS)
        self.rejects = self.tool('rejects', REJECTS)

    def conf_of(self, *lines: str, log: str = 'log=stderr') -> dict[str, str]:
        """Write a configuration of its own for one login; return the environment that names it."""
        text = '\n'.join([log, *lines, ''])
        return {'PWRAP_CONF': self.write(f'conf{len(os.listdir(self.folder))}', text)}

    def check(self, login: Login, wanted: Wanted) -> None:
        """A login ends as it is to, with one line about a problem, or none."""
        login.wait()
        self.assertEqual((login.output(1), login.output(2)), (b'', b''))
        fields = login.result()
        self.assertEqual((login.code, fields['result']), wanted[:2], login.log())
        if wanted.tool:
            self.assertEqual(fields['tool'], wanted.tool)
        self.assertEqual(len(login.problems()), 1 if wanted.problem else 0, login.log())
        if wanted.problem:
            self.assertRegex(login.problems()[0], wanted.problem)

    def check_right_or_temporary(
        self, login: Login, wanted: Wanted, too_little: str = TOO_LITTLE
    ) -> None:
        """A login ends as it is to, or with 111 and a line that says what it was short of."""
        login.wait()
        if login.code == 111:
            self.assertEqual(login.result()['result'], 'temporary')
            self.assertRegex(login.problems()[0], too_little)
        else:
            self.check(login, wanted)

    def verdicts(self, log: str) -> Iterator[tuple[Way, dict[str, str], int]]:
        """Yield a way, what names a configuration, and the exit code that it leads to, of logins
        that have something to log."""
        for way in WAYS:
            for tool, code in (
                (self.accepts, way.code),
                (self.rejects, 1),
                (self.path('missing'), 111),
            ):
                yield way, self.conf_of(tool, log=log), code
        yield Way('prog cannot be run', ('/none',), 111), self.conf_of(self.accepts, log=log), 111


class Starting(SystemCase):
    """No tool can be started."""

    def test_what_the_system_says(self) -> None:
        """Whatever keeps a tool from being started, its line says why."""
        logins = []
        for number in (errno.EAGAIN, errno.ENOMEM, errno.ENOENT, errno.EACCES, errno.E2BIG):
            why = os.strerror(number)
            fault = faults.Raises('posix.posix_spawn', 'OSError', (number, why), faults.LOGIN_ONLY)
            command = self.launcher(fault, name=f'launcher{number}')
            login = self.start('true', env=self.conf_of(self.accepts), command=command)
            logins.append((login, f'^{re.escape(self.accepts)}: cannot run: {why}$'))
        for login, problem in logins:
            with self.subTest(problem):
                self.check(login, Wanted(111, 'temporary', self.accepts, problem))

    @both_ways
    def test_no_pipe_can_be_made(self, way: Way) -> None:
        """The login fails temporarily, and the log says what there is too little of."""
        for number in (errno.EMFILE, errno.ENFILE):
            said = os.strerror(number)
            with self.subTest(said):
                fault = faults.Raises('posix.pipe', 'OSError', (number, said), faults.LOGIN_ONLY)
                command = self.launcher(fault)
                login = self.login(*way.prog, env=self.conf_of(self.accepts), command=command)
                self.check(login, Wanted(111, 'temporary', problem=said))

    @needs('root', 'public folder', 'public python')
    def test_what_it_means_for_the_login(self) -> None:
        """Where a tool that refuses was asked before, one that is not there leaves its code to the
        login, as it will never say anything else; where there are no processes left, it is 111."""
        os.chown(self.folder, NOBODYS, NOBODYS)
        last = self.python_tool(
            'last',
            'import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NPROC, (1, 1))\n'
            'os.read(3, 600)\nsys.exit(1)',
        )
        for first, second, code, problem in (
            (self.rejects, self.path('missing'), 1, 'cannot run: No such file'),
            (last, self.accepts, 111, NO_PROCESSES),
        ):
            with self.subTest(problem):
                login = self.login(
                    'true',
                    env=self.conf_of(first, second),
                    before=lambda: machine.become_user(NOBODYS),
                )
                self.check(login, Wanted(code, 'temporary', second, problem))

    @needs('root', 'public folder', 'public python')
    @both_ways
    def test_no_more_processes(self, way: Way) -> None:
        """Where no process can be started the login fails temporarily; one at a time is enough."""
        os.chown(self.folder, NOBODYS, NOBODYS)
        frugal = self.tool('frugal', 'read -r line <&3; exec "$@"')  # no child

        def before(count: int) -> Callable[[], None]:
            def limit_and_become() -> None:
                limit(resource.RLIMIT_NPROC, count)()
                machine.become_user(NOBODYS)

            return limit_and_become

        login = self.login(*way.prog, env=self.conf_of(self.accepts), before=before(1))
        problem = f'^{re.escape(self.accepts)}: {NO_PROCESSES}'
        self.check(login, Wanted(111, 'temporary', self.accepts, problem))
        self.assertEqual(self.ran('accepts'), 0)
        login = self.login(*way.prog, env=self.conf_of(frugal), before=before(2))
        self.check(login, Wanted(way.code, 'accepted', frugal))


class Descriptors(SystemCase):
    """Few descriptors may be open at the same time (RLIMIT_NOFILE)."""

    @both_ways
    def test_seventeen_are_enough(self, way: Way) -> None:
        """With 17 everything works, however long the chain."""
        shifts = self.tool('shifts', 'shift; ' + ACCEPTS)  # its first argument is its own
        for lines, wanted in (
            ([self.accepts], Wanted(way.code, 'accepted', self.accepts)),
            ([self.rejects], Wanted(1, 'rejected', self.rejects)),
            ([*[self.rejects] * 12, self.accepts], Wanted(way.code, 'accepted', self.accepts)),
            ([f'name=quoted {shifts} "a b"'], Wanted(way.code, 'accepted', 'quoted')),
        ):
            with self.subTest(tools=len(lines)):
                before = limit(resource.RLIMIT_NOFILE, 17)
                self.check(self.login(*way.prog, env=self.conf_of(*lines), before=before), wanted)

    def test_too_few_let_nobody_in(self) -> None:
        """With fewer the verdict is right, or a temporary failure that says what was missing,
        wherever Python can start."""
        # No shells here, which need descriptors of their own.
        finds, refuses = machine.program('nice'), machine.program('false')
        sleep = machine.program('sleep')
        short = 0
        for count in range(16, 3, -1):
            before = limit(resource.RLIMIT_NOFILE, count)
            if not starts(self, before):
                continue
            logins = []
            for prog in (['true'], [sleep, '0']):
                env = {**self.conf_of(finds), 'AUTHORIZED': '1'}
                found = self.start(*prog, triple=LOOKUP, env=env, before=before)
                rejected = self.start(*prog, env=self.conf_of(refuses), before=before)
                logins += [
                    (found, Wanted(0, 'found', finds)),
                    (rejected, Wanted(1, 'rejected', refuses)),
                ]
            for login, wanted in logins:
                with self.subTest(count=count, wanted=wanted):
                    self.check_right_or_temporary(login, wanted, 'Too many open files$')
                    short += login.code == 111
        self.assertGreater(short, 3)

    def test_a_session_ends_as_it_does_without_any(self) -> None:
        """Where the wrapper can open nothing any more, days later, when a signal ends the session:
        it ends by that signal all the same."""
        for number in (signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL):
            session = self.python_tool(
                'session',
                'import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n'
                'resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))\n'
                f'os.kill(os.getpid(), {int(number)})',
            )
            with self.subTest(number.name):
                login = self.start(session, env=self.conf_of(self.accepts))
                self.check(login, Wanted(-number, 'accepted', self.accepts))


def starts(case: Case, before: Callable[[], None]) -> bool:
    """Tell whether Python can read the script under these limits: as a report step without
    pipes, the script then ends with 111."""
    try:
        login = case.start('qmail_pwrap.report:', before=before)
        return login.wait(10).code == 111
    except AssertionError:  # short of memory, an interpreter fails in ways of its own, or hangs
        return False


class Memory(SystemCase):
    def test_too_little_lets_nobody_in(self) -> None:
        """With too little memory the verdict is right or a temporary failure, wherever Python can
        read the script."""
        enough = 0
        tried = 0
        for megabytes in range(8, 42, 2):
            before = limit(resource.RLIMIT_AS, megabytes << 20)
            enough = enough + 1 if starts(self, before) else 0
            if enough < 2:  # at the edge, chance decides
                continue
            logins = [
                (way, self.start(*way.prog, env=self.conf_of(self.accepts), before=before))
                for way in WAYS
            ]
            for way, login in logins:
                with self.subTest(megabytes=megabytes, way=way.name):
                    tried += 1
                    # 127 is what the tool's own shell says without memory.
                    if login.wait().code != 127:
                        wanted = Wanted(way.code, 'accepted', self.accepts)
                        self.check_right_or_temporary(login, wanted)
        self.assertGreater(tried, 5)


class NoLog(SystemCase):
    """The log leads nowhere: the exit code is right all the same, and nothing is said elsewhere."""

    def check_verdicts(self, log: str, **options: object) -> None:
        running: list[tuple[str, int, Login]] = []
        for way, environment, code in self.verdicts(log):
            started = self.start(*way.prog, env=environment, **options)  # type: ignore[arg-type]
            running.append((way.name, code, started))
        for name, code, login in running:
            with self.subTest(way=name, code=code):
                self.assertEqual(login.wait().code, code)
                for number in (1, 2):
                    self.assertEqual(read_file(f'{login.folder}/{number}'), b'')

    def test_verdicts_need_no_syslog(self) -> None:
        """Where nobody listens at /dev/log, and nothing is there."""
        if not os.path.exists('/dev/log'):
            self.check_verdicts('log=syslog')
        elif machine.lacks('namespaces'):
            self.skipTest(f'there is a /dev/log, and {machine.lacks("namespaces")}')
        else:
            self.check_verdicts('log=syslog', before=lambda: machine.hide('/dev'))

    @needs('namespaces')
    def test_verdicts_need_nobody_who_listens(self) -> None:
        """Where /dev/log is no socket, or one that nobody listens at any more."""

        def leave_a_file() -> None:
            machine.hide('/dev')
            os.close(os.open('/dev/log', os.O_CREAT | os.O_WRONLY))

        def leave_a_socket() -> None:
            machine.hide('/dev')
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as closed:
                closed.bind('/dev/log')

        for before in (leave_a_file, leave_a_socket):
            with self.subTest(before.__name__):
                self.check_verdicts('log=syslog', before=before)

    def test_verdicts_need_no_descriptor_2(self) -> None:
        """Where log=stderr, and descriptor 2 is closed, broken, full or not to be written to."""
        self.check_verdicts('log=stderr', closed=(2,))
        reader, broken = os.pipe()
        os.close(reader)
        full, filler = os.pipe()
        os.set_blocking(filler, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(filler, bytes(4096)):
                pass
        self.addCleanup(os.close, full)
        for name, descriptor in (
            ('a broken pipe', broken),
            ('a full pipe', filler),
            ('a full disk', os.open('/dev/full', os.O_WRONLY)),
            ('only for reading', os.open(os.devnull, os.O_RDONLY)),
        ):
            self.addCleanup(os.close, descriptor)
            with self.subTest(name):
                self.check_verdicts('log=stderr', descriptors={2: descriptor})

    def test_files_may_not_grow(self) -> None:
        """Where no file may grow (RLIMIT_FSIZE)."""
        for prog in (['true'], [machine.program('sleep'), '0']):
            with self.subTest(prog=prog):
                login = self.login(
                    *prog,
                    env=self.conf_of(PLAIN),
                    before=limit(resource.RLIMIT_FSIZE, 0),
                )
                self.assertEqual((login.code, login.log()), (0, []))

    @needs('root', 'syslog')
    def test_nothing_takes_the_place_of_descriptor_3(self) -> None:
        """Where descriptor 3 is closed and there is something to log before it is read, the log's
        socket is not read as the triple."""
        # Real and effective user differ: PWRAP_CONF is ignored, and that is the first line.
        conf = self.conf_of(self.accepts, log='log=syslog')['PWRAP_CONF']
        command = self.launcher(faults.Replaces('CONFIGURATION', conf))
        with SyslogListener() as listener:
            login = self.start(
                'true',
                triple=None,
                command=command,
                before=lambda: os.setresuid(NOBODYS, 0, 0),
            )
            self.assertEqual(login.wait().code, 2)
            result = listener.wait_for('^result=').text
            first = listener.lines(f'qmail-pwrap[{login.pid}]')[0].text
        self.assertTrue(result.startswith('result=temporary ip=- tool=- code=2 '), result)
        self.assertTrue(first.startswith('PWRAP_CONF is ignored: '), first)


@needs('namespaces')
class WithoutProc(SystemCase):
    """Everything works where /proc is not mounted."""

    def run_cases(self, cases: Iterable[tuple[Sequence[str], Sequence[str], int, str]]) -> None:
        """Run logins at the same time: lines of the configuration, prog, code and result."""
        started = []
        for lines, prog, code, result in cases:
            login = self.start(*prog, env=self.conf_of(*lines), before=machine.hide_proc)
            started.append((code, result, login))
        for code, result, login in started:
            with self.subTest(code=code, result=result):
                self.assertEqual((login.wait().code, login.result()['result']), (code, result))

    def test_verdicts(self) -> None:
        """Each tool has its say, those that hang among them, and a session its end."""
        hangs = self.tool('hangs', 'sleep 600')
        dies = ('/bin/sh', '-c', 'ulimit -c 0; kill -KILL $$')
        self.run_cases(
            (
                ([self.rejects, self.accepts], QUICK.prog, 0, 'accepted'),
                ([self.rejects], QUICK.prog, 1, 'rejected'),
                ([f'timeout=1 {hangs}', self.accepts], QUICK.prog, 0, 'accepted'),
                ([f'timeout=1 {hangs}', self.rejects], SESSION.prog, 1, 'temporary'),
                ([self.rejects, self.accepts], SESSION.prog, 7, 'accepted'),
                ([self.rejects], SESSION.prog, 1, 'rejected'),
                ([self.accepts], dies, -9, 'accepted'),
            )
        )

    def test_signals(self) -> None:
        """A signal reaches the session."""
        session = self.tool('session', f"trap 'exit 40' TERM; : >$dir/ready; {LOOPS}")
        env = self.conf_of(self.accepts)
        login = self.start(session, env=env, before=machine.hide_proc)
        wait_until(lambda: os.path.exists(self.path('ready')) or login.over(), 'ready')
        os.kill(login.pid, signal.SIGTERM)
        self.assertEqual(login.wait().code, 40)

    def test_what_a_tool_leaves(self) -> None:
        """What a tool leaves in the background is left alone, and nobody waits for it."""
        for end, way, code, result in (
            ('exit 1', QUICK, 1, 'rejected'),
            ('exit 1', SESSION, 1, 'rejected'),
            ('exec "$@"', QUICK, 0, 'accepted'),
            ('exec "$@"', SESSION, 7, 'accepted'),
        ):
            leaves = self.tool('leaves', f'{READS}; sleep 600 & echo $! >$dir/left; {end}')
            self.run_cases([([f'timeout=0 {leaves}'], way.prog, code, result)])
            os.kill(int(read_file(self.path('left'))), 0)  # it is there


class Load(SystemCase):
    def logins(self, count: int) -> Iterator[tuple[str, Wanted, Login]]:
        """Start logins with each verdict, in turn, over one chain of three tools."""
        judge = """login=$(tr '\\0' ' ' <&3); exec 3<&-
            case $login in *"@{} right "*) exec "$@";; esac; exit {}"""
        first = self.tool('first', judge.format('a', 1))
        second = self.tool('second', judge.format('b', 1))
        third = self.tool('third', refuses(3))
        session = self.write('mailbox', '#!/bin/sh\nexit $1\n', 0o755)
        environment = self.conf_of(first, second, third)
        for number in range(count):
            domain = 'abc'[number % 3]
            password = 'right' if number % 5 else 'wrong'
            code = 0 if number % 2 else 10 + number % 50
            prog = ['true'] if code == 0 else [session, f'{code}']
            wanted = Wanted(3, 'rejected', third)
            if domain in 'ab' and password == 'right':
                wanted = Wanted(code, 'accepted', first if domain == 'a' else second)
            user = f'u{number}@{domain}'
            triple = f'{user}\0{password}\0t\0'.encode()
            yield user, wanted, self.start(*prog, triple=triple, env=environment)

    def check_each(self, some: Iterable[tuple[str, Wanted, Login]]) -> None:
        for user, wanted, login in some:
            with self.subTest(user=user):
                self.check(login, wanted)
                self.assertEqual(login.result()['user'], user)
                wait_until(login.settle, 'nothing of the login is left')

    def test_many_at_once(self) -> None:
        """Of 100 logins, 25 at a time, each has its own verdict and log line; it leaves nothing."""
        running = []
        for one in self.logins(100):
            running.append(one)
            if len(running) == 25:
                self.check_each(running)
                running = []
        self.assertEqual(running, [])


if __name__ == '__main__':
    unittest.main()
