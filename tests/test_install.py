"""make install and make uninstall, and that the installed command does what the script does."""

import ast
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from tests.harness import servers
from tests.harness.logins import ACCEPTS, REJECTS, TRIPLE, Case, read_file
from tests.harness.machine import PYTHON, TOP, drop_root, someone, needs
from tests.harness.syslog import SyslogListener

QUICK, SESSION = ('true',), ('/bin/sh', '-c', 'exit 0')
NAMES = ('qmail-pwrap', 'qmail_pwrap.py')


def pythons():
    """Return the Pythons of this machine that the script supports, one of each version, as paths by cache tag."""
    found = {}
    for pattern in (PYTHON, '/usr/bin/python3.*', '/usr/local/bin/python3.*', '~/.pyenv/versions/*/bin/python3.*'):
        for path in sorted(glob.glob(os.path.expanduser(pattern))):
            if path == PYTHON or re.fullmatch(r'python3\.(9|1[0-3])', os.path.basename(path)):
                done = subprocess.run([path, '-IS', '-c', 'import sys; print(sys.implementation.cache_tag)'], check=False,
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                if done.returncode == 0:
                    found.setdefault(done.stdout.strip(), path)
    return found


def mode(path):
    return os.stat(path).st_mode & 0o7777


def tree(folder):
    """Return every file under a folder, by its path there, with mode and content."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            found[os.path.relpath(path, folder)] = (mode(path), read_file(path))
    return found


class Installation(Case):
    home = '/var/qmail'

    def setUp(self):
        super().setUp()
        self.dest = self.path('dest')
        self.place(self.home)

    def place(self, home, dest=None):
        """Say where make installs to from now on."""
        self.home, self.dest = home, self.dest if dest is None else dest
        self.bin, self.control = self.dest + home + '/bin', self.dest + home + '/control'
        self.installed, self.script = (f'{self.bin}/{name}' for name in NAMES)
        self.example = self.control + '/pwrap.conf'
        self.command = (self.installed,)

    def make(self, target, python=PYTHON, top=TOP, before=None, **more):
        """Run make, which must succeed, and return what it prints."""
        variables = {'DESTDIR': self.dest, 'QMAILHOME': self.home, 'PYTHON': python, **more}
        words = [f'{name}={value}' for name, value in variables.items() if value is not None]
        done = subprocess.run(['make', '--no-print-directory', '-C', top, target, *words], check=False, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=before,
                              env={'PATH': os.environ['PATH'], 'HOME': '/nonexistent'})
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def form(self):
        """Return the path of the one compiled form."""
        forms = os.listdir(f'{self.bin}/__pycache__')
        self.assertEqual(len(forms), 1, forms)
        return f'{self.bin}/__pycache__/{forms[0]}'

    def say(self, word, command=None, **options):
        """Run the installed command with one word for people; return exit code and output."""
        login = self.login(word, triple=None, command=command, **options)
        self.assertEqual(login.output(2), b'')
        return login.code, login.output(1).decode()

    def assert_works(self, command=None):
        """Logins through the command come out right: accepted and refused, with and without the report step."""
        self.tool('yes', ACCEPTS)
        self.tool('no', REJECTS)
        for lines, code, result in (([self.path('no'), self.path('yes')], 0, 'accepted'), ([self.path('no')], 1, 'rejected')):
            self.configure(*lines)
            for prog in (QUICK, SESSION):
                login = self.login(*prog, command=command)
                self.assertEqual((login.code, login.result()['result'], login.problems()), (code, result, []))
                self.assertEqual((login.output(1), login.output(2)), (b'', b''))
        self.configure(self.path('yes'))
        self.assertEqual(self.login('/bin/sh', '-c', 'exit 7', command=command).code, 7)


class Install(Installation):
    def test_files(self):
        """make install puts script and command, 0755, into bin, the example, 0644, into control, and says what is next."""
        for umask in (0o022, 0o077, 0o002):
            with self.subTest(umask=oct(umask)):
                self.place(self.home, self.path(f'dest{umask}'))
                said = self.make('install', before=lambda umask=umask: os.umask(umask), QMAILHOME=None)
                for name in ('--check', '--test', self.example):
                    self.assertIn(name, said)
                files = tree(self.dest)
                form = os.path.relpath(self.form(), self.dest)
                self.assertEqual({name: oct(mode) for name, (mode, _) in files.items()}, {
                    'var/qmail/bin/qmail-pwrap': '0o755', 'var/qmail/bin/qmail_pwrap.py': '0o755', form: '0o644',
                    'var/qmail/control/pwrap.conf': '0o644'})
                self.assertEqual(files['var/qmail/control/pwrap.conf'][1], read_file(f'{TOP}/pwrap.conf.example'))
                for folder in (self.dest, self.bin, self.bin + '/__pycache__', self.control):
                    self.assertEqual(oct(mode(folder)), '0o755', folder)

    def test_defaults(self):
        """Without PYTHON the shebang is /usr/bin/python3's."""
        done = subprocess.run(['make', '-n', '-C', TOP, 'install', f'DESTDIR={self.dest}'], check=True, text=True,
                              stdout=subprocess.PIPE)
        self.assertIn('#!/usr/bin/python3 -IS', done.stdout)
        self.assertIn(self.dest + '/var/qmail/bin/qmail_pwrap.py', done.stdout)

    def test_default_configuration(self):
        """Script and command read QMAILHOME's control/pwrap.conf by default, wherever DESTDIR was."""
        for home in ('/var/qmail', '/opt/qmail', '/usr/local/q.mail-2'):
            with self.subTest(home=home):
                self.place(home, self.path('dest' + home.replace('/', '_')))
                self.make('install')
                for path in (self.installed, self.script):
                    output = self.say('--check', command=(path,), whole_env={'PATH': '/usr/bin:/bin'})[1]
                    self.assertEqual(output.split('\n')[0], f'configuration: {home}/control/pwrap.conf')

    def test_without_destdir(self):
        """Without DESTDIR the installed command and its default configuration work in place."""
        self.place(self.path('qmail'), '')
        self.make('install')
        self.tool('yes', ACCEPTS)
        self.write('qmail/control/pwrap.conf', f'log=stderr\n{self.path("yes")}\n')
        login = self.login(*SESSION, whole_env={'PATH': '/usr/bin:/bin'})
        self.assertEqual((login.code, login.result()['result']), (0, 'accepted'))

    def test_nothing_else_changes(self):
        """But for its shebang and its default configuration, the installed script is the one in the source tree."""
        self.place('/opt/qmail')
        self.make('install')
        ours = read_file(f'{TOP}/qmail_pwrap.py').decode().split('\n')
        theirs = read_file(self.script).decode().split('\n')
        self.assertEqual(len(ours), len(theirs))
        different = [(one, other) for one, other in zip(ours, theirs) if one != other]
        if PYTHON == '/usr/bin/python3':
            different.insert(0, (ours[0], theirs[0]))
        self.assertEqual([other for _, other in different][0], f'#!{PYTHON} -IS')
        self.assertEqual(len(different), 2)
        self.assertTrue(different[1][1].startswith("CONFIGURATION = '/opt/qmail/control/pwrap.conf'"))

    def test_configuration_is_never_touched(self):
        """An existing pwrap.conf stays as it is: content, mode, owner, times; also if it is a link, even one into nothing."""
        os.makedirs(self.control)
        for content, how in (('mine\n', 0o600), ('', 0o640)):
            with open(self.example, 'w') as file:
                file.write(content)
            os.chmod(self.example, how)
            os.utime(self.example, (1, 1))
            before = os.stat(self.example)
            self.make('install')
            after = os.stat(self.example)
            self.assertEqual(read_file(self.example).decode(), content)
            self.assertEqual(before[:7] + before[8:], after[:7] + after[8:])  # all but the time of access
        for target in ('elsewhere', 'nowhere'):
            with self.subTest(link=target):
                self.write('elsewhere', 'linked')
                os.unlink(self.example)
                os.symlink(self.path(target), self.example)
                self.make('install')
                self.assertEqual(os.readlink(self.example), self.path(target))
                self.assertEqual(read_file(self.path('elsewhere')), b'linked')
                self.assertFalse(os.path.exists(self.path('nowhere')))

    def test_absolute_paths(self):
        """PYTHON and QMAILHOME that are no absolute paths are refused before anything is installed."""
        for word in ('PYTHON=python3', 'QMAILHOME=qmail', 'PYTHON='):
            done = subprocess.run(['make', '-C', TOP, 'install', f'DESTDIR={self.dest}/', word], check=False, text=True,
                                  capture_output=True)
            self.assertNotEqual(done.returncode, 0, done.stdout)
            self.assertIn('must be absolute paths', done.stderr)
            self.assertFalse(os.path.exists(self.dest))

    def test_existing_folders(self):
        """The mode of folders that are there already is not changed."""
        for folder in (self.bin, self.control):
            os.makedirs(folder)
        os.chmod(self.bin, 0o711)
        os.chmod(self.control, 0o750)
        self.make('install')
        self.assertEqual((oct(mode(self.bin)), oct(mode(self.control))), ('0o711', '0o750'))

    def test_again(self):
        """Installing again upgrades: an older script, command and compiled form are replaced by today's."""
        def files():  # the compiled form is checked by what it does: Python orders the constants in it as it likes
            return {name: (mode, b'' if name.endswith('.pyc') else text) for name, (mode, text) in tree(self.dest).items()}
        self.make('install')
        first = files()
        for path in (self.installed, self.script, self.form()):
            with open(path, 'w') as file:
                file.write('#!/bin/sh\necho an old version\n')
            os.chmod(path, 0o600)
        self.make('install')
        self.assertEqual(files(), first)
        self.assert_works()
        self.assertNotIn('stale', self.say('--check')[1])

    def test_upgrade_while_logins_run(self):
        """The files are replaced by rename, so that a login that begins meanwhile finds the old one or the new one."""
        self.make('install')
        with open(self.installed, 'rb') as command, open(self.script, 'rb') as script:
            self.make('install')
            for old, path in ((command, self.installed), (script, self.script)):
                self.assertNotEqual(os.fstat(old.fileno()).st_ino, os.stat(path).st_ino)
                self.assertEqual(old.read(), read_file(path))

    def test_pythons(self):
        """Each Python becomes the shebang and compiles its own form, which the command uses without a warning."""
        for tag, python in pythons().items():
            with self.subTest(python=python):
                self.make('install', python)
                for path in (self.installed, self.script):
                    self.assertEqual(read_file(path).split(b'\n')[0].decode(), f'#!{python} -IS')
                form = f'{self.bin}/__pycache__/qmail_pwrap.{tag}.pyc'
                self.assertTrue(os.path.exists(form), os.listdir(os.path.dirname(form)))
                # PEP 552: the hash of the source is compared whenever the form is used.
                self.assertEqual(read_file(form)[4:8], b'\3\0\0\0')
                self.assert_works()
                self.assert_works((self.script,))
                self.assertNotIn('stale', self.say('--check')[1])
                loaded = subprocess.run([python, '-ISv', self.installed, '--version'], check=True, text=True, capture_output=True)
                self.assertIn(f'code object from {form!r}', loaded.stderr.replace('"', "'"))

    def test_two_pythons(self):
        """After an install with another Python, both compiled forms lie there, and uninstall removes both."""
        ours = pythons()
        for python in ours.values():
            self.make('install', python)
        self.assertEqual(sorted(os.listdir(f'{self.bin}/__pycache__')), sorted(f'qmail_pwrap.{tag}.pyc' for tag in ours))
        self.make('uninstall')
        self.assertEqual(list(tree(self.dest)), ['var/qmail/control/pwrap.conf'])
        self.assertFalse(os.path.exists(f'{self.bin}/__pycache__'))

    def test_uninstall(self):
        """make uninstall leaves pwrap.conf, and what others have in bin and in its __pycache__."""
        self.make('install')
        stay = [f'{self.bin}/__pycache__/other.cpython-311.pyc', f'{self.bin}/qmail-smtpd', f'{self.bin}/qmail-pwrap2']
        for path in stay:
            with open(path, 'w') as file:
                file.write('another program')
        for name in ('qmail_pwrap.cpython-39.opt-1.pyc', 'qmail_pwrap.cpython-313.pyc', 'qmail_pwrap.pypy39.pyc'):
            shutil.copy(stay[0], f'{self.bin}/__pycache__/{name}')
        for _ in range(2):  # a second time there is nothing to do, which is no error
            self.make('uninstall')
            self.assertEqual(sorted(tree(self.dest)), sorted(os.path.relpath(path, self.dest) for path in [*stay, self.example]))
        for path in stay:
            self.assertEqual(read_file(path), b'another program')

    def test_elsewhere_first(self):
        """make uninstall where nothing was installed is no error and makes nothing."""
        self.make('uninstall')
        self.assertFalse(os.path.exists(self.dest))

    @needs('root')
    def test_without_root(self):
        """An ordinary user with a copy of the tree can install into a DESTDIR, use it and uninstall it."""
        home = tempfile.mkdtemp(prefix='pwrap-nobody-')
        self.addCleanup(shutil.rmtree, home)
        top = os.path.join(home, 'tree')
        os.mkdir(top)
        for name in ('Makefile', 'qmail_pwrap.py', 'pwrap.conf.example'):
            shutil.copy(f'{TOP}/{name}', top)
        for path in (home, top, *glob.glob(top + '/*')):
            os.chown(path, *someone())
        before = tree(top)
        self.place('/var/qmail', home + '/dest')
        self.make('install', top=top, before=drop_root)
        self.assertEqual(os.stat(self.installed).st_uid, someone()[0])
        self.assertEqual(tree(top), before)  # nothing is built there
        self.tool('yes', ACCEPTS.replace('cat', 'id -u >/dev/null; cat'))
        self.write('yes', read_file(self.path('yes')).replace(b'echo $$ >>', b'echo >/dev/null #'), 0o755)
        self.configure(self.path('yes'))
        login = self.login(*SESSION, before=drop_root)
        self.assertEqual((login.code, login.problems(), login.result()['result']), (0, [], 'accepted'))
        self.make('uninstall', top=top, before=drop_root)
        self.assertEqual(list(tree(self.dest)), ['var/qmail/control/pwrap.conf'])


class Example(Installation):
    def test_denies(self):
        """The example installed as it is denies every login with 111, for every prog, and writes to neither 1 nor 2."""
        self.make('install')
        for prog in ((), QUICK, SESSION):
            login = self.login(*prog, env={'PWRAP_CONF': self.example})
            self.assertEqual((login.code, read_file(f'{login.folder}/1'), read_file(f'{login.folder}/2')), (111, b'', b''))
        code, output = self.say('--check', env={'PWRAP_CONF': self.example})
        self.assertEqual(code, 1)
        self.assertIn(f'{self.example}: no tool is enabled', output)

    @needs('root')
    def test_says_so(self):
        """The example installed as it is says in the system log that no tool is enabled, and result=temporary."""
        self.make('install')
        with SyslogListener() as log:
            command = tuple(log.command(self.command))
            login = self.login(command=(shutil.which(command[0]), *command[1:]), env={'PWRAP_CONF': self.example})
            self.assertEqual(login.code, 111)
            log.wait_for('^' + re.escape(f'{self.example}: no tool is enabled') + '$')
            log.wait_for(r'^result=temporary ip=- tool=- code=111 ms=\d+ user="alice@example.org"$')

    def test_every_setting_once(self):
        """With each commented line of settings and tools enabled, the example is a valid file."""
        text = read_file(f'{TOP}/pwrap.conf.example').decode()
        lines = re.sub(r'(?m)^# (?=([a-z]+=\S+ )*(/|[a-z]+=\S+$))', '', text)
        names = re.findall(r'(?m)^(?!#)(?:.* )??([a-z]+)=', lines) + re.findall(r' (name)=', lines)
        self.assertEqual(set(names), {'auth', 'log', 'failure', 'timeout', 'users', 'name'})
        self.write('pwrap.conf', lines)
        self.make('install')
        output = self.say('--check')[1]
        self.assertNotIn('no tool is enabled', output)
        for line in output.splitlines():
            if line.startswith(self.conf):  # tools that this machine has not; nothing is wrong with the file
                self.assertRegex(line, ': cannot run: No such file')


class Command(Installation):
    def setUp(self):
        super().setUp()
        self.make('install')

    def test_logins(self):
        """The installed command accepts and refuses as the script does."""
        self.assert_works()

    def test_report_step(self):
        """What the tool runs in prog's place is the installed command, by its absolute path, also if it was called by a
        relative one."""
        self.python_tool('see', f'''
os.read(3, 1000); os.close(3)
with open({self.path("seen")!r}, 'w') as file: file.write('\\n'.join(argv))
os.execv(argv[0], argv)''')
        self.configure(self.path('see'))
        for command, where in (((self.installed,), '/'), (('./qmail-pwrap',), self.bin), (('bin/../bin/qmail-pwrap',), self.dest + self.home)):
            with self.subTest(command=command):
                login = self.login('/bin/sh', '-c', 'exit 7', command=command, before=lambda where=where: os.chdir(where))
                self.assertEqual((login.code, login.problems()), (7, []))
                argv = read_file(self.path('seen')).decode().split('\n')
                self.assertTrue(os.path.isabs(argv[0]) and os.path.samefile(argv[0], self.installed), argv)
                self.assertTrue(argv[1].startswith('qmail_pwrap.report'), argv)
                self.assertEqual(argv[2:], ['/bin/sh', '-c', 'exit 7'])

    def test_words(self):
        """--version, --help, --check and an unknown option work as the script's."""
        self.tool('yes', ACCEPTS)
        self.write('pwrap.conf', self.path('yes') + '\n')
        for word in ('--version', '--help', '--check'):
            ours, scripts = self.say(word), self.say(word, command=(self.script,))
            self.assertEqual(ours[0], 0)
            self.assertEqual(ours[1].replace(self.installed, 'X'), scripts[1].replace(self.script, 'X'))
        self.assertEqual(self.login('--nonsense', triple=None).code, 2)

    def test_link(self):
        """Linked from another folder, it works as in its own."""
        os.mkdir(self.path('links'))
        link = self.path('links/checkpassword')
        for target in (self.installed, os.path.relpath(self.installed, self.path('links'))):
            os.symlink(target, link)
            self.assert_works((link,))
            self.assertEqual(self.say('--version', command=(link,)), self.say('--version'))
            self.assertEqual(os.listdir(self.path('links')), ['checkpassword'])
            os.unlink(link)

    def test_link_is_not_called_stale(self):
        """--check through a link does not call a good compiled form missing or stale."""
        link = self.path('link')
        os.symlink(self.installed, link)
        output = self.say('--check', command=(link,))[1]
        self.assertNotIn('missing or stale', output)

    def test_never_writes(self):
        """No run of command or script writes a file beside them, whether a compiled form is there, stale, or missing."""
        self.assert_works()
        self.say('--version')
        for change in ('none', 'stale', 'damaged', 'missing'):
            with self.subTest(form=change):
                form = f'{self.bin}/__pycache__/' + (os.listdir(f'{self.bin}/__pycache__') or [''])[0]
                if change == 'stale':
                    with open(self.script, 'a') as file:
                        file.write('# edited\n')
                elif change == 'damaged':
                    with open(form, 'wb') as file:
                        file.write(read_file(self.script)[:100])
                elif change == 'missing':
                    shutil.rmtree(f'{self.bin}/__pycache__')
                before = tree(self.dest)
                self.assert_works()
                self.assert_works((self.script,))
                self.say('--version')
                self.say('--version', env={'PYTHONPYCACHEPREFIX': self.path('prefix'), 'PYTHONDONTWRITEBYTECODE': ''})
                if change == 'missing':
                    self.assertFalse(os.path.exists(f'{self.bin}/__pycache__'))
                self.assertEqual(tree(self.dest), before)
                self.assertFalse(os.path.exists(self.path('prefix')))

    def test_edited(self):
        """An edit of the script counts at once, also if size and time of change stay the same."""
        before = os.stat(self.script)
        text = read_file(self.script).replace(b"VERSION = '1.0'", b"VERSION = '9.9'").replace(b'= 0, 1, 2, 111', b'= 0, 1, 9, 111')
        self.assertEqual(len(text), before.st_size)
        with open(self.script, 'r+b') as file:
            file.write(text)
        os.utime(self.script, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertEqual(self.say('--version'), (0, 'qmail_pwrap 9.9\n'))
        self.tool('yes', ACCEPTS)
        self.configure(self.path('yes'))
        self.assertEqual(self.login('true', triple=b'').code, 9)
        self.assertIn('stale', self.say('--check')[1])
        self.make('install')
        self.assertEqual(self.say('--version')[1], 'qmail_pwrap 1.0\n')
        self.assertNotIn('stale', self.say('--check')[1])

    def test_check_warns(self):
        """--check warns of a missing, stale or unreadable compiled form, with exit 0."""
        self.tool('yes', ACCEPTS)
        self.write('pwrap.conf', self.path('yes') + '\n')
        code, output = self.say('--check')
        self.assertEqual((code, 'warning' in output), (0, False), output)
        form, good = self.form(), read_file(self.form())
        for content in (None, b'', good[:10], good[:8] + bytes(8) + good[16:]):
            with self.subTest(content=content and content[:20]):
                if content is None:
                    os.unlink(form)
                else:
                    with open(form, 'wb') as file:
                        file.write(content)
                for command in (self.installed, self.script):
                    code, output = self.say('--check', command=(command,))
                    self.assertEqual(code, 0, output)
                    self.assertRegex(output, f'warning: {re.escape(form)}: missing or stale')

    @needs('root')
    def test_unreadable_form(self):
        """--check by a user who cannot read the compiled form says so, instead of failing itself."""
        self.tool('yes', ACCEPTS)
        self.write('pwrap.conf', self.path('yes') + '\n')
        os.chmod(self.form(), 0o600)
        code, output = self.say('--check', before=drop_root)
        self.assertEqual(code, 0, output)
        self.assertRegex(output, f'warning: .*{re.escape(self.form())}')

    def test_damaged_form(self):
        """Whatever stands in the compiled form's place - nothing, garbage, a piece of it, another Python's - the answers
        are right and nothing appears on descriptors 1 and 2."""
        form, good = self.form(), read_file(self.form())
        damaged = {
            'empty': b'', 'garbage': b'garbage' * 100, 'magic': good[:4], 'header': good[:16], 'other magic': b'\x33\x0d\r\n' + good[4:],
            'zeroes': bytes(len(good)), 'other hash': good[:8] + bytes(8) + good[16:], 'bad flags': good[:4] + b'\xff' * 4 + good[8:],
            'not code': good[:16] + b'N', 'bad type': good[:16] + b'\0' * 50, 'text': good[:16] + read_file(self.script),
            **{f'first {size}': good[:size] for size in (1, 3, 7, 15, 17, 100, 1000, len(good) // 2, len(good) - 1)}}
        for name, content in damaged.items():
            with self.subTest(form=name):
                with open(form, 'wb') as file:
                    file.write(content)
                self.assert_works()
        os.unlink(form)
        os.mkdir(form)
        self.assert_works()
        os.rmdir(form)
        os.symlink('/nonexistent', form)
        self.assert_works()

    def assert_fails(self):
        """A login that a tool would accept ends with 111, and with nothing on descriptors 1 and 2."""
        self.tool('yes', ACCEPTS)
        self.configure(self.path('yes'))
        for prog in ((), QUICK, SESSION):
            for triple in (TRIPLE, None):
                login = self.login(*prog, triple=triple)
                self.assertEqual((login.code, read_file(f'{login.folder}/1'), read_file(f'{login.folder}/2')), (111, b'', b''))
        self.assertEqual(self.ran('yes'), 0)

    def test_script_missing_or_broken(self):
        """Where the script is missing, empty or no Python, the command ends with 111 and writes to neither 1 nor 2."""
        for name, content in {'empty': b'', 'comment': b'#!/usr/bin/python3 -IS\n', 'syntax': b'def main(:\n', 'NUL': b'a = 1\0\n',
                              'bytes': b'# \xff\xfe\na = 1\n', 'raises': b'raise ValueError\n', 'exits': b'import sys; sys.exit(0)\n',
                              'no function': b'main = None\n', 'other arguments': b'def main(): pass\n',
                              'returns': b'def main(program): pass\n', 'shell': b'#!/bin/sh\nexit 0\n'}.items():
            with self.subTest(script=name):
                with open(self.script, 'wb') as file:
                    file.write(content)
                self.assert_fails()
        os.unlink(self.script)
        with self.subTest(script='missing'):
            self.assert_fails()
        os.mkdir(self.script)
        with self.subTest(script='a folder'):
            self.assert_fails()

    def test_script_cut_off(self):
        """A script that ends too early, as on a full disk, never lets anybody in, and never calls a password wrong."""
        text = read_file(self.script).decode()
        lines = text.splitlines(True)
        ends = []
        for node in ast.parse(text).body:  # between statements it still is Python; within main() too
            ends.append(node.end_lineno)
            if getattr(node, 'name', '') == 'main':
                ends += [inner.end_lineno for inner in node.body]
        self.tool('seven', 'exit 7')
        self.configure(self.path('seven'))
        started = []
        for end in sorted(set(ends))[::-1]:
            with open(self.script, 'w') as file:
                file.write(''.join(lines[:end]))
            started.append((end, self.login(*SESSION)))
        for end, login in started:
            with self.subTest(lines=end):
                self.assertIn(login.code, (7, 111))
                self.assertEqual((login.output(1), login.output(2)), (b'', b''))

    @needs('root')
    def test_script_missing_is_logged(self):
        """Where the script is missing, the system log says so, and has the login's result=temporary."""
        os.unlink(self.script)
        with SyslogListener() as log:
            command = tuple(log.command(self.command))
            self.login('true', command=(shutil.which(command[0]), *command[1:]))
            log.wait_for(r'^qmail_pwrap\.py cannot be loaded: ')
            log.wait_for(r'^result=temporary ip=- tool=- code=111 ms=\d+ user=""$')

    def test_alone(self):
        """A module of another name beside the command, even one of the library's, is never imported."""
        for name in ('shlex', 'fcntl', 'resource', 'os', 'getpass', 'pathlib', 'syslog', 'select'):
            with open(f'{self.bin}/{name}.py', 'w') as file:
                file.write(f'open({self.path("imported")!r}, "a").write({name!r})\n')
        self.assert_works()
        self.tool('yes', ACCEPTS)
        self.configure(f'"{self.path("yes")}"')  # quotes need shlex
        self.assertEqual(self.login(*SESSION).code, 0)
        self.say('--check')
        self.assertFalse(os.path.exists(self.path('imported')), os.path.exists(self.path('imported')) and read_file(self.path('imported')))


@needs("root", "qpsmtpd")
class RealServer(Installation):
    def test_qpsmtpd(self):
        """qpsmtpd with the installed command accepts and refuses, with each Python, with its default configuration."""
        self.place(self.path('qmail'), '')
        users = self.write('users', 'alice:secret of alice\nbob:secret of bob\n')
        with SyslogListener() as log:
            for tag, python in pythons().items():
                with self.subTest(python=python):
                    self.make('install', python)
                    self.write('qmail/control/pwrap.conf', f'{TOP}/tests/harness/demo_tool /dev/null\n{TOP}/tests/harness/demo_tool {users}\n')
                    with servers.Qpsmtpd(pathlib.Path(self.path('server' + tag)), self.installed, pathlib.Path(self.folder), {}, log) as server:
                        for mechanism in ('PLAIN', 'LOGIN'):
                            self.assertEqual(servers.smtp_login(server.port, mechanism, 'alice', 'secret of alice'), 235)
                            self.assertEqual(servers.smtp_login(server.port, mechanism, 'alice', 'secret of bob'), 535)
                    log.wait_for(r'^result=accepted ip=127\.0\.0\.1 tool=\S+/demo_tool ms=\d+ user="alice"$')
                    log.clear()


if __name__ == '__main__':
    sys.exit(unittest.main())
