"""failure=crash: behind trouble the wrapper ends by a signal. qmail-smtpd tells one exit code from
another as little as a wrong password from a backend that is down, but a child that has crashed is
"454, temporary" to its client."""

from __future__ import annotations

import base64
import os
import signal

from tests.harness import machine
from tests.harness.logins import (
    ACCEPTS,
    REJECTS,
    TRIPLE,
    WAYS,
    Case,
    Login,
    Way,
    both_ways,
    read_file,
)
from tests.harness.probes import block, ignore
from tests.harness.tools import CRASHES, HANGS, refuses

STANDINS = os.path.join(machine.HARNESS, 'standins.py')
PLAIN = base64.b64encode(b'\0alice\0secret')
SMTP = b'EHLO client\r\nAUTH PLAIN ' + PLAIN + b'\r\nQUIT\r\n'
POP3 = b'USER alice\r\nPASS secret\r\nQUIT\r\n'
TERM = -signal.SIGTERM


class CrashCase(Case):
    def setUp(self) -> None:
        super().setUp()
        self.yes, self.no = self.tool('yes', ACCEPTS), self.tool('no', REJECTS)
        self.down = self.tool('down', refuses(111))

    def configure(self, *lines: str) -> None:
        super().configure('failure=crash', *lines)


class Codes(CrashCase):
    def test_trouble_ends_by_a_signal(self) -> None:
        """By SIGTERM, without a core file, behind the log line, which has code=111; whatever the
        trouble was, a mistake in the file too, and whoever refused besides."""
        logins: list[tuple[Login, Way, list[str], str]] = []
        for lines, tool in (
            ([self.down], self.down),
            ([self.no, self.down, self.no], self.down),
            ([self.tool('crash', CRASHES), self.no], self.path('crash')),
            (['/nonexistent/tool', self.no], '/nonexistent/tool'),
            ([f'timeout=1 {self.tool("hangs", HANGS)}', self.no], self.path('hangs')),
            ([f'refused=1 {self.tool("odd", refuses(9))}'], self.path('odd')),
            ([self.yes, 'nonsense'], '-'),
        ):
            self.configure(*lines)
            conf = self.write(f'conf{len(logins)}', read_file(self.conf))
            for way in WAYS:
                login = self.start(*way.prog, env={'PWRAP_CONF': conf})
                logins.append((login, way, lines, tool))
        for login, way, lines, tool in logins:
            with self.subTest(way=way.name, lines=lines):
                result = login.wait().result()
                self.assertEqual((login.code, login.dumped_core), (TERM, False), login.log())
                seen = result['result'], result['tool'], result['code']
                self.assertEqual(seen, ('temporary', tool, '111'))
                self.assertEqual(len(login.problems()), 1, login.log())

    @both_ways
    def test_a_verdict_is_none(self, way: Way) -> None:
        """All else is as with failure=temporary: a refusal is 1, whatever the tool's own code."""
        for lines, triple, code, result in (
            ([self.no], TRIPLE, 1, 'rejected'),
            ([self.tool('cvm', refuses(100))], TRIPLE, 1, 'rejected'),
            ([f'users=bob {self.down}'], TRIPLE, 1, 'rejected'),
            ([self.down], b'alice\0\0\0', 1, 'rejected'),
            ([self.down], b'x' * 600, 1, 'rejected'),
            ([self.down], b'', 2, 'temporary'),
        ):
            with self.subTest(lines=lines, triple=triple):
                self.configure(*lines)
                self.assert_ends(self.start(*way.prog, triple=triple), code, result)
        self.configure(self.down, self.yes)
        login = self.start(*way.prog)
        self.assert_ends(login, way.code, 'accepted', self.yes, 'exit code 111$')

    def test_a_session_has_its_own_code(self) -> None:
        """Also if that is 111: the login was accepted."""
        self.configure(self.yes)
        self.assert_ends(self.start('/bin/sh', '-c', 'exit 111'), 111, 'accepted', self.yes)

    def test_an_ignored_signal_ends_it_too(self) -> None:
        """Whatever the server has left ignored or blocked."""
        self.configure(self.down)
        for before in (ignore, block):
            with self.subTest(before.__name__):
                login = self.login('true', before=lambda b=before: b(signal.SIGTERM))
                self.assertEqual((login.code, login.result()['code']), (TERM, '111'))


class Servers(CrashCase):
    """What the client hears, by the stand-ins."""

    def replies(self, *server: str, given: bytes) -> str:
        """Return what a stand-in says, and the log."""
        path = machine.SCRIPT
        words = [one.replace('WRAPPER', path) for one in server]
        said = self.run_program(machine.PYTHON, STANDINS, *words, given=given, PWRAP_CONF=self.conf)
        return said.output

    def test_qmail_smtpd(self) -> None:
        """A backend that is down is 454, and a wrong password stays 535."""
        for tool, reply, logged in (
            (self.down, '454 oops, problem with child', 'result=temporary .* code=111 '),
            (self.no, '535 auth failure', 'result=rejected .* code=1 '),
            (self.yes, '235 ok', 'result=accepted '),
        ):
            with self.subTest(reply):
                self.configure(tool)
                said = self.replies('smtpd', '-w', '0', 'WRAPPER', '/bin/true', given=SMTP)
                self.assertIn(f'\n{reply}', said)
                self.assertRegex(said, logged)

    def test_qmail_popup_and_authup(self) -> None:
        """Both have words of their own for a crash, authup's for mail programs to try again."""
        session = ('/bin/sh', '-c', ':')
        for server, given, down, wrong in (
            (('popup', 'host'), POP3, '-ERR aack, child crashed', '-ERR authorization failed'),
            (('authup', 'pop3'), POP3, '-ERR aack, child crashed', '-ERR authorization failed'),
            (('authup', 'smtp'), SMTP, '454 aack, child crashed', '535 authorization failed'),
        ):
            for tool, reply in ((self.down, down), (self.no, wrong)):
                with self.subTest(server=server, reply=reply):
                    self.configure(tool)
                    said = self.replies(*server, 'WRAPPER', *session, given=given)
                    self.assertIn(reply, said)
