"""Whatever a tool does on its way to prog, as PAM, sudo or a shell do it: it works as without the
wrapper."""

from __future__ import annotations

import os
import unittest
from collections.abc import Sequence
from typing import Any

from tests.harness import machine
from tests.harness.logins import Way, both_ways
from tests.harness.machine import needs
from tests.harness.probes import CAT, PLAIN, PROBE, ProbeCase, status_fields
from tests.harness.tools import (
    ACCEPTS,
    FORKS,
    PERMUTES,
    PYTHON_ACCEPTS,
    PYTHON_BECOMES,
    PYTHON_READS,
    REJECTS,
    changes_to,
)

GRANDCHILD = """
if not os.fork():
    child = os.fork()
    if not child:
        os.execvp(argv[0], argv)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
TAKES_OPTIONS = """import getopt
options, argv = getopt.gnu_getopt(argv, 'dv:', ['debug', 'value='])
if options != [('-d', ''), ('-v', 'x'), ('--debug', '')]: os._exit(2)
"""
TAKES_OPTIONS_IN_SHELL = """
words=$(getopt -o dv: -l debug -- "$@") || exit 2
eval "set -- $words"
test "$1$2$3$4$5" = "-d-vx--debug--" || exit 2
shift 5
"""


class Kinds(ProbeCase):
    """Kinds of tools, each compared with itself, run directly."""

    def compare(self, *tool: str) -> None:
        """Compare what prog sees behind a tool, in both ways, and how a session ends."""
        probe = self.python_tool('probe', PROBE)
        self.configure(' '.join(tool), self.tool('next', REJECTS))
        words = 'a b', '', 'c=d', '--', '-not', 'yours'
        for way in self.ways_to(probe):
            with self.subTest(tool=tool, way=way.name):
                direct = self.probe(*tool[1:], *way.prog, *words, command=tool[:1])
                wrapped = self.probe(*way.prog, *words)
                for name in ('arguments', 'folder', 'umask', 'limits', 'niceness'):
                    self.assertEqual(wrapped[name], direct[name], name)
                self.assertEqual([*wrapped['descriptors']], [*direct['descriptors']])
        for code in (0, 1):
            with self.subTest(tool=tool, code=code):
                login = self.login(self.tool('exits', 'exit $1'), str(code))
                said = login.code, login.result()['result'], login.problems()
                self.assertEqual(said, (code, 'accepted', []))
        self.assertEqual(self.ran('next'), 0)

    def test_those_that_fork(self) -> None:
        """Prog is a child, a grandchild, or in a session of its own, and the tool waits for it."""
        self.compare(self.python_tool('forks', FORKS))
        self.compare(self.python_tool('twice', PYTHON_READS + GRANDCHILD))
        in_session = FORKS.replace('not child:', 'not child:\n    os.setsid()')
        self.compare(self.python_tool('session', in_session))
        self.compare(self.tool('shell', 'cat <&3 >/dev/null; nice -n 0 "$@" 3<&-; exit'))

    @needs('util-linux')
    def test_those_that_make_a_group_or_a_session(self) -> None:
        """They do, or try to, and become prog."""
        group = 'os.setpgid(0, 0)\n'
        session = 'try: os.setsid()\nexcept OSError: pass\n'
        for name, body in (('group', group), ('session', session)):
            self.compare(self.python_tool(name, PYTHON_READS + body + PYTHON_BECOMES))
        self.compare(machine.program('setsid'), '--wait', self.yes)

    def test_those_that_parse_options_anywhere_on_the_line(self) -> None:
        """They find none in what the wrapper adds, and take none of prog's."""
        options = '-d', '-v', 'x', '--debug'
        self.compare(self.python_tool('python', TAKES_OPTIONS + PYTHON_ACCEPTS), *options)
        if machine.program('getopt'):
            self.compare(self.tool('shell', TAKES_OPTIONS_IN_SHELL + ACCEPTS), *options)

    @both_ways
    def test_those_that_permute_without_an_end_of_options(self, way: Way) -> None:
        """A tool as checkpassword-pam, which takes options that stand behind prog's name, finds
        none in the words that stand in prog's place."""
        self.configure(f'{self.python_tool("permutes", PERMUTES)} -s pop3 --noenv')
        login = self.login(*way.prog[:1], '/dev/null')
        self.assertEqual((login.code, login.result()['result']), (0, 'accepted'))

    def test_those_that_change_much(self) -> None:
        """Folder, umask, limits and niceness that a tool changes are so in prog."""
        changes = 'cd /; umask 077; ulimit -n 64; ulimit -c 0'
        body = f'cat <&3 >/dev/null; exec 3<&-; {changes}\nexec nice -n 2 "$@"'
        self.compare(self.tool('changes', body))

    def test_those_that_leave_descriptor_3_open(self) -> None:
        """They accept without reading it, or without closing it."""
        self.compare(*PLAIN.split())
        self.compare(self.tool('reads', 'cat <&3 >/dev/null; exec "$@"'))

    @both_ways
    def test_those_that_do_not_read_the_triple(self, way: Way) -> None:
        """Their verdict counts like any other, whatever is left in the pipe."""
        for name, body, accepts in (
            ('refuses-unread', 'exit 1', False),
            ('refuses-closed', 'exec 3<&-; exit 1', False),
            ('accepts-unread', 'exec 3<&-; exec "$@"', True),
            ('accepts-open', 'exec "$@"', True),
            ('accepts-read', 'cat <&3 >/dev/null; exec "$@"', True),
            ('accepts-half', 'head -c 9 <&3 >/dev/null; exec "$@"', True),
        ):
            tool = self.tool(name, body)
            self.configure(tool)
            with self.subTest(name):
                login = self.login(*way.prog)
                result = login.result()
                self.assertEqual(login.code, way.code if accepts else 1)
                self.assertEqual(result['result'], 'accepted' if accepts else 'rejected')
                self.assertEqual((result['tool'], login.problems()), (tool, []))


@needs('root', 'public python')
class ChangesOfUser(ProbeCase):
    """Tools that change the user before they become prog."""

    NAMES = (
        *('Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'),
        *('SigBlk', 'SigCgt', 'NoNewPrivs'),
    )

    def setUp(self) -> None:
        super().setUp()
        self.uid, self.gid = machine.someone()

    def compare(self, words: Sequence[str], **options: Any) -> None:
        """Compare who prog is, and how it ends."""
        self.configure(' '.join(words))
        look = CAT, '/proc/self/status'
        direct = status_fields(self.login(*look, command=words).output(1))
        login = self.login(*look, **options)
        wrapped = status_fields(login.output(1))
        said = login.code, login.result()['result'], login.problems()
        self.assertEqual(said, (0, 'accepted', []))
        self.assertEqual(direct['Uid'].split(), [str(self.uid)] * 4)
        for name in self.NAMES:
            self.assertEqual(wrapped.get(name), direct.get(name), name)
        for prog, code in ((('/bin/sh', '-c', 'exit 7'), 7), (('true',), 0)):
            self.assertEqual(self.login(*prog).code, code)

    @needs('/proc', 'util-linux')
    def test_prog_is_who_the_tool_made_it(self) -> None:
        """User, groups and capabilities are the tool's doing, also where nothing may ever be gained
        again."""
        setpriv = machine.program('setpriv')
        to_user = [setpriv, f'--reuid={self.uid}', f'--regid={self.gid}', '--clear-groups']
        self.compare(to_user)
        self.compare([*to_user, '--no-new-privs', '--bounding-set=-all'])

    def test_a_session_of_another_user_is_in_the_right_group(self) -> None:
        """The report step has no rights any more when it goes back there."""
        tool = self.python_tool('changes', changes_to(self.uid, self.gid))
        self.configure(tool)
        prog = machine.PYTHON, '-IS', '-c', 'import os; print(os.getuid(), os.getpgrp())'
        for before in (None, os.setpgrp, os.setsid):
            with self.subTest(before=before):
                login = self.login(*prog, before=before)
                group = login.pid if before else login.group
                self.assertEqual(login.output(1).split(), [b'%d' % self.uid, b'%d' % group])

    @needs('sudo')
    def test_sudo_counts_by_its_exit_code(self) -> None:
        """Behind sudo, which forks, changes the user and closes what it inherited, 0 is accepted,
        and any other code of prog counts as the tool's."""
        body = 'cat <&3 >/dev/null; exec 3<&-; exec sudo -n -u nobody -- "$@"'
        sudo = self.tool('sudo', body)
        self.configure(sudo)
        shell = '/bin/sh', '-c'
        for prog, code in (
            (('true',), 0),
            ((*shell, 'id -un'), 0),
            ((*shell, 'id -un; exit 7'), 7),
        ):
            with self.subTest(prog):
                direct, login = self.login(*prog, command=(sudo,)), self.login(*prog)
                self.assertEqual((login.code, login.output(1)), (code, direct.output(1)))
                result = 'rejected' if code else 'accepted'
                self.assertEqual(login.result()['result'], result)


if __name__ == '__main__':
    unittest.main()
