"""The configuration: what it may say, and that nothing runs where it is wrong."""

import os
import random
import re
import shutil
import subprocess

from tests.harness.logins import ACCEPTS, REJECTS, TRIPLE, Case, read_file
from tests.harness.machine import TOP, needs

ERRORS = [  # a line, and what the log says is wrong with it
    ('nonsense', 'neither a setting'), ('bin/tool', 'neither a setting'), ('./tool x', 'neither a setting'),
    ('colour=red', r'unknown setting colour='), ('Users=* /t', r'unknown setting Users='), ('=1', 'unknown setting'),
    ('se;cret=x /t', 'unknown setting$'), ('auth=2', r'auth= takes 0 or 1'), ('auth=', 'auth= takes'),
    ('auth=00', 'auth= takes'), ('log=file', 'log= takes'), ('failure=first', 'failure= takes'),
    ('auth=1 /t', 'auth= belongs'), ('log=stderr /t', 'log= (belongs|is set twice)'), ('failure=last /t', 'failure= belongs'),
    ('name=x', 'name= belongs'), ('name= /t', 'name= takes'), ('name=a,b /t', 'name= takes'),
    ('"name=a b" /t', 'name= takes'), ('timeout=x /t', 'timeout= takes'), ('timeout=-1 /t', 'timeout= takes'),
    ('timeout=86401 /t', 'timeout= takes'), ('timeout= /t', 'timeout= takes'), ('timeout=1.5 /t', 'timeout= takes'),
    ('timeout=+5 /t', 'timeout= takes'), ('timeout=1_0 /t', 'timeout= takes'), ('timeout=\xb2 /t', 'timeout= takes'),
    ('timeout=' + '9' * 5000 + ' /t', 'timeout= takes'), ('users= /t', 'users= takes'), ('users=a,,b /t', 'users= takes'),
    ('users=a, /t', 'users= takes'), ('users=! /t', 'users= takes'), ('users=a,! /t', 'users= takes'),
    ('timeout=1 timeout=2 /t', 'timeout= is set twice'), ('auth=1\nauth=1', ':3: auth= is set twice'),
    ('auth=1 auth=1', 'auth= is set twice'), ('/t "unbalanced', 'quot'), ("/t 'unbalanced", 'quot'),
    ('/t backslash\\', 'escape'), ('/t # comment', 'comment'), ('/t #comment', 'comment'), ('/t "a b" #c', 'comment'),
    ('auth=1 # comment', 'comment'), ('/t a\0b', 'NUL'), ('\0', 'NUL'), ('/t\0', 'NUL'),
]


class Errors(Case):
    def setUp(self):
        super().setUp()
        self.tool('yes', ACCEPTS)

    def check(self, reason):
        """The configuration must be refused. Without its consent the log goes to syslog, so --check tells the reason."""
        login = self.login('true')
        self.assertEqual((login.code, read_file(f'{login.folder}/1'), read_file(f'{login.folder}/2')), (111, b'', b''))
        self.assertEqual(self.ran('yes'), 0)
        checked = subprocess.run([*self.command, '--check'], env={'PWRAP_CONF': self.conf}, capture_output=True, text=True)
        self.assertEqual(checked.returncode, 1, checked)
        self.assertRegex(checked.stdout, rf'(?m)^{self.conf}(:\d+)?: .*{reason}|{reason}')
        return checked.stdout

    def test_form(self):
        """Anything that is not a setting, a tool or a comment makes the file invalid: no tool runs, exit 111, and
        FILE:LINE says what is wrong without repeating the file but for the name of a setting."""
        for line, reason in ERRORS:
            with self.subTest(line=line):
                self.write('pwrap.conf', f'log=stderr\n{line}\n{self.path("yes")}\n'.encode('latin-1'))
                said = self.check(reason)
                problem = [one for one in said.splitlines() if one.startswith(self.conf + ':')]
                self.assertRegex(problem[0], rf'^{re.escape(self.conf)}:[23]: ')
                for secret in ('nonsense', 'red', 'tool x', 'cret', 'a b', 'unbalanced', 'backslash', 'file$'):
                    self.assertNotIn(secret, problem[0])

    def test_files(self):
        """A missing or unreadable file, a fifo, a folder, a device, and a file without a tool are refused."""
        self.check('No such file')
        os.mkfifo(self.conf)
        self.check('not a regular file')
        os.unlink(self.conf)
        os.mkdir(self.conf)
        self.check('not a regular file')
        os.rmdir(self.conf)
        os.symlink('/dev/zero', self.conf)
        self.check('not a regular file')
        os.unlink(self.conf)
        self.configure('auth=1', '# /bin/true')
        self.check('no tool is enabled')
        shutil.copy(os.path.join(TOP, 'pwrap.conf.example'), self.conf)
        self.check('no tool is enabled')

    def test_mode(self):
        """A file that others can write to is refused, and the log says how to mend it."""
        for mode in (0o664, 0o646, 0o666, 0o622):
            with self.subTest(mode=oct(mode)):
                self.configure(self.path('yes'))
                os.chmod(self.conf, mode)
                self.check('others can write to it; mend it with: chmod go-w ' + self.conf)

    @needs('root')
    def test_owner(self):
        """A file that belongs to another user than root or the one that the wrapper runs as is refused."""
        self.configure(self.path('yes'))
        os.chown(self.conf, 12345, 0)
        self.check('belongs to user 12345; mend it with: chown root ' + self.conf)

        def become_12345():
            os.setgroups([])
            os.setgid(12345)
            os.setuid(12345)
        os.chmod(self.folder, 0o777)
        self.assertEqual(self.login('true', before=become_12345).code, 0)

    @needs('root')
    def test_setuid(self):
        """Where real and effective uid or gid differ, PWRAP_CONF is ignored."""
        self.configure(self.path('yes'))
        for before in (lambda: os.setresuid(12345, 0, 0), lambda: os.setresgid(12345, 0, 0)):
            login = self.login('true', before=before)
            self.assertEqual((login.code, self.ran('yes')), (111, 0))


class Forms(Case):
    def setUp(self):
        super().setUp()
        self.tool('show', 'printf "%s\\0" "$@"; exit 1')

    def shown(self, *lines):
        """The arguments that the tool got from its line."""
        self.write('pwrap.conf', b'log=stderr\n' + b'\n'.join(lines))
        login = self.login('true')
        self.assertEqual((login.code, login.problems()), (1, []))
        return login.output(1).split(b'\0')[:-2]

    def test_words(self):
        """Words are split at spaces and tabs, quotes and backslashes work as in shlex, any byte reaches the tool."""
        show = self.path('show').encode()
        for line, words in [(b'', []), (b' a  b\tc\t', [b'a', b'b', b'c']), (b' "a b" \'c  d\'', [b'a b', b'c  d']),
                            (b' a\\ b', [b'a b']), (b' ""', [b'']), (b" '#x' \\#y a#b", [b'#x', b'#y', b'a#b']),
                            (b' a#b', [b'a#b']), (b' "\\"" \'\\\'', [b'"', b'\\']), (b' auth=0 users=x', [b'auth=0', b'users=x']),
                            (b' \xe4\xff\x85\xa0\x0b\x0c\x1c', [b'\xe4\xff\x85\xa0\x0b\x0c\x1c']),
                            (b' "\xe4 \xff"', [b'\xe4 \xff']), (b' a\r', [b'a']), (b' a\rb\r', [b'a\rb']),
                            (b' $HOME `x` *', [b'$HOME', b'`x`', b'*'])]:
            with self.subTest(line=line):
                self.assertEqual(self.shown(show + line), words)
                self.assertEqual(self.shown(b'  \t timeout=5 ' + show + line + b'\n'), words)

    def test_shlex(self):
        """Whatever a line of quotes, backslashes and blanks holds, its words are those of Python's shlex."""
        import shlex
        draw = random.Random(4)
        show = self.path('show')
        for _ in range(150):
            rest = ''.join(draw.choice('ab"\'\\ \t#') for _ in range(draw.randrange(12)))
            lexer = shlex.shlex(f'{show} {rest}', posix=True)
            lexer.whitespace, lexer.whitespace_split, lexer.commenters = ' \t', True, ''
            try:
                words = list(lexer)[1:]
            except ValueError:
                words = None
            with self.subTest(rest=rest):
                self.write('pwrap.conf', f'log=stderr\n{show} {rest}\n')
                login = self.login('true')
                if login.code == 1:
                    self.assertEqual(login.output(1).decode().split('\0')[:-2], words)
                else:
                    self.assertEqual(login.code, 111)
                    self.assertTrue(words is None or any(word.startswith('#') for word in words))

    def test_upstream(self):
        """A checkpwtools file of qmail-pwrap 0.3 works unchanged, also without a newline at its end."""
        self.tool('yes', ACCEPTS)
        self.tool('no', REJECTS)
        for end in ('', '\n', '\r\n'):
            with self.subTest(end=end):
                self.write('pwrap.conf', f'# config file for qmail-pwrap\n#\n{self.path("no")}\n/nonexistent/courierpasswd\n'
                                         f'\n  # indented\n{self.path("yes")}{end}')
                self.assertEqual(self.login('true').code, 0)

    def test_defaults(self):
        """Settings without a path are the defaults of the lines below; those on a tool's line are that tool's alone."""
        for name in ('one', 'two', 'three', 'four'):
            self.tool(name, f'echo {name} >>$dir/order; exit 1')
        self.configure('name=1 users=bob ' + self.path('one'), 'users=alice*', self.path('two'),
                       'users=* timeout=9', self.path('three'), 'users=!alice* ' + self.path('four'))
        self.assertEqual(self.login('true').code, 1)
        self.assertEqual(read_file(self.path('order')).split(), [b'two', b'three'])

    def test_name(self):
        """name= is what the log calls a tool; else it is the path."""
        self.tool('yes', ACCEPTS)
        self.configure('name=Virtual_1.x-y ' + self.path('yes'))
        self.assertEqual(self.login('true').result()['tool'], 'Virtual_1.x-y')
        self.configure('name=gone /nonexistent/tool', self.path('yes'))
        login = self.login('true')
        self.assertEqual(login.result()['tool'], self.path('yes'))
        self.assertRegex(login.problems()[0], '^gone: cannot run')

    def test_change(self):
        """The configuration is read at every login."""
        self.tool('yes', ACCEPTS)
        self.tool('no', REJECTS)
        for name, code in (('yes', 0), ('no', 1), ('yes', 0)):
            self.configure(self.path(name))
            self.assertEqual(self.login('true').code, code)

    def test_quiet(self):
        """Without log=stderr nothing is ever written to descriptors 1 and 2, which may be the client's."""
        self.tool('crash', 'kill -SEGV $$')
        for lines in ((self.path('crash'),), ('/nonexistent',), ('nonsense',), ('auth=0', '/x'), ('timeout=x',)):
            for triple in (TRIPLE, b'', b'x' * 600, None):
                for prog in ('true', '/nonexistent/prog'):
                    with self.subTest(lines=lines, triple=triple, prog=prog):
                        self.write('pwrap.conf', '\n'.join(lines))
                        login = self.login(prog, triple=triple)
                        self.assertEqual(read_file(f'{login.folder}/1') + read_file(f'{login.folder}/2'), b'')


class Users(Case):
    def test_patterns(self):
        """A tool serves a login that matches a pattern and no exclusion, case aside; only it sees the password."""
        self.tool('asked', 'exit 3')
        for users, login, served in [
                ('*', b'anyone', True), ('*', b'', True), ('alice', b'alice', True), ('alice', b'ALICE', True),
                ('ALICE', b'alice', True), ('alice', b'alice@x', False), ('alice', b'malice', False),
                ('*@example.org', b'a@EXAMPLE.org', True), ('*@example.org', b'a@example.org.net', False),
                ('*@example.org', b'@example.org', True), ('*@example.org', b'example.org', False),
                ('a*b*c', b'abc', True), ('a*b*c', b'aXbYc', True), ('a*b*c', b'acb', False), ('a*a', b'a', False),
                ('ab*ba', b'aba', False), ('*a*', b'xax', True), ('*a*', b'xx', False), ('a**b', b'ab', True),
                ('?lice', b'alice', False), ('[a]lice', b'alice', False), ('a.ice', b'alice', False),
                ('bob,alice', b'alice', True), ('bob,carol', b'alice', False), ('!alice', b'alice', False),
                ('!alice', b'bob', True), ('!alice,!bob', b'carol', True), ('!alice,!bob', b'bob', False),
                ('*@x,!root@x', b'root@x', False), ('*@x,!root@x', b'ROOT@X', False), ('*@x,!root@x', b'bob@x', True),
                ('*@x,!root@x', b'bob@y', False), ('!r*,ro*', b'root', False), ('a!b', b'a!b', True),
                ('\xe4*', b'\xe4x', True), ('\xc4*', b'\xe4x', False), ('*\n*', b'a\nb', True)]:
            line = f'"users={users}" {self.path("asked")}' if '\n' not in users else f'users=* {self.path("asked")}'
            self.write('pwrap.conf', f'log=stderr\n{line}\n'.encode('latin-1'))
            with self.subTest(users=users, login=login):
                before = self.ran('asked')
                done = self.login('true', triple=login + b'\0secret\0\0')
                self.assertEqual((done.code, self.ran('asked') - before), (3, 1) if served else (1, 0))
                if not served:
                    self.assertEqual((done.result()['result'], done.result()['tool']), ('rejected', '-'))

    def test_others(self):
        """Tools that do not serve the login count for nothing: neither their failures nor their absence."""
        self.tool('no', REJECTS)
        self.configure('failure=temporary', 'users=bob /nonexistent/tool', self.path('no'))
        login = self.login('true')
        self.assertEqual((login.code, login.result()['result'], login.problems()), (1, 'rejected', []))


class Example(Case):
    def test_every_setting(self):
        """The example, with everything in it enabled line by line, is a valid configuration that shows each setting."""
        with open(os.path.join(TOP, 'pwrap.conf.example')) as file:
            lines = [line[2:] for line in file if re.match(r'# ([a-z]+=\S+( |$))*(/\S+|[a-z]+=\S+$)', line)]
        settings = set(re.findall(r'(?m)(?:^| )([a-z]+)=', '\n'.join(line.split(' /')[0] for line in lines)))
        self.assertEqual(settings, {'auth', 'log', 'failure', 'timeout', 'users', 'name'})
        self.write('pwrap.conf', ''.join(lines) + 'name=true /bin/true\n')
        done = subprocess.run([*self.command, '--check'], env={'PWRAP_CONF': self.conf}, capture_output=True, text=True)
        problems = [line for line in done.stdout.splitlines() if line.startswith(self.conf + ':')]
        self.assertEqual([line for line in problems if ': cannot run: ' not in line], [])
