"""The report step, which stands in prog's place: only its report accepts, and no session is not
logged."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import unittest

from tests.harness import faults, machine
from tests.harness.logins import (
    ACCEPTS,
    QUICK,
    REJECTS,
    SESSION,
    Login,
    read_file,
    wait_until,
)
from tests.harness.probes import ProbeCase
from tests.harness.tools import (
    CLOSES_ALL,
    FORKS,
    LOOPS,
    PYTHON_BECOMES,
    PYTHON_READS,
    READS,
)

# A tool that is, in Python, its own report step: what stands in prog's place is not run.
PLAYS_THE_STEP = """
while os.read(3, 512): pass
own = argv[1].encode()
report, answer = map(int, argv[1].split(':')[1:3])
"""
REPORTS = PLAYS_THE_STEP + 'os.write(report, own)\n'


class InProgsPlace(ProbeCase):
    """What stands on the command line of a tool."""

    def words(self, *prog: str) -> list[str]:
        """Return the words that a tool gets."""
        self.configure(self.tool('prints', 'printf "%s\\0" "$@"; exit 1'))
        return self.login(*prog).output(1).decode().split('\0')[:-1]

    def test_nothing_is_added_before_a_prog_that_is_no_session(self) -> None:
        """Before true, by any of its names, and before Dovecot's checkpassword-reply, wherever it is: a tool gets
        prog as it is."""
        for prog in (
            *(('true',), ('/bin/true',), ('/usr/bin/true',), ('true', '-x', 'a b')),
            *(('/usr/lib/dovecot/checkpassword-reply',), ('checkpassword-reply', '', 'x')),
            ('./checkpassword-reply',),
        ):
            with self.subTest(prog):
                self.assertEqual(self.words(*prog), list(prog))

    def test_before_a_session_two_words_are_added(self) -> None:
        """Before any other prog stand the program and its argument, of which no shell would change
        anything, and no tool takes it for an option."""
        for prog in (
            *(('prog',), ('/opt/true',), ('./true', '-x'), ('falsetrue', '')),
            *(('my-checkpassword-reply',), ('/checkpassword-reply/x',), ('checkpassword-reply2',)),
        ):
            with self.subTest(prog):
                words = self.words(*prog)
                self.assertEqual(words[0], self.command[0])
                self.assertRegex(words[1], r'^qmail_pwrap\.report:\d+:\d+:\d+:2:\d+\.\d+:\d+\.\d+$')
                self.assertEqual(words[2:], list(prog))

    def test_it_is_found_from_any_folder(self) -> None:
        """The script may be started by a relative path, and the tool may change the folder."""
        self.configure(self.tool('moves', f'{READS}; cd /; exec "$@"'))
        machine.copy_with_python(machine.SCRIPT, self.path('copy.py'))
        for command in ('./copy.py', 'bin/../copy.py'):
            with self.subTest(command):
                login = self.login(*SESSION.prog, command=(command,))
                self.assertEqual((login.code, login.problems()), (SESSION.code, []))


class NoSession(ProbeCase):
    """Behind true and checkpassword-reply a tool's own end decides, so one that runs only the first word of
    prog, as Dovecot's documentation has it, is right."""

    FIRST_WORD_ONLY = {
        'shell': f'{READS}; exec $1',
        'execl': PYTHON_READS + 'os.execl(argv[0], argv[0])',
        'system': PYTHON_READS + 'os._exit(os.WEXITSTATUS(os.system(argv[0])))',
    }

    def setUp(self) -> None:
        super().setUp()
        self.tools = {
            name: (self.tool if name == 'shell' else self.python_tool)(name, body)
            for name, body in self.FIRST_WORD_ONLY.items()
        }
        self.reply = self.tool('checkpassword-reply', 'echo reply >&4')

    def test_who_runs_only_the_first_word_accepts(self) -> None:
        """With 0; and the reply has descriptor 4."""
        for name, tool in self.tools.items():
            self.configure(tool, self.tool('next', ACCEPTS))
            with self.subTest(name), open(self.path('4'), 'w+b') as four:
                login = self.login('/bin/true')
                self.assert_ends(login, 0, 'accepted', tool)
                login = self.login(self.reply, descriptors={4: four.fileno()})
                self.assert_ends(login, 0, 'accepted', tool)
                self.assertEqual(read_file(self.path('4')), b'reply\n')
        self.assertEqual(self.ran('next'), 0)

    def test_a_code_of_the_reply_is_the_tools(self) -> None:
        """Any other end of it is judged as the tool's own."""
        for code, expected in ((1, (1, 'rejected')), (111, (111, 'temporary'))):
            reply = self.tool('checkpassword-reply', f'exit {code}')
            self.configure(self.tools['shell'])
            with self.subTest(code=code):
                login = self.login(reply)
                self.assertEqual((login.code, login.result()['result']), expected)

    def test_behind_a_session_0_is_no_report(self) -> None:
        """A tool that ends with 0 and has not reached prog is in trouble: 111, also with failure=last, and the next
        one is asked."""
        zero = self.tool('zero', f'{READS}; exit 0')
        no, yes = self.tool('no', REJECTS), self.tool('yes', ACCEPTS)
        problem = f'^{re.escape(zero)}: ended with 0, but prog was not reached$'
        for lines, code, result, tool in (
            ([zero], 111, 'temporary', zero),
            (['failure=last', no, zero], 111, 'temporary', zero),
            (['failure=temporary', zero, no], 111, 'temporary', zero),
            (['failure=last', zero, no], 1, 'temporary', zero),
            ([zero, yes], SESSION.code, 'accepted', yes),
        ):
            with self.subTest(lines=lines):
                self.configure(*lines)
                self.assert_ends(self.login(*SESSION.prog), code, result, tool, problem)
        self.configure(zero)
        self.assert_ends(self.login(*QUICK.prog), 0, 'accepted', zero)


class Session(ProbeCase):
    """What happens once the step has been answered."""

    def test_is_logged_when_it_begins(self) -> None:
        """The result line stands in the log as soon as the session runs, and there is no other at
        its end."""
        with self.held(self.holding(code=6)) as login:
            self.assertEqual(login.result()['result'], 'accepted')
        self.assertEqual((login.code, len(login.log())), (6, 1))

    def test_behind_a_tool_that_waits_for_it_is_not_timed(self) -> None:
        """A tool that forks, and waits for the session, is not killed when its time is over."""
        forks = self.python_tool('forks', FORKS)
        self.configure(f'timeout=1 {forks}', self.tool('next', ACCEPTS))
        with self.held(self.holding(code=6)) as login:
            outlive(1.2, login)
        self.assertEqual((login.code, len(login.log()), self.ran('next')), (6, 1, 0))

    def test_that_cannot_be_run_is_a_temporary_failure(self) -> None:
        """A prog that is not there, or no program: 111, with a line that names it, and no further
        tool."""
        self.configure(self.yes, self.tool('next', ACCEPTS))
        shown = re.escape(self.folder)
        self.write('bin/locked', '', 0o644)
        self.write('bin/text', 'exit 0\n', 0o755)
        for prog, problem in (
            (
                self.path('missing'),
                rf'{shown}/missing: prog cannot be run: No such file or directory',
            ),
            ('missing', 'missing: prog cannot be run: No such file or directory'),
            (self.folder, f'{shown}: prog cannot be run: Permission denied'),
            (
                self.write('plain', '', 0o644),
                f'{shown}/plain: prog cannot be run: Permission denied',
            ),
            (
                self.write('no-shebang', 'exit 0\n', 0o755),
                f'{shown}/no-shebang: prog cannot be run: Exec format error',
            ),
            ('', r': prog cannot be run: No such file or directory'),
            # Looked up on PATH, a reason says more than that it is not there, in whichever folder.
            ('locked', 'locked: prog cannot be run: Permission denied'),
            ('text', 'text: prog cannot be run: Exec format error'),
        ):
            with self.subTest(prog=prog):
                login = self.login(prog)
                self.assertEqual((login.code, self.ran('next')), (111, 0))
                self.assertEqual(login.result()['result'], 'accepted')
                self.assertEqual(len(login.problems()), 1)
                self.assertRegex(login.problems()[0], f'^{problem}$')


class WithoutPipes(ProbeCase):
    """Behind a tool that closes the descriptors it inherits, as sudo does, or uses their numbers for files of
    its own, nobody can report: prog does not begin."""

    HELPS = ('has closed descriptors', 'exec "$@"', 'sudo -C 64', 'close_fds=False')
    CLOSES_ONE = PYTHON_READS + 'os.close({}[{}])\n' + PYTHON_BECOMES
    USES = (
        PYTHON_READS
        + """
file = os.open(VICTIM, os.O_RDWR)
for number in {}:
    os.dup2(file, number)
"""
        + PYTHON_BECOMES
    )
    OWN_PIPES = (  # from which no answer would ever come
        PYTHON_READS
        + """
pair = os.pipe()
for number in range(5, 31):
    os.dup2(pair[number % 2], number)
"""
        + PYTHON_BECOMES
    )
    PLACES = 'list(map(int, argv[1].split(":")[1:3]))'
    FORKS_AND_CLOSES = FORKS.replace('not child:', 'not child:\n    os.closerange(3, 1024)')
    BODIES = {
        'closes all': CLOSES_ALL,
        'closes one': CLOSES_ONE.format(PLACES, 0),
        'closes the other': CLOSES_ONE.format(PLACES, 1),
        'only its child closes': FORKS_AND_CLOSES,
        'subprocess': PYTHON_READS + 'import subprocess\nos._exit(subprocess.call(argv))',
        'its file on one': USES.format(PLACES + '[:1]'),
        'its file on the other': USES.format(PLACES + '[1:]'),
        'its file on both': USES.format(PLACES),
        'its file on all': USES.format('range(4, 31)'),
        'its pipes': OWN_PIPES,
    }

    def setUp(self) -> None:
        super().setUp()
        self.session = self.tool('session', 'exit 7')
        self.victim = self.write('victim', '')

    def python_tool(self, name: str, body: str) -> str:
        return super().python_tool(name, f'VICTIM = {self.path("victim")!r}\n{body}')

    def assert_helped(self, login: Login, tool: str, problem: str) -> None:
        """The step has said what helps, and the wrapper what became of the tool."""
        self.assertEqual(len(login.problems()), 2, login.log())
        for words in self.HELPS:
            self.assertIn(words, login.problems()[0])
        self.assertEqual(login.problems()[1], f'{tool}: {problem}')

    def test_it_is_trouble(self) -> None:
        """The log says what helps, nothing is written to the tool's files, and the next tool is asked."""
        yes = self.tool('yes', ACCEPTS)
        for name, body in self.BODIES.items():
            tool = self.python_tool('tool', body)
            self.configure(tool, yes)
            before = self.ran('session')
            with self.subTest(name):
                login = self.login(self.session)
                self.assertEqual(
                    (login.code, login.result()['result'], login.result()['tool']),
                    (7, 'accepted', yes),
                )
                self.assert_helped(login, tool, 'temporary failure, exit code 111')
                self.assertEqual(self.ran('session') - before, 1)
        self.assertEqual(read_file(self.victim), b'')
        self.configure(tool)
        login = self.login(self.session)
        self.assertEqual((login.code, login.result()['result']), (111, 'temporary'))

    def test_the_time_limit_holds(self) -> None:
        """Although nobody can report any more: a tool that goes on for ever is killed."""
        body = self.FORKS_AND_CLOSES.replace('os._exit(', 'import time; time.sleep(1000); (')
        bodies = {'holds': body, 'closes': 'os.closerange(4, 1024)\n' + body}
        tools = [self.python_tool(name, text) for name, text in bodies.items()]
        logins = [self.start(self.session, env=self.chain(f'timeout=1 {tool}')) for tool in tools]
        for tool, login in zip(tools, logins):
            with self.subTest(tool):
                self.assertEqual(login.wait().code, 111)
                self.assertEqual(login.result()['result'], 'temporary')
                self.assert_helped(login, tool, 'timed out after 1 s and was killed')
        self.assertEqual(self.ran('session'), 0)

    def test_with_prog_true_all_numbers_may_be_theirs(self) -> None:
        """There nobody reports, and a tool with its own file on each of 4 to 30 accepts."""
        tool = self.python_tool('tool', self.BODIES['its file on all'])
        self.configure(tool)
        self.assert_ends(self.login(*QUICK.prog), 0, 'accepted', tool)
        self.assertEqual(read_file(self.victim), b'')


class Reports(ProbeCase):
    """What is a report, and what comes of it."""

    def test_is_the_steps_own_argument_whole(self) -> None:
        """Whatever else a tool writes to what it has inherited is none: its end decides as before. What stands
        before a report does not matter."""
        other = 'argv[1].replace(":2:", ":1:").encode()'  # another descriptor for the log
        for writes, accepts in (
            ('b"+"', False),
            ('b"junk" * 15000', False),
            ('own[:-1]', False),
            ('own[1:]', False),
            (other, False),
            ('own', True),
            ('b"+" + own', True),
            ('b"junk" * 15000 + own', True),
            ('own[:-1] + own', True),
        ):
            for code, result in ((1, 'rejected'), (0, 'temporary')):
                tool = self.python_tool(
                    'tool', f'{PLAYS_THE_STEP}os.write(report, {writes})\nos._exit({code})'
                )
                self.configure(tool)
                with self.subTest(writes=writes, code=code):
                    login = self.login('prog')
                    if accepts:
                        self.assert_ends(login, code, 'accepted', tool)
                    elif code == 1:
                        self.assert_ends(login, 1, result, tool)
                    else:
                        self.assert_ends(login, 111, result, tool, 'ended with 0, but prog')

    def test_is_final(self) -> None:
        """However the step dies behind it, before or after the answer: accepted, nobody else is asked, and the
        tool's own end is the session's."""
        die = 'import signal\nsignal.signal(signal.SIGTERM, signal.SIG_DFL)\n'
        for name, end, code in (
            ('0', 'os._exit(0)', 0),
            ('1', 'os._exit(1)', 1),
            ('111', 'os._exit(111)', 111),
            ('signal', die + 'os.kill(os.getpid(), 15)', -signal.SIGTERM),
            ('unread answer', 'os.close(answer)\nos._exit(9)', 9),
            ('answered', 'os.read(answer, 1)\nos._exit(9)', 9),
            ('held', 'if not os.fork():\n    import time; time.sleep(1000)\nos._exit(9)', 9),
        ):
            tool = self.python_tool('dies', REPORTS + end)
            self.configure(f'refused=1-255 {tool}', self.tool('next', ACCEPTS))
            with self.subTest(name):
                self.assert_ends(self.login('prog'), code, 'accepted', tool)
        self.assertEqual(self.ran('next'), 0)

    def test_is_logged_before_it_is_answered(self) -> None:
        """When the answer comes, the line is in the log."""
        body = 'os.read(answer, 1)\nprint(os.pread(2, 9999, 0))'
        self.configure(self.python_tool('looks', REPORTS + body))
        for _ in range(5):
            self.assertIn(b'result=accepted', self.login('prog').output(1))

    def test_that_cannot_be_logged_is_not_answered(self) -> None:
        """If the wrapper dies of its log, no session begins."""
        self.configure(self.tool('yes', ACCEPTS))
        command = self.launcher(faults.Raises('Log.write', where=faults.LOGIN_ONLY))
        login = self.login(self.tool('session', 'exit 0'), command=command)
        wait_until(login.settle, 'nothing is left of it')
        self.assertEqual((login.code, self.ran('yes'), self.ran('session')), (111, 1, 0))


class GivenUp(ProbeCase):
    """A tool that accepts once the wrapper has given it up, or is gone, gets no session."""

    # A helper of the tool leaves its group, and runs prog when the file "go" is there.
    LATE = """
        setsid sh -c 'echo $$ >>$0/away; while [ -d $0 ] && [ ! -e $0/go ]; do sleep 0.02; done
                      "$@"; echo $? >$0/answer.new; mv $0/answer.new $0/answer' $dir "$@" &
        while [ -d $dir ] && [ ! -s $dir/away ]; do sleep 0.02; done
        """

    def setUp(self) -> None:
        super().setUp()
        self.session = self.tool('session', 'exit 7')

    def answer(self) -> bytes:
        """Let the late helper go on; return the code with which prog ended for it."""
        self.write('go', '')
        wait_until(lambda: os.path.exists(self.path('answer')), 'the late helper got an answer')
        return read_file(self.path('answer')).strip()

    def test_after_it_was_killed_for_its_time(self) -> None:
        """Once its time is over, who tries to become prog gets 111."""
        for seconds in (1, 4, 16, 60):  # on a busy machine its first second may not suffice
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path('away'))
            self.configure(f'timeout={seconds} {self.tool("late", self.LATE + "sleep 1000")}')
            login = self.login(self.session)
            if os.path.exists(self.path('away')):
                break
        self.check(login, 111, 'temporary', 'timed out')

    def test_after_it_refused_or_died(self) -> None:
        """Once the tool itself has ended with a refusal, or by a signal, it is the same."""
        for body, code, result, problem in (
            ('exit 1', 1, 'rejected', ''),
            ('kill -KILL $$', 111, 'temporary', 'killed by SIGKILL'),
        ):
            self.configure(f'timeout=0 {self.tool("late", self.LATE + body)}')
            with self.subTest(body):
                self.check(self.login(self.session), code, result, problem)
            for file in ('go', 'answer', 'away'):
                os.unlink(self.path(file))

    def test_in_its_last_second(self) -> None:
        """A tool that accepts when it is told to end, in the second before it is killed, is too late."""
        logins = []
        for prog, accepts in (('true', 'exit 0'), (self.session, 'exec "$@"')):
            trap = f"trap ': >$0.told; {accepts}' TERM"  # which may come once more meanwhile
            tool = self.tool(accepts[:4], f'{READS}; {trap}; {LOOPS}')
            logins.append(self.start(prog, env=self.chain(f'timeout=1 {tool}')))
        for login in logins:
            problem = 'timed out after 1 s and was killed$'
            self.assert_ends(login, 111, 'temporary', None, problem)
        for name in ('exit', 'exec'):
            self.assertTrue(os.path.exists(self.path(f'{name}.told')))
        self.assertEqual(self.ran('session'), 0)

    def check(self, login: Login, code: int, result: str, problem: str) -> None:
        log = login.log()
        self.assertEqual((self.answer(), self.ran('session')), (b'111', 0))
        self.assertEqual((login.code, login.result()['result']), (code, result))
        self.assertEqual(len(login.problems()), 1 if problem else 0, log)
        self.assertIn(problem, log[0])
        self.assertEqual(login.log(), log, 'nothing is logged afterwards')

    def test_after_the_wrapper_was_killed(self) -> None:
        """Nobody logs the login any more, so no session begins."""
        late = (
            'while [ -d $dir ] && [ ! -e $dir/go ]; do sleep 0.02; done\n'
            '"$@"; echo $? >$dir/answer.new; mv $dir/answer.new $dir/answer'
        )
        self.configure(self.tool('late', late))
        login = self.start(self.session)
        wait_until(lambda: self.ran('late'), 'the tool runs')
        login.kill()
        self.assertEqual((self.answer(), self.ran('session')), (b'111', 0))

    def test_at_the_last_moment(self) -> None:
        """However close to its time limit a tool accepts: prog runs exactly if the login was logged
        as accepted."""
        session = self.write(
            'moment', f'#!/bin/sh\necho >>{self.folder}/session.$1\nexit 7\n', 0o755
        )
        body = 'cat <&3 >/dev/null; delay=$1; shift; sleep $delay; exec "$@"'
        slow, bad = self.tool('slow', body), self.tool('bad', REJECTS)
        logins: list[Login] = []
        for number in range(12):
            line = f'timeout=1 {slow} {0.90 + number * 0.01:.3f}'
            path = self.write(f'chain{number}', f'log=stderr\n{line}\n{bad}\n')
            logins.append(self.start(session, str(number), env={'PWRAP_CONF': path}))
        for number, login in enumerate(logins):
            login.wait()
            ran = os.path.exists(self.path(f'session.{number}'))
            expected = (7, 'accepted') if ran else (1, 'temporary')
            with self.subTest(number=number, ran=ran):
                self.assertEqual((login.code, login.result()['result']), expected)
                self.assertEqual(login.result()['tool'], slow)
                self.assertEqual(len(login.problems()), 0 if ran else 1)


def outlive(seconds: float, *logins: Login) -> None:
    """Return when this time is over; AssertionError if one of the logins is over before."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end or any(one.over() for one in logins), 'time goes by')
    for login in logins:
        if login.over():
            raise AssertionError(f'it did not outlive its time limit: {login.log()}')


if __name__ == '__main__':
    unittest.main()
