"""AUTH switches authentication off, and tells prog that it was done; nobody logs in without a
password."""

from __future__ import annotations

import os

from tests.harness import faults
from tests.harness.logins import (
    ACCEPTS,
    QUICK,
    REJECTS,
    TRIPLE,
    Case,
    Way,
    both_ways,
    read_file,
)
from tests.harness.machine import needs
from tests.harness.tools import records

STRANGER = 12345  # the number of a user who is neither root nor the one that owns the configuration
NO_PASSWORD = b'alice@example.org\0\0<17.42@mail.example.org>\0'


class AuthCase(Case):
    """A test with tools that note the AUTH that they see."""

    def setUp(self) -> None:
        super().setUp()
        notes = 'printf %s "$AUTH" >$dir/seen'
        self.yes = self.tool('yes', f'{notes}; {ACCEPTS}')
        self.no = self.tool('no', f'{notes}; {REJECTS}')

    def seen(self) -> str:
        """Return the AUTH that the last tool saw."""
        return read_file(self.path('seen')).decode()


class Disabled(AuthCase):
    """AUTH=0 lets everybody in."""

    @both_ways
    def test_no_tool_and_no_prog_runs(self, way: Way) -> None:
        """0 in the environment, or else in the file: the login ends with 0, and the log says so."""
        big = os.open(self.write('big', b'x' * 100000), os.O_RDONLY)
        self.addCleanup(os.close, big)
        prog = way.prog if way is QUICK else ('/bin/sh', '-c', f': >{self.folder}/prog')
        off = {'AUTH': '0'}
        cases: list[tuple[dict[str, str], str, list[bytes | int | None]]] = [
            (off, 'auth=1', [TRIPLE, NO_PASSWORD, b'', b'alice', big, None]),
            (off, '', [TRIPLE]),
            ({}, 'auth=0', [TRIPLE, big, None]),
            ({'AUTH': ''}, 'auth=0', [TRIPLE]),
        ]
        for env, setting, triples in cases:
            self.configure(setting, self.no)
            for triple in triples:
                with self.subTest(env=env, setting=setting, triple=triple):
                    login = self.start(*prog, env=env, triple=triple)
                    self.assert_ends(login, 0, 'disabled', '-')
        self.assertEqual((self.ran('no'), os.path.exists(self.path('prog'))), (0, False))

    def test_the_environment_counts_where_the_file_is_broken(self) -> None:
        """AUTH=0 in the environment is the server's will, and needs no configuration."""
        for lines in (('nonsense',), (), ('auth=2', self.yes)):
            with self.subTest(lines=lines):
                self.configure(*lines)
                self.assert_ends(self.start('true', env={'AUTH': '0'}), 0, 'disabled', '-')

    def test_descriptor_3_is_read_as_at_any_login(self) -> None:
        """To its end, or until there are more than 512 bytes; the name is in the log."""
        self.configure('auth=0', self.no)
        reader, writer = os.pipe()
        login = self.start('true', triple=reader)
        os.close(reader)
        os.write(writer, TRIPLE[:30])
        self.assertFalse(login.over())
        os.write(writer, TRIPLE[30:])
        os.close(writer)
        self.assert_ends(login, 0, 'disabled')
        self.assertEqual(login.result()['user'], 'alice@example.org')
        reader, writer = os.pipe()
        self.addCleanup(os.close, writer)
        login = self.start('true', triple=reader)
        os.close(reader)
        os.write(writer, b'alice\0' + b'x' * 506)
        self.assertFalse(login.over())
        os.write(writer, b'x' * 3000)
        self.assert_ends(login, 0, 'disabled')  # although the writer still has its end


class Enabled(AuthCase):
    def test_every_other_value_means_enabled(self) -> None:
        """The tools are asked, and see the value as it was set; 1 where it is unset or empty."""
        for value in ('1', '00', ' 0', '0 ', '0\n', 'no', 'pop', 'apop', 'off', 'success'):
            with self.subTest(value=value):
                self.configure('auth=0', self.no)
                self.assert_ends(self.start('true', env={'AUTH': value}), 1, 'rejected', self.no)
                self.assertEqual(self.seen(), value)
        for setting in ('', 'auth=1'):
            self.configure(setting, self.no)
            for env in ({}, {'AUTH': ''}):
                with self.subTest(setting=setting, env=env):
                    self.assert_ends(self.start('true', env=env), 1, 'rejected', self.no)
                    self.assertEqual(self.seen(), '1')

    def test_a_broken_file_never_switches_it_off(self) -> None:
        """auth=0 counts only in a file that is valid in every line."""
        for lines in (
            ('auth=0', 'nonsense'),
            ('auth=0',),
            ('auth=0', 'auth=0', self.yes),
            ('auth=00', self.yes),
            ('nonsense', 'auth=0', self.yes),
            (f'auth=0 {self.yes}',),
        ):
            with self.subTest(lines=lines):
                self.configure(*lines)
                self.assertEqual(self.login('true').code, 111)
        self.write('pwrap.conf', f'auth=0\n{self.yes} "no newline"')
        self.assertEqual(self.login('true').code, 111)
        self.write('pwrap.conf', f'auth=0\n{self.yes}\n', 0o666)
        self.assertEqual(self.login('true').code, 111)
        os.unlink(self.conf)
        self.assertEqual(self.login('true').code, 111)
        self.assertEqual(self.ran('yes'), 0)

    def test_prog_sees_success(self) -> None:
        """AUTH=success stands in the environment of prog, and only there."""
        self.configure(self.no, self.yes)
        for env in ({}, {'AUTH': '1'}, {'AUTH': 'apop'}):
            with self.subTest(env=env):
                login = self.start('/bin/sh', '-c', 'printf %s "$AUTH"', env=env)
                self.assert_ends(login, 0, 'accepted', self.yes)
                self.assertEqual(login.output(1), b'success')
                self.assertEqual(self.seen(), env.get('AUTH', '1'))

    @needs('root', 'public folder', 'public python')
    def test_a_strangers_value_is_ignored(self) -> None:
        """Where real and effective user or group differ, a setuid program ran this: what its caller
        set in AUTH, PWRAP_CONF and AUTHORIZED does not count, and the log says so."""
        # No shell: it gives up the rights of root where the real user is another.
        no = self.python_tool(
            'no', f'open({self.path("seen")!r}, "w").write(os.environ["AUTH"])\nexit(1)'
        )
        mine = self.write('mine', f'log=stderr\n{no}\n')
        self.write('pwrap.conf', f'log=stderr\n{self.yes}\n')
        command = self.launcher(faults.Replaces('CONFIGURATION', mine))
        unset = {'AUTH': '', 'PWRAP_CONF': '', 'AUTHORIZED': ''}
        for env, triple, names in (
            ({'AUTH': '0', 'AUTHORIZED': '1'}, TRIPLE, {'AUTH', 'PWRAP_CONF', 'AUTHORIZED'}),
            ({**unset, 'AUTH': '0'}, TRIPLE, {'AUTH'}),
            ({**unset, 'AUTHORIZED': '1'}, NO_PASSWORD, {'AUTHORIZED'}),
            ({}, TRIPLE, {'PWRAP_CONF'}),
        ):
            for before in (
                lambda: os.setresuid(STRANGER, 0, 0),
                lambda: os.setresgid(STRANGER, 0, 0),
            ):
                with self.subTest(env=env):
                    login = self.login(
                        'true', env=env, triple=triple, command=command, before=before
                    )
                    asked = no if triple is TRIPLE else '-'
                    self.assertEqual((login.code, login.result()['tool']), (1, asked))
                    reason = 'is ignored: real and effective user or group differ'
                    self.assertCountEqual(login.problems(), [f'{name} {reason}' for name in names])
                    self.assertEqual(self.seen(), '1')
        self.assertEqual(self.ran('yes'), 0)


class EmptyPasswords(AuthCase):
    """LDAP servers take an empty password for an anonymous bind, which succeeds."""

    @both_ways
    def test_they_are_refused_before_any_tool_is_asked(self, way: Way) -> None:
        """1 and rejected, whoever would accept, and whatever failure= and AUTHORIZED say."""
        cases: list[tuple[bytes, str, dict[str, str]]] = [
            (NO_PASSWORD, 'last', {}),
            (NO_PASSWORD, 'temporary', {}),
            (NO_PASSWORD, 'temporary', {'AUTHORIZED': ''}),
            (NO_PASSWORD, 'last', {'AUTHORIZED': '2'}),
            (b'alice\0\0', 'last', {}),
            (b'alice\0\0secret\0', 'temporary', {}),
            (b'\0\0', 'last', {}),
            (b'\0\0\0', 'temporary', {}),
        ]
        for triple, failure, env in cases:
            with self.subTest(triple=triple, failure=failure, env=env):
                self.configure(f'failure={failure}', self.yes, '/nonexistent/tool')
                login = self.start(*way.prog, triple=triple, env=env)
                self.assert_ends(login, 1, 'rejected', '-')
        self.assertEqual(self.ran('yes'), 0)

    @both_ways
    def test_a_tool_may_have_them(self, way: Way) -> None:
        """empty=1 lets a tool be asked, on its own line or as a default for those below, and the
        others still not."""
        keeps = self.tool('keeps', records('kept', 'exit 1'))
        for lines, tool in (
            (['empty=1 TOOL'], 'yes'),
            (['keeps', 'empty=1 TOOL', 'keeps'], 'yes'),
            (['empty=1', 'TOOL'], 'yes'),
            (['empty=0 keeps', 'empty=1', 'empty=0 keeps', 'TOOL'], 'yes'),
            (['empty=1', 'empty=0', 'keeps', 'empty=1 TOOL'], 'yes'),
        ):
            with self.subTest(lines=lines):
                self.configure(
                    *(
                        line.replace('TOOL', self.path(tool)).replace('keeps', keeps)
                        for line in lines
                    )
                )
                login = self.start(*way.prog, triple=NO_PASSWORD)
                self.assert_ends(login, way.code, 'accepted', self.yes)
        self.assertEqual(self.ran('keeps'), 0)
        self.configure(f'empty=1 {keeps}', self.yes)
        self.assert_ends(self.start(*way.prog, triple=NO_PASSWORD), 1, 'rejected', keeps)
        self.assertEqual(read_file(self.path('kept')), NO_PASSWORD)

    def test_a_tool_that_is_not_asked_counts_for_nothing(self) -> None:
        """What a tool with empty=1 says is the verdict, whatever stands around it."""
        self.configure('/nonexistent/tool', f'empty=1 {self.no}', self.yes)
        self.assert_ends(self.start('true', triple=NO_PASSWORD), 1, 'rejected', self.no)

    def test_an_invalid_file_comes_first(self) -> None:
        """No verdict can be had by a file that is wrong: 111."""
        self.configure(self.yes, 'nonsense')
        login = self.start('true', triple=NO_PASSWORD)
        self.assert_ends(login, 111, 'temporary', '-', 'neither a setting')

    def test_a_password_of_a_blank_is_one(self) -> None:
        """Only nothing is empty."""
        self.configure(self.yes)
        for password in (b' ', b'\n', b'0'):
            with self.subTest(password=password):
                login = self.start('true', triple=b'alice\0' + password + b'\0\0')
                self.assert_ends(login, 0, 'accepted', self.yes)
