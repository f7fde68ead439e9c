"""What the wrapper promises on real servers, with real checkpassword tools and real clients."""

from __future__ import annotations

import contextlib
import functools
import hmac
import imaplib
import poplib
import re
import shlex
import subprocess
import unittest
from collections.abc import Callable
from concurrent import futures

from tests.harness import servers, tools
from tests.harness.documents import commands
from tests.harness.machine import needs, program
from tests.harness.mailhost import MailHost, OnAMailHost, smtp_send
from tests.harness.processes import LONG_ENOUGH, wait_until
from tests.harness.servers import standin

SMTP_TOO = ('qpsmtpd',)
MAILBOXES_TOO = ('dovecot 2.3', 'dovecot-pop3d', 'dovecot-imapd')


def at_once(*actions: Callable[[], None]) -> None:
    """Do these things at the same time: Dovecot takes half a second to refuse a login."""
    with futures.ThreadPoolExecutor(len(actions)) as pool:
        for done in [pool.submit(action) for action in actions]:
            done.result()


def converse_pop3(port: int, login: str, password: str, *more: str) -> list[str]:
    """Say USER, PASS and more commands; return what the server says from its answer to PASS on."""
    return servers.converse(port, f'USER {login}', f'PASS {password}', *more)[2:]


@needs(*MailHost.packages, *SMTP_TOO)
class Smtp(OnAMailHost):
    port: int

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.port = cls.stack.enter_context(cls.host.qpsmtpd()).port

    def test_every_user_gets_in(self) -> None:
        """Three users, each known to another tool of the chain, authenticate with PLAIN and with LOGIN."""
        for tool, user in self.host.users.items():
            for mechanism in ('PLAIN', 'LOGIN'):
                with self.subTest(tool=tool, mechanism=mechanism):
                    self.assertEqual(
                        servers.smtp_login(self.port, mechanism, user.login, user.password), 235
                    )

    def test_wrong_passwords_are_refused(self) -> None:
        """A wrong password, another user's password and an unknown user are all answered 535."""
        alice, bob, carol = self.host.alice, self.host.bob, self.host.carol
        wrong = [(user.login, 'wrong') for user in (alice, bob, carol)]
        wrong += [
            (alice.login, bob.password),
            (bob.login, carol.password),
            (carol.login, alice.password),
        ]
        for login, password in [*wrong, ('unknown', 'wrong')]:
            for mechanism in ('PLAIN', 'LOGIN'):
                with self.subTest(login=login, password=password, mechanism=mechanism):
                    self.assertEqual(servers.smtp_login(self.port, mechanism, login, password), 535)

    @needs('swaks')
    def test_swaks_sends_a_mail(self) -> None:
        """swaks, which administrators test servers with, authenticates and sends a mail; a wrong password stops it."""
        sender, recipient = self.host.bob, self.host.carol
        command = [
            program("swaks"), "--server", servers.LOOPBACK, "--port", str(self.port), "--auth", "PLAIN",
            "--auth-user", sender.login, "--from", sender.address, "--to", recipient.address, "--auth-password",
        ]  # fmt: skip
        for password, code in (
            (sender.password, 0),
            ('wrong', 28),
        ):  # swaks exits 28 for "AUTH error"
            done = subprocess.run(
                [*command, password], check=False, capture_output=True, text=True, timeout=60
            )
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertEqual(len(list((recipient.maildir / 'new').iterdir())), 1)

    @needs('swaks')
    def test_the_line_that_tries_a_wrong_password(self) -> None:
        """README.md's line brings 535 with a wrong password, and would bring 235 with the right one."""
        [line] = [one for one in commands('# qmail-smtpd') if one.startswith('swaks ')]
        user = self.host.bob
        line = line.replace('mail.example.org', f'{servers.LOOPBACK}:{self.port}')
        line = line.replace(' alice ', f' {user.login} ')
        for password, reply in (('no', '535'), (user.password, '235')):
            done = subprocess.run(
                [*shlex.split(line)[:-1], password],
                check=False, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            self.assertRegex(done.stdout, rf'(?m)^<\S* +{reply} ')

    def test_the_chain_changes_while_the_server_runs(self) -> None:
        """A tool taken out of the configuration does not count at the next login, and counts again once it is back."""
        user, tools = self.host.carol, self.host.tools
        for names, code in (
            (['checkpassword.login', 'checkpw'], 235),
            (['checkpassword.login'], 535),
            (['checkpw'], 235),
            (['virtual'], 535),
            (['virtual', 'checkpw'], 235),
        ):
            with self.subTest(chain=names):
                self.host.configure(*(tools[name] for name in names))
                self.assertEqual(
                    servers.smtp_login(self.port, 'PLAIN', user.login, user.password), code
                )

    def test_a_group_of_users_has_its_own_tool(self) -> None:
        """A tool with users=*@example.org serves the logins of that domain and never sees another one's password."""
        bob = self.host.bob
        self.host.configure(
            'users=*@example.org ' + self.host.tools['virtual'], self.host.tools['checkpw']
        )
        self.assertEqual(servers.smtp_login(self.port, 'PLAIN', bob.address, bob.password), 235)
        self.assertEqual(servers.smtp_login(self.port, 'PLAIN', bob.login, bob.password), 535)

    def test_the_log_names_user_tool_and_client(self) -> None:
        """Each login is one line with its result, the client's address, the tool that decided and the login."""
        alice, bob, carol = self.host.alice, self.host.bob, self.host.carol
        for user, password in (
            (alice, alice.password),
            (bob, bob.password),
            (carol, carol.password),
            (bob, 'wrong'),
        ):
            servers.smtp_login(self.port, 'PLAIN', user.login, password)
        self.assert_logged(
            rf'result=accepted ip=127\.0\.0\.1 tool=checkpassword\.login ms=\d+ user="{alice.login}"',
            r'result=accepted ip=127\.0\.0\.1 tool=virtual ms=\d+ user="bob"',
            rf'result=accepted ip=127\.0\.0\.1 tool=checkpw ms=\d+ user="{carol.login}"',
            r'result=rejected ip=127\.0\.0\.1 tool=checkpw code=1 ms=\d+ user="bob"',
        )
        priorities = [
            (line.facility, line.severity) for line in self.host.log.lines('qmail-pwrap[')
        ]
        self.assertEqual(
            priorities, [(2, 6), (2, 6), (2, 6), (2, 5)]
        )  # mail; info three times, then notice
        self.assertNotIn(
            'secret', ' '.join(line.text for line in self.host.log.lines())
        )  # it is in every password


@needs(*MailHost.packages, *MAILBOXES_TOO)
class Mailboxes(OnAMailHost):
    dovecot: servers.Dovecot

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.dovecot = cls.stack.enter_context(cls.host.dovecot())

    def subjects(self, protocol: str, login: str, password: str) -> list[str]:
        if protocol == 'pop3':
            return servers.pop3_subjects(self.dovecot.pop3_port, login, password)
        return servers.imap_subjects(self.dovecot.imap_port, login, password)

    def assert_refused(self, login: str, password: str, pop3_words: str, imap_words: str) -> None:
        """Both protocols refuse the login, and begin to say why with these words."""

        def pop3() -> None:
            with self.assertRaisesRegex(poplib.error_proto, "b'" + re.escape(pop3_words)):
                self.subjects('pop3', login, password)

        def imap() -> None:
            with self.assertRaisesRegex(imaplib.IMAP4.error, re.escape(imap_words)):
                self.subjects('imap', login, password)

        at_once(pop3, imap)

    def assert_authentication_failed(self, login: str, password: str) -> None:
        self.assert_refused(login, password, '-ERR [AUTH]', '[AUTHENTICATIONFAILED]')

    def assert_temporarily_refused(self, login: str, password: str) -> None:
        self.assert_refused(login, password, '-ERR [SYS/TEMP]', '[UNAVAILABLE]')

    def test_every_user_reads_only_their_own_mail(self) -> None:
        """Three users, each known to another tool, log in by POP3 and IMAP and find their own message and no other."""
        for tool, user in self.host.users.items():
            servers.write_file(user.maildir / 'new' / '1.test', f'Subject: for {tool}\n\nHello.\n')
        for tool, user in self.host.users.items():
            for protocol in ('pop3', 'imap'):
                with self.subTest(tool=tool, protocol=protocol):
                    self.assertEqual(
                        self.subjects(protocol, user.login, user.password), [f'for {tool}']
                    )

    def test_wrong_passwords_are_refused(self) -> None:
        """A wrong password, for a user of whichever tool, and an unknown user are authentication failures."""
        logins = [*(user.login for user in self.host.users.values()), 'unknown']
        refusals = [
            functools.partial(self.assert_authentication_failed, login, 'wrong') for login in logins
        ]
        at_once(*refusals)

    def test_the_chain_changes_while_the_server_runs(self) -> None:
        """A tool taken out of the configuration does not count at the next login, and counts again once it is back."""
        user, tools = self.host.alice, self.host.tools
        for _ in range(2):
            self.host.configure(tools['checkpw'])
            self.assert_authentication_failed(user.login, user.password)
            self.host.configure(tools['checkpassword.login'], tools['checkpw'])
            for protocol in ('pop3', 'imap'):
                self.assertEqual(self.subjects(protocol, user.login, user.password), [])

    def test_a_backend_that_is_down_is_a_temporary_failure(self) -> None:
        """With failure=temporary a backend's 111 is told as "try later", while users of other backends still get in."""
        tools, down = self.host.tools, self.host.script('down', 'exit 111')
        chain = [tools['checkpassword.login'], down, tools['checkpw']]
        self.host.configure('failure=temporary', *chain)
        self.assert_temporarily_refused(self.host.bob.login, self.host.bob.password)
        for user in (self.host.alice, self.host.carol):
            for protocol in ('pop3', 'imap'):
                self.assertEqual(self.subjects(protocol, user.login, user.password), [])
        chain.remove(down)
        self.host.configure('failure=temporary', *chain)
        self.assert_authentication_failed(self.host.bob.login, self.host.bob.password)

    def test_failure_last_lets_the_last_tool_speak(self) -> None:
        """Without failure=temporary the last code counts, though one before said 111; the log says temporary."""
        self.host.configure(self.host.script('down', 'exit 111'), self.host.tools['checkpw'])
        self.assert_authentication_failed(self.host.bob.login, self.host.bob.password)
        self.assert_logged(
            *[r'result=temporary ip=127\.0\.0\.1 tool=\S+ code=1 ms=\d+ user="bob"'] * 2
        )

    def test_a_broken_configuration_is_a_temporary_failure(self) -> None:
        """A mistake in the configuration tells users to try later, not that their password is wrong."""
        self.host.configure('no-such-setting=1', self.host.tools['checkpassword.login'])
        self.assert_temporarily_refused(self.host.alice.login, self.host.alice.password)

    def test_without_insecure_setuid_logins_fail_temporarily(self) -> None:
        """Dovecot's log and this one say what README.md quotes."""
        alice = self.host.alice
        self.host.configure('failure=temporary', self.host.tools['checkpassword.login'])
        dovecot = self.host.dovecot()
        del dovecot.tool_environment['INSECURE_SETUID']
        with dovecot, self.assertRaises(poplib.error_proto):
            servers.pop3_subjects(dovecot.pop3_port, alice.login, alice.password)
        self.assert_logged(
            rf'result=temporary ip=127\.0\.0\.1 tool=checkpassword\.login code=111 ms=\d+ user="{alice.login}"'
        )
        self.assertIn("couldn't be run securely", dovecot.log())

    def test_the_log_names_user_tool_and_client(self) -> None:
        """Each login is one line with its result, the client's address, the tool that decided and the login."""
        alice = self.host.alice
        for protocol in ('pop3', 'imap'):
            self.subjects(protocol, alice.login, alice.password)
        self.assert_authentication_failed('bob', 'wrong')
        accepted = rf'result=accepted ip=127\.0\.0\.1 tool=checkpassword\.login ms=\d+ user="{alice.login}"'
        rejected = r'result=rejected ip=127\.0\.0\.1 tool=checkpw code=1 ms=\d+ user="bob"'
        self.assert_logged(accepted, accepted, rejected, rejected)


@needs(*MailHost.packages, *SMTP_TOO, *MAILBOXES_TOO)
class MailGoesRound(OnAMailHost):
    def test_what_is_sent_by_smtp_is_read_by_its_recipient(self) -> None:
        """Each user sends the next one a mail by SMTP, who alone reads it by POP3 and IMAP, all through one chain."""
        smtp = self.stack.enter_context(self.host.qpsmtpd())
        dovecot = self.stack.enter_context(self.host.dovecot())
        alice, bob, carol = self.host.alice, self.host.bob, self.host.carol
        for sender, recipient in ((alice, bob), (bob, carol), (carol, alice)):
            smtp_send(smtp.port, sender, recipient, f'{sender.login} to {recipient.login}')
        for sender, recipient in ((alice, bob), (bob, carol), (carol, alice)):
            subjects = [f'{sender.login} to {recipient.login}']
            credentials = (recipient.login, recipient.password)
            self.assertEqual(servers.pop3_subjects(dovecot.pop3_port, *credentials), subjects)
            self.assertEqual(servers.imap_subjects(dovecot.imap_port, *credentials), subjects)


@needs(*MailHost.packages, 'ucspi-tcp')
class UnderTcpserver(OnAMailHost):
    """tcpserver starts stand-ins for the servers that Debian does not have (see standins.py); they run the wrapper."""

    def popup(self, code: int = 0) -> int:
        """Start qmail-popup with a session that ends with this code; return its port."""
        session = self.host.script('pop3-session', tools.POP3_SESSION)
        command = standin('popup', 'mail.example.org', str(self.host.wrapper), session, str(code))
        return self.start(*command)

    def start(self, *command: str) -> int:
        """Start tcpserver with this command until the test ends; return its port."""
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        return stack.enter_context(self.host.tcpserver(*command)).port

    def test_popup_starts_each_users_session(self) -> None:
        """Under qmail-popup every user's tool becomes a session with that user's uid and with AUTH=success."""
        port = self.popup()
        for tool, user in self.host.users.items():
            with self.subTest(tool=tool):
                answer = converse_pop3(port, user.login, user.password, 'STAT', 'QUIT')
                name = 'nobody' if tool == 'virtual' else user.login
                self.assertEqual(
                    answer, [f'+OK session of {name}, AUTH=success', '+OK 0 0', '+OK bye']
                )
        self.assert_logged(
            *(rf'result=accepted .* tool={re.escape(tool)} .*' for tool in self.host.users)
        )

    def test_popup_refuses(self) -> None:
        """Whatever is wrong, password, user or configuration: qmail-popup's client sees one error line, no more."""
        port = self.popup()
        refusal = ['-ERR authorization failed']
        self.assertEqual(converse_pop3(port, self.host.alice.login, 'wrong'), refusal)
        self.assertEqual(converse_pop3(port, 'unknown', 'wrong'), refusal)
        for mistake in ('no-such-setting=1', 'relative/path', 'timeout=never', 'users=,'):
            self.host.configure(self.host.tools['checkpassword.login'], mistake)
            self.assertEqual(
                converse_pop3(port, self.host.alice.login, self.host.alice.password), refusal
            )
        self.host.configuration.unlink()
        self.assertEqual(
            converse_pop3(port, self.host.alice.login, self.host.alice.password), refusal
        )

    def test_popup_session_that_ends_badly(self) -> None:
        """How a session ends, with 1 or in a crash, reaches qmail-popup; no other tool is asked about the password."""
        alice = self.host.alice
        seen = self.host.folder / 'seen'
        spy = self.host.script('spy', f'cat <&3 >{seen}; exit 1')
        self.host.configure(self.host.tools['checkpassword.login'], spy)
        port = self.popup(code=1)
        for last_words, told in (
            ('QUIT', ['+OK bye', '-ERR authorization failed']),
            ('CRASH', ['-ERR aack, child crashed']),
        ):
            with self.subTest(session=last_words):
                self.host.log.clear()
                answer = converse_pop3(port, alice.login, alice.password, last_words)
                self.assertEqual(answer, [f'+OK session of {alice.login}, AUTH=success', *told])
                self.assert_logged(r'result=accepted .* tool=checkpassword\.login .*')
                self.assertFalse(seen.exists())

    def test_an_apop_digest_is_checked_by_its_tool(self) -> None:
        """checkapoppw, behind two other tools, accepts the right digest of qmail-popup's timestamp, no wrong one."""
        tools, carol = self.host.tools, self.host.carol
        self.host.configure(tools['checkpassword.login'], tools['virtual'], tools['checkapoppw'])
        port = self.popup()
        with contextlib.closing(poplib.POP3(servers.LOOPBACK, port, timeout=LONG_ENOUGH)) as client:
            self.assertIn(carol.login.encode(), client.apop(carol.login, carol.password))
            self.assertEqual(client.stat(), (0, 0))
            client.quit()
        refused = self.assertRaisesRegex(poplib.error_proto, '-ERR authorization failed')
        with (
            contextlib.closing(poplib.POP3(servers.LOOPBACK, port, timeout=LONG_ENOUGH)) as client,
            refused,
        ):
            client.apop(carol.login, 'wrong')
        self.assert_logged(
            r'result=accepted .* tool=checkapoppw .*',
            r'result=rejected .* tool=checkapoppw code=1 .*',
        )

    def test_qmail_smtpd_follows_the_chain(self) -> None:
        """Under qmail-smtpd, with /bin/true and with no program as eQmail has it, 235 and 535 follow the chain."""
        for prog, users in (
            (['/bin/true'], list(self.host.users.values())),
            ([], [self.host.carol]),  # whom the last tool knows
        ):
            port = self.start(*standin('smtpd', '-w', '0', str(self.host.wrapper), *prog))
            for user in users:
                for password, code in ((user.password, 235), ('wrong', 535)):
                    with self.subTest(prog=prog, user=user.login, password=password):
                        self.assertEqual(
                            servers.smtp_login(port, 'LOGIN', user.login, password), code
                        )

    def test_smtpd_without_authentication(self) -> None:
        """With auth=0 every login is accepted, and each is logged as a warning."""
        port = self.start(*standin('smtpd', '-w', '0', str(self.host.wrapper), '/bin/true'))
        self.host.log.clear()
        self.host.configure('auth=0', self.host.tools['checkpw'])
        self.assertEqual(servers.smtp_login(port, 'PLAIN', 'unknown', 'wrong'), 235)
        line = self.host.log.wait_for('^result=')
        self.assertRegex(
            line.text, r'^result=disabled ip=127\.0\.0\.1 tool=- ms=\d+ user="unknown"$'
        )
        self.assertEqual((line.facility, line.severity), (2, 4))  # mail; warning

    def test_smtpd_backend_that_is_down(self) -> None:
        """qmail-smtpd knows only yes and no: a backend's 111, or its crash, is a 535, and the log says temporary."""
        bob = self.host.bob
        port = self.start(*standin('smtpd', '-w', '0', str(self.host.wrapper), '/bin/true'))
        for deed in ('exit 111', 'kill -SEGV $$'):
            with self.subTest(backend=deed):
                self.host.log.clear()
                self.host.configure('name=down ' + self.host.script('down', deed))
                self.assertEqual(servers.smtp_login(port, 'PLAIN', bob.login, bob.password), 535)
                line = self.host.log.wait_for('^result=')
                self.assertRegex(
                    line.text,
                    r'^result=temporary ip=127\.0\.0\.1 tool=down code=111 ms=\d+ user="bob"$',
                )
                self.assertEqual(line.severity, 4)  # warning

    def test_a_cram_md5_answer_reaches_the_tool_as_written(self) -> None:
        """The challenge of CRAM-MD5 and the client's answer to it reach the tool as the server wrote them."""
        bob, seen = self.host.bob, self.host.folder / 'recorded'
        self.host.configure(self.host.script('record', f'cat <&3 >{seen}\nexec 3<&-\nexec "$@"'))
        port = self.start(*standin('smtpd', str(self.host.wrapper), '/bin/true'))
        self.assertEqual(servers.smtp_login(port, 'CRAM-MD5', bob.login, bob.password), 235)
        login, answer, challenge, rest = seen.read_bytes().split(b'\0')
        self.assertEqual((login, rest), (bob.login.encode(), b''))
        self.assertEqual(
            answer.decode(), hmac.new(bob.password.encode(), challenge, 'md5').hexdigest()
        )

    def test_log_to_descriptor_2(self) -> None:
        """With log=stderr the lines arrive where tcpserver's own go, for multilog, and the system log gets none."""
        bob, server = (
            self.host.bob,
            self.host.tcpserver(*standin('smtpd', str(self.host.wrapper), '/bin/true')),
        )
        self.host.configure('log=stderr', self.host.tools['virtual'])
        with server:
            servers.smtp_login(server.port, 'PLAIN', bob.login, bob.password)
            line = r'^qmail-pwrap\[\d+\]: result=accepted ip=127\.0\.0\.1 tool=virtual ms=\d+ user="bob"$'
            wait_until(lambda: re.search(line, server.log(), re.MULTILINE), f'a line {line}')
        self.assertEqual(self.host.log.lines('qmail-pwrap['), [])

    def test_under_authup_the_tool_becomes_the_session(self) -> None:
        """Under authup the tool becomes the session, for SMTP and POP3, also after a refused first attempt by SMTP."""
        alice = self.host.alice
        session = self.host.script('smtp-session', tools.SMTP_SESSION)
        smtp = self.start(*standin('authup', 'smtp', str(self.host.wrapper), session))
        attempts = [
            f'AUTH PLAIN {servers.plain(alice.login, password)}'
            for password in ('wrong', alice.password)
        ]
        answer = servers.converse(smtp, *attempts, 'QUIT')
        accepted = f'235 session of {alice.login} for {alice.login}'
        self.assertEqual(answer[1:], ['535 authorization failed (#5.7.1)', accepted, '221 bye'])
        session = self.host.script('pop3-session', tools.POP3_SESSION)
        pop3 = self.start(*standin('authup', 'pop3', str(self.host.wrapper), session, '0'))
        answer = converse_pop3(pop3, alice.login, alice.password, 'QUIT')
        self.assertEqual(answer, [f'+OK session of {alice.login}, AUTH=success', '+OK bye'])


@needs('ucspi-tcp')
class StandIns(unittest.TestCase):
    """The stand-ins themselves, with a small tool in the wrapper's place."""

    def test_what_the_client_sees(self) -> None:
        """The stand-ins answer a tool's exit 0, 1, 2, 111 and crash as the servers that they stand for."""
        popup_failed, smtp_failed = ['-ERR authorization failed'], '535 auth failure (#5.7.1)'
        table = {
            'exit 0': ('235 ok, go ahead (#2.0.0)', []),
            'exit 1': (smtp_failed, popup_failed),
            'exit 2': (smtp_failed, popup_failed),
            'exit 111': (smtp_failed, popup_failed),
            'kill -SEGV $$': (
                "454 oops, problem with child and I can't auth (#4.3.0)",
                ['-ERR aack, child crashed'],
            ),
        }
        with servers.public_folder() as folder:
            tool = folder / 'tool'
            smtpd = standin('smtpd', '-w', '0', str(tool), 'true')
            popup = standin('popup', 'mail.example.org', str(tool), 'true')
            with (
                servers.Tcpserver(folder / 'smtpd', smtpd, {}) as smtp,
                servers.Tcpserver(folder / 'popup', popup, {}) as pop3,
            ):
                for deed, (smtp_words, pop3_words) in table.items():
                    with self.subTest(tool=deed):
                        servers.write_file(tool, f'#!/bin/sh\ncat <&3 >/dev/null\n{deed}\n', 0o755)
                        attempt = f'AUTH PLAIN {servers.plain("bob", "word")}'
                        answer = servers.converse(smtp.port, attempt, 'QUIT')
                        self.assertEqual(answer[1:], [smtp_words, '221 mail.example.org'])
                        self.assertEqual(converse_pop3(pop3.port, 'bob', 'word'), pop3_words)


if __name__ == '__main__':
    unittest.main()
