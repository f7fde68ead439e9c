"""What README.md says about Dovecot 2.4 and PAM, on the real ones.

The Lua file, local.conf, pwrap.conf, the tool for virtual users and the script for PAM are those that README.md shows.
"""

from __future__ import annotations

import collections
import concurrent.futures
import imaplib
import poplib
import smtplib
import subprocess
import unittest
from pathlib import Path

from tests.harness import servers
from tests.harness.dovecot24 import (
    FOR_PAM,
    LUA,
    OnDovecot24,
    OnFirstConfiguration,
    pam_service,
    place,
    shown,
)
from tests.harness.machine import needs
from tests.harness.mailhost import MailHost
from tests.harness.processes import LONG_ENOUGH
from tests.harness.tools import HANGS, REJECTS, refuses

WANTED = (
    *MailHost.packages,
    *('dovecot 2.4', 'dovecot-pop3d', 'dovecot-imapd', 'dovecot-lmtpd', 'dovecot-auth-lua'),
)
OK, WRONG, LATER = 'in', 'wrong', 'later'
SAID = {  # what a server says, by protocol
    'pop3': {OK: '+OK', WRONG: '-ERR [AUTH] ', LATER: '-ERR [SYS/TEMP] '},
    'imap': {OK: 'OK', WRONG: '[AUTHENTICATIONFAILED] ', LATER: '[UNAVAILABLE] '},
}


def pop3(port: int, login: str, password: str) -> str:
    """Log in; return what the server says."""
    client = poplib.POP3(servers.LOOPBACK, port, timeout=LONG_ENOUGH)
    try:
        client.user(login)
        return client.pass_(password).decode()
    except poplib.error_proto as error:
        return bytes(error.args[0]).decode()
    finally:
        client.close()


def imap(port: int, login: str, password: str) -> str:
    """Log in, in a way that has all bytes; return what the server says."""
    client = imaplib.IMAP4(servers.LOOPBACK, port, timeout=LONG_ENOUGH)
    try:
        return client.authenticate('PLAIN', lambda _: f'\0{login}\0{password}'.encode())[0]
    except imaplib.IMAP4.error as error:
        return bytes(error.args[0]).decode() if isinstance(error.args[0], bytes) else str(error)
    finally:
        client.shutdown()


class Case(OnDovecot24):
    def answers(self, login: str, password: str) -> dict[str, str]:
        """Log in by both protocols; return how that ends, OK, WRONG or LATER, or else what the server says."""
        said = {
            'pop3': pop3(self.dovecot.pop3_port, login, password),
            'imap': imap(self.dovecot.imap_port, login, password),
        }
        return {
            name: next((key for key, start in SAID[name].items() if text.startswith(start)), text)
            for name, text in said.items()
        }

    def assert_answers(self, wanted: str, login: str, password: str) -> None:
        """Both protocols end a login in this way."""
        answers = self.answers(login, password)
        self.assertEqual(answers, {'pop3': wanted, 'imap': wanted}, self.dovecot.log()[-2000:])


@needs(*WANTED)
class Logins(Case):
    def test_right_passwords(self) -> None:
        """System users and virtual users get in, and read the mail that LMTP has brought them."""
        for user in (self.host.alice, self.bob):
            self.dovecot.deliver(user.login.upper(), f'for {user.login}')
            read = (
                servers.pop3_subjects(self.dovecot.pop3_port, user.login, user.password),
                servers.imap_subjects(self.dovecot.imap_port, user.login, user.password),
            )
            self.assertEqual(read, ([f'for {user.login}'],) * 2)
        ip = r'ip=127\.0\.0\.1'
        self.assert_logged(
            *[rf'result=accepted {ip} tool=\S*checkpassword\.login ms=\d+ user="{self.host.alice.login}"'] * 2,
            *[rf'result=accepted {ip} tool=vmail ms=\d+ user="{self.bob.login}"'] * 2,
        )  # fmt: skip

    def test_mail_for_nobody(self) -> None:
        """LMTP refuses mail for whom neither /etc/passwd nor the file of virtual users has."""
        for recipient in ('nobody@example.org', 'bob', f'{self.host.alice.login}@example.org'):
            with self.assertRaises(smtplib.SMTPRecipientsRefused):
                self.dovecot.deliver(recipient, 'lost')

    def test_wrong_passwords(self) -> None:
        """A wrong password, somebody else's, an unknown user and root are authentication failures."""
        alice, bob = self.host.alice, self.bob
        for login, password in (
            (alice.login, 'wrong'),
            (alice.login, bob.password),
            (bob.login, 'wrong'),
            (bob.login, self.zoe.password),
            ('eve@example.org', bob.password),
            ('unknown', 'wrong'),
            ('root', 'wrong'),
        ):
            with self.subTest(login=login, password=password):
                self.assert_answers(WRONG, login, password)

    def test_passwords_reach_the_tool_as_they_are(self) -> None:
        """Quotes, backslashes, what a shell would run, bytes above ASCII, and 480 bytes."""
        self.assert_answers(OK, self.zoe.login, self.zoe.password)
        seen, mark = self.host.folder / 'seen', self.host.folder / 'mark'
        self.tool_first(f'cat <&3 >{seen}; exit 1')
        for password in (
            f'$(touch {mark})',
            f'`touch {mark}`',
            f"';touch {mark};'",
            f'";touch {mark};"',
            '\\0\\n\\\\',
            '%s%n\u2028\u00e9',
            'x' * 480,
        ):
            with self.subTest(password=password):
                self.assert_answers(WRONG, self.bob.login, password)
                triple = f'{self.bob.login}\0{password}\0\0'.encode()
                self.assertEqual(seen.read_bytes(), triple)
        self.assertFalse(mark.exists())

    def test_passwords_that_no_tool_sees(self) -> None:
        """An empty one and a too long one are refused by the wrapper, one with a control character by Dovecot."""
        seen = self.host.folder / 'seen'
        seen.unlink(missing_ok=True)
        self.tool_first(f'cat <&3 >{seen}; exit 1')
        for password in ('', 'x' * 600):
            self.assert_answers(WRONG, self.bob.login, password)
        self.assert_logged(*[r'result=rejected .* tool=- code=1 .*'] * 4)
        for password in ('a\tb', 'a\0b'):
            self.assertEqual(
                imap(self.dovecot.imap_port, self.bob.login, password)[:22],
                SAID['imap'][WRONG][:22],
            )
        self.assertEqual(len(self.results()), 4)
        self.assertFalse(seen.exists())

    def test_the_second_tool(self) -> None:
        """A tool that refuses leaves the login to the next one."""
        self.tool_first(REJECTS)
        self.assert_answers(OK, self.bob.login, self.bob.password)
        self.assert_answers(WRONG, self.bob.login, 'wrong')

    def test_a_backend_that_is_down(self) -> None:
        """Whom it would have to know is told to come back later, at once if it says so, in time if it hangs;
        others get in."""
        for body in (refuses(111), HANGS):
            with self.subTest(body=body):
                self.tool_first(body, 'timeout=1')
                self.assert_answers(LATER, self.bob.login, 'wrong')
                self.assert_answers(OK, self.bob.login, self.bob.password)

    def test_a_broken_configuration(self) -> None:
        """Nobody is told that a password is wrong."""
        self.host.configure('tiemout=3', *self.chain)
        self.assert_answers(LATER, self.bob.login, self.bob.password)

    def test_many_at_once(self) -> None:
        """100 logins, 25 at a time, right and wrong, end as each of them should."""
        alice, bob = self.host.alice, self.bob
        kinds = [
            (bob.login, bob.password, OK),
            (bob.login, 'wrong', WRONG),
            (alice.login, alice.password, OK),
            (alice.login, 'wrong', WRONG),
            ('eve@example.org', 'wrong', WRONG),
        ]
        with concurrent.futures.ThreadPoolExecutor(25) as pool:
            ended = list(pool.map(lambda kind: self.answers(*kind[:2]), kinds * 10))
        counts = collections.Counter(
            (login, wanted, *answers.values()) for answers, (login, _, wanted) in zip(ended, kinds * 10)
        )  # fmt: skip
        self.assertEqual(
            counts, {(login, wanted, wanted, wanted): 10 for login, _, wanted in kinds}
        )

    def test_cram_md5_cannot_work(self) -> None:
        """It ends with "later", and asks no tool."""
        server = self.start_dovecot(more='auth_mechanisms = plain cram-md5')
        client = imaplib.IMAP4(servers.LOOPBACK, server.imap_port, timeout=LONG_ENOUGH)
        with self.assertRaisesRegex(imaplib.IMAP4.error, r'\[UNAVAILABLE\]'):
            client.login_cram_md5(self.bob.login, self.bob.password)
        client.shutdown()
        self.assertEqual(self.results(), [])

    def test_postfix_asks(self) -> None:
        """At the socket whose three lines Debian has behind a `#`; with the client's address."""
        said = self.dovecot.ask_as_postfix_does
        login, password = self.bob.login, self.bob.password
        self.assertRegex(said(login, password), r'^OK\t1\tuser=bob@example\.org')
        self.assertRegex(said(login, 'wrong'), r'^FAIL\t1\tuser=bob@example\.org$')
        self.tool_first(refuses(111))
        self.assertRegex(said(login, 'wrong'), r'^FAIL\t1\t.*\bcode=temp_fail$')
        results = ('accepted', 'rejected', 'temporary')
        self.assert_logged(*(rf'result={one} ip=192\.0\.2\.7 .*' for one in results))


@needs(*WANTED)
class ExitCodes(Case):
    """In the wrapper's place stands a script that does what the password says."""

    @classmethod
    def options(cls) -> dict[str, str]:
        says = "said=$(tr '\\0' '\\n' <&3 | sed -n 2p)"
        does = 'case $said in [0-9]*) exit $said ;; *) kill -$said $$ ;; esac'
        return {'wrapper': cls.host.script('stand-in', f'{says}; {does}')}

    def test_only_0_and_1_are_verdicts(self) -> None:
        """0 lets in, 1 is a wrong password, and every other code and every signal is trouble."""
        wanted = {'0': OK, '1': WRONG}
        for said in ('0', '1', '2', '3', '100', '111', '127', '128', '255', 'TERM', 'KILL', 'USR1'):
            with self.subTest(said=said):
                self.assert_answers(wanted.get(said, LATER), self.bob.login, said)

    def test_no_wrapper(self) -> None:
        """Where there is none, nobody is told that a password is wrong."""
        script = self.host.folder / 'stand-in'
        moved = script.rename(script.with_name('moved'))
        self.addCleanup(moved.rename, script)
        self.assert_answers(LATER, self.bob.login, '0')
        self.assert_answers(LATER, self.bob.login, '1')


@needs(*WANTED, '/proc')
class Addresses(Case):
    """The client's address is, for the Lua file, what stands in the password."""

    seen: Path

    @classmethod
    def options(cls) -> dict[str, str]:
        cls.seen = cls.host.folder / 'address'
        notes = (
            'cat <&3 >/dev/null; exec 3<&-\n'
            f'echo "${{TCPREMOTEIP-none}} $(readlink /proc/$$/fd/0)" >>{cls.seen}'
        )
        calls = """
            local verify = auth_password_verify
            function auth_password_verify(req, password)
                local address = password ~= 'none' and password or nil
                return verify({user = req.user, remote_ip = address}, password)
            end
        """
        return {'wrapper': cls.host.script('stand-in', notes), 'lua': shown(LUA) + calls}

    def test_only_an_address_reaches_the_shell(self) -> None:
        """Hexadecimal digits, dots and colons do; anything else leaves TCPREMOTEIP empty. The password is on
        descriptor 3 alone."""
        mark = self.host.folder / 'mark'
        good = ['192.0.2.7', '2001:db8::7', '::ffff:192.0.2.7', '::1']
        bad = [
            f'1;touch {mark}',
            f'$(touch {mark})',
            '1 2',
            "1'2",
            '1\u00b7',
            'fe80::1%eth0',
            'none',
        ]
        for address in [*good, *bad]:
            self.assert_answers(OK, self.bob.login, address)
        seen = [line.split(' ') for line in self.seen.read_text().splitlines()]
        wanted = [*good, *('' for _ in bad)]
        self.assertEqual(seen, [[one, '/dev/null'] for one in wanted for _ in ('pop3', 'imap')])
        self.assertFalse(mark.exists())


@needs(*MailHost.packages, 'pamtester')
class Pam(OnFirstConfiguration):
    """The script for pam_exec, in a service with the lines that README.md shows."""

    def test_pam(self) -> None:
        """Right passwords get in; wrong ones, empty ones and trouble do not."""
        wrapper = f'/usr/bin/env PWRAP_CONF={self.host.configuration} {self.host.wrapper}'
        script = place(self.host.folder, FOR_PAM, wrapper=wrapper)
        alice, bob, zoe = self.host.alice, self.bob, self.zoe
        with pam_service(script) as service:

            def enters(login: str, password: str, *options: str) -> bool:
                words = ['pamtester', *options, service, login, 'authenticate', 'acct_mgmt']
                done = subprocess.run(
                    words,
                    check=False,
                    input=f'{password}\n'.encode(),
                    capture_output=True,
                    timeout=LONG_ENOUGH,
                )
                return done.returncode == 0

            for user in (alice, bob, zoe):
                self.assertTrue(enters(user.login, user.password, '-I', 'rhost=192.0.2.7'))
                self.assertFalse(enters(user.login, 'wrong'))
            self.assertFalse(enters('eve@example.org', 'wrong'))
            self.assertFalse(enters(bob.login, ''))
            self.tool_first(refuses(111))
            self.assertFalse(enters(bob.login, 'wrong'))
            self.assertTrue(enters(bob.login, bob.password))
        pairs = [r'accepted ip=192\.0\.2\.7', r'rejected ip=-'] * 3
        last = [r'rejected ip=-', r'rejected ip=- tool=-', r'temporary ip=-', r'accepted ip=-']
        self.assert_logged(*(rf'result={one}.*' for one in pairs + last))


if __name__ == '__main__':
    unittest.main()
