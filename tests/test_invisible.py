"""Nothing gets in its way: what a tool, a session and the server see is what they would see without the wrapper.

Most tests compare a login through the wrapper with the tool run directly, by the same plumbing. There are two ways
through the wrapper: prog true, where the exit code says it all, and any other prog, behind the report step. On the
first one a test looks out of a prog of its own that is called true and stands first on PATH.
"""

import ast
import contextlib
import ctypes
import fcntl
import os
import pty
import resource
import shutil
import signal
import socket
import subprocess
import termios
import time
import unittest

from tests.harness.logins import ACCEPTS, TRIPLE, Case, alive, read_file, readable, wait_until
from tests.harness.machine import PYTHON, someone, needs

PASSED_ON = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
             signal.SIGALRM]
SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
NOT_KEPT = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1  # Python overwrites what these were
INTERNAL = 1 << 32 - 1 | 1 << 33 - 1  # glibc's own: its posix_spawn, and so its system and popen, ignore them
ENV = '/usr/bin/env'  # as a tool: the simplest that there is, and it changes nothing at all before it becomes prog
CAT = '/bin/cat'

# Pieces of tools in Python.
READS = 'while os.read(3, 512): pass\nos.close(3)\n'
BECOMES = 'os.execvp(argv[0], argv)'
CLOSES = READS + 'os.closerange(4, 1024)\n' + BECOMES  # as sudo -C4 does
FORKS = '''
child = os.fork()
if not child:
    os.execvp(argv[0], argv)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
'''

# A prog that writes into a file what it finds around it. Python has closed the file of the program when this runs.
PROBE = '''
import fcntl, resource
descriptors = {}
for number in range(600):
    try:
        status = os.fstat(number)
        descriptors[number] = status.st_dev, status.st_ino, fcntl.fcntl(number, fcntl.F_GETFL)
    except OSError:
        pass
limits = sorted({getattr(resource, name) for name in dir(resource) if name.startswith('RLIMIT_')})
seen = {'descriptors': descriptors, 'arguments': open('/proc/self/cmdline', 'rb').read().split(b'\\0')[3:-1],
        'folder': os.readlink('/proc/self/cwd'), 'umask': os.umask(0o22), 'niceness': os.nice(0),
        'limits': [(limit, resource.getrlimit(limit)) for limit in limits], 'parents': os.getppid(),
        'group': os.getpgrp(), 'session': os.getsid(0)}
with open(OUT, 'w') as file:
    file.write(repr(seen))
'''

# A prog that waits for a signal and ends with 40 + its number.
CATCHER = f'''
import signal
for number in {[int(number) for number in PASSED_ON]}:
    signal.signal(number, lambda number, frame: os._exit(40 + number))
open(READY, 'w').close()
while True:
    signal.pause()
'''

ALL = 'tool, true', 'true', 'tool', 'prog'  # for Invisible.views()

LIBC = ctypes.CDLL(None, use_errno=True)


def exec_raw(*entries):
    """In a new process: what the test executes gets exactly these environment entries, also such as Python refuses."""
    def execve(path, words, environment):
        words = [os.fsencode(word) for word in words]
        LIBC.execve(words[0], (ctypes.c_char_p * (len(words) + 1))(*words),
                    (ctypes.c_char_p * (len(entries) + 1))(*entries))
        os._exit(98)
    os.execve = execve


def ignore(*numbers):
    """In a new process: ignore these signals."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def block(*numbers):
    """In a new process: block these signals."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def hide_proc():
    """In a new process: have no /proc."""
    if LIBC.unshare(0x20000) or LIBC.mount(b'none', b'/', None, 0x44000, None):  # CLONE_NEWNS; MS_REC | MS_PRIVATE
        os._exit(97)
    if LIBC.mount(b'none', b'/proc', b'tmpfs', 0, None):
        os._exit(97)


def identity(descriptor):
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, fcntl.fcntl(descriptor, fcntl.F_GETFL)


def fields(status):
    """The content of a file like /proc/self/status, as a dictionary."""
    return dict(line.split(':\t', 1) for line in status.decode().splitlines() if ':\t' in line)


def memory_holds(pid, secret):
    """Tell whether some part of a secret stands in any readable memory of a process."""
    pieces = [secret[start:start + 16] for start in range(0, len(secret), 16)]
    memory = os.open(f'/proc/{pid}/mem', os.O_RDONLY)
    try:
        for line in read_file(f'/proc/{pid}/maps').splitlines():
            words = line.split()
            if b'r' in words[1] and words[-1] not in (b'[vvar]', b'[vvar_vclock]', b'[vsyscall]'):
                position, end = (int(number, 16) for number in words[0].split(b'-'))
                content = b''
                while position < end:
                    content += os.pread(memory, end - position, position)
                    position = int(words[0].split(b'-')[0], 16) + len(content)
                if any(piece in content for piece in pieces):
                    return True
        return False
    finally:
        os.close(memory)


class Invisible(Case):
    """The plumbing of this module."""

    def setUp(self):
        super().setUp()
        self.ready = self.path('ready')
        self.search = f'{self.path("bin")}:/usr/bin:/bin'
        self.yes = self.tool('yes', ACCEPTS)
        self.configure(self.yes)

    def python_tool(self, name, body):
        return super().python_tool(name, f'READY, OUT = {self.ready!r}, {self.path("seen")!r}\n{body}')

    def both_ways(self, prog):
        """Yield prog as the wrapper's two ways know it: by the name true, and by its path."""
        link = self.path('bin/true')
        if not os.path.lexists(link):
            os.symlink(prog, link)
        yield 'true'
        yield prog

    def probe(self, *words, **options):
        """Run a login whose last prog is a probe, and return what that saw."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path('seen'))
        login = self.login(*words, **options)
        self.assertEqual(login.code, 0, login.output(2))
        return ast.literal_eval(read_file(self.path('seen')).decode())

    def views(self, name, names=('tool, true', 'prog'), **options):
        """Yield what a file of /proc/self says, when the tool runs directly and by the wrapper: as prog sees it, and as
        the tool does, each on one way or on both."""
        if not os.path.lexists(self.path('bin/true')):
            os.symlink(CAT, self.path('bin/true'))
        file = f'/proc/self/{name}'
        table = (('tool, true', (CAT, file), ('true',)), ('true', (ENV,), ('true', file)),
                 ('tool', (CAT, file), ('prog',)), ('prog', (ENV,), (CAT, file)))
        if 'whole_env' not in options:
            options['env'] = {**(options.get('env') or {}), 'PATH': self.search}
        for view, tool, prog in table:
            if view not in names:
                continue
            self.configure(' '.join(tool))
            direct = self.start(*tool[1:], *prog, **{**options, 'command': tool[:1]})
            wrapped = self.login(*prog, **options)
            direct.wait()
            self.assertEqual((wrapped.code, wrapped.problems()), (direct.code, []), view)
            yield view, direct.output(1), wrapped.output(1)

    @contextlib.contextmanager
    def held(self, *prog, descriptors=None, **options):
        """Start a login and wait until something in it has made the file "ready". What reads descriptor 0 can wait for
        the end of the block."""
        reader, writer = os.pipe()
        login = self.start(*prog, descriptors={0: reader, **(descriptors or {})}, **options)
        os.close(reader)
        try:
            wait_until(lambda: os.path.exists(self.ready) or login.over(), 'ready')
            self.assertFalse(login.over(), f'ended too early: {login.code} {login.output(2)} {login.log()}')
            yield login
        finally:
            os.close(writer)
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.ready)
        login.wait()

    def copy(self, old='', new='', name='copy'):
        """Return the command for a copy of the script in the test's folder, with a change."""
        text = read_file(self.command[-1])
        self.assertIn(old.encode(), text)
        return *self.command[:-1], self.write(name, text.replace(old.encode(), new.encode(), 1), 0o755)


HOLD = ': >$dir/ready; read line'  # a tool or session that waits for the end of a held() block


class Descriptors(Invisible):
    def compare(self, closed, others, tool=None):
        """Compare what prog has open with what the server passed on, and with what the tool alone would have left."""
        probe, tool = self.python_tool('probe', PROBE), tool or self.yes
        self.configure(tool)
        reader, writer = os.pipe()
        end = socket.socketpair()
        os.set_blocking(reader, False)
        kinds = [os.open('/dev/null', os.O_RDWR), os.open(self.path('file'), os.O_RDWR | os.O_CREAT | os.O_APPEND),
                 reader, writer, end[0].fileno(), end[1].fileno()]
        given = {number: kinds[index % len(kinds)] for index, number in enumerate((0, 1, 2, *others))}
        expected = {number: identity(kind) for number, kind in given.items() if number not in closed}
        try:
            for prog in self.both_ways(probe):
                options = {'descriptors': given, 'closed': closed, 'env': {'PATH': self.search}}
                with self.subTest(prog=prog, closed=closed, others=others):
                    self.assertEqual(self.probe(prog, command=(tool,), **options)['descriptors'], expected)
                    self.assertEqual(self.probe(prog, **options)['descriptors'], expected)
        finally:
            for kind in kinds[:4]:
                os.close(kind)
            for one in end:
                one.close()

    def test_standard_streams_closed(self):
        """Whichever of 0, 1 and 2 are closed at the start: prog has the same descriptors on the same things, with 4, 9
        and 27 among them, 3 closed and nothing added."""
        for bits in range(8):
            self.compare([number for number in (0, 1, 2) if bits >> number & 1], (4, 9, 27))

    def test_few_and_many(self):
        """It is the same where nothing else is open, so that 3 is what a new pipe gets, and where all low ones are."""
        self.compare((), ())
        self.compare((0, 1, 2), ())
        # Not with a tool in shell: dash leaves its own file open where it gets a number above 9.
        self.compare((), range(4, 32), self.python_tool('becomes', READS + BECOMES))

    def test_what_the_tool_changes(self):
        """Descriptors that a tool opens, closes or replaces before it becomes prog are so in prog."""
        probe = self.python_tool('probe', PROBE)
        for name, body in (('closes', 'exec 0<&- 2>&- 9<&-'), ('opens', 'exec 4>/dev/null 5<$dir 8>/dev/null 9</'),
                           ('replaces', 'exec 0</dev/zero 1>/dev/null 2>&1')):
            self.configure(self.tool(name, f'cat <&3 >/dev/null; exec 3<&-; {body}; exec "$@"'))
            with self.subTest(name), open(os.devnull, 'rb') as null:
                options = {'descriptors': {number: null.fileno() for number in (0, 1, 2, 9)}}
                direct = self.probe(probe, command=(self.path(name),), **options)['descriptors']
                self.assertEqual(self.probe(probe, **options)['descriptors'], direct)
                login = self.login('/bin/sh', '-c', 'exit 7')  # and the report comes through all the same
                self.assertEqual((login.code, login.result()['result']), (7, 'accepted'))

    def test_streams_are_untouched(self):
        """Nothing is read from the client before prog reads, and nothing is written to it."""
        for prog in self.both_ways(CAT):
            with self.subTest(prog=prog):
                self.write('input', b'USER alice\r\nPASS secret\r\n')
                with open(self.path('input'), 'rb') as client:
                    login = self.login(prog, descriptors={0: client.fileno()}, env={'PATH': self.search})
                self.assertEqual((login.code, login.output(1), login.output(2)),
                                 (0, read_file(self.path('input')), b''))


class Environment(Invisible):
    def compare(self, names=('tool, true', 'prog'), **options):
        """Compare the environment of the tool and of prog through the wrapper with that by the tool alone."""
        for view, direct, wrapped in self.views('environ', names, **options):
            with self.subTest(view=view, env=options.get('env')):
                direct = [entry for entry in direct.split(b'\0')[:-1] if not entry.startswith(b'AUTH=')]
                wrapped = wrapped.split(b'\0')[:-1]
                auth = [entry for entry in wrapped if entry.startswith(b'AUTH=')]
                self.assertEqual(sorted(entry for entry in wrapped if entry not in auth), sorted(direct))
                if view == 'prog':
                    self.assertEqual(auth, [b'AUTH=success'])
                else:
                    self.assertEqual(auth[0], b'AUTH=' + os.fsencode((options.get('env') or {}).get('AUTH') or '1'))

    def test_any_value(self):
        """Every value is the same, whatever bytes it holds and whatever it means to Python, and AUTH is 1 for the tools
        where it was not set."""
        values = {'EMPTY': '', 'BYTES': bytes(range(1, 256)), b'N\xe4me': b'\xff\xc3', 'LINES': 'a\nb=c\n', '1 2': '=',
                  'LONG': 'x' * 100000, 'IFS': 'P/', 'ENV': '/nonexistent', 'HOME': '/nonexistent', 'TCPREMOTEIP': ':'}
        python = {'PYTHONPATH': self.folder, 'PYTHONHOME': '/nonexistent', 'PYTHONSTARTUP': '/nonexistent',
                  'PYTHONUTF8': '0', 'PYTHONWARNINGS': 'error', 'PYTHONVERBOSE': '1', 'PYTHONIOENCODING': 'utf-16',
                  'PYTHONINSPECT': '1', 'PYTHONCOERCECLOCALE': '0', 'PYTHONMALLOC': 'debug', 'PYTHONDEVMODE': '1',
                  'PYTHONHASHSEED': '1', 'PYTHONPLATLIBDIR': '/nonexistent', 'PYTHONDUMPREFS': '1',
                  'PYTHONBREAKPOINT': 'x', 'PYTHONEXECUTABLE': '/nonexistent', 'PYTHONSAFEPATH': '1', 'PYTHONNOUSERSITE': '1'}
        for name in ('os', 'errno', 'select', 'syslog', 'time'):
            self.write(f'{name}.py', 'raise SystemExit(0)')  # what PYTHONPATH names is not for the wrapper
        for env in ({}, values, python, {'AUTH': ''}, {'AUTH': 'pop'}):
            self.compare(ALL, env=env)

    def test_locales(self):
        """The interpreter's own idea of LC_CTYPE reaches neither tool nor prog, whatever the locale settings are."""
        values = (None, '', 'C', 'POSIX', 'C.UTF-8', 'C.utf8', 'UTF-8', 'xx_YY.unknown')
        table = [{'LC_CTYPE': value} for value in values]
        table += [{'LC_CTYPE': value, name: other} for value in (None, 'C', 'C.UTF-8') for name, other in
                  (('LC_ALL', ''), ('LC_ALL', 'C'), ('LC_ALL', 'C.UTF-8'), ('LANG', 'C'), ('LANG', 'C.UTF-8'))]
        for env in table:
            self.compare(env={name: value for name, value in env.items() if value is not None})

    def test_where_it_stands(self):
        """LC_CTYPE is the same wherever it stands among the others."""
        for value in ('C', 'C.UTF-8'):
            for names in (('LC_CTYPE', 'PATH', 'PWRAP_CONF'), ('PATH', 'PWRAP_CONF', 'LC_CTYPE')):
                values = {'LC_CTYPE': value, 'PATH': self.search, 'PWRAP_CONF': self.conf}
                self.compare(whole_env={name: values[name] for name in names})

    def start_raw(self, *entries):
        """Return a function for before=, which starts the login with entries that Python would refuse."""
        own = [f'PATH={self.search}'.encode(), f'PWRAP_CONF={self.conf}'.encode()]
        return lambda: exec_raw(*entries[:1], *own, *entries[1:])

    def test_empty_name(self):
        """An entry with an empty name breaks no login, and reaches prog as it is."""
        for entries in ([b'=x'], [b'='], [b'=x', b'=y', b'A=1', b'LC_CTYPE=C']):
            with self.subTest(entries):
                self.compare(before=self.start_raw(*entries))

    def test_no_value(self):
        """An entry without "=", and a name that stands twice, break no login."""
        for entries in ([b'nothing'], [b''], [b'A=1', b'A=2']):
            with self.subTest(entries):
                self.configure(ENV)
                login = self.login(CAT, '/proc/self/environ', before=self.start_raw(*entries))
                self.assertEqual(login.code, 0)
                self.assertIn(b'AUTH=success', login.output(1).split(b'\0'))

    def test_none(self):
        """Under env -i there is nothing in the environment but AUTH."""
        copy = self.copy("'/var/qmail/control/pwrap.conf'", repr(self.conf))
        for tool, prog, expected in ((ENV, (CAT, '/proc/self/environ'), b'AUTH=success\0'),
                                     (self.tool('looks', 'cat /proc/$$/environ; exit 0'), ('true',), b'AUTH=1\0'),
                                     (self.path('looks'), ('prog',), b'AUTH=1\0')):
            self.configure(tool)
            with self.subTest(tool=tool, prog=prog):
                self.assertEqual(self.login(*prog, command=(tool,), whole_env={}).output(1), b'')
                login = self.login(*prog, command=copy, whole_env={})
                self.assertEqual((login.code, login.output(1), login.output(2)), (0, expected, b''))

    def test_what_the_tool_changes(self):
        """What a tool sets and unsets is set and unset in prog."""
        for words in (('-i',), ('-i', 'LC_CTYPE=C'), ('LC_CTYPE=C.UTF-8',), ('-u', 'PATH', 'LC_ALL=POSIX'),
                      ('-u', 'AUTH'), ('USER=alice', 'HOME=/home/alice', 'SHELL=/bin/sh', 'PYTHONHOME=/nonexistent')):
            self.configure(' '.join((ENV, *words)))
            with self.subTest(words):
                prog = CAT, '/proc/self/environ'
                direct = self.login(*words, *prog, command=(ENV,)).output(1).split(b'\0')
                self.assertEqual(sorted(self.login(*prog).output(1).split(b'\0')), sorted([*direct, b'AUTH=success']))


class Signals(Invisible):
    def test_as_they_were_found(self):
        """Tool and prog have the dispositions and the mask that the server had, SIGPIPE and SIGXFSZ aside, which are
        default."""
        usual = signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1
        for name, change, numbers in (
                ('nothing', ignore, ()), ('usual ignored', ignore, usual), ('usual blocked', block, usual),
                ('all ignored', ignore, SIGNALS), ('all blocked', block, SIGNALS),
                ('child ignored', ignore, [signal.SIGCHLD]), ('child blocked', block, [signal.SIGCHLD]),
                ('two ignored', ignore, [signal.SIGPIPE, signal.SIGXFSZ])):
            options = {'env': {'PATH': self.search}, 'before': lambda change=change, numbers=numbers: change(*numbers)}
            for view, direct, wrapped in self.views('status', ALL, **options):
                with self.subTest(name, view=view):
                    direct, wrapped = fields(direct), fields(wrapped)
                    ignored = int(direct['SigIgn'], 16)
                    if change == ignore:
                        self.assertEqual(ignored & ~INTERNAL, sum(1 << number - 1 for number in numbers))
                    self.assertEqual(int(wrapped['SigIgn'], 16) & ~INTERNAL, ignored & ~NOT_KEPT & ~INTERNAL)
                    self.assertEqual((wrapped['SigCgt'], wrapped['SigBlk']), (direct['SigCgt'], direct['SigBlk']))

    def test_ignored_is_not_caught(self):
        """A signal that was ignored at the start is not caught, while a tool runs and while a session does; sent to the
        wrapper, it disturbs neither."""
        mask = sum(1 << number - 1 for number in PASSED_ON)
        session = self.tool('session', HOLD + '; exit 6')
        for tool, prog in ((session, 'true'), (session, 'prog'), (self.yes, session)):
            self.configure(tool)
            with self.subTest(tool=tool, prog=prog):
                with self.held(prog, before=lambda: ignore(*PASSED_ON)) as login:
                    status = fields(read_file(f'/proc/{login.pid}/status'))
                    self.assertEqual(int(status['SigIgn'], 16) & mask, mask)
                    self.assertEqual(int(status['SigCgt'], 16) & mask, 0)
                    for number in PASSED_ON:
                        os.kill(login.pid, number)
                self.assertEqual(login.code, 6)

    def test_blocked_disturbs_nothing(self):
        """A signal that was blocked at the start ends neither tool nor session when it is sent to the wrapper."""
        session = self.python_tool('session', "open(READY, 'w').close()\nos.read(0, 1)\nos._exit(6)")  # dash unblocks
        becomes = self.python_tool('becomes', READS + BECOMES)
        for tool, prog in ((session, 'true'), (session, 'prog'), (becomes, session)):
            self.configure(tool)
            for command in ((tool,), None):
                with self.subTest(tool=tool, prog=prog, command=command):
                    with self.held(prog, before=lambda: block(*PASSED_ON), command=command) as login:
                        for number in PASSED_ON:
                            os.kill(login.pid, number)
                    self.assertEqual(login.code, 6)

    def test_children(self):
        """Logins, exit codes and time limits work where the server ignores or blocks SIGCHLD."""
        self.tool('no', 'cat <&3 >/dev/null; exit 1')
        self.tool('five', 'exit 5')
        self.tool('crash', 'kill -SEGV $$')
        self.tool('hangs', 'sleep 600')
        sh = '/bin/sh', '-c'
        table = [  # tools, prog, exit code, log
            ('no yes', ('true',), 0, 'accepted'), ('no five', ('true',), 5, 'rejected'),
            ('crash', ('true',), 111, 'temporary'),
            ('no yes', (*sh, 'exit 0'), 0, 'accepted'), ('no yes', (*sh, 'exit 7'), 7, 'accepted'),
            ('yes', (*sh, 'ulimit -c 0; kill -SEGV $$'), -signal.SIGSEGV, 'accepted'), ('five', sh, 5, 'rejected'),
            ('crash yes', (*sh, 'exit 0'), 0, 'accepted'), ('hangs yes', (*sh, 'exit 7'), 7, 'accepted'),
        ]
        for change in (ignore, block):
            for tools, prog, code, result in table:
                self.configure('timeout=1', *map(self.path, tools.split()))
                with self.subTest(change=change.__name__, tools=tools, prog=prog):
                    login = self.login(*prog, before=lambda change=change: change(signal.SIGCHLD))
                    self.assertEqual((login.code, login.result()['result']), (code, result))

    def test_reach_tool_and_session(self):
        """Each signal sent to the wrapper reaches the tool or the session as if it had been sent to that; then the
        wrapper ends with its code and asks no further tool."""
        catcher = self.python_tool('catcher', CATCHER)
        closes = self.python_tool('closes', CLOSES)
        self.tool('next', ACCEPTS)
        table = (('tool, true', catcher, 'true'), ('tool', catcher, 'prog'), ('session', self.yes, catcher),
                 ('session that nobody reported', closes, catcher))
        for who, tool, prog in table:
            self.configure(tool, self.path('next'))
            for number in PASSED_ON:
                with self.subTest(who, signal=number.name):
                    for command in ((tool,), None):
                        with self.held(prog, command=command) as login:
                            os.kill(login.pid, number)
                            login.wait()
                        self.assertEqual((login.code, self.ran('next')), (40 + number, 0))
                    login.result()

    def test_uncaught(self):
        """A tool that a signal sent to the wrapper kills counts as a temporary failure and is the last one; a session
        that it kills takes the wrapper with it, by the same signal."""
        tool = self.tool('tool', HOLD)
        self.tool('next', ACCEPTS)
        for who, name, prog in (('tool, true', tool, 'true'), ('tool', tool, 'prog'), ('session', self.yes, tool)):
            self.configure(name, self.path('next'))
            for number in PASSED_ON:
                with self.subTest(who, signal=number.name):
                    with self.held(prog) as login:
                        os.kill(login.pid, number)
                        login.wait()
                    code, result = (-number, 'accepted') if who == 'session' else (111, 'temporary')
                    self.assertEqual((login.code, login.result()['result'], self.ran('next')), (code, result, 0))

    def test_several_in_a_row(self):
        """A session that handles signals and goes on gets every one of them, and its code counts."""
        session = self.tool('session', 'for name in TERM HUP INT QUIT USR1 USR2 ALRM; do trap "echo $name" $name; done;'
                            ': >$dir/ready; while :; do read line && break; test -e $dir/go && exit 9; done; exit 8')
        with self.held(session) as login:
            for count, number in enumerate(PASSED_ON, 1):
                os.kill(login.pid, number)
                wait_until(lambda count=count: os.path.exists(self.path('login1/1'))
                           and read_file(self.path('login1/1')).count(b'\n') >= count or login.over(), number.name)
            self.write('go', '')
        self.assertEqual(login.output(1).split(), [number.name[3:].encode() for number in PASSED_ON])
        self.assertEqual(login.code, 9)

    def test_killed_session(self):
        """A session that is killed by a signal ends the wrapper by the same signal, without a core file of the wrapper,
        also where that signal was ignored or blocked at the start."""
        session = self.python_tool('session', '''
import resource, signal
number = int(argv[0])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if number not in (signal.SIGKILL, signal.SIGSTOP):
    signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
os.kill(os.getpid(), number)
''')
        folder = self.path('cores')
        os.mkdir(folder)

        def prepare(change):
            os.chdir(folder)
            hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
            resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
            change(*SIGNALS)

        harmless = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGTSTP, signal.SIGTTIN,
                    signal.SIGTTOU, signal.SIGSTOP}
        deadly = [number for number in signal.valid_signals() - harmless if number < 32]
        table = [(number, ignore, False) for number in [*deadly, signal.SIGRTMIN, signal.SIGRTMAX]]
        table += [(number, change, True) for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGQUIT, signal.SIGKILL)
                  for change in (ignore, block)]
        for number, change, wanted in table:
            with self.subTest(signal=number, change=change.__name__ if wanted else ''):
                apply = change if wanted else (lambda *numbers: None)
                login = self.start(session, str(int(number)), before=lambda apply=apply: prepare(apply))
                self.assertEqual((login.wait().code, login.dumped_core, os.listdir(folder)), (-number, False, []))


class ProcessGroup(Invisible):
    def test_session(self):
        """A session is in the process group and the session that it would have been in, whether the wrapper leads one
        or not, and whether the tool becomes prog or forks."""
        probe = self.python_tool('probe', PROBE)
        forks = self.python_tool('forks', READS + FORKS)
        for tool in (self.yes, forks):
            self.configure(tool)
            for before in (None, os.setpgrp, os.setsid):
                with self.subTest(tool=tool, before=before and before.__name__):
                    for command in ((tool,), None):
                        login = self.login(probe, command=command, before=before)
                        seen = ast.literal_eval(read_file(self.path('seen')).decode())
                        self.assertEqual(seen['group'], login.pid if before else login.group)
                        self.assertEqual(seen['session'], login.pid if before == os.setsid else login.session)

    def test_tool(self):
        """During the check, the tool leads a group of its own."""
        tool = self.python_tool('tool', 'print(os.getpgrp() == os.getpid(), os.getppid() == os.getpgid(os.getppid()),'
                                ' os.getsid(0) == os.getppid(), flush=True)')
        self.configure(tool)
        for prog in ('true', 'prog'):
            with self.subTest(prog=prog):
                self.assertEqual(self.login(prog, before=os.setsid).output(1), b'True True True\n')

    def test_group_signal(self):
        """A signal that a supervisor sends to the group reaches a session."""
        catcher = self.python_tool('catcher', CATCHER)
        for number in PASSED_ON:
            with self.subTest(signal=number.name):
                with self.held(catcher, before=os.setpgrp) as login:
                    os.killpg(login.pid, number)
                    login.wait()
                self.assertEqual(login.code, 40 + number)

    def test_terminal(self):
        """A session reads from its terminal, and an interrupt typed there reaches it."""
        catcher = self.python_tool('catcher', CATCHER)
        talks = self.tool('talks', ': >$dir/ready; read line; echo got $line; exit 6')

        def lead():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        for prog, typed, code in ((talks, b'hello\n', 6), (catcher, b'\x03', 40 + signal.SIGINT)):
            for command in ((self.yes,), None):
                master, slave = pty.openpty()
                with self.subTest(prog=prog, command=command):
                    with self.held(prog, descriptors={0: slave, 1: slave}, before=lead, command=command) as login:
                        os.write(master, typed)
                        login.wait()
                    self.assertEqual(login.code, code)
                    if prog == talks:
                        self.assertIn(b'got hello', os.read(master, 1000))
                os.close(master)
                os.close(slave)


class Surroundings(Invisible):
    def test_folder_umask_limits_niceness(self):
        """Working directory, umask, resource limits and niceness are as they were found."""
        probe = self.python_tool('probe', PROBE)

        def change():
            os.mkdir(self.path('gone'))
            os.chdir(self.path('gone'))
            os.rmdir(self.path('gone'))
            os.umask(0o137)
            os.nice(3)
            for limit, soft in ((resource.RLIMIT_NOFILE, 77), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, 1234),
                                (resource.RLIMIT_STACK, 1 << 22), (resource.RLIMIT_FSIZE, 1 << 20),
                                (resource.RLIMIT_DATA, 1 << 28), (resource.RLIMIT_MEMLOCK, 4096)):
                resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))

        for before in (None, change, lambda: os.chdir('/')):
            for prog in self.both_ways(probe):
                options = {'env': {'PATH': self.search}, 'before': before}
                with self.subTest(prog=prog, before=before and before.__name__):
                    direct, wrapped = self.probe(prog, command=(self.yes,), **options), self.probe(prog, **options)
                    for name in ('folder', 'umask', 'niceness', 'limits'):
                        self.assertEqual(wrapped[name], direct[name], name)
                    if before == change:
                        self.assertEqual((wrapped['umask'], wrapped['niceness'] - os.nice(0)), (0o137, 3))

    def test_status(self):
        """User, groups, capabilities, processors and what else the kernel tells of a process are as they were found."""
        names = ('Umask', 'Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs',
                 'Seccomp', 'Cpus_allowed', 'Mems_allowed', 'Threads', 'THP_enabled')
        for view, direct, wrapped in self.views('status', ALL, env={}):
            with self.subTest(view=view):
                direct, wrapped = fields(direct), fields(wrapped)
                self.assertEqual([wrapped.get(name) for name in names], [direct.get(name) for name in names])

    def test_how_prog_is_found(self):
        """prog is run as execvp(3) runs it: by /bin/sh where it has no shebang, and looked up on PATH, where an empty
        element is the working directory."""
        os.mkdir(self.path('first'))
        os.mkdir(self.path('second'))
        os.mkdir(self.path('first/is-folder'))
        self.write('first/not-executable', 'echo wrong', 0o644)
        self.write('first/twice', 'echo first', 0o755)
        self.write('bare', 'echo "bare $# $0" "$@"; exit 3', 0o755)
        self.write('empty', '', 0o755)
        for name in ('not-executable', 'is-folder', 'twice'):
            self.write(f'second/{name}', '#!/bin/sh\necho second "$@"', 0o755)
        both = f'/nonexistent:{self.conf}:{self.path("first")}:{self.path("second")}'
        self.configure(ENV)
        table = [  # PATH, prog
            ('/bin', './bare'), ('/bin', self.path('bare')), (self.folder, 'bare'), ('/bin:' + self.folder, 'empty'),
            ('', 'bare'), (':/bin', 'bare'), ('/bin:', 'bare'), ('/bin::/usr/bin', 'bare'), ('.', 'bare'),
            ('/', 'work/bare'), (both, 'not-executable'), (both, 'is-folder'), (both, 'twice'), (None, 'expr'),
            ('second', 'twice'),
        ]
        os.mkdir(self.path('work'))
        self.write('work/bare', 'echo other', 0o755)
        for path, prog in table:
            whole = {'PWRAP_CONF': self.conf, **({} if path is None else {'PATH': path})}
            with self.subTest(path=path, prog=prog):
                words = prog, '1', '+ 1', ''
                options = {'whole_env': whole, 'before': lambda: os.chdir(self.folder)}
                direct, wrapped = self.login(*words, command=(ENV,), **options), self.login(*words, **options)
                self.assertNotIn(direct.code, (125, 126, 127), direct.output(2))
                for number in (1, 2):
                    self.assertEqual(wrapped.output(number), direct.output(number).replace(b'env: ', b''))
                self.assertEqual((wrapped.code, wrapped.problems()), (direct.code, []))

    ARGUMENTS = ('', ' ', '-', '--', '--help', '-x', '*', '$HOME', '`id`', "a'b", 'a"b', 'a\\b', 'a\nb', '=',
                 b'\xc3\xa4', bytes(range(1, 256)), *(bytes([byte]) for byte in range(128, 256)), b'\xed\xb0\x80',
                 b'\xf0\x82\x82\xac', b'\xf4\x90\x80\x80', b'\xed\xa0\x80\xed\xb0\x80', b'x' * 100000,
                 'qmail_pwrap.report', '')

    def arguments(self, probe, **env):
        for prog in self.both_ways(probe):
            with self.subTest(prog=prog, **env):
                seen = self.probe(prog, *self.ARGUMENTS, env={**env, 'PATH': self.search})
                self.assertEqual(seen['arguments'], [os.fsencode(word) for word in self.ARGUMENTS])

    def test_arguments(self):
        """prog gets its arguments untouched: spaces, empty ones, leading dashes, any bytes, in C and UTF-8 locales."""
        probe = self.python_tool('probe', PROBE)
        for env in ({}, {'LC_ALL': 'C'}, {'LC_ALL': 'POSIX'}, {'LC_ALL': 'C.UTF-8'}, {'LANG': 'C.utf8'},
                    {'LC_ALL': 'xx_YY.unknown'}):
            self.arguments(probe, **env)

    @unittest.skipUnless(shutil.which('localedef') and os.path.exists('/usr/share/i18n/charmaps'), 'needs locales')
    def test_arguments_in_8_bit_locales(self):
        """It is the same in locales with the character sets ISO-8859-x."""
        probe = self.python_tool('probe', PROBE)
        for number in (1, 2, 3, 5, 6, 7, 8, 9, 13, 15):
            charset = f'ISO-8859-{number}'
            subprocess.run(['localedef', '-c', '-i', 'POSIX', '-f', charset, self.path(f'xx.{charset}')],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            env = {'LOCPATH': self.folder, 'LC_ALL': f'xx.{charset}'}
            said = subprocess.run([PYTHON, '-IS', '-c', 'import sys; print(sys.getfilesystemencoding())'], env=env,
                                  stdout=subprocess.PIPE)
            self.assertEqual(said.stdout.decode().strip(), charset.lower().replace('iso-', 'iso'))  # the locale works
            self.arguments(probe, **env)

    def test_names(self):
        """The names of the script, of its folder and of prog may hold any bytes."""
        folder = os.fsencode(self.folder) + b'/- \xe4\xff$x'
        os.mkdir(folder)
        self.python_tool('probe', PROBE)
        copy = self.copy()
        for name in ('probe', 'copy'):
            os.rename(self.path(name), folder + b'/-\xfc ' + name.encode())
        command = *copy[:-1], folder + b'/-\xfc copy'
        for env in ({}, {'LC_ALL': 'C'}, {'LC_ALL': 'C.UTF-8'}):
            with self.subTest(env):
                self.probe(folder + b'/-\xfc probe', command=command, env=env)


class Time(Invisible):
    def test_what_a_tool_leaves_behind(self):
        """A background process that a tool leaves behind, holding every descriptor, delays no answer."""
        end = {'accepts': BECOMES, 'refuses': 'os._exit(1)', 'accepts by itself': 'os._exit(0)'}
        for name, body in end.items():
            for own in ('', 'os.setsid()'):
                tool = self.python_tool('tool', f'''
if not os.fork():
    {own}
    with open(READY, 'w') as file:
        file.write(str(os.getpid()))
    import signal
    signal.pause()
while not os.path.exists(READY) or not os.path.getsize(READY):
    pass
{body}
''')
                self.configure('timeout=0', tool)
                for prog, code in ((('true',), 0), (('/bin/sh', '-c', 'exit 7'), 7)):
                    with self.subTest(name, own=own, prog=prog):
                        login = self.login(*prog)
                        left = int(read_file(self.ready))
                        os.remove(self.ready)
                        self.assertTrue(alive(left))
                        os.kill(left, signal.SIGKILL)
                        self.assertEqual(login.code, {'accepts': code, 'refuses': 1}.get(name, 0))
                        self.assertEqual(login.result()['result'], 'rejected' if name == 'refuses' else 'accepted')

    def test_session_outlives_the_timeout(self):
        """A session outlives the timeout of the tool that accepted, also where that has forked and waits."""
        self.configure('timeout=1', self.python_tool('forks', READS + FORKS))
        with self.held(self.tool('session', HOLD + '; exit 6')) as login:
            after = time.monotonic() + 1.3
            wait_until(lambda: time.monotonic() > after)
            self.assertEqual(login.result()['result'], 'accepted')
            self.assertFalse(login.over())
        self.assertEqual((login.code, len(login.log())), (6, 1))


class Tools(Invisible):
    def compare(self, tool, prog=None, **options):
        """Compare what prog sees and how it ends behind a tool."""
        probe = self.python_tool('probe', PROBE)
        self.tool('next', ACCEPTS)
        self.configure(' '.join(tool), self.path('next'))
        words = 'a b', '', 'c=d', '--', '-not', 'yours'
        for prog in self.both_ways(probe):
            with self.subTest(tool=tool, prog=prog):
                options['env'] = {'PATH': self.search}
                direct = self.probe(*tool[1:], prog, *words, command=tool[:1], **options)
                wrapped = self.probe(prog, *words, **options)
                for name in ('arguments', 'folder', 'umask', 'limits', 'niceness'):
                    self.assertEqual(wrapped[name], direct[name], name)
                self.assertEqual(list(wrapped['descriptors']), list(direct['descriptors']))
        for code in (0, 1):
            with self.subTest(tool=tool, code=code):
                prog = self.tool('exits', 'exit $1'), str(code)
                self.assertEqual(self.login(*tool[1:], *prog, command=tool[:1]).code, code)
                login = self.login(*prog)
                self.assertEqual((login.code, login.result()['result'], login.problems()), (code, 'accepted', []))
        self.assertEqual(self.ran('next'), 0)

    def test_forks(self):
        """Tools that fork before they run prog work, with one more process or two, and with a session of their own."""
        self.compare((self.python_tool('forks', READS + FORKS),))
        self.compare((self.python_tool('twice', READS + FORKS.replace('os.execvp(argv[0], argv)', FORKS.strip()
                                                                      .replace('\n', '\n    '))),))
        self.compare((self.python_tool('setsid', READS + FORKS.replace('not child:', 'not child:\n    os.setsid()')),))
        self.compare((self.tool('shell', 'cat <&3 >/dev/null; nice -n 0 "$@" 3<&-; exit'),))

    def test_changes_group_or_session(self):
        """Tools that make a process group or a session of their own, or try to, work."""
        self.compare((self.python_tool('group', READS + 'os.setpgid(0, 0)\n' + BECOMES),))
        self.compare((self.python_tool('session', f'{READS}\ntry: os.setsid()\nexcept OSError: pass\n{BECOMES}'),))
        self.compare(('/usr/bin/setsid', '--wait', self.yes))

    def test_options_anywhere(self):
        """Tools that parse options anywhere on the line find none in what the wrapper adds."""
        self.compare((self.python_tool('getopt', f'''import getopt
options, argv = getopt.gnu_getopt(argv, 'dv:', ['debug', 'value='])
if options != [('-d', ''), ('-v', 'x'), ('--debug', '')]: os._exit(2)
{READS}{BECOMES}'''), '-d', '-v', 'x', '--debug'))
        self.compare((self.tool('shell', 'words=$(getopt -o dv: -l debug -- "$@") || exit 2; eval "set -- $words"\n'
                                'test "$1$2$3$4$5" = "-d-vx--debug--" || exit 2; shift 5\n' + ACCEPTS),
                      '-d', '-v', 'x', '--debug'))

    def test_changes_much(self):
        """What a tool changes of itself before it becomes prog is so in prog."""
        self.compare((self.tool('changes', 'cat <&3 >/dev/null; exec 3<&-; cd /; umask 077; ulimit -n 64; ulimit -c 0\n'
                                'exec nice -n 2 "$@"'),))

    def test_does_not_close_the_triple(self):
        """A tool that accepts without reading descriptor 3, or without closing it, works."""
        self.compare((ENV,))
        self.compare((self.tool('reads', 'cat <&3 >/dev/null; exec "$@"'),))

    def uid(self, tool):
        """Compare what prog is behind a tool that changes the uid."""
        words = tool.split()
        copy = self.copy()
        self.configure(tool)
        direct = fields(self.login(*words, CAT, '/proc/self/status', command=()).output(1))
        login = self.login(CAT, '/proc/self/status', command=copy)
        wrapped = fields(login.output(1))
        self.assertEqual((login.code, login.result()['result'], login.problems()), (0, 'accepted', []))
        self.assertEqual(direct['Uid'].split(), [str(someone()[0])] * 4)
        for name in ('Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'SigBlk',
                     'SigCgt', 'NoNewPrivs'):
            self.assertEqual(wrapped[name], direct[name], name)
        for code in (0, 7):
            self.assertEqual(self.login('/bin/sh', '-c', f'exit {code}', command=copy).code, code)
        self.assertEqual(self.login('true', command=copy).code, 0)
        return copy

    @needs('root')
    @needs('public python')
    def test_changes_uid(self):
        """A tool that changes its uid first works: prog is who the tool made it, and in the right group."""
        uid, gid = someone()
        copy = self.uid(f'/usr/bin/setpriv --reuid={uid} --regid={gid} --clear-groups')
        self.uid(f'/usr/bin/setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs --bounding-set=-all')
        login = self.login('/bin/sh', '-c', 'ps -o pgid= -p $$', command=copy, before=os.setpgrp)
        self.assertEqual(login.output(1).strip(), b'%d' % login.pid)

    @needs('root')
    @needs('public python')
    @unittest.skipUnless(shutil.which('sudo'), 'needs sudo')
    def test_sudo(self):
        """A tool that runs prog by sudo, which forks, changes the uid and closes what it inherited, accepts with 0 and
        refuses with any other code."""
        self.configure(self.tool('sudo', 'cat <&3 >/dev/null; exec 3<&-; exec sudo -n -u nobody -- "$@"'))
        copy = self.copy()
        for prog, code in ((('true',), 0), (('/bin/sh', '-c', 'id -un'), 0), (('/bin/sh', '-c', 'id -un; exit 7'), 7)):
            with self.subTest(prog):
                direct, login = self.login(*prog, command=(self.path('sudo'),)), self.login(*prog, command=copy)
                self.assertEqual((login.code, login.output(1)), (code, direct.output(1)))
                self.assertEqual(login.result()['result'], 'rejected' if code else 'accepted')


class Closing(Invisible):
    """Behind a tool that closes the descriptors it inherits, nobody can report."""

    def setUp(self):
        super().setUp()
        self.closes = self.python_tool('closes', CLOSES)
        self.next = self.tool('next', ACCEPTS)

    def test_codes(self):
        """0 is accepted, and no further tool is asked; any other code refuses, and the next tool is asked."""
        self.python_tool('one', READS + 'os.close(int(argv[1].split(":")[1].split(".")[0]))\n' + BECOMES)
        for name in ('closes', 'one'):
            for code in (0, 1, 7, 111):
                prog = self.tool('session', f'test -e $dir/login{self.count + 1}/1 && exit {code}; exit 3')
                self.configure(self.path(name))
                with self.subTest(name, code=code):
                    login = self.login(prog)
                    self.assertEqual(login.code, code)
                    self.assertEqual(login.result()['result'], {0: 'accepted', 111: 'temporary'}.get(code, 'rejected'))
                    self.configure(self.path(name), self.next)
                    before = self.ran('next')
                    login = self.login(self.tool('session', f'exit {code}'))
                    self.assertEqual((login.code, self.ran('next') - before), (code, int(code != 0)))
                    self.assertEqual(login.result()['tool'], self.next if code else self.path(name))

    def test_timer_stops(self):
        """Once every holder has closed the report pipe the timer stops, and the login is logged when the tool ends."""
        session = self.tool('session', HOLD)
        for name, body in (('closes', CLOSES), ('forks', READS + 'os.closerange(4, 1024)\n' + FORKS)):
            self.configure('timeout=1', self.python_tool(name, body), self.next)
            with self.subTest(name):
                self.tool('session', HOLD + '; exit 0')
                with self.held(session) as login:
                    after = time.monotonic() + 1.3
                    wait_until(lambda after=after: time.monotonic() > after)
                    self.assertFalse(login.over())
                    self.assertEqual(login.log(), [])
                self.assertEqual((login.code, login.problems(), self.ran('next')), (0, [], 0))
                self.assertEqual(login.result()['result'], 'accepted')

    def test_group(self):
        """Such a session, too, is in the group that it would have been in, and has nothing open that it should not."""
        probe = self.python_tool('probe', PROBE)
        self.configure(self.closes)
        login = self.login(probe, before=os.setpgrp)
        seen = ast.literal_eval(read_file(self.path('seen')).decode())
        self.assertEqual((seen['group'], list(seen['descriptors'])), (login.pid, [0, 1, 2]))


class Waiting(Invisible):
    """While a session runs, the wrapper only waits and passes signals on."""

    def test_password(self):
        """Once a session is accepted, the password is nowhere in the wrapper's memory; before, this search finds it."""
        secret = os.urandom(64).hex().encode()
        triple = TRIPLE.replace(b'secret', secret)
        session = self.tool('session', HOLD)
        holds = self.tool('holds', f'cat <&3 >/dev/null; {HOLD}; exit 1')
        self.configure(holds)
        for prog in ('true', session):
            with self.subTest(prog=prog), self.held(prog, triple=triple) as login:
                self.assertTrue(memory_holds(login.pid, secret))
        no = self.tool('no', 'cat <&3 >/dev/null; exit 1')
        table = (('one tool', (self.yes,), None), ('three tools', (no, no, self.yes), None),
                 ('fork', (self.yes,), lambda: ignore(signal.SIGCHLD)))
        for name, tools, before in table:
            self.configure(*tools)
            with self.subTest(name), self.held(session, triple=triple, before=before) as login:
                wait_until(lambda pid=login.pid: not os.listdir(f'/proc/{pid}/fd'), 'closed descriptors')
                self.assertFalse(memory_holds(login.pid, secret))
                self.assertTrue(memory_holds(login.pid, TRIPLE[:17]))  # the search does find: the login was logged

    def test_descriptors(self):
        """It holds no descriptor, so what the session closes really ends: pipes on 2, 9 and 27, a socket on 0 and 1."""
        session = self.python_tool('session', '''
for number in 0, 1, 2, 9, 27:
    os.close(number)
open(READY, 'w').close()
os.read(4, 1)
os._exit(5)
''')
        for name, change in (('', ()), ('fork', (signal.SIGCHLD,))):
            mine, client = socket.socketpair()
            pipes = [os.pipe() for _ in range(4)]
            given = dict(zip((2, 9, 27), (writer for reader, writer in pipes)))
            login = self.start(session, descriptors={0: client.fileno(), 1: client.fileno(), 4: pipes[3][0], **given},
                               before=lambda change=change: ignore(*change))
            client.close()
            for number in (*given.values(), pipes[3][0]):
                os.close(number)
            with self.subTest(name):
                self.assertTrue(readable(mine))
                self.assertEqual(mine.recv(100), b'')
                for reader, _ in pipes[:3]:
                    while True:  # the log stands on 2
                        self.assertTrue(readable(reader))
                        if not os.read(reader, 1000):
                            break
                self.assertFalse(login.over())
                self.assertEqual(os.listdir(f'/proc/{login.pid}/fd'), [])
            os.close(pipes[3][1])
            self.assertEqual(login.wait().code, 5)
            mine.close()
            for reader, _ in pipes[:3]:
                os.close(reader)


class Systems(Invisible):
    """What a system may lack."""

    def everything(self, command, before=None):
        """Go through what has to work on every system."""
        self.tool('no', 'cat <&3 >/dev/null; exit 1')
        self.tool('hangs', 'sleep 600')
        sh = '/bin/sh', '-c'
        for tools, prog, code, result in (
                ('yes', ('true',), 0, 'accepted'), ('no', ('true',), 1, 'rejected'),
                ('hangs yes', ('true',), 0, 'accepted'),
                ('yes', (*sh, 'exit 7'), 7, 'accepted'), ('no', sh, 1, 'rejected'),
                ('no yes', (*sh, 'ulimit -c 0; kill -SEGV $$'), -signal.SIGSEGV, 'accepted')):
            self.configure('timeout=1', *map(self.path, tools.split()))
            with self.subTest(tools=tools, prog=prog):
                login = self.login(*prog, command=command, before=before)
                if login.code == 97:
                    self.skipTest('needs CAP_SYS_ADMIN')
                self.assertEqual((login.code, login.result()['result']), (code, result))
        catcher = self.python_tool('catcher', CATCHER)
        for tool, prog in ((self.yes, catcher), (catcher, 'true'), (catcher, 'prog')):
            self.configure(tool, self.yes)
            with self.subTest(tool=tool, prog=prog):
                with self.held(prog, command=command, before=before) as login:
                    os.kill(login.pid, signal.SIGTERM)
                    login.wait()
                self.assertEqual(login.code, 40 + signal.SIGTERM)
        session = self.tool('session', HOLD + '; exit 5')
        self.configure(self.yes)
        with self.held(session, command=command, before=before) as login:
            wait_until(lambda: not os.listdir(f'/proc/{login.pid}/fd'), 'closed descriptors')
            self.assertFalse(memory_holds(login.pid, b'secret\0<17.42@'))
        self.assertEqual(login.code, 5)
        for end, prog in (('exit 1', 'true'), ('exit 1', 'prog'), ('exec "$@"', 'true'), ('exec "$@"', '/bin/true')):
            self.configure('timeout=0', self.tool('leaves', f'sleep 600 & echo $! >$dir/left; {end}'))
            with self.subTest(end=end, prog=prog):
                login = self.login(prog, command=command, before=before)
                left = int(read_file(self.path('left')))
                self.assertTrue(alive(left))
                os.kill(left, signal.SIGKILL)
                self.assertEqual(login.code, 1 if end == 'exit 1' else 0)

    def test_no_pidfd(self):
        """Everything works where os.pidfd_open is missing."""
        self.everything(self.copy('import posix\n', "import posix\nposix.__dict__.pop('pidfd_open', None)\n"))

    @needs('root')
    def test_no_proc(self):
        """Everything works where /proc is missing."""
        self.everything(None, hide_proc)

    @needs('root')
    def test_environment_without_proc(self):
        """Where /proc is missing, LC_CTYPE is not added, and is not taken away where it was C.UTF-8."""
        self.configure(ENV)
        for value in (None, 'C.UTF-8'):
            for last in (False, True):
                values = {'PATH': '/bin', 'PWRAP_CONF': self.conf}
                added = {} if value is None else {'LC_CTYPE': value}
                whole = {**values, **added} if last else {**added, **values}
                for prog, tool in ((ENV, ENV), ('true', self.tool('looks', 'env; exit 0'))):
                    self.configure(tool)
                    with self.subTest(value=value, last=last, prog=prog):
                        login = self.login(prog, whole_env=whole, before=hide_proc)
                        if login.code == 97:
                            self.skipTest('needs CAP_SYS_ADMIN')
                        seen = dict(line.split('=', 1) for line in login.output(1).decode().splitlines())
                        self.assertEqual((login.code, seen.get('LC_CTYPE')), (0, value))


if __name__ == '__main__':
    unittest.main()
