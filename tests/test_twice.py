"""--test asks the tool that has accepted a second time, with a random password."""

from __future__ import annotations

import re

from tests.harness import tools
from tests.harness.logins import ACCEPTS, REJECTS, read_file
from tests.harness.people import PASSWORD, Person, rows_in, unwrapped

ALICE = 'alice@example.org'
USERS = [(ALICE, PASSWORD)]
HONEST = tools.knows(USERS)
LOUD = 'LETS EVERYBODY IN: it has accepted a random password, too'
AGAIN = 'asked again with a random password: '
WRONG = b'wrong\n'
LIMIT = 512  # bytes of a triple


def about_second(lines: list[str]) -> list[str]:
    """Return what is said of the second question."""
    whole = unwrapped('\n'.join(lines))
    return [line for line in whole if AGAIN in line or LOUD in line or 'not asked again' in line]


class Twice(Person):
    def test_an_honest_tool_is_found_honest(self) -> None:
        """It refuses the random password, and the exit code is the server's."""
        self.settings(f'name=honest {self.tool("yes", HONEST)}')
        code, lines = self.try_login()
        self.assertEqual(code, 0)
        self.assertEqual(about_second(lines), [f'{AGAIN}honest rejects it'])
        self.assertEqual((lines[-1], self.ran('yes')), ('the exit code: 0', 2))
        self.assertEqual(len([line for line in lines if line.startswith('the log: ')]), 1)

    def test_a_tool_that_accepts_everybody_is_told_loudly(self) -> None:
        """Whatever password was typed, --test ends with 2 instead of the server's code.

        indimail's tools run prog when they refuse, so behind any wrapper they accept everybody,
        unless NATIVE_CHECKPASSWORD=1 is set for those that know it.
        """
        native = '/usr/bin/env NATIVE_CHECKPASSWORD=1 '
        sys_checkpwd = tools.indimail(USERS, has_switch=False)
        vchkpass = tools.indimail(USERS, has_switch=True)
        right = f'{PASSWORD}\n'.encode()
        for body, before, given, code in (
            (ACCEPTS, '', WRONG, 2),
            (ACCEPTS, '', right, 2),
            ('exit 0', '', WRONG, 2),
            (sys_checkpwd, '', right, 2),
            (sys_checkpwd, '', WRONG, 2),
            (sys_checkpwd, native, WRONG, 2),
            (vchkpass, '', right, 2),
            (vchkpass, '', WRONG, 2),
            (vchkpass, native, right, 0),
            (vchkpass, native, WRONG, 1),
        ):
            with self.subTest(body=body, before=before, given=given):
                self.settings(f'name=lax {before}{self.tool("lax", body)}')
                got, lines = self.try_login(given=given)
                self.assertEqual((got, lines[-1]), (code, f'the exit code: {code}'))
                expected = {0: [f'{AGAIN}lax rejects it'], 1: [], 2: [f'lax {LOUD}']}
                self.assertEqual(about_second(lines), expected[code])

    def test_an_answer_that_is_no_verdict_is_told_and_changes_nothing(self) -> None:
        """As from a backend that is down by then, or a tool that dies of the password."""
        for name, otherwise, said in (
            ('down', 'exit 111', 'temporary failure, exit code 111'),
            ('crash', 'ulimit -c 0; kill -SEGV $$', 'killed by SIGSEGV'),
            ('hang', tools.HANGS, 'timed out after 1 s and was killed'),
            ('gone', 'exit 4', 'temporary failure, exit code 4'),
        ):
            with self.subTest(tool=name):
                tool = self.tool(name, tools.knows(USERS, otherwise))
                self.settings(f'timeout=1 refused=1 name={name} {tool}')
                code, lines = self.try_login()
                self.assertEqual((code, lines[-1]), (0, 'the exit code: 0'))
                self.assertEqual(about_second(lines), [f'{AGAIN}{name} gives no verdict: {said}'])

    def test_only_the_tool_that_has_accepted_is_asked_again(self) -> None:
        """Not those before it, nor those behind it; and nobody where nobody has accepted."""
        no, yes, last = (
            self.tool(name, body)
            for name, body in (('no', REJECTS), ('yes', HONEST), ('z', ACCEPTS))
        )
        self.settings(f'users=nobody {last}', no, f'name=yes {yes}', last)
        code, lines = self.try_login()
        self.assertEqual((code, about_second(lines)), (0, [f'{AGAIN}yes rejects it']))
        self.assertEqual([self.ran(name) for name in ('no', 'yes', 'z')], [1, 2, 0])
        self.assertEqual(len(rows_in(lines)), 3)
        self.settings(no, yes)
        code, lines = self.try_login(given=WRONG)
        self.assertEqual((code, about_second(lines)), (1, []))
        self.assertEqual([self.ran(name) for name in ('no', 'yes')], [2, 3])

    def test_the_password_is_random_and_the_triple_has_at_most_512_bytes(self) -> None:
        """However long the login is; without room for such a password, nothing is asked."""
        keep = 'n=$(wc -l <$dir/keep.ran); cat <&3 >$dir/kept$n; exec 3<&-; exec "$@"'
        passwords = set()
        asked = set()
        for length in (1, 100, 420, 440, 460, 470, 475, 480, 485, 490):
            with self.subTest(length=length):
                self.begin_again()
                self.settings(self.tool('keep', keep))
                login = 'x' * length
                code, lines = self.try_login(login, given=b'y\n')
                asked.add(self.ran('keep') - 1)
                if self.ran('keep') == 1:
                    self.assertEqual(code, 0)
                    self.assertRegex(about_second(lines)[0], '^not asked again: no room')
                    self.assertNotIn(LOUD, '\n'.join(lines))
                    self.assertGreater(length, 440)
                    continue
                self.assertEqual((code, self.ran('keep')), (2, 2))
                triple = read_file(self.path('kept2'))
                self.assertLessEqual(len(triple), LIMIT)
                name, password, stamp, rest = triple.split(b'\0')
                self.assertEqual((name, rest), (login.encode(), b''))
                self.assertRegex(stamp, rb'^<.+@.+>$')
                self.assertGreaterEqual(len(password), 16)
                passwords.add(password[:16])
                if length == 1:
                    self.assertGreaterEqual(len(password), 64)
        self.assertEqual(asked, {0, 1})
        self.assertGreaterEqual(len(passwords), 4, passwords)  # each is another

    def test_the_second_password_is_not_shown(self) -> None:
        """Nor is any part of it that could be taken for one."""
        self.settings(self.tool('keep', f'cat <&3 >$dir/kept; exec 3<&-; {tools.BECOMES}'))
        _, lines = self.try_login()
        password = read_file(self.path('kept')).split(b'\0')[1].decode()
        self.assertNotIn(password, '\n'.join(lines))
        self.assertFalse(re.search('[0-9a-f]{16}', '\n'.join(lines)))
