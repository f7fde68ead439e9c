"""The tools are asked in their order until one accepts; the exit code says how that went."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal

from tests.harness import faults
from tests.harness.logins import (
    ACCEPTS,
    QUICK,
    REJECTS,
    WAYS,
    Case,
    Login,
    Way,
    alive,
    both_ways,
    read_file,
    wait_until,
)
from tests.harness.tools import (
    CRASHES,
    CVM_REFUSES,
    CVM_TROUBLE,
    HANGS,
    LOOPS,
    READS,
    READY,
    VCHKPW_REFUSES,
    cvm,
    records,
    refuses,
    vchkpw,
)

VCHKPW_LINE = 'refused=1,3,12-13,15,20-23'  # as the README has it


class ChainCase(Case):
    """A test with a tool that accepts and one that refuses."""

    def setUp(self) -> None:
        super().setUp()
        self.yes = self.tool('yes', ACCEPTS)
        self.no = self.tool('no', REJECTS)


class Order(ChainCase):
    @both_ways
    def test_the_first_that_accepts_ends_the_chain(self, way: Way) -> None:
        """The tools are asked in the order of the file, each once, none after one has accepted."""
        names = ('no1', 'no2', 'yes1', 'yes2')
        tools = {}
        for name in names:
            answer = ACCEPTS if name.startswith('yes') else REJECTS
            tools[name] = self.tool(name, f'echo {name} >>$dir/order\n{answer}')
        for order, asked in (
            (names, ['no1', 'no2', 'yes1']),
            (('no2', 'yes2', 'no1', 'yes1'), ['no2', 'yes2']),
            (('no1', 'no1', 'yes2'), ['no1', 'no1', 'yes2']),
        ):
            with self.subTest(order=order):
                self.write('order', '')
                self.configure(*(tools[name] for name in order))
                self.assert_ends(self.login(*way.prog), way.code, 'accepted', tools[asked[-1]])
                self.assertEqual(read_file(self.path('order')).decode().split(), asked)

    def test_a_server_that_names_no_prog_gets_the_verdict(self) -> None:
        """Without a prog, as eQmail calls its tools, the chain decides as with prog true."""
        self.configure(self.no, self.yes)
        self.assert_ends(self.login(), 0, 'accepted', self.yes)
        self.configure(self.no, self.tool('other', refuses(5)))
        self.assert_ends(self.login(), 5, 'rejected', self.path('other'))

    @both_ways
    def test_what_cannot_run_is_skipped(self, way: Way) -> None:
        """A tool that cannot be run gets a line that says why, and the next is asked."""
        plain = self.write('plain', 'no program', 0o755)
        locked = self.write('locked', '#!/bin/sh\n', 0o644)
        for path, why in (
            (self.path('missing'), 'No such file'),
            (plain, 'Exec format'),
            (locked, 'Permission denied'),
        ):
            with self.subTest(path=path):
                self.configure(path, self.yes)
                problem = f'^{re.escape(path)}: cannot run: {why}'
                self.assert_ends(self.login(*way.prog), way.code, 'accepted', self.yes, problem)


class ServedLogins(ChainCase):
    @both_ways
    def test_only_tools_that_serve_a_login_see_its_password(self, way: Way) -> None:
        """users= keeps a tool from being asked, and so from the password, for all other logins;
        tools left out count for nothing, whatever is wrong with them."""
        other = self.tool('other', records('seen', 'exit 1'))
        down = self.tool('down', refuses(111))
        self.configure(
            'failure=temporary',
            f'users=bob {other}',
            f'users=*,!alice@* {down}',
            'users=carol /nonexistent/tool',
            f'users=*@EXAMPLE.org {self.yes}',
            self.no,
        )
        alice = self.start(*way.prog)
        bob = self.start(*way.prog, triple=b'bob\0wrong\0now\0')
        self.assert_ends(alice, way.code, 'accepted', self.yes)
        self.assert_ends(bob, 111, 'temporary', down, 'exit code 111')
        self.assertEqual(read_file(self.path('seen')), b'bob\0wrong\0now\0')
        self.assertEqual((self.ran('other'), self.ran('down'), self.ran('no')), (1, 1, 1))

    @both_ways
    def test_a_login_that_no_tool_serves_is_rejected(self, way: Way) -> None:
        """Nobody asked, nobody let in: 1."""
        for failure in ('last', 'temporary'):
            with self.subTest(failure=failure):
                self.configure(f'failure={failure}', f'users=bob {self.yes}')
                self.assert_ends(self.login(*way.prog), 1, 'rejected', '-')
        self.assertEqual(self.ran('yes'), 0)


class CodesOfALogin(Case):
    """What a login comes to that no tool accepted, and the tool that the log names."""

    ANSWERS = {
        'no': 'exit 1',
        'no3': 'exit 3',
        'no100': 'exit 100',
        'down': 'exit 111',
        'down4': 'exit 4',
    }

    def lines(self, answers: str) -> list[str]:
        """Return lines of tools that answer so, called 1, 2, 3..."""
        bodies = {
            word: self.write(word, f'#!/bin/sh\n{body}\n', 0o755)
            for word, body in self.ANSWERS.items()
        }
        words = enumerate(answers.split(), 1)
        return [f'name={number} {bodies.get(word, "/nonexistent/tool")}' for number, word in words]

    def test_failure_last_and_failure_temporary(self) -> None:
        """failure=last passes on the code of the last tool that ran. With failure=temporary, 1 says
        that all tools refused, and 111 that one gave no verdict. The log names the last that
        refused, or the first that gave no verdict, as one that cannot run gave none."""
        for answers, verdict, last, temporary, tool in (
            ('', 'rejected', 1, 1, '-'),
            ('no', 'rejected', 1, 1, '1'),
            ('no100', 'rejected', 100, 1, '1'),
            ('no no3', 'rejected', 3, 1, '2'),
            ('no3 no', 'rejected', 1, 1, '2'),
            ('no no100 no3', 'rejected', 3, 1, '3'),
            ('down', 'temporary', 111, 111, '1'),
            ('down no', 'temporary', 1, 111, '1'),
            ('no down', 'temporary', 111, 111, '2'),
            ('no down4 no', 'temporary', 1, 111, '2'),
            ('no down4', 'temporary', 4, 111, '2'),
            ('no down no down4', 'temporary', 4, 111, '2'),
            ('missing', 'temporary', 111, 111, '1'),
            ('missing missing', 'temporary', 111, 111, '1'),
            ('missing no', 'temporary', 1, 111, '1'),
            ('no3 missing', 'temporary', 3, 111, '2'),
            ('no missing down4', 'temporary', 4, 111, '2'),
            ('down missing no', 'temporary', 1, 111, '1'),
        ):
            lines = self.lines(answers) or ['users=nobody /nonexistent/tool']
            for failure, code in (('last', last), ('temporary', temporary)):
                self.configure(f'failure={failure}', 'refused=1-3,100', *lines)
                login = self.login('true')
                with self.subTest(answers=answers, failure=failure):
                    result = login.result()
                    self.assertEqual((login.code, result['code']), (code, f'{code}'))
                    self.assertEqual((result['result'], result['tool']), (verdict, tool))
                    troubles = sum(word[0] in 'dm' for word in answers.split())
                    self.assertEqual(len(login.problems()), troubles)


class ExitCodes(ChainCase):
    @both_ways
    def test_a_whole_chains_code_reaches_the_server(self, way: Way) -> None:
        """The code reaches the server, through either way."""
        down, crash = self.tool('down', refuses(111)), self.tool('crash', CRASHES)
        for name in ('no3', 'no100'):
            self.tool(name, refuses(int(name[2:])))
        missing = '/nonexistent/tool'
        trouble = 'temporary failure, exit code '
        for lines, code, result, tool, problem in (
            ([self.no, 'no3'], 3, 'rejected', 'no3', ''),
            (['failure=temporary', 'no3', 'no100'], 1, 'rejected', 'no100', ''),
            ([down, self.no], 1, 'temporary', down, trouble + '111'),
            ([missing], 111, 'temporary', missing, 'cannot run'),
            ([crash, self.yes], way.code, 'accepted', self.yes, 'killed by SIGSEGV$'),
            (['refused=1', self.no, 'no3'], 3, 'temporary', 'no3', trouble + '3$'),
        ):
            with self.subTest(lines=lines):
                self.configure(*(re.sub(r'\b(no\d+)$', self.path(r'\1'), line) for line in lines))
                tool = self.path(tool)
                self.assert_ends(self.login(*way.prog), code, result, tool, problem)

    @both_ways
    def test_behind_vchkpw_trouble_is_no_wrong_password(self, way: Way) -> None:
        """With its refused= line, vchkpw's refusals end with 1, its troubles with 111."""
        for code in (1, 12, 23, 4, 24):
            self.configure(
                'failure=temporary', f'{VCHKPW_LINE} {self.tool("vchkpw", vchkpw(code))}'
            )
            refusal = code in VCHKPW_REFUSES
            expected = (1, 'rejected') if refusal else (111, 'temporary')
            with self.subTest(code=code):
                problem = '' if refusal else f'temporary failure, exit code {code}$'
                self.assert_ends(self.login(*way.prog), *expected, self.path('vchkpw'), problem)
        self.configure(f'{VCHKPW_LINE} {self.tool("vchkpw", vchkpw(0))}')
        self.assert_ends(self.login(*way.prog), way.code, 'accepted')

    @both_ways
    def test_cvms_refusal_becomes_1(self, way: Way) -> None:
        """cvm's refusal becomes 1, which every server understands; without its file it gave no
        verdict, and the next tool may still accept."""
        tool = self.tool('cvm', cvm([('alice@example.org', 'secret')]))
        self.configure('failure=temporary', f'refused={CVM_REFUSES} {tool}')
        self.assert_ends(self.login(*way.prog), way.code, 'accepted', tool)
        wrong = b'alice@example.org\0wrong\0now\0'
        self.assert_ends(self.login(*way.prog, triple=wrong), 1, 'rejected', tool)
        for code in CVM_TROUBLE:
            broken = self.tool('cvm', refuses(code))
            self.configure('failure=temporary', f'refused={CVM_REFUSES} {broken}', self.no)
            problem = f'temporary failure, exit code {code}$'
            self.assert_ends(self.login(*way.prog), 111, 'temporary', broken, problem)


class TimeLimit(ChainCase):
    def test_who_gives_no_answer_is_killed(self) -> None:
        """A tool that takes too long is killed, with all that it has started and whatever it
        ignores; it gave no verdict, and the chain goes on."""
        helper = 'sleep 1000 & echo $! >>$dir/helpers'
        hang = self.tool('hang', f'trap "" TERM HUP INT QUIT\n{helper}\n{HANGS}')
        problem = f'^{re.escape(hang)}: timed out after 1 s and was killed$'
        logins = []
        for way in WAYS:  # all at the same time, as they take theirs
            for name, lines, code, result, tool in (
                ('alone', [], 111, 'temporary', hang),
                ('accepts', [self.yes], way.code, 'accepted', self.yes),
                ('refuses', [self.no], 1, 'temporary', hang),
                ('temporary', ['failure=temporary', self.no], 111, 'temporary', hang),
            ):
                self.configure(f'timeout=1 {hang}', *lines)
                path = shutil.copy(self.conf, self.path(f'{name} {way.name}'))
                login = self.start(*way.prog, env={'PWRAP_CONF': path})
                logins.append((path, login, code, result, tool))
        for name, login, code, result, tool in logins:
            with self.subTest(name):
                self.assert_ends(login, code, result, tool, problem)
        pids = [int(word) for name in ('helpers', 'hang.ran') for word in self.read(name).split()]
        self.assertEqual(len(pids), 16)
        wait_until(lambda: not any(map(alive, pids)), 'they are gone')

    def read(self, name: str) -> str:
        return read_file(self.path(name)).decode()

    def test_timeout_0_lets_a_tool_take_its_time(self) -> None:
        """It is not killed when another tool's time is over, nor after the longest time that can be
        waited for at once, and its answer counts."""
        self.configure(f'timeout=0 {self.tool("waits", f"{READY}; exit 5")}')
        reader, writer = os.pipe()
        with open(writer, 'wb'):
            command = self.launcher(faults.Replaces('NO_LIMIT', 0.01))
            patient = self.start('true', descriptors={0: reader}, command=command)
            os.close(reader)
            wait_until(lambda: os.path.exists(self.path('ready')), 'the tool waits')
            self.configure(f'timeout=1 {self.tool("hang", HANGS)}')
            self.assertEqual(self.login('true').code, 111)
            self.assertFalse(patient.over())
        self.assert_ends(patient, 5, 'rejected', self.path('waits'))


class Interruption(ChainCase):
    """A signal that is meant for the session comes while a tool decides."""

    @both_ways
    def test_a_login_that_is_interrupted_is_no_refusal(self, way: Way) -> None:
        """111 and temporary, whatever code the dying tool ends with and whatever failure= says;
        nobody else is asked."""
        for failure in ('last', 'temporary'):
            for trap, problem in (
                ('trap "exit 1" TERM', '^{}: interrupted, exit code 1$'),
                ('trap "exit 100" TERM', '^{}: interrupted, exit code 100$'),
                ('trap "exit 111" TERM', '^{}: temporary failure, exit code 111$'),
                (':', '^{}: killed by SIGTERM$'),
            ):
                tool = self.tool('waits', f'{trap}; : >$dir/ready; {LOOPS}')
                self.configure(f'failure={failure}', self.no, tool, self.yes)
                with self.subTest(failure=failure, trap=trap):
                    login = self.interrupt(way, signal.SIGTERM)
                    shown = problem.format(re.escape(tool))
                    self.assert_ends(login, 111, 'temporary', tool, shown)
        self.assertEqual(self.ran('yes'), 0)

    @both_ways
    def test_a_tool_may_accept_all_the_same(self, way: Way) -> None:
        """A tool that accepts although a signal has come has accepted."""
        trap = 'exit 0' if way is QUICK else 'exec "$@"'
        tool = self.tool('waits', f"{READS}; trap '{trap}' TERM; : >$dir/ready; {LOOPS}")
        self.configure(tool, self.no)
        self.assert_ends(self.interrupt(way, signal.SIGTERM), way.code, 'accepted', tool)

    def interrupt(self, way: Way, number: signal.Signals) -> Login:
        """Start a login, and send the wrapper a signal once the tool is ready."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path('ready'))
        login = self.start(*way.prog)
        wait_until(lambda: os.path.exists(self.path('ready')), 'the tool is ready')
        os.kill(login.pid, number)
        return login
