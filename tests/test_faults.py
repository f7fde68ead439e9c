"""Whatever fails inside the script, nobody is let in by it, and nobody is banned for it: 111, one
line that says internal error, one result line, no traceback, and nothing from the network in it."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import unittest
from collections.abc import Iterator
from typing import NamedTuple

from tests.harness import faults, machine
from tests.harness.faults import LOGIN_ONLY, REPORT_ONLY, Raises
from tests.harness.logins import ACCEPTS, SESSION, WAYS, Case, Login, Way, both_ways
from tests.harness.processes import read_file
from tests.harness.syslog import SyslogListener
from tests.harness.tools import CRASHES, HANGS

WORDS = 'alice@example.org secret'  # what an exception says: login and password of TRIPLE
INTERNAL = re.compile(r'internal error: RuntimeError in line \d+')
UNDECIDED = 'result=temporary ip=- tool=- code=111 ms=0 user=""'
AT_ONCE = 6  # logins

# A fault here shows when prog runs already: the wrapper has answered the report step.
AFTER_THE_ANSWER = {
    'Login.end',
    'Login.forget_password',
    'Supervisor.wait_for_session',
    'end_by_signal',
}
# A fault here shows when the wrapper has closed all that it could log to.
WITHOUT_DESCRIPTORS = {'end_by_signal'}


class Scene(NamedTuple):
    """A login in which a function has a part."""

    lines: tuple[str, ...]  # of the configuration; TEST is the test's folder
    code: int | None  # how it ends without a fault, None: as prog does
    ends_in_newline: bool = True
    has_prog: bool = True


USUAL = Scene(
    (
        'timeout=60',
        'users=bob* /bin/false',
        'TEST/missing "a b"',
        'refused=1-3 /usr/bin/env --unset=A -S TEST/rejects',
        'TEST/accepts',
    ),
    None,
)
SCENES = {
    'judge_login': Scene(('TEST/rejects',), 1),
    'name_signal': Scene(('TEST/crashes', 'TEST/accepts'), None),
    'Login.give_up': Scene(('timeout=1 TEST/hangs', 'TEST/accepts'), None),
    'Supervisor.kill': Scene(('timeout=1 TEST/hangs', 'TEST/accepts'), None),
    'Supervisor.send_kill': Scene(('timeout=1 TEST/hangs', 'TEST/accepts'), None),
    'Supervisor.send': Scene(('timeout=1 TEST/hangs', 'TEST/accepts'), None),
    'send_signal': Scene(('timeout=1 TEST/hangs', 'TEST/accepts'), None),
    'Configuration.refuse': Scene(('nonsense', 'TEST/accepts'), 111),
    'Problem.__init__': Scene(('nonsense', 'TEST/accepts'), 111),
    'is_plain_line': Scene(('TEST/accepts',), 111, ends_in_newline=False),
    'find_true': Scene(('TEST/accepts',), 0, has_prog=False),
}
# What only the report step calls, and what only a login calls that has failed otherwise.
ELSEWHERE = {
    'main',
    'log_internal_error',
    'report_and_become',
    'exchange_report',
    'become',
}
# Of the report step: whether prog is reported by then, and so the login decided.
REPORT_STEP = {
    'encode_words': False,
    'report_and_become': False,
    'file_identity': False,
    'exchange_report': False,
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

    def start_with(self, way: Way, scene: Scene, *given: faults.Fault) -> Login:
        """Start the login of a scene with these faults."""
        end = '\n' if scene.ends_in_newline else ''
        lines = ['log=stderr', *scene.lines]
        text = '\n'.join(lines).replace('TEST', self.folder) + end
        conf = self.write(f'conf{self.count}', text)
        command = self.launcher(*given, name=f'launcher{self.count}')
        if self.listener:
            command = tuple(self.listener.command(command))
        prog = way.prog if way is not SESSION else (self.session, f'{self.count + 1}')
        if not scene.has_prog:
            prog = ()
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
    def in_turn(self, way: Way) -> Iterator[tuple[str, Scene, Login]]:
        """Yield the logins in which one function raises an exception, each when it is over."""
        running: list[tuple[str, Scene, Login]] = []
        for name in login_functions():
            if name in ELSEWHERE:
                continue
            scene = SCENES.get(name, USUAL)
            fault = Raises(name, 'RuntimeError', (WORDS,), LOGIN_ONLY)
            running.append((name, scene, self.start_with(way, scene, fault)))
            if len(running) == AT_ONCE:
                running[0][-1].wait()
                yield running.pop(0)
        for one in running:
            one[-1].wait()
            yield one

    def test_each_function_of_a_login(self) -> None:
        """An exception in any function ends in 111, with one internal error and one result line;
        and where prog was not reached before, it does not run."""
        unreached = set(login_functions()) - ELSEWHERE
        for way in WAYS:
            for name, scene, login in self.in_turn(way):
                with self.subTest(name, way=way.name):
                    self.check_lines(login)
                    if self.check_end(name, way, scene, login):
                        unreached.discard(name)
        if self.listener:  # else nobody sees the internal errors before the configuration is read
            self.assertEqual(unreached, set())

    def check_end(self, name: str, way: Way, scene: Scene, login: Login) -> bool:
        """Check how a login ended with a fault in a function; tell whether that has shown."""
        usual = way.code if scene.code is None else scene.code
        lines = self.log_of(login)
        internal = [line for line in lines if INTERNAL.fullmatch(line)]
        results = [line for line in lines if line.startswith('result=')]
        if login.code == usual and not internal:
            return False
        self.assertEqual(login.code, 111, lines)
        if self.listener:
            self.assertEqual(len(results), 1, lines)
            has_log = way is not SESSION or name not in WITHOUT_DESCRIPTORS or internal
            self.assertEqual(len(internal), 1 if has_log else 0, lines)
            if not results[0].startswith('result=accepted'):
                self.assertEqual(results, [UNDECIDED])
        if name not in AFTER_THE_ANSWER:
            self.assertFalse(self.session_ran(login), lines)
        return True

    def test_when_the_first_line_is_written(self) -> None:
        """Also where the result is the first line to be made or written, there is one."""
        scene = Scene(('TEST/accepts',), None)
        for name in ('escape', 'Log.write', 'Login.write_line', 'Login.end'):
            with self.subTest(name):
                fault = Raises(name, 'RuntimeError', (WORDS,), LOGIN_ONLY)
                login = self.start_with(WAYS[0], scene, fault).wait()
                self.check_lines(login)
                self.assertEqual(login.code, 111)
                if self.listener or name != 'escape':
                    lines = self.log_of(login)
                    self.assertRegex(lines[0], INTERNAL)
                    self.assertEqual(lines[1:], [UNDECIDED])

    def test_each_function_of_the_report_step(self) -> None:
        """In the report step, prog does not run, 111; before the report the tool has failed, and
        the next is asked; behind it the login is accepted."""
        logins = []
        scene = Scene(('TEST/accepts', 'TEST/rejects'), None)
        for name in REPORT_STEP:
            fault = Raises(name, 'RuntimeError', (WORDS,), REPORT_ONLY)
            logins.append((name, self.start_with(SESSION, scene, fault)))
        for name, login in logins:
            with self.subTest(name):
                login.wait()
                self.check_lines(login)
                lines = login.log()
                internal = [line for line in lines if INTERNAL.fullmatch(line)]
                is_early = name in ('encode_words', 'report_and_become')
                self.assertEqual(len(internal), 0 if is_early else 1, lines)  # syslog's by then
                tool = self.path('accepts')
                failed = f'{tool}: temporary failure, exit code 111'
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
                login = self.start_with(way, USUAL, fault).wait()
                lines = login.log()
                self.assertEqual((login.code, login.output(2)), (111, b''))
                self.assertRegex(lines[-2], rf'^internal error: {error} in line \d+$')
                self.assertEqual(lines[-1], UNDECIDED)

    @both_ways
    def test_the_last_resort_fails_too(self, way: Way) -> None:
        """If even the internal error cannot be logged: 111, and nothing is said."""
        given = [
            Raises(one, 'RuntimeError', (WORDS,)) for one in ('Login.ask', 'log_internal_error')
        ]
        login = self.start_with(way, USUAL, *given).wait()
        self.assertEqual((login.code, login.output(1), login.output(2)), (111, b'', b''))

    @both_ways
    def test_a_decided_login_has_one_result(self, way: Way) -> None:
        """A login that is decided has its result already: an error behind that adds no second."""
        for name in ('Supervisor.wait_for_session', 'end_by_signal'):
            with self.subTest(name):
                fault = Raises(name, 'RuntimeError', (WORDS,), LOGIN_ONLY)
                login = self.start_with(way, USUAL, fault).wait()
                self.assertEqual((login.code, login.result()['result']), (111, 'accepted'))

    def test_the_line_is_told(self) -> None:
        """The internal error tells the line of the script in which it was raised."""
        lines = read_file(machine.ORIGINAL).decode().splitlines()
        fault = faults.Replaces('Log.write', None, LOGIN_ONLY)
        login = self.start_with(WAYS[0], USUAL, fault).wait()
        number = int(re.sub(r'.*TypeError in line (\d+)$', r'\1', login.log()[0]))
        self.assertIn('self.log.write(', lines[number - 1])


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
        for number in sorted(set(ends))[::5]:
            yield len(b''.join(self.lines[:number]))

    def test_never_lets_in(self) -> None:
        """Wherever it is cut, no login ends with 0: what still is a program ends with 111."""
        seen = set()
        running = []
        for cut in self.cuts():
            script = self.write(f'cut{cut}', self.text[:cut], 0o755)
            try:
                compile(self.text[:cut], script, 'exec')
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
