"""Whatever a tool does on its way to prog, as PAM, sudo or a shell do it: it works as without the
wrapper."""

from __future__ import annotations

import os
import unittest
from collections.abc import Sequence
from typing import Any

from tests.harness import machine
from tests.harness.logins import Way, alive, both_ways, read_file, wait_until
from tests.harness.machine import needs
from tests.harness.probes import CAT, PLAIN, PROBE, ProbeCase, status_fields
from tests.harness.tools import (
    ACCEPTS,
    FORKS,
    HANGS,
    PERMUTES,
    PYTHON_ACCEPTS,
    PYTHON_BECOMES,
    PYTHON_READS,
    READS,
    REJECTS,
    changes_to,
)

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
        """Prog is a child, also in a session of its own, and the tool waits for it."""
        self.compare(self.python_tool('forks', FORKS))
        in_session = FORKS.replace('not child:', 'not child:\n    os.setsid()')
        self.compare(self.python_tool('session', in_session))
        subprocess = 'import subprocess\nos._exit(subprocess.call(argv, close_fds=False))'
        self.compare(self.python_tool('python', PYTHON_READS + subprocess))
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
        """They read it, and do not close it."""
        self.compare(self.tool('reads', 'cat <&3 >/dev/null; exec "$@"'))


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
        plain = PLAIN.split()
        self.compare([*to_user, *plain])
        self.compare([*to_user, '--no-new-privs', '--bounding-set=-all', *plain])

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


@needs('root', 'namespaces', 'public folder', 'public python', 'sudo', 'util-linux', 'mount')
class Sudo(ProbeCase):
    """The real sudo, with a sudoers of this test's own in place of the machine's."""

    STOCK = """
Defaults env_reset
Defaults mail_badpass
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Defaults use_pty
root ALL=(ALL:ALL) ALL
"""
    RECIPE = f'{STOCK}Defaults closefrom_override\nnobody ALL=(root) NOPASSWD: ALL\n'
    HERE = 'mount --bind "$0" /etc/sudoers && exec "$@"'

    def under(self, sudoers: str, *command: str) -> list[str]:
        """Return a command that finds this sudoers."""
        private = [machine.program('unshare'), '--mount', '--propagation', 'private', '--']
        path = self.write('sudoers', sudoers, 0o440)
        return [*private, '/bin/sh', '-c', self.HERE, path, *command]

    def test_without_its_option_it_is_trouble_behind_a_session(self) -> None:
        """Its child has closed all from 3 up, and the log says what helps. With prog true it works."""
        tool = self.tool('tool', f'{READS}; exec sudo -n -u nobody -- "$@"')
        self.configure(tool)
        command = self.under(self.STOCK, *self.command)
        self.assert_ends(self.login('true', command=command), 0, 'accepted', tool)
        login = self.login(self.tool('session', 'exit 7'), command=command)
        self.assertEqual((login.code, login.result()['result']), (111, 'temporary'))
        self.assertIn('sudo -C 64', login.problems()[0])
        self.assertEqual(self.ran('session'), 0)

    def test_with_it_everything_works(self) -> None:
        """Behind `sudo -C 64`, run by root or by another, a session is reported, its exit code is the login's, and
        a refusal is one. A tool that hangs is gone when its time is over, although another user's."""
        uid, gid = machine.someone()
        setpriv = [machine.program('setpriv'), f'--reuid={uid}', f'--regid={gid}', '--clear-groups']
        sudo = f'{machine.program("sudo")} -n -C 64'
        no, hangs = self.tool('no', REJECTS), self.tool('hangs', HANGS)
        shell = '/bin/sh', '-c'
        for become in ([], setpriv):
            command = self.under(self.RECIPE, *become, *self.command)
            for tool, words, code, output in (
                (self.yes, ('true',), 0, b''),
                (self.yes, (*shell, 'id -un'), 0, b'root\n'),
                (self.yes, (*shell, 'id -un; exit 7'), 7, b'root\n'),
                (no, (*shell, 'id -un'), 1, b''),
            ):
                with self.subTest(words=words, become=become):
                    self.configure(f'name=sudo {sudo} -- {tool}')
                    login = self.login(*words, command=command)
                    self.assert_ends(login, code, 'rejected' if tool == no else 'accepted', 'sudo')
                    self.assertEqual(login.output(1), output)
        self.configure(f'timeout=1 {sudo} -- {hangs}')
        commands = [self.under(self.RECIPE, *become, *self.command) for become in ([], setpriv)]
        for login in [self.start(*shell, command=command) for command in commands]:
            self.assert_ends(login, 111, 'temporary', None, 'timed out after 1 s and was killed$')
        pids = [int(word) for word in read_file(self.path('hangs.ran')).split()]
        self.assertEqual(len(pids), 2)
        wait_until(lambda: not any(map(alive, pids)), 'they are gone')


if __name__ == '__main__':
    unittest.main()
