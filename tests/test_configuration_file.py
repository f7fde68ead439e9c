"""The file that the configuration stands in: whether it may be used at all, and as a whole."""

from __future__ import annotations

import os
import posix
import re
import socket
import unittest
from typing import Any
from unittest import mock

from tests.harness import machine
from tests.harness.imported import SCRIPT, problems_of, read_text
from tests.harness.logins import ACCEPTS, TRIPLE, Case, Way, both_ways, read_file
from tests.harness.machine import needs

NO_NEWLINE = 'no newline at the end: the file may have been cut short'
SOMEBODY, SOMEBODY_ELSE = 64123, 64125  # users that nobody is


def read(path: str | bytes) -> Any:
    """Return the configuration that a login reads with this PWRAP_CONF."""
    with mock.patch.dict(posix.environ, {b'PWRAP_CONF': os.fsencode(path)}):
        return SCRIPT.Configuration()


def reasons(path: str | bytes) -> list[str]:
    """Return what is wrong with the file that PWRAP_CONF names."""
    return list(read(path).problems)


class FileCase(Case):
    def setUp(self) -> None:
        super().setUp()
        self.yes = self.tool('yes', ACCEPTS)

    def assert_refused(self, path: str, reason: str) -> None:
        """The file is refused for this one reason, and does not say where the log goes."""
        configuration = read(path)
        [said] = configuration.problems
        self.assertRegex(said, f'^{re.escape(path)}: {reason}')
        self.assertEqual(configuration.values['log'], 'syslog')


class Invalid(FileCase):
    """A file that is wrong in any way lets nobody in."""

    @both_ways
    def test_no_tool_runs(self, way: Way) -> None:
        """The login ends with 111, its result is temporary, and the log says what is wrong,
        wherever it stands; neither the tools above nor those below get the password."""
        for text, problem in (
            ('nonsense\nYES\n', ':2: neither a setting'),
            ('YES\nnonsense\n', ':3: neither a setting'),
            ('YES\ntimeout=\nYES\n', ':3: timeout= takes'),
            ('YES\nYES "\nYES\n', ':3: No closing quotation'),
            ('YES users=*\nYES\n', ':2: users= belongs before the path'),
            ('YES\nusers=* YES', ':3: no newline at the end'),
            ('# YES\n', ': no tool is enabled'),
        ):
            with self.subTest(text=text):
                self.write('pwrap.conf', 'log=stderr\n' + text.replace('YES', self.yes))
                problem = f'^{re.escape(self.conf + problem)}'
                self.assert_ends(self.start(*way.prog), 111, 'temporary', '-', problem)
        self.assertEqual(self.ran('yes'), 0)

    def test_of_several_mistakes_the_first_is_logged(self) -> None:
        """One line, as many as there are."""
        self.configure('users=', 'nonsense', self.yes, 'timeout=x')
        self.assert_ends(self.start('true'), 111, 'temporary', '-', ':2: users= takes')

    def test_nothing_reaches_the_client(self) -> None:
        """Without log=stderr, nothing is written to descriptors 1 and 2, which may be the client's,
        whatever is wrong."""
        crash = self.tool('crash', 'ulimit -c 0; kill -SEGV $$')
        cases: list[tuple[str, bytes | None]] = [
            (crash, TRIPLE),
            ('/nonexistent\n', TRIPLE),
            ('nonsense', TRIPLE),
            ('auth=0\n/x\n', TRIPLE),
            (f'{self.yes} "', TRIPLE),
            ('', TRIPLE),
            (self.yes, b''),
            (self.yes, b'x' * 600),
            ('nonsense', None),
        ]
        for text, triple in cases:
            for prog in ('true', '/nonexistent/prog'):
                with self.subTest(text=text, triple=triple, prog=prog):
                    self.write('pwrap.conf', text)
                    login = self.login(prog, triple=triple)
                    written = [read_file(f'{login.folder}/{number}') for number in (1, 2)]
                    self.assertEqual(written, [b'', b''])


class Change(FileCase):
    def test_counts_at_the_next_login(self) -> None:
        """The file is read at every login."""
        no = self.tool('no', 'exit 5')
        for tool, code in ((self.yes, 0), (no, 5), (self.yes, 0)):
            self.configure(tool)
            self.assertEqual(self.login('true').code, code)


class Bytes(FileCase):
    def test_any_byte_reaches_the_tool_as_it_stands_there(self) -> None:
        """Whatever the encoding of the file."""
        words = [bytes([number]) for number in range(1, 256) if bytes([number]) not in b"\n'#\\"]
        show = self.tool('show', 'printf "%s\\0" "$@"; exit 5').encode()
        quoted = b' '.join(b"'%s'" % word for word in words)
        self.write('pwrap.conf', b'log=stderr\n%s %s\n' % (show, quoted))
        login = self.login('true')
        self.assertEqual((login.code, login.output(1).split(b'\0')[:-2]), (5, words))


class Kinds(FileCase):
    def test_only_a_regular_file_is_read(self) -> None:
        """A missing file, a folder, a device, a fifo with or without a writer, a socket: none of
        them is waited for, and each has its reason."""
        os.mkfifo(self.path('fifo'))
        os.mkfifo(self.path('held'))
        held = os.open(self.path('held'), os.O_RDWR)  # has a writer, who writes nothing
        self.addCleanup(os.close, held)
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(self.path('socket'))
        os.symlink('loop', self.path('loop'))
        os.symlink('nowhere', self.path('dangling'))
        os.symlink('/dev/zero', self.path('endless'))
        for path, reason in (
            (self.path('missing'), 'No such file or directory'),
            (self.folder, 'Is a directory'),
            ('/', 'Is a directory'),
            (self.path('fifo'), 'not a regular file'),
            (self.path('held'), 'not a regular file'),
            (self.path('socket'), 'No such device or address'),
            (self.path('loop'), 'Too many levels of symbolic links'),
            (self.path('dangling'), 'No such file or directory'),
            (self.path('endless'), 'not a regular file'),
            ('/dev/null', 'not a regular file'),
            (self.path('yes/file'), 'Not a directory'),
            (self.write('empty', ''), 'no tool is enabled'),
        ):
            with self.subTest(path=path):
                self.assert_refused(path, f'{reason}$')

    def test_a_login_does_not_wait_for_a_fifo(self) -> None:
        """111 at once, with nothing on descriptors 1 and 2."""
        os.mkfifo(self.conf)
        login = self.login('true')
        written = [read_file(f'{login.folder}/{number}') for number in (1, 2)]
        self.assertEqual((login.code, written), (111, [b'', b'']))

    def test_a_link_to_a_file_will_do(self) -> None:
        """What counts is the file."""
        self.write('file', f'{self.yes}\n')
        os.symlink('file', self.conf)
        self.assertEqual(self.login('true').code, 0)

    def test_its_name_cannot_look_like_a_line_of_the_log(self) -> None:
        """What is shown of the path is escaped, and not too long."""
        for path, shown in (
            (
                b'/nonexistent\n\x1b"= result=accepted',
                '/nonexistent\\x0a\\x1b\\x22\\x3d\\x20result',
            ),
            (b'/nonexistent\xff\xe4', '/nonexistent\\xff\\xe4: No such file or directory'),
            (b'/' + b'a' * 5000, '/' + 'a' * 199 + '\\...: File name too long'),
        ):
            with self.subTest(path=path):
                [said] = reasons(path)
                self.assertTrue(said.startswith(shown), said)
                self.assertRegex(said, '^[ -~]{1,300}$')

    def test_pwrap_conf_names_the_file(self) -> None:
        """PWRAP_CONF names the file; where it is unset or empty, the built-in path does."""
        with mock.patch.object(SCRIPT, 'CONFIGURATION', self.path('built-in')):
            self.assertEqual(read(self.conf).path, os.fsencode(self.conf))
            self.assertEqual(read('').path, os.fsencode(self.path('built-in')))
            with mock.patch.dict(posix.environ):
                posix.environ.pop(b'PWRAP_CONF', None)
                configuration = SCRIPT.Configuration()
            self.assertEqual(configuration.path, os.fsencode(self.path('built-in')))
        self.assertEqual(SCRIPT.CONFIGURATION, '/var/qmail/control/pwrap.conf')


class Safe(FileCase):
    """Whoever can change the file can have every password."""

    def test_nobody_else_may_write_to_it(self) -> None:
        """A file of such a mode is refused, and the log says how to mend it; log=stderr in it does
        not count. Anybody may read it."""
        for mode in (0o664, 0o646, 0o666, 0o622, 0o602, 0o620, 0o777):
            with self.subTest(mode=oct(mode)):
                path = self.write(f'mode{mode:o}', f'log=stderr\n{self.yes}\n', mode)
                mend = f'others can write to it; mend it with: chmod go-w {path}$'
                self.assert_refused(path, mend)
        for mode in (0o600, 0o400, 0o644, 0o755, 0o4755):
            with self.subTest(mode=oct(mode)):
                path = self.write(f'mode{mode:o}', f'log=stderr\n{self.yes}\n', mode)
                self.assertEqual(reasons(path), [])

    @both_ways
    def test_such_a_file_is_not_used(self, way: Way) -> None:
        """111, no tool runs, and descriptor 2 stays empty."""
        self.configure(self.yes)
        os.chmod(self.conf, 0o664)
        login = self.login(*way.prog)
        self.assertEqual((login.code, read_file(f'{login.folder}/2')), (111, b''))
        self.assertEqual(self.ran('yes'), 0)

    @needs('root')
    def test_it_must_belong_to_root_or_to_who_runs_it(self) -> None:
        """Any other owner is refused, with what mends it, also behind a link."""
        path = self.write('others', f'log=stderr\n{self.yes}\n')
        os.chown(path, SOMEBODY, 0)
        link = self.path('link')
        os.symlink('others', link)
        for name in (path, link):
            mend = f'belongs to user {SOMEBODY}; mend it with: chown root {name}$'
            self.assert_refused(name, mend)
        os.chmod(path, 0o666)
        self.assertEqual(len(reasons(path)), 2)

    @needs('root', 'public folder', 'public python')
    def test_for_a_service_that_is_not_root(self) -> None:
        """A service's own user or root may own its file, nobody else, and the service must be able
        to read it."""
        own, root, other, unreadable = (
            self.write(name, f'log=stderr\n{self.yes}\n')
            for name in ('own', 'root', 'other', 'unreadable')
        )
        os.chown(own, SOMEBODY, SOMEBODY)
        os.chmod(own, 0o600)
        os.chown(other, SOMEBODY_ELSE, SOMEBODY)
        os.chmod(unreadable, 0o600)
        os.chmod(self.folder, 0o777)  # its tool makes a file there
        for path, code in ((own, 0), (root, 0), (other, 111), (unreadable, 111)):
            with self.subTest(path=path):
                become = lambda: machine.become_user(SOMEBODY)  # noqa: E731
                login = self.login('true', env={'PWRAP_CONF': path}, before=become)
                self.assertEqual(login.code, code)
                self.assertEqual(login.log() == [], code == 111)
        self.assertEqual(self.ran('yes'), 2)


class CutShort(unittest.TestCase):
    """What a full disk, or an editor that died, leaves of a file must not let more people in."""

    def test_the_last_line_needs_its_newline(self) -> None:
        """A last line without one makes the file invalid, unless it is blank or a comment, or the
        whole file has the form of 0.3: nothing but comments and bare paths."""
        for text, is_wrong in (
            ('/a\nusers=* /b', True),
            ('users=*\n/b', True),
            ('/a\n/b -x', True),
            ('/a -x\n/b', True),
            ('log=stderr\n/b', True),
            ('/usr/bin/env A=/etc/o /b', True),
            ('/a\t-x\n/b', True),
            ('/a\n/b\nusers=*\r', True),
            ('/a -x\n\r', False),
            ('users=* /b\n', False),
            ('users=* /b\n ', False),
            ('users=* /b\n\t# a comment', False),
            ('users=* /b\r\n', False),
            ('/a\n/b', False),
            ('/a', False),
            ('"/a b"\n\'/b\'', False),
            ('/a\\ b\n/b', False),
            ('# a\n\n  /a  \n\t/b\t', False),
            ('# a\r\n/a\r\n/b\r', False),
            ('# "quoted" -x users=*\n/a', False),
        ):
            with self.subTest(text=text):
                line = text.count('\n') + 1
                said = [f'/conf:{line}: {NO_NEWLINE}'] if is_wrong else []
                self.assertEqual(problems_of(text), said)

    def test_a_file_cut_at_any_byte_is_invalid(self) -> None:
        """A file with settings, cut anywhere, is invalid, unless whole lines are left, or nothing
        but comments and blanks behind them."""
        text = (
            'log=stderr\r\nusers=*@b\n/no\n# a comment\nfailure=temporary\n'
            'users=!bo* timeout=9 name=x refused=1,3-5 /yes "a #b"\n/usr/bin/env A=/b /c d\n'
        )
        for length in range(len(text)):
            cut = text[:length]
            *_, last = cut.split('\n')
            is_whole = not last.strip() or last.lstrip().startswith('#')
            with self.subTest(cut=cut[-30:]):
                said = problems_of(cut)
                has_tool = cut.count('\n/') + cut.count(' /') > 0 and '/no\n' in cut
                self.assertEqual(said == [], is_whole and has_tool, said)
                if is_whole and has_tool:
                    kept = [tool.command for tool in read_text(cut).tools]
                    whole = [tool.command for tool in read_text(text).tools]
                    self.assertEqual(kept, whole[: len(kept)])

    def test_a_file_of_0_3_works_unchanged(self) -> None:
        """Comments and paths, with or without a newline at the end, on any system."""
        for end in ('', '\n', '\r\n'):
            for newline in ('\n', '\r\n'):
                lines = [
                    '# config file for qmail-pwrap',
                    '#',
                    '/no',
                    '/nonexistent',
                    '',
                    '  # x',
                    '/y',
                ]
                with self.subTest(end=end, newline=newline):
                    configuration = read_text(newline.join(lines) + end)
                    self.assertFalse(configuration.problems)
                    commands = [tool.command for tool in configuration.tools]
                    self.assertEqual(commands, [[b'/no'], [b'/nonexistent'], [b'/y']])


class Huge(FileCase):
    def test_up_to_a_megabyte_is_read_like_any_other(self) -> None:
        """Some 50,000 lines, a long line, thousands of tools or patterns."""
        for name, lines in (
            ('many lines', ['# comment', '  '] * 25000),
            ('a long comment', ['#' + 'x' * 900000]),
            (
                'many tools',
                [f'users=nobody{number} /nonexistent/{number}' for number in range(5000)],
            ),
            ('many patterns', [many_patterns(50000), '/nonexistent/tool', 'users=*']),
        ):
            with self.subTest(name):
                self.configure(*lines, self.yes)
                self.assert_ends(self.start('true'), 0, 'accepted', self.yes)

    @both_ways
    def test_more_is_refused_at_once(self, way: Way) -> None:
        """However large, and though one word of that size would take a minute: nobody reads it."""
        for name, text in (
            ('a quoted word', f"{self.yes} '{'x' * 1100000}'\n"),
            ('50 MB', f'{self.yes}\n' + '# comment\n' * 5000000),
        ):
            with self.subTest(name):
                self.write('pwrap.conf', text)
                self.assertRegex(reasons(self.conf)[0], 'larger than 1 MB')
                self.assertEqual(self.start(*way.prog).wait(10).code, 111)
        self.assertEqual(self.ran('yes'), 0)


def many_patterns(count: int) -> str:
    return 'users=' + ','.join(f'nobody{number}@*' for number in range(count))
