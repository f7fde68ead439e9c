"""--test tries a login as a server would, and shows what each tool says."""

from __future__ import annotations

import functools
import os
import signal

from tests.harness import tools
from tests.harness.logins import REJECTS, RESULT, Login, alive, read_file, wait_until
from tests.harness.machine import needs
from tests.harness.people import PASSWORD, Person, rows_in

ALICE = 'alice@example.org'
HONEST = tools.knows([(ALICE, PASSWORD)])


class Try(Person):
    """With an honest tool that knows alice, and one that refuses everybody."""

    def setUp(self) -> None:
        super().setUp()
        self.yes = self.tool('yes', HONEST)
        self.no = self.tool('no', REJECTS)


class Rows(Try):
    def test_each_tool_has_a_row_as_it_is_tried(self) -> None:
        """Number, name, verdict, exit code and milliseconds; none behind the one that accepts."""
        down = self.tool('down', tools.refuses(111))
        unrun = self.tool('unrun', tools.refuses(127))
        own = self.tool('own', tools.refuses(100))
        trouble = self.tool('trouble', tools.refuses(4))
        crash = self.tool('crash', tools.CRASHES)
        hang = self.tool('hang', tools.HANGS)
        missing = self.path('missing')
        self.settings(
            '# a line',
            f'name=refuses {self.no}',
            own,
            f'refused=1,3 {trouble}',
            down,
            unrun,
            crash,
            f'timeout=1 {hang}',
            f'users=*@example.net,!bob* {self.no}',
            missing,
            f'name=good {self.yes}',
            f'name=never {self.no}',
        )
        code, lines = self.try_login()
        self.assertEqual(code, 0, lines)
        rows = rows_in(lines)
        wanted = (
            ('refuses', 'rejected', 1),
            (own, 'rejected', 100),
            (trouble, 'temporary failure, exit code 4', None),
            (down, 'temporary failure, exit code 111', None),
            (unrun, 'temporary failure, exit code 127', None),
            (crash, 'killed by SIGSEGV', None),
            (hang, 'timed out after 1 s and was killed', None),
            (self.no, 'skipped: users=*@example.net,!bob*', None),
            (missing, 'cannot run: No such file or directory', None),
            ('good', 'accepted', 0),
        )
        self.assertEqual(len(rows), len(wanted), rows)
        for number, (row, (name, words, exit_code)) in enumerate(zip(rows, wanted), 1):
            with self.subTest(tool=name):
                said = [] if exit_code is None else [f'exit code {exit_code}']  # it has none
                self.assertEqual(row[:-1], [str(number), name, words, *said])
                self.assertRegex(row[-1], r'^\d+ ms$')
        self.assertGreaterEqual(int(rows[6][-1].split()[0]), 1000)

    def test_a_file_that_is_not_valid_asks_nobody(self) -> None:
        """The problem and 111 are shown; nothing says that auth=0 lets everybody in."""
        for first in ('colour=red', 'auth=0 colour=red'):
            with self.subTest(first=first):
                self.settings('auth=0', first, self.no)
                code, lines = self.try_login()
                self.assertEqual(code, 111)
                problem = 'unknown setting colour=' if first[0] == 'c' else 'auth= is set twice'
                self.assertIn(f'{self.conf}:2: {problem}', lines)
                text = '\n'.join(lines)
                self.assertRegex(text, 'the log: result=temporary ip=- tool=- code=111 ')
                self.assertNotIn('let in', text)
        self.assertEqual(self.ran('no'), 0)


class ExitCode(Try):
    def assert_as_server(self, login: str) -> None:
        """--test shows and ends with what a server would get, and the line that would be logged."""
        triple = f'{login}\0{PASSWORD}\0\0'.encode('utf-8', 'surrogateescape')
        address = {'TCPREMOTEIP': '192.0.2.7'}
        server = self.login('/bin/sh', '-c', 'exit 0', triple=triple, env=address)
        code, shown = self.try_login(login, env=address)
        self.assertEqual(code, server.code)
        self.assertEqual(shown[-1], f'the exit code: {code}')
        (logged,) = [line[9:] for line in shown if line.startswith('the log: ')]
        match = RESULT.match(logged)
        assert match
        self.assertEqual({**match.groupdict(), 'ms': ''}, {**server.result(), 'ms': ''})

    def test_is_the_one_that_a_server_would_get(self) -> None:
        """Whatever tools say and failure= says."""
        own, down = (self.tool(f'no{code}', tools.refuses(code)) for code in (100, 111))
        two, unrun = (self.tool(f'no{code}', tools.refuses(code)) for code in (2, 126))
        crash = self.tool('crash', 'ulimit -c 0; kill -KILL $$')
        missing = self.path('missing')
        for lines in (
            [self.yes],
            [self.no, self.yes],
            [self.no],
            [two],
            [own],
            [unrun],
            [down, self.no],
            ['failure=temporary', down, self.no],
            ['failure=temporary', own],
            ['refused=1', own],
            [crash],
            [missing],
            [missing, self.no],
            ['failure=temporary', missing, self.no],
            [f'users=nobody {self.yes}'],
            [f'name=x {self.no}'],
        ):
            with self.subTest(lines=lines):
                self.configure(*lines)
                self.assert_as_server(ALICE)

    def test_is_so_for_odd_logins_too(self) -> None:
        """Which are escaped where they are shown, and can be words that look like commands."""
        self.configure(f'name=x {self.no}')
        for login in ('a "b" ip=192.0.2.9 \x1b[2J', '', 'x' * 600, '-x', '--check', '\udce4'):
            with self.subTest(login=login):
                self.assert_as_server(login)
                text = ''.join(self.try_login(login)[1])
                self.assertTrue(text.isprintable() and text.isascii(), text)

    def test_a_tool_that_ends_with_0_before_prog_is_found_out(self) -> None:
        """As --test has a prog behind the report step, as a POP3 server has."""
        seen = self.path('seen')
        see = self.python_tool(
            'see',
            f"with open({seen!r}, 'w') as file: file.write('\\n'.join(argv))\n"
            + tools.PYTHON_ACCEPTS,
        )
        self.settings(see)
        self.try_login()
        argv = read_file(seen).decode().split('\n')
        self.assertEqual((argv[0], argv[2:]), (self.command[0], ['/usr/bin/env', 'true']))
        self.assertTrue(argv[1].startswith('qmail_pwrap.report:'), argv)


class Environment(Try):
    def test_auth_of_the_caller_does_not_count(self) -> None:
        """The chain is asked, and tools see AUTH=1; AUTHORIZED makes no user lookup of it."""
        see = self.tool('see', f'printf %s "$AUTH$AUTHORIZED" >$dir/seen; {REJECTS}')
        self.settings(see)
        for env in ({'AUTH': '0'}, {'AUTH': 'pop'}, {'AUTH': ''}, {}, {'AUTHORIZED': '1'}):
            with self.subTest(env=env):
                code, lines = self.try_login(env=env)
                self.assertEqual(code, 1)
                self.assertNotIn('auth=0', '\n'.join(lines))
                self.assertEqual(read_file(self.path('seen')), b'1')
        self.assertEqual(self.try_login(given=b'\n', env={'AUTHORIZED': '1'})[0], 1)
        self.assertEqual(self.ran('see'), 5)  # an empty password is refused before any tool

    def test_auth_0_of_the_file_is_told_and_the_chain_asked(self) -> None:
        """Before the tools, with what it means."""
        self.settings('auth=0', self.no)
        for env in ({}, {'AUTH': '0'}):
            with self.subTest(env=env):
                code, lines = self.try_login(env=env)
                self.assertEqual(code, 1)
                (said,) = [at for at, line in enumerate(lines) if line.startswith('auth=0: every')]
                (row,) = [at for at, line in enumerate(lines) if f'{self.no}  rejected' in line]
                self.assertLess(said, row)

    def test_tools_get_no_input(self) -> None:
        """What follows the password reaches no tool, and what tools print is not shown."""
        read = self.tool('read', 'cat >$dir/input; echo noise; exit 1')
        self.settings(read)
        code, lines = self.try_login(given=b'password\nsecond line\n')
        self.assertEqual((code, read_file(self.path('input'))), (1, b''))
        self.assertNotIn('noise', '\n'.join(lines))

    def test_works_where_sigchld_is_ignored(self) -> None:
        """As some shells and job schedulers leave it."""
        self.settings(self.no, self.yes)
        code, lines = self.try_login(before=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
        self.assertEqual(code, 0, lines)
        self.assertEqual(len(rows_in(lines)), 2, lines)


class Password(Try):
    def test_is_the_first_line_of_an_input_that_is_no_terminal(self) -> None:
        """With or without a newline, and whatever bytes, in any locale."""
        self.settings(f'empty=1 {self.tool("keep", tools.records("kept", "exit 1"))}')
        for given, password in (
            (b'a b\n', b'a b'),
            (b'a b', b'a b'),
            (b'one\ntwo\n', b'one'),
            (b'', b''),
            (b'\n', b''),
            (b'\xe4\xff"\'\\$x \n', b'\xe4\xff"\'\\$x '),
            (b'p' * 100 + b'\n', b'p' * 100),
        ):
            for locale in ('C', 'C.UTF-8', 'de_DE.ISO-8859-1'):
                with self.subTest(given=given, locale=locale):
                    env = {'LC_ALL': locale}
                    self.assertEqual(self.try_login('alice', given=given, env=env)[0], 1)
                    login, said, stamp, rest = read_file(self.path('kept')).split(b'\0')
                    self.assertEqual((login, said, rest), (b'alice', password, b''))
                    self.assertRegex(stamp, rb'^<.+@.+>$')

    def test_that_is_too_long_is_refused_as_a_servers(self) -> None:
        """The triple exceeds 512 bytes, and no tool runs."""
        self.settings(self.no)
        code, lines = self.try_login('alice', given=b'x' * 100000 + b'\n')
        self.assertEqual((code, self.ran('no')), (1, 0))
        self.assertRegex('\n'.join(lines), 'the log: result=rejected ip=- tool=- code=1 ')

    def test_that_is_empty_asks_no_tool(self) -> None:
        """Each is shown as skipped, and why; but for one that takes empty passwords."""
        self.settings(self.yes, f'empty=1 {self.no}')
        code, lines = self.try_login(given=b'\n')
        self.assertEqual((code, self.ran('yes'), self.ran('no')), (1, 0, 1))
        self.assertEqual(rows_in(lines)[0][2], 'skipped: the password is empty')

    @needs('/proc')
    def test_stands_nowhere(self) -> None:
        """Not in the output, in no process's arguments or environment, in no file of the folder."""
        look = self.python_tool(
            'look',
            f"""
password = os.read(3, 1000).split(b'\\0')[1]; os.close(3)
places = []
for pid in filter(str.isdigit, os.listdir('/proc')):
    for name in ('cmdline', 'environ'):
        try:
            with open(f'/proc/{{pid}}/{{name}}', 'rb') as file:
                if password in file.read(): places.append(f'{{pid}} {{name}}')
        except OSError: pass
with open({self.path('places')!r}, 'a') as file: print(len(password), *places, file=file)
sys.exit(1)""",
        )
        crash = self.tool('crash', tools.CRASHES)
        self.settings(self.no, crash, self.path('missing'), look, self.yes)
        given = f'{PASSWORD}\n'.encode()
        code, lines = self.try_login(given=given)  # which looks at the output
        self.assertEqual(code, 0, lines)
        self.assertEqual(read_file(self.path('places')).decode(), f'{len(PASSWORD)}\n')
        for folder, _, names in os.walk(self.folder):
            for name in names:
                content = read_file(os.path.join(folder, name))
                if name != 'yes' and content != given:  # who knows it, and what is typed
                    self.assertNotIn(PASSWORD.encode(), content, name)


class Signals(Try):
    def start_try(self, body: str, **options: object) -> Login:
        """Start --test with a tool that begins like this, and wait until that is there."""
        self.settings(f'timeout=0 {self.tool("waits", body)}')
        with open(self.write('typed', f'{PASSWORD}\n'), 'rb') as reader:
            places = {0: reader.fileno()}
            login = self.start('--test', ALICE, triple=None, descriptors=places, **options)  # type: ignore[arg-type]
        wait_until(lambda: os.path.exists(self.path('ready')), 'the tool is ready')
        return login

    def assert_gone(self, pids: list[int]) -> None:
        wait_until(lambda: not any(map(alive, pids)), 'the tool and its children are gone')

    def test_end_it_with_the_tool_and_all_its_children(self) -> None:
        """INT, HUP, TERM and QUIT, though the tool ignores them and has no time limit."""
        stubborn = (
            "trap '' INT HUP TERM QUIT; sleep 1000 & sleep 1000 &\n"
            'jobs -p >$dir/pids; echo $$ >>$dir/pids; mv $dir/pids $dir/ready; wait; wait'
        )
        for name in ('INT', 'HUP', 'TERM', 'QUIT'):
            for body in (stubborn, 'echo $$ >$dir/pids; mv $dir/pids $dir/ready; exec sleep 1000'):
                with self.subTest(signal=name, body=body):
                    self.begin_again()
                    number = signal.Signals[f'SIG{name}']
                    login = self.start_try(body)
                    pids = [int(pid) for pid in read_file(self.path('ready')).split()]
                    self.assertEqual(len(pids), 3 if body is stubborn else 1)
                    os.kill(login.pid, number)
                    self.assertEqual(login.wait().code, 128 + number)
                    self.assert_gone(pids)
                    text = read_file(f'{login.folder}/1').decode()
                    self.assertTrue(text.endswith('\n'), text)
                    self.assertNotIn('the exit code', text)
                    self.assertNotIn('result=rejected', text)
                    self.assertEqual(read_file(f'{login.folder}/2'), b'')

    def test_that_are_ignored_stay_so(self) -> None:
        """As nohup(1) has it."""
        wait = ': >$dir/ready; while [ ! -e $dir/go ]; do sleep 0.02; done; exit 1'
        for name in ('INT', 'HUP', 'TERM', 'QUIT'):
            with self.subTest(signal=name):
                self.begin_again()
                number = signal.Signals[f'SIG{name}']
                login = self.start_try(
                    wait, before=functools.partial(signal.signal, number, signal.SIG_IGN)
                )
                os.kill(login.pid, number)
                self.write('go', '')
                self.assertEqual(login.wait().code, 1)
                self.assertRegex(read_file(f'{login.folder}/1').decode(), r'the exit code: 1\n$')
