#!/usr/bin/python3 -IS
"""qmail_pwrap: one checkpassword tool that asks several (https://cr.yp.to/checkpwd/interface.html).

A mail server runs this with a *triple* on descriptor 3: login, password and timestamp, each ended
by NUL. The *tools* of the configuration get the same bytes, one after the other, until one accepts
and becomes *prog*, the program that the server names behind this one. The exit code says how that
went.

To read it: main() has two doors, one for servers and one for people. Behind the servers' door is
Login.decide(), whose lines are the steps of a login, and Login.ask_chain(), the loop over the
tools. Whoever has read as far as the report step knows what a login does; from there on come the
parts: waiting and signals, the configuration, the log, and the commands for people.
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
# An import costs time at every login. The modules here are built into Debian's interpreter: posix
# and _signal have the functions of os and signal, which would cost 1 and 4 ms more (a whole login
# takes about 15). What only a person or a rare case needs is imported where it is needed.
# Annotations stand in quotes where evaluating them would cost time, or fail.

import _signal  # type: ignore[import-not-found]
import errno
import posix
import select
import sys
import syslog
import time

VERSION = '1.1'
CONFIGURATION = '/var/qmail/control/pwrap.conf'  # `make install` writes another QMAILHOME here
TRIPLE_LIMIT = 512  # bytes, by the interface
TRUE = (b'true', b'/bin/true', b'/usr/bin/true')  # as prog: the exit code of the tool says it all
REPORT = 'qmail_pwrap.report'  # how the argument of the report step begins

# Exit codes of the checkpassword interface.
ACCEPT = 0
REJECT = 1
MISUSED = 2
TRY_LATER = 111
NO_ANSWER = (TRY_LATER, 126, 127)  # by POSIX, with 126 and 127 a shell or env(1) could not run it

NO_SUCH_USER = 3  # in a user lookup, in which Dovecot asks for a user without a password

# What a tool's answer, or a whole login, comes to. The log says all of them but the last two.
ACCEPTED = 'accepted'
REJECTED = 'rejected'
TEMPORARY = 'temporary'  # no verdict: the password may have been right
UNKNOWN = 'unknown'  # a user lookup found nobody
DISABLED = 'disabled'  # AUTH=0
CANNOT_RUN = 'cannot run'  # no program, or its interpreter is missing
NOT_ASKED = 'not asked'  # the tool does not serve this login

# What ends the wait for a tool.
REPORTED = 'reported'
ENDED = 'ended'
TIMED_OUT = 'timed out'
INTERRUPTED = 'interrupted'  # only --test gives a tool up for a signal

SIGNALS_FOR_PROG = (  # sent to this process, they are meant for the tool or the session
    _signal.SIGTERM,
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGALRM,
)
# Python ignores these from its start on; tools must not inherit that.
IGNORED_BY_PYTHON = (_signal.SIGPIPE, _signal.SIGXFSZ)

# --------------------------------------------------------------------------------------------------
# The two doors


def main(program: str) -> None:
    """Do what the command line asks for, and exit.

    program: the absolute path by which this was run; the report step is run by it.
    """
    words = sys.argv[1:]
    if words and (words[0].startswith('--') or words[0] == '-h'):
        serve_person(program, words)  # and exit
    is_report_step = bool(words) and words[0].startswith(REPORT)
    log = Log()
    if words and words[0].startswith(REPORT) and has_changed_ids():
        # A stranger's own pipes would do for the report step, and it would run any program as the
        # owner of a setuid front, without a password.
        log.write('the report step is refused: real and effective user or group differ')
        posix._exit(TRY_LATER)
    login = None
    code = TRY_LATER
    try:
        if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Python would raise KeyboardInterrupt
        if is_report_step:
            code = report_and_become(words[0], encode_words(words[1:]), log)
        else:
            login = Login(program, encode_words(words) or [find_true()], log)
            code = login.decide()
    except BaseException as error:  # a traceback would end with 1: "the password is wrong"
        # The wrapper logs the result of the login that a report step belongs to.
        lacks_result = not is_report_step and (login is None or not login.is_decided)
        log_internal_error(error, log.to_stderr, lacks_result)
    finally:  # whatever happened; besides, the interpreter's own way out takes a millisecond
        posix._exit(code)


def encode_words(words: 'list[str]') -> 'list[bytes]':
    """Return the words of the command line as the bytes that they were."""
    return [word.encode(sys.getfilesystemencoding(), 'surrogateescape') for word in words]


def find_true() -> bytes:
    """Return the prog of a server that names none, as eQmail's."""
    if posix.access('/bin/true', posix.X_OK):
        return b'/bin/true'
    return b'/usr/bin/true'


def log_internal_error(error: BaseException, to_stderr: bool, lacks_result: bool) -> None:
    """Log what should never happen. Uses nothing of this file, as that may be what is broken.

    lacks_result: whether the result line of this login is still to be written.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    number = trace.tb_lineno if trace is not None else 0
    lines = [f'internal error: {type(error).__name__} in line {number}']
    if lacks_result:
        lines.append('result=temporary ip=- tool=- code=111 ms=0 user=""')
    for line in lines:
        if to_stderr:
            posix.write(2, f'qmail-pwrap[{posix.getpid()}]: {line}\n'.encode())
        else:
            syslog.openlog('qmail-pwrap', syslog.LOG_PID, syslog.LOG_MAIL)
            syslog.syslog(syslog.LOG_ERR, line)


# --------------------------------------------------------------------------------------------------
# A login from beginning to end


class Outcome:
    """What a tool answered, or what a whole login came to."""

    def __init__(self, verdict: str, code: int, problem: str = '', tool: str = '-') -> None:
        self.verdict = verdict
        self.code = code  # the exit code; says nothing of a tool that was not asked
        self.problem = problem  # what the log says of it besides; empty for nothing
        self.tool = tool  # the name of the tool that it comes from


class Login:
    """One login, from the triple to the end of the session.

    prepare_chain() adds environment and supervisor.
    """

    def __init__(self, program: str, prog: 'list[bytes]', log: 'Log') -> None:
        self.started = time.monotonic()
        self.program = program  # the path by which a tool can run the report step
        self.prog = prog
        self.log = log
        self.listener: 'Listener | None' = None  # hears what would be logged, for --test
        self.triple = bytearray(TRIPLE_LIMIT + 1)  # the password is here and nowhere else
        self.size = 0  # of the triple, in bytes
        self.name = b''  # who logs in
        self.has_password = False  # one that is not empty
        self.is_lookup = may_be_user_lookup()  # certain once the password is known to be empty
        self.is_decided = False  # whether the result has been logged

    def decide(self) -> int:
        """Decide this login and log it; return the exit code once all is over, session included."""
        # The order: where the log goes is known before its first line. AUTH=0 lets everybody in,
        # also with what is no triple, whose faults count before those of the configuration.
        configuration = read_configuration(self.program)
        self.log.to_stderr = configuration.logs_to_stderr
        # Nothing is logged before descriptor 3 is read: the log's socket could become descriptor 3.
        failure = self.read_triple()
        self.log_ignored_variables(configuration)
        auth = self.choose_auth(configuration)
        if auth == b'0':
            return self.end(Outcome(DISABLED, ACCEPT))
        if failure is None and configuration.problems:
            failure = Outcome(TEMPORARY, TRY_LATER, configuration.problems[0].text)
        if failure is not None:
            return self.end(failure)
        self.prepare_chain(auth)
        outcome = self.ask_chain(configuration)
        self.forget_password()
        code = self.end(outcome)
        if outcome.verdict == ACCEPTED:
            code = self.supervisor.wait_for_session()
            end_by_signal(code)
        return code

    def log_ignored_variables(self, configuration: 'Configuration') -> None:
        """Say that a setuid program ran this, so that what its caller set does not count."""
        for name in configuration.ignored_variables:
            self.write_line(f'{name} is ignored: real and effective user or group differ')

    def choose_auth(self, configuration: 'Configuration') -> bytes:
        """Return AUTH of the environment, else of the configuration if that is valid, else 1."""
        auth = posix.environ.get(b'AUTH', b'')
        if auth and 'AUTH' not in configuration.ignored_variables:
            return auth
        if configuration.problems:  # a broken file never switches authentication off
            return b'1'
        return configuration.values['auth'].encode()

    def prepare_chain(self, auth: bytes) -> None:
        """Make what the tools need: descriptor 3 for the taking, environment, the one who waits."""
        posix.close(3)
        reserve_descriptors()
        self.environment = restore_environment()
        self.environment[b'AUTH'] = auth
        self.supervisor = Supervisor(kills_on_signal=self.listener is not None)

    def end(self, outcome: Outcome) -> int:
        """Log the one result of this login, and what is wrong; return the exit code."""
        if outcome.problem:
            self.write_line(outcome.problem)
        levels = {ACCEPTED: syslog.LOG_INFO, UNKNOWN: syslog.LOG_INFO, REJECTED: syslog.LOG_NOTICE}
        address = posix.environ.get(b'TCPREMOTEIP') or posix.environ.get(b'TCP6REMOTEIP') or b'-'
        code = ''
        if outcome.verdict not in (ACCEPTED, DISABLED):
            code = f' code={outcome.code}'
        milliseconds = (time.monotonic() - self.started) * 1000
        # What the network chose stands last, so that nothing in it can be taken for a field.
        self.write_line(
            f'result={outcome.verdict} ip={escape(address, 60)} tool={outcome.tool}{code}'
            f' ms={milliseconds:.0f} user="{escape(self.name, 600)}"',
            levels.get(outcome.verdict, syslog.LOG_WARNING),
        )
        self.is_decided = True
        return outcome.code

    def write_line(self, line: str, priority: int = syslog.LOG_ERR) -> None:
        """Log a line, or let the listener hear it."""
        if self.listener is not None:
            self.listener.hear_line(line, priority)
        else:
            self.log.write(line, priority)

    # The triple ----------------------------------------------------------------------------------

    def read_triple(self) -> 'Outcome | None':
        """Read descriptor 3 to its end. Return None, or what the login comes to if that fails."""
        failure = self.read_descriptor()
        end_of_name = self.triple.find(0, 0, self.size)
        if end_of_name >= 0:
            self.name = bytes(self.triple[:end_of_name])
        # No line besides the result for this and for too long a login: the network could send many.
        if failure is None and self.triple.count(0, 0, self.size) < 2:
            failure = Outcome(TEMPORARY, MISUSED)
        if failure is not None and self.is_lookup:  # in which 2 would say that the user was found,
            return Outcome(TEMPORARY, TRY_LATER, failure.problem)  # and 1 is no answer at all
        if failure is not None:
            return failure
        self.has_password = self.triple[end_of_name + 1] != 0
        self.is_lookup = self.is_lookup and not self.has_password
        return None

    def read_descriptor(self) -> 'Outcome | None':
        """Fill the triple from a descriptor 3 of any kind. Return as read_triple() does."""
        while self.size < len(self.triple):
            try:
                count = posix.readv(3, [memoryview(self.triple)[self.size :]])
            except BlockingIOError:
                select.select([3], [], [])
                continue
            except OSError as error:
                if not file_identity(3):
                    problem = 'descriptor 3 is not open: a mail server has to write the login there'
                    return Outcome(TEMPORARY, MISUSED, problem)
                problem = f'descriptor 3 cannot be read: {error.strerror}'
                return Outcome(TEMPORARY, TRY_LATER, problem)
            if count == 0:
                return None
            self.size += count
        return Outcome(REJECTED, REJECT)  # too long

    def forget_password(self) -> None:
        """Overwrite the triple, the only copy of the password in this process."""
        self.triple[:] = bytes(len(self.triple))

    # The chain -----------------------------------------------------------------------------------

    def ask_chain(self, configuration: 'Configuration') -> Outcome:
        """Ask the tools in their order until one accepts; the session may have begun by then."""
        outcomes = []
        for tool in configuration.tools:
            if not self.may_ask(tool):
                continue
            if self.supervisor.must_stop():
                break
            outcome = self.ask(tool)
            self.log_answer(tool, outcome)
            if outcome.verdict == ACCEPTED:
                return outcome
            outcomes.append(outcome)
        passes_code_on = configuration.values['failure'] == 'last'
        interrupted = self.supervisor.interrupted
        return judge_login(outcomes, passes_code_on, self.is_lookup, interrupted)

    def may_ask(self, tool: 'Tool') -> bool:
        """Tell whether a tool may see this login's password."""
        if not tool.serves(self.name):
            self.log_answer(tool, Outcome(NOT_ASKED, TRY_LATER, f'users={tool.shown_users()}'))
            return False
        # LDAP servers take an empty password for an anonymous bind, which succeeds (RFC 4513).
        if not (self.has_password or self.is_lookup or tool.takes_empty_password):
            self.log_answer(tool, Outcome(NOT_ASKED, TRY_LATER, 'the password is empty'))
            return False
        return True

    def log_answer(self, tool: 'Tool', outcome: Outcome) -> None:
        """Log what went wrong with a tool; a listener hears of every tool."""
        if self.listener is not None:
            self.listener.hear_answer(tool, outcome)
        elif outcome.problem and outcome.verdict != NOT_ASKED:
            self.write_line(f'{tool.name}: {outcome.problem}')

    # One tool at work ----------------------------------------------------------------------------

    def ask(self, tool: 'Tool') -> Outcome:
        """Give one tool the triple, wait for its answer, and return that."""
        try:
            with self.make_triple_pipe() as pipe:
                if self.prog[0] in TRUE:
                    event = self.run_to_its_end(tool, pipe.reader)
                else:
                    event = self.run_until_report(tool, pipe.reader)
        except OSError as error:  # of making pipes, or of starting the tool; waiting raises none
            return judge_failed_start(tool, error)
        if event == REPORTED:
            return Outcome(ACCEPTED, ACCEPT, tool=tool.name)
        if event != ENDED:
            return self.give_up(tool, event)
        outcome = judge_code(tool, self.supervisor.code, self.is_lookup)
        if outcome.verdict == REJECTED and self.supervisor.interrupted:
            # The signal may be all that the code means.
            problem = f'interrupted, exit code {outcome.code}'
            return Outcome(TEMPORARY, TRY_LATER, problem, tool.name)
        return outcome

    def give_up(self, tool: 'Tool', event: str) -> Outcome:
        """Kill a tool that has given no answer, and return that as its outcome."""
        after = f' after {tool.timeout} s' if event == TIMED_OUT else ''
        killed = 'was killed' if self.supervisor.kill() else 'cannot be killed'
        return Outcome(TEMPORARY, TRY_LATER, f'{event}{after} and {killed}', tool.name)

    def run_to_its_end(self, tool: 'Tool', triple_reader: int) -> str:
        """Run a tool with prog true. Return what ended the wait."""
        self.supervisor.start(tool.command + self.prog, self.environment, triple_reader)
        return self.supervisor.wait(None, tool.timeout)

    def run_until_report(self, tool: 'Tool', triple_reader: int) -> str:
        """Run a tool with the report step in prog's place. Return what ended the wait."""
        with ReportPipes() as pipes:
            step = encode_words([self.program, pipes.make_argument(self.log.to_stderr)])
            command = [*tool.command, *step, *self.prog]
            self.supervisor.start(command, self.environment, triple_reader)
            pipes.close_the_steps_ends()
            event = self.supervisor.wait(pipes.report.reader, tool.timeout)
            if event == REPORTED and not pipes.answer_the_step():
                # It has died before the answer, so no session begins: the tool's own end decides.
                event = self.supervisor.wait(None, tool.timeout)
            return event

    def make_triple_pipe(self) -> 'Pipe':
        """Return a pipe that holds the triple, and ends behind it. Raises OSError."""
        pipe = Pipe()
        posix.write(pipe.writer, memoryview(self.triple)[: self.size])  # an empty pipe holds it
        pipe.close_end(pipe.writer)
        return pipe


# --------------------------------------------------------------------------------------------------
# What a login needs: how answers are judged, and the process as a tool has to find it


def may_be_user_lookup() -> bool:
    """Tell whether Dovecot asks for a user, provided that the password is empty.

    Source: Dovecot's manual, "CheckPassword", section userdb. The tool finds AUTHORIZED=1, sets it
    to 2 and becomes checkpassword-reply, which ends with 2: "found". 3 means "no such user". If the
    tool itself ends with 2, without a report, that does not say "found", but that it was misused.
    """
    return posix.environ.get(b'AUTHORIZED') == b'1' and not has_changed_ids()


def has_changed_ids() -> bool:
    """Tell whether a setuid or setgid program ran this, so that its environment is a stranger's."""
    return posix.getuid() != posix.geteuid() or posix.getgid() != posix.getegid()


def judge_failed_start(tool: 'Tool', error: OSError) -> Outcome:
    """Return the outcome of a tool that could not be started."""
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        problem = f'cannot be started: {error.strerror}'
        return Outcome(TEMPORARY, TRY_LATER, problem, tool.name)
    return Outcome(CANNOT_RUN, TRY_LATER, f'cannot run: {error.strerror}', tool.name)


def judge_code(tool: 'Tool', code: int, is_lookup: bool) -> Outcome:
    """Return the outcome of a tool that ended without a report.

    code: its exit code, or minus the number of the signal that ended it. is_lookup: in a user
    lookup the codes are Dovecot's, whatever refused= says.
    """
    if code < 0:
        return Outcome(TEMPORARY, TRY_LATER, f'killed by {name_signal(-code)}', tool.name)
    if code == ACCEPT:
        return Outcome(ACCEPTED, ACCEPT, tool=tool.name)
    if is_lookup:
        refuses = code == NO_SUCH_USER
    elif tool.refused:
        refuses = code in tool.refused
    else:
        refuses = code not in NO_ANSWER
    if refuses:
        return Outcome(REJECTED, code, tool=tool.name)
    return Outcome(TEMPORARY, code, f'temporary failure, exit code {code}', tool.name)


def name_signal(number: int) -> str:
    """Return the name of a signal, such as SIGSEGV; "signal N" if it has none."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'


def judge_login(
    outcomes: 'list[Outcome]', passes_code_on: bool, is_lookup: bool, interrupted: bool
) -> Outcome:
    """Return what a login comes to that no tool accepted.

    outcomes: of the tools that were asked, in order. passes_code_on: failure=last. interrupted: a
    signal came while a tool decided.
    """
    ran = [one for one in outcomes if one.verdict != CANNOT_RUN]
    without_verdict = [one for one in outcomes if one.verdict != REJECTED]
    if interrupted or without_verdict:
        tool = without_verdict[0].tool if without_verdict else '-'
        code = TRY_LATER
        if ran and passes_code_on and not is_lookup and not interrupted:
            code = ran[-1].code
        return Outcome(TEMPORARY, code, tool=tool)
    tool = ran[-1].tool if ran else '-'
    if is_lookup:
        return Outcome(UNKNOWN, NO_SUCH_USER, tool=tool)
    if ran and passes_code_on:
        return Outcome(REJECTED, ran[-1].code, tool=tool)
    return Outcome(REJECTED, REJECT, tool=tool)


def end_by_signal(code: int) -> None:
    """If code is minus a signal, end by that, as the session has, but without a core file."""
    if code >= 0:
        return
    import resource

    number = -code
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != _signal.SIGKILL:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [number])
    posix.kill(posix.getpid(), number)


def reserve_descriptors() -> None:
    """Fill those of the descriptors 0 to 8 that are closed, so that later pipes leave them alone.

    Tools and progs give these numbers a meaning of their own: shell scripts those from 3 on,
    Dovecot's checkpassword-reply 4. What fills them is not inherited.
    """
    reader, writer = posix.pipe()  # not an opened folder, which some user might not be able to read
    posix.close(writer)
    while reader < 8:
        reader = posix.dup(reader)


def restore_environment() -> 'dict[bytes, bytes]':
    """Return the environment as it was before the interpreter changed LC_CTYPE in it.

    Where the locale is C, Python sets LC_CTYPE to one of three values (PEP 538). Up to 3.14 its
    UTF-8 mode is on then, and off otherwise; since 3.15 it is always on. /proc tells what it was;
    where there is no /proc it stays as it is.
    """
    environment = posix.environ.copy()
    environment.pop(b'', None)  # the kernel takes a variable without a name, Python does not
    if environment.get(b'LC_CTYPE') not in (b'C.UTF-8', b'C.utf8', b'UTF-8'):
        return environment
    if sys.version_info < (3, 15) and not sys.flags.utf8_mode:
        return environment
    try:
        _, data = read_file('/proc/self/environ')
    except OSError:
        return environment
    del environment[b'LC_CTYPE']
    for entry in data.split(b'\0'):
        name, _, value = entry.partition(b'=')
        if name == b'LC_CTYPE':
            environment[name] = value
    return environment


# --------------------------------------------------------------------------------------------------
# The report step
#
# A tool that accepts becomes prog, so its exit code cannot say whether it refused or prog ended
# badly. Behind any prog but true, the tool is therefore given this program in prog's place:
#
#   wrapper                      tool                            report step = this program again
#   starts tool ───────────────▶ checks the password
#      │                         becomes prog ─────────────────▶ begins
#      │◀──────────────── report: "prog was reached" ────────────┤
#      ├───────────────── answer: "heard, go on" ───────────────▶│
#   logs "accepted", waits                                       becomes the real prog
#
# Two pipes carry the two messages. What it means when one of them ends without its message:
#   the report pipe ends, the tool has ended     it refused, crashed, or accepts by its exit code
#   the report pipe ends, the tool still runs    it has closed what it inherited (sudo does): nobody
#                                                can report any more, and it may already be prog
#   the answer pipe ends                         the wrapper has given the tool up (timeout), or has
#                                                died: prog must not start, 111
#
# The answer makes log and session agree: a step that can report begins no session that is not
# logged as accepted. Behind a tool that has closed the pipes, prog begins unreported, as it would
# without the wrapper, and the exit code counts as the tool's.


class Pipe:
    """A pipe, closed at the end of a with block. No child inherits it unless somebody says so."""

    def __init__(self) -> None:
        self.reader, self.writer = posix.pipe()
        self.open_ends = [self.reader, self.writer]

    def __enter__(self) -> 'Pipe':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ends that are still open."""
        for end in list(self.open_ends):
            self.close_end(end)

    def close_end(self, end: int) -> None:
        """Close one end, which is open."""
        self.open_ends.remove(end)
        posix.close(end)


class ReportPipes:
    """The two pipes between the wrapper and the report step of one tool."""

    def __init__(self) -> None:
        self.report = Pipe()  # the step writes
        try:
            self.answer = Pipe()  # the step reads
        except OSError:
            self.report.close()
            raise
        posix.set_inheritable(self.report.writer, True)
        posix.set_inheritable(self.answer.reader, True)

    def __enter__(self) -> 'ReportPipes':
        return self

    def __exit__(self, *_: object) -> None:
        self.report.close()
        self.answer.close()

    def close_the_steps_ends(self) -> None:
        """Close what the tool has inherited, so that the report pipe ends with its last holder."""
        self.report.close_end(self.report.writer)
        self.answer.close_end(self.answer.reader)

    def answer_the_step(self) -> bool:
        """Let the report step go on; tell whether it was still there."""
        try:
            posix.write(self.answer.writer, b'+')
        except BrokenPipeError:
            return False
        return True

    def make_argument(self, to_stderr: bool) -> str:
        """Return what the report step has to know, as one word that no tool takes for an option.

        For example qmail_pwrap.report:11.7340.13:12.7341.13:1723:syslog. That is: the step's end of
        each pipe (descriptor, and file_identity() of the pipe), prog's process group, and the log.
        """
        ends = [f'{end}.{file_identity(end)}' for end in (self.report.writer, self.answer.reader)]
        destination = 'stderr' if to_stderr else 'syslog'
        return ':'.join([REPORT, *ends, f'{posix.getpgrp()}', destination])


def report_and_become(argument: str, prog: 'list[bytes]', log: 'Log') -> int:
    """Tell the wrapper that prog was reached, wait for its answer, and become prog.

    argument: as ReportPipes.make_argument() made it. Returns 111 if prog cannot be run, or must not
    be, as the wrapper has given the tool up.
    """
    _, *ends, group, destination = argument.split(':')
    log.to_stderr = destination == 'stderr'
    # What the tool has closed, or has used for a file of its own, is not ours. Without both pipes
    # nobody can report or be answered.
    ours = []
    for end in ends:
        descriptor, _, identity = end.partition('.')
        if file_identity(int(descriptor)) == identity:
            ours.append(int(descriptor))
    if len(ours) == 2 and not exchange_report(ours[0], ours[1]):
        return TRY_LATER
    for number in ours:
        posix.close(number)
    join_group(int(group))  # the tool's own group was for killing it
    environment = restore_environment()
    environment[b'AUTH'] = b'success'
    become(prog, environment, log)
    return TRY_LATER


def exchange_report(report_writer: int, answer_reader: int) -> bool:
    """Report to the wrapper; tell whether it has answered."""
    try:
        posix.write(report_writer, b'+')
    except OSError:
        return False
    return posix.read(answer_reader, 1) != b''


def become(prog: 'list[bytes]', environment: 'dict[bytes, bytes]', log: 'Log') -> None:
    """Become prog, looked up on PATH as by execvp(3), but no shell runs what has no "#!".

    If it cannot be run, log that and return.
    """
    for number in IGNORED_BY_PYTHON:
        _signal.signal(number, _signal.SIG_DFL)
    name = prog[0] if prog else b''  # a tool may have lost it
    folders = [b'']
    if not name:
        folders = []  # execve here refuses an empty name with an error of its own
    elif b'/' not in name:
        folders = environment.get(b'PATH', b'/bin:/usr/bin').split(b':')
    failure = errno.ENOENT
    for folder in folders:
        path = folder + b'/' + name if folder else name
        try:
            posix.execve(path, prog, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error.errno or failure
    for number in IGNORED_BY_PYTHON:  # again: nobody may listen to the log any more
        _signal.signal(number, _signal.SIG_IGN)
    log.write(f'{escape(name, 200)}: prog cannot be run: {posix.strerror(failure)}')


def file_identity(file: 'int | bytes | str') -> str:
    """Return what tells the file at a path or descriptor from any other; empty if there is none."""
    try:
        status = posix.stat(file)
    except OSError:
        return ''
    return f'{status.st_ino}.{status.st_dev}'


# --------------------------------------------------------------------------------------------------
# Waiting, and signals: a tool, and the session that it becomes


class Child:
    """A process that was started and has not been reaped."""

    def __init__(self, pid: int, group: int) -> None:
        self.pid = pid
        self.group = group  # the process group that was made for it


NEW_GROUP = 0  # for setpgid(2): one that the process leads


class Supervisor:
    """Starts the tools, waits for the one that runs, and passes signals on to it.

    While a tool decides, a report, its end, a signal and a time limit are waited for at once. So
    each signal that is handled puts its number into a pipe (the wake-up pipe), and one poll() hears
    all of that. While a session runs only signals are left, of which its end is one: sigwait() is
    enough then, and needs no descriptor.
    """

    def __init__(self, kills_on_signal: bool) -> None:
        self.kills_on_signal = kills_on_signal  # --test: a person wants an end, the tool's too
        self.child: 'Child | None' = None
        self.code = TRY_LATER  # of the child that ended last: its exit code, or minus a signal
        self.interrupted = False  # a signal has come that is meant for prog
        self.leads_its_group = posix.getpgrp() == posix.getpid()
        self.wake_up = Pipe()
        for end in (self.wake_up.reader, self.wake_up.writer):
            posix.set_blocking(end, False)
        _signal.set_wakeup_fd(self.wake_up.writer, warn_on_full_buffer=False)
        self.handled = [_signal.SIGCHLD]
        for number in SIGNALS_FOR_PROG:
            if _signal.getsignal(number) != _signal.SIG_IGN:  # ignored here, it is ignored in prog
                self.handled.append(number)
        for number in self.handled:
            _signal.signal(number, do_nothing)
        # With SIGCHLD ignored or blocked, as some servers leave it, no end would ever be seen.
        self.mask_found = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGCHLD])

    def start(
        self, command: 'list[bytes]', environment: 'dict[bytes, bytes]', triple_reader: int
    ) -> None:
        """Start a command as the child. Raises OSError.

        environment: all of the child's. triple_reader: becomes its descriptor 3.
        """
        former_group = posix.getpgrp()
        is_in_own_group = self.enter_own_group()
        try:
            pid = posix.posix_spawn(
                command[0],
                command,
                environment,
                file_actions=[(posix.POSIX_SPAWN_DUP2, triple_reader, 3)],
                setpgroup=posix.getpid() if is_in_own_group else NEW_GROUP,
                setsigmask=self.mask_found,
                setsigdef=IGNORED_BY_PYTHON,
            )
        finally:
            join_group(former_group)
        self.child = Child(pid, posix.getpid() if is_in_own_group else pid)

    def enter_own_group(self) -> bool:
        """Move this process to a process group of its own number; tell whether a tool may be in it.

        A tool gets a group of its own so that it can be killed with all that it has started. But it
        must not lead that group, unless it would lead one without the wrapper. At stake: setsid(1)
        forks if it leads a group, and its first half ends with 0 before the second half has asked
        anybody, so that behind the wrapper, `setsid TOOL` would accept every password. So this
        process makes a group, starts the tool in that, and goes back to where it was. It stays if
        that is gone meanwhile, as nobody else was there. If this process has led its group from the
        start, the tool would do so too if it were run directly: it gets a group that it leads.
        """
        return not self.leads_its_group and join_group(posix.getpid())

    def wait(self, report: 'int | None', seconds: int) -> str:
        """Wait for the child. Return REPORTED, ENDED, TIMED_OUT or INTERRUPTED.

        report: the descriptor of the report pipe, or None. seconds: the time limit, 0 for none.
        Once the report pipe has ended without a report, the limit does not count any more.
        """
        deadline = time.monotonic() + seconds if seconds else None
        poller = select.poll()
        poller.register(self.wake_up.reader, select.POLLIN)
        if report is not None:
            poller.register(report, select.POLLIN)
        while True:
            signal_came = self.pass_signals_on()
            has_ended = self.reap()
            # Reaped first, read second: of a tool that has ended, the report is in the pipe by now.
            if report is not None and is_readable(report):
                if posix.read(report, 1):
                    return REPORTED
                # The pipe has ended: whoever still runs has closed what it inherited, so nobody can
                # report any more. It may already be prog, a session: no time limit from here on.
                poller.unregister(report)
                report = None
                deadline = None
            if has_ended:
                return ENDED
            if signal_came and self.kills_on_signal:
                return INTERRUPTED
            if deadline is not None and time.monotonic() >= deadline:
                return TIMED_OUT
            poller.poll(milliseconds_until(deadline))

    def pass_signals_on(self) -> bool:
        """Send the child the signals that have come for it; tell whether there were any."""
        try:
            numbers = posix.read(self.wake_up.reader, 4096)
        except BlockingIOError:
            return False
        came = False
        for number in numbers:
            if number != _signal.SIGCHLD:
                came = True
                self.send(number)
        self.interrupted = self.interrupted or came
        return came

    def send(self, number: int) -> None:
        """Send the child a signal, if there is one."""
        if self.child is not None:
            send_signal(self.child.pid, number)

    def reap(self) -> bool:
        """Take the end of the child if it has ended; tell whether none runs any more."""
        if self.child is not None:
            pid, status = posix.waitpid(self.child.pid, posix.WNOHANG)
            if pid != 0:
                self.child = None
                self.code = posix.waitstatus_to_exitcode(status)
        return self.child is None

    def must_stop(self) -> bool:
        """Tell whether no more tools may be asked: a signal came, or one could not be killed."""
        self.pass_signals_on()
        return self.interrupted or self.child is not None

    def kill(self) -> bool:
        """Kill the child and its process group, and tell whether the child is gone.

        So all that it has started goes with it, and what an earlier tool of this login has left.
        """
        if self.child is None:
            return True
        self.kills_on_signal = False  # this wait is short, and not to be given up
        self.send_kill()
        return self.wait(None, 2) == ENDED

    def send_kill(self) -> None:
        """Send the child and its group, if there is one, a signal that nobody can ignore."""
        if self.child is None:
            return
        # This process stands in that group if it could not go back to where it was.
        if self.child.group != posix.getpgrp():
            send_signal(-self.child.group, _signal.SIGKILL)
        self.send(_signal.SIGKILL)  # it may have left its group

    def wait_for_session(self) -> int:
        """Wait for the end of the session, if there is one, and pass signals on to it.

        This process holds no descriptor meanwhile, so that what the session closes is closed.
        Returns its exit code, or minus the signal that ended it.
        """
        if self.child is None:
            return self.code
        _signal.pthread_sigmask(_signal.SIG_BLOCK, self.handled)
        _signal.set_wakeup_fd(-1)
        self.pass_signals_on()  # those that came before they were blocked
        syslog.closelog()
        posix.closerange(0, 65536)
        while not self.reap():
            number = _signal.sigwait(self.handled)
            if number == _signal.SIGCHLD:
                continue
            if self.kills_on_signal:
                self.send_kill()
            else:
                self.send(number)
        return self.code


def do_nothing(number: int, frame: object) -> None:
    """Handle a signal: its number stands in the wake-up pipe by now."""


def send_signal(target: int, number: int) -> None:
    """Send a signal to a process, or to the group -target."""
    try:
        posix.kill(target, number)
    except OSError:  # it is gone, or has changed its uid
        pass


def milliseconds_until(deadline: 'float | None') -> 'float | None':
    """Return the time that is left, None for no limit, as poll() takes it."""
    if deadline is None:
        return None
    return max(0.0, deadline - time.monotonic()) * 1000


def is_readable(descriptor: int) -> bool:
    """Tell whether there is something to read, or an end."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


def join_group(group: int) -> bool:
    """Go to a process group; tell whether that was possible, as it is not from another session."""
    try:
        posix.setpgid(0, group)
    except OSError:
        return False
    return True


# --------------------------------------------------------------------------------------------------
# The configuration

FILE_SETTINGS = ('auth', 'log', 'failure')  # on a line without a tool, once in a file
TOOL_SETTINGS = ('name',)  # on the line of a tool; all others may be defaults for the lines below
DEFAULTS = {
    'auth': '1',
    'log': 'syslog',
    'failure': 'last',
    'users': '*',
    'timeout': '20',
    'refused': '',
    'empty': '0',
    'name': '',
}
CHOICES = {
    'auth': ('0', '1'),
    'log': ('syslog', 'stderr'),
    'failure': ('last', 'temporary'),
    'empty': ('0', '1'),
}
OWN_NAMES = (b'qmail-pwrap', b'qmail_pwrap.py')  # behind env, which looks on PATH
NAME_CHARACTERS = frozenset('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-')
LONGEST_TIMEOUT = 86400  # seconds
ENV_OPTIONS = {  # those of env(1) that take an operand
    '-u': '--unset',
    '-C': '--chdir',
    '-a': '--argv0',
    '-S': '--split-string',
}
WRITABLE_BY_OTHERS = 0o022
FILE_TYPE = 0o170000  # of a mode, as in stat(2)
REGULAR_FILE = 0o100000


class Tool:
    """A tool as its line in the configuration gives it."""

    def __init__(self, line: int, words: 'list[str]', settings: 'dict[str, str]') -> None:
        self.line = line  # its number in the file
        self.command = [word.encode('latin-1') for word in words]  # absolute path and arguments
        self.program = skip_env(words)[0].encode('latin-1')  # what checks passwords, behind env
        self.name = settings['name'] or escape(self.command[0], 200)  # what the log calls it
        self.timeout = int(settings['timeout'])  # seconds, 0 for none
        self.refused = parse_codes(settings['refused'])  # exit codes; empty: all but NO_ANSWER
        self.takes_empty_password = settings['empty'] == '1'
        self.patterns = settings['users'].encode('latin-1').lower().split(b',')
        self.barred = [one[1:] for one in self.patterns if one.startswith(b'!')]
        self.wanted = [one for one in self.patterns if not one.startswith(b'!')] or [b'*']

    def serves(self, login: bytes) -> bool:
        """Tell whether this tool may see a login's password. The case of ASCII letters is free."""
        login = login.lower()
        if any(matches(pattern, login) for pattern in self.barred):
            return False
        return any(matches(pattern, login) for pattern in self.wanted)

    def shown_users(self) -> str:
        """Return the patterns as they can be shown, cut if there are many."""
        return escape(b','.join(self.patterns), 60)


def matches(pattern: bytes, login: bytes) -> bool:
    """Tell whether a whole login fits. "*" stands for any bytes, nothing else is special."""
    first, *parts = pattern.split(b'*')
    if not parts:
        return login == first
    if not login.startswith(first):
        return False
    position = len(first)
    for part in parts[:-1]:
        found = login.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    last = parts[-1]
    return login.endswith(last) and position + len(last) <= len(login)


class Problem:
    """A reason not to use a configuration."""

    def __init__(self, shown_path: str, line: 'int | None', why: str) -> None:
        self.line = line  # its number, None if it is not about a line
        self.why = why
        self.text = f'{shown_path}: {why}' if line is None else f'{shown_path}:{line}: {why}'


class Configuration:
    """What a configuration file says, and every reason not to use it."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.shown_path = escape(path, 200)
        self.values = dict(DEFAULTS)
        self.tools: 'list[Tool]' = []
        self.problems: 'list[Problem]' = []
        self.ignored_variables: 'list[str]' = []
        self.lines: 'list[str]' = []
        self.last_default = 0  # number of the last line with a default for the lines below
        self.logs_to_stderr = False
        self.file_settings_seen: 'set[str]' = set()

    def refuse(self, why: str, line: 'int | None' = None) -> None:
        """Add a problem; line: its number."""
        self.problems.append(Problem(self.shown_path, line, why))

    def add_text(self, text: str) -> None:
        """Add what a whole file says, and what is wrong with it."""
        self.lines = [line[:-1] if line.endswith('\r') else line for line in text.split('\n')]
        for number, line in enumerate(self.lines, 1):
            try:
                self.add_line(number, line)
            except ValueError as error:
                self.refuse(str(error), number)
        last = self.lines[-1]
        if not is_blank_or_comment(last) and not all(is_plain_line(line) for line in self.lines):
            # A line that a full disk has cut short can be a valid one, and let everybody in. Files
            # in the form of qmail-pwrap 0.3 may end like this, as they did there: of a path that is
            # cut short, little is a program. --check warns.
            self.refuse('no newline at the end: the file may have been cut short', len(self.lines))
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
        for name in settings:
            if words and name in FILE_SETTINGS:
                raise ValueError(f'{name}= belongs on a line without a tool')
            if not words and name in TOOL_SETTINGS:
                raise ValueError(f'{name}= belongs on a line with a tool')
        if words:
            check_command(words)
            self.tools.append(Tool(number, words, {**self.values, **settings}))
            return
        self.values.update(settings)
        for name in settings:
            if name in FILE_SETTINGS:
                self.file_settings_seen.add(name)
            else:
                self.last_default = number

    def refuse_itself(self, program: str) -> None:
        """Refuse tools that are, or run, this very wrapper: it would call itself without end.

        With another configuration it may. program: as in main().
        """
        own = find_own_identities(program)
        for tool in self.tools:
            if find_inner_configuration(tool, own) == b'':
                self.refuse('this tool is the wrapper itself', tool.line)


def find_inner_configuration(tool: Tool, own: 'set[str]') -> 'bytes | None':
    """Return with which configuration a tool's command runs this wrapper.

    own: as from find_own_identities(). Returns a path, b'' for the one of the login, and None if it
    does not run the wrapper, as far as can be seen.
    """
    named = b''
    for word in b' '.join(tool.command).split():  # also within what env -S or a shell splits
        if word.startswith(b'PWRAP_CONF='):
            named = word.partition(b'=')[2] or CONFIGURATION.encode()
        elif b'PWRAP_CONF' in word:  # env -u
            named = CONFIGURATION.encode()
        elif word.startswith(b'/') and file_identity(word) in own:
            return named
    if tool.program in OWN_NAMES or file_identity(tool.program) in own:  # its path may have blanks
        return named
    return None


def find_own_identities(program: str) -> 'set[str]':
    """Return what tells script and installed command from other files. program: as in main()."""
    paths = {program}
    for script in {__file__, follow_link(__file__)}:
        folder = script.rpartition('/')[0]
        paths |= {script, f'{folder}/qmail-pwrap', f'{folder}/qmail_pwrap.py'}
    return {file_identity(path) for path in paths} - {''}


def follow_link(path: str) -> str:
    """Return where a link leads, in one step; the path itself if it is none."""
    try:
        target = posix.readlink(path)
    except OSError:
        return path
    if target.startswith('/'):
        return target
    return f'{path.rpartition("/")[0]}/{target}'


def read_configuration(program: str) -> Configuration:
    """Return what the file says that PWRAP_CONF names, or else the default one.

    program: as in main(). A file that cannot be read is a problem, no error.
    """
    path = posix.environ.get(b'PWRAP_CONF') or CONFIGURATION.encode()
    ignored = []
    if has_changed_ids():
        ignored = [name for name in ('PWRAP_CONF', 'AUTH') if posix.environ.get(name.encode())]
        path = CONFIGURATION.encode()
    configuration = Configuration(path)
    configuration.ignored_variables = ignored
    try:
        status, data = read_file(path)
    except OSError as error:
        configuration.refuse(f'{error.strerror}')
        return configuration
    # Whoever can change this file can have every password: it must be safe from others, as netrc's.
    if status.st_uid not in (0, posix.geteuid()):
        mend = f'chown root {configuration.shown_path}'
        configuration.refuse(f'belongs to user {status.st_uid}; mend it with: {mend}')
    if status.st_mode & WRITABLE_BY_OTHERS:
        mend = f'chmod go-w {configuration.shown_path}'
        configuration.refuse(f'others can write to it; mend it with: {mend}')
    is_safe = not configuration.problems
    # Latin-1 turns any byte into one character and back, so a tool gets the bytes that stand here.
    configuration.add_text(data.decode('latin-1'))
    configuration.refuse_itself(program)
    # Descriptor 2 may be the client's: only a file that nobody else can write sends the log there.
    # Mistakes in other lines do not matter: without a syslogd, what tells of them would be lost.
    configuration.logs_to_stderr = is_safe and configuration.values['log'] == 'stderr'
    return configuration


def split_line(line: str) -> 'list[str]':
    """Return the words of a line as a shell sees them, none for a comment. Raises ValueError."""
    if '\0' in line:
        raise ValueError('a NUL byte')
    if is_blank_or_comment(line):
        return []
    if '"' in line or "'" in line or '\\' in line:
        import shlex  # 7 ms, only for a line that needs it

        lexer = shlex.shlex(line, posix=True)
        lexer.whitespace = ' \t'
        lexer.whitespace_split = True
        lexer.commenters = ''
        words = list(lexer)
    else:
        words = [word for word in line.replace('\t', ' ').split(' ') if word]
    if any(word.startswith('#') for word in words):  # it would become an argument of the tool
        raise ValueError('a comment needs a line of its own, and no word may begin with #')
    return words


def is_blank_or_comment(line: str) -> bool:
    """Tell whether a line says nothing."""
    text = line.strip(' \t')
    return not text or text.startswith('#')


def is_plain_line(line: str) -> bool:
    """Tell whether a line is one of qmail-pwrap 0.3: blank, a comment, or nothing but a path."""
    text = line.strip(' \t')
    is_path = text.startswith('/') and not any(character in text for character in ' \t"\'\\')
    return is_path or is_blank_or_comment(line)


def parse_setting(word: str) -> 'tuple[str, str]':
    """Return name and value of a setting. Raises ValueError."""
    name, equals, value = word.partition('=')
    if not equals:
        raise ValueError('neither a setting (name=value) nor an absolute path')
    if name not in DEFAULTS:
        may_be_shown = 0 < len(name) < 30 and NAME_CHARACTERS.issuperset(name)
        raise ValueError(f'unknown setting {name}=' if may_be_shown else 'unknown setting')
    check_value(name, value)
    return name, value


def check_value(name: str, value: str) -> None:
    """Raise ValueError, with what the setting takes, if that value is not right for it."""
    if name in CHOICES:
        is_right = value in CHOICES[name]
        takes = ' or '.join(CHOICES[name])
    elif name == 'users':
        is_right = all(pattern not in ('', '!') for pattern in value.split(','))
        takes = 'patterns, none of them empty'
    elif name == 'timeout':
        is_right = is_number(value, 0, LONGEST_TIMEOUT)
        takes = f'seconds, 0 to {LONGEST_TIMEOUT}'
    elif name == 'refused':
        is_right = all(is_code_range(part) for part in value.split(','))
        takes = 'exit codes and ranges of 1 to 255, such as 1,3,12-15'
    else:
        is_right = 0 < len(value) <= 200 and NAME_CHARACTERS.issuperset(value)
        takes = 'letters, digits, . _ and -'
    if not is_right:
        raise ValueError(f'{name}= takes {takes}')


def is_number(text: str, lowest: int, highest: int) -> bool:
    """Tell whether this is a decimal number of this range, of at most 9 digits."""
    return text.isdecimal() and len(text) < 10 and lowest <= int(text) <= highest


def is_code_range(text: str) -> bool:
    """Tell whether this is an exit code, or two with a "-" between them, the lower first."""
    first, dash, last = text.partition('-')
    if not dash:
        return is_number(first, 1, 255)
    return is_number(first, 1, 255) and is_number(last, int(first), 255)


def parse_codes(text: str) -> 'frozenset[int]':
    """Return the exit codes that refused= names, in a value that check_value() has found right."""
    codes: 'set[int]' = set()
    for part in text.split(','):
        first, _, last = part.partition('-')
        if first:
            codes.update(range(int(first), int(last or first) + 1))
    return frozenset(codes)


def check_command(words: 'list[str]') -> None:
    """Raise ValueError if a tool's words would not run that tool as they are meant to."""
    for word in words[1:]:
        name, equals, _ = word.partition('=')
        if equals and name in DEFAULTS:  # the restriction would be an argument, and not restrict
            raise ValueError(f'{name}= belongs before the path')
    for position, word in enumerate(words):
        # In front, or behind a program such as timeout.
        if (position == 0 or word.endswith('/bin/env')) and not skip_env(words[position:]):
            raise ValueError('env has no program to run: it would run prog, and let everybody in')


def skip_env(words: 'list[str]') -> 'list[str]':
    """Return a command without the env(1) in front of it; empty if there is nothing but that."""
    while words and words[0].rpartition('/')[2] == 'env':
        words = find_program_of_env(words[1:])
    return words


def find_program_of_env(arguments: 'list[str]') -> 'list[str]':
    """Return the program that env(1) would run, with its arguments; empty if none is there.

    Source: env(1) of GNU coreutils. It takes options, then assignments, then the program. Where its
    rules are not all known here (-S has many) this finds no program rather than a wrong one.
    """
    words = list(arguments)
    may_be_option = True
    while words:
        word = words.pop(0)
        may_be_option = may_be_option and word.startswith('-')
        if not may_be_option:
            if '=' not in word and '${' not in word:  # what env -S makes of ${NAME} is not known
                return [word, *words]
            continue
        option = ''
        operand = ''
        if word in ('-', '--'):
            may_be_option = False
        elif word.startswith('--'):
            name, _, operand = word.partition('=')
            if '--help'.startswith(name) or '--version'.startswith(name):
                return []
            option = complete_env_option(name)
        else:
            # Letters may stand together; the first that takes an operand takes the rest as that.
            letters = word[1:].lstrip('iv0')
            option = ENV_OPTIONS.get('-' + letters[:1], '')
            operand = letters[1:]
        if option and not operand and words:
            operand = words.pop(0)
        if option == '--split-string':
            words = split_env_string(operand) + words
    return []


def complete_env_option(name: str) -> str:
    """Return the long option of env(1), with an operand, that this may be short for; or empty."""
    for option in ENV_OPTIONS.values():
        if len(name) > 2 and option.startswith(name):
            return option
    return ''


def split_env_string(text: str) -> 'list[str]':
    """Return the words that env -S makes of a string, none if that is not certain."""
    import shlex

    if '\\' in text and ("'" in text or '"' in text):
        return []  # a backslash in quotes is not what it is in a shell
    try:
        return shlex.split(text.partition('\\c')[0], comments=True)
    except ValueError:
        return []


def read_file(path: 'bytes | str') -> 'tuple[posix.stat_result, bytes]':
    """Return status and content of a regular file. Raises OSError."""
    descriptor = open_regular_file(path)
    try:
        status = posix.fstat(descriptor)
        data = b''
        while True:
            piece = posix.read(descriptor, 65536)
            if not piece:
                return status, data
            data += piece
    finally:
        posix.close(descriptor)


def open_regular_file(path: 'bytes | str') -> int:
    """Open a file for reading. Raises OSError, also for anything but a regular file."""
    # A fifo without a writer must not block, nor may a terminal become ours.
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY)
    if posix.fstat(descriptor).st_mode & FILE_TYPE != REGULAR_FILE:
        posix.close(descriptor)
        raise OSError(errno.EINVAL, 'not a regular file')
    return descriptor


# --------------------------------------------------------------------------------------------------
# The log

PLAIN_BYTES = frozenset(range(0x21, 0x7F)) - frozenset(b'"\\=')  # they stand in the log as they are


class Log:
    """Writes lines, each shorter than 1,024 bytes, to the system log or to descriptor 2."""

    to_stderr = False

    def write(self, line: str, priority: int = syslog.LOG_ERR) -> None:
        """Write one line, by default about something wrong; nothing happens where no log is."""
        if not self.to_stderr:
            syslog.openlog('qmail-pwrap', syslog.LOG_PID, syslog.LOG_MAIL)
            syslog.syslog(priority, line)
            return
        try:
            posix.write(2, f'qmail-pwrap[{posix.getpid()}]: {line}\n'.encode('ascii'))
        except OSError:
            pass


def escape(data: bytes, limit: int) -> str:
    """Return data as one printable word that cannot look like a field of a log line.

    Blanks, quotes, backslashes, "=" and all that is not printable ASCII become \\xHH. What exceeds
    limit characters becomes \\... (so the result has at most limit + 4).
    """
    characters = []
    for byte in data[: limit + 1]:
        characters.append(chr(byte) if byte in PLAIN_BYTES else f'\\x{byte:02x}')
    shown = ''.join(characters)
    if len(shown) <= limit:
        return shown
    kept = shown[:limit]
    cut_escape = kept.rfind('\\', limit - 3)
    if cut_escape >= 0:
        kept = kept[:cut_escape]
    return kept + '\\...'


# --------------------------------------------------------------------------------------------------
# For people: --check, --test, --version, --help. No login comes here.

USAGE = """{program} [prog [arg ...]]
    for mail servers: try the tools in $PWRAP_CONF, else in
    {configuration}
{program} --check [LOGIN]
    tell what is wrong with the configuration, and which tools LOGIN would get
{program} --test LOGIN
    try a login, and show what each tool says
{program} --version
{program} --help"""
COMMANDS = {  # how many words each may have behind it
    '--check': (0, 1),
    '--test': (1,),
    '--version': (0,),
    '--help': (0,),
    '-h': (0,),
}
WIDTH = 80  # columns
STOPPED = 128  # exit code of a command that a signal has ended: this plus its number
STOPPING = (_signal.SIGINT, _signal.SIGHUP, _signal.SIGTERM, _signal.SIGQUIT)
READABLE_BY_OTHERS = 0o044
OPEN_TO_OTHERS = 0o055  # of a folder: one that others may only enter is open enough
NO_BREAK = '\0'  # stands for a blank at which no line is broken


def serve_person(program: str, words: 'list[str]') -> None:
    """Do what a person asks for, and exit.

    The code is that of run_command(), 2 with a line on descriptor 2 for an OSError, and 1 with a
    traceback for what should never happen.
    """
    import os

    code = 1
    try:
        code = run_command(program, words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        complain(f'{words[0]}: {error.strerror}')
        code = MISUSED
    except KeyboardInterrupt:
        code = STOPPED + _signal.SIGINT
    except Stopped as stopped:
        code = STOPPED + stopped.number
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def complain(line: str) -> None:
    """Write a line to descriptor 2, whatever Python thinks of that."""
    try:
        posix.write(2, f'{line}\n'.encode(errors='backslashreplace'))
    except OSError:
        pass


def run_command(program: str, words: 'list[str]') -> int:
    """Do what the words say; return the exit code. Raises OSError."""
    import io

    command, *operands = words
    shown = printable(command)
    if has_changed_ids() and command in ('--check', '--test'):
        complain(f'{shown}: refused: real and effective user or group differ')
        return MISUSED
    usage = USAGE.format(program=printable(program), configuration=CONFIGURATION)
    if is_from_server():
        # Left in a run file, a command would end with 0, and so accept every login.
        complain(
            f'{shown}: descriptor 3 is a pipe or socket: for people, not for servers (try 3<&-)'
        )
        return MISUSED
    if len(operands) not in COMMANDS.get(command, ()):
        complain(f'{shown}: not a command in this form\n{usage}')
        return MISUSED
    if sys.stdout is None:
        complain(f'{shown}: standard output is closed')
        return MISUSED
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    if command == '--check':
        return check(program, operands)
    if command == '--test':
        return try_login(program, operands[0])
    if command == '--version':
        print(f'qmail_pwrap {VERSION}')
    else:
        print(usage)
    return 0


def is_from_server() -> bool:
    """Tell whether descriptor 3 is what a mail server gives: no known one gives a file."""
    import stat

    try:
        mode = posix.fstat(3).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def printable(text: 'str | bytes') -> str:
    """Return text as it is if a terminal can show it, else escaped."""
    import os

    decoded = os.fsdecode(text)
    if decoded.isprintable() and decoded.isascii():
        return decoded
    return escape(os.fsencode(text), 600)


def mark(line: str, is_good: 'bool | None', descriptor: int = 1) -> str:
    """Return a line with a sign in front, and colour, if it goes to a terminal.

    is_good: which sign; None for a neutral one. descriptor: where the line will go.
    """
    import os

    if not os.isatty(descriptor):
        return line
    sign, colour = '-', '0'
    if is_good is not None:
        sign, colour = ('✓', '32') if is_good else ('✗', '31')
    if not os.environ.get('NO_COLOR'):
        sign = f'\033[{colour}m{sign}\033[0m'
    return f'{sign} {line}'


def show(line: str, is_good: 'bool | None') -> None:
    """Print a line for a person, marked, and wrapped to the width of a terminal."""
    import os

    width = WIDTH - 2 if os.isatty(1) else WIDTH  # beside a mark
    print(mark(wrap(line, width), is_good), flush=True)


def wrap(line: str, width: int = WIDTH) -> str:
    """Return a line broken at blanks, but not at those that keep_together() has marked."""
    import textwrap

    lines = textwrap.wrap(
        line, width, subsequent_indent='    ', break_long_words=False, break_on_hyphens=False
    )
    return '\n'.join(lines).replace(NO_BREAK, ' ')


def keep_together(text: str) -> str:
    """Return text in such a form that wrap() does not break it."""
    return text.replace(' ', NO_BREAK)


def show_user(program: str, words: 'list[str]', what: str) -> None:
    """Print as which user this runs, and what runs it as the mail server's user.

    words: behind the program. what: the beginning of the line.
    """
    import os
    import pwd
    import shlex

    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = '(no name)'
    print(wrap(f'{what} user {name}, uid {os.geteuid()}; as the user of a service:'))
    quoted = [shlex.quote(word) for word in (program, *words)]
    named = os.environ.get('PWRAP_CONF')
    if named:
        quoted.insert(0, f'PWRAP_CONF={shlex.quote(named)}')
    # Between its words it may be broken, though it is quoted as a whole: the backslash and the end
    # of the line reach the inner shell, which joins the lines.
    inner = shlex.quote(' '.join(word.replace(' ', NO_BREAK) for word in quoted))
    show_shell_command(f'su -s /bin/sh USER -c {inner}')


def show_shell_command(command: str) -> None:
    """Print a command; a long one on several lines, in a way that can be pasted into a shell.

    NO_BREAK stands for a blank within a word, where a break would change the word.
    """
    lines = ['']
    for word in command.split(' '):
        shown = printable(word.replace(NO_BREAK, ' '))
        if lines[-1] and len(lines[-1]) + len(shown) + 3 > WIDTH:
            lines[-1] += ' \\'
            lines.append(shown)
        elif lines[-1]:
            lines[-1] += f' {shown}'
        else:
            lines[-1] = shown
    print('\n'.join(lines))


# --check ------------------------------------------------------------------------------------------


def check(program: str, operands: 'list[str]') -> int:
    """Show what a login would read, and all that is wrong or doubtful. Runs no tool.

    operands: a login whose tools are to be shown, or nothing. Returns 1 if something is wrong.
    """
    configuration = read_configuration(program)
    states = [describe_tool(tool) for tool in configuration.tools]
    show_settings(configuration)
    for number, tool in enumerate(configuration.tools, 1):
        show_tool(number, tool, states[number - 1])
    problems = [add_advice(configuration, problem) for problem in configuration.problems]
    for tool, state in zip(configuration.tools, states):
        if state != 'ok':
            problems.append(f'{configuration.shown_path}:{tool.line}: {tool.name}: {state}')
    for login in operands:
        show_tools_for(configuration, login)
    for problem in problems:
        show(problem, False)
    for doubt in find_doubts(configuration, program):
        show(f'warning: {doubt}', False)
    show_stale_form()
    if problems:
        show('every login would fail or miss a tool', False)
    else:
        show('the configuration is good', True)
    show_user(program, ['--check', *operands], 'judged for')
    return 1 if problems else 0


def show_settings(configuration: Configuration) -> None:
    """Print the file, and what it sets for itself as a whole."""
    values = [f'{name}={configuration.values[name]}' for name in FILE_SETTINGS]
    print(f'configuration: {configuration.shown_path}')
    print(f'settings: {" ".join(values)}\n')


def show_tool(number: int, tool: Tool, state: str) -> None:
    """Print a paragraph about a tool."""
    # escape() hides "=" for the log; here it may be seen.
    command = ' '.join(escape(word, 300).replace('\\x3d', '=') for word in tool.command)
    settings = f'users={tool.shown_users()} timeout={tool.timeout or "none"}'
    if tool.refused:
        settings += f' refused={show_codes(tool.refused)}'
    if tool.takes_empty_password:
        settings += ' empty=1'
    print(f'{number}  {tool.name}')
    for text in (command, settings, f'state: {state}'):
        print(f'   {wrap(text, WIDTH - 3)}')
    print()


def show_codes(codes: 'frozenset[int]') -> str:
    """Return exit codes as refused= takes them, those that follow each other as a range."""
    ranges: 'list[list[int]]' = []
    for code in sorted(codes):
        if ranges and ranges[-1][-1] == code - 1:
            ranges[-1].append(code)
        else:
            ranges.append([code])
    return ','.join(f'{one[0]}-{one[-1]}' if len(one) > 1 else f'{one[0]}' for one in ranges)


def show_tools_for(configuration: Configuration, login: str) -> None:
    """Print which tools would be asked for a login that has a password, and which would not."""
    import os

    asked = []
    others = []
    for number, tool in enumerate(configuration.tools, 1):
        if tool.serves(os.fsencode(login)):
            asked.append(f'{number}  {tool.name}')
        else:
            others.append(f'{number}  {tool.name}  (users={tool.shown_users()})')
    if configuration.problems:
        print('now nobody is asked: every login ends with 111. Without the wrong lines:')
    elif configuration.values['auth'] == '0':
        print('now nobody is asked: auth=0 lets everybody in. Without it:')
    print(f'asked for {escape(os.fsencode(login), 200)}, in this order:')
    for line in asked or ['none: such a login is refused with 1']:
        print('  ' + wrap(line, WIDTH - 2))
    print('not asked:')
    for line in others or ['none']:
        print('  ' + wrap(line, WIDTH - 2))
    print()


def describe_tool(tool: Tool) -> str:
    """Return "ok", or why a tool cannot run, or the program behind env."""
    state = describe_state(tool.command[0])
    if state == 'ok' and tool.program.startswith(b'/'):
        state = describe_state(tool.program)
    return state


def describe_state(path: bytes) -> str:
    """Return "ok", or why this program cannot run. Reads only its beginning."""
    import os

    try:
        os.stat(path)
        start = read_beginning(path) if os.access(path, os.R_OK) else b'\x7fELF'
    except OSError as error:
        return f'cannot run: {error.strerror}'
    interpreter = path
    if start.startswith(b'#!'):
        words = start[2:].split(b'\n')[0].replace(b'\t', b' ').split(b' ')
        interpreter = next(filter(None, words), b'').split(b'\0')[0]
        if not interpreter:
            return 'cannot run: not a program'
        if interpreter.endswith(b'\r'):
            return 'cannot run: its lines end in CR LF; save it with LF'
    elif not start.startswith(b'\x7fELF'):
        return 'cannot run: not a program'
    if not os.access(path, os.X_OK):
        return 'cannot run: not executable'
    if not os.path.isfile(interpreter) or not os.access(interpreter, os.X_OK):
        return 'cannot run: its interpreter is missing'
    return 'ok'


def read_beginning(path: bytes) -> bytes:
    """Return the first bytes of a regular file, 256 at most. Raises OSError."""
    descriptor = open_regular_file(path)
    try:
        return posix.read(descriptor, 256)
    finally:
        posix.close(descriptor)


def add_advice(configuration: Configuration, problem: Problem) -> str:
    """Return the text of a problem with what to do about it, where a common mistake can be told."""
    if problem.line is None:
        text, mend, command = problem.text.partition('mend it with: ')
        return text + mend + keep_together(command)
    advice = find_advice(configuration.lines[problem.line - 1], problem.why)
    return f'{problem.text}; {advice}' if advice else problem.text


def find_advice(line: str, why: str) -> str:
    """Return what to do about a line that is wrong; empty if that is not known.

    why: what add_line() said of it.
    """
    import difflib

    if line.startswith(('\xef\xbb\xbf', '\xff\xfe', '\xfe\xff')):
        return 'it begins with a byte order mark: save the file without one, as plain text'
    words = line.split()
    if line.endswith('\\'):
        return 'a line cannot be continued'
    for word in words:
        if ('=' in word and word.endswith(',')) or word.startswith(','):
            return 'put no blank before or after the comma'
        if word.endswith('=') or word == '=':
            return 'put no blank before or after ='
    if not why.startswith('unknown setting'):
        return ''
    names = [word.partition('=')[0] for word in words]
    name = next((name for name in names if name not in DEFAULTS), '')
    if name.isupper() and name.lower() not in DEFAULTS:
        return 'to set a variable for a tool, put /usr/bin/env in front'
    close = difflib.get_close_matches(name.lower(), DEFAULTS, 1)
    return keep_together(f'did you mean {close[0]}=?') if close else ''


def find_doubts(configuration: Configuration, program: str) -> 'list[str]':
    """Return what is no mistake for certain, but should be looked at, each once."""
    doubts = []
    if configuration.ignored_variables:
        names = ' and '.join(configuration.ignored_variables)
        doubts.append(f'{names} ignored: real and effective user or group differ')
    if configuration.values['auth'] == '0':
        doubts.append('auth=0: everybody is let in without a check')
    if posix.environ.get(b'AUTH') == b'0':
        doubts.append('AUTH=0 in the environment: everybody is let in where a server has that')
    if configuration.values['log'] == 'stderr':
        doubts.append('log=stderr: under qmail-popup, descriptor 2 is the client')
    doubts += find_doubtful_lines(configuration)
    doubts += find_lost_backslashes(configuration)
    for tool in configuration.tools:
        where = f'{configuration.shown_path}:{tool.line}: {tool.name}'
        doubts += [f'{where}: {doubt}' for doubt in find_doubts_about(tool)]
        if calls_itself(tool, configuration, program):
            doubts.append(f'{where}: the wrapper with this same file would call itself for ever')
    doubts += find_unsafe_places(configuration, program)
    return list(dict.fromkeys(doubts))


def find_doubtful_lines(configuration: Configuration) -> 'list[str]':
    """Return what is doubtful about the file as a whole."""
    path = configuration.shown_path
    doubts = []
    last_tool = max((tool.line for tool in configuration.tools), default=0)
    if configuration.tools and configuration.last_default > last_tool:
        line = configuration.last_default
        doubts.append(f'{path}:{line}: no tool stands below these defaults')
    names = [tool.name for tool in configuration.tools]
    for name in sorted(set(names)):
        if names.count(name) > 1:
            doubts.append(f'{path}: {names.count(name)} tools have the name {name} in the log')
    is_problem = any(problem.why.startswith('no newline') for problem in configuration.problems)
    if configuration.lines and configuration.lines[-1] and not is_problem:
        doubts.append(f'{path}: the last line has no newline')
    return doubts


def find_lost_backslashes(configuration: Configuration) -> 'list[str]':
    """Return the patterns in which a backslash stands outside of quotes, and so is gone."""
    doubts = []
    for number, line in enumerate(configuration.lines, 1):
        for word in [] if is_blank_or_comment(line) else line.split():
            if word.startswith('users=') and '\\' in word:
                where = f'{configuration.shown_path}:{number}'
                doubts.append(f'{where}: a backslash in users= only quotes what follows it')
    return doubts


def find_doubts_about(tool: Tool) -> 'list[str]':
    """Return what can hardly be meant in a tool's line."""
    doubts = []
    for pattern in tool.barred + tool.wanted:
        doubt = find_doubt_about_pattern(pattern)
        if doubt:
            doubts.append(f'the pattern {escape(pattern, 99)} {doubt}')
    if all(any(matches(out, one) for out in tool.barred) for one in tool.wanted):
        doubts.append('no login reaches it, every pattern is also excluded')
    for word in tool.command[1:]:
        if word in (b'|', b'||', b'&', b'&&', b';') or word.lstrip(b'012')[:1] in (b'>', b'<'):
            doubts.append(f'{escape(word, 99)} is an argument: no shell runs here')
    words = [word.decode('latin-1') for word in tool.command]
    if 'env' in words and not skip_env(words[words.index('env') :]):
        doubts.append('env has no program to run: it would run prog, and let everybody in')
    if tool.command[-1] in TRUE:
        doubts.append('it ends in true: sessions would end there, and not in prog')
    return doubts


def find_doubt_about_pattern(pattern: bytes) -> str:
    """Return why a pattern can hardly be meant, empty if it can."""
    if pattern.startswith(b'@'):
        return 'begins with @: did you mean *@...?'
    if pattern != pattern.strip():
        return 'has a blank at its end, which no login has'
    if any(character in pattern for character in (b';', b'|', b'\\', b'[', b']')):
        return 'has a character that is not special here: only * and a leading ! are'
    if b'@' not in pattern and b'*' not in pattern and b'.' in pattern:
        return 'has no @: for a domain, write *@DOMAIN'
    return ''


def calls_itself(tool: Tool, configuration: Configuration, program: str) -> bool:
    """Tell whether a tool's command names this same file for the wrapper in it."""
    named = find_inner_configuration(tool, find_own_identities(program))
    if not named:
        return False
    return file_identity(named) == file_identity(configuration.path)


def find_compiled_form() -> str:
    """Return the path of the compiled form, empty where no installed command would use it."""
    import importlib.util
    import os

    folder, name = os.path.split(os.path.abspath(__file__))
    if not os.path.exists(os.path.join(folder, 'qmail-pwrap')):
        return ''
    return importlib.util.cache_from_source(os.path.join(folder, name))


def show_stale_form() -> None:
    """Warn of a compiled form that is not that of the script, and print what renews it."""
    import importlib.util
    import shlex

    form = find_compiled_form()
    if not form:
        return
    hash_of_source = slice(8, 16)  # of a compiled form (PEP 552)
    try:
        _, source = read_file(__file__)
        _, compiled = read_file(form)
    except OSError:
        compiled = b''
    if compiled and compiled[hash_of_source] == importlib.util.source_hash(source):
        return
    show(f'warning: {printable(form)} is missing or stale; renew it with:', False)
    words = [sys.executable, '-m', 'compileall', '-fq', '--invalidation-mode', 'checked-hash']
    quoted = [shlex.quote(word).replace(' ', NO_BREAK) for word in (*words, __file__)]
    show_shell_command(' '.join(quoted))


def find_unsafe_places(configuration: Configuration, program: str) -> 'list[str]':
    """Return who else could change what a login runs or reads, and what others cannot read."""
    import os

    file = os.fsdecode(configuration.path)
    tools = [
        os.fsdecode(path)
        for tool in configuration.tools
        for path in (tool.command[0], tool.program)
        if path.startswith(b'/')
    ]
    doubts = find_private(file)
    for path in (program, __file__, find_compiled_form(), file, *tools):
        if os.path.exists(path):
            doubts += find_changeable(path)
    for path in (program, __file__):
        doubts += find_unreadable(path)
    return doubts


def find_private(path: str) -> 'list[str]':
    """Return the places on the way to the configuration that only their owner can read."""
    import stat

    doubts = []
    for place, status in find_way(path):
        needed = OPEN_TO_OTHERS if stat.S_ISDIR(status.st_mode) else READABLE_BY_OTHERS
        if not status.st_mode & needed:
            who = keep_together(f'nobody but its owner can read {printable(place)}:')
            doubts.append(f'{who} a server of another user fails with 111')
    return doubts


def find_changeable(path: str) -> 'list[str]':
    """Return the places on the way to a file that not only root and this user can change."""
    import os
    import stat

    doubts = []
    for place, status in find_way(path):
        writable = status.st_mode & WRITABLE_BY_OTHERS
        is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if is_sticky or stat.S_ISLNK(status.st_mode):
            writable = 0  # in a folder such as /tmp, nobody can replace what another has there
        if writable or status.st_uid not in (0, os.geteuid()):
            who = keep_together(f'others can change {printable(place)},')
            doubts.append(f'{who} and so have every password')
    return doubts


def find_unreadable(path: str) -> 'list[str]':
    """Return the places on the way to a part of this program that a session's user cannot pass."""
    import stat

    doubts = []
    for place, status in find_way(path):
        needed = 0o001 if stat.S_ISDIR(status.st_mode) else 0o005  # a folder is only passed through
        if status.st_mode & needed != needed:
            who = keep_together(f'other users cannot read {printable(place)}:')
            doubts.append(f'{who} sessions fail after a tool has changed its uid')
    return doubts


def find_way(path: str) -> 'list[tuple[str, posix.stat_result]]':
    """Return a file, all folders and links on the way to it, wherever they lead, and their status.

    A link has the mode 0777. What is not there is left out.
    """
    import os

    way = {}
    place = '/'  # how far the way is known; no link is in it
    names = os.path.join(os.getcwd(), path).split('/')  # still to go
    for _ in range(1000):  # links can go round for ever
        if not names:
            break
        place = os.path.normpath(os.path.join(place, names.pop(0)))
        if not os.path.lexists(place):
            break
        way[place] = os.lstat(place)
        if os.path.islink(place):
            names = os.readlink(place).split('/') + names
            place = '/' if names[0] == '' else os.path.dirname(place)
    return list(reversed(way.items()))


# --test -------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """A signal asks --test to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop(number: int, frame: object) -> None:
    """Handle a signal that asks --test to end; those that come besides say the same."""
    for one in STOPPING:
        _signal.signal(one, do_nothing)
    raise Stopped(number)


class Listener:
    """Shows what a login would log, and what each tool answers, on a descriptor that none inherits.

    output: that descriptor. note: a pipe, for the number of the tool that accepts.
    """

    def __init__(self, output: int, note: int) -> None:
        self.output = output
        self.note = note
        self.number = 0  # of the tool that was heard last
        self.since = time.monotonic()

    def hear_line(self, line: str, priority: int) -> None:
        """Show a line of the log; problems go without "the log"."""
        self.show(line if priority == syslog.LOG_ERR else f'the log: {line}')

    def hear_answer(self, tool: Tool, outcome: Outcome) -> None:
        """Show a tool's answer, and note the tool that accepts."""
        now = time.monotonic()
        milliseconds = (now - self.since) * 1000
        self.since = now
        self.number += 1
        said = outcome.problem or f'{outcome.verdict}  exit code {outcome.code}'
        if outcome.verdict == NOT_ASKED:
            said = f'skipped: {said}'
        is_good = None if outcome.verdict == NOT_ASKED else outcome.verdict == ACCEPTED
        line = f'{self.number}  {tool.name}  {said}  {milliseconds:.0f} ms'
        self.show(mark(line, is_good, self.output))
        if outcome.verdict == ACCEPTED:
            posix.write(self.note, f'{self.number}'.encode())

    def show(self, line: str) -> None:
        """Write a line to the person, who may be gone."""
        try:
            posix.write(self.output, f'{line}\n'.encode(errors='replace'))
        except OSError:
            pass


def try_login(program: str, login: str) -> int:
    """Try a login as a server would, and show it.

    Returns the exit code that the server would get, or MISUSED if a tool lets everybody in. Raises
    OSError, and Stopped if a signal has ended this.
    """
    import os
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file may hold the password
    has_input = sys.stdin is not None
    reserve_descriptors()
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    for number in STOPPING:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, stop)
    try:
        password = ask_password(has_input)
        configuration = read_configuration(program)
        if configuration.values['auth'] == '0' and not configuration.problems:
            show('auth=0: everybody would be let in; the tools are asked all the same', None)
        show_user(program, ['--test', login], f'{configuration.shown_path} is tried as')
        code, note = run_login(program, make_triple(os.fsencode(login), password), None)
        if note:
            tool = configuration.tools[int(note) - 1]
            code = ask_again(program, os.fsencode(login), tool, code)
    except EOFError:
        return STOPPED + int(_signal.SIGINT)
    print(f'the exit code: {code}')
    return code


def ask_password(has_input: bool) -> bytes:
    """Return the password that is typed, or the first line of standard input. Raises OSError."""
    import getpass
    import os

    if not has_input:
        raise OSError(errno.EBADF, 'standard input is closed')
    if not os.isatty(0):
        line: bytes = sys.stdin.buffer.readline()
        return line.rstrip(b'\n')
    try:
        return os.fsencode(getpass.getpass())
    except (Stopped, EOFError):
        end_line()
        raise


def end_line() -> None:
    """End the line behind a prompt or a ^C, if the terminal is still there."""
    try:
        posix.write(1, b'\n')
    except OSError:
        pass


def make_triple(login: bytes, password: bytes) -> bytes:
    """Return a triple as a server writes it; too long ones stay so, and still fit into a pipe."""
    return b'%s\0%s\0<%d@test>\0' % (login[:600], password[:600], posix.getpid())


def run_login(program: str, triple: bytes, tool: 'Tool | None') -> 'tuple[int, str]':
    """Decide a login, or ask one tool, in a process as a server's: without terminal and input.

    tool: the one, or None for a whole login.
    Returns its exit code, and a note: of a whole login, the number of the tool that accepted (empty
    if none did); of one tool, its problem. Raises Stopped once that process is gone.
    """
    import os

    sys.stdout.flush()
    with Pipe() as pipe, Pipe() as note:
        os.write(pipe.writer, triple)
        pipe.close_end(pipe.writer)
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, STOPPING)
        child = os.fork()
        if child == 0:
            be_login(program, pipe.reader, note.writer, mask, tool)
        note.close_end(note.writer)
        try:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except Stopped:
            end_line()
            end_login(child)
            raise
        return code, os.read(note.reader, 1000).decode()


def end_login(child: int) -> None:
    """End the process of run_login(), and all that stands below it."""
    import os

    try:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            send_signal(-child, _signal.SIGTERM)
            time.sleep(0.05)
    except ChildProcessError:  # it was waited for just before the signal came
        pass


def be_login(
    program: str, triple_reader: int, note: int, mask: 'set[int]', tool: 'Tool | None'
) -> None:
    """In a new process: leave the terminal, do as run_login() says, and exit.

    triple_reader becomes descriptor 3; note is written to; mask is set again, of blocked signals.
    """
    import os

    code = TRY_LATER
    try:
        os.setsid()
        for number in STOPPING:  # still blocked; for the login below
            _signal.signal(number, _signal.SIG_IGN)
        # The login is a process of its own, as it must lead neither session nor group: see
        # Supervisor.enter_own_group(). This one is there to be waited for.
        child = os.fork()
        if child != 0:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return
        for number in STOPPING:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)  # as Python has it at a login
        listener = Listener(os.dup(1), note)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(triple_reader, 3)
        for number in (0, 1, 2):
            if number < 2 or os.isatty(2):
                os.dup2(null, number)
        posix.environ[b'AUTH'] = b'1'
        posix.environ.pop(b'AUTHORIZED', None)
        login = Login(program, [b'/usr/bin/env', b'true'], Log())  # not true itself: with a report
        login.listener = listener
        code = login.decide() if tool is None else ask_one_tool(login, tool, note)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def ask_again(program: str, login: bytes, tool: Tool, code: int) -> int:
    """Ask the tool that has accepted for a random password, and show whether it lets everybody in.

    Some tools run prog when they refuse: their own chain is the command line.

    code: with which the first question has ended. Returns that, or MISUSED.
    """
    import os

    room = TRIPLE_LIMIT - len(make_triple(login, b''))
    password = os.urandom(32).hex().encode()[:room]
    if len(password) < 16:
        show('not asked again: no room for a random password beside so long a login', None)
        return code
    second, note = run_login(program, make_triple(login, password), tool)
    if second == ACCEPT:
        show(f'{tool.name} LETS EVERYBODY IN: it has accepted a random password, too', False)
        return MISUSED
    if second == REJECT:
        show(f'asked again with a random password: {tool.name} rejects it', True)
    else:
        show(f'asked again with a random password: {tool.name} gives no verdict: {note}', None)
    return code


def ask_one_tool(login: Login, tool: Tool, note: int) -> int:
    """Ask one tool, note its problem, and return ACCEPT, REJECT or TRY_LATER.

    note: a pipe.
    """
    login.read_triple()
    login.prepare_chain(b'1')
    outcome = login.ask(tool)
    login.forget_password()
    posix.write(note, outcome.problem.encode())
    if outcome.verdict == ACCEPTED:
        login.supervisor.wait_for_session()
        return ACCEPT
    return REJECT if outcome.verdict == REJECTED else TRY_LATER


if __name__ == '__main__':
    main(__file__)
