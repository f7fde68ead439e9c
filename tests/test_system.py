"""What the system lacks or refuses: no log, no processes, descriptors or memory left, no /proc,
much load. The verdict is right, or a temporary failure."""

from __future__ import annotations

import contextlib
import errno
import os
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
from tests.harness.syslog import SyslogListener
from tests.harness.tools import READY, refuses

NOBODYS = 64123  # a uid and gid that nobody has: no other process counts against its limits
SCRIPT = machine.import_script()
TOO_LITTLE = r'cannot be started: |^internal error: '


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

    def check_right_or_temporary(self, login: Login, wanted: Wanted) -> None:
        """A login ends as it is to, or with 111 and a line that says what it was short of."""
        login.wait()
        if login.code == 111:
            self.assertEqual(login.result()['result'], 'temporary')
            self.assertRegex(login.problems()[0], TOO_LITTLE)
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
        """Too little of something is temporary; a tool that cannot be run is no verdict either."""
        tool = SCRIPT.Tool(1, ['/t'], dict(SCRIPT.DEFAULTS))
        for number in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            outcome = SCRIPT.judge_failed_start(tool, OSError(number, os.strerror(number)))
            with self.subTest(os.strerror(number)):
                self.assertEqual((outcome.verdict, outcome.code), ('temporary', 111))
                self.assertEqual(outcome.problem, f'cannot be started: {os.strerror(number)}')
                self.assertEqual(outcome.tool, '/t')
        for number in (
            errno.ENOENT,
            errno.EACCES,
            errno.ENOEXEC,
            errno.ENOTDIR,
            errno.ELOOP,
            errno.ENAMETOOLONG,
            errno.EPERM,
            errno.E2BIG,
            errno.ETXTBSY,
            errno.EIO,
        ):
            outcome = SCRIPT.judge_failed_start(tool, OSError(number, os.strerror(number)))
            with self.subTest(os.strerror(number)):
                self.assertEqual((outcome.verdict, outcome.code), ('cannot run', 111))
                self.assertEqual(outcome.problem, f'cannot run: {os.strerror(number)}')

    @both_ways
    def test_what_cannot_be_started_is_a_temporary_failure(self, way: Way) -> None:
        """Where starting fails for want of something, the login is a temporary failure."""
        for target in ('posix.posix_spawn', 'posix.pipe'):
            for number in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE):
                with self.subTest(target, error=os.strerror(number)):
                    arguments = (number, os.strerror(number))
                    fault = faults.Raises(target, 'OSError', arguments, faults.LOGIN_ONLY)
                    environment = self.conf_of(self.accepts)
                    login = self.login(*way.prog, env=environment, command=self.launcher(fault))
                    wanted = Wanted(111, 'temporary', problem=TOO_LITTLE)
                    self.check(login, wanted)

    @needs('root', 'public folder', 'public python')
    @both_ways
    def test_no_more_processes(self, way: Way) -> None:
        """Where no process can be started the login fails temporarily; one at a time is enough."""
        os.chown(self.folder, NOBODYS, NOBODYS)
        frugal = self.tool('frugal', 'exec "$@"')

        def before(count: int) -> Callable[[], None]:
            def limit_and_become() -> None:
                limit(resource.RLIMIT_NPROC, count)()
                machine.become_user(NOBODYS)

            return limit_and_become

        login = self.login(*way.prog, env=self.conf_of(self.accepts), before=before(1))
        problem = '^' + re.escape(self.accepts) + ': cannot be started: '
        self.check(login, Wanted(111, 'temporary', self.accepts, problem))
        self.assertEqual(self.ran('accepts'), 0)
        login = self.login(*way.prog, env=self.conf_of(frugal), before=before(2))
        self.check(login, Wanted(way.code, 'accepted', frugal))


class Descriptors(SystemCase):
    """Few descriptors may be open at the same time (RLIMIT_NOFILE)."""

    @both_ways
    def test_sixteen_are_enough(self, way: Way) -> None:
        """With 16 everything works, however long the chain."""
        shifts = self.tool('shifts', 'shift; ' + ACCEPTS)  # its first argument is its own
        for lines, wanted in (
            ([self.accepts], Wanted(way.code, 'accepted', self.accepts)),
            ([self.rejects], Wanted(1, 'rejected', self.rejects)),
            ([*[self.rejects] * 12, self.accepts], Wanted(way.code, 'accepted', self.accepts)),
            ([f'name=quoted {shifts} "a b"'], Wanted(way.code, 'accepted', 'quoted')),
        ):
            with self.subTest(tools=len(lines)):
                before = limit(resource.RLIMIT_NOFILE, 16)
                self.check(self.login(*way.prog, env=self.conf_of(*lines), before=before), wanted)

    def test_too_few_let_nobody_in(self) -> None:
        """With fewer the verdict is right or a temporary failure, wherever Python can start."""
        # No shells here, which need descriptors of their own.
        accepts, refuses = machine.program('nice'), machine.program('false')
        sleep = machine.program('sleep')
        tried = 0
        for count in range(15, 3, -1):
            before = limit(resource.RLIMIT_NOFILE, count)
            if not starts(self, before):
                continue
            logins = [
                (wanted, self.start(*prog, env=self.conf_of(tool), before=before))
                for prog in (['true'], [sleep, '0'])
                for tool, wanted in (
                    (accepts, Wanted(0, 'accepted', accepts)),
                    (refuses, Wanted(1, 'rejected', refuses)),
                )
            ]
            for wanted, login in logins:
                with self.subTest(count=count, wanted=wanted):
                    self.check_right_or_temporary(login, wanted)
                    tried += 1
        self.assertGreater(tried, 15)


def starts(case: Case, before: Callable[[], None]) -> bool:
    """Tell whether Python can read the script under these limits: as a report step that does not
    know its own argument, the script then ends with 111."""
    try:
        login = case.start('qmail_pwrap.report', before=before)
        return login.wait(10).code == 111
    except AssertionError:  # short of memory, an interpreter fails in ways of its own, or hangs
        return False


class Memory(SystemCase):
    def test_too_little_lets_nobody_in(self) -> None:
        """With too little memory the verdict is right or a temporary failure, wherever Python can
        read the script."""
        enough = 0
        tried = 0
        for megabytes in range(8, 41):
            before = limit(resource.RLIMIT_AS, megabytes << 20)
            enough = enough + 1 if starts(self, before) else 0
            if enough < 3:  # at the edge, chance decides
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
        self.assertGreater(tried, 10)


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
                    env=self.conf_of(machine.program('nice')),
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
                command=listener.command(command),
                before=lambda: os.setresuid(NOBODYS, 0, 0),
            )
            self.assertEqual(login.wait().code, 2)
            result = listener.wait_for('^result=').text
            first = listener.lines(f'qmail-pwrap[{login.pid}]')[0].text
        self.assertTrue(result.startswith('result=temporary ip=- tool=- code=2 '), result)
        self.assertTrue(first.startswith('PWRAP_CONF is ignored: '), first)


class OtherSystems(SystemCase):
    """What Linux has and others have not."""

    def check_everything(
        self, command: Sequence[str] | None = None, before: Callable[[], object] | None = None
    ) -> None:
        """Go through what has to work on every system."""
        hangs = self.tool('hangs', 'sleep 600')
        dies = ('/bin/sh', '-c', 'ulimit -c 0; kill -KILL $$')
        cases: list[tuple[list[str], tuple[str, ...], int, str]] = [
            ([self.rejects, self.accepts], QUICK.prog, 0, 'accepted'),
            ([self.rejects], QUICK.prog, 1, 'rejected'),
            ([f'timeout=1 {hangs}', self.accepts], QUICK.prog, 0, 'accepted'),
            ([f'timeout=1 {hangs}', self.rejects], SESSION.prog, 1, 'temporary'),
            ([self.rejects, self.accepts], SESSION.prog, 7, 'accepted'),
            ([self.rejects], SESSION.prog, 1, 'rejected'),
            ([self.accepts], dies, -9, 'accepted'),
        ]
        started = []
        for lines, prog, code, result in cases:
            environment = self.conf_of(*lines)
            login = self.start(*prog, env=environment, command=command, before=before)
            started.append((code, result, login))
        for code, result, login in started:
            with self.subTest(code=code, result=result):
                self.assertEqual((login.wait().code, login.result()['result']), (code, result))
        # A signal reaches the session.
        session = self.tool('session', f"trap 'exit 40' TERM; {READY}")
        reader, writer = os.pipe()
        with open(reader, 'rb') as given, open(writer, 'wb'):
            login = self.start(
                session,
                env=self.conf_of(self.accepts),
                command=command,
                before=before,
                descriptors={0: given.fileno()},
            )
            wait_until(lambda: os.path.exists(self.path('ready')) or login.over(), 'ready')
            os.kill(login.pid, signal.SIGTERM)
            self.assertEqual(login.wait().code, 40)
        # What a tool leaves in the background is left alone, and nobody waits for it.
        for end, prog, code in (
            ('exit 1', QUICK.prog, 1),
            ('exit 1', SESSION.prog, 1),
            ('exec "$@"', QUICK.prog, 0),
            ('exec "$@"', SESSION.prog, 7),
        ):
            leaves = self.tool('leaves', f'sleep 600 & echo $! >$dir/left; {end}')
            environment = self.conf_of(f'timeout=0 {leaves}')
            with self.subTest(end=end, prog=prog):
                login = self.login(*prog, env=environment, command=command, before=before)
                self.assertEqual(login.code, code)
                os.kill(int(read_file(self.path('left'))), 0)  # it is there

    def test_without_pidfd(self) -> None:
        """Everything works where there is nothing of pidfd."""
        names = ('posix.pidfd_open', '_signal.pidfd_send_signal')
        self.check_everything(self.launcher(*(faults.Removes(name) for name in names)))

    @needs('namespaces')
    def test_without_proc(self) -> None:
        """Everything works where /proc is not mounted."""
        self.check_everything(before=machine.hide_proc)


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
        """Of 200 logins, 25 at a time, each has its own verdict and log line; it leaves nothing."""
        running = []
        for one in self.logins(200):
            running.append(one)
            if len(running) == 25:
                self.check_each(running)
                running = []
        self.assertEqual(running, [])


if __name__ == '__main__':
    unittest.main()
