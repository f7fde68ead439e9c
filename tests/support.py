"""The plumbing of the tests: fixture tools, and logins in which the real script is started as a server starts it."""

import atexit
import contextlib
import os
import pwd
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(TOP, 'qmail_pwrap.py')
# The script runs under the Python that its first line names. To test it under another one, PWRAP_TEST_PYTHON names that.
PYTHON = os.environ.get('PWRAP_TEST_PYTHON') or ('/usr/bin/python3' if os.path.exists('/usr/bin/python3') else sys.executable)
TRIPLE = b'alice@example.org\0secret\0<17.42@mail.example.org>\0'
if PYTHON != '/usr/bin/python3':
    _copies = tempfile.mkdtemp(prefix='pwrap-script-')
    atexit.register(shutil.rmtree, _copies)
    os.chmod(_copies, 0o755)
    with open(SCRIPT) as _original:
        _text = _original.read().split('\n', 1)[1]
    SCRIPT = os.path.join(_copies, 'qmail_pwrap.py')
    with open(SCRIPT, 'w') as _copy:
        _copy.write(f'#!{PYTHON} -IS\n{_text}')
    os.chmod(SCRIPT, 0o755)
LONG_ENOUGH = 60  # seconds; a condition that is not met by then never will be

# What a tool is, in shell. Each reads descriptor 3 to its end, closes it, and becomes prog where it accepts.
ACCEPTS = 'cat <&3 >/dev/null; exec 3<&-; exec "$@"'
REJECTS = 'cat <&3 >/dev/null; exit 1'

FIELD = r'[!-~]+'
RESULT = re.compile(rf'^result=(?P<result>accepted|rejected|temporary|disabled) ip=(?P<ip>{FIELD}) tool=(?P<tool>{FIELD})'
                    rf'(?: code=(?P<code>\d+))? ms=(?P<ms>\d+) user="(?P<user>[!#-~]*)"$')


def wait_until(condition, what='condition', seconds=LONG_ENOUGH):
    """Return the first true value of condition(), which is asked again and again."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'not within {seconds} s: {what}')
        time.sleep(0.005)


def read_file(path):
    with open(path, 'rb') as file:
        return file.read()


def alive(pid):
    """Tell whether a process runs (a zombie does not)."""
    try:
        return read_file(f'/proc/{pid}/stat').rpartition(b')')[2].split()[0] not in b'ZX'
    except OSError:
        return False


def everybody_runs(path):
    """Tell whether other users can reach a program."""
    parent = os.path.dirname(path)
    return parent == path or bool(os.stat(parent).st_mode & 1) and everybody_runs(parent)


needs_public_python = unittest.skipUnless(everybody_runs(PYTHON), 'needs a Python that every user can run')


def needs_root(test):
    return unittest.skipUnless(os.geteuid() == 0, 'needs root')(test)


class Login:
    """One started login. code is its exit code, or minus the signal that ended it, once wait() has returned."""

    def __init__(self, pid, folder):
        self.pid, self.folder, self.code = pid, folder, None

    def wait(self, seconds=LONG_ENOUGH):
        wait_until(self.over, 'the login is over', seconds)
        return self

    def over(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def kill(self):
        if not self.over():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def output(self, number):
        """What stood on descriptor 1 or 2 so far, without the log."""
        text = read_file(f'{self.folder}/{number}')
        return b''.join(line for line in text.splitlines(True) if not line.startswith(b'qmail-pwrap['))

    def log(self):
        """The lines logged so far to descriptor 2, without their prefix."""
        lines = read_file(f'{self.folder}/2').decode('utf-8', 'backslashreplace').split('\n')
        return [re.sub(r'^qmail-pwrap\[\d+\]: ', '', line) for line in lines if line.startswith('qmail-pwrap[')]

    def problems(self):
        return [line for line in self.log() if 'result=' not in line]

    def result(self):
        """The fields of the one result line. It is an error if there is not exactly one, or if it is not well formed."""
        lines = [line for line in self.log() if 'result=' in line]
        if len(lines) != 1 or not RESULT.match(lines[0]) or len(lines[0]) >= 1000:
            raise AssertionError(f'not one well formed result line: {self.log()}')
        return RESULT.match(lines[0]).groupdict()


class Case(unittest.TestCase):
    """A test with a folder of its own, for tools, a configuration and the logins that use them."""

    command = (SCRIPT,)  # what a server is told to run

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='pwrap-test-')
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        os.chmod(self.folder, 0o755)
        self.conf = os.path.join(self.folder, 'pwrap.conf')
        self.count = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content, mode=0o644):
        """Write a file into the folder, as a whole, by rename; return its path."""
        path = self.path(name)
        with open(path + '.new', 'wb') as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(path + '.new', mode)
        os.rename(path + '.new', path)
        return path

    def tool(self, name, body):
        """Make a tool of a few lines of shell. It notes in NAME.ran that it ran; body finds the folder in $dir."""
        return self.write(name, f'#!/bin/sh\ndir={self.folder}; echo $$ >>$dir/{name}.ran\n{body}\n', 0o755)

    def python_tool(self, name, body):
        """Make a tool of a few lines of Python, with os and sys imported, and prog in argv."""
        return self.write(name, f'#!{PYTHON} -IS\nimport os, sys\nargv = sys.argv[1:]\n{body}\n', 0o755)

    def ran(self, name):
        """How often a tool ran."""
        try:
            return len(read_file(self.path(name + '.ran')).splitlines())
        except FileNotFoundError:
            return 0

    def configure(self, *lines):
        """Write the configuration: these lines, below log=stderr."""
        self.write('pwrap.conf', '\n'.join(['log=stderr', *lines]) + '\n')

    def start(self, *prog, triple=TRIPLE, command=None, env=None, whole_env=None, descriptors=None, closed=(), before=None):
        """Start a login as a server does: descriptor 3 is a pipe with the triple (or, if triple is a number, that
        descriptor, or closed if it is None), 0 is /dev/null, 1 and 2 are files. descriptors, a dictionary by number,
        replaces or adds some, closed closes some; before() is called in the new process; env is added to a small
        environment, which whole_env replaces."""
        self.count += 1
        folder = self.path(f'login{self.count}')
        os.mkdir(folder)
        environment = {'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'PWRAP_CONF': self.conf, **(env or {})}
        if whole_env is not None:
            environment = whole_env
        given = dict(descriptors or {})
        mine = [os.open('/dev/null', os.O_RDONLY)]
        for number in (1, 2):
            mine.append(os.open(f'{folder}/{number}', os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666))
        for number in (0, 1, 2):
            given.setdefault(number, mine[number])
        if isinstance(triple, bytes):
            reader, writer = os.pipe()
            mine.append(reader)
            os.write(writer, triple)
            os.close(writer)
            triple = reader
        if triple is not None:
            given[3] = triple
        words = [*(self.command if command is None else command), *prog]
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                become(words, environment, {to: number for to, number in given.items() if to not in closed}, before)
            finally:
                os._exit(99)
        for number in mine:
            os.close(number)
        login = Login(pid, folder)
        self.addCleanup(login.kill)
        return login

    def login(self, *prog, **options):
        """Start a login and wait for its end."""
        return self.start(*prog, **options).wait()


def become(words, environment, descriptors, before):
    """In a new process: put the descriptors in their places, close all others, and run the program."""
    high = {}
    for to, number in descriptors.items():
        high[to] = os.dup2(number, 500 + to, inheritable=False)
    for to, number in high.items():
        os.dup2(number, to)
    keep = set(descriptors)
    for number in [int(name) for name in os.listdir('/proc/self/fd')]:
        if number not in keep:
            with contextlib.suppress(OSError):
                os.close(number)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if before:
        before()
    os.execve(words[0], words, environment)


def someone():
    """Return uid and gid of a user without rights, for tests that run as root."""
    user = pwd.getpwnam('nobody')
    return user.pw_uid, user.pw_gid


def drop_root():
    uid, gid = someone()
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def readable(descriptor, seconds=LONG_ENOUGH):
    """Tell whether there is something to read, or an end, within that time."""
    return bool(select.select([descriptor], [], [], seconds)[0])
