"""On a terminal: the prompt, the marks, and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal

from tests.harness import tools
from tests.harness.logins import REJECTS, Login, alive, read_file, wait_until
from tests.harness.machine import needs
from tests.harness.people import (
    COLUMNS,
    LOUD,
    PASSWORD,
    RANDOM,
    SESSION,
    TRUE,
    Person,
    Terminal,
)

ALICE = 'alice@example.org'
HONEST = tools.knows([(ALICE, PASSWORD)])
PROMPT = 'assword: '
CTRL_C, CTRL_D, CTRL_BACKSLASH = '\3', '\4', '\x1c'
STUBBORN = (  # a tool that ignores all that a terminal sends, with a child
    "trap '' INT HUP TERM QUIT; sleep 1000 &\necho $! $$ >$dir/pids; mv $dir/pids $dir/ready; wait"
)


@needs('/dev/pts')
class OnTerminal(Person):
    def setUp(self) -> None:
        super().setUp()
        self.yes = self.tool('yes', HONEST)
        self.no = self.tool('no', REJECTS)

    def ask(self, **env: str) -> tuple[Terminal, Login]:
        """Start --test on a terminal, and wait for the prompt."""
        terminal = Terminal(self)
        login = terminal.start('--test', ALICE, env=env)
        terminal.wait_for(PROMPT)
        return terminal, login

    def run_test(self, **env: str) -> tuple[int, str]:
        """Run --test, and type the password; return exit code and what is shown."""
        terminal, login = self.ask(**env)
        terminal.type(f'{PASSWORD}\n')
        return terminal.wait_for_end(login), terminal.shown


class Prompt(OnTerminal):
    def test_what_is_typed_does_not_appear(self) -> None:
        """The tool gets it, and the terminal echoes again at the end."""
        self.settings(self.tool('keep', 'cat <&3 >>$dir/kept; exit 1'))
        terminal, login = self.ask()
        self.assertFalse(terminal.echoes())
        terminal.type(f'{PASSWORD}\n')
        self.assertEqual(terminal.wait_for_end(login), 1)
        self.assertNotIn(PASSWORD, terminal.shown)
        self.assertTrue(terminal.echoes())
        kept = read_file(self.path('kept')).split(b'\0')
        self.assertEqual(kept[:2], [ALICE.encode(), PASSWORD.encode()])

    def test_no_core_file_can_hold_the_password(self) -> None:
        """From before the prompt on, for --test itself and for the tools."""
        unlimited = resource.getrlimit(resource.RLIMIT_CORE)[1]
        self.settings(self.tool('limit', 'ulimit -c >$dir/seen; ulimit -Hc >>$dir/seen; exit 1'))
        terminal = Terminal(self)

        def allow_core_files() -> None:
            terminal.take()
            resource.setrlimit(resource.RLIMIT_CORE, (unlimited, unlimited))

        login = terminal.start('--test', ALICE, before=allow_core_files)
        terminal.wait_for(PROMPT)
        self.assertEqual(resource.prlimit(login.pid, resource.RLIMIT_CORE), (0, 0))
        terminal.type('x\n')
        self.assertEqual(terminal.wait_for_end(login), 1)
        self.assertEqual(read_file(self.path('seen')), b'0\n0\n')

    def test_tools_get_no_terminal(self) -> None:
        """/dev/tty cannot be opened, no descriptor is one, and what tools write is not shown."""
        look = self.python_tool(
            'look',
            f"""
seen = []
try:
    os.open('/dev/tty', os.O_RDWR)
    seen = ['tty opened']
except OSError:
    pass
seen += [f'{{number}} is a terminal' for number in range(256) if os.isatty(number)]
seen.append(f'input {{os.read(0, 10)!r}}')
os.write(1, b'noise'); os.write(2, b'noise')
with open({self.path('seen')!r}, 'a') as file: print(*seen, file=file)
sys.exit(1)""",
        )
        self.settings(look)
        code, shown = self.run_test()
        seen = read_file(self.path('seen')).splitlines()
        self.assertEqual((code, set(seen)), (1, {b"input b''"}), shown)
        self.assertNotIn('noise', shown)


class Marks(OnTerminal):
    def marks(self, shown: str) -> str:
        """Return the signs at the beginnings of lines: + good, ! bad, - neutral."""
        plain = re.sub('\033\\[[0-9]*m', '', shown)
        found = re.findall('(?m)^([✓✗-]) ', plain)
        return ''.join(found).replace('✓', '+').replace('✗', '!')

    def assert_colours(self, shown: str, signs: str, is_coloured: bool) -> None:
        """Bad is red and good is green, or nothing has a colour."""
        self.assertEqual('\033' in shown, is_coloured)
        self.assertEqual('\033[31m' in shown, is_coloured and '!' in signs)
        self.assertEqual('\033[32m' in shown, is_coloured and '+' in signs)

    def test_good_bad_and_neutral_have_marks(self) -> None:
        """In colour, unless NO_COLOR is set and not empty. A tool left out by users= is neutral."""
        left_out = f'users=nobody {self.no}'
        for lines, code, signs in (
            ([self.no, self.yes], 0, '!+'),
            ([left_out, self.no], 1, '-!'),
            (['/nonexistent', self.yes], 0, '!+'),
        ):
            self.settings(*lines)
            for env in ({}, {'NO_COLOR': ''}, {'NO_COLOR': '1'})[: 3 if code else 1]:
                with self.subTest(lines=lines, env=env):
                    got, shown = self.run_test(**env)
                    first = shown.partition(TRUE)[2].partition('\r\nwith ')[0]
                    self.assertEqual((got, self.marks(first)), (code, signs), shown)
                    self.assert_colours(first, signs, not env.get('NO_COLOR'))

    def test_the_same_tools_have_the_same_marks_behind_a_session(self) -> None:
        """And one that is right only for the other servers has a bad one there."""
        first_word = self.tool('first', tools.knows([(ALICE, PASSWORD)]).replace('"$@"', '"$1"'))
        for lines, signs in (([self.no, self.yes], '!+'), ([first_word], '!')):
            with self.subTest(lines=lines):
                self.settings(*lines)
                code, shown = self.run_test()
                session = shown.partition(SESSION)[2].partition(RANDOM)[0]
                self.assertEqual((code, self.marks(session)[: len(signs)]), (0, signs), shown)

    def test_that_everybody_gets_in_is_bad(self) -> None:
        """Though the tool has accepted."""
        self.settings(self.tool('lax', tools.ACCEPTS))
        for env in ({}, {'NO_COLOR': '1'}):
            with self.subTest(env=env):
                code, shown = self.run_test(**env)
                (loud,) = [line for line in shown.split('\r\n') if LOUD in line]
                self.assertEqual((code, self.marks(loud)), (2, '!'), shown)
                self.assert_colours(loud, '!', not env)

    def test_no_line_is_wider_than_the_terminal(self) -> None:
        """But for a row with a long name, or a line of the log, which is one line there, too."""
        first_word = self.tool('first', f'{tools.READS}; exec "$1"')
        self.settings('auth=0', f'name=x {first_word}')
        for line in self.run_test(NO_COLOR='1')[1].split('\r\n'):
            if not line.startswith('the log: '):
                self.assertLessEqual(len(line), COLUMNS, line)

    def test_check_has_them_too(self) -> None:
        """A good file ends in a good mark; each problem and warning has a bad one."""
        for lines, code, signs in (
            (['log=stderr', self.no], 0, '!+'),
            (['auth=0', 'log=stderr', self.no], 0, '!!+'),
            (['log=stderr', 'x'], 1, '!!!'),
        ):
            self.settings(*lines)
            for env in ({}, {'NO_COLOR': '1'}):
                with self.subTest(lines=lines, env=env):
                    terminal = Terminal(self)
                    got = terminal.wait_for_end(terminal.start('--check', env=env))
                    self.assertEqual(
                        (got, self.marks(terminal.shown)[-len(signs) :]), (code, signs)
                    )
                    self.assert_colours(terminal.shown, signs, not env)


class Interrupted(OnTerminal):
    def assert_clean(self, terminal: Terminal) -> None:
        """What is shown ends with a whole line, and no traceback; the terminal echoes."""
        self.assertTrue(terminal.shown.endswith('\r\n'), terminal.shown)
        self.assertNotIn('Traceback', terminal.shown)
        self.assertNotIn('the exit code', terminal.shown)
        self.assertTrue(terminal.echoes())

    def test_at_the_prompt_it_ends_with_a_clean_line(self) -> None:
        """By Ctrl-C, Ctrl-D, Ctrl-\\ or a signal: no tool runs, and the code is no verdict."""
        self.settings(self.yes)
        for typed, number, code in (
            (CTRL_C, None, 130),
            (CTRL_D, None, 130),
            (CTRL_BACKSLASH, None, 131),
            ('abc' + CTRL_C, None, 130),
            ('', signal.SIGINT, 130),
            ('', signal.SIGHUP, 129),
            ('', signal.SIGTERM, 143),
            ('', signal.SIGQUIT, 131),
        ):
            with self.subTest(typed=typed, signal=number):
                terminal, login = self.ask()
                terminal.type(typed)
                if number is not None:
                    os.kill(login.pid, number)
                self.assertEqual(terminal.wait_for_end(login), code)
                self.assert_clean(terminal)
        self.assertEqual(self.ran('yes'), 0)

    def wait_for_tool(self) -> list[int]:
        """Wait until the stubborn tool runs, and return its processes."""
        wait_until(lambda: os.path.exists(self.path('ready')), 'the tool is ready')
        return [int(pid) for pid in read_file(self.path('ready')).split()]

    def assert_gone(self, pids: list[int]) -> None:
        self.assertEqual(len(pids), 2)
        wait_until(lambda: not any(map(alive, pids)), 'the tool and its child are gone')

    def interrupt(self, typed: str, *numbers: int, password: str = 'x') -> int:
        """Type something and send signals while the stubborn tool runs, whatever stands before it.

        Check that all ends with a clean line, and the tool too; return the exit code.
        """
        terminal, login = self.ask()
        terminal.type(f'{password}\n')
        pids = self.wait_for_tool()
        terminal.type(typed)
        for number in numbers:
            os.kill(login.pid, number)
        code = terminal.wait_for_end(login)
        self.assert_clean(terminal)
        self.assert_gone(pids)
        return code

    def test_while_a_tool_runs_tool_and_children_end_too(self) -> None:
        """By Ctrl-C or Ctrl-\\, though the tool ignores them and has no time limit."""
        for typed, code in ((CTRL_C, 130), (CTRL_BACKSLASH, 131)):
            with self.subTest(typed=typed):
                self.begin_again()
                self.settings(f'timeout=0 {self.tool("stubborn", STUBBORN)}')
                self.assertEqual(self.interrupt(typed), code)

    def test_two_signals_at_once_end_it_as_one_does(self) -> None:
        """As a terminal that is closed while somebody types Ctrl-C: nothing is left behind."""
        for first, second in (
            (signal.SIGTERM, signal.SIGHUP),
            (signal.SIGINT, signal.SIGTERM),
            (signal.SIGQUIT, signal.SIGINT),
        ):
            with self.subTest(first=first, second=second):
                self.begin_again()
                self.settings(f'timeout=0 {self.tool("stubborn", STUBBORN)}')
                self.assertIn(self.interrupt('', first, second) - 128, (first, second))

    def test_in_every_part_it_ends_the_same_way(self) -> None:
        """Behind a session, where the tool may live on after prog, and for the random password: without the server's
        code, as nobody knows yet whether the tools are honest."""
        accepts_true = 'case $1 in *true) exec "$@" ;; esac'
        for part, body in (
            (SESSION, f'{tools.READS}; {accepts_true}; {STUBBORN}'),
            (SESSION, f'{tools.READS}; {accepts_true}; "$@"; {STUBBORN}'),
            (RANDOM, tools.knows([(ALICE, PASSWORD)], STUBBORN)),
        ):
            with self.subTest(part=part, body=body):
                self.begin_again()
                self.settings(f'timeout=0 {self.tool("stubborn", body)}')
                self.assertEqual(self.interrupt(CTRL_C, password=PASSWORD), 130)

    def test_at_any_moment_it_is_an_end_or_comes_too_late(self) -> None:
        """Also between two tools or two parts, while processes begin and end."""
        self.settings(*[self.no] * 3, self.yes)
        for shown in (TRUE, '2  ', '4  ', SESSION, RANDOM):
            for number in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(shown=shown, signal=number):
                    terminal, login = self.ask()
                    terminal.type(f'{PASSWORD}\n')
                    terminal.wait_for(shown)
                    with contextlib.suppress(ProcessLookupError):  # it may be over by now
                        os.kill(login.pid, number)
                    self.assertIn(terminal.wait_for_end(login), (0, 128 + number))
                    self.assertTrue(terminal.shown.endswith('\r\n'), terminal.shown)
                    self.assertNotIn('Traceback', terminal.shown)
                    # That line comes last, and what comes behind it is not heard any more.
                    before, is_told, _ = terminal.shown.partition('the exit code')
                    self.assertEqual(bool(is_told), login.code == 0, terminal.shown)
                    self.assertTrue('the log: ' in before.partition(RANDOM)[2] or not is_told)

    def test_a_terminal_that_hangs_up_ends_it_too(self) -> None:
        """At the prompt, and while a tool runs: nothing is left behind."""
        self.settings(f'timeout=0 {self.tool("stubborn", STUBBORN)}')
        terminal, login = self.ask()
        terminal.close()
        login.wait()
        self.assertNotIn(login.code, (0, 1))
        terminal, login = self.ask()
        terminal.type('x\n')
        pids = self.wait_for_tool()
        terminal.close()
        login.wait()
        self.assertNotIn(login.code, (0, 1))
        self.assert_gone(pids)
