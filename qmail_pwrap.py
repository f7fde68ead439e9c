#!/usr/bin/python3 -IS
"""qmail_pwrap: one checkpassword tool that tries several (https://cr.yp.to/checkpwd/interface.html).

A mail server runs this with login, password and timestamp, each ended by NUL, on descriptor 3. The tools of its
configuration get the same bytes in turn until one accepts. To audit it, begin with Login.decide(), whose lines are the
steps of a login; Login.ask() is the loop over the tools, report_and_become() what stands in prog's place behind them.
"""

# Every import costs time at each login. These (on Debian, all built in) have the functions of os and signal.
import _signal  # type: ignore[import-not-found]
import atexit
import errno
import posix
import select
import sys
import syslog
import time

atexit.register(posix._exit, 111)  # should this file have been cut off, its end must not let everybody in
VERSION = '1.0'
CONFIGURATION = '/var/qmail/control/pwrap.conf'  # `make install` writes another QMAILHOME here
ACCEPT, REJECT, MISUSED, TEMPORARY = 0, 1, 2, 111  # exit codes of the checkpassword interface
NO_VERDICT = (TEMPORARY, 126, 127)  # 126, 127: a shell or env(1) could not run the tool itself
TRIPLE_LIMIT = 512  # bytes
TRUE = (b'/bin/true', b'/usr/bin/true', b'true')
REPORT = 'qmail_pwrap.report'  # how the first argument of the report step begins
PASSED_ON = [getattr(_signal, 'SIG' + name) for name in ('TERM', 'HUP', 'INT', 'QUIT', 'USR1', 'USR2', 'ALRM')]
PLAIN = frozenset(range(0x21, 0x7f)) - frozenset(b'"\\=')  # the bytes that stand in the log as they are
NAME = frozenset('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-')
STARTED = time.monotonic()


def escape(data: bytes, limit: int) -> str:
    """Return data as one printable word without quote, backslash or "=" (such bytes become \\xHH), so that it cannot
    look like a field of a log line. What exceeds limit characters is replaced by \\..."""
    shown = ''.join([chr(byte) if byte in PLAIN else f'\\x{byte:02x}' for byte in data[:limit + 1]])
    return shown if len(shown) <= limit else shown[:limit - 3] + shown[limit - 3:limit].split('\\')[0] + '\\...'


class Log:
    """The lines of one login, each shorter than 1,024 bytes, to syslog or descriptor 2."""
    to_stderr = False  # until the configuration is found valid: descriptor 2 may be the client's
    decided, user = False, b''

    def write(self, line: str, priority: int = syslog.LOG_ERR) -> None:
        """Write one line, by default about something that is wrong. Where there is no log, do nothing."""
        if not self.to_stderr:
            syslog.openlog('qmail-pwrap', syslog.LOG_PID, syslog.LOG_MAIL)
            return syslog.syslog(priority, line)
        try:
            posix.write(2, f'qmail-pwrap[{posix.getpid()}]: {line}\n'.encode('ascii'))
        except OSError:
            pass

    def tool(self, tool: 'Tool', verdict: str, code: int, problem: str) -> None:
        """Hear what came of a tool, as from Login.ask_one(), or that it was 'not asked'."""
        if problem:
            self.write(f'{tool.name}: {problem}')

    def result(self, result: str, code: int, tool: str = '-') -> int:
        """Write the one result line of this login; last stands what the network chose. Return code."""
        self.decided = True
        address = posix.environ.get(b'TCPREMOTEIP') or posix.environ.get(b'TCP6REMOTEIP') or b'-'
        ended = f' code={code}' if code and result != 'accepted' else ''
        self.write(f'result={result} ip={escape(address, 60)} tool={tool}{ended}'
                   f' ms={(time.monotonic() - STARTED) * 1000:.0f} user="{escape(self.user, 600)}"',
                   {'accepted': syslog.LOG_INFO, 'rejected': syslog.LOG_NOTICE}.get(result, syslog.LOG_WARNING))
        return code


FILE_SETTINGS = {'auth', 'log', 'failure'}
CHECKS = {  # what a value has to be, and the words for it
    'auth': (lambda value: value in ('0', '1'), '0 or 1'),
    'log': (lambda value: value in ('syslog', 'stderr'), 'syslog or stderr'),
    'failure': (lambda value: value in ('last', 'temporary'), 'last or temporary'),
    'users': (lambda value: not {'', '!'} & set(value.split(',')), 'patterns, none of them empty'),
    'timeout': (lambda value: value.isdecimal() and len(value) < 10 and int(value) <= 86400, 'seconds, 0 to 86400'),
    'name': (lambda value: 0 < len(value) <= 200 and all(one in NAME for one in value), 'letters, digits, . _ and -'),
}


class Tool:
    """A tool as its line in the configuration gives it."""
    def __init__(self, number: int, words: 'list[str]', settings: 'dict[str, str]') -> None:
        self.number = number  # of the line
        self.command = [word.encode('latin-1') for word in words]  # absolute path and arguments
        self.name = settings.get('name') or escape(self.command[0], 200)  # what the log calls it
        self.timeout = int(settings['timeout'])  # seconds, 0 for none
        self.users = settings['users'].encode('latin-1').lower().split(b',')
        self.barred = [one[1:] for one in self.users if one[:1] == b'!']
        self.wanted = [one for one in self.users if one[:1] != b'!'] or [b'*']

    def serves(self, login: bytes) -> bool:
        """Tell whether this tool may get the credentials of that login, given in lower case."""
        return any(matches(one, login) for one in self.wanted) and not any(matches(one, login) for one in self.barred)


def matches(pattern: bytes, login: bytes) -> bool:
    """Tell whether the whole login fits; "*" stands for any bytes, nothing else is special."""
    first, *parts = pattern.split(b'*')
    if not parts:
        return login == first
    position = len(first)
    for part in parts[:-1]:
        found = login.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return login.startswith(first) and login.endswith(parts[-1]) and position <= len(login) - len(parts[-1])


class Configuration:
    """What the configuration file says, and every reason not to use it."""
    def __init__(self) -> None:
        self.values = {'auth': '1', 'log': 'syslog', 'failure': 'last', 'users': '*', 'timeout': '60'}
        self.made: 'set[str]' = set()  # names of the settings for the file
        self.tools: 'list[Tool]' = []
        self.problems: 'list[str]' = []  # each begins with FILE: or FILE:LINE:
        named = posix.environ.get(b'PWRAP_CONF', b'')
        self.ignored = named != b'' and (posix.getuid(), posix.getgid()) != (posix.geteuid(), posix.getegid())
        path = CONFIGURATION.encode() if self.ignored or not named else named
        self.path = escape(path, 200)
        try:
            status, data = read_file(path)
        except OSError as error:
            return self.refuse(f'{error.strerror}')
        # Whoever can change this file can have every password: it must be safe from others, as netrc's.
        if status.st_uid not in (0, posix.geteuid()):
            self.refuse(f'belongs to user {status.st_uid}; mend it with: chown root {self.path}')
        if status.st_mode & 0o022:
            self.refuse(f'others can write to it; mend it with: chmod go-w {self.path}')
        # Latin-1 turns any byte into one character and back, so a tool gets the bytes that stand here.
        for number, line in enumerate(data.decode('latin-1').split('\n'), 1):
            try:
                self.take(number, line[:-1] if line[-1:] == '\r' else line)
            except ValueError as error:
                self.refuse(f'{error}', number)
        if not self.tools:
            self.refuse('no tool is enabled')

    def refuse(self, why: str, number: int = 0) -> None:
        self.problems.append(f'{self.path}:{number}: {why}' if number else f'{self.path}: {why}')

    def take(self, number: int, line: str) -> None:
        """Add what a line says. Raises ValueError; its text repeats nothing of the line but a setting's name."""
        words, settings = self.split(line), {}
        while words and words[0][:1] != '/':
            name, equals, value = words.pop(0).partition('=')
            if not equals:
                raise ValueError('neither a setting (name=value) nor an absolute path')
            if name not in CHECKS:
                raise ValueError('unknown setting' + f' {name}=' * (0 < len(name) < 30 and NAME.issuperset(name)))
            if not CHECKS[name][0](value):  # type: ignore[no-untyped-call]
                raise ValueError(f'{name}= takes {CHECKS[name][1]}')
            if name in settings or name in self.made:
                raise ValueError(f'{name}= is set twice')
            settings[name] = value
        for name in settings.keys() & (FILE_SETTINGS if words else {'name'}):
            raise ValueError(f'{name}= belongs on a line {"without" if words else "with"} a tool')
        if words:
            return self.tools.append(Tool(number, words, {**self.values, **settings}))
        self.values.update(settings)
        self.made |= settings.keys() & FILE_SETTINGS

    def split(self, line: str) -> 'list[str]':
        """Split a line into words as shlex does. Raises ValueError, also for a comment that would become arguments."""
        if '\0' in line:
            raise ValueError('a NUL byte')
        if line.lstrip(' \t')[:1] == '#':
            return []
        words = bare = [word for word in line.replace('\t', ' ').split(' ') if word]
        if '"' in line or "'" in line or '\\' in line:
            import shlex  # 7 ms, only for a line that needs it
            words = shlex.split(line)
            bare = shlex.split(line.replace('"#', '"').replace("'#", "'").replace('\\#', 'x'))  # these are quoted
        if any(word[:1] == '#' for word in bare):
            raise ValueError('a comment needs a line of its own; a word that begins with # needs quotes')
        return words


def read_file(path: 'bytes | str') -> 'tuple[posix.stat_result, bytes]':
    """Return status and content of a regular file. Raises OSError."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY)  # a fifo must not block
    try:
        status, data, piece = posix.fstat(descriptor), b'', b'-'
        if status.st_mode & 0o170000 != 0o100000:
            raise OSError(errno.EINVAL, 'not a regular file')
        while piece:
            piece = posix.read(descriptor, 16384)
            data += piece
        return status, data
    finally:
        posix.close(descriptor)


def restore_environment() -> None:
    """Undo what the interpreter does to LC_CTYPE where the locale was C when it started (PEP 538 and 540)."""
    if not sys.flags.utf8_mode or posix.environ.get(b'LC_ALL') or b'LC_CTYPE' not in posix.environ:
        return
    try:
        entries = read_file('/proc/self/environ')[1].split(b'\0')
    except OSError:  # no /proc: most likely it was not set
        entries = []
    del posix.environ[b'LC_CTYPE']
    posix.unsetenv(b'LC_CTYPE')
    for value in [entry[9:] for entry in entries if entry.startswith(b'LC_CTYPE=')]:
        set_variable(b'LC_CTYPE', value)


def set_variable(name: bytes, value: bytes) -> None:
    posix.environ[name] = value
    posix.putenv(name, value)


def identity(descriptor: int) -> str:
    """Return what tells the file behind a descriptor from any other; empty if it is closed."""
    try:
        return '.'.join(map(str, posix.fstat(descriptor)[1:3]))  # inode and device
    except OSError:
        return ''


def join_group(group: int) -> bool:
    """Go to a process group, 0 for a new one; tell whether that was possible, as it is not from another session."""
    try:
        posix.setpgid(0, group)
    except OSError:
        return False
    return True


class Child:
    """The tool or session of the moment: starts it, waits for it, passes signals on to it."""
    def __init__(self) -> None:
        self.pid, self.interrupted = 0, False  # 0 while none runs
        self.code = 0  # of the one that ended last: its exit code, or minus the signal that ended it
        # Each signal that is handled puts its number into this pipe, so that no wait can miss one.
        self.wake, writer = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)
        _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # With SIGCHLD ignored or blocked, as some servers leave it, no exit code would ever come.
        self.children_ignored = _signal.getsignal(_signal.SIGCHLD) == _signal.SIG_IGN
        self.handled = [one for one in PASSED_ON if _signal.getsignal(one) != _signal.SIG_IGN] + [_signal.SIGCHLD]
        for number in self.handled:
            _signal.signal(number, lambda number, frame: None)
        self.mask = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGCHLD])

    def start(self, command: 'list[bytes]', data: int) -> None:
        """Run command in a process group of its own, with data as its descriptor 3. Raises OSError."""
        # It must not lead that group, unless it would do so without us: for a leader, setsid(1) forks and ends with 0.
        home, group = posix.getpgrp(), posix.getpid()
        self.group = group if group != home and join_group(0) else 0
        try:
            if self.children_ignored or b'' in posix.environ:
                exec(RARE, globals())
                self.pid = globals()['fork'](self, command, data)
            else:  # Python ignores SIGPIPE and SIGXFSZ at start-up; a tool must not inherit that
                self.pid = posix.posix_spawn(
                    command[0], command, posix.environ, file_actions=[(posix.POSIX_SPAWN_DUP2, data, 3)],
                    setpgroup=self.group, setsigmask=self.mask, setsigdef=[_signal.SIGPIPE, _signal.SIGXFSZ])
        finally:
            join_group(home)

    def send(self, number: int, *targets: int) -> None:
        for target in targets:
            try:
                posix.kill(target, number)
            except OSError:  # it is gone, or has changed its uid
                pass

    def pass_on(self) -> None:
        """Send the child the signals that have come for it."""
        try:
            numbers = posix.read(self.wake, 4096)
        except BlockingIOError:
            return
        for number in numbers.replace(b'%c' % _signal.SIGCHLD, b''):
            self.interrupted = True
            self.send(number, *[self.pid] if self.pid else [])

    def ended(self) -> bool:
        """Tell whether the child has ended; then code says how."""
        if self.pid:
            pid, status = posix.waitpid(self.pid, posix.WNOHANG)
            if pid:
                self.pid, self.code = 0, posix.waitstatus_to_exitcode(status)
        return not self.pid

    def wait(self, report: 'int | None', seconds: int) -> str:
        """Return 'reported' when prog was reached, 'ended' when the child has, 'timeout' after that many seconds if
        not 0. Once nobody can report any more, as the tool has closed what it inherited, this may be prog: no limit."""
        poller = select.poll()
        for descriptor in (self.wake, report or self.wake):
            poller.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + seconds if seconds else None
        while True:
            ready = dict(poller.poll(None if deadline is None else max(0, deadline - time.monotonic()) * 1000))
            self.pass_on()
            ended = self.ended()
            if report and report in dict(poller.poll(0)):  # after ended(): a report comes before the end
                if posix.read(report, 1):
                    return 'reported'
                poller.unregister(report)
                report = deadline = None
            if ended or not ready:
                return 'ended' if ended else 'timeout'

    def kill(self) -> bool:
        """Kill the child with all that it has started, and tell whether it is gone."""
        group = self.group or self.pid
        self.send(_signal.SIGKILL, *[-group] * (group != posix.getpgrp()), self.pid)  # it may have left its group
        return self.wait(None, 2) == 'ended'

    def wait_to_the_end(self) -> None:
        """Wait for a session, passing signals on, while this process holds nothing."""
        _signal.pthread_sigmask(_signal.SIG_BLOCK, self.handled)
        _signal.set_wakeup_fd(-1)
        self.pass_on()
        syslog.closelog()
        posix.closerange(0, 65536)
        while not self.ended():
            number = _signal.sigwait(self.handled)
            if number != _signal.SIGCHLD:
                self.send(number, self.pid)


class Login:
    """One login. program is the absolute path by which a tool can run the report step."""
    def __init__(self, program: bytes, prog: 'list[bytes]', log: Log) -> None:
        self.program, self.prog, self.log = program, prog, log
        self.triple, self.size = bytearray(TRIPLE_LIMIT + 1), 0  # a login's password is nowhere else
        self.opened: 'list[int]' = []  # ends of pipes
        self.tool, self.code = '-', TEMPORARY  # name and exit code of the tool that accepted, or ran last

    def decide(self) -> int:
        """Decide this login and log it; return the exit code once everything is over."""
        # The configuration, which is read at each login, so that a change counts at once.
        configuration, log = Configuration(), self.log
        invalid, values = configuration.problems, configuration.values
        log.to_stderr = not invalid and values['log'] == 'stderr'
        # The triple. AUTH=0 switches authentication off; a broken configuration never does.
        code, problem = self.read_triple()
        log.user = bytes(self.triple[:max(0, self.triple.find(0, 0, self.size))])  # empty where no NUL ends it
        if configuration.ignored:  # not logged before, or the log's socket could become descriptor 3
            log.write('PWRAP_CONF is ignored: real and effective user or group differ')
        auth = posix.environ.get(b'AUTH') or (b'1' if invalid else values['auth'].encode())
        if auth == b'0':
            while code == REJECT:  # there may be more, and its writer must not get a broken pipe
                code, problem = self.read_triple()
            return log.result('disabled', ACCEPT)
        if invalid and not code:
            code, problem = TEMPORARY, invalid[0]
        if code:
            if problem:
                log.write(problem)
            if problem and code == MISUSED and posix.isatty(2):
                posix.write(2, b'qmail_pwrap expects the login of a mail server on descriptor 3; see --help\n')
            return log.result('temporary' if code == TEMPORARY else 'rejected', code)
        # The chain. Its pipes leave 0 to 8 alone: standard streams, and those that shell scripts number.
        posix.close(3)
        while posix.open('/', posix.O_RDONLY) < 8:
            pass
        restore_environment()
        set_variable(b'AUTH', auth)
        self.child = child = Child()
        result = self.ask(configuration.tools)
        self.triple[:] = bytes(len(self.triple))  # nobody needs the password any more
        if result != 'accepted':
            code = TEMPORARY if result == values['failure'] else self.code
            return log.result(result, code, self.tool)
        log.result(result, child.code, self.tool)
        # The session, which may last as long as it likes.
        if child.pid:
            child.wait_to_the_end()
        if child.code < 0:  # end as it did, without a core file
            import resource
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if child.code != -_signal.SIGKILL:
                _signal.signal(-child.code, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [-child.code])
            posix.kill(posix.getpid(), -child.code)
        return child.code

    def read_triple(self) -> 'tuple[int, str]':
        """Read descriptor 3. Return 0, or the code with which the login ends, and a problem unless it may be forged."""
        self.size = 0
        while self.size < len(self.triple):
            try:
                count = posix.readv(3, [memoryview(self.triple)[self.size:]])
            except BlockingIOError:
                select.select([3], [], [])
                continue
            except OSError as error:
                if not identity(3):
                    return MISUSED, 'descriptor 3 is not open: a mail server has to write the login there'
                return TEMPORARY, f'descriptor 3 cannot be read: {error.strerror}'
            if not count:
                return MISUSED if self.triple.count(0, 0, self.size) < 2 else 0, ''
            self.size += count
        return REJECT, ''

    def ask(self, tools: 'list[Tool]') -> str:
        """Ask the tools in their order until one accepts. Return accepted (the child may be a session that has begun),
        rejected, or temporary: nobody accepted, and somebody gave no verdict."""
        result = 'rejected'
        for tool in tools:
            if not tool.serves(self.log.user.lower()):
                self.log.tool(tool, 'not asked', 0, '')
                continue
            self.child.pass_on()
            if self.child.interrupted or self.child.pid:  # the login is over, or a tool cannot be killed
                return 'temporary'
            verdict, code, problem = self.ask_one(tool)
            self.log.tool(tool, verdict, code, problem)
            if verdict != 'skipped':
                self.tool, self.code = tool.name, code
            if verdict == 'accepted':
                return verdict
            if verdict != 'rejected':
                result = 'temporary'
        if self.tool == '-' and result == 'rejected':  # no tool serves this login
            self.code = REJECT
        return result

    def ask_one(self, tool: Tool) -> 'tuple[str, int, str]':
        """Ask one tool. Return accepted, rejected, temporary, or skipped if it cannot run, its code, and a problem."""
        try:
            data, writer = self.pipe()
            posix.write(writer, memoryview(self.triple)[:self.size])  # a new pipe has room for it
            self.close(writer)
            if self.prog[0] in TRUE:  # the exit code will say it all
                self.child.start(tool.command + self.prog, data)
                event = self.child.wait(None, tool.timeout)
            else:
                report, reporting = self.pipe()
                answering, answer = self.pipe()
                for end in (reporting, answering):
                    posix.set_inheritable(end, True)
                step = [REPORT, f'{reporting}.{identity(reporting)}', f'{answering}.{identity(answering)}',
                        f'{posix.getpgrp()}', 'stderr' if self.log.to_stderr else 'syslog']
                self.child.start([*tool.command, self.program, ':'.join(step).encode(), *self.prog], data)
                self.close(reporting)
                event = self.child.wait(report, tool.timeout)
                if event == 'reported':
                    posix.write(answer, b'+')
                    return 'accepted', ACCEPT, ''
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                return 'temporary', TEMPORARY, f'cannot be started: {error.strerror}'
            return 'skipped', TEMPORARY, f'cannot run: {error.strerror}'
        finally:
            self.close(*self.opened)
        if event == 'timeout':
            killed = 'was killed' if self.child.kill() else 'cannot be killed'
            return 'temporary', TEMPORARY, f'timed out after {tool.timeout} s and {killed}'
        code = self.child.code
        if code < 0:
            names = [name for name in dir(_signal) if name[:3] == 'SIG' and getattr(_signal, name) == -code]
            return 'temporary', TEMPORARY, f'killed by {names[0] if names else -code}'
        if code in NO_VERDICT:
            return 'temporary', code, f'temporary failure, exit code {code}'
        return 'accepted' if code == ACCEPT else 'rejected', code, ''

    def pipe(self) -> 'tuple[int, int]':
        pair = posix.pipe()  # not inheritable
        self.opened += pair
        return pair

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            self.opened.remove(descriptor)
            posix.close(descriptor)


def report_and_become(argument: str, prog: 'list[bytes]', log: Log) -> int:
    """What a tool that accepts runs in prog's place: tell the wrapper, wait for its answer, become prog. Returns 111 if
    prog cannot be run, or must not be because the wrapper has given the tool up. Login.ask_one() made the argument."""
    log.decided = True  # the result line is the wrapper's
    _, *pipes, group, to = argument.split(':')
    log.to_stderr = to == 'stderr'
    # What the tool has closed, or has used for a file of its own, is not ours.
    ours = [int(number) for number, _, made in (pipe.partition('.') for pipe in pipes) if identity(int(number)) == made]
    if len(ours) == 2:
        try:
            posix.write(ours[0], b'+')
        except OSError:
            return TEMPORARY
        if not posix.read(ours[1], 1):
            return TEMPORARY
    for number in ours:
        posix.close(number)
    join_group(int(group))  # the tool's own group was for killing it
    restore_environment()
    posix.putenv(b'AUTH', b'success')
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)  # Python ignores these at start-up
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    # As execvp(3): looked up on PATH, and run by /bin/sh if it has no shebang.
    folders = [b''] if b'/' in prog[0] else posix.environ.get(b'PATH', b'/bin:/usr/bin').split(b':')
    failure = errno.ENOENT
    for folder in folders:
        path = folder + b'/' + prog[0] if folder else prog[0]
        try:
            posix.execv(path, prog)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                posix.execv('/bin/sh', [b'/bin/sh', path, *prog[1:]])
            failure = failure if error.errno in (errno.ENOENT, errno.ENOTDIR) else error.errno or failure
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    log.write(f'{escape(prog[0], 200)}: prog cannot be run: {posix.strerror(failure)}')
    return TEMPORARY


def main(program: str) -> None:
    """Do what the command line asks for, and exit. program is the path by which this was run."""
    log, code = Log(), TEMPORARY
    try:
        encoding = sys.getfilesystemencoding(), 'surrogateescape'
        words = [word.encode(*encoding) for word in sys.argv[1:]] or [TRUE[not posix.access(TRUE[0], posix.X_OK)]]
        program = program if program[:1] == '/' else f'{posix.getcwd()}/{program}'
        if words[0][:2] == b'--':
            exec(PEOPLE, globals())
            posix._exit(globals()['people'](program, sys.argv[1:]))
        if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:  # Python handles it
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        code = (report_and_become(sys.argv[1], words[1:], log) if words[0].startswith(REPORT.encode())
                else Login(program.encode(*encoding), words, log).decide())
    except BaseException as error:  # a traceback would end with 1, which says that the password is wrong
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        log.write(f'internal error: {type(error).__name__} in line {trace.tb_lineno if trace else 0}')
        if not log.decided:
            log.result('temporary', code)
    finally:  # whatever happened; and the interpreter's own way out takes a millisecond
        posix._exit(code)


# What follows is text until it is needed: compiled, it would cost each login a tenth of its time.
RARE = r'''
def fork(child: 'Child', command: 'list[bytes]', data: int) -> int:
    """Do as posix_spawn in Child.start(), which can neither ignore SIGCHLD nor pass on a variable without a name."""
    reader, writer = posix.pipe()  # exec closes it; why exec failed comes through it
    pid = posix.fork()
    if not pid:
        try:
            posix.setpgid(0, child.group)
            posix.dup2(data, 3)
            for number in (_signal.SIGPIPE, _signal.SIGXFSZ, *child.handled):
                ignored = number == _signal.SIGCHLD and child.children_ignored
                _signal.signal(number, _signal.SIG_IGN if ignored else _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, child.mask)
            posix.execv(command[0], command)
        except OSError as error:
            posix.write(writer, bytes([error.errno or 0]))
        finally:
            posix._exit(TEMPORARY)
    posix.close(writer)
    failure = posix.read(reader, 1)
    posix.close(reader)
    if failure:
        raise OSError(failure[0], posix.strerror(failure[0]))
    return pid
'''

PEOPLE = r'''
import getpass
import importlib.util
import os
import pathlib
import pwd
import shlex
TERMINAL = os.isatty(1)
USAGE = """{0} [prog [arg ...]]  for mail servers: tries the tools in $PWRAP_CONF, else {1}
{0} --check           tell what is wrong with the configuration
{0} --test LOGIN      try a login, and show what each tool says
{0} --version"""

def people(program: str, words: 'list[str]') -> int:
    """Do what a person asks for on the command line; return the exit code."""
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    sys.stdout.reconfigure(errors='replace')  # type: ignore[union-attr]
    usage, code = USAGE.format(program, CONFIGURATION), 0
    if {'--help': 1, '--version': 1, '--check': 1, '--test': 2}.get(words[0]) != len(words):
        print(f'{words[0]}: not a command in this form\n{usage}', file=sys.stderr)
        code = MISUSED
    elif words[0] in ('--check', '--test'):
        try:
            code = check(program) if words[0] == '--check' else test(program, words[1])
        except (KeyboardInterrupt, EOFError):
            code = 130
    else:
        print(usage if words[0] == '--help' else f'qmail_pwrap {VERSION}')
    sys.stdout.flush()
    return code

def mark(good: bool, line: str) -> str:
    """Return a line for a person, with a mark if that is a terminal."""
    sign, colour = ('\u2713 ', 32) if good else ('\u2717 ', 31)
    coloured = sign if os.environ.get('NO_COLOR') else f'\033[{colour}m{sign}\033[0m'
    return coloured + line if TERMINAL else line

def who(program: str, rest: str) -> str:
    """Return as whom this runs, and how to run it as the mail server's user."""
    named = os.environ.get('PWRAP_CONF')
    line = (f'PWRAP_CONF={shlex.quote(named)} ' if named else '') + f'{shlex.quote(program)} {rest}'
    names = [entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == os.geteuid()] or ['(no name)']
    return f"user {names[0]}, uid {os.geteuid()}; as the service's user: su -s /bin/sh USER -c {shlex.quote(line)}"

def check(program: str) -> int:
    """Show what a login would read, and all that is wrong or doubtful; return 1 if something is wrong."""
    configuration, script = Configuration(), pathlib.Path(__file__).absolute()
    problems, values, paths = configuration.problems, configuration.values, [pathlib.Path(program), script]
    doubts = ['PWRAP_CONF is ignored: real and effective user or group differ'] if configuration.ignored else []
    doubts += ['auth=0: everybody is let in without a check'] if values['auth'] == '0' else []
    doubts += ['log=stderr: under qmail-popup, descriptor 2 is the client'] if values['log'] == 'stderr' else []
    rows = [('', 'name', 'command', 'users', 'timeout', 'state')]
    for number, tool in enumerate(configuration.tools, 1):
        where, state = f'{configuration.path}:{tool.number}: {tool.name}', tool_state(tool.command[0])
        problems += [f'{where}: {state}'] if state != 'ok' else []
        if all(any(matches(out, one) for out in tool.barred) for one in tool.wanted):
            doubts.append(f'{where}: no login reaches it, every pattern is also excluded')
        rows.append((f'{number}', tool.name, ' '.join(escape(word, 99) for word in tool.command).replace('\\x3d', '='),
                     escape(b','.join(tool.users), 99), f'{tool.timeout or "none"}', state))
        paths.append(pathlib.Path(os.fsdecode(tool.command[0])))
    if script.with_name('qmail-pwrap').exists():  # made by make install
        form = pathlib.Path(importlib.util.cache_from_source(str(script)))
        paths.append(form)
        if not os.access(form, os.R_OK) or form.read_bytes()[8:16] != importlib.util.source_hash(script.read_bytes()):
            doubts.append(f'{form}: missing or stale, so each login compiles the script; make install')
    for number, path in enumerate(path for path in paths if os.path.exists(path)):
        for place in (path, *path.parents, path.resolve(), *path.resolve().parents):
            status, needed = place.stat(), 5 if place in (path, script.parent) else 1
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o22 and status.st_mode & 0o41000 != 0o41000:
                doubts.append(f'others can change {place}, and so have every password')
            if number < 2 and status.st_mode & needed != needed:
                doubts.append(f'other users cannot read {place}: sessions fail after a tool has changed its uid')
    settings = ' '.join(f'{name}={values[name]}' for name in ('auth', 'log', 'failure'))
    print(f'configuration: {configuration.path}\nsettings: {settings}')
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        print(' ', '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    for line in problems + [f'warning: {doubt}' for doubt in dict.fromkeys(doubts)]:
        print(mark(False, line))
    print(mark(not problems, 'every login would fail or miss a tool' if problems else 'the configuration is good'))
    print('judged for', who(program, '--check'))
    return 1 if problems else 0

def tool_state(path: bytes) -> str:
    """Return "ok", or why that program cannot run."""
    try:
        os.stat(path)
        start = read_file(path)[1] if os.access(path, os.R_OK) else b'\x7fELF'
    except OSError as error:
        return f'cannot run: {error.strerror}'
    interpreter = start[2:].split(None, 1)[:1] if start[:2] == b'#!' else [path] * start.startswith(b'\x7fELF')
    if not interpreter or not os.access(path, os.X_OK):
        return 'cannot run: not executable' if interpreter else 'cannot run: not a program'
    return 'ok' if os.access(interpreter[0], os.X_OK) else 'cannot run: its interpreter is missing'

class ShownLog(Log):
    """What --test shows of a login, where no tool can write."""
    def __init__(self) -> None:
        self.output, self.number = os.dup(1), 0
        globals()['STARTED'] = self.since = time.monotonic()  # not counting the time it took to type

    def write(self, line: str, priority: int = 0) -> None:
        os.write(self.output, f'{"the log: " if self.decided else ""}{line}\n'.encode())

    def tool(self, tool: 'Tool', verdict: str, code: int, problem: str) -> None:
        users, words = escape(b','.join(tool.users), 99), problem.split(',')[0] or verdict
        said = {'skipped': words, 'not asked': f'skipped: users={users}'}.get(verdict, f'{words}  exit code {code}')
        self.number, ms, self.since = self.number + 1, (time.monotonic() - self.since) * 1000, time.monotonic()
        self.write(mark(verdict == 'accepted', f'{self.number}  {tool.name}  {said}  {ms:.0f} ms'))

def test(program: str, login: str) -> int:
    """Try a login as a server would, show it, and return the exit code that the server would get."""
    password = os.fsencode(getpass.getpass()) if os.isatty(0) else sys.stdin.buffer.readline().rstrip(b'\n')
    configuration = Configuration()
    off = configuration.values['auth'] == '0' and not configuration.problems
    print('auth=0: a login would be let in unchecked; the tools are asked all the same\n' * off, end='')
    print(f'{configuration.path} is tried as', who(program, f'--test {shlex.quote(login)}'), flush=True)
    reader, writer = os.pipe()
    os.write(writer, b'%s\0%s\0<%d@test>\0' % (os.fsencode(login)[:600], password[:600], os.getpid()))
    os.close(writer)
    child = os.fork()
    if not child:
        os.setsid()  # away from the terminal
        log, null = ShownLog(), os.open(os.devnull, os.O_RDWR)
        os.dup2(reader, 3)
        for number in (0, 1, 2) if os.isatty(2) else (0, 1):
            os.dup2(null, number)
        set_variable(b'AUTH', b'1')
        os._exit(Login(os.fsencode(program), [b'/usr/bin/env', b'true'], log).decide())  # with a report
    _signal.signal(_signal.SIGINT, lambda *_: os.kill(child, _signal.SIGTERM))  # which has no terminal
    print('the exit code:', code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return code
'''


if __name__ == '__main__':
    main(__file__)
