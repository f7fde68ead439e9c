"""Whatever fails inside the script, nobody is let in by it, and nobody is banned for it: 111, one
line that says internal error, one result line, no traceback, and nothing from the network in it."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import unittest
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.harness import faults, machine
from tests.harness.faults import LOGIN_ONLY, REPORT_ONLY, Raises
from tests.harness.logins import ACCEPTS, QUICK, SESSION, Case, Login, Way, both_ways
from tests.harness.processes import read_file
from tests.harness.syslog import SyslogListener
from tests.harness.tools import CRASHES, HANGS

WORDS = 'alice@example.org secret'  # what an exception says: login and password of TRIPLE
INTERNAL = re.compile(r'internal error: RuntimeError in line \d+: please report it')
UNDECIDED = 'result=temporary ip=- tool=- code=111 ms=0 user=""'
AT_ONCE = 6  # logins


class Scene(NamedTuple):
    """A login in which functions have a part."""

    text: str  # the configuration, in which TEST is the test's folder
    way: Way | None  # None: without a prog, as eQmail's qmail-smtpd
    code: int  # how it ends without a fault


USUAL = """timeout=60
users=bob* /bin/false
TEST/missing "a b"
refused=1-3 /usr/bin/env --unset=A -S TEST/rejects
TEST/accepts
"""
SESSION_SCENE = Scene(USUAL, SESSION, SESSION.code)
SCENES = (  # tried in this order for each function, until a fault in it shows
    SESSION_SCENE,
    Scene('TEST/rejects\n', None, 1),
    Scene('timeout=1 TEST/hangs\nTEST/crashes\nTEST/accepts\n', QUICK, 0),
    Scene('nonsense\nTEST/accepts\n', QUICK, 111),
    Scene('TEST/accepts', QUICK, 111),  # no newline at the end
    Scene('failure=crash\nTEST/missing\n', QUICK, -15),
)
# What only the report step or --test calls, and what tells of an internal error.
ELSEWHERE = {'main', 'describe_error', 'report_and_become', 'become', 'stay_behind', 'Log.write'}
# Of the report step: whether prog is reported by then, and so the login decided.
REPORT_STEP = {
    'report_and_become': False,
    'make_report_argument': False,
    'file_identity': False,
    'join_group': True,
    'restore_environment': True,
    'become': True,
}


def login_functions() -> list[str]:
    """Return the names of all functions and methods of the script but those for people."""
    names = faults.function_names(machine.ORIGINAL)
    return names[: names.index('serve_person')]


class FaultCase(Case):
    """A test with a listener at the system log, where there can be one."""

    def setUp(self) -> None:
        super().setUp()
        self.tool('accepts', ACCEPTS)
        self.tool('rejects', 'exit 1')
        self.tool('crashes', CRASHES)
        self.tool('hangs', HANGS)
        self.session = self.tool('session', f'echo $1 >>$dir/sessions; exit {SESSION.code}')
        self.listener: SyslogListener | None = None
        if not machine.lacks('syslog'):
            stack = contextlib.ExitStack()
            self.addCleanup(stack.close)
            self.listener = stack.enter_context(SyslogListener())

    def start_with(self, scene: Scene, *given: faults.Fault) -> Login:
        """Start the login of a scene with these faults."""
        text = 'log=stderr\n' + scene.text.replace('TEST', self.folder)
        conf = self.write(f'conf{self.count}', text)
        command = self.launcher(*given, name=f'launcher{self.count}')
        prog = scene.way.prog if scene.way else ()
        if scene.way is SESSION:
            prog = (self.session, f'{self.count + 1}')
        return self.start(*prog, command=command, env={'PWRAP_CONF': conf})

    def log_of(self, login: Login) -> list[str]:
        """Return all lines of a login that is over, wherever they went."""
        told = self.listener.lines(f'qmail-pwrap[{login.pid}]') if self.listener else []
        return login.log() + [line.text for line in told]

    def session_ran(self, login: Login) -> bool:
        """Tell whether the session of a login began."""
        number = login.folder.rpartition('login')[2]
        with contextlib.suppress(FileNotFoundError):
            return number in read_file(self.path('sessions')).decode().split()
        return False

    def check_lines(self, login: Login) -> None:
        """Nothing is said but in the log, and no words of the exception stand there."""
        self.assertEqual((login.output(1), login.output(2)), (b'', b''))
        lines = self.log_of(login)
        self.assertNotIn('secret', ' '.join(lines))
        self.assertNotIn('alice', ' '.join(one for one in lines if 'result=' not in one))


class Function(FaultCase):
    def in_turn(
        self, names: Sequence[str], scene: Scene, where: str
    ) -> Iterator[tuple[str, Login]]:
        """Yield logins of a scene in which one of these functions raises an exception, each when it
        is over."""
        running: list[tuple[str, Login]] = []
        for name in names:
            fault = Raises(name, 'RuntimeError', (WORDS,), where)
            running.append((name, self.start_with(scene, fault)))
            if len(running) == AT_ONCE:
                running[0][-1].wait()
                yield running.pop(0)
        for one in running:
            one[-1].wait()
            yield one

    def test_each_function_of_a_login(self) -> None:
        """An exception in any function ends in 111, with one internal error and one result line;
        and prog does not run unless the log says accepted."""
        left = [name for name in login_functions() if name not in ELSEWHERE]
        for scene in SCENES:
            for name, login in self.in_turn([*left], scene, LOGIN_ONLY):
                with self.subTest(name, scene=scene):
                    if self.check_end(scene, login):
                        left.remove(name)
        if self.listener:  # else nobody sees the internal errors before the configuration is read
            self.assertEqual(left, [])

    def check_end(self, scene: Scene, login: Login) -> bool:
        """Check how a login ended with a fault in a function; tell whether that has shown."""
        lines = self.log_of(login)
        internal = [line for line in lines if INTERNAL.fullmatch(line)]
        results = [line for line in lines if line.startswith('result=')]
        self.check_lines(login)
        if login.code == scene.code and not internal:
            return False
        self.assertEqual(login.code, 111, lines)
        if self.listener:
            self.assertEqual(len(results), 1, lines)
            is_accepted = results[0].startswith('result=accepted')
            # While a session runs, the wrapper has nothing to log to.
            self.assertEqual(len(internal), 0 if is_accepted and not internal else 1, lines)
            if internal and lines.index(internal[0]) < lines.index(results[0]):
                self.assertEqual(results, [UNDECIDED])
            if not is_accepted:
                self.assertFalse(self.session_ran(login), lines)
        return True

    def test_when_the_first_line_is_written(self) -> None:
        """Also where the result is the first line to be made or written, there is one."""
        scene = Scene('TEST/accepts\n', QUICK, 0)
        names = ('escape', 'Login.end', 'Login.__init__', 'Outcome.__init__')
        for name, login in self.in_turn(names, scene, LOGIN_ONLY):
            with self.subTest(name):
                self.check_lines(login)
                self.assertEqual(login.code, 111)
                if self.listener:
                    lines = self.log_of(login)
                    self.assertRegex(lines[0], INTERNAL)
                    self.assertEqual(lines[1:], [UNDECIDED])

    def test_each_function_of_the_report_step(self) -> None:
        """In the report step, prog does not run, 111; before the report the tool has failed, and
        the next is asked; behind it the login is accepted."""
        scene = Scene('TEST/accepts\nTEST/rejects\n', SESSION, SESSION.code)
        tool = self.path('accepts')
        failed = f'{tool}: temporary failure, exit code 111'
        for name, login in self.in_turn([*REPORT_STEP], scene, REPORT_ONLY):
            with self.subTest(name):
                self.check_lines(login)
                lines = login.log()
                internal = [line for line in lines if INTERNAL.fullmatch(line)]
                is_early = name == 'report_and_become'
                self.assertEqual(len(internal), 0 if is_early else 1, lines)  # syslog's by then
                self.assertEqual(lines.count(failed), 0 if REPORT_STEP[name] else 1, lines)
                code, verdict = (111, 'accepted') if REPORT_STEP[name] else (1, 'temporary')
                self.assertEqual((login.code, login.result()['result']), (code, verdict))
                self.assertEqual(login.result()['tool'], tool)
                self.assertFalse(self.session_ran(login))

    @both_ways
    def test_any_exception_ends_with_111(self, way: Way) -> None:
        """It is the same with every kind of exception, those that end a program among them."""
        for error in ('MemoryError', 'KeyboardInterrupt', 'SystemExit', 'OSError', 'GeneratorExit'):
            with self.subTest(error):
                fault = Raises('Login.ask', error, (), LOGIN_ONLY)
                login = self.start_with(Scene(USUAL, way, way.code), fault).wait()
                lines = login.log()
                self.assertEqual((login.code, login.output(2)), (111, b''))
                self.assertRegex(lines[-2], rf'^internal error: {error} in line \d+: ')
                self.assertEqual(lines[-1], UNDECIDED)

    def test_the_last_resort_fails_too(self) -> None:
        """If even the internal error cannot be logged: 111, and nothing is said."""
        for broken in ('describe_error', 'Log.write'):
            with self.subTest(broken):
                given = [Raises(one, 'RuntimeError', (WORDS,)) for one in ('Login.ask', broken)]
                login = self.start_with(SESSION_SCENE, *given).wait()
                self.assertEqual((login.code, login.output(1), login.output(2)), (111, b'', b''))
                self.assertFalse(self.session_ran(login))

    def test_a_decided_login_has_one_result(self) -> None:
        """A login that is decided has its result already: an error behind that adds no second."""
        fault = Raises('Supervisor.wait_for_session', 'RuntimeError', (WORDS,), LOGIN_ONLY)
        login = self.start_with(SESSION_SCENE, fault).wait()
        self.assertEqual((login.code, login.result()['result']), (111, 'accepted'))

    def test_the_line_is_told(self) -> None:
        """The internal error tells the line of the script in which it was raised."""
        lines = read_file(machine.ORIGINAL).decode().splitlines()
        fault = faults.Replaces('Tool.serves', None, LOGIN_ONLY)
        login = self.start_with(SCENES[1], fault).wait()
        number = int(re.sub(r'.*TypeError in line (\d+): .*', r'\1', login.log()[0]))
        self.assertIn('tool.serves(', lines[number - 1])


class CutShort(Case):
    """A full disk has cut the dropped-in script."""

    def setUp(self) -> None:
        super().setUp()
        self.text = read_file(machine.SCRIPT)
        self.lines = self.text.splitlines(True)
        self.configure(self.tool('rejects', 'exit 1'))

    def test_guard_comes_first(self) -> None:
        """What makes running off the end of the file a 111 is the first statement that it runs."""
        docstring, guard, *_ = ast.parse(self.text).body
        self.assertIsInstance(docstring, ast.Expr)
        self.assertIsInstance(guard, ast.If)
        self.assertIn('atexit.register(posix._exit, 111)', ast.unparse(guard))
        self.assertLess(guard.end_lineno or 0, 30)
        self.assertNotIn(b'atexit.unregister', self.text)

    def cuts(self) -> Iterator[int]:
        """Yield where the file may be cut: at blocks of a disk, and at line ends all over, more
        behind whole statements, behind which what is left is a program."""
        yield from range(4096, len(self.text), 4096)
        module = ast.parse(self.text)
        ends = [node.end_lineno or 0 for node in module.body[1:]]
        ends += [node.end_lineno or 0 for node in ast.walk(module) if isinstance(node, ast.Return)]
        ends += range(40, len(self.lines), 40)
        for number in sorted(set(ends))[::10]:
            yield len(b''.join(self.lines[:number]))

    def test_never_lets_in(self) -> None:
        """Wherever it is cut, no login ends with 0: what still is a program ends with 111."""
        seen = set()
        running = []
        for cut in self.cuts():
            script = self.write(f'cut{cut}', self.text[:cut], 0o755)
            try:
                compile(self.text[:cut].decode(), script, 'exec')
                is_program = True
            except (SyntaxError, ValueError):
                is_program = False
            if cut < len(self.text) and (is_program or not cut % 4096):
                running.append((cut, is_program, self.start('true', command=[script])))
            if len(running) == AT_ONCE:
                seen.add(self.check(*running.pop(0)))
        seen |= {self.check(*one) for one in running}
        self.assertIn(True, seen)

    def check(self, cut: int, is_program: bool, login: Login) -> bool:
        with self.subTest(cut=cut):
            self.assertEqual(login.wait().code, 111 if is_program else 1)
        return is_program


IMPORTS = """
import atexit, importlib.util, os, signal, sys
script, folder = sys.argv[1:]
sys.dont_write_bytecode = True

def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    found = [number for number in range(50) if os.path.exists(f'/dev/fd/{number}')]
    place = os.getcwd(), os.getpgrp(), sorted(os.listdir(folder))
    return handlers, blocked, found, place, dict(os.environb), atexit._ncallbacks()

before = state()
spec = importlib.util.spec_from_file_location('qmail_pwrap', script)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert state() == before, (before, state())
assert callable(module.main)
print('as it was')
"""


class Importing(unittest.TestCase):
    def test_no_side_effect(self) -> None:
        """To import the script changes and says nothing: no handler, no descriptor, no guard."""
        folder = os.path.dirname(machine.SCRIPT)
        done = subprocess.run(
            [machine.PYTHON, '-IS', '-c', IMPORTS, machine.SCRIPT, folder],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual((done.stdout, done.stderr, done.returncode), ('as it was\n', '', 0))


if __name__ == '__main__':
    unittest.main()
