"""A setuid program in front of the wrapper gives nothing to whoever calls it."""

from __future__ import annotations

import os
import shutil
import unittest

from tests.harness import machine
from tests.harness.logins import Case

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


@unittest.skipUnless(os.geteuid() == 0, 'needs root')
@unittest.skipUnless(shutil.which('gcc'), 'not installed: gcc')
class SetuidFront(Case):
    def front(self) -> str:
        """Return a program that runs the script as root for everybody."""
        script = shutil.copy(machine.SCRIPT, self.path('qmail_pwrap.py'))
        source = self.write('front.c', FRONT % script)
        code, said, _ = self.run_program('gcc', '-o', self.path('front'), source)
        self.assertEqual(code, 0, said)
        os.chmod(self.folder, 0o755)
        os.chmod(self.path('front'), 0o4755)
        return self.path('front')

    def test_report_step(self) -> None:
        """The report step runs nothing for a stranger, who can make any pipes for it."""
        mark = self.path('ran')
        login = self.login(
            'qmail_pwrap.report:9.1.1:10.1.1:1:syslog',
            '/usr/bin/touch',
            mark,
            command=(self.front(),),
            before=lambda: os.setuid(STRANGER),
        )
        self.assertEqual(login.code, 111)
        self.assertFalse(os.path.exists(mark))

    def test_commands(self) -> None:
        """--check and --test show a stranger nothing of what only root may read."""
        front = self.front()
        for words in (['--check'], ['--test', 'alice']):
            said = self.say(*words, command=(front,), before=lambda: os.setuid(STRANGER))
            self.assertEqual((said.code, said.output), (2, ''))
            self.assertIn('real and effective user or group differ', said.errors)
