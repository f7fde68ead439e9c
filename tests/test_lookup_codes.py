"""In Dovecot's user lookups, a user is found, unknown, or to be asked for later: never rejected.

Here stand-ins play Dovecot, which sets AUTHORIZED=1 and leaves the password empty, and its prog,
checkpassword-reply, which ends with 2. The real ones are in test_lookups.py. Under another name,
that prog is a session as any other: the codes have to be the same.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.harness.logins import TRIPLE, Case, Login, wait_until
from tests.harness.tools import CRASHES, HANGS, LOOPS, looks_up, refuses

REPLY = 'printf "%s %s" "$AUTHORIZED" "$USER"; exit 2'  # the session of a lookup
NAMES = ('checkpassword-reply', 'another')
FAILURES = ('failure=last', 'failure=temporary')


def lookup_of(login: str) -> bytes:
    return login.encode() + b'\0\0\0'


class Lookups(Case):
    """bob is known to the tool first, carol to the tool second."""

    def setUp(self) -> None:
        super().setUp()
        self.first = self.tool('first', looks_up({'bob': 'secret'}, 1000, 1000, '/home'))
        self.second = self.tool('second', looks_up({'carol': 'secret'}, 1001, 1001, '/home'))
        self.reply, self.another = (self.tool(name, REPLY) for name in NAMES)

    def look_up(self, user: str, prog: str = '', **options: Any) -> Login:
        """Start what Dovecot does to find a user."""
        env = {'AUTHORIZED': '1', **options.pop('env', {})}
        return self.start(prog or self.reply, **{'triple': lookup_of(user), **options}, env=env)

    def test_a_user_of_any_tool_is_found(self) -> None:
        """The session's 2 reaches Dovecot, and the log says found, as nobody has logged in;
        refused= and failure= change nothing, and neither does another tool's trouble."""
        down = self.tool('down', refuses(111))
        for prog in (self.reply, self.another):
            for settings in (*FAILURES, 'refused=2', 'refused=1', 'empty=0'):
                for user, tool in (('bob', self.first), ('carol', self.second)):
                    with self.subTest(prog=prog, settings=settings, user=user):
                        self.configure(settings, self.first, self.second)
                        login = self.look_up(user, prog)
                        self.assert_ends(login, 2, 'found', tool)
                        self.assertEqual(login.output(1), b'2 ' + user.encode())
            self.configure(down, self.first)
            self.assert_ends(self.look_up('bob', prog), 2, 'found', self.first, 'exit code 111$')

    def test_only_3_says_that_nobody_is_there(self) -> None:
        """Every other code is trouble, and refused= does not count; but 0 and 2 are what reply may
        end with, so that behind it they find the user. Behind a session, they do not."""
        says = self.write('says', '#!/bin/sh\nexit $1\n', 0o755)
        chain = [f'refused=1-255 name=c{code} {says} {code}' for code in range(256)]
        for prog, finding in ((self.reply, (0, 2)), (self.another, ())):
            with self.subTest(prog=prog):
                self.configure(*(line for code, line in enumerate(chain) if code not in finding))
                login = self.look_up('bob', prog).wait()
                self.assertEqual((login.code, login.result()['result']), (111, 'temporary'))
                named = [line.partition(':')[0] for line in login.problems()]
                codes = [code for code in range(256) if code not in (3, *finding)]
                self.assertEqual(named, [f'c{code}' for code in codes])
            for code in finding:
                with self.subTest(prog=prog, code=code):
                    self.configure(chain[code])
                    self.assert_ends(self.look_up('bob', prog), code, 'found', f'c{code}')

    def test_a_tool_need_not_read_the_triple(self) -> None:
        """It may have the login from elsewhere, as from Dovecot's AUTH_USER."""
        tool = self.tool('environment', 'export AUTHORIZED=2 USER=$AUTH_USER; exec "$@"')
        self.configure(tool)
        for prog in (self.reply, self.another):
            with self.subTest(prog=prog):
                login = self.look_up('bob', prog, env={'AUTH_USER': 'bob'})
                self.assert_ends(login, 2, 'found', tool)
                self.assertEqual(login.output(1), b'2 bob')

    def test_a_user_whom_nobody_knows_is_unknown(self) -> None:
        """3, if every tool that was asked said 3, or none serves the login."""
        for failure in FAILURES:
            for lines, tool in (
                ((self.first, self.second), self.second),
                (('refused=1', self.first), self.first),
                (('users=*@example.org', self.first), '-'),
                ((f'users=bob {self.first}', f'users=carol {self.second}'), '-'),
                ((self.first, 'users=bob /nonexistent/tool'), self.first),
            ):
                with self.subTest(failure=failure, lines=lines):
                    self.configure(failure, *lines)
                    self.assert_ends(self.look_up('mallory'), 3, 'unknown', tool)

    def test_trouble_makes_nobody_unknown(self) -> None:
        """111, if one tool gave any other answer or none: mail must not bounce for a backend that
        is down. The log names that tool."""
        said = [1, 4, 100, 111, 127, 255]
        troubles = [
            (self.tool(f'says{code}', refuses(code)), f'exit code {code}$') for code in said
        ]
        troubles.append((self.tool('crashes', CRASHES), 'killed by SIGSEGV$'))
        troubles.append(('/nonexistent/tool', 'cannot run: No such file'))
        for tool, problem in troubles:
            for lines in (
                ('failure=last', 'refused=1,2,3,100', tool, self.first),
                ('failure=temporary', self.first, tool),
            ):
                with self.subTest(lines=lines):
                    self.configure(*lines)
                    self.assert_ends(self.look_up('mallory'), 111, 'temporary', tool, problem)

    def test_a_hanging_tool_makes_nobody_unknown(self) -> None:
        """A time limit that is over is trouble, too."""
        hangs = self.tool('hangs', HANGS)
        self.configure(f'timeout=1 {hangs}', self.first)
        self.assert_ends(self.look_up('mallory'), 111, 'temporary', hangs, 'timed out')

    def test_an_interrupted_lookup_makes_nobody_unknown(self) -> None:
        """A signal that comes while a tool looks is no answer, even if it dies with 3."""
        waits = self.tool('waits', f'trap "exit 3" TERM; : >$dir/ready; {LOOPS}')
        self.configure(self.first, waits)
        login = self.look_up('mallory')
        wait_until(lambda: os.path.exists(self.path('ready')), 'the tool is ready')
        os.kill(login.pid, signal.SIGTERM)
        self.assert_ends(login, 111, 'temporary', waits, 'interrupted, exit code 3$')

    def test_a_broken_file_makes_nobody_unknown(self) -> None:
        """Neither does a mistake in the configuration."""
        for lines in (('nonsense', self.first), (), (f'{self.first} users=bob',)):
            with self.subTest(lines=lines):
                self.configure(*lines)
                self.assert_ends(self.look_up('mallory'), 111, 'temporary', '-', '.')

    def test_what_is_no_triple_never_finds_anybody(self) -> None:
        """Where a login would end with 2, a lookup ends with 111, as 2 would be a user found; so it
        does where a login would be rejected for its length."""
        self.configure(self.first)
        folder = os.open('/', os.O_RDONLY)
        self.addCleanup(os.close, folder)
        for name, triple, problem in (
            ('closed', None, '^descriptor 3 is not open, or cannot be read: '),
            ('a folder', folder, '^descriptor 3 is not open, or cannot be read: '),
            ('nothing', b'', ''),
            ('no NUL', b'bob', ''),
            ('one field', b'bob\0', ''),
            ('an open field', b'bob\0secret', ''),
            ('too long', b'bob\0\0' + b'x' * 600, ''),
        ):
            for failure in FAILURES:
                with self.subTest(name, failure=failure):
                    self.configure(failure, self.first)
                    login = self.look_up('bob', triple=triple)
                    self.assert_ends(login, 111, 'temporary', '-', problem or None)
        self.assertEqual(self.ran('first'), 0)

    def test_a_login_with_a_password_is_no_lookup(self) -> None:
        """AUTHORIZED=1 alone does not make one: its wrong password is refused as such."""
        no = self.tool('no', refuses(3))
        self.configure('failure=temporary', no)
        login = self.look_up('', triple=TRIPLE)
        self.assert_ends(login, 1, 'rejected', no)
        self.configure('failure=last', no)
        login = self.look_up('', triple=TRIPLE)
        self.assert_ends(login, 3, 'rejected', no)

    def test_an_empty_password_without_authorized_1_is_no_lookup(self) -> None:
        """Every other value of AUTHORIZED is a login, and refused."""
        self.configure(self.first)
        for value in ('', '0', '2', '01', ' 1', '1 '):
            with self.subTest(value=value):
                login = self.look_up('bob', env={'AUTHORIZED': value})
                self.assert_ends(login, 1, 'rejected', '-')
        self.assertEqual(self.ran('first'), 0)
