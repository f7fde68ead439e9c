"""The tests themselves: what they leave alone on a machine, and what they say."""

from __future__ import annotations

import io
import subprocess
import sys
import unittest

from tests.harness.machine import TOP, needs
from tests.harness.run import Runner
from tests.harness.syslog import SyslogListener

LOGS = 'import syslog; syslog.syslog("from a test")'


class Log(unittest.TestCase):
    @needs('syslog', 'namespaces')
    def test_nothing_reaches_the_log_of_the_machine(self) -> None:
        """What tests of root log, and the programs that they start, somebody else at /dev/log never hears."""
        with SyslogListener() as machines_log:
            for beginning, heard in (('', 1), ('import tests.harness; ', 0)):
                for code in (
                    LOGS,
                    f'import subprocess, sys\nsubprocess.run([sys.executable, "-c", {LOGS!r}])',
                ):
                    with self.subTest(code=beginning + code):
                        machines_log.clear()
                        subprocess.run(
                            [sys.executable, '-c', beginning + code], cwd=TOP, check=True
                        )
                        lines = [line.text for line in machines_log.lines()]
                        self.assertEqual(lines.count('from a test'), heard)


class Said(unittest.TestCase):
    def run_tests(self, *reasons: str) -> str:
        """Run a test for each reason, which is skipped for that, or passes if it is empty; return what was said."""
        suite = unittest.TestSuite()
        for reason in reasons:
            suite.addTest(
                unittest.FunctionTestCase(unittest.skipIf(bool(reason), reason)(lambda: None))
            )
        said = io.StringIO()
        Runner(stream=said).run(suite)
        return said.getvalue()

    def test_why_tests_were_skipped_is_said_at_the_end(self) -> None:
        """A line for each reason, with its count; nothing if none was."""
        said = self.run_tests('no strace', 'only root', '', 'only root').splitlines()
        self.assertEqual(said[-3:], ['Skipped, and why:', '    2  only root', '    1  no strace'])
        self.assertIn('OK (skipped=3)', said)
        self.assertRegex(self.run_tests(''), r'\nOK\n$')

    def test_how_long_it_takes_is_said_beforehand(self) -> None:
        """Where that is worth a word."""
        self.assertRegex(self.run_tests(*[''] * 480), '^480 tests: about [1-5] minutes')
        self.assertNotIn('about', self.run_tests('', ''))


if __name__ == '__main__':
    unittest.main()
