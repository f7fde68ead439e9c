"""--check says what to do about a mistake, and warns of what can hardly be meant or is not safe."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Iterator

from tests.harness import machine
from tests.harness.logins import ACCEPTS, QUICK
from tests.harness.machine import needs, program, someone
from tests.harness.people import Person
from tests.harness.syslog import SyslogListener

SHELL = '/bin/sh'


class Advice(Person):
    def test_what_to_do_about_a_wrong_line(self) -> None:
        """Common mistakes are told from others, and how each is mended."""
        env, blanks = 'put /usr/bin/env first', 'without blanks'
        table = (
            ('timoeut=3', 'did you mean timeout=?'),
            ('timeuot=3 /bin/sh', 'did you mean timeout=?'),
            ('Users=*', 'did you mean users=?'),
            ('user=* /bin/sh', 'did you mean users=?'),
            ('name=x user=* /bin/sh', 'did you mean users=?'),
            ('refuse=1', 'did you mean refused=?'),
            ('faliure=last', 'did you mean failure=?'),
            ('CVM_PWFILE_PATH=/etc/x /usr/bin/cvm-checkpassword', env),
            ('name=cvm CVM_PWFILE_PATH=/etc/x /usr/bin/cvm-checkpassword', env),
            ('PATH=/bin /usr/bin/x', env),
            ('USER=vpopmail /usr/bin/x', env),
            ('users=*@a.org, *@b.org /bin/sh', blanks),
            ('users=*@a.org ,*@b.org /bin/sh', blanks),
            ('refused=100, 1 /bin/sh', blanks),
            ('users = *', blanks),
            ('users= !*@* /bin/sh', blanks),
            ('timeout = 3 /bin/sh', blanks),
            ('/bin/sh a \\', 'a line cannot be continued'),
            ('bin/sh', ''),
            ('/bin/sh "', ''),
            ('auth=0 /bin/sh', ''),
            ('refused=0 /usr/bin/timeout 5 /bin/sh', ''),
        )
        self.settings(*(line for line, _ in table))
        lines = self.check()[1]
        for number, (line, advice) in enumerate(table, 1):
            with self.subTest(line=line):
                (problem,) = [one for one in lines if one.startswith(f'{self.conf}:{number}: ')]
                self.assertIn(advice, problem)
                self.assertEqual('did you' in problem, 'did you' in advice, problem)

    def test_a_byte_order_mark_is_told(self) -> None:
        """As an editor on Windows puts it in front of a file."""
        for text in (b'\xef\xbb\xbf/bin/sh\n', b'\xef\xbb\xbf# a comment\n', b'\xff\xfe/\0b\0\n\0'):
            with self.subTest(text=text):
                self.write('pwrap.conf', text)
                code, lines = self.check()
                self.assertEqual(code, 1)
                self.assertIn('byte order mark', '\n'.join(lines))

    def test_a_login_logs_the_problem(self) -> None:
        """That --check shows with the advice."""
        self.settings('log=stderr', 'timoeut=3', self.tool('yes', ACCEPTS))
        problem = f'{self.conf}:2: unknown setting timoeut='
        (shown,) = [line for line in self.check()[1] if line.startswith(problem)]
        self.assertIn('did you mean timeout=?', shown)
        self.assertTrue(self.login(*QUICK.prog).problems()[0].startswith(problem))


class Doubts(Person):
    def doubts_by_line(self, lines: list[str]) -> dict[int, list[str]]:
        """Check a configuration of these lines, which must be good; return what is warned of, by line."""
        self.settings(*lines)
        code, shown = self.check()
        self.assertEqual(code, 0, shown)
        found: dict[int, list[str]] = {number: [] for number, _ in enumerate(lines, 1)}
        for warning in self.warnings(shown):
            match = re.match(rf'warning: {re.escape(self.conf)}:(\d+): (.*)$', warning)
            self.assertTrue(match, warning)
            assert match
            found[int(match[1])].append(match[2])
        return found

    def assert_doubts(self, *table: tuple[str, str]) -> None:
        """Check a configuration of these lines, each with a part of the one warning of it, or nothing."""
        found = self.doubts_by_line([line for line, _ in table])
        for number, (line, part) in enumerate(table, 1):
            with self.subTest(line=line):
                self.assertEqual(len(found[number]), bool(part), found[number])
                self.assertIn(part, ''.join(found[number]))

    def test_patterns_that_can_hardly_be_meant(self) -> None:
        """A domain without *@, and what no login has: it is shown escaped."""
        self.assert_doubts(
            (f'users=*@example.org,!bob@*,root,!*@*.example.org {SHELL}', ''),
            (f'users=a.b*,*.example.org,x@y.org {SHELL}', ''),
            (f'users=@example.org {SHELL}', '@example.org begins with @'),
            (f'users=!@example.org {SHELL}', '@example.org begins with @'),
            (f'users=example.org {SHELL}', 'example.org has no @'),
            (f'users=*,!example.org {SHELL}', 'example.org has no @'),
            (f'"users=a, b" {SHELL}', '\\x20b'),
            (f"'users=a\tb' {SHELL}", 'a\\x09b'),
            (f'users=*@a/bin/tool {SHELL}', '*@a/bin/tool'),
            (f'users=*@example.org\xa0/bin/tool {SHELL}', 'org\\xc2\\xa0/bin/tool'),
            (f'users=*,!post\u2010master {SHELL}', 'post\\xe2\\x80\\x90master'),
            (f'users=*,\u2013root {SHELL}', '\\xe2\\x80\\x93root'),
        )

    def test_a_tool_that_has_vanished_into_a_pattern_is_found(self) -> None:
        """A no-break space before the path makes a default of the whole line, also where no tool stands below it."""
        for lines in (
            [f'users=*@a.org\xa0{SHELL}', SHELL],
            [SHELL, f'users=*@a.org\xa0{SHELL}'],
        ):
            with self.subTest(lines=lines):
                self.settings(*lines)
                code, shown = self.check()
                self.assertEqual(code, 0)
                self.assertIn(f'*@a.org\\xc2\\xa0{SHELL}', ''.join(self.warnings(shown)))

    def test_words_for_a_shell_are_warned_of(self) -> None:
        """As no shell runs here; within a word they are the tool's own matter."""
        no_shell = 'is an argument: no shell runs here'
        self.assert_doubts(
            (f'{SHELL} a b-c --d=e', ''),
            (f'{SHELL} a | {SHELL}', f'| {no_shell}'),
            (f'{SHELL} || {SHELL}', f'|| {no_shell}'),
            (f'{SHELL} a > x', f'> {no_shell}'),
            (f'{SHELL} a >{os.devnull}', f'>{os.devnull} {no_shell}'),
            (f'{SHELL} a 2>&1', f'2>&1 {no_shell}'),
            (f'{SHELL} <{os.devnull}', f'<{os.devnull} {no_shell}'),
            (f'{SHELL} ; {SHELL}', f'; {no_shell}'),
            (f'{SHELL} &', f'& {no_shell}'),
            (f'{SHELL} && {SHELL}', f'&& {no_shell}'),
            (f'{SHELL} a|b a;b a&b', ''),
        )

    def test_settings_that_let_everybody_in_or_show_the_log_are_warned_of(self) -> None:
        """auth=0, and log=stderr; and AUTH=0 of the environment."""
        auth, log, environment = 'auth=0: everybody', 'log=stderr: ', 'AUTH=0 in the environment: '
        for lines, env, beginnings in (
            (['log=stderr', 'auth=0'], {'AUTH': '1'}, [auth, log]),
            ([], {'AUTH': '0'}, [environment]),
            ([], {'AUTH': ''}, []),
        ):
            with self.subTest(lines=lines, env=env):
                self.settings(*lines, SHELL)
                code, shown = self.check(env=env)
                found = sorted(line[len('warning: ') :] for line in self.warnings(shown))
                self.assertEqual((code, len(found)), (0, len(beginnings)), found)
                for doubt, beginning in zip(found, sorted(beginnings)):
                    self.assertTrue(doubt.startswith(beginning), found)

    def test_warnings_leave_the_configuration_good(self) -> None:
        """Each is shown once, with the line that it is about, and the exit code is 0."""
        yes = self.tool('yes', ACCEPTS)
        os.chmod(yes, 0o777)
        self.settings('auth=0', 'log=stderr', f'name=a {yes} | x', f'name=b users=@b {yes} y')
        code, lines = self.check()
        self.assertEqual(code, 0)
        self.assertIn('the configuration is good', lines)
        found = '\n'.join(self.warnings(lines))
        for part in (
            'warning: auth=0: ',
            'warning: log=stderr: ',
            f'warning: {self.conf}:3: a: | is an argument',
            f'warning: {self.conf}:4: b: the pattern @b begins with @: did you mean *@',
            f'warning: {yes}: others can change it, and so have every password',
        ):
            self.assertEqual(found.count(part), 1, found)
        self.assertEqual(len(found.splitlines()), 5)


class NoSystemLog(Person):
    """As in a container, in which every line would be lost."""

    def about_it(self, **options: object) -> list[str]:
        """Return the warnings about the log."""
        code, lines = self.check(**options)
        self.assertEqual(code, 0)
        return [line for line in lines if line.startswith('warning: ') and '/dev/log' in line]

    @needs('namespaces')
    def test_is_warned_of(self) -> None:
        """With what helps, unless that is set."""

        def have_none() -> None:
            machine.hide('/dev')

        self.settings(SHELL)
        (warning,) = self.about_it(before=have_none)
        self.assertIn('log=stderr', warning)
        self.settings('log=stderr', SHELL)
        self.assertEqual(self.about_it(before=have_none), [])

    @needs('syslog')
    def test_where_there_is_one_nothing_is_said(self) -> None:
        """Whoever listens."""
        self.settings(SHELL)
        with SyslogListener():
            self.assertEqual(self.about_it(), [])


class Places(Person):
    """Who can change or read what a login needs: script, file and tool in folders of their own."""

    def setUp(self) -> None:
        super().setUp()
        for name in ('script', 'conf', 'tool'):
            os.makedirs(self.path(f'{name}/inner'))
        self.program = shutil.copy(self.command[0], self.path('script/inner/qmail_pwrap.py'))
        self.file = self.write('conf/inner/pwrap.conf', '')
        self.yes = shutil.copy(self.tool('yes', ACCEPTS), self.path('tool/inner/yes'))
        self.command = (self.program,)

    def doubts(self, *tools: str) -> list[str]:
        """Return what is doubtful about places in this test's folder, of a file with these tools, which is good."""
        with open(self.file, 'w', encoding='utf-8') as file:
            file.writelines(f'{tool}\n' for tool in tools or [self.yes])
        code, lines = self.check(env={'PWRAP_CONF': self.file})
        self.assertEqual(code, 0, lines)
        return [line[len('warning: ') :] for line in self.warnings(lines)]

    def both(self, path: str) -> list[str]:
        """Return a file and the folders on its way, up to this test's folder."""
        return [path, os.path.dirname(path), os.path.dirname(os.path.dirname(path))]

    def assert_changeable(self, places: list[str], *tools: str) -> None:
        """Each of these places is warned of once, as others can change it, and no other."""
        expected = [f'{one}: others can change it, and so have every password' for one in places]
        self.assertEqual(sorted(self.doubts(*tools)), sorted(expected))

    @contextlib.contextmanager
    def changed(self, mode: int, places: list[str]) -> Iterator[None]:
        """Have another mode for these places."""
        for path in places:
            os.chmod(path, mode)
        yield
        for path in places:
            os.chmod(path, 0o755)

    def test_what_others_can_write_to_is_warned_of(self) -> None:
        """Script, tool, and every folder on their way and on that of the configuration: its path is named."""
        places = [*self.both(self.program), *self.both(self.file)[1:], *self.both(self.yes)]
        self.assert_changeable([])
        for mode in (0o777, 0o775, 0o757):
            with self.subTest(mode=oct(mode)), self.changed(mode, places):
                self.assert_changeable(places)

    def test_a_sticky_folder_is_not_warned_of(self) -> None:
        """As in /tmp, nobody replaces another's file there; on a file, that bit means nothing."""
        places = [*self.both(self.program), *self.both(self.file)[1:], *self.both(self.yes)]
        with self.changed(0o1777, places):
            self.assert_changeable([self.program, self.yes])

    @needs('root')
    def test_what_belongs_to_somebody_else_is_warned_of(self) -> None:
        """Its owner can change it."""
        places = [*self.both(self.program), *self.both(self.file)[1:], *self.both(self.yes)]
        for path in places:
            os.chown(path, *someone())
        self.assert_changeable(places)

    def test_links_on_the_way_count_wherever_they_lead(self) -> None:
        """The way to a link and the way on, also of those in the middle, of a chain of links and of folders."""
        for name in ('first', 'second', 'third'):
            os.mkdir(self.path(name))
        os.symlink(self.path('second/yes'), self.path('first/yes'))
        os.symlink('../third/folder/yes', self.path('second/yes'))
        os.symlink(os.path.dirname(self.yes), self.path('third/folder'))
        places = [*map(self.path, ('first', 'second', 'third', 'tool', 'tool/inner'))]
        with self.changed(0o777, places):
            self.assert_changeable(places, self.path('first/yes'))

    def test_links_that_go_round_are_no_way(self) -> None:
        """The tool cannot run, and that is all."""
        os.symlink('round', self.path('round'))
        self.write('conf/inner/pwrap.conf', f'{self.path("round")}\n')
        code, lines = self.check(env={'PWRAP_CONF': self.file})
        self.assertEqual(code, 1)
        self.assertNotIn('others can', ''.join(self.warnings(lines)))

    def test_every_word_that_is_a_path_counts(self) -> None:
        """Also behind =, and whatever stands in front: what the tool runs, or reads its users from."""
        names = ('program', 'users', 'option', 'folder', 'file')
        for name in names:
            shutil.copy(self.yes, self.path(name))
        os.remove(self.path('folder'))
        os.mkdir(self.path('folder'))
        paths = dict(zip(names, map(self.path, names)))
        env, nice = program('env'), program('nice')
        with self.changed(0o777, list(paths.values())):
            self.assert_changeable(
                list(paths.values()),
                f'{env} USERS={paths["users"]} {nice} {paths["program"]} {paths["folder"]}',
                f'{self.yes} --a=b {paths["program"]} --option={paths["option"]} f={paths["file"]}',
            )

    def test_devices_and_sockets_are_for_everybody(self) -> None:
        """As a database's socket is, and the null device: nobody puts a password there by writing to it."""
        path = self.path('socket')
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            os.chmod(path, 0o777)
            self.assert_changeable([], f'{self.yes} {os.devnull} socket={path}')

    def test_what_other_users_cannot_read_is_warned_of(self) -> None:
        """The configuration, as a server of another user could not read it; the script, as the report step runs as the
        user who logged in; and folders on their way that not everybody may enter, which need not be listed."""
        both, neither = ('file', 'script'), ()
        for place, mode, warned in (
            (0, 0o700, both),
            (0, 0o750, ('script',)),  # a group can be the servers', but not all sessions'
            (0, 0o711, both),  # as qmail's own programs are
            (0, 0o705, neither),
            (1, 0o700, both),
            (2, 0o750, ('script',)),
            (1, 0o711, neither),
        ):
            file, script = self.both(self.file)[place], self.both(self.program)[place]
            with self.subTest(place=place, mode=oct(mode)):
                with self.changed(mode, [file, script]):
                    found = self.doubts()
                said = {'file': (file, '111'), 'script': (script, 'session')}
                self.assertEqual(len(found), len(warned), found)
                for (path, trouble), doubt in zip(map(said.__getitem__, warned), found):
                    self.assertTrue(doubt.startswith(f'{path}: ') and trouble in doubt, doubt)
