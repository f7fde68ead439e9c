"""A tool that cannot be run, dies, stops or hangs gives no verdict: nobody gets in, nobody is
refused by it."""

from __future__ import annotations

import os
import re
import signal
import unittest

from tests.harness import machine
from tests.harness.logins import ACCEPTS, SESSION, WAYS, Login, Way, alive, both_ways, read_file
from tests.harness.machine import needs
from tests.harness.probes import ProbeCase

SOMEBODY = 64123  # a user and a group that nobody has


class Broken(ProbeCase):
    """Each kind of them, alone in a chain."""

    def check(self, login: Login, tool: str, problem: str) -> None:
        """A login ended with the one problem of its one tool, and nothing came out besides the
        log."""
        login.wait()
        result = login.result()
        self.assertEqual((login.code, result['result'], result['code']), (111, 'temporary', '111'))
        self.assertEqual(len(login.problems()), 1, login.log())
        self.assertRegex(login.problems()[0], problem)
        self.assertLess(len(login.problems()[0]), 1000)
        self.assertEqual((login.output(1), login.output(2)), (b'', b''))
        self.assertTrue(tool.startswith(result['tool'].rstrip('.\\')))

    @both_ways
    def test_what_is_no_program_cannot_be_run(self, way: Way) -> None:
        """Files that are missing, not executable, no program, or for no machine of this kind."""
        good = self.tool('good', ACCEPTS)
        for path, why in {
            self.path('missing'): 'No such file',
            self.folder: 'Permission denied',
            self.write('plain', '#!/bin/sh\nexec "$@"\n', 0o644): 'Permission denied',
            self.write('without-shebang', 'exec "$@"\n', 0o755): 'Exec format error',
            self.write('empty', '', 0o755): 'Exec format error',
            self.write('garbage', b'\x7fELF' + bytes(range(256)), 0o755): 'Exec format error',
            self.write('no-interpreter', '#!/nonexistent/sh\nexec "$@"\n', 0o755): 'No such file',
            f'{good}/tool': 'Not a directory',
            '/dev/null': 'Permission denied',
            '/' + 'a' * 4999: 'File name too long',
            '/a' * 2500: 'File name too long',
        }.items():
            shown = re.escape(path) if len(path) < 200 else r'/a[a/]+\\\.\.\.'
            with self.subTest(path=path[:100]):
                login = self.login(*way.prog, env=self.chain(path))
                self.check(login, path, f'^{shown}: cannot run: {why}')
        self.assertEqual(self.ran('good'), 0)

    @both_ways
    def test_who_dies_by_a_signal_has_no_verdict(self, way: Way) -> None:
        """Whichever it was, before the tool has read the password or after that."""
        names = ('SEGV', 'KILL', 'TERM', 'ABRT', 'BUS', 'PIPE', 'HUP', 'INT', 'ALRM', 'USR1', '40')
        tools = {}
        for name in names:
            reads = '' if name in ('SEGV', 'TERM') else 'cat <&3 >/dev/null; exec 3<&-;'
            tools[name] = self.tool(name, f'ulimit -c 0; {reads} kill -{name} $$; sleep 1000')
        logins = {name: self.start(*way.prog, env=self.chain(tool)) for name, tool in tools.items()}
        for name, login in logins.items():
            with self.subTest(name):
                tool = tools[name]
                shown = 'signal 40' if name == '40' else f'SIG{name}'
                self.check(login, tool, f'^{re.escape(tool)}: killed by {shown}$')

    def test_who_is_stopped_is_killed_when_its_time_is_over(self) -> None:
        """A tool that stops itself, or that somebody has stopped, is one that hangs."""
        tool = self.tool('stops', 'kill -STOP $$; exec "$@"')
        logins = [self.start(*way.prog, env=self.chain(f'timeout=1 {tool}')) for way in WAYS]
        for way, login in zip(WAYS, logins):
            with self.subTest(way=way.name):
                self.check(login, tool, 'timed out after 1 s and was killed$')

    @needs('root', 'public python', 'util-linux')
    def test_who_cannot_be_killed_ends_the_chain(self) -> None:
        """Where a hung tool cannot be killed nobody else gets the password, and the login ends."""
        # The wrapper runs without root, with nothing but the right to change its uid (CAP_SETUID),
        # which the tool inherits. So the tool can become root in all its uids, as su and sudo do,
        # and the wrapper, which has no CAP_KILL, cannot signal it. No setuid program has to lie in
        # a folder where somebody else might run it.
        os.chown(self.folder, SOMEBODY, SOMEBODY)
        setpriv = machine.program('setpriv')
        command = [
            *(setpriv, f'--reuid={SOMEBODY}', f'--regid={SOMEBODY}', '--clear-groups'),
            *('--inh-caps=+setuid', '--ambient-caps=+setuid', '--', machine.SCRIPT),
        ]
        tool = self.tool('hangs', f'exec {setpriv} --reuid=0 sleep 1000')
        good = self.tool('good', ACCEPTS)
        chain = self.chain(f'timeout=1 {tool}', good)
        logins = [
            self.start(*prog, command=command, env=chain) for prog in (('true',), SESSION.prog)
        ]
        for login in logins:
            self.check(
                login, tool, f'^{re.escape(tool)}: timed out after 1 s and cannot be killed$'
            )
        pids = [int(word) for word in read_file(self.path('hangs.ran')).split()]
        self.assertEqual([alive(pid) for pid in pids], [True, True], 'they could be killed')
        self.assertEqual(self.ran('good'), 0)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


if __name__ == '__main__':
    unittest.main()
