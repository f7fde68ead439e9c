"""Dovecot's user lookups, by userdb { driver = checkpassword }, go through the chain, as LMTP and delivery need it."""

from __future__ import annotations

import poplib

from tests.harness import servers, tools
from tests.harness.machine import needs
from tests.harness.mailhost import MailHost, OnAMailHost, User
from tests.harness.servers import FOUND, TRY_LATER, UNKNOWN, Dovecot

FAILURES = ('failure=last', 'failure=temporary')


@needs(*MailHost.packages, 'dovecot 2.3', 'dovecot-pop3d', 'dovecot-imapd')
class Lookups(OnAMailHost):
    """bob is known to the tool first, carol to the tool second."""

    dovecot: Dovecot

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.dovecot = cls.stack.enter_context(cls.host.dovecot(lookups=True))

    def setUp(self) -> None:
        super().setUp()
        self.chain = [
            f'name=first {self.tool_for(self.host.bob)}',
            f'name=second {self.tool_for(self.host.carol)}',
        ]

    def tool_for(self, user: User) -> str:
        passwords = {user.login: user.password}
        body = tools.looks_up(passwords, user.uid, user.gid, str(self.host.homes))
        return self.host.script(f'knows-{user.login}', body)

    def assert_found(self, user: User) -> None:
        found = self.dovecot.look_up(user.login)
        self.assertEqual(found.code, FOUND, found)
        seen = found.fields['uid'], found.fields['gid'], found.fields['home']
        self.assertEqual(seen, (str(user.uid), str(user.gid), str(user.home)))

    def test_users_of_every_tool_are_found(self) -> None:
        """Whichever tool knows a user: uid, gid and home come to Dovecot, and the log says found."""
        for failure in FAILURES:
            with self.subTest(failure):
                self.host.log.clear()
                self.host.configure(failure, *self.chain)
                self.assert_found(self.host.bob)
                self.assert_found(self.host.carol)
                self.assert_logged(
                    r'result=found ip=\S+ tool=first ms=\d+ user="bob"',
                    rf'result=found ip=\S+ tool=second ms=\d+ user="{self.host.carol.login}"',
                )

    def test_a_user_whom_nobody_knows_is_unknown(self) -> None:
        """If every tool says 3, Dovecot is told that there is no such user; the log says unknown, at level info."""
        for failure in FAILURES:
            with self.subTest(failure):
                self.host.log.clear()
                self.host.configure(failure, *self.chain)
                self.assertEqual(self.dovecot.look_up('mallory').code, UNKNOWN)
                self.assert_logged(r'result=unknown ip=\S+ tool=\S+ code=3 ms=\d+ user="mallory"')
                severities = {line.severity for line in self.host.log.lines('qmail-pwrap[')}
                self.assertEqual(severities, {6})

    def test_a_user_whom_no_tool_serves_is_unknown(self) -> None:
        """Where users= lets no tool be asked, there is no such user."""
        for failure in FAILURES:
            with self.subTest(failure):
                self.host.log.clear()
                self.host.configure(failure, 'users=*@example.net', *self.chain)
                self.assertEqual(self.dovecot.look_up('bob').code, UNKNOWN)
                self.assert_logged(r'result=unknown ip=\S+ tool=- code=3 ms=\d+ user="bob"')

    def test_a_backend_that_is_down_makes_nobody_unknown(self) -> None:
        """If a tool says anything but 3, or cannot run, who is not found is to be tried later, and no mail bounces;
        who is known to a tool behind it is found."""
        deeds = ('exit 111', 'exit 1', 'kill -TERM $$')
        broken = [self.host.script(f'broken{number}', deed) for number, deed in enumerate(deeds)]
        for tool in [*broken, '/nonexistent/tool']:
            for failure in FAILURES:
                with self.subTest(tool=tool, failure=failure):
                    self.host.log.clear()
                    self.host.configure(failure, tool, *self.chain)
                    self.assertEqual(self.dovecot.look_up('mallory').code, TRY_LATER)
                    self.assert_found(self.host.carol)
                    self.assert_logged(
                        r'result=temporary ip=\S+ tool=\S+ code=111 ms=\d+ user="mallory"',
                        rf'result=found ip=\S+ tool=second ms=\d+ user="{self.host.carol.login}"',
                    )

    def test_refused_codes_are_for_passwords(self) -> None:
        """refused= does not count in a lookup: 3 is a user who is not there, and 100 is a backend that is down."""
        self.host.configure('refused=1,3', *self.chain)
        self.assertEqual(self.dovecot.look_up('mallory').code, UNKNOWN)
        self.host.configure('refused=100', self.host.script('says100', 'exit 100'), *self.chain)
        self.assertEqual(self.dovecot.look_up('mallory').code, TRY_LATER)

    def test_passwords_are_checked_all_the_same(self) -> None:
        """A login by POP3 asks the chain twice, for the password and for the user, and the log says accepted and found;
        a wrong password stays one."""
        self.host.configure('failure=temporary', *self.chain)
        for user in (self.host.bob, self.host.carol):
            servers.write_file(
                user.maildir / 'new' / '1.test', f'Subject: {user.login}\n\nHello.\n'
            )
            self.host.log.clear()
            subjects = servers.pop3_subjects(self.dovecot.pop3_port, user.login, user.password)
            self.assertEqual(subjects, [user.login])
            with self.assertRaisesRegex(poplib.error_proto, r'-ERR \[AUTH\]'):
                servers.pop3_subjects(self.dovecot.pop3_port, user.login, 'wrong')
            logged = r'result={} ip=127\.0\.0\.1 tool=\S+ {}ms=\d+ user="' + user.login + '"'
            self.assert_logged(
                *(
                    logged.format(*one)
                    for one in (('accepted', ''), ('found', ''), ('rejected', 'code=1 '))
                )
            )
