"""--check says what to do about a mistake, and warns of what can hardly be meant or is not safe."""

from __future__ import annotations

import os
import shutil
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

from tests.harness.logins import ACCEPTS, QUICK
from tests.harness.machine import import_script, needs, someone
from tests.harness.people import Person

script = import_script()


def configuration_of(*lines: str, file: str = '/conf') -> Any:
    """Return a configuration with these lines."""
    configuration = script.Configuration(file.encode())
    configuration.add_text(''.join(line + '\n' for line in lines))
    return configuration


class Advice(Person):
    def test_what_to_do_about_a_wrong_line(self) -> None:
        """Common mistakes are told from others, and how each is mended."""
        env = 'put /usr/bin/env in front'
        comma = 'no blank before or after the comma'
        for line, advice in (
            ('timoeut=3', 'did you mean timeout=?'),
            ('timeuot=3 /bin/sh', 'did you mean timeout=?'),
            ('Users=*', 'did you mean users=?'),
            ('USERS=*', 'did you mean users=?'),
            ('user=* /bin/sh', 'did you mean users=?'),
            ('name=x user=* /bin/sh', 'did you mean users=?'),
            ('refuse=1', 'did you mean refused=?'),
            ('faliure=last', 'did you mean failure=?'),
            ('CVM_PWFILE_PATH=/etc/x /usr/bin/cvm-checkpassword', env),
            ('A=b', env),
            ('name=cvm CVM_PWFILE_PATH=/etc/x /usr/bin/cvm-checkpassword', env),
            ('PATH=/bin /usr/bin/x', env),
            ('USER=vpopmail /usr/bin/x user=y', env),
            ('timeout=5 colour=red user=x', ''),
            ('users=*@a.org, *@b.org /bin/sh', comma),
            ('users=*@a.org ,*@b.org /bin/sh', comma),
            ('users = *', 'no blank before or after ='),
            ('users= !*@* /bin/sh', 'no blank before or after ='),
            ('refused=100, 1 /bin/sh', comma),
            ('/bin/sh a \\', 'a line cannot be continued'),
            ('timeout = 3 /bin/sh', 'no blank before or after ='),
            ('\xef\xbb\xbf/bin/sh', 'byte order mark'),
            ('\xef\xbb\xbf# a comment', 'byte order mark'),
            ('\xff\xfe/\0b\0', 'byte order mark'),
            ('\xfe\xff\0/', 'byte order mark'),
            ('colour=red', ''),
            ('bin/sh', ''),
            ('timeout=never', ''),
            ('/bin/sh "', ''),
            ('auth=0 /bin/sh', ''),
        ):
            with self.subTest(line=line):
                configuration = configuration_of(line, '/bin/true')
                problem = configuration.problems[0]
                self.assertEqual(problem.line, 1)
                found = script.find_advice(line, problem.why).replace(script.NO_BREAK, ' ')
                self.assertIn(advice, found)
                self.assertEqual(bool(found), bool(advice), found)

    def test_advice_is_for_people_only(self) -> None:
        """--check shows it behind the problem; the log of a login stays short."""
        self.settings('log=stderr', 'timoeut=3', self.tool('yes', ACCEPTS))
        problem = f'{self.conf}:2: unknown setting timoeut='
        self.assertIn(f'{problem}; did you mean timeout=?', self.check()[1])
        self.assertEqual(self.login(*QUICK.prog).problems(), [problem])


class Line(NamedTuple):
    """A tool's line, and how what is doubtful about it begins, in order."""

    line: str
    doubts: tuple[str, ...] = ()


PATTERN = 'the pattern '
NO_SHELL = 'is an argument: no shell runs here'
UNREACHED = 'no login reaches it'
ENDS_IN_TRUE = 'it ends in true'
LINES = (
    Line('/bin/sh'),
    Line('/bin/sh a b-c --d=e'),
    # Patterns
    Line('users=*@example.org,!bob@*,root,!*@*.example.org /bin/sh'),
    Line('users=a.b*,*.example.org,x@y.org /bin/sh'),
    Line('users=@example.org /bin/sh', (f'{PATTERN}@example.org begins with @',)),
    Line('users=!@example.org /bin/sh', (f'{PATTERN}@example.org begins with @',)),
    Line('users=example.org /bin/sh', (f'{PATTERN}example.org has no @',)),
    Line('users=*,!example.org /bin/sh', (f'{PATTERN}example.org has no @',)),
    Line('users=*@a.org;*@b.org /bin/sh', (f'{PATTERN}*@a.org;*@b.org has a character',)),
    Line("'users=*@a\\.org' /bin/sh", (f'{PATTERN}*@a\\x5c.org has a character',)),
    Line('users=[ab]* /bin/sh', (f'{PATTERN}[ab]* has a character',)),
    Line('users=a|b /bin/sh', (f'{PATTERN}a|b has a character',)),
    Line('"users=a, b" /bin/sh', (f'{PATTERN}\\x20b has a blank',)),
    Line('users=*a] /bin/sh', (f'{PATTERN}*a] has a character',)),
    Line('users=@a.org,b.org /bin/sh', (f'{PATTERN}@a.org', f'{PATTERN}b.org')),
    # Tools that no login reaches
    Line('users=*@a,!*@a /bin/sh', (UNREACHED,)),
    Line('users=*@a,!* /bin/sh', (UNREACHED,)),
    Line('users=a,b,!b,!a /bin/sh', (UNREACHED,)),
    Line('users=A,!a /bin/sh', (UNREACHED,)),
    Line('users=!* /bin/sh', (UNREACHED,)),
    Line('users=*,!* /bin/sh', (UNREACHED,)),
    Line('users=*@a.b,!*@a* /bin/sh', (UNREACHED,)),
    Line('users=*@a,!bob@a /bin/sh'),
    Line('users=a,b,!a /bin/sh'),
    Line('users=!a /bin/sh'),
    Line('users=a*,!ab /bin/sh'),
    # Words for a shell
    Line('/bin/sh a | /bin/cat', (f'| {NO_SHELL}',)),
    Line('/bin/sh || /bin/cat', (f'|| {NO_SHELL}',)),
    Line('/bin/sh a > /tmp/x', (f'> {NO_SHELL}',)),
    Line('/bin/sh a >/tmp/x', (f'>/tmp/x {NO_SHELL}',)),
    Line('/bin/sh a 2>&1', (f'2>&1 {NO_SHELL}',)),
    Line('/bin/sh a 2>/dev/null', (f'2>/dev/null {NO_SHELL}',)),
    Line('/bin/sh </etc/x', (f'</etc/x {NO_SHELL}',)),
    Line('/bin/sh ; /bin/cat', (f'; {NO_SHELL}',)),
    Line('/bin/sh &', (f'& {NO_SHELL}',)),
    Line('/bin/sh && /bin/cat', (f'&& {NO_SHELL}',)),
    Line('/bin/sh a|b a;b a&b'),
    # Lines that end in true
    Line('/bin/sh true', (ENDS_IN_TRUE,)),
    Line('/bin/sh /bin/true', (ENDS_IN_TRUE,)),
    Line('/bin/sh a /usr/bin/true', (ENDS_IN_TRUE,)),
    Line('/bin/true', (ENDS_IN_TRUE,)),
    Line('/bin/sh true x'),
    Line('/bin/sh untrue'),
    # env that would run prog
    Line('/bin/sh env A=b', ('env has no program to run',)),
    Line('/bin/sh 9 env', ('env has no program to run',)),
    Line('/bin/sh env A=b /bin/sh'),
)


class DoubtfulTools(Person):
    def test_what_can_hardly_be_meant_in_a_line(self) -> None:
        """Odd patterns, tools that no login reaches, words for a shell, and `true` at the end."""
        for one in LINES:
            with self.subTest(line=one.line):
                configuration = configuration_of(one.line)
                self.assertEqual(configuration.problems, [])
                (tool,) = configuration.tools
                found = script.find_doubts_about(tool)
                self.assertEqual(len(found), len(one.doubts), found)
                for doubt, beginning in zip(found, one.doubts):
                    self.assertTrue(doubt.startswith(beginning), found)

    def test_the_wrapper_in_a_command_is_doubted_if_it_reads_the_same_file(self) -> None:
        """It would call itself for ever; with a file of its own it may stand in a chain."""
        same = self.write('pwrap.conf', '')
        other = self.write('other', '')
        link = self.path('link')
        os.symlink(same, link)
        program = self.command[0]
        own_link = self.path('own')
        os.symlink(program, own_link)
        for words, expected in (
            (f'/usr/bin/env {program}', False),  # that is a mistake
            (f'/usr/bin/env PWRAP_CONF={same} {program}', True),
            (f'/usr/bin/env PWRAP_CONF={link} {program}', True),
            (f'/usr/bin/env -i PWRAP_CONF={same} {program}', True),
            (f'/usr/bin/env PWRAP_CONF={other} {program}', False),
            (f'/usr/bin/env PWRAP_CONF={other} {own_link}', False),
            (f'/usr/bin/env PWRAP_CONF={same} /bin/sh', False),
            ('/bin/sh', False),
            (f'/bin/sh PWRAP_CONF={same} {own_link}', True),
            (f'/usr/bin/env -u PWRAP_CONF {program}', False),
            (f'/bin/sh /usr/bin/env PWRAP_CONF={other} {program}', False),
            (f'/usr/bin/env -S "PWRAP_CONF={link} {program}"', True),
            (f'/usr/bin/env PWRAP_CONF={other} /usr/bin/env PWRAP_CONF={same} {program}', True),
        ):
            with self.subTest(words=words):
                configuration = configuration_of(words, file=same)
                (tool,) = configuration.tools
                self.assertEqual(script.calls_itself(tool, configuration, program), expected)


class DoubtfulFiles(Person):
    def test_what_is_doubtful_about_a_whole_file(self) -> None:
        """Defaults without a tool, two tools of one name, a last line without newline."""
        defaults = 'no tool stands below these defaults'
        newline = 'the last line has no newline'
        for text, doubts in (
            ('timeout=3\n/bin/sh\n', []),
            ('/bin/sh\ntimeout=3\n', [f'/conf:2: {defaults}']),
            ('/bin/sh\nusers=a\n# end\nrefused=1\n\n', [f'/conf:4: {defaults}']),
            ('/bin/sh\nfailure=temporary\n', []),  # counts for the whole file
            ('name=a /bin/sh\nname=b /bin/sh\n/bin/sh\n', []),
            ('/bin/sh a\n/bin/sh b\n', ['/conf: 2 tools have the name /bin/sh in the log']),
            ('name=a /bin/sh\n' * 3, ['/conf: 3 tools have the name a in the log']),
            ('/bin/sh', [f'/conf: {newline}']),
            ('/bin/sh\n# end', [f'/conf: {newline}']),
            ('/bin/sh\n\n', []),
        ):
            with self.subTest(text=text):
                configuration = script.Configuration(b'/conf')
                configuration.add_text(text)
                self.assertEqual(configuration.problems, [])
                self.assertEqual(script.find_doubtful_lines(configuration), doubts)

    def test_a_backslash_that_is_gone_from_a_pattern_is_warned_of(self) -> None:
        """Outside of quotes it only quotes the next character, so the pattern shows none."""
        lost = ': a backslash in users= only quotes what follows it'
        for line, is_lost in (
            ('users=*@example\\.org /bin/sh', True),
            ('timeout=3 users=DOMAIN\\bob', True),
            ('users=*@example.org /bin/sh a\\b', False),
            ('# users=DOMAIN\\bob', False),
        ):
            with self.subTest(line=line):
                configuration = configuration_of(line, '/bin/sh')
                self.assertEqual(configuration.problems, [])
                found = script.find_lost_backslashes(configuration)
                self.assertEqual(found, [f'{configuration.shown_path}:1{lost}'] if is_lost else [])

    def test_settings_that_let_everybody_in_or_show_the_log_are_warned_of(self) -> None:
        """auth=0, and log=stderr; and variables that a setuid program's caller has set."""
        for lines, beginnings in (
            (['log=stderr'], ['log=stderr: under qmail-popup']),
            (['auth=0'], ['auth=0: everybody']),
            (['log=stderr auth=0'], ['auth=0: ', 'log=stderr: ']),
            ([], []),
        ):
            with self.subTest(lines=lines):
                configuration = configuration_of(*lines, '/bin/sh')
                found = script.find_doubts(configuration, self.command[0])
                found = [one for one in found if 'auth=' in one or 'log=' in one]
                self.assertEqual(len(found), len(beginnings))
                for doubt, beginning in zip(found, beginnings):
                    self.assertTrue(doubt.startswith(beginning), found)
        configuration = configuration_of('/bin/sh')
        for auth, is_told in ((b'0', True), (b'1', False), (b'', False)):
            with mock.patch.dict(script.posix.environ, {b'AUTH': auth}):
                found = script.find_doubts(configuration, self.command[0])
            told = [one for one in found if one.startswith('AUTH=0 in the environment: everybody')]
            self.assertEqual(len(told), int(is_told), auth)
        configuration.ignored_variables = ['PWRAP_CONF', 'AUTH']
        found = script.find_doubts(configuration, self.command[0])
        self.assertTrue(found[0].startswith('PWRAP_CONF and AUTH ignored: '), found)

    def test_warnings_leave_the_configuration_good(self) -> None:
        """Each is shown once, with the line that it is about, and the exit code is 0."""
        yes = self.tool('yes', ACCEPTS)
        self.settings(
            'auth=0',
            'log=stderr',
            f'name=a {yes} | x',
            f'name=b users=@b {yes} true',
            f'name=c /usr/bin/env PWRAP_CONF={self.conf} {self.command[0]}',
            'timeout=3',
        )
        os.chmod(yes, 0o777)
        code, lines = self.check()
        self.assertEqual(code, 0)
        self.assertIn('the configuration is good', lines)
        found = self.warnings(lines)
        expected = (
            'auth=0: ',
            'log=stderr: ',
            f'{self.conf}:6: no tool stands below',
            f'{self.conf}:3: a: | is an argument',
            f'{self.conf}:4: b: the pattern @b begins with @: did you mean *@...?',
            f'{self.conf}:4: b: it ends in true',
            f'{self.conf}:5: c: the wrapper with this same file',
            f'others can change {yes}, and so have every password',
        )
        self.assertEqual(len(found), len(expected), found)
        for line, beginning in zip(found, expected):
            self.assertTrue(line.startswith(f'warning: {beginning}'), line)


class Places(Person):
    """Who can change or read what a login needs: script, file and tool in folders of their own."""

    def setUp(self) -> None:
        super().setUp()
        for name in ('script', 'conf', 'tool'):
            os.makedirs(self.path(f'{name}/inner'))
        self.program = shutil.copy(self.command[0], self.path('script/inner/qmail_pwrap.py'))
        self.module: ModuleType = import_script(self.program)
        self.file = self.write('conf/inner/pwrap.conf', '')
        self.yes = shutil.copy(self.tool('yes', ACCEPTS), self.path('tool/inner/yes'))

    def doubts(self, tool: str = '') -> list[str]:
        """Return what is doubtful about places in this test's folder."""
        configuration = self.module.Configuration(self.file.encode())
        configuration.add_text(f'{tool or self.yes}\n')
        found = self.module.find_unsafe_places(configuration, self.program)
        mine = [one.replace(self.module.NO_BREAK, ' ') for one in found if self.folder in one]
        return list(dict.fromkeys(mine))

    def both(self, path: str) -> list[str]:
        """Return a file and the folders on its way, up to this test's folder."""
        return [path, os.path.dirname(path), os.path.dirname(os.path.dirname(path))]

    def change_warning(self, path: str) -> list[str]:
        return [f'others can change {path}, and so have every password']

    def test_what_others_can_write_to_is_warned_of(self) -> None:
        """Script, configuration, tool, and every folder on their way: its path is named."""
        self.assertEqual(self.doubts(), [])
        for path in (*self.both(self.program), *self.both(self.file), *self.both(self.yes)):
            for mode in (0o777, 0o775, 0o757):
                with self.subTest(path=path, mode=oct(mode)):
                    os.chmod(path, mode)
                    self.assertEqual(self.doubts(), self.change_warning(path))
                    os.chmod(path, 0o755)
        self.assertEqual(self.doubts(), [])

    def test_a_sticky_folder_is_not_warned_of(self) -> None:
        """As in /tmp, nobody replaces another's file there; on a file, that bit means nothing."""
        for path in (*self.both(self.program), *self.both(self.file), *self.both(self.yes)):
            with self.subTest(path=path):
                os.chmod(path, 0o1777)
                is_file = os.path.isfile(path)
                self.assertEqual(self.doubts(), self.change_warning(path) if is_file else [])
                os.chmod(path, 0o755)

    def test_folders_on_both_ways_of_a_link_count(self) -> None:
        """The way to the link, and the way to where it leads."""
        os.mkdir(self.path('links'))
        link = self.path('links/yes')
        os.symlink(self.yes, link)
        for path in (self.path('links'), os.path.dirname(self.yes)):
            with self.subTest(path=path):
                self.assertEqual(self.doubts(link), [])
                os.chmod(path, 0o777)
                self.assertEqual(self.doubts(link), self.change_warning(path))
                os.chmod(path, 0o755)

    def test_links_on_the_way_count_wherever_they_lead(self) -> None:
        """Also those in the middle, of a chain of links and of folders."""
        for name in ('first', 'second', 'third'):
            os.mkdir(self.path(name))
        os.symlink(self.path('second/yes'), self.path('first/yes'))
        os.symlink('../third/folder/yes', self.path('second/yes'))
        os.symlink(os.path.dirname(self.yes), self.path('third/folder'))
        for path in map(self.path, ('first', 'second', 'third', 'tool', 'tool/inner')):
            with self.subTest(path=path):
                self.assertEqual(self.doubts(self.path('first/yes')), [])
                os.chmod(path, 0o777)
                self.assertEqual(self.doubts(self.path('first/yes')), self.change_warning(path))
                os.chmod(path, 0o755)
        back = os.path.join(self.path('third/folder'), '../inner/yes')
        self.assertIn(os.path.dirname(self.yes), dict(self.module.find_way(back)))
        os.symlink('round', self.path('round'))
        self.assertLess(len(self.module.find_way(self.path('round'))), 1000)

    def test_a_program_behind_env_counts(self) -> None:
        """As the tool that it is."""
        os.chmod(self.yes, 0o757)
        self.assertEqual(self.doubts(f'/usr/bin/env A=b {self.yes}'), self.change_warning(self.yes))

    @needs('root')
    def test_what_belongs_to_somebody_else_is_warned_of(self) -> None:
        """Its owner can change it."""
        for path in (*self.both(self.program), *self.both(self.file), *self.both(self.yes)):
            with self.subTest(path=path):
                os.chown(path, *someone())
                self.assertEqual(self.doubts(), self.change_warning(path))
                os.chown(path, 0, 0)

    def test_a_configuration_that_only_its_owner_can_read_is_warned_of(self) -> None:
        """It, or a folder on its way: a server of another user could not read it."""
        file, folder, above = self.both(self.file)
        for path, mode, is_warned in (
            (file, 0o600, True),
            (file, 0o640, False),
            (file, 0o604, False),
            (file, 0o611, True),
            (folder, 0o700, True),
            (above, 0o700, True),
            (folder, 0o711, False),
            (folder, 0o710, False),
        ):
            with self.subTest(path=path, mode=oct(mode)):
                os.chmod(path, mode)
                warning = f'nobody but its owner can read {path}: a server of another user fails'
                expected = [f'{warning} with 111'] if is_warned else []
                self.assertEqual(self.doubts(), expected)
                os.chmod(path, 0o755)

    def test_a_script_that_other_users_cannot_read_is_warned_of(self) -> None:
        """The report step would fail, which runs as the user who logged in."""
        file, folder, above = self.both(self.program)
        for path, mode, is_warned in (
            (file, 0o700, True),
            (file, 0o750, True),
            (folder, 0o750, True),
            (above, 0o700, True),
            (above, 0o750, True),
            (above, 0o711, False),  # a folder that one only passes through need not be listed
            (folder, 0o711, False),
            (file, 0o711, True),
        ):
            with self.subTest(path=path, mode=oct(mode)):
                os.chmod(path, mode)
                warning = f'other users cannot read {path}: sessions fail after a tool has changed'
                expected = [f'{warning} its uid'] if is_warned else []
                self.assertEqual(self.doubts(), expected)
                os.chmod(path, 0o755)

    def test_check_shows_these_warnings_and_they_leave_it_good(self) -> None:
        """One of each kind."""
        self.write('conf/inner/pwrap.conf', f'{self.yes}\n', 0o600)
        os.chmod(self.path('tool'), 0o777)
        os.chmod(self.path('script'), 0o700)
        code, lines = self.check(command=(self.program,), env={'PWRAP_CONF': self.file})
        self.assertEqual(code, 0)
        found = self.warnings(lines)
        self.assertEqual(len(found), 3, found)
        self.assertIn(f'nobody but its owner can read {self.file}', found[0])
        self.assertIn(f'others can change {self.path("tool")}', found[1])
        self.assertIn(f'other users cannot read {self.path("script")}', found[2])
