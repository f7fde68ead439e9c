#!/usr/bin/python3 -ISXutf8
"""qmail_pwrap: one checkpassword tool that asks several (https://cr.yp.to/checkpwd/interface.html).

A mail server runs this with a *triple* on descriptor 3: login, password and timestamp, each ended
by NUL. The *tools* of the configuration get the same bytes, one after the other, until one accepts
and becomes *prog*, the program that the server names behind this one. The exit code says how that
went.

To read it: main() has two doors, one for servers and one for people. Behind the servers' door is
Login.decide(), whose lines are the steps of a login; ask_chain() is the loop over the tools, and
ask() what happens to one of them. Whoever has read as far as the report step knows what a login
does; from there on come the parts: waiting and signals, the configuration, the log, and the
commands for people.
"""

if __name__ == '__main__':
    # Should a full disk have cut this file short behind a whole statement, running off its end must
    # not mean "accepted". Within a statement, Python does not begin, and ends with 1; the installed
    # command turns that into 111, too.
    import atexit
    import posix

    atexit.register(posix._exit, 111)

# --------------------------------------------------------------------------------------------------
# Imports and constants
#
# An import costs time at every login. The modules here are built into Debian's interpreter: posix,
# _signal and _stat have the functions of os, signal and stat, which would cost 1, 4 and 1 ms more
# (a whole login takes about 15). What only a person or a rare case needs is imported where it is
# needed. Annotations stand in quotes where evaluating them would cost time, or fail.

import _signal  # type: ignore[import-not-found]
import _stat
import errno
import posix
import select
import sys
import syslog
import time
from _signal import (
    ITIMER_REAL,
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_UNBLOCK,
    SIGALRM,
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGPIPE,
    SIGQUIT,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    SIGXFSZ,
    pthread_sigmask,
)

VERSION = '1.2'
CONFIGURATION = '/var/qmail/control/pwrap.conf'  # `make install` writes another QMAILHOME here
TRIPLE_LIMIT = 512  # bytes, by the interface

# Prog is no session if it only passes the verdict on to the server. Many tools run nothing but its
# first word, as Dovecot's documentation asks for, so no report step can stand in its place.
TRUE = ('true', '/bin/true', '/usr/bin/true')
REPLY = 'checkpassword-reply'  # Dovecot's, wherever it lies

# First words by which this program runs itself, each with something behind it.
INTERNAL = 'qmail_pwrap.'
REPORT = 'qmail_pwrap.report:'
TEST = 'qmail_pwrap.test:'

# In a tool's environment: the configurations whose tools are being asked, so that none asks itself.
ASKING = b'PWRAP_ASKING'
ADDRESSES = (b'TCPREMOTEIP', b'TCP6REMOTEIP', b'SSLREMOTEIP', b'REMOTE_HOST')  # the client's

# Exit codes of the checkpassword interface.
ACCEPT = 0
REJECT = 1
MISUSED = 2
TRY_LATER = 111
# In a user lookup, in which Dovecot asks for a user without a password.
FOUND = 2
NO_SUCH_USER = 3

# What a tool's answer, or a whole login, comes to. The log says all of them but the last two.
ACCEPTED = 'accepted'
REJECTED = 'rejected'
TEMPORARY = 'temporary'  # no verdict: the password may have been right
DISABLED = 'disabled'  # AUTH=0
CANNOT_RUN = 'cannot run'  # no program, or its interpreter is missing
SKIPPED = 'skipped'  # the tool does not serve this login

SAID_OF_A_LOOKUP = {ACCEPTED: 'found', REJECTED: 'unknown'}  # nobody has logged in
LEVELS = {  # of what the log says; all else is for information
    REJECTED: syslog.LOG_NOTICE,
    TEMPORARY: syslog.LOG_WARNING,
    DISABLED: syslog.LOG_WARNING,
}

# What ends the wait for a tool.
REPORTED = 'reported'
ENDED = 'ended'
TIMED_OUT = 'timed out'

SIGNALS_FOR_PROG = (  # sent to this process, they are meant for the tool or the session
    SIGTERM,
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGUSR1,
    SIGUSR2,
    SIGALRM,
)
# Python ignores these from its start on; tools must not inherit that.
IGNORED_BY_PYTHON = (SIGPIPE, SIGXFSZ)

# --------------------------------------------------------------------------------------------------
# The two doors


def main(program: str) -> None:
    """Do what the command line asks for, and exit.

    program: the absolute path by which this was run; the report step is run by it.
    """
    words = sys.argv[1:]
    first = words[0] if words else ''
    if first.startswith('--'):
        serve_person(program, words)  # and exit
    login = None
    code = TRY_LATER
    try:
        if _signal.getsignal(SIGINT) != SIG_IGN:
            _signal.signal(SIGINT, SIG_DFL)  # Python would raise KeyboardInterrupt
        if first.startswith(INTERNAL) and has_changed_ids():
            # The caller of a setuid program could make any pipes, and name any program as prog.
            LOG.write(f'{INTERNAL}* is refused: {IDS_DIFFER}')
        elif first.startswith(REPORT):
            code = report_and_become(first, words[1:])
        elif posix.isatty(2) and not file_identity(3):  # a person, not a server
            code = complain(USAGE)
        else:
            if first.startswith(TEST):
                LOG.shows_answers = True
                LOG.descriptor = int(words.pop(0)[len(TEST) :])
                posix.set_inheritable(LOG.descriptor, False)  # no tool shall have it
                stay_behind()
                pthread_sigmask(SIG_UNBLOCK, STOPPING)
            login = Login(program, words or [find_true()])
            ending = login.decide()
            if ending < 0:
                end_by_signal(-ending)  # which returns in process 1 of a container
            else:
                code = ending
    except BaseException as error:  # a traceback would end with 1: "the password is wrong"
        LOG.write(f'internal error: {describe_error(error)}')
        # The result of a report step's login is the wrapper's to log, and is logged once.
        if not first.startswith(REPORT) and (login is None or not login.is_decided):
            LOG.write('result=temporary ip=- tool=- code=111 ms=0 user=""')
    finally:  # whatever happened; besides, the interpreter's own way out takes a millisecond
        posix._exit(code)


def find_true() -> str:
    """Return the prog of a server that names none, as eQmail's."""
    if posix.access('/bin/true', posix.X_OK):
        return '/bin/true'
    return '/usr/bin/true'


def describe_error(error: BaseException) -> str:
    """Return what should never happen, and where it has."""
    line = 0
    trace = error.__traceback__
    while trace:
        line = trace.tb_lineno
        trace = trace.tb_next
    # Such as "Too many open files". Of others, the text could tell what a client has sent.
    why = getattr(error, 'strerror', getattr(error, 'msg', 'please report it'))
    return f'{type(error).__name__} in line {line}: {why}'


# --------------------------------------------------------------------------------------------------
# A login from beginning to end


class Outcome:
    """What a tool answered, or what a whole login came to: trouble, if nothing else is said."""

    def __init__(
        self, problem: str = '', verdict: str = TEMPORARY, code: int = TRY_LATER, tool: str = '-'
    ) -> None:
        self.problem = problem  # what the log says of it besides; empty for nothing
        self.verdict = verdict
        self.code = code  # the exit code; says nothing of a tool that was not asked
        self.tool = tool  # the name of the tool that it comes from


class Login:
    """One login, from the triple to the end of the session.

    decide() adds environment and supervisor.
    """

    size = 0  # of the triple, in bytes
    name = b''  # who logs in
    has_password = False  # one that is not empty
    is_lookup = False  # whether Dovecot asks for a user, without a password
    is_decided = False  # whether the result has been logged

    def __init__(self, program: str, prog: 'list[str]') -> None:
        self.started = time.monotonic()
        self.program = program  # the path by which a tool can run the report step
        self.prog = prog
        self.has_session = prog[0] not in TRUE and prog[0].rpartition('/')[2] != REPLY
        self.triple = bytearray(TRIPLE_LIMIT + 1)  # the password is here and nowhere else

    def decide(self) -> int:
        """Decide this login and log it; return once all is over, session included.

        Returns the exit code, or minus the number of the signal to end by.
        """
        # The configuration comes first, as it says where the log goes. Its problems come last:
        # AUTH=0 lets in even what is no triple, and that is a mistake of the server, whatever the
        # file says.
        ignored = forget_strangers_variables()
        configuration = Configuration()
        if configuration.values['log'] == 'stderr' and not LOG.shows_answers:
            LOG.descriptor = 2
        asking = posix.environ.get(ASKING, b'')
        if configuration.mark in asking:
            LOG.write(f'{configuration.shown_path}: {ASKS_ITSELF}')
            return TRY_LATER  # the wrapper that has started this one logs the result
        # Nothing else is logged before descriptor 3 is read: the log's socket could become it.
        failure = self.read_triple()
        for name in ignored:
            LOG.write(f'{name} is ignored: {IDS_DIFFER}')
        auth = posix.environ.get(b'AUTH') or configuration.values['auth'].encode()
        outcome = failure
        if auth == b'0':
            outcome = Outcome('', DISABLED, ACCEPT)
        elif failure is None and configuration.problems:
            outcome = Outcome(configuration.problems[0])
        elif failure is None:
            posix.close(3)
            reserve_descriptors()
            self.environment = restore_environment()
            self.environment[b'AUTH'] = auth
            self.environment[ASKING] = asking + configuration.mark
            self.supervisor = Supervisor(gives_up_on_signal=LOG.shows_answers)
            outcome = self.ask_chain(configuration)
        if outcome is None:  # a tool has accepted
            return self.supervisor.wait_for_session()
        self.end(outcome)
        if outcome.code == TRY_LATER and configuration.values['failure'] == 'crash':
            return -int(SIGTERM)  # qmail-smtpd calls all else a wrong password
        return outcome.code

    def end(self, outcome: Outcome) -> None:
        """Forget the password, and log the one result of this login, and what is wrong."""
        self.triple[:] = bytes(len(self.triple))
        if outcome.problem:
            LOG.write(outcome.problem)
        result = outcome.verdict
        if self.is_lookup:
            result = SAID_OF_A_LOOKUP.get(result, result)
        address = next(filter(None, map(posix.environ.get, ADDRESSES)), b'-')
        lets_in = outcome.verdict in (ACCEPTED, DISABLED)
        code = '' if lets_in else f' code={outcome.code}'
        milliseconds = (time.monotonic() - self.started) * 1000
        # What the network chose stands last, so that nothing in it can be taken for a field.
        LOG.write(
            f'result={result} ip={escape(address, 60)} tool={outcome.tool}{code}'
            f' ms={milliseconds:.0f} user="{escape(self.name, 600)}"',
            LEVELS.get(result, syslog.LOG_INFO),
        )
        self.is_decided = True

    # The triple ----------------------------------------------------------------------------------

    def read_triple(self) -> 'Outcome | None':
        """Fill the triple from a descriptor 3 of any kind, to its end.

        Returns None, or what the login comes to if that fails.
        """
        failure = None
        try:
            posix.set_blocking(3, True)
            count = 1
            while count != 0 and self.size < len(self.triple):
                count = posix.readv(3, [memoryview(self.triple)[self.size :]])
                self.size += count
        except OSError as error:
            problem = f'descriptor 3 is not open, or cannot be read: {error.strerror}'
            failure = Outcome(problem, code=MISUSED)
        end_of_name = max(0, self.triple.find(0, 0, self.size))
        self.name = bytes(self.triple[:end_of_name])
        # Source: Dovecot's manual, "CheckPassword", section userdb. The tool finds AUTHORIZED=1,
        # sets it to 2 and becomes checkpassword-reply, which ends with 2: "found". 3 means "no such
        # user".
        self.is_lookup = posix.environ.get(b'AUTHORIZED') == b'1'
        # No line besides the result for these two: the network could send many.
        if self.size > TRIPLE_LIMIT:
            failure = Outcome('', REJECTED, REJECT)
        elif failure is None and self.triple.count(0, 0, self.size) < 2:
            failure = Outcome(code=MISUSED)
        if failure is None:
            self.has_password = self.triple[end_of_name + 1] != 0
            self.is_lookup = self.is_lookup and not self.has_password
        elif self.is_lookup:  # in which 2 would say that the user was found, and 1 is no answer
            failure = Outcome(failure.problem)
        return failure

    # The chain -----------------------------------------------------------------------------------

    def ask_chain(self, configuration: 'Configuration') -> 'Outcome | None':
        """Ask the tools in their order until one accepts.

        Returns what the login comes to that none has accepted. None says that one has: then the
        result has been logged, and the session may have begun.
        """
        total = Outcome('', REJECTED, NO_SUCH_USER if self.is_lookup else REJECT)
        last_code = 0  # of the tool that ran last
        for tool in configuration.tools:
            reason = self.find_reason_to_skip(tool)
            if reason:
                LOG.show_answer(Outcome(f'skipped: {reason}', SKIPPED, tool=tool.name), 0)
                continue
            self.supervisor.pass_signals_on()
            if self.supervisor.interrupted or self.supervisor.child is not None:
                break  # a signal came, or the last tool could not be killed
            outcome = self.ask(tool)
            if outcome.verdict == ACCEPTED:
                return None
            if outcome.verdict != CANNOT_RUN:
                last_code = outcome.code
            # The first trouble decides what the login comes to; until then, the last refusal does.
            if total.verdict == REJECTED:
                total.tool = outcome.tool
                if outcome.verdict != REJECTED:
                    total = Outcome(tool=outcome.tool)
        if self.supervisor.interrupted:
            total = Outcome(tool=total.tool)
        elif last_code and configuration.values['failure'] == 'last' and not self.is_lookup:
            total.code = last_code
        return total

    def find_reason_to_skip(self, tool: 'Tool') -> str:
        """Return why a tool may not see this login's password; empty if it may."""
        if not tool.serves(self.name):
            return 'not in its users='
        # LDAP servers take an empty password for an anonymous bind, which succeeds (RFC 4513).
        if not (self.has_password or self.is_lookup or tool.settings['empty'] == '1'):
            return 'the password is empty'
        return ''

    # One tool at work ----------------------------------------------------------------------------

    def ask(self, tool: 'Tool') -> Outcome:
        """Give one tool the triple, and wait for its answer. If it accepts, that is logged here.

        Returns the answer; behind an accepted one, the session has begun, or is over.
        """
        since = time.monotonic()
        with Pipe() as triple:
            posix.write(triple.writer, memoryview(self.triple)[: self.size])  # a pipe holds it
            triple.close_writer()  # before the others need descriptors
            with Pipe(self.has_session) as report, Pipe(self.has_session) as answer:
                argument = self.make_argument(report, answer)
                outcome = self.run(tool, argument, triple.reader, report)
                outcome.tool = tool.name
                LOG.show_answer(outcome, time.monotonic() - since)
                if outcome.verdict == ACCEPTED:
                    # Log first, then answer: there is no session that nothing has logged. Should
                    # the report step have died meanwhile, the tool's end is that of the session.
                    self.end(outcome)
                    if argument:
                        posix.write(answer.writer, b'+')
        return outcome

    def run(self, tool: 'Tool', argument: str, triple_reader: int, report: 'Pipe') -> Outcome:
        """Start a tool, wait for its answer, and return that.

        argument: of the report step, which will write to the pipe named report; empty without one.
        """
        step = [self.program, argument] if argument else []
        command: 'list[bytes | str]' = [*tool.command, *step, *self.prog]
        try:
            self.supervisor.start(command, self.environment, triple_reader)
        except OSError as error:
            return judge_failed_start(error)
        if argument:
            # For end_by_signal(), and now, while the tool works: there, without descriptors,
            # nothing can be imported.
            import resource  # noqa: F401
        limit = int(tool.settings['timeout'])
        event = self.supervisor.wait(limit, report, argument)
        return self.judge(tool, event, triple_reader)

    def make_argument(self, report: 'Pipe', answer: 'Pipe') -> str:
        """Return the argument of the report step, which inherits its ends of these pipes.

        It is empty if there is none, as there is no session.
        """
        if not self.has_session:
            return ''
        posix.set_blocking(report.reader, False)
        posix.set_inheritable(report.writer, True)
        posix.set_inheritable(answer.reader, True)
        # What --test hears on, no tool inherits.
        log_descriptor = 2 if LOG.shows_answers else LOG.descriptor
        return make_report_argument(report.writer, answer.reader, posix.getpgrp(), log_descriptor)

    def judge(self, tool: 'Tool', event: str, triple_reader: int) -> Outcome:
        """Return the outcome of a tool; one that is given up is gone then, with what it has left.

        event: what has ended the wait for it.
        """
        supervisor = self.supervisor
        if event == TIMED_OUT:
            killed = 'was killed' if supervisor.give_up() else 'cannot be killed'
            return Outcome(f'timed out after {tool.settings["timeout"]} s and {killed}')
        code = supervisor.code  # or minus a signal; an earlier tool's, or none, if REPORTED
        accepting = {ACCEPT}
        refusing = parse_codes(tool.settings['refused'])
        if self.is_lookup:  # the codes are Dovecot's
            accepting = {ACCEPT, FOUND}
            refusing = {NO_SUCH_USER}
        accepts = event == REPORTED or (code in accepting and not self.has_session)
        # What was written and is all there still, nobody has read, and so nobody has checked. It
        # comes back to where it was, so there is no second copy; a part of it overwrites the
        # beginning, which nobody needs any more then. (A tool may take the login of a user lookup
        # from its environment.)
        needs_look = accepts and not self.is_lookup
        if needs_look and posix.readv(triple_reader, [self.triple]) == self.size:
            supervisor.give_up()
            return Outcome('accepted without reading the password')
        if accepts:
            return Outcome('', ACCEPTED, ACCEPT)
        if supervisor.interrupted:
            supervisor.give_up()  # what the tool has left behind
        if code < 0:
            return Outcome(f'killed by {name_signal(-code)}')
        if code == ACCEPT:
            return Outcome('ended with 0, but prog was not reached')
        if code not in refusing:
            return Outcome(f'temporary failure, exit code {code}', TEMPORARY, code)
        if supervisor.interrupted:  # the signal may be all that the code means
            return Outcome(f'interrupted, exit code {code}')
        return Outcome('', REJECTED, code)


# --------------------------------------------------------------------------------------------------
# What a login needs: how answers are judged, and the process as a tool has to find it

ASKS_ITSELF = (
    'a tool has started the wrapper with this same file: it is the wrapper, or it runs only the'
    ' first word of prog and not all of its arguments, as exec "$@" does'
)
IDS_DIFFER = 'real and effective user or group differ'


def has_changed_ids() -> bool:
    """Tell whether a setuid or setgid program ran this, so that its environment is a stranger's."""
    return posix.getuid() != posix.geteuid() or posix.getgid() != posix.getegid()


def forget_strangers_variables() -> 'list[str]':
    """Remove from the environment what decides, if a stranger may have set it; return the names."""
    if not has_changed_ids():
        return []
    names = ('PWRAP_CONF', 'AUTH', 'AUTHORIZED')
    return [name for name in names if posix.environ.pop(name.encode(), b'')]


def judge_failed_start(error: OSError) -> Outcome:
    """Return the outcome of a tool that could not be started."""
    lacks_resources = error.errno in (errno.EAGAIN, errno.ENOMEM, errno.ENFILE)
    return Outcome(f'cannot run: {error.strerror}', TEMPORARY if lacks_resources else CANNOT_RUN)


def name_signal(number: int) -> str:
    """Return the name of a signal, such as SIGSEGV; "signal N" if it has none."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'


def end_by_signal(number: int) -> None:
    """End by a signal, whatever was done about it before, but without a core file."""
    import resource  # it is loaded if there was a session

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != SIGKILL:
        _signal.signal(number, SIG_DFL)
    pthread_sigmask(SIG_UNBLOCK, [number])
    posix.kill(posix.getpid(), number)


def reserve_descriptors() -> None:
    """Fill those of the descriptors 0 to 8 that are closed, so that later pipes leave them alone.

    Tools and progs give these numbers a meaning of their own: shell scripts those from 3 on,
    Dovecot's checkpassword-reply 4. What fills them (dup() takes the lowest free number) is not
    inherited.
    """
    reader, writer = posix.pipe()  # not an opened folder, which some user might not be able to read
    posix.close(writer)
    while reader < 8:
        reader = posix.dup(reader)


def restore_environment() -> 'dict[bytes, bytes]':
    """Return the environment as it was before the interpreter set LC_CTYPE in it (PEP 538).

    /proc tells what it was; where there is no /proc, LC_CTYPE stays as it is.
    """
    environment = posix.environ.copy()
    environment.pop(b'', None)  # the kernel takes a variable without a name, Python does not
    if b'LC_CTYPE' in environment:
        try:
            _, data = read_file('/proc/self/environ')
        except OSError:
            return environment
        del environment[b'LC_CTYPE']
        _, was_there, rest = (b'\0' + data).partition(b'\0LC_CTYPE=')
        if was_there:
            environment[b'LC_CTYPE'] = rest.partition(b'\0')[0]
    return environment


# --------------------------------------------------------------------------------------------------
# The report step
#
# A tool that accepts becomes prog, so its exit code cannot say whether it refused or a session
# ended badly. Behind a session, the tool is therefore given this program in prog's place:
#
#   wrapper                      tool                            report step = this program again
#   starts tool ───────────────▶ checks the password
#      │                         becomes prog ─────────────────▶ begins
#      │◀──────────────── report: "prog was reached" ────────────┤
#   logs "accepted"                                              │
#      ├───────────────── answer: "heard, go on" ───────────────▶│
#   waits                                                        becomes the real prog
#
# Two pipes carry the two messages. The report is the step's own first word, whole: whatever else a
# tool writes to a descriptor that it has inherited is none. And the step goes on only with both
# pipes in its hands:
#
#   a pipe is not there          the tool has closed what it inherited, as sudo does. 111
#   the answer pipe ends         the wrapper has given the tool up, or has died. 111
#
# So log and session agree: each session has its line, and no other tool sees its password.


class Pipe:
    """A pipe, closed at the end of a with block. No child inherits it unless somebody says so."""

    def __init__(self, is_needed: bool = True) -> None:
        """Make it, if it is needed. Raises OSError."""
        self.open_ends: 'list[int]' = []
        if is_needed:
            self.reader, self.writer = posix.pipe()
            self.open_ends = [self.reader, self.writer]

    def __enter__(self) -> 'Pipe':
        return self

    def __exit__(self, *_: object) -> None:
        for end in self.open_ends:
            posix.close(end)

    def close_writer(self) -> None:
        """Close the writing end, so that readers see an end."""
        self.open_ends.remove(self.writer)
        posix.close(self.writer)


def make_report_argument(report: int, answer: int, group: int, log_descriptor: int) -> str:
    """Return what the report step has to know, as one word that no tool takes for an option.

    For example qmail_pwrap.report:11:12:1723:-1:7340.13:7341.13. That is: its end of each pipe,
    prog's process group, the log's descriptor, and the identities of both pipes. The step makes the
    word again from its own descriptors: if the same comes out, they are the pipes.
    """
    numbers = f'{report}:{answer}:{group}:{log_descriptor}'
    return f'{REPORT}{numbers}:{file_identity(report)}:{file_identity(answer)}'


def report_and_become(argument: str, prog: 'list[str]') -> int:
    """Tell the wrapper that prog was reached, wait for its answer, and become prog.

    argument: as make_report_argument() made it. Returns 111 if prog cannot be run, or must not be.
    """
    report, answer, group, LOG.descriptor = map(int, argument.split(':')[1:5])
    if make_report_argument(report, answer, group, LOG.descriptor) != argument:
        LOG.write(
            'the tool has closed descriptors that it inherited, so prog does not begin; what helps:'
            ' exec "$@" in a script, sudo -C 64, close_fds=False in Python'
        )
        return TRY_LATER
    try:
        posix.write(report, argument.encode())
    except OSError:  # the wrapper has given the tool up, or is gone
        return TRY_LATER
    if not posix.read(answer, 1):
        return TRY_LATER
    posix.close(report)
    posix.close(answer)
    join_group(group)  # the tool's own group was for killing it
    environment = restore_environment()
    environment[b'AUTH'] = b'success'
    environment.pop(ASKING, None)
    become(prog, environment)
    return TRY_LATER


def become(prog: 'list[str]', environment: 'dict[bytes, bytes]') -> None:
    """Become prog, looked up on PATH as by execvp(3), but no shell runs what has no "#!".

    If it cannot be run, log that and return.
    """
    for number in IGNORED_BY_PYTHON:
        _signal.signal(number, SIG_DFL)
    name = prog[0] if prog else ''  # a tool may have lost it
    folders = ['']
    if '/' not in name:
        path = environment.get(b'PATH', b'/bin:/usr/bin')
        folders = path.decode(errors='surrogateescape').split(':')
    why = posix.strerror(errno.ENOENT)
    for folder in folders:
        try:
            posix.execve(f'{folder}/{name}' if folder else name, prog, environment)
        except (FileNotFoundError, ValueError):  # the latter for an empty name
            pass
        except OSError as error:
            why = f'{error.strerror}'
    _signal.signal(SIGPIPE, SIG_IGN)  # again: nobody may listen to the log any more
    LOG.write(f'{escape(name.encode(errors="surrogateescape"), 200)}: prog cannot be run: {why}')


def file_identity(file: 'int | bytes | str') -> str:
    """Return what tells the file at a path or descriptor from any other; empty if there is none."""
    try:
        status = posix.stat(file)
    except OSError:
        return ''
    return f'{status.st_ino}.{status.st_dev}'


# --------------------------------------------------------------------------------------------------
# Waiting, and signals: a tool, and the session that it becomes

NO_LIMIT = 2000000  # seconds, 23 days: as long as poll(2) can wait at once


class Supervisor:
    """Starts the tools, waits for the one that runs, and passes signals on to it.

    While a tool decides, a report, its end, a signal and a time limit are waited for at once. So
    each signal that is handled puts its number into a pipe (the wake-up pipe), and one poll() hears
    all of that. While a session runs only signals are left, of which its end is one: sigwait() is
    enough then, and needs no descriptor.
    """

    child: 'int | None' = None  # the process that was started and has not been reaped
    group = 0  # the process group that was made for it
    code = TRY_LATER  # of the child that ended last: its exit code, or minus a signal
    interrupted = False  # a signal has come that is meant for prog

    def __init__(self, gives_up_on_signal: bool) -> None:
        self.gives_up_on_signal = gives_up_on_signal  # --test: a person wants an end
        self.leads_its_group = posix.getpgrp() == posix.getpid()
        self.wake_up = Pipe()
        for end in self.wake_up.open_ends:
            posix.set_blocking(end, False)
        _signal.set_wakeup_fd(self.wake_up.writer, warn_on_full_buffer=False)
        # What is ignored here is ignored in prog.
        passed = [number for number in SIGNALS_FOR_PROG if _signal.getsignal(number) != SIG_IGN]
        self.handled = [SIGCHLD, *passed]
        for number in self.handled:
            _signal.signal(number, do_nothing)
        # With SIGCHLD ignored or blocked, as some servers leave it, no end would ever be seen.
        self.mask_found = pthread_sigmask(SIG_UNBLOCK, [SIGCHLD])

    def start(
        self, command: 'list[bytes | str]', environment: 'dict[bytes, bytes]', triple_reader: int
    ) -> None:
        """Start a command as the child. Raises OSError.

        environment: all of the child's. triple_reader: becomes its descriptor 3.
        """
        # A tool gets a process group of its own, so that it can be killed with all that it has
        # started. But it must not lead that group if it would not lead one without the wrapper: at
        # stake is setsid(1), which forks if it leads a group, and its first half ends with 0 before
        # the second half has asked anybody, so that `setsid TOOL` would accept every password. So
        # this process makes a group of its own number, starts the tool in that, and goes back to
        # where it was. If that is gone meanwhile (nobody else was there), it stays in the new one.
        # If this process has led its group from the start, the tool would do so too if it were run
        # directly: it gets a group that it leads.
        former_group = posix.getpgrp()
        group = 0  # for setpgid(2): a new one, which the tool leads
        if not self.leads_its_group and join_group(posix.getpid()):
            group = posix.getpid()
        try:
            self.child = posix.posix_spawn(
                command[0],
                command,
                environment,
                file_actions=[(posix.POSIX_SPAWN_DUP2, triple_reader, 3)],
                setpgroup=group,
                setsigmask=self.mask_found,
                setsigdef=IGNORED_BY_PYTHON,
            )
        finally:
            join_group(former_group)
        self.group = group or self.child

    def wait(self, seconds: int, report: 'Pipe | None' = None, argument: str = '') -> str:
        """Wait for the child. Return REPORTED, ENDED or TIMED_OUT.

        seconds: the time limit, 0 for none. report, argument: of the report step, if there is one.
        """
        deadline = time.monotonic() + (seconds or NO_LIMIT)
        poller = select.poll()
        poller.register(self.wake_up.reader, select.POLLIN)
        heard = b''
        while True:
            self.pass_signals_on()
            has_ended = self.reap()
            # Reaped first, read second: of a tool that has ended, the report is in the pipe by now.
            if report and argument:
                poller.register(report.reader, select.POLLIN)
                heard += read_available(report.reader)
                if argument.encode() in heard:
                    return REPORTED
                heard = heard[-len(argument) :]
            if has_ended:
                return ENDED
            seconds_left = deadline - time.monotonic()
            # Without a limit, poll() waits on for ever then.
            if (seconds and seconds_left <= 0) or (self.interrupted and self.gives_up_on_signal):
                return TIMED_OUT
            poller.poll(seconds_left * 1000)

    def pass_signals_on(self) -> None:
        """Send the child the signals that have come for it."""
        for number in read_available(self.wake_up.reader):
            if number != SIGCHLD:
                self.interrupted = True
                send_signal(self.child, number)

    def reap(self) -> bool:
        """Take the end of the child if it has ended; tell whether none runs any more."""
        if self.child is not None:
            pid, status = posix.waitpid(self.child, posix.WNOHANG)
            if pid != 0:
                self.child = None
                self.code = posix.waitstatus_to_exitcode(status)
        return self.child is None

    def give_up(self) -> bool:
        """End the child and its process group, and tell whether the child is gone.

        First gently, with up to a second for all of the group, so that sudo, or a wrapper as a
        tool, can end what it has started, also behind a script. With the group goes what an earlier
        tool has left.
        """
        self.gives_up_on_signal = False  # these waits are short, and not to be given up
        self.send_to_all(SIGTERM)
        for _ in range(100):
            if self.reap() and not send_signal(-self.group, 0):  # 0 asks whether anybody is there
                break
            time.sleep(0.01)
        self.send_to_all(SIGKILL)
        return self.wait(2) == ENDED

    def send_to_all(self, number: int) -> None:
        """Send the child and its process group a signal."""
        # This process stands in that group if it could not go back to where it was.
        if self.group != posix.getpgrp():
            send_signal(-self.group, number)
        send_signal(self.child, number)  # it may have left its group

    def wait_for_session(self) -> int:
        """Wait for the end of the session, if there is one, and pass signals on to it.

        This process holds no descriptor meanwhile, so that what the session closes is closed.
        Returns its exit code, or minus the signal that ended it.
        """
        if self.child is None:
            return self.code
        pthread_sigmask(SIG_BLOCK, self.handled)
        _signal.set_wakeup_fd(-1)
        self.pass_signals_on()  # those that came before they were blocked
        syslog.closelog()
        posix.closerange(0, 65536)
        while not self.reap():
            number = _signal.sigwait(self.handled)
            if self.gives_up_on_signal and number != SIGCHLD:
                self.send_to_all(SIGKILL)
            elif number != SIGCHLD:
                send_signal(self.child, number)
        return self.code


def do_nothing(number: int, frame: object) -> None:
    """Handle a signal: its number stands in the wake-up pipe by now."""


def send_signal(target: 'int | None', number: int) -> bool:
    """Send a signal to a process, or to the group -target, if any; tell whether that worked."""
    try:
        if target is not None:
            posix.kill(target, number)
    except OSError:  # it is gone, or has changed its uid
        return False
    return True


def read_available(pipe: int) -> bytes:
    """Return what a non-blocking pipe holds now."""
    try:
        return posix.read(pipe, 65536)
    except BlockingIOError:
        return b''


def join_group(group: int) -> bool:
    """Go to a process group; tell whether that was possible, as it is not from another session.

    0, which stands for a group outside of this pid namespace, is none.
    """
    if group == 0:
        return False
    try:
        posix.setpgid(0, group)
    except OSError:
        return False
    return True


# --------------------------------------------------------------------------------------------------
# The configuration

FILE_SETTINGS = ('auth', 'log', 'failure')  # on a line without a tool, once in a file
DEFAULTS = {  # users, timeout, refused and empty also for the lines below
    'auth': '1',
    'log': 'syslog',
    'failure': 'last',
    'name': '',
    'users': '*',
    'timeout': '20',
    # All but misused, EX_TEMPFAIL, the interface's "temporary", what a shell or env(1) could not
    # run (POSIX), and how perl, php and ssh die.
    'refused': '1,3-74,76-110,112-125,128-254',
    'empty': '0',
}
CHOICES = ('auth', 'log', 'failure', 'empty')  # split at " or ": the text is the rule
TAKES = {
    'auth': '0 or 1',
    'log': 'syslog or stderr',
    'failure': 'last or temporary or crash',
    'empty': '0 or 1',
    'users': 'patterns, none of them empty',
    'timeout': 'seconds, 0 to 86400',
    'refused': 'exit codes and ranges of 1 to 255, such as 1,3,12-15',
    'name': 'letters, digits, . _ and -',
}
NAME_CHARACTERS = frozenset('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-')
LARGEST_FILE = 1000000  # bytes
OTHERS_CAN_WRITE = 0o022


class Tool:
    """A tool as its line in the configuration gives it."""

    def __init__(self, line: int, words: 'list[str]', settings: 'dict[str, str]') -> None:
        self.line = line  # its number in the file
        self.command = [word.encode('latin-1') for word in words]  # absolute path and arguments
        self.settings = settings
        self.name = settings['name'] or escape(self.command[0], 200)  # what the log calls it
        self.patterns = settings['users'].encode('latin-1').lower().split(b',')

    def serves(self, login: bytes) -> bool:
        """Tell whether this tool may see a login's password. The case of ASCII letters is free."""
        login = login.lower()
        is_wanted = all(pattern.startswith(b'!') for pattern in self.patterns)
        for pattern in self.patterns:
            if matches(pattern.removeprefix(b'!'), login):
                if pattern.startswith(b'!'):
                    return False
                is_wanted = True
        return is_wanted


def matches(pattern: bytes, login: bytes) -> bool:
    """Tell whether a whole login fits. "*" stands for any bytes, nothing else is special."""
    first, *parts = pattern.split(b'*')
    if not parts:
        return login == first
    last = parts.pop()
    position = len(first)
    for part in parts:
        found = login.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return login.startswith(first) and login[position:].endswith(last)


class Configuration:
    """What the configuration file says, and every reason not to use it."""

    mark = b',none,'  # in a tool's environment, that this is being asked
    has_only_paths = True  # no settings, no arguments: the form of qmail-pwrap 0.3

    def __init__(self) -> None:
        """Read the file that PWRAP_CONF names, or else the default one."""
        self.path = posix.environ.get(b'PWRAP_CONF') or CONFIGURATION.encode()
        self.shown_path = escape(self.path, 200)
        self.values = dict(DEFAULTS)
        self.tools: 'list[Tool]' = []
        self.problems: 'list[str]' = []
        self.file_settings_seen: 'set[str]' = set()
        try:
            self.read()
        except OSError as error:
            self.refuse(f'{error.strerror}')
        if self.problems:
            self.values['auth'] = '1'  # a broken file never switches authentication off

    def refuse(self, why: str, where: str = '') -> None:
        """Add a problem; where: ":" and the number of its line, if it is not the whole file."""
        self.problems.append(f'{self.shown_path}{where}: {why}')

    def read(self) -> None:
        """Add what the file says, and what is wrong with it. Raises OSError."""
        status, data = read_file(self.path)
        self.mark = f',{status.st_ino}.{status.st_dev},'.encode()
        # Whoever can change this file can have every password: it must be safe from others.
        if status.st_uid not in (0, posix.geteuid()):
            owner = f'belongs to user {status.st_uid}'
            self.refuse(f'{owner}; mend it with: chown root {self.shown_path}')
        if status.st_mode & OTHERS_CAN_WRITE:
            self.refuse(f'others can write to it; mend it with: chmod go-w {self.shown_path}')
        if self.problems:
            return  # such a file decides nothing, not even where the log goes
        # Latin-1 turns any byte into one character and back: a tool gets the bytes that stand here.
        lines = [line.removesuffix('\r') for line in data.decode('latin-1').split('\n')]
        for number, line in enumerate(lines, 1):
            try:
                self.add_line(number, line)
            except ValueError as error:
                self.refuse(str(error), f':{number}')
        if not is_blank_or_comment(line) and not self.has_only_paths:  # the last line
            # A line that a full disk has cut short can be a valid one, and let everybody in. Files
            # in the form of qmail-pwrap 0.3 may end like this, as they did there: of a path that is
            # cut short, little is a program.
            why = 'no newline at the end: the file may have been cut short'
            self.refuse(why, f':{number}')
        if not self.tools and not self.problems:
            self.refuse('no tool is enabled')

    def add_line(self, number: int, line: str) -> None:
        """Add what a line says.

        Raises ValueError. Its text repeats nothing of the line but the name of a setting, as there
        may be a password.
        """
        words = split_line(line)
        settings: 'dict[str, str]' = {}
        while words and not words[0].startswith('/'):
            name, value = parse_setting(words.pop(0))
            if name in settings or name in self.file_settings_seen:
                raise ValueError(f'{name}= is set twice')
            settings[name] = value
        self.has_only_paths = self.has_only_paths and not settings and len(words) < 2
        for name in settings:
            if words and name in FILE_SETTINGS:
                raise ValueError(f'{name}= belongs on a line without a tool')
            if not words and name == 'name':
                raise ValueError('name= belongs on a line with a tool')
        for word in words[1:]:
            name, equals, _ = word.partition('=')
            if equals and name in DEFAULTS:  # as an argument it would not restrict anything
                raise ValueError(f'{name}= belongs before the path')
        if words:
            self.tools.append(Tool(number, words, {**self.values, **settings}))
            return
        self.values.update(settings)
        self.file_settings_seen.update(name for name in settings if name in FILE_SETTINGS)


def split_line(line: str) -> 'list[str]':
    """Return the words of a line as a shell sees them, none for a comment. Raises ValueError."""
    if line.startswith(('\xef\xbb\xbf', '\xff\xfe', '\xfe\xff')):
        raise ValueError('a byte order mark: save the file without one, as plain text')
    if '\0' in line:
        raise ValueError('a NUL byte')
    if is_blank_or_comment(line):
        return []
    if (len(line) - len(line.rstrip('\\'))) % 2:
        raise ValueError('a line cannot be continued')
    if '"' in line or "'" in line or '\\' in line:
        import shlex  # 7 ms, only for a line that needs it

        words = shlex.split(line)
    else:
        words = [word for word in line.replace('\t', ' ').split(' ') if word]
    if any(word.startswith('#') for word in words):  # it would become an argument of the tool
        raise ValueError('a comment needs a line of its own, and no word may begin with #')
    return words


def is_blank_or_comment(line: str) -> bool:
    """Tell whether a line says nothing."""
    text = line.strip(' \t')
    return not text or text.startswith('#')


def parse_setting(word: str) -> 'tuple[str, str]':
    """Return name and value of a setting. Raises ValueError, with what the setting takes."""
    name, equals, value = word.partition('=')
    if not equals:
        raise ValueError('neither a setting (name=value, without blanks) nor an absolute path')
    if name not in DEFAULTS:
        import difflib  # 5 ms, only for a mistake

        close = difflib.get_close_matches(name, DEFAULTS, 1)
        advice = f'did you mean {close[0]}=?' if close else 'for a variable, put /usr/bin/env first'
        raise ValueError(f'unknown setting {escape(name.encode("latin-1"), 30)}=; {advice}')
    if not is_right(name, value):
        raise ValueError(f'{name}= takes {TAKES[name]}, without blanks')
    return name, value


def is_right(name: str, value: str) -> bool:
    """Tell whether a setting can have this value."""
    if name in CHOICES:
        return value in TAKES[name].split(' or ')
    if name == 'users':
        return {'', '!'}.isdisjoint(value.split(','))
    if name == 'timeout':
        return is_number(value, 0, 86400)
    if name == 'refused':
        return parse_codes(value) != set()
    return 0 < len(value) <= 200 and NAME_CHARACTERS.issuperset(value)


def is_number(text: str, lowest: int, highest: int) -> bool:
    """Tell whether this is a decimal number of this range, of at most 9 digits."""
    return text.isdecimal() and len(text) < 10 and lowest <= int(text) <= highest


def parse_codes(text: str) -> 'set[int]':
    """Return the exit codes that refused= names; none if a part of it is wrong, or missing."""
    codes: 'set[int]' = set()
    for part in text.split(','):
        first, dash, last = part.partition('-')
        if not dash:
            last = first
        if not is_number(first, 1, 255) or not is_number(last, int(first), 255):
            return set()
        codes.update(range(int(first), int(last) + 1))
    return codes


def read_file(path: 'bytes | str') -> 'tuple[posix.stat_result, bytes]':
    """Return status and content of a regular file of at most 1 MB. Raises OSError."""
    with open(path, 'rb', opener=open_at_once) as file:
        status = posix.fstat(file.fileno())
        if not _stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, 'not a regular file')
        if status.st_size > LARGEST_FILE:
            raise OSError(errno.EFBIG, 'larger than 1 MB')
        return status, file.read()


def open_at_once(path: str, flags: int) -> int:
    """Open a file: a fifo without a writer must not block, nor may a terminal become ours."""
    return posix.open(path, flags | posix.O_NONBLOCK | posix.O_NOCTTY)


# --------------------------------------------------------------------------------------------------
# The log

SYSLOG = -1  # as a descriptor
GOOD = '✓'
BAD = '✗'
SIGNS = {ACCEPTED: GOOD, SKIPPED: '-'}  # of a tool's answer, for --test; all else is BAD
PLAIN_BYTES = frozenset(range(0x21, 0x7F)) - frozenset(b'"\\=')  # they stand in the log as they are


class Log:
    """Writes lines, each shorter than 1,024 bytes, to the system log or to a descriptor."""

    descriptor = SYSLOG
    shows_answers = False  # --test reads that descriptor

    def write(self, line: str, priority: int = syslog.LOG_ERR) -> None:
        """Write one line, by default about something wrong; nothing happens where no log is."""
        if self.descriptor == SYSLOG:
            syslog.openlog('qmail-pwrap', syslog.LOG_PID, syslog.LOG_MAIL)
            syslog.syslog(priority, line)
            return
        try:
            posix.write(self.descriptor, f'qmail-pwrap[{posix.getpid()}]: {line}\n'.encode())
        except OSError:
            pass

    def show_answer(self, outcome: Outcome, seconds: float) -> None:
        """Write what is wrong with a tool's answer; for --test, whatever it is."""
        if self.shows_answers:
            said = outcome.problem or f'{outcome.verdict}  exit code {outcome.code}'
            sign = SIGNS.get(outcome.verdict, BAD)
            self.write(f'{sign}{outcome.tool}  {said}  {seconds * 1000:.0f} ms')
        elif outcome.problem and outcome.verdict != SKIPPED:
            self.write(f'{outcome.tool}: {outcome.problem}')


LOG = Log()  # this process's


def escape(data: bytes, limit: int) -> str:
    """Return data as one printable word that cannot look like a field of a log line.

    Blanks, quotes, backslashes, "=" and all that is not printable ASCII become \\xHH. What exceeds
    limit characters becomes \\... (so the result has at most limit + 4).
    """
    shown = ''
    for byte in data:
        piece = chr(byte) if byte in PLAIN_BYTES else f'\\x{byte:02x}'
        if len(shown) + len(piece) > limit:
            return shown + '\\...'
        shown += piece
    return shown


# --------------------------------------------------------------------------------------------------
# For people: --check, --test, --version, --help. No server's login comes here.

USAGE = f"""qmail-pwrap [prog [arg ...]]
    for mail servers, which write a login to descriptor 3: try the tools in
    $PWRAP_CONF, else in {CONFIGURATION}
qmail-pwrap --check [LOGIN]
    tell what is wrong with the configuration, and which tools LOGIN would get
qmail-pwrap --test LOGIN
    try a login, and show what each tool says
qmail-pwrap --version
qmail-pwrap --help"""
AS_USER = 'seen as uid {}; run it as the user of the mail server, too'
STOPPED = 128  # exit code of a command that a signal has ended: this plus its number
STOPPING = (SIGINT, SIGHUP, SIGTERM, SIGQUIT)
COLOURS = {GOOD: 32, BAD: 31, '-': 0}
PLAIN_IN_PATTERNS = frozenset(b'abcdefghijklmnopqrstuvwxyz0123456789.@*_+-=~&%$#?^{}')


def serve_person(program: str, words: 'list[str]') -> None:
    """Do what a person asks for, and exit.

    The code is that of run_command(), 2 with a line on descriptor 2 for an error, and 128 and the
    number of the signal if one has stopped this.
    """
    code = MISUSED
    try:
        code = run_command(program, *words)
        sys.stdout.flush()
    except (KeyboardInterrupt, EOFError) as stopped:
        complain('')  # ends the line with the prompt, or with ^C
        code = STOPPED + (stopped.args or [SIGINT])[0]  # an EOFError has no number
    except Exception as error:
        code = complain(f'{words[0]}: {describe_error(error)}')
    finally:
        posix._exit(code)


def complain(line: str) -> int:
    """Write a line to descriptor 2, whatever Python thinks of that; return MISUSED."""
    try:
        posix.write(2, f'{line}\n'.encode(errors='backslashreplace'))
    except OSError:
        pass
    return MISUSED


def run_command(program: str, command: str, *operands: str) -> int:
    """Do what the words say; return the exit code. Raises OSError."""
    shown = printable(command)
    if file_identity(3) and _stat.S_IFMT(posix.fstat(3).st_mode) in (_stat.S_IFIFO, _stat.S_IFSOCK):
        # Left in a run file, a command would end with 0, and so accept every login.
        return complain(f'{shown}: descriptor 3 is a pipe or socket: not for servers (try 3<&-)')
    if has_changed_ids():
        return complain(f'{shown}: {IDS_DIFFER}')
    _signal.signal(SIGPIPE, SIG_DFL)
    if command == '--check' and len(operands) < 2:
        return check(program, operands)
    if command == '--test' and len(operands) == 1:
        return try_login(program, *operands)
    if command not in ('--version', '--help') or operands:
        return complain(f'{shown}: not a command in this form\n{USAGE}')
    print(f'qmail_pwrap {VERSION}' if command == '--version' else USAGE)
    return 0


def printable(text: 'str | bytes') -> str:
    """Return text for a terminal: what is not printable ASCII is escaped."""
    import os

    return repr(os.fsencode(text))[2:-1]


def show(line: str, sign: str = '') -> None:
    """Print a line for a person, broken at blanks.

    sign: one of COLOURS, put in front in that colour if this goes to a terminal.
    """
    import textwrap

    if sign and posix.isatty(1):
        if not posix.environ.get(b'NO_COLOR'):
            sign = f'\033[{COLOURS[sign]}m{sign}\033[0m'
        line = f'{sign} {line}'
    print(
        textwrap.fill(
            line,
            80,
            subsequent_indent='    ',
            break_long_words=False,
            break_on_hyphens=False,
        ),
        flush=True,
    )


# --check ------------------------------------------------------------------------------------------


def check(program: str, logins: 'tuple[str, ...]') -> int:
    """Show what a login would read, and all that is wrong or doubtful. Runs no tool.

    logins: none, or one whose tools are to be shown. Returns 1 if something is wrong.
    """
    import os
    import shlex

    configuration = Configuration()
    print(f'configuration: {configuration.shown_path}')
    problems = configuration.problems
    doubts = []
    for number, tool in enumerate(configuration.tools, 1):
        state = describe_state(tool)
        where = f'{configuration.shown_path}:{tool.line}: {tool.name}'
        doubts += [f'warning: {where}: {doubt}' for doubt in find_doubts_about(tool)]
        if state != 'ok':
            problems.append(f'{where}: {state}')
        settings = [
            f'{name}={escape(value.encode("latin-1"), 60)}'
            for name, value in tool.settings.items()
            if value and name not in FILE_SETTINGS
        ]
        print()
        show(f'{number}  {" ".join(shlex.quote(printable(word)) for word in tool.command)}')
        show(f'   {" ".join(settings)}')
        show(f'   state: {state}')
        for login in logins:
            answer = 'yes' if tool.serves(os.fsencode(login)) else 'no'
            show(f'   asked for {printable(login)}: {answer}')
    doubts += [f'warning: {doubt}' for doubt in find_doubts(configuration, program)]
    print()
    for line in dict.fromkeys(problems + doubts):
        show(line, BAD)
    if problems:
        show('every login would fail or miss a tool', BAD)
    else:
        show('the configuration is good', GOOD)
    show(AS_USER.format(os.geteuid()))
    return 1 if problems else 0


def describe_state(tool: Tool) -> str:
    """Return "ok", or why a tool cannot run. Reads only its beginning."""
    import os

    program = tool.command[0]
    interpreter = program
    try:
        for word in tool.command:
            if word.startswith(b'/'):
                os.stat(word)
        if os.path.isfile(program) and os.access(program, os.R_OK):
            with open(program, 'rb') as file:
                start = file.readline(256)
            if start.startswith(b'#!'):
                interpreter = b''.join(start[2:].split()[:1])
                if start.endswith(b'\r\n'):
                    return 'cannot run: its lines end in CR LF; save it with LF'
            elif not start.startswith(b'\x7fELF'):
                return 'cannot run: not a program'
    except OSError as error:
        return f'cannot run: {printable(error.filename)}: {error.strerror}'
    for path, fault in ((program, 'not executable'), (interpreter, 'its interpreter is missing')):
        if not os.path.isfile(path) or not os.access(path, os.X_OK):
            return f'cannot run: {fault}'
    return 'ok'


def find_doubts(configuration: Configuration, program: str) -> 'list[str]':
    """Return what is no mistake for certain, but should be looked at; some of it twice."""
    import importlib.util
    import os

    values = configuration.values
    file = os.fsdecode(configuration.path)
    form = importlib.util.cache_from_source(__file__)
    paths = [program, __file__, form, file]
    doubts = []
    if os.path.exists(f'{os.path.dirname(__file__)}/qmail-pwrap') and not is_fresh(form):
        doubts.append(f'{printable(form)} is missing or stale: run make install again')
    if values['auth'] == '0':
        doubts.append('auth=0: everybody is let in without a check')
    if os.environ.get('AUTH') == '0':
        doubts.append('AUTH=0 in the environment: everybody is let in where a server has that')
    if values['log'] == 'stderr':
        doubts.append('log=stderr: under qmail-popup, descriptor 2 is the client')
    elif not os.path.exists('/dev/log'):
        doubts.append('there is no system log (/dev/log) here; log=stderr needs none')
    for tool in configuration.tools:
        paths += map(os.fsdecode, find_paths(tool))
    doubts += find_doubts_about_patterns(values['users'])
    for files, needed, trouble in (
        (paths, 0, 'others can change it, and so have every password'),
        ([file], 0o044, 'only its owner can read it: a server of another user gets 111'),
        ([program, __file__], 0o004, 'others cannot read it: sessions of other users fail'),
    ):
        doubts += find_doubtful_places(files, needed, trouble)
    return doubts


def find_doubts_about(tool: Tool) -> 'list[str]':
    """Return what can hardly be meant in a tool's line."""
    import os

    doubts = find_doubts_about_patterns(tool.settings['users'])
    for word in tool.command[1:]:
        if word.lstrip(b'012')[:1] in (b'|', b'&', b';', b'>', b'<'):
            doubts.append(f'{escape(word, 99)} is an argument: no shell runs here')
    for path in find_paths(tool):
        if path not in tool.command and not os.path.exists(path):
            doubts.append(f'{printable(path)} is not there')
    return doubts


def find_doubts_about_patterns(users: str) -> 'list[str]':
    """Return what can hardly be meant in the patterns of users=."""
    doubts = []
    for pattern in users.encode('latin-1').lower().split(b','):
        name = pattern.removeprefix(b'!')
        doubt = ''
        if not PLAIN_IN_PATTERNS.issuperset(name):
            doubt = 'has a character that hardly any login has; only * and a leading ! are special'
        elif name.startswith(b'@'):
            doubt = 'begins with @: did you mean *@...?'
        elif b'@' not in name and b'*' not in name and b'.' in name:
            doubt = 'has no @: for a domain, write *@DOMAIN'
        if doubt:
            doubts.append(f'the pattern {escape(name, 99)} {doubt}')
    return doubts


def find_paths(tool: Tool) -> 'list[bytes]':
    """Return the absolute paths in a tool's command, also those behind "=", but no lists."""
    paths = []
    for word in tool.command:
        path = word if word.startswith(b'/') else word.partition(b'=')[2]
        if path.startswith(b'/') and b':' not in path:
            paths.append(path)
    return paths


def is_fresh(form: str) -> bool:
    """Tell whether a compiled form is that of the script."""
    import importlib.util

    try:
        _, source = read_file(__file__)
        _, compiled = read_file(form)
    except OSError:
        return False
    return compiled[8:16] == importlib.util.source_hash(source)  # where it stands by PEP 552


def find_doubtful_places(files: 'list[str]', needed: int, trouble: str) -> 'list[str]':
    """Return which places on the way to files have a mode or owner that they should not have.

    needed: of these bits, the mode of each file has to have one, and that of each folder one of
    those that let the same users enter. With none, only root and this user shall be able to change
    the places. trouble: what happens else.
    """
    import os

    doubts = []
    for place in find_ways(files):
        status = os.lstat(place)
        mode = status.st_mode
        is_folder = _stat.S_ISDIR(mode)
        is_doubtful = mode & (needed >> 2 if is_folder else needed) == 0
        if not needed:
            # In a folder such as /tmp, nobody can replace what another has there.
            is_open = is_folder and not mode & _stat.S_ISVTX or _stat.S_ISREG(mode)
            is_doubtful = status.st_uid not in (0, os.geteuid()) or (
                is_open and mode & OTHERS_CAN_WRITE != 0
            )
        if is_doubtful:
            doubts.append(f'{printable(place)}: {trouble}')
    return doubts


def find_ways(paths: 'list[str]') -> 'list[str]':
    """Return files and all folders and links on the way to them, wherever they lead.

    What is not there is left out.
    """
    import os

    way = []
    for path in map(os.path.abspath, paths):
        folder = os.path.dirname(path)
        if os.path.exists(path):
            way.append(path)
            if os.path.islink(path):
                way += find_ways([os.path.join(os.path.realpath(folder), os.readlink(path))])
        if folder != path:
            way += find_ways([folder])
    return way


# --test -------------------------------------------------------------------------------------------


def stop(number: int, frame: object) -> None:
    """Handle a signal that asks --test to end; those that come besides say the same."""
    for one in STOPPING:  # blocked, they might have come already
        _signal.signal(one, do_nothing)
    raise KeyboardInterrupt(number)


def try_login(program: str, login: str) -> int:
    """Try a login as servers would, and show it; then the same with a random password.

    For some tools let everybody in: they run prog when they refuse, or read no password.

    Returns the exit code of a server whose prog is no session, or MISUSED if everybody is let in.
    Raises OSError, and KeyboardInterrupt if a signal has ended this.
    """
    # Only its waits can be stopped: an exception that comes while Python destroys an object, as in
    # imports, is printed and lost; and a login that is just begun has to be ended, too.
    pthread_sigmask(SIG_BLOCK, STOPPING)
    import os
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file may hold the password
    reserve_descriptors()
    _signal.signal(SIGCHLD, SIG_DFL)
    for number in STOPPING:
        if _signal.getsignal(number) != SIG_IGN:
            _signal.signal(number, stop)
    # A signal that comes right before a wait is not heard until that is over, or interrupted, as
    # each one is every second now.
    _signal.signal(SIGALRM, do_nothing)
    _signal.setitimer(ITIMER_REAL, 1, 1)
    if Configuration().values['auth'] == '0':
        show('auth=0: everybody is let in; the tools are asked all the same', BAD)
    os.environ['AUTH'] = '1'
    os.environ.pop('AUTHORIZED', None)
    triple = make_triple(login, ask_password())
    show(AS_USER.format(os.geteuid()))
    print('\nwith prog true (qmail-smtpd, qpsmtpd, Dovecot):')
    code = run_login(program, triple, find_true())
    if code == ACCEPT:
        print('\nwith a session (qmail-popup, authup):')
        if run_login(program, triple, '/usr/bin/env', 'true') != ACCEPT:
            show(
                'qmail-popup and authup need a tool that runs all its arguments, as exec "$@" does,'
                ' and keeps the descriptors that it inherits',
                BAD,
            )
    print('\nwith a random password:')
    triple = make_triple(login, os.urandom(16).hex())
    if len(triple) > TRIPLE_LIMIT:
        show('not asked: no room for one beside so long a login')
    elif run_login(program, triple, find_true()) == ACCEPT:
        show('THIS LETS EVERYBODY IN', BAD)
        code = MISUSED
    print(f'\nthe exit code: {code}')
    return code


def ask_password() -> str:
    """Return the password that is typed, or the first line of standard input. Raises OSError."""
    import getpass

    pthread_sigmask(SIG_UNBLOCK, STOPPING)
    if posix.isatty(0):
        password = getpass.getpass()
    else:
        password = open(0, errors='surrogateescape', newline='\n', closefd=False).readline()
    pthread_sigmask(SIG_BLOCK, STOPPING)
    return password.rstrip('\n')


def make_triple(login: str, password: str) -> bytes:
    """Return a triple as a server writes it; too long ones stay so, and still fit into a pipe."""
    import os

    return os.fsencode(f'{login}\0{password}\0<1@test>\0')[:2000]


def stay_behind() -> None:
    """In the process that --test has started: go on in a child, and exit as that does.

    The login is to lead neither session nor process group, as a server's child does not: see
    Supervisor.start(). The process that leads both is there to be waited for.
    """
    login = posix.fork()
    if login != 0:  # where STOPPING are blocked: the login shall end, and then this
        _, status = posix.waitpid(login, 0)
        code = posix.waitstatus_to_exitcode(status)
        posix._exit(code if code >= 0 else STOPPED - code)


def run_login(program: str, triple: bytes, *prog: str) -> int:
    """Run this program as a server does, and show what it says; return its exit code.

    That of a login that a signal has ended is 128 plus its number. Raises OSError, and
    KeyboardInterrupt once the login and its tools are gone.
    """
    from subprocess import DEVNULL, Popen

    with Pipe() as given, Pipe() as answers:
        posix.write(given.writer, triple)
        given.close_writer()
        posix.dup2(given.reader, 3)
        process = Popen(
            [program, f'{TEST}{answers.writer}', *prog],
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL if posix.isatty(2) else None,
            start_new_session=True,
            pass_fds=(3, answers.writer),
        )
        answers.close_writer()
        try:
            pthread_sigmask(SIG_UNBLOCK, STOPPING)
            with open(answers.reader, 'rb', closefd=False) as lines:
                for number, line in enumerate(lines, 1):
                    show_answer(number, line.decode().partition(': ')[2].rstrip())
            code = process.wait()
            pthread_sigmask(SIG_BLOCK, STOPPING)
            return code
        except KeyboardInterrupt:
            while process.poll() is None:
                send_signal(-process.pid, SIGTERM)  # again, as the login is elsewhere for moments
                time.sleep(0.05)
            raise


def show_answer(number: int, said: str) -> None:
    """Show what a login says: what a tool has answered, behind a sign, or what the log would get.

    number: of the line, and so of the tool, as the answers come first.
    """
    if said[0] in COLOURS:
        show(f'{number}  {said[1:]}', said[0])
    else:
        show(f'the log: {said}')


if __name__ == '__main__':
    main(__file__)
