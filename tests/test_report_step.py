"""The report step, which stands in prog's place: whether prog was reached, and no session that is
not logged."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import unittest

from tests.harness import machine
from tests.harness.imported import SCRIPT
from tests.harness.logins import (
    ACCEPTS,
    REJECTS,
    SESSION,
    Login,
    Way,
    both_ways,
    read_file,
    wait_until,
)
from tests.harness.probes import ProbeCase
from tests.harness.tools import (
    CLOSES_ALL,
    FORKS,
    PYTHON_BECOMES,
    PYTHON_READS,
)

# A tool that is, in Python, its own report step: what stands in prog's place is not run.
PLAYS_THE_STEP = """
while os.read(3, 512): pass
report, answer = [int(end.partition('.')[0]) for end in argv[1].split(':')[1:3]]
"""


class Conversation(unittest.TestCase):
    """The two ends of the two pipes, by the functions that hold them."""

    def setUp(self) -> None:
        self.pipes = SCRIPT.ReportPipes()
        self.addCleanup(self.pipes.__exit__)
        self.report, self.answer = self.pipes.report, self.pipes.answer

    def exchange(self) -> bool:
        return bool(SCRIPT.exchange_report(self.report.writer, self.answer.reader))

    def test_the_step_reports_and_goes_on_when_it_is_answered(self) -> None:
        """The step writes a byte, and its answer lets it go on."""
        self.assertTrue(self.pipes.answer_the_step())
        self.assertTrue(self.exchange())
        self.assertEqual(os.read(self.report.reader, 9), b'+')

    def test_the_step_does_not_go_on_without_an_answer(self) -> None:
        """The wrapper is gone, or has given the tool up, after the report or before: prog must not
        start."""
        self.answer.close_end(self.answer.writer)
        self.assertFalse(self.exchange(), 'no answer')
        self.report.close_end(self.report.reader)
        self.assertFalse(self.exchange(), 'nobody hears the report')

    def test_the_wrapper_knows_when_the_step_is_gone(self) -> None:
        """An answer that nobody can read is no answer: the login is not logged as accepted for
        it."""
        self.pipes.close_the_steps_ends()
        self.assertFalse(self.pipes.answer_the_step())

    def test_only_the_ends_of_the_step_are_inherited(self) -> None:
        """A tool inherits the two ends that the step needs: with the others, no pipe would ever
        end."""
        inherited = {self.report.writer, self.answer.reader}
        for end in self.report.open_ends + self.answer.open_ends:
            self.assertEqual(os.get_inheritable(end), end in inherited)

    def test_the_argument_is_one_plain_word(self) -> None:
        """No tool takes it for an option, a shell would not change it, and it says what the step
        has to know."""
        ends = f'{self.report.writer}.{{}}:{self.answer.reader}.{{}}'.format(
            *(SCRIPT.file_identity(end) for end in (self.report.writer, self.answer.reader))
        )
        for to_stderr, log in ((True, 'stderr'), (False, 'syslog')):
            argument = self.pipes.make_argument(to_stderr)
            self.assertEqual(argument, f'qmail_pwrap.report:{ends}:{os.getpgrp()}:{log}')
            self.assertRegex(argument, r'^[a-z][a-z0-9_.:]+$')

    def test_a_pipe_is_known_from_any_other_file(self) -> None:
        """What identifies an end is the same for both ends of a pipe, for no other pipe, and empty
        for no file."""
        identities = [
            SCRIPT.file_identity(end)
            for pipe in (self.report, self.answer)
            for end in pipe.open_ends
        ]
        self.assertEqual(identities[0], identities[1])
        self.assertEqual(len(set(identities)), 2)
        self.report.close()
        self.assertEqual(SCRIPT.file_identity(self.report.reader), '')
        self.assertEqual(SCRIPT.file_identity('/nonexistent'), '')


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
        ):
            with self.subTest(prog=prog):
                login = self.login(prog)
                self.assertEqual((login.code, self.ran('next')), (111, 0))
                self.assertEqual(login.result()['result'], 'accepted')
                self.assertEqual(len(login.problems()), 1)
                self.assertRegex(login.problems()[0], f'^{problem}$')


class InProgsPlace(ProbeCase):
    """What stands on the command line of a tool."""

    def test_nothing_is_added_before_true(self) -> None:
        """With prog true, by any of its names, the tool gets prog as it is."""
        self.configure(self.tool('prints', 'printf "%s\\0" "$@"; exit 0'))
        for prog in (('true',), ('/bin/true',), ('/usr/bin/true',), ('true', '-x', 'a b')):
            with self.subTest(prog):
                words = self.login(*prog).output(1).decode().split('\0')[:-1]
                self.assertEqual(words, list(prog))

    def test_before_a_session_two_words_are_added(self) -> None:
        """Before any other prog stand the program and its argument, of which no shell would change
        anything."""
        self.configure(self.tool('prints', 'printf "%s\\0" "$@"; exit 0'))
        for prog in (('prog',), ('/opt/true',), ('./true', '-x'), ('falsetrue', '')):
            with self.subTest(prog):
                words = self.login(*prog).output(1).decode().split('\0')[:-1]
                self.assertEqual(words[0], machine.SCRIPT)
                self.assertRegex(
                    words[1], r'^qmail_pwrap\.report:\d+\.\d+\.\d+:\d+\.\d+\.\d+:\d+:stderr$'
                )
                self.assertEqual(words[2:], list(prog))

    def test_it_is_found_from_any_folder(self) -> None:
        """The script may be started by a relative path, and the tool may change the folder."""
        self.configure(self.tool('moves', 'cat <&3 >/dev/null; exec 3<&-; cd /; exec "$@"'))
        machine.copy_with_python(machine.SCRIPT, self.path('copy.py'))
        for command in ('./copy.py', 'bin/../copy.py'):
            with self.subTest(command):
                login = self.login(*SESSION.prog, command=(command,))
                self.assertEqual((login.code, login.problems()), (SESSION.code, []))


class ToolsThatClose(ProbeCase):
    """Behind a tool that closes the descriptors it inherits, as sudo does, nobody can report."""

    ONE = (  # closes the step's end of the report pipe, or of the other
        PYTHON_READS + 'os.close(int(argv[1].split(":")[{}].split(".")[0]))\n' + PYTHON_BECOMES
    )

    def test_their_exit_code_decides(self) -> None:
        """0 is accepted, and no further tool is asked; any other code is judged as the code of a
        tool."""
        tools = {
            'closes-all': CLOSES_ALL,
            'closes-report': self.ONE.format(1),
            'closes-answer': self.ONE.format(2),
            'forks': 'os.closerange(4, 1024)\n' + FORKS,
        }
        for name, body in tools.items():
            tool = self.python_tool(name, body)
            self.configure(tool, self.tool('next', REJECTS))
            for code, result in ((0, 'accepted'), (7, 'rejected'), (111, 'temporary')):
                with self.subTest(name, code=code):
                    before = self.ran('next')
                    login = self.login(self.tool('session', f'exit {code}'))
                    asked = self.ran('next') - before
                    self.assertEqual((login.result()['result'], asked), (result, int(code != 0)))
                    self.assertEqual(login.code, 1 if code else 0)
            self.assertEqual(self.ran('session'), 3 * (list(tools).index(name) + 1))

    def test_their_time_limit_ends_with_the_pipe(self) -> None:
        """Once nobody can report any more, a session may have begun: it is not timed, and logged
        when it ends."""
        bodies = {'closes': CLOSES_ALL, 'forks': 'os.closerange(4, 1024)\n' + FORKS}
        logins = []
        with contextlib.ExitStack() as stack:
            for name, body in bodies.items():
                tool = self.python_tool(name, body)
                self.configure(f'timeout=1 {tool}', self.tool('next', ACCEPTS))
                logins.append(stack.enter_context(self.held(self.holding(code=0))))
            outlive(1.2, *logins)
            self.assertEqual([login.log() for login in logins], [[], []])
        for login in logins:
            self.assertEqual((login.code, login.problems(), self.ran('next')), (0, [], 0))
            self.assertEqual(login.result()['result'], 'accepted')


class ToolsThatUseTheNumbers(ProbeCase):
    """A tool may open files of its own, on whatever numbers the wrapper used."""

    def test_nothing_is_written_to_their_files(self) -> None:
        """A tool has a file of its own on the number of one pipe, of the other, or of both: that
        stays empty, and prog is reached, as it would be without the wrapper."""
        victim = self.write('victim', '')
        places = '[int(end.split(".")[0]) for end in argv[2].split(":")[1:3]]'
        body = (
            f'places = {places}\n'
            'which = argv.pop(0)\n'
            f'file = os.open({victim!r}, os.O_RDWR)\n'
            'for number in {"report": places[:1], "answer": places[1:], "both": places}[which]:\n'
            '    os.dup2(file, number)\n'
            'os.close(3)\n' + PYTHON_BECOMES
        )
        tool = self.python_tool('opens', body)
        session = self.tool('session', 'exit 0')
        for which in ('report', 'answer', 'both'):
            self.configure(f'{tool} {which}')
            with self.subTest(which):
                login = self.login(session)
                self.assertEqual((login.code, login.problems()), (0, []))
                self.assertEqual(login.result()['result'], 'accepted')
        self.assertEqual((read_file(victim), self.ran('session')), (b'', 3))

    @both_ways
    def test_all_low_numbers_may_be_theirs(self, way: Way) -> None:
        """A tool that has its own file on each of 4 to 30 accepts, and nothing is written there."""
        victim = self.write('victim', '')
        body = (
            f'file = os.open({victim!r}, os.O_RDWR)\n'
            'for number in range(4, 31):\n'
            '    os.dup2(file, number)\n' + PYTHON_BECOMES
        )
        self.configure(self.python_tool('opens', body))
        login = self.login(way.prog[0] if way.code == 0 else self.tool('session', 'exit 0'))
        self.assertEqual((login.code, login.problems()), (0, []))
        self.assertEqual((login.result()['result'], read_file(victim)), ('accepted', b''))

    def test_their_pipes_are_not_taken_for_the_wrappers(self) -> None:
        """A tool has a pipe of its own on each number, from which no answer would ever come: prog
        starts."""
        body = (
            'pair = os.pipe()\n'
            'for number in range(5, 31):\n'
            '    os.dup2(pair[number % 2], number)\n' + PYTHON_BECOMES
        )
        self.configure(self.python_tool('opens', body))
        login = self.login(self.tool('session', 'exit 0'))
        self.assertEqual((login.code, self.ran('session')), (0, 1))
        self.assertEqual(login.result()['result'], 'accepted')


class StepsThatDie(ProbeCase):
    """The step ends between its report and the answer."""

    def test_the_tools_exit_code_decides(self) -> None:
        """Nobody waits for the answer any more: no session runs, so the tool is judged as one that
        never reported."""
        body = PLAYS_THE_STEP + 'os.close(answer)\nos.write(report, b"+")\nos._exit({})'
        next_one = self.tool('next', REJECTS)
        for code, result in ((0, 'accepted'), (1, 'rejected'), (111, 'temporary')):
            self.configure(self.python_tool('dies', body.format(code)), next_one)
            with self.subTest(code=code):
                before = self.ran('next')
                login = self.login('prog')
                asked = self.ran('next') - before
                self.assertEqual((login.result()['result'], asked), (result, int(code != 0)))

    def test_a_tool_that_has_been_reaped_is_not_waited_for(self) -> None:
        """Its end may have been seen together with the report: nothing more comes to wake anybody."""

        def waits() -> None:
            supervisor = SCRIPT.Supervisor(kills_on_signal=False)
            with SCRIPT.Pipe() as pipe:
                supervisor.start([os.fsencode(machine.program('true'))], {}, pipe.reader)
            wait_until(supervisor.reap, 'the end')
            supervisor.pass_signals_on()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)  # ends this process
            assert supervisor.wait(None, 0) == SCRIPT.ENDED

        self.assertTrue(machine.succeeds_in_a_child(waits))

    def test_the_tools_time_limit_still_counts(self) -> None:
        """A tool whose step has died, and that goes on for ever, is killed like any other."""
        body = PLAYS_THE_STEP + (
            'os.close(answer)\nos.write(report, b"+")\nimport signal\nsignal.pause()'
        )
        self.configure(f'timeout=1 {self.python_tool("hangs", body)}')
        login = self.login('prog')
        self.assertEqual((login.code, login.result()['result']), (111, 'temporary'))
        self.assertRegex(login.problems()[0], 'timed out after 1 s and was killed$')

    def test_a_report_is_heard_although_the_tool_has_ended(self) -> None:
        """A report comes before the end, so a tool that has reported and ended at once has
        accepted."""
        body = PLAYS_THE_STEP + (  # somebody else holds the end of the answer: it can be written
            'holder = os.fork()\n'
            'if not holder:\n    os.setsid()\n    import signal\n    signal.pause()\n'
            f'open({self.path("holder")!r}, "w").write(str(holder))\n'
            'os.write(report, b"+")\nos._exit(9)'
        )
        self.configure(self.python_tool('reports', body), self.tool('next', ACCEPTS))
        login = self.login('prog')
        os.kill(int(read_file(self.path('holder'))), signal.SIGKILL)
        self.assertEqual((login.code, login.result()['result']), (9, 'accepted'))
        self.assertEqual(self.ran('next'), 0)


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
        for number in range(24):
            line = f'timeout=1 {slow} {0.90 + number * 0.005:.3f}'
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
