"""Signals: tool and session have them as the server left them; those sent to the wrapper arrive."""

from __future__ import annotations

import os
import resource
import signal
import unittest
from collections.abc import Callable, Collection
from typing import NamedTuple

from tests.harness.logins import ACCEPTS, REJECTS, alive, read_file, readable, wait_until
from tests.harness.machine import needs
from tests.harness.probes import (
    CATCHER,
    PASSED_ON,
    THE_SESSION,
    THE_TOOL,
    ProbeCase,
    block,
    ignore,
    status_fields,
)
from tests.harness.tools import CRASHES, HANGS, PYTHON_ACCEPTS

ALL = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
CHILD = (signal.SIGCHLD,)
USUAL = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, *CHILD, signal.SIGUSR1)
PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)  # ignored by Python from its start on


def bits(numbers: Collection[int]) -> int:
    """Return the set of these signals as the kernel shows it."""
    return sum(1 << number - 1 for number in numbers)


INTERNAL = bits((32, 33))  # glibc's own: its posix_spawn, and so system and popen, ignore them


class Left(NamedTuple):
    """How a server left the signals."""

    name: str
    change: Callable[..., None]
    numbers: Collection[int]

    def before(self) -> None:
        """In a new process: leave them so."""
        self.change(*self.numbers)


class AsFound(ProbeCase):
    """Dispositions and mask, for the tool and for prog in both ways."""

    @needs('/proc')
    def test_dispositions_and_mask_are_as_found(self) -> None:
        """What was ignored is ignored and what was blocked is blocked, but for three: SIGPIPE and
        SIGXFSZ, of which Python forgets what they were, and SIGCHLD are not ignored."""
        for left in (
            Left('nothing', ignore, ()),
            Left('the usual ones ignored', ignore, USUAL),
            Left('the usual ones blocked', block, USUAL),
            Left('all ignored', ignore, ALL),
            Left('all blocked', block, ALL),
            Left('SIGCHLD ignored', ignore, CHILD),
            Left('SIGCHLD blocked', block, CHILD),
            Left("Python's own ignored", ignore, PYTHONS_OWN),
        ):
            child = bits(CHILD)
            never = bits((*PYTHONS_OWN, *CHILD)) | INTERNAL
            only = () if left.numbers == USUAL else (THE_TOOL, THE_SESSION)
            for view, direct, wrapped in self.views('status', only, before=left.before):
                with self.subTest(left.name, view=view):
                    found, seen = status_fields(direct), status_fields(wrapped)
                    ignored = int(found['SigIgn'], 16) & ~INTERNAL
                    if left.change is ignore:
                        given = bits(left.numbers) & ~child  # perl takes SIGCHLD back, as tool
                        self.assertEqual(ignored & ~child, given, 'the test itself')
                    self.assertEqual(int(seen['SigIgn'], 16) & ~INTERNAL, ignored & ~never)
                    self.assertEqual(seen['SigBlk'], found['SigBlk'])
                    self.assertEqual(seen['SigCgt'], found['SigCgt'])

    @needs('/proc')
    def test_what_was_ignored_is_not_caught(self) -> None:
        """A signal that was ignored stays so in the wrapper, while a tool runs and while a session
        does: sent there, it disturbs nobody."""
        holding = self.holding(code=6)
        for tool, prog in ((holding, 'true'), (holding, 'prog'), (self.yes, holding)):
            self.configure(tool)
            with self.subTest(tool=tool, prog=prog):
                with self.held(prog, before=lambda: ignore(*PASSED_ON)) as login:
                    status = status_fields(read_file(f'/proc/{login.pid}/status'))
                    mask = bits(PASSED_ON)
                    self.assertEqual(int(status['SigIgn'], 16) & mask, mask)
                    self.assertEqual(int(status['SigCgt'], 16) & mask, 0)
                    for number in PASSED_ON:
                        os.kill(login.pid, number)
                self.assertEqual(login.code, 6)

    def test_what_was_blocked_disturbs_nobody(self) -> None:
        """A signal that was blocked ends neither tool nor session when it is sent to the
        wrapper."""
        # In Python, as a shell may unblock signals.
        holding = self.python_tool(
            'holding', "open(READY, 'w').close()\nos.read(0, 1)\nos._exit(6)"
        )
        becomes = self.python_tool('becomes', PYTHON_ACCEPTS)
        for tool, prog in ((holding, 'true'), (holding, 'prog'), (becomes, holding)):
            self.configure(tool)
            with self.subTest(tool=tool, prog=prog):
                with self.held(prog, before=lambda: block(*PASSED_ON)) as login:
                    for number in PASSED_ON:
                        os.kill(login.pid, number)
                self.assertEqual(login.code, 6)

    def test_logins_work_without_sigchld(self) -> None:
        """Verdicts, exit codes and time limits are right where the server ignores or blocks
        SIGCHLD."""
        no, five = self.tool('no', REJECTS), self.tool('five', 'exit 5')
        crash, hangs = self.tool('crash', CRASHES), f'timeout=1 {self.tool("hangs", HANGS)}'
        true, shell = ('true',), ('/bin/sh', '-c')
        cases: list[tuple[list[str], tuple[str, ...], int, str]] = [
            ([no, self.yes], true, 0, 'accepted'),
            ([no, five], true, 5, 'rejected'),
            ([crash], true, 111, 'temporary'),
            ([self.path('missing')], true, 111, 'temporary'),
            ([hangs, self.yes], true, 0, 'accepted'),
            ([no, self.yes], (*shell, 'exit 0'), 0, 'accepted'),
            ([no, self.yes], (*shell, 'exit 7'), 7, 'accepted'),
            ([self.yes], (*shell, 'ulimit -c 0; kill -SEGV $$'), -signal.SIGSEGV, 'accepted'),
            ([five], shell, 5, 'rejected'),
            ([crash, self.yes], (*shell, 'exit 0'), 0, 'accepted'),
            ([hangs, self.yes], (*shell, 'exit 7'), 7, 'accepted'),
        ]
        logins = []
        for left in (Left('ignored', ignore, CHILD), Left('blocked', block, CHILD)):
            for case in cases:
                tools, prog, _, _ = case
                # No end is seen by a time limit.
                login = self.start(*prog, env=self.chain('timeout=0', *tools), before=left.before)
                logins.append((left, login, case))
        for left, login, (tools, prog, code, result) in logins:
            with self.subTest(left.name, tools=tools, prog=prog):
                self.assertEqual(login.wait().code, code)
                self.assertEqual(login.result()['result'], result)


class PassedOn(ProbeCase):
    """Signals that are sent to the wrapper."""

    def test_each_reaches_who_runs(self) -> None:
        """TERM, HUP, INT, QUIT, USR1, USR2 and ALRM reach the tool, which gives no verdict then, or
        the session, whose exit code counts. No further tool is asked."""
        catcher = self.python_tool('catcher', CATCHER)
        self.tool('next', ACCEPTS)
        for who, tool, prog in (
            ('the tool, with prog true', catcher, 'true'),
            ('the tool, before a session', catcher, 'prog'),
            ('the session', self.yes, catcher),
        ):
            self.configure(tool, self.path('next'))
            every = tool == catcher and prog == 'true' or who == 'the session'
            for number in PASSED_ON if every else (signal.SIGTERM, signal.SIGUSR1):
                with self.subTest(who, signal=number.name):
                    with self.held(prog) as login:
                        os.kill(login.pid, number)
                        login.wait()
                    result = login.result()['result']
                    if who == 'the session':
                        self.assertEqual((login.code, result), (40 + number, 'accepted'))
                    else:
                        self.assertEqual((login.code, result), (111, 'temporary'))
                        said = f'{tool}: interrupted, exit code {40 + number}'
                        self.assertEqual(login.problems(), [said])
        self.assertEqual(self.ran('next'), 0)

    def test_before_the_first_tool_is_asked_the_wrapper_dies_of_it(self) -> None:
        """As a tool would that still reads descriptor 3; without a traceback, or a line in the log."""
        self.configure(self.yes)
        for number in PASSED_ON:
            with self.subTest(signal=number.name):
                reader, writer = os.pipe()
                login = self.start('true', triple=reader)
                os.write(writer, b'a')
                wait_until(lambda reader=reader: not readable(reader, 0), 'it reads')  # type: ignore[misc]
                os.kill(login.pid, number)
                self.assertEqual(login.wait().code, -number)
                self.assertEqual(read_file(f'{login.folder}/2'), b'')
                os.close(reader)
                os.close(writer)

    def test_who_dies_of_it(self) -> None:
        """A tool that a signal kills, sent to the wrapper, gave no verdict; a session takes the
        wrapper with it."""
        holding = self.holding()
        self.tool('next', ACCEPTS)
        for tool, prog in ((holding, 'true'), (holding, 'prog'), (self.yes, holding)):
            self.configure(tool, self.path('next'))
            for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGALRM):
                with self.subTest(tool=tool, prog=prog, signal=number.name):
                    with self.held(prog) as login:
                        os.kill(login.pid, number)
                        login.wait()
                    is_session = prog == holding
                    expected = (-number, 'accepted') if is_session else (111, 'temporary')
                    self.assertEqual((login.code, login.result()['result']), expected)
        self.assertEqual(self.ran('next'), 0)

    def test_a_session_gets_every_one(self) -> None:
        """A session that handles signals and goes on gets one after the other, and its code
        counts."""
        session = self.tool(
            'session',
            'for name in TERM HUP INT QUIT USR1 USR2 ALRM; do trap "echo $name" $name; done\n'
            ': >$dir/ready\n'
            'while [ ! -e $dir/go ]; do sleep 0.01; done\n'
            'exit 9',
        )
        with self.held(session) as login:
            for count, number in enumerate(PASSED_ON, 1):
                os.kill(login.pid, number)
                wait_until(
                    lambda count=count: login.output(1).count(b'\n') >= count or login.over(),  # type: ignore[misc]
                    number.name,
                )
            self.write('go', '')
        names = [number.name[3:].encode() for number in PASSED_ON]
        self.assertEqual((login.output(1).split(), login.code), (names, 9))

    def test_others_are_not_the_wrappers_business(self) -> None:
        """A signal that is ignored by default does nothing to the wrapper, nor to tool and
        session."""
        holding = self.holding(code=6)
        for tool, prog in ((holding, 'prog'), (self.yes, holding)):
            self.configure(tool)
            with self.subTest(tool=tool, prog=prog):
                with self.held(prog) as login:
                    for number in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT):
                        os.kill(login.pid, number)
                self.assertEqual((login.code, login.problems()), (6, []))


class KilledSession(ProbeCase):
    """A session that a signal has killed ends the wrapper by the same signal."""

    HARMLESS = (
        *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
        *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGSTOP),
    )
    KILLS_ITSELF = """
import resource, signal
number = int(argv[0])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if number != signal.SIGKILL:
    signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
os.kill(os.getpid(), number)
"""

    def setUp(self) -> None:
        super().setUp()
        os.mkdir(self.path('cores'))

    def may_dump_core(self) -> None:
        """In a new process: let it, in a folder of its own."""
        os.chdir(self.path('cores'))
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    def check(self, session: str, number: int, before: Callable[[], None]) -> None:
        login = self.login(session, str(int(number)), before=before)
        self.assertEqual((login.code, login.dumped_core), (-number, False))
        self.assertEqual(os.listdir(self.path('cores')), [])

    def test_by_each_signal_and_without_a_core_file(self) -> None:
        """Whatever the signal: the server sees it, and no core file of the wrapper is made."""
        session = self.tool('session', 'ulimit -c 0; kill -$1 $$')
        for number in sorted(signal.valid_signals() - set(self.HARMLESS)):
            if number < 32 or number in (signal.SIGRTMIN, signal.SIGRTMAX):
                with self.subTest(signal=number):
                    self.check(session, number, self.may_dump_core)

    def test_also_where_that_was_ignored_or_blocked(self) -> None:
        """The wrapper itself may have it ignored or blocked, as the server left it."""
        session = self.python_tool('session', self.KILLS_ITSELF)
        for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGQUIT, signal.SIGKILL):
            for change in (ignore, block):

                def before(change: Callable[..., None] = change) -> None:
                    self.may_dump_core()
                    change(*ALL)

                with self.subTest(signal=number, change=change.__name__):
                    self.check(session, number, before)

    @needs('/proc')
    def test_also_if_it_dies_while_nobody_looks(self) -> None:
        """The report and the end of the session are found at once, as on a busy machine."""
        waits = f"""
while os.read(3, 512): pass
os.kill(os.getppid(), signal.SIGSTOP)
os.write(int(argv[1].split(':')[1]), argv[1].encode())
{self.KILLS_ITSELF.replace('argv[0]', 'argv[3]')}"""
        tool = self.python_tool('tool', 'import signal\n' + waits)
        self.configure(tool)
        login = self.start('prog', f'{int(signal.SIGSEGV)}', before=self.may_dump_core)
        children = f'/proc/{login.pid}/task/{login.pid}/children'
        wait_until(
            lambda: (
                read_file(children) and not any(map(alive, map(int, read_file(children).split())))
            )
        )
        os.kill(login.pid, signal.SIGCONT)
        self.assert_ends(login, -signal.SIGSEGV, 'accepted', tool)
        self.assertFalse(login.dumped_core)


if __name__ == '__main__':
    unittest.main()
