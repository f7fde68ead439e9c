"""The tests themselves: what they leave alone on a machine, and what they say."""

from __future__ import annotations

import subprocess
import sys
import unittest

from tests.harness.machine import TOP, needs
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


if __name__ == '__main__':
    unittest.main()
