"""Process groups: where tool and session stand, how a tool is ended, what it leaves behind; and how the
wrapper waits."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import termios
import unittest
from collections.abc import Callable

from tests.harness import machine
from tests.harness.logins import (
    QUICK,
    REJECTS,
    SESSION,
    Login,
    Way,
    alive,
    both_ways,
    read_file,
    readable,
    wait_until,
)
from tests.harness.machine import needs
from tests.harness.probes import CATCHER, PASSED_ON, PROBE, ProbeCase
from tests.harness.tools import FORKS, HANGS, PYTHON_BECOMES, READS

LEADERS: tuple[Callable[[], object] | None, ...] = (None, os.setpgrp, os.setsid)  # for before=


def be_alone() -> None:
    """Be the last in a process group whose leader is gone, as in a shell's `printf ... | WRAPPER`."""
    leader = os.fork()
    if not leader:
        signal.pause()
    os.setpgid(leader, leader)
    os.setpgid(0, leader)
    os.kill(leader, signal.SIGKILL)
    os.waitpid(leader, 0)


class Groups(ProbeCase):
    """Who is in which process group and session."""

    def test_a_session_is_where_it_would_be_without_the_wrapper(self) -> None:
        """In the same group and session, whether the wrapper leads one or not, and whether the tool
        becomes prog or forks."""
        probe = self.python_tool('probe', PROBE)
        for name, tool in (
            ('becomes', self.yes),
            ('forks', self.python_tool('forks', FORKS)),
        ):
            self.configure(tool)
            for before in LEADERS:
                for command in ((tool,), None):
                    with self.subTest(name, before=before, command=command):
                        login = self.login(probe, command=command, before=before)
                        seen = self.look()
                        self.assertEqual(seen['group'], login.pid if before else login.group)
                        leads = before is os.setsid
                        self.assertEqual(seen['session'], login.pid if leads else login.session)
                        self.assertEqual(list(seen['descriptors']), [0, 1, 2])

    @both_ways
    def test_a_tool_has_a_group_that_it_leads_only_if_the_wrapper_does(self, way: Way) -> None:
        """So it can be killed with all that it has started; and setsid(1) does not fork, unless it
        would without the wrapper. The wrapper itself is where it was."""
        tool = self.python_tool(
            'tool',
            'while os.getpgid(os.getppid()) == os.getpgrp():  # the wrapper may go back after it began\n'
            '    os.sched_yield()\n'
            'print(os.getpid(), os.getpgrp(), os.getppid(), os.getpgid(os.getppid()))',
        )
        self.configure(tool)
        for before in LEADERS:
            with self.subTest(before=before):
                login = self.login(*way.prog, before=before)
                pid, group, parent, group_of_parent = map(int, login.output(1).split())
                self.assertEqual(parent, login.pid)
                self.assertEqual(group, pid if before else login.pid)
                self.assertEqual(group_of_parent, login.pid if before else login.group)

    @needs('util-linux')
    @both_ways
    def test_behind_setsid_a_tool_is_asked(self, way: Way) -> None:
        """The verdict behind setsid(1) is that of the tool, and no 0 of a setsid that has forked
        and gone. If it forks without the wrapper, too, as where the wrapper leads a group, it has
        to wait."""
        setsid, no = machine.program('setsid'), self.tool('no', REJECTS)
        for before in LEADERS:
            for words in ([setsid], [setsid, '--wait']):
                if before and words == [setsid]:
                    continue
                for tool, code in ((no, 1), (self.yes, way.code)):
                    self.configure(' '.join([*words, tool]))
                    with self.subTest(words=words, tool=tool, before=before):
                        login = self.login(*way.prog, before=before)
                        self.assertEqual(login.code, code)
                        result = 'rejected' if tool == no else 'accepted'
                        self.assertEqual(login.result()['result'], result)

    @needs('util-linux')
    @both_ways
    def test_the_last_of_a_group_asks_every_tool(self, way: Way) -> None:
        """Where the group is gone while the first tool runs, the wrapper cannot go back; no tool
        leads a group all the same, so that setsid(1) does not fork."""
        setsid, no = machine.program('setsid'), self.tool('no', REJECTS)
        for last, code in ((no, 1), (self.yes, way.code)):
            with self.subTest(last=last):
                self.configure(no, f'{setsid} {no}', f'{setsid} {last}')
                self.assertEqual(self.login(*way.prog, before=be_alone).code, code)
        if way is SESSION:
            return
        self.configure(f'timeout=1 {self.tool("hangs", HANGS)}', f'{setsid} {no}')
        login = self.login(*way.prog, before=be_alone)
        self.assertEqual((login.code, login.result()['result']), (1, 'temporary'))
        self.assertRegex(login.problems()[0], 'timed out after 1 s and was killed$')

    @needs('namespaces', 'util-linux')
    def test_a_group_without_a_number_is_none_to_go_to(self) -> None:
        """Where the wrapper's group is of another pid namespace, and so 0: neither the session nor a tool becomes
        the leader of one for it, so that setsid(1) does not fork."""
        setsid, no = machine.program('setsid'), self.tool('no', REJECTS)
        command = [machine.program('unshare'), '--pid', '--fork', '--kill-child', machine.SCRIPT]
        shows = 'import os; print(os.getpid() == os.getpgrp())'
        for chain in ([self.yes], [f'{setsid} {no}', self.yes]):
            self.configure(*chain)
            with self.subTest(chain=chain):
                login = self.login(machine.PYTHON, '-IS', '-c', shows, command=command)
                self.assert_ends(login, 0, 'accepted', self.yes)
                self.assertEqual(login.output(1), b'False\n')
        self.assertEqual(self.ran('no'), 1)

    def test_a_signal_to_the_group_reaches_a_session(self) -> None:
        """As when a supervisor of services ends the whole group."""
        catcher = self.python_tool('catcher', CATCHER)
        for number in PASSED_ON:
            with self.subTest(signal=number.name):
                with self.held(catcher, before=os.setpgrp) as login:
                    os.killpg(login.pid, number)
                    login.wait()
                self.assertEqual(login.code, 40 + number)

    @needs('/dev/pts')
    def test_a_session_has_its_terminal(self) -> None:
        """It reads from there, and an interrupt typed there reaches it."""
        catcher = self.python_tool('catcher', CATCHER)
        talks = self.tool('talks', ': >$dir/ready; read line; echo got $line; exit 6')

        def lead() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        for prog, typed, code in (
            (talks, b'hello\n', 6),
            (catcher, b'\x03', 40 + signal.SIGINT),
        ):
            master, slave = pty.openpty()
            with self.subTest(prog=prog):
                with self.held(prog, descriptors={0: slave, 1: slave}, before=lead) as login:
                    os.write(master, typed)
                    login.wait()
                self.assertEqual(login.code, code)
                shown = b''
                while prog == talks and b'got hello' not in shown:  # a terminal brings it in pieces
                    self.assertTrue(readable(master), shown)
                    shown += os.read(master, 1000)
            os.close(master)
            os.close(slave)


class GivingUp(ProbeCase):
    """A tool whose time is over is told to end, and killed if it has not within a second."""

    def begin(self, line: str) -> Login:
        """Start a login whose one tool has a second."""
        return self.start('true', env=self.chain(f'timeout=1 {line}'))

    def milliseconds(self, login: Login) -> int:
        """Return how long the login took, which ended with its tool's time."""
        self.assert_ends(login, 111, 'temporary', None, 'timed out after 1 s and was killed$')
        return int(login.result()['ms'])

    def test_a_hung_tool_goes_with_its_helpers_and_nobody_else(self) -> None:
        """What it has started in its group is killed with it, whatever that ignores and whoever leads the group,
        and the wrapper lives on."""
        helper = "(trap '' TERM HUP; echo $(sh -c 'echo $PPID') >>$dir/helpers; exec sleep 1000) &"
        self.tool('hangs', f'{helper}\nwhile [ ! -s $dir/helpers ]; do sleep 0.01; done\n{HANGS}')
        self.configure(f'timeout=1 {self.path("hangs")}', self.yes)
        logins = [self.start(*SESSION.prog, before=before) for before in LEADERS]
        for login in logins:
            self.assertEqual(login.wait().code, SESSION.code)
            self.assertEqual(len(login.problems()), 1)
            self.assertRegex(login.problems()[0], 'timed out after 1 s and was killed$')
        pids = [int(word) for word in read_file(self.path('helpers')).split()]
        self.assertEqual(len(pids), 3)
        wait_until(lambda: not any(map(alive, pids)), 'the helpers are gone')

    def test_what_an_interrupted_tool_has_left_goes_too(self) -> None:
        """A signal for the session has ended the tool; its helpers, which did not get it, are killed."""
        helper = 'sh -c "trap : TERM; echo \\$\\$ >$dir/pid; : >$dir/ready; while :; do sleep 1000; done" &'
        with self.held(
            'true', env=self.chain(self.tool('tool', f'{READS}; {helper} wait'))
        ) as login:
            os.kill(login.pid, signal.SIGTERM)
            self.assert_ends(login, 111, 'temporary', None, 'killed by SIGTERM$')
        pid = int(read_file(self.path('pid')))
        wait_until(lambda: not alive(pid), 'it is gone')

    def test_what_it_runs_elsewhere_it_can_end_itself(self) -> None:
        """As sudo and an inner wrapper do, who hear of it by TERM: what they run is in no group of this
        wrapper's."""
        runs = 'setsid sh -c \'echo $$ >$0; exec sleep 1000\' $dir/{}.pid & trap "kill $!; exit 1" TERM; wait'
        hangs = self.tool('hangs', runs.format('inner'))
        inner = self.write('inner.conf', f'log=stderr\ntimeout=0 {hangs}\n')
        outer = self.tool('outer', f'{READS}; {runs.format("outer")}')
        wrapper = f'{machine.program("env")} PWRAP_CONF={inner} {machine.SCRIPT}'
        logins = [self.begin(line) for line in (outer, wrapper)]
        for login, name in zip(logins, ('outer', 'inner')):
            with self.subTest(name):
                self.assertEqual(login.wait().code, 111)
                pid = int(read_file(self.path(f'{name}.pid')))
                self.assertIn('timed out after 1 s and was killed', login.problems()[-1])
                wait_until(lambda pid=pid: not alive(pid), 'it is gone')  # type: ignore[misc]

    def test_it_has_a_second_and_no_more(self) -> None:
        """Who ignores TERM is killed a second later, and who ends is not waited for."""
        ignores = self.tool('ignores', f'trap "" TERM; {HANGS}')
        ends = self.tool('hangs', HANGS)

        def are_in_time() -> bool:
            logins = [self.begin(line) for line in (ignores, ends)]
            killed, ended = map(self.milliseconds, logins)
            self.assertGreaterEqual(killed, 2000)
            return killed < 3000 and ended < 2000

        wait_until(are_in_time, 'in time')  # on a busy machine all takes longer, but not each time


class LeftBehind(ProbeCase):
    """What a tool has started and left behind, when it has answered."""

    LEAVES = """
os.read(3, 512)
if not os.fork():
    {own}
    with open(READY, 'w') as file:
        file.write(str(os.getpid()))
    import signal
    signal.pause()
while not os.path.exists(READY) or not os.path.getsize(READY):
    pass
{end}
"""

    @both_ways
    def test_delays_no_answer(self, way: Way) -> None:
        """Although it holds every descriptor, in the tool's group or in a session of its own."""
        for end, code, result in (
            (PYTHON_BECOMES, way.code, 'accepted'),
            ('os._exit(1)', 1, 'rejected'),
            ('os._exit(0)', *((0, 'accepted') if way is QUICK else (111, 'temporary'))),
        ):
            for own in ('', 'os.setsid()'):
                tool = self.python_tool('tool', self.LEAVES.format(own=own, end=end))
                self.configure(f'timeout=0 {tool}')
                with self.subTest(end=end, own=own):
                    login = self.login(*way.prog)
                    left = int(read_file(self.ready))
                    os.remove(self.ready)
                    self.assertTrue(alive(left))
                    os.kill(left, signal.SIGKILL)
                    self.assertEqual((login.code, login.result()['result']), (code, result))


class Waiting(ProbeCase):
    """While a session runs, the wrapper only waits."""

    CLOSES = """
for number in 0, 1, 2, 9, 27:
    os.close(number)
open(READY, 'w').close()
os.read(4, 1)
os._exit(5)
"""

    def test_what_the_session_closes_really_ends(self) -> None:
        """The wrapper holds none of it: a socket on 0 and 1, pipes on 2, 9 and 27."""
        session = self.python_tool('session', self.CLOSES)
        for chain in ([self.yes], [self.tool('no', REJECTS), self.path('missing'), self.yes]):
            self.configure(*chain)
            with self.subTest(chain):
                self.check_ends(session)

    def check_ends(self, session: str) -> None:
        mine, client = socket.socketpair()
        pipes = [os.pipe() for _ in range(4)]
        given = dict(zip((2, 9, 27, 4), (*(writer for _, writer in pipes[:3]), pipes[3][0])))
        given.update({0: client.fileno(), 1: client.fileno()})
        login = self.start(session, descriptors=given)
        client.close()
        for number in (2, 9, 27, 4):
            os.close(given[number])
        self.assertTrue(readable(mine.fileno()))
        self.assertEqual(mine.recv(100), b'')
        for reader, _ in pipes[:3]:
            self.assertTrue(ends(reader))
            os.close(reader)
        self.assertFalse(login.over())
        self.check_nothing_open(login)
        os.close(pipes[3][1])
        self.assertEqual(login.wait().code, 5)
        mine.close()

    def check_nothing_open(self, login: Login) -> None:
        folder = f'/proc/{login.pid}/fd'
        if os.path.exists(folder):
            self.assertEqual(os.listdir(folder), [])

    def test_a_session_may_end_before_the_wrapper_waits(self) -> None:
        """However short the session, its code is the login's: none of its ends is missed."""
        self.configure(self.yes)
        for code in (0, 1, 7):
            logins = [self.start('/bin/sh', '-c', f'exit {code}') for _ in range(8)]
            self.assertEqual({login.wait().code for login in logins}, {code})


def ends(reader: int) -> bool:
    """Read a pipe to its end (the log may stand there); tell whether that comes."""
    while readable(reader):
        if not os.read(reader, 1000):
            return True
    return False


if __name__ == '__main__':
    unittest.main()
