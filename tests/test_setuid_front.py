"""A setuid program in front of the wrapper gives nothing to whoever calls it."""

from __future__ import annotations

import contextlib
import os
import unittest
from collections.abc import Iterator

from tests.harness import machine
from tests.harness.imported import SCRIPT
from tests.harness.logins import Case, read_file
from tests.harness.machine import needs
from tests.harness.syslog import SyslogListener
from tests.harness.tools import PYTHON_ACCEPTS, PYTHON_READS

FRONT = """
#include <unistd.h>
int main(int argc, char **argv)
{
    argv[0] = "%s";
    execv(argv[0], argv);
    return 99;
}
"""
STRANGER = 65534
REFUSED = 'real and effective user or group differ'
FRONTS = {'setuid': 0o4755, 'setgid': 0o2755}
REPORT, ANSWER = 9, 10


@needs('root', 'gcc', 'public folder', 'public python')
class SetuidFront(Case):
    """A stranger calls a program of root, which runs the script with the rights of its owner or of its
    group."""

    def setUp(self) -> None:
        super().setUp()
        if os.statvfs(self.folder).f_flag & os.ST_NOSUID:
            self.skipTest('no setuid program can be in the temporary folder')
        # The script reads the machine's own configuration here: it is given another.
        text = read_file(machine.copy_with_python(machine.SCRIPT, self.path('copy')))
        usual = b"\nCONFIGURATION = '/var/qmail/control/pwrap.conf'"
        self.assertIn(usual, text)
        text = text.replace(usual, f'\nCONFIGURATION = {self.conf!r}'.encode())
        source = self.write('front.c', FRONT % self.write('qmail_pwrap.py', text, 0o755))
        said = self.run_program('gcc', '-o', self.path('front'), source)
        self.assertEqual(said.code, 0, said.output)

    def front(self, kind: str) -> str:
        os.chmod(self.path('front'), FRONTS[kind])
        return self.path('front')

    @contextlib.contextmanager
    def strangers_pipes(self) -> Iterator[dict[int, int]]:
        """Yield two pipes by descriptor: whoever calls can make what the report step looks for, and an
        answer too."""
        with contextlib.ExitStack() as stack:
            ends = [*os.pipe(), *os.pipe()]
            for end in ends:
                stack.callback(os.close, end)
            os.write(ends[3], b'+')
            yield {REPORT: ends[1], ANSWER: ends[2]}

    @needs('syslog', 'util-linux')
    def test_no_internal_word_runs_anything(self) -> None:
        """The report step, the login of --test, and whatever else such a word may ask for: 111, one line
        in the system log, and nothing else, whatever descriptors the stranger gives."""
        setpriv = machine.program('setpriv')
        become = [setpriv, f'--reuid={STRANGER}', f'--regid={STRANGER}', '--clear-groups']
        self.configure(self.python_tool('tool', f'open({self.path("ran")!r}, "w")'))
        with self.strangers_pipes() as pipes, SyslogListener() as log:
            places = ':'.join(
                f'{number}.{SCRIPT.file_identity(pipes[number])}' for number in (REPORT, ANSWER)
            )
            for kind in FRONTS:
                for word in (
                    'qmail_pwrap.report:9.1.1:10.1.1:1:syslog',
                    f'qmail_pwrap.report:{places}:1:syslog',
                    f'qmail_pwrap.report:{places}:1:1',
                    'qmail_pwrap.report:',
                    'qmail_pwrap.test:1',
                    'qmail_pwrap.test:2',
                    'qmail_pwrap.',
                ):
                    with self.subTest(kind=kind, word=word):
                        log.clear()
                        login = self.login(
                            *(word, '/usr/bin/id'),
                            command=[*become, self.front(kind)],
                            descriptors=pipes,
                        )
                        self.assertEqual(login.code, 111)
                        self.assertEqual((login.output(1), login.output(2)), (b'', b''))
                        lines = [line.text for line in log.lines(f'qmail-pwrap[{login.pid}]')]
                        self.assertEqual(len(lines), 1, lines)
                        self.assertIn(REFUSED, lines[0])
        self.assertFalse(os.path.exists(self.path('ran')))

    def test_no_command_says_anything(self) -> None:
        """--check and --test show a stranger nothing of what only root may read: 2, and why."""
        for kind in FRONTS:
            for words in (['--check'], ['--check', 'alice'], ['--test', 'alice']):
                with self.subTest(kind=kind, words=words):
                    said = self.say(
                        *words,
                        command=(self.front(kind),),
                        before=lambda: machine.become_user(STRANGER),
                    )
                    self.assertEqual((said.code, said.output), (2, ''))
                    self.assertIn(REFUSED, said.errors)

    def test_a_strangers_variables_are_ignored(self) -> None:
        """PWRAP_CONF, AUTH and AUTHORIZED lead to nothing but a line each: without a password nobody logs
        in, and no user is looked up."""
        ran = self.path('ran')
        self.configure(self.python_tool('yes', f'open({ran!r}, "w")\n{PYTHON_ACCEPTS}'))
        mine = self.write('mine', f'log=stderr\nauth=0\n{self.python_tool("mine", "")}\n')
        env = {'PWRAP_CONF': mine, 'AUTH': '0', 'AUTHORIZED': '1'}
        for kind in FRONTS:
            login = self.login(
                'true',
                triple=b'alice\0\0now\0',
                command=(self.front(kind),),
                env=env,
                before=lambda: machine.become_user(STRANGER),
            )
            with self.subTest(kind=kind):
                self.assertEqual((login.code, login.result()['result']), (1, 'rejected'))
                ignored = [f'{name} is ignored: {REFUSED}' for name in env]
                self.assertEqual(sorted(login.problems()), sorted(ignored))
        self.assertFalse(os.path.exists(ran))

    def test_sessions_need_a_tool_that_changes_its_user_wholly(self) -> None:
        """Behind any other the report step is a stranger's, too, and runs nothing: 111."""
        changes = 'os.setresgid(0, 0, 0)\nos.setresuid(0, 0, 0)\n'
        keeps = self.python_tool('keeps', PYTHON_ACCEPTS)
        whole = self.python_tool('whole', changes + PYTHON_ACCEPTS)
        reads = self.python_tool('reads', PYTHON_READS + 'os._exit(0)')
        session = self.python_tool('session', f'open({self.path("ran")!r}, "w")\nos._exit(7)')
        for tool, prog, code, result in (
            (reads, 'true', 0, 'accepted'),
            (keeps, session, 111, 'temporary'),
            (whole, session, 7, 'accepted'),
        ):
            self.configure(tool)
            login = self.login(
                prog,
                command=(self.front('setuid'),),
                env={'PWRAP_CONF': ''},
                before=lambda: machine.become_user(STRANGER),
            )
            with self.subTest(tool):
                self.assertEqual((login.code, login.result()['result']), (code, result))
                self.assertEqual(os.path.exists(self.path('ran')), code == 7)


if __name__ == '__main__':
    unittest.main()
