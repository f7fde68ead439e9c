"""--test asks the whole chain again with a random password: whoever gets in by that, lets everybody in."""

from __future__ import annotations

import re

from tests.harness import tools
from tests.harness.logins import ACCEPTS, REJECTS, read_file
from tests.harness.people import PASSWORD, Person, rows_in, unwrapped

USERS = [('alice@example.org', PASSWORD)]
HONEST = tools.knows(USERS)
LOUD = 'LETS EVERYBODY IN'
RIGHT, WRONG = f'{PASSWORD}\n'.encode(), b'wrong\n'
LIMIT = 512  # bytes of a triple
PARTS = ('with prog true', 'with a session', 'with a random password')


class Twice(Person):
    def try_parts(
        self, login: str = 'alice@example.org', given: bytes = RIGHT
    ) -> tuple[int | None, dict[str, list[str]]]:
        """Run --test; return its exit code and the lines of each of its parts."""
        code, lines = self.try_login(login, given)
        self.assertEqual(lines[-1], f'the exit code: {code}')
        parts: dict[str, list[str]] = {}
        name = ''
        for line in unwrapped('\n'.join(lines)):
            name = next((part for part in PARTS if line.startswith(part)), name)
            parts.setdefault(name, []).append(line)
        self.assertEqual([part for part in parts if part], [one for one in PARTS if one in parts])
        return code, parts

    def verdicts(self, lines: list[str]) -> list[str]:
        return [row[2] for row in rows_in(lines)]

    def test_an_honest_tool_is_found_honest(self) -> None:
        """It refuses the random password, and the exit code is the server's, whether the typed one was right or
        wrong."""
        self.settings(f'name=honest {self.tool("yes", HONEST)}')
        for given, code, shown in (
            (RIGHT, 0, {PARTS[0]: 'accepted', PARTS[1]: 'accepted', PARTS[2]: 'rejected'}),
            (WRONG, 1, {PARTS[0]: 'rejected', PARTS[2]: 'rejected'}),
        ):
            with self.subTest(given=given):
                before = self.ran('yes')
                got, parts = self.try_parts(given=given)
                self.assertEqual(got, code)
                seen = {name: self.verdicts(lines) for name, lines in parts.items() if name}
                self.assertEqual(seen, {name: [verdict] for name, verdict in shown.items()})
                self.assertNotIn(LOUD, str(parts))
                self.assertEqual(self.ran('yes') - before, len(shown))

    def test_a_chain_that_lets_everybody_in_is_told_loudly(self) -> None:
        """Whatever password was typed, whoever accepted or refused that: --test ends with 2 instead of the
        server's code.

        indimail's tools run prog when they refuse, so behind any wrapper they accept everybody,
        unless NATIVE_CHECKPASSWORD=1 is set for those that know it.
        """
        native = '/usr/bin/env NATIVE_CHECKPASSWORD=1 '
        sys_checkpwd = tools.indimail(USERS, has_switch=False)
        vchkpass = tools.indimail(USERS, has_switch=True)
        honest = self.tool('honest', HONEST)
        fickle = tools.knows(USERS, tools.BECOMES).replace(tools.BECOMES, 'exit 1', 1)
        for before, body, given, code in (
            ('', ACCEPTS, WRONG, 2),
            ('', ACCEPTS, RIGHT, 2),
            ('', f'{tools.READS}; exit 0', WRONG, 2),
            ('', sys_checkpwd, RIGHT, 2),
            (native, sys_checkpwd, WRONG, 2),
            ('', vchkpass, RIGHT, 2),
            (native, vchkpass, RIGHT, 0),
            (native, vchkpass, WRONG, 1),
            (
                f'{honest}\nname=second ',
                ACCEPTS,
                RIGHT,
                2,
            ),  # which the typed password does not reach
            ('', fickle, RIGHT, 2),  # which refuses that one
        ):
            with self.subTest(before=before, body=body, given=given):
                self.settings(f'{before}{self.tool("lax", body)}')
                got, parts = self.try_parts(given=given)
                self.assertEqual(got, code)
                self.assertEqual(LOUD in '\n'.join(parts[PARTS[2]]), code == 2)

    def test_an_answer_that_is_no_verdict_is_told_and_changes_nothing(self) -> None:
        """As from a backend that is down by then, or a tool that dies of the password."""
        for name, otherwise, said in (
            ('down', 'exit 111', 'temporary failure, exit code 111'),
            ('crash', 'ulimit -c 0; kill -SEGV $$', 'killed by SIGSEGV'),
            ('hang', tools.HANGS, 'timed out after 1 s and was killed'),
        ):
            with self.subTest(tool=name):
                tool = self.tool(name, tools.knows(USERS, otherwise))
                self.settings(f'timeout=1 name={name} {tool}')
                code, parts = self.try_parts()
                self.assertEqual(code, 0)
                self.assertIn(said, '\n'.join(parts[PARTS[2]]))
                self.assertNotIn(LOUD, str(parts))

    def test_every_tool_is_asked_again_until_one_accepts(self) -> None:
        """Those before the one that has accepted, that one, and those behind it."""
        no, yes, last, z = (
            self.tool(name, body)
            for name, body in (('no', REJECTS), ('yes', HONEST), ('last', ACCEPTS), ('z', ACCEPTS))
        )
        self.settings(f'users=nobody {z}', no, yes, last, z)
        code, parts = self.try_parts()
        self.assertEqual(code, 2)
        self.assertEqual([self.ran(name) for name in ('no', 'yes', 'last', 'z')], [3, 3, 1, 0])
        rows = rows_in(parts[PARTS[2]])
        self.assertEqual([row[0] for row in rows], ['1', '2', '3', '4'])
        self.assertIn('skipped', rows[0][2])

    def test_the_password_is_random_never_shown_and_as_long_as_there_is_room(self) -> None:
        """The triple has at most 512 bytes, however long the login is; without room for 16 bytes, nothing is
        asked."""
        keep = f'cat <&3 >$dir/kept$(wc -l <$dir/keep.ran); exec 3<&-; {tools.BECOMES}'
        passwords = set()
        for length, asks in ((1, True), (420, True), (440, True), (490, False)):
            with self.subTest(length=length):
                self.begin_again()
                self.settings(self.tool('keep', keep))
                login = 'x' * length
                code, parts = self.try_parts(login, given=b'y\n')
                self.assertEqual((code, self.ran('keep')), (2, 3) if asks else (0, 2))
                if not asks:
                    self.assertNotIn(LOUD, str(parts))
                    self.assertIn('not asked', str(parts[PARTS[2]]))
                    continue
                triple = read_file(self.path('kept3'))
                self.assertLessEqual(len(triple), LIMIT)
                name, password, stamp, rest = triple.split(b'\0')
                self.assertEqual((name, rest), (login.encode(), b''))
                self.assertRegex(stamp, rb'^<.+@.+>$')
                self.assertGreaterEqual(len(password), 16)
                passwords.add(password[:16])
                shown = str(parts)
                self.assertNotIn(password.decode(), shown)
                self.assertFalse(re.search('[0-9a-f]{16}', shown))
        self.assertEqual(len(passwords), 3)
