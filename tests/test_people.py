"""The commands for people: --check, --test LOGIN, --help and --version."""

import os
import pty
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import time

from tests.harness.logins import ACCEPTS, REJECTS, RESULT, Case, read_file, wait_until
from tests.harness.machine import SCRIPT, drop_root, someone, needs
from tests.harness.syslog import SyslogListener

PASSWORD = 'Wr0ng+hOrse'  # long and odd enough to be found wherever it stands


class Person(Case):
    """Somebody at a command line, with a copy of the script in a folder that nobody else can write to."""

    def setUp(self):
        super().setUp()
        self.command = (shutil.copy(SCRIPT, self.path('qmail_pwrap.py')),)

    def settings(self, *lines):
        """Write the configuration: exactly these lines, so that the log is the system's."""
        self.write('pwrap.conf', ''.join(line + '\n' for line in lines))

    def say(self, *words, given=b'', **options):
        """Run the command with these words, and given on its standard input; return exit code, output and errors."""
        reader = os.open(self.write('given', given), os.O_RDONLY)
        login = self.login(*words, triple=None, descriptors={0: reader, **options.pop('descriptors', {})}, **options)
        os.close(reader)
        return (login.code, *(read_file(f'{login.folder}/{number}').decode() for number in (1, 2)))

    def check(self, **options):
        """Run --check, which must say nothing on descriptor 2; return its exit code and the lines it prints."""
        code, output, errors = self.say('--check', **options)
        self.assertEqual(errors, '')
        return code, output.splitlines()

    def try_login(self, login='alice@example.org', given=None, **options):
        """Run --test, which must say nothing on descriptor 2; return its exit code and the lines it prints."""
        given = PASSWORD.encode() + b'\n' if given is None else given
        code, output, errors = self.say('--test', login, given=given, **options)
        self.assertEqual(errors, '')
        self.assertNotIn(PASSWORD, output)
        return code, output.splitlines()

    def on_terminal(self, *words, typed=b'', at=b'assword: ', env=None):
        """Run the command on a terminal of its own, type something as soon as the screen ends with `at`; return exit
        code and what the screen shows."""
        environment = {'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'PWRAP_CONF': self.conf, 'LC_ALL': 'C.UTF-8', **(env or {})}
        pid, terminal = pty.fork()
        if not pid:
            try:
                os.execve(self.command[0], [*self.command, *words], environment)
            finally:
                os._exit(99)
        shown = b''
        while True:
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # Linux says so when the last process has left the terminal
                break
            if not piece:
                break
            shown += piece
            if typed and shown.endswith(at):
                os.write(terminal, typed)
                typed = b''
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()

    def warnings(self, lines):
        return [line for line in lines if line.startswith('warning: ')]


class Words(Person):
    def test_help(self):
        """--help names every command, and exits 0."""
        code, output, errors = self.say('--help')
        self.assertEqual((code, errors), (0, ''))
        for word in ('--check', '--test LOGIN', '--version', 'PWRAP_CONF', '/var/qmail/control/pwrap.conf'):
            self.assertIn(word, output)

    def test_version(self):
        """--version prints one line, the version, and exits 0."""
        code, output, errors = self.say('--version')
        self.assertEqual((code, errors), (0, ''))
        self.assertRegex(output, r'^qmail_pwrap \d+\.\d+(\.\d+)?\n$')

    def test_unknown(self):
        """An unknown option, or words that a command does not take: exit 2, a line on descriptor 2 that names it."""
        self.tool('yes', ACCEPTS)
        self.settings(self.path('yes'))
        for words in (('--chekc',), ('--',), ('--check', 'x'), ('--test', 'a', 'b'), ('--help', '--test'), ('--version', ''),
                      ('--check=1',), ('--Check',)):
            with self.subTest(words=words):
                code, output, errors = self.say(*words)
                self.assertEqual((code, output), (2, ''))
                self.assertTrue(errors.startswith(words[0] + ': '), errors)
        self.assertEqual(self.ran('yes'), 0)

    def test_no_login(self):
        """--test without LOGIN: exit 2 and usage, and no password is asked for."""
        code, output, errors = self.say('--test')
        self.assertEqual((code, output), (2, ''))
        self.assertIn('--test LOGIN', errors)
        code, shown = self.on_terminal('--test')
        self.assertEqual(code, 2)
        self.assertNotIn('assword:', shown)


class Good(Person):
    def test_table(self):
        """--check prints the file, its settings and a row for each tool: number, name, command, users, timeout, state."""
        self.tool('one', ACCEPTS)
        self.tool('two', ACCEPTS)
        self.settings('# comment', 'failure=temporary', 'timeout=7', f'users=*@example.org,!bob* name=first {self.path("one")} -a b',
                      '', 'timeout=0', self.path('two'))
        code, lines = self.check()
        self.assertEqual(code, 0, lines)
        self.assertEqual(lines[:2], [f'configuration: {self.conf}', 'settings: auth=1 log=syslog failure=temporary'])
        rows = [re.split(r' {2,}', line.strip()) for line in lines[2:5]]
        self.assertEqual(rows, [
            ['name', 'command', 'users', 'timeout', 'state'],
            ['1', 'first', f'{self.path("one")} -a b', '*@example.org,!bob*', '7', 'ok'],
            ['2', self.path('two'), self.path('two'), '*', 'none', 'ok']])
        self.assertEqual(self.warnings(lines), [])
        self.assertIn('the configuration is good', lines)

    def test_runs_no_tool(self):
        """--check runs no tool."""
        self.tool('one', ACCEPTS)
        self.tool('two', REJECTS)
        self.settings(self.path('one'), self.path('two'))
        self.assertEqual(self.check()[0], 0)
        self.assertEqual((self.ran('one'), self.ran('two')), (0, 0))

    def test_kinds(self):
        """A binary, a script, a binary that may be executed but not read: each is a tool that --check finds good."""
        binary = shutil.copy('/bin/true', self.path('binary'))
        self.tool('script', ACCEPTS)
        self.write('spaced', '#! /bin/sh -e\nexit 1\n', 0o755)
        self.settings(binary, self.path('script'), self.path('spaced'))
        self.assertEqual(self.check()[0], 0)
        os.chmod(binary, 0o711)
        self.assertEqual(self.check()[0], 0)

    def test_default(self):
        """Without PWRAP_CONF, or with an empty one, --check reads the default file, as a login does."""
        for env in ({'PWRAP_CONF': ''}, {}):
            code, lines = self.check(whole_env={'PATH': '/usr/bin:/bin', **env})
            self.assertEqual(lines[0], 'configuration: /var/qmail/control/pwrap.conf')
            if not os.path.exists('/var/qmail/control/pwrap.conf'):
                self.assertEqual(code, 1)
                self.assertIn('/var/qmail/control/pwrap.conf: No such file or directory', lines)

    def test_hostile_bytes(self):
        """Whatever bytes the file holds, --check sends a terminal no control character, in any locale."""
        self.tool('one', ACCEPTS)
        line = b"'\x1b[2J\xff' \xe4\xf6 \xc3\xa4"
        self.write('pwrap.conf', f'users=\x1b[31m*,* {self.path("one")} '.encode() + line + b'\n\x1b]0;x\x07=1\n')
        for locale in ('C', 'C.UTF-8', 'POSIX', 'de_DE.ISO-8859-1'):
            with self.subTest(locale=locale):
                code, lines = self.check(env={'LC_ALL': locale})
                self.assertEqual(code, 1)
                self.assertTrue(all(line.isprintable() and line.isascii() for line in lines), lines)
                self.assertIn(f'{self.conf}:2: unknown setting', lines)


class Problems(Person):
    def test_every_problem(self):
        """Every line that makes the file invalid is shown as FILE:LINE: with what is wrong, not just the first; exit 1."""
        self.tool('yes', ACCEPTS)
        yes = self.path('yes')
        wrong = [  # line, words of the problem
            ('colour=red', 'unknown setting colour='), ('timeout=soon', 'timeout= takes seconds, 0 to 86400'),
            ('timeout=86401', 'timeout='), ('users=a,,b', 'users='), ('bin/tool', 'neither a setting'),
            (f'{yes} "unbalanced', 'quot'), (f'auth=0 {yes}', 'auth= belongs on a line without a tool'),
            ('name=x', 'name= belongs on a line with a tool'), ('auth=2', 'auth= takes 0 or 1'),
            (f'{yes} # comment', 'a comment needs a line of its own'), (f'{yes} a\0b', 'NUL'),
            ('log=file', 'log='), ('failure=never', 'failure='), (f'name=a/b {yes}', 'name='),
        ]
        self.settings(yes, *(line for line, _ in wrong), 'failure=last', 'failure=temporary')
        code, lines = self.check()
        self.assertEqual(code, 1)
        shown = [line for line in lines if line.startswith(self.conf + ':')]
        self.assertEqual(len(shown), len(wrong) + 1, shown)
        for number, (line, words) in enumerate(wrong, 2):
            with self.subTest(line=line):
                found = [one for one in shown if one.startswith(f'{self.conf}:{number}: ')]
                self.assertEqual(len(found), 1, shown)
                self.assertIn(words, found[0])
        self.assertEqual(shown[-1], f'{self.conf}:{len(wrong) + 3}: failure= is set twice')

    def test_the_same_as_a_login(self):
        """The first problem that --check shows is the one that a login logs; where it shows none, a login works."""
        self.tool('yes', ACCEPTS)
        for lines, mode in ((['x'], 0o644), (['timeout=x', 'y'], 0o644), ([], 0o644), ([self.path('yes')], 0o666), (['x'], 0o666)):
            with self.subTest(lines=lines, mode=mode):
                self.write('pwrap.conf', '\n'.join(lines), mode)
                code, shown = self.check()
                self.assertEqual(code, 1)
                first = next(line for line in shown if line.startswith(self.conf))
                # An invalid file logs to the system log, where only root can look: see test_install.
                tried = self.try_login()
                self.assertEqual(tried[0], 111)
                self.assertIn(first, tried[1])

    def test_tools(self):
        """A tool that is missing or cannot be executed is a problem, shown with its line and in its row's state."""
        self.tool('yes', ACCEPTS)
        self.write('locked', '#!/bin/sh\n', 0o644)
        self.write('text', 'no program', 0o755)
        self.write('empty', '', 0o755)
        self.write('lost', '#!/nonexistent/python\n', 0o755)
        os.mkdir(self.path('folder'))
        os.symlink(self.path('nowhere'), self.path('dangling'))
        wrong = {'missing': 'No such file', 'locked': 'not executable', 'text': 'not a program', 'empty': 'not a program',
                 'lost': 'interpreter is missing', 'folder': 'not a regular file', 'dangling': 'No such file'}
        self.settings(self.path('yes'), *(self.path(name) for name in wrong))
        code, lines = self.check()
        self.assertEqual(code, 1)
        self.assertNotIn(f'{self.conf}:1:', '\n'.join(lines))
        for number, (name, words) in enumerate(wrong.items(), 2):
            with self.subTest(tool=name):
                self.assertTrue([line for line in lines if line.startswith(f'{self.conf}:{number}: {self.path(name)}: ')
                                 and words in line], lines)
                self.assertTrue([line for line in lines if line.lstrip().startswith(f'{number}  ') and words in line], lines)

    def test_one_bad_tool(self):
        """One bad tool among good ones is enough for exit 1; without it, exit 0."""
        self.tool('yes', ACCEPTS)
        self.settings(self.path('yes'), self.path('missing'))
        self.assertEqual(self.check()[0], 1)
        self.settings(self.path('yes'))
        self.assertEqual(self.check()[0], 0)

    def test_file(self):
        """A missing file, one that is not a regular file, and one without a tool are problems, and are named."""
        self.write('empty', '')
        self.write('comments', '# /bin/true\n\n')
        os.mkfifo(self.path('fifo'))
        for name, words in (('missing', 'No such file'), ('fifo', 'not a regular file'), ('', 'not a regular file'),
                            ('empty', 'no tool is enabled'), ('comments', 'no tool is enabled')):
            with self.subTest(file=name):
                code, lines = self.check(env={'PWRAP_CONF': self.path(name)})
                self.assertEqual(code, 1)
                self.assertIn(f'{self.path(name)}: {words}', '\n'.join(lines))

    def test_mode(self):
        """A file that others can write to is a problem, with the command that mends it."""
        self.tool('yes', ACCEPTS)
        for mode in (0o666, 0o664, 0o646):
            with self.subTest(mode=oct(mode)):
                self.write('pwrap.conf', self.path('yes'), mode)
                code, lines = self.check()
                self.assertEqual(code, 1)
                self.assertIn(f'chmod go-w {self.conf}', '\n'.join(lines))
                subprocess.run(['/bin/sh', '-c', f'chmod go-w {self.conf}'], check=True)
                self.assertEqual(self.check()[0], 0)

    @needs('root')
    def test_owner(self):
        """A file that belongs to somebody else is a problem, with the command that mends it."""
        self.tool('yes', ACCEPTS)
        self.settings(self.path('yes'))
        os.chown(self.conf, *someone())
        code, lines = self.check()
        self.assertEqual(code, 1)
        self.assertIn(f'chown root {self.conf}', '\n'.join(lines))
        self.assertEqual(self.check(before=drop_root)[0], 0)  # it is that user's own

    @needs('root')
    def test_judged_for(self):
        """--check judges for the user that runs it: what only root can run or read is a problem for another user."""
        self.tool('yes', ACCEPTS)
        os.mkdir(self.path('private'), 0o700)
        shutil.copy(self.path('yes'), self.path('private/yes'))
        self.settings(self.path('private/yes'))
        self.assertEqual(self.check()[0], 0)
        code, lines = self.check(before=drop_root)
        self.assertEqual(code, 1)
        self.assertIn(f'{self.conf}:1: {self.path("private/yes")}: cannot run: Permission denied', lines)
        self.assertIn('judged for user nobody, uid ', lines[-1])
        os.chmod(self.conf, 0o600)
        code, lines = self.check(before=drop_root)
        self.assertEqual(code, 1)
        self.assertIn(f'{self.conf}: Permission denied', lines)


class Warnings(Person):
    def setUp(self):
        super().setUp()
        self.tool('yes', ACCEPTS)

    def assert_warned(self, *patterns, **options):
        """--check shows one warning that matches each pattern, no other, and exits 0."""
        code, lines = self.check(**options)
        self.assertEqual(code, 0, lines)
        warnings = self.warnings(lines)
        self.assertEqual(len(warnings), len(patterns), lines)
        for pattern, warning in zip(patterns, warnings):
            self.assertRegex(warning, pattern)

    def test_settings(self):
        """auth=0 and log=stderr are warned about, with exit 0."""
        self.settings('auth=0', self.path('yes'))
        self.assert_warned('auth=0: everybody')
        self.settings('log=stderr', self.path('yes'))
        self.assert_warned('log=stderr: .*qmail-popup')
        self.settings('log=stderr auth=0', self.path('yes'))
        self.assert_warned('auth=0', 'log=stderr')

    def test_unreachable_tool(self):
        """A tool whose every pattern is also excluded is warned about with its line; one that some login reaches is not."""
        for users, reached in (('*@a,!*@a', False), ('*@a,!*', False), ('a,b,!b,!a', False), ('A,!a', False), ('!*', False),
                               ('*,!*', False), ('*@a.b,!*@a*', False),
                               ('*@a,!bob@a', True), ('a,b,!a', True), ('!a', True), ('*', True), ('a*,!ab', True)):
            with self.subTest(users=users):
                self.settings(self.path('yes'), f'users={users} name=second {self.path("yes")}')
                self.assert_warned(*[] if reached else [rf'{re.escape(self.conf)}:2: second: no login reaches it'])

    def test_others_can_write(self):
        """A tool, the script or a folder they lie in that others can write to is warned about by its path."""
        for name in ('tools', 'scripts'):
            os.mkdir(self.path(name))
            os.mkdir(self.path(f'{name}/inner'))
        script = shutil.copy(SCRIPT, self.path('scripts/inner/qmail_pwrap.py'))
        self.command = (script,)
        tool = shutil.copy(self.path('yes'), self.path('tools/inner/yes'))
        self.settings(tool)
        self.assert_warned()
        for path in (tool, self.path('tools/inner'), self.path('tools'), script, self.path('scripts/inner'), self.path('scripts')):
            for mode in (0o777, 0o775, 0o757):
                with self.subTest(path=path, mode=oct(mode)):
                    os.chmod(path, mode)
                    self.assert_warned(f'others can change {re.escape(path)},')
                    os.chmod(path, 0o755)

    def test_sticky_folder(self):
        """A folder as /tmp, where only the owner of a file can replace it, is not warned about; a sticky file is."""
        os.mkdir(self.path('tmp'))
        os.chmod(self.path('tmp'), 0o1777)
        tool = shutil.copy(self.path('yes'), self.path('tmp/yes'))
        self.settings(tool)
        self.assert_warned()
        os.chmod(tool, 0o777)
        self.assert_warned(f'others can change {re.escape(tool)},')
        os.chmod(tool, 0o1777)  # means nothing for a file
        self.assert_warned(f'others can change {re.escape(tool)},')

    def test_links(self):
        """Where the tool's path leads through a link, the folders on both ways count."""
        os.mkdir(self.path('open'))
        os.mkdir(self.path('links'))
        tool = shutil.copy(self.path('yes'), self.path('open/yes'))
        os.symlink(tool, self.path('links/yes'))
        self.settings(self.path('links/yes'))
        self.assert_warned()
        os.chmod(self.path('open'), 0o777)
        self.assert_warned(f'others can change {re.escape(self.path("open"))},')
        os.chmod(self.path('open'), 0o755)
        os.chmod(self.path('links'), 0o777)
        self.assert_warned(f'others can change {re.escape(self.path("links"))},')

    @needs('root')
    def test_somebody_elses(self):
        """A tool or folder that belongs to another user is one that others can change."""
        os.mkdir(self.path('theirs'))
        tool = shutil.copy(self.path('yes'), self.path('theirs/yes'))
        self.settings(tool)
        for path in (tool, self.path('theirs')):
            with self.subTest(path=path):
                os.chown(path, *someone())
                self.assert_warned(f'others can change {re.escape(path)},')
                os.chown(path, 0, 0)

    def test_unreadable_script(self):
        """The script or a folder on its way that other users cannot read is warned about: the report step would fail."""
        os.makedirs(self.path('way/bin'))
        script = shutil.copy(SCRIPT, self.path('way/bin/qmail_pwrap.py'))
        self.command = (script,)
        self.settings(self.path('yes'))
        self.assert_warned()
        for path, mode in ((script, 0o700), (script, 0o750), (self.path('way/bin'), 0o750), (self.path('way'), 0o700),
                           (self.path('way'), 0o750)):
            with self.subTest(path=path, mode=oct(mode)):
                os.chmod(path, mode)
                self.assert_warned(f'cannot read {re.escape(path)}: sessions fail')
                os.chmod(path, 0o755)
        os.chmod(self.path('way'), 0o711)  # a folder that one only passes through need not be listed
        self.assert_warned()


class Service(Person):
    def suggestion(self, line):
        """Return the words of the command that the line suggests for the service's user."""
        match = re.search(r"user (\S+), uid (\d+); as the service's user: (su .*)$", line)
        self.assertTrue(match, line)
        self.assertEqual(int(match[2]), os.geteuid())
        self.assertEqual(pwd.getpwnam(match[1]).pw_uid, os.geteuid())
        words = shlex.split(match[3])
        self.assertEqual(words[:5], ['su', '-s', '/bin/sh', 'USER', '-c'])
        self.assertEqual(len(words), 6)
        return words

    def setUp(self):
        super().setUp()
        self.tool('yes', ACCEPTS)
        self.settings(self.path('yes'))
        odd = self.path("a 'b' $c")
        os.mkdir(odd)
        self.odd = shutil.copy(self.conf, os.path.join(odd, 'pwrap.conf'))

    def test_suggestion(self):
        """--check and --test say as which user they ran, and a command for the service's user that can be pasted."""
        for conf in (self.conf, self.odd):
            for words in (('--check',), ('--test', "al ice'$HOME")):
                with self.subTest(conf=conf, words=words):
                    code, output, _ = self.say(*words, given=b'x\n', env={'PWRAP_CONF': conf})
                    self.assertEqual(code, 0, output)
                    line = next(line for line in output.splitlines() if 'uid ' in line)
                    # What the shell of that user would run does the same as this command did.
                    again = subprocess.run(['/bin/sh', '-c', self.suggestion(line)[5]], input='x\n', text=True, check=False,
                                           capture_output=True, env={'PATH': '/usr/bin:/bin'})
                    self.assertEqual((again.returncode, again.stderr), (0, ''))
                    without_times = [re.sub(r'\d+ ms|ms=\d+', '', text) for text in (output, again.stdout)]
                    self.assertEqual(*without_times)

    @needs('root')
    def test_su(self):
        """With USER replaced, the suggested command judges for that user."""
        _, lines = self.check()
        words = self.suggestion(lines[-1])
        words[3] = 'nobody'
        done = subprocess.run(words, check=False, capture_output=True, text=True, env={'PATH': '/usr/bin:/bin'}, cwd='/')
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        self.assertIn('judged for user nobody, ', done.stdout)


class Try(Person):
    def setUp(self):
        super().setUp()
        self.tool('yes', ACCEPTS)
        self.tool('no', REJECTS)

    def rows(self, lines):
        """Return the lines about tools: number, name, verdict, the rest."""
        return [re.split(r' {2,}', line.strip()) for line in lines if re.match(r'\s*\d+  ', line)]

    def test_verdicts(self):
        """Each tool is shown as it is tried: its name, the verdict in words, exit code and milliseconds."""
        self.tool('down', 'exit 111')
        self.tool('none', 'exit 127')
        self.tool('own', 'exit 100')
        self.tool('crash', 'kill -SEGV $$')
        self.tool('hang', 'sleep 1000')
        self.settings('# a line', f'name=refuses {self.path("no")}', self.path('own'), self.path('down'), self.path('none'),
                      self.path('crash'), f'timeout=1 {self.path("hang")}', f'users=*@example.net,!bob* {self.path("no")}',
                      self.path('missing'), f'name=good {self.path("yes")}', self.path('no'))
        code, lines = self.try_login()
        self.assertEqual(code, 0, lines)
        rows = self.rows(lines)
        wanted = [
            ('refuses', 'rejected', 1), (self.path('own'), 'rejected', 100),
            (self.path('down'), 'temporary failure', 111), (self.path('none'), 'temporary failure', 127),
            (self.path('crash'), 'killed by SIGSEGV', 111), (self.path('hang'), 'timed out after 1 s', 111),
            (self.path('no'), r'skipped: users=\*@example\.net,!bob\*', None),
            (self.path('missing'), 'cannot run: No such file', None), ('good', 'accepted', 0)]
        self.assertEqual(len(rows), len(wanted), rows)  # nothing comes after the tool that accepts
        for number, (row, (name, words, exit_code)) in enumerate(zip(rows, wanted), 1):
            with self.subTest(tool=name):
                self.assertEqual(row[:2], [str(number), name])
                self.assertRegex(row[2], '^' + words)
                if exit_code is not None:
                    self.assertEqual(row[3], f'exit code {exit_code}')
                self.assertRegex(row[-1], r'^\d+ ms$')
        self.assertTrue(1000 <= int(rows[5][-1].split()[0]) < 60000, rows[5])

    def test_not_run_has_no_exit_code(self):
        """A tool that did not run, skipped or not to be run, is shown with no exit code: it has none."""
        self.settings(f'users=nobody {self.path("no")}', self.path('missing'), self.path('no'))
        rows = self.rows(self.try_login()[1])
        self.assertEqual(len(rows), 3)
        for row in rows[:2]:
            self.assertNotIn('exit code', ' '.join(row))
        self.assertIn('exit code 1', rows[2])

    def test_exit_code(self):
        """The exit code is the one that a server would get, and is shown; so is the line that a login would have logged."""
        for code in (2, 100, 111, 126):
            self.tool(f'no{code}', f'exit {code}')
        self.tool('crash', 'kill -KILL $$')
        for lines in ([self.path('yes')], [self.path('no'), self.path('yes')], [self.path('no')], [self.path('no2')],
                      [self.path('no111'), self.path('no')], ['failure=temporary', self.path('no111'), self.path('no')],
                      [self.path('no100')], [self.path('no126')], [self.path('crash')], [self.path('missing')],
                      [self.path('missing'), self.path('no')], [f'users=nobody {self.path("yes")}'],
                      ['failure=temporary', self.path('missing'), self.path('no')], [f'name=x {self.path("no")}']):
            self.configure(*lines)
            for login in ('alice@example.org', 'a "b" ip=192.0.2.9 \x1b[2J', '', 'x' * 600, '-x', '--check'):
                with self.subTest(lines=lines, login=login):
                    server = self.login('/bin/sh', '-c', 'exit 0', triple=login.encode() + b'\0' + PASSWORD.encode() + b'\0\0',
                                        env={'TCPREMOTEIP': '192.0.2.7'})
                    code, shown = self.try_login(login, env={'TCPREMOTEIP': '192.0.2.7'})
                    self.assertEqual(code, server.code)
                    self.assertEqual(shown[-1], f'the exit code: {code}')
                    logged = [line[9:] for line in shown if line.startswith('the log: ')]
                    self.assertEqual(len(logged), 1, shown)
                    fields = RESULT.match(logged[0]).groupdict()
                    self.assertEqual({**fields, 'ms': ''}, {**server.result(), 'ms': ''})
                    self.assertTrue(all(line.isprintable() for line in shown[1:]), shown)  # the first repeats the argument

    def test_invalid_file(self):
        """With an invalid file no tool runs; the problem, result=temporary and 111 are shown."""
        for first in ('colour=red', 'auth=0 colour=red'):
            self.settings(first, self.path('yes'))
            code, lines = self.try_login()
            self.assertEqual(code, 111)
            self.assertIn(f'{self.conf}:1: unknown setting colour=', lines)
            self.assertRegex('\n'.join(lines), 'the log: result=temporary ip=- tool=- code=111 ')
        self.assertEqual(self.ran('yes'), 0)

    def test_auth(self):
        """AUTH in the caller's environment is ignored: the chain is asked, and tools see AUTH=1."""
        self.tool('see', 'printf %s "$AUTH" >$dir/seen; exit 1')
        self.settings(self.path('see'))
        for env in ({'AUTH': '0'}, {'AUTH': '1'}, {'AUTH': 'pop'}, {'AUTH': ''}, {}):
            with self.subTest(env=env):
                code, lines = self.try_login(env=env)
                self.assertEqual(code, 1)
                self.assertNotIn('auth=0', '\n'.join(lines))
                self.assertEqual(read_file(self.path('seen')), b'1')
        self.assertEqual(self.ran('see'), 5)

    def test_auth_off(self):
        """Where the file says auth=0, --test says so first and asks the chain all the same."""
        self.settings('auth=0', self.path('no'))
        for env in ({}, {'AUTH': '0'}, {'AUTH': '1'}):
            with self.subTest(env=env):
                code, lines = self.try_login(env=env)
                self.assertEqual(code, 1)
                said = [number for number, line in enumerate(lines) if line.startswith('auth=0: ')]
                tools = [number for number, line in enumerate(lines) if self.path('no') + '  rejected' in line]
                self.assertEqual((len(said), len(tools)), (1, 1), lines)
                self.assertLess(said[0], tools[0])
        self.assertEqual(self.ran('no'), 3)

    def test_auth_off_in_an_invalid_file(self):
        """Of an invalid file, which never switches authentication off, --test does not say that it lets anybody in."""
        self.settings('auth=0', 'colour=red', self.path('no'))
        code, lines = self.try_login()
        self.assertEqual(code, 111)
        self.assertNotIn('let in', '\n'.join(lines))

    def test_report_step(self):
        """A tool finds on its argument line what a POP3 login puts there: the script and the report step, then prog."""
        self.python_tool('see', f'''
os.read(3, 1000); os.close(3)
with open({self.path("seen")!r}, 'w') as file: file.write('\\n'.join(argv))
os.execv(argv[0], argv)''')
        self.settings(self.path('see'))
        code, lines = self.try_login()
        self.assertEqual(code, 0, lines)
        argv = read_file(self.path('seen')).decode().split('\n')
        self.assertEqual(argv[0], self.command[0])
        self.assertTrue(argv[1].startswith('qmail_pwrap.report'), argv)
        self.assertEqual(argv[2:], ['/usr/bin/env', 'true'])
        # So a tool that lets itself be fooled into exit 0 without running prog is found out.
        self.tool('lazy', 'exit 0')
        self.settings(self.path('lazy'))
        server = self.login('/bin/sh', '-c', 'exit 0', env={'AUTH': '1'})
        self.assertEqual(self.try_login()[0], server.code)

    def test_password_line(self):
        """Where standard input is no terminal, its first line is the password, with or without a newline, whatever bytes."""
        self.tool('keep', 'cat <&3 >$dir/kept; exit 1')
        self.settings(self.path('keep'))
        for given, password in ((b'a b\n', b'a b'), (b'a b', b'a b'), (b'one\ntwo\n', b'one'), (b'', b''), (b'\n', b''),
                                (b'\xe4\xff"\'\\$x \n', b'\xe4\xff"\'\\$x '), (b'p' * 100 + b'\n', b'p' * 100)):
            for locale in ('C', 'C.UTF-8', 'de_DE.ISO-8859-1'):
                with self.subTest(given=given, locale=locale):
                    self.assertEqual(self.try_login('alice', given=given, env={'LC_ALL': locale})[0], 1)
                    login, said, stamp, rest = read_file(self.path('kept')).split(b'\0')
                    self.assertEqual((login, said, rest), (b'alice', password, b''))
                    self.assertRegex(stamp, rb'^<.+@.+>$')

    def test_too_long(self):
        """A password with which the triple exceeds 512 bytes is refused as a server's would be, and no tool runs."""
        self.settings(self.path('no'))
        code, lines = self.try_login('alice', given=b'x' * 100000 + b'\n')
        self.assertEqual((code, self.ran('no')), (1, 0))
        self.assertRegex('\n'.join(lines), 'the log: result=rejected ip=- tool=- code=1 ')

    def test_password_appears_nowhere(self):
        """The password stands in no output, no process's arguments or environment, and no file in the folder."""
        self.python_tool('look', f'''
password = os.read(3, 1000).split(b'\\0')[1]; os.close(3)
places = []
for pid in filter(str.isdigit, os.listdir('/proc')):
    for name in ('cmdline', 'environ'):
        try:
            with open(f'/proc/{{pid}}/{{name}}', 'rb') as file:
                if password in file.read(): places.append(f'{{pid}} {{name}}')
        except OSError: pass
with open({self.path("places")!r}, 'w') as file: file.write(f'{{len(password)}} ' + ' '.join(places))
print('never shown', flush=True)
os.execv(argv[0], argv)''')
        self.tool('crash', 'kill -SEGV $$')
        self.settings(self.path('no'), self.path('crash'), self.path('missing'), self.path('look'))
        code, lines = self.try_login()
        self.assertEqual(code, 0, lines)
        self.assertEqual(read_file(self.path('places')).decode(), f'{len(PASSWORD)} ')
        os.unlink(self.path('given'))
        for folder, _, names in os.walk(self.folder):
            for name in names:
                self.assertNotIn(PASSWORD.encode(), read_file(os.path.join(folder, name)), name)
        self.assertNotIn('never shown', '\n'.join(lines))

    def test_no_input(self):
        """Tools get no standard input, and find nothing of what follows the password there."""
        self.tool('read', 'cat >$dir/input; exit 1')
        self.settings(self.path('read'))
        self.assertEqual(self.try_login(given=b'password\nsecond line\n')[0], 1)
        self.assertEqual(read_file(self.path('input')), b'')

    @needs('root')
    def test_logs_nothing(self):
        """--test and --check log nothing, whether the file is good or not."""
        self.tool('crash', 'kill -SEGV $$')
        with SyslogListener() as log:
            command = tuple(log.command(self.command))
            command = (shutil.which(command[0]), *command[1:])
            for lines in ([self.path('no'), self.path('crash'), '/nonexistent'], ['colour=red'], ['log=stderr', self.path('yes')]):
                self.settings(*lines)
                for words in (('--test', 'somebody-unheard-of'), ('--check',)):
                    self.say(*words, given=b'x\n', command=command)
            # The last word of a login that does log proves that the listener hears this script.
            self.settings(self.path('no'))
            self.login('true', command=command, triple=b'heard\0x\0')
            log.wait_for('user="heard"')
            mine = [line.text for line in log.lines('qmail-pwrap[')
                    if self.folder in line.text or 'somebody-unheard-of' in line.text or 'internal error' in line.text]
        self.assertEqual(len(mine), 1, mine)
        self.assertIn('user="heard"', mine[0])


class Terminal(Person):
    def setUp(self):
        super().setUp()
        self.tool('yes', ACCEPTS)
        self.tool('no', REJECTS)

    def test_no_echo(self):
        """On a terminal the password is asked for, and what is typed does not appear."""
        self.tool('keep', 'cat <&3 >$dir/kept; exit 1')
        self.settings(self.path('keep'))
        code, shown = self.on_terminal('--test', 'alice', typed=PASSWORD.encode() + b'\n')
        self.assertEqual(code, 1, shown)
        self.assertIn('assword:', shown)
        self.assertNotIn(PASSWORD, shown)
        self.assertEqual(read_file(self.path('kept')).split(b'\0')[:2], [b'alice', PASSWORD.encode()])

    def test_tools_get_no_terminal(self):
        """On a terminal, tools have none: /dev/tty cannot be opened, no standard descriptor is one, input is empty."""
        self.python_tool('look', f'''
os.read(3, 1000); os.close(3)
try:
    os.open('/dev/tty', os.O_RDWR)
    seen = ['tty opened']
except OSError:
    seen = []
for number in range(64):
    try:
        if os.isatty(number): seen.append(f'{{number}} is a terminal')
    except OSError: pass
seen.append(f'input {{os.read(0, 10)!r}}')
os.write(1, b'noise'); os.write(2, b'noise')
with open({self.path("seen")!r}, 'w') as file: file.write('\\n'.join(seen))
os.execv(argv[0], argv)''')
        self.settings(self.path('look'))
        code, shown = self.on_terminal('--test', 'alice', typed=b'x\n')
        self.assertEqual(code, 0, shown)
        self.assertEqual(read_file(self.path('seen')).decode(), "input b''")
        self.assertNotIn('noise', shown)

    def test_marks(self):
        """On a terminal a good line has a green mark and a bad one a red; with NO_COLOR the marks stay, without colour."""
        for lines, code, signs in (([self.path('no'), self.path('yes')], 0, '✗✓'), ([self.path('no')], 1, '✗')):
            self.settings(*lines)
            for env in ({}, {'NO_COLOR': ''}, {'NO_COLOR': '1'}):
                with self.subTest(lines=lines, env=env):
                    got, shown = self.on_terminal('--test', 'alice', typed=b'x\n', env=env)
                    self.assertEqual(got, code, shown)
                    self.assertEqual(re.sub('[^✓✗]', '', shown), signs)
                    self.assertEqual('\033[31m' in shown, not env.get('NO_COLOR'))
                    self.assertEqual('\033' in shown, not env.get('NO_COLOR'))
        for lines, code, signs in (([self.path('no')], 0, '✓'), (['auth=0', self.path('no')], 0, '✗✓'), (['x'], 1, '✗✗✗')):
            self.settings(*lines)
            for env in ({}, {'NO_COLOR': '1'}):
                with self.subTest(check=lines, env=env):
                    got, shown = self.on_terminal('--check', env=env)
                    self.assertEqual((got, re.sub('[^✓✗]', '', shown)), (code, signs), shown)
                    self.assertEqual('\033' in shown, not env)

    def test_plain(self):
        """Into a file or pipe go neither marks nor colours."""
        self.settings(self.path('no'), self.path('missing'), self.path('yes'))
        for words in (('--check',), ('--test', 'alice'), ('--help',)):
            _, output, _ = self.say(*words, given=b'x\n', env={'TERM': 'xterm'})
            self.assertTrue(output.isascii(), output)
            self.assertNotIn('\033', output)

    def test_interrupted(self):
        """Ctrl-C or Ctrl-D at the password prompt ends --test: no tool runs, no traceback, and no code of a verdict."""
        self.settings(self.path('yes'))
        for typed in (b'\3', b'\4'):
            with self.subTest(typed=typed):
                code, shown = self.on_terminal('--test', 'alice', typed=typed)
                self.assertEqual(code, 130, shown)
                self.assertNotIn('Traceback', shown)
        self.assertEqual(self.ran('yes'), 0)

    def test_interrupted_while_a_tool_runs(self):
        """Ctrl-C while a tool hangs ends --test and the tool with it."""
        self.tool('hang', 'echo $$ >$dir/pid; exec sleep 1000')
        self.settings(f'timeout=0 {self.path("hang")}')
        pid, terminal = pty.fork()
        if not pid:
            try:
                os.execve(self.command[0], [*self.command, '--test', 'alice'], {'PATH': '/usr/bin:/bin', 'PWRAP_CONF': self.conf})
            finally:
                os._exit(99)
        self.addCleanup(os.close, terminal)
        os.set_blocking(terminal, False)
        shown = b''
        def prompted():
            nonlocal shown
            try:
                shown += os.read(terminal, 4096)
            except BlockingIOError:
                pass
            return b'assword:' in shown
        wait_until(prompted, 'the prompt')
        os.write(terminal, b'x\n')
        tool = int(wait_until(lambda: self.ran('hang') and os.path.exists(self.path('pid')) and read_file(self.path('pid')),
                              'the tool runs'))
        try:
            os.write(terminal, b'\3')
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self.assertNotIn(code, (0, 1))
            wait_until(lambda: not os.path.exists(f'/proc/{tool}/fd/0'), 'the tool is gone', 5)
        finally:
            try:
                if read_file(f'/proc/{tool}/cmdline') == b'sleep\x001000\0':
                    os.kill(tool, signal.SIGKILL)
                    time.sleep(0.05)
            except OSError:
                pass
