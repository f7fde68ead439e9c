"""--test runs the script as a server would, and shows what each tool says; then the same with a random password."""

from __future__ import annotations

import contextlib
import functools
import os
import signal

from tests.harness import tools
from tests.harness.logins import (
    QUICK,
    REJECTS,
    RESULT,
    Login,
    alive,
    read_file,
    readable,
    wait_until,
)
from tests.harness.machine import needs
from tests.harness.people import PASSWORD, RANDOM, SESSION, TRUE, Person, Tried, unwrapped

ALICE = 'alice@example.org'
USERS = [(ALICE, PASSWORD)]
HONEST = tools.knows(USERS)
WRONG = b'wrong\n'
FIRST_WORD = 'exec "$1"'  # all of prog that many public tools run
SAYS_EXEC = 'exec "$@"'  # in the sentence that helps then
LIMIT = 512  # bytes of a triple


class Try(Person):
    """With an honest tool that knows alice, and one that refuses everybody."""

    def setUp(self) -> None:
        super().setUp()
        self.yes = self.tool('yes', HONEST)
        self.no = self.tool('no', REJECTS)

    def triples(self, name: str = 'kept') -> list[list[bytes]]:
        """Return the fields of every triple that tools have written there, one after the other."""
        fields = read_file(self.path(name)).split(b'\0')
        return [fields[at : at + 3] for at in range(0, len(fields) - 1, 3)]


class Parts(Try):
    def test_each_tool_has_a_row_as_it_is_tried(self) -> None:
        """Number, name, verdict, exit code and milliseconds; none behind the one that accepts."""
        down, unrun, own, trouble = (
            self.tool(f'no{code}', tools.refuses(code)) for code in (111, 127, 100, 4)
        )
        crash = self.tool('crash', tools.CRASHES)
        hang = self.tool('hang', tools.HANGS)
        self.settings(
            '# a line',
            f'name=refuses {self.no}',
            own,
            f'refused=1,3 name=trouble {trouble}',
            f'name=down {down}',
            f'name=unrun {unrun}',
            f'name=crash {crash}',
            f'timeout=1 name=hang {hang}',
            f'users=*@example.net,!bob* name=out {self.no}',
            'name=missing /nonexistent',
            f'name=good {self.yes}',
            f'name=never {self.no}',
        )
        tried = self.try_login()
        self.assertEqual(tried.code, 0, tried.lines)
        rows = tried.rows()
        wanted = (
            ('refuses', 'rejected', 1),
            (own, 'rejected', 100),
            ('trouble', 'temporary failure, exit code 4', None),
            ('down', 'temporary failure, exit code 111', None),
            ('unrun', 'temporary failure, exit code 127', None),
            ('crash', 'killed by SIGSEGV', None),
            ('hang', 'timed out after 1 s and was killed', None),
            ('out', 'skipped: not in its users=', None),
            ('missing', 'cannot run: No such file or directory', None),
            ('good', 'accepted', 0),
        )
        self.assertEqual(len(rows), len(wanted), rows)
        for number, (row, (name, words, exit_code)) in enumerate(zip(rows, wanted), 1):
            with self.subTest(tool=name):
                said = [] if exit_code is None else [f'exit code {exit_code}']  # it has none
                self.assertEqual(row[:-1], [str(number), name, words, *said])
                self.assertRegex(row[-1], r'^\d+ ms$')
        self.assertGreaterEqual(int(rows[6][-1].split()[0]), 1000)

    def test_prog_true_comes_first_then_a_session_then_a_random_password(self) -> None:
        """Each below a heading that names the servers it stands for; a session only where somebody has accepted."""
        for tool, headings in (
            (self.yes, (TRUE, SESSION, RANDOM)),
            (self.no, (TRUE, RANDOM)),
            (self.tool('down', tools.refuses(111)), (TRUE, RANDOM)),
        ):
            with self.subTest(tool=tool):
                self.settings(f'name=x {tool}')
                tried = self.try_login()
                shown = [line for line in tried.lines if line.startswith('with ')]
                self.assertEqual(len(shown), len(headings), tried.lines)
                for line, heading in zip(shown, headings):
                    self.assertTrue(line.startswith(heading), line)
                    self.assertEqual([row[:2] for row in tried.rows(heading)], [['1', 'x']])
                text = '\n'.join(shown)
                self.assertRegex(text, rf'{TRUE} .*qmail-smtpd.*Dovecot')
                self.assertEqual('qmail-popup' in text and 'authup' in text, SESSION in headings)
                self.assertEqual(tried.lines[-1], f'the exit code: {tried.code}')

    def test_tools_get_what_those_servers_give_them(self) -> None:
        """prog is true, and then the report step with a prog behind it; the triple is a server's."""
        self.settings(
            self.python_tool(
                'see',
                f"""
with open({self.path('seen')!r}, 'a') as file: print(*argv, file=file)
while data := os.read(3, 512): open({self.path('kept')!r}, 'ab').write(data)
os.close(3)
{tools.PYTHON_BECOMES}""",
            )
        )
        self.assertEqual(self.try_login().code, 2)  # as it lets everybody in
        first, second, third = (
            line.split() for line in read_file(self.path('seen')).decode().splitlines()
        )
        for prog in (first, third):
            self.assertEqual([os.path.basename(word) for word in prog], ['true'])
        self.assertEqual(second[0], self.command[0])
        self.assertTrue(second[1].startswith('qmail_pwrap.report:'), second)
        triples = self.triples()
        self.assertEqual([one[0].decode() for one in triples], [ALICE] * 3)
        self.assertEqual([one[1].decode() for one in triples[:2]], [PASSWORD] * 2)
        for _, _, stamp in triples:
            self.assertRegex(stamp, rb'^<.+>$')

    def test_a_file_that_is_not_valid_asks_nobody(self) -> None:
        """The problem and 111 are shown; nothing says that auth=0 lets everybody in."""
        for first in ('colour=red', 'auth=0 colour=red'):
            with self.subTest(first=first):
                self.settings('auth=0', first, self.no)
                tried = self.try_login()
                self.assertEqual(tried.code, 111)
                problem = 'unknown setting colour=' if first[0] == 'c' else 'auth= is set twice'
                text = '\n'.join(tried.lines)
                self.assertIn(f'{self.conf}:2: {problem}', text)
                self.assertRegex(text, 'the log: result=temporary ip=- tool=- code=111 ')
                self.assertNotIn('let in', text)
        self.assertEqual(self.ran('no'), 0)

    def test_each_line_is_shown_when_it_is_true(self) -> None:
        """A row as soon as its tool has answered, also to a pipe."""
        waits = 'cat <&3 >/dev/null; while [ ! -e $dir/go ]; do sleep 0.01; done; exit 1'
        self.settings(f'name=first {self.no}', f'timeout=0 {self.tool("waits", waits)}')
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        with open(self.write('typed', f'{PASSWORD}\n'), 'rb') as typed:
            places = {0: typed.fileno(), 1: writer}
            login = self.start('--test', ALICE, triple=None, descriptors=places)
        os.close(writer)
        shown = b''
        while b'first  rejected  exit code 1' not in shown:
            self.assertTrue(readable(reader), shown)
            said = os.read(reader, 1000)
            self.assertTrue(said, shown)
            shown += said
        self.assertFalse(login.over())
        self.write('go', '')
        while said := os.read(reader, 1000):
            shown += said
        self.assertEqual(login.wait().code, 1)


class ExitCode(Try):
    def assert_as_server(self, login: str) -> Tried:
        """--test shows and ends with what a server would get, and the line that would be logged."""
        triple = f'{login}\0{PASSWORD}\0\0'.encode('utf-8', 'surrogateescape')
        address = {'TCPREMOTEIP': '192.0.2.7'}
        server = self.login(*QUICK.prog, triple=triple, env=address)
        tried = self.try_login(login, env=address)
        self.assertEqual(tried.code, server.code, tried.lines)
        self.assertEqual(tried.lines[-1], f'the exit code: {tried.code}')
        (logged,) = [line[9:] for line in tried.part(TRUE) if line.startswith('the log: ')]
        match = RESULT.match(logged)
        assert match
        self.assertEqual({**match.groupdict(), 'ms': ''}, {**server.result(), 'ms': ''})
        return tried

    def test_is_the_one_that_a_server_with_prog_true_would_get(self) -> None:
        """Whatever tools say and failure= says."""
        own, down, two = (self.tool(f'no{code}', tools.refuses(code)) for code in (100, 111, 2))
        crash = self.tool('crash', 'ulimit -c 0; kill -KILL $$')
        missing = self.path('missing')
        for lines in (
            [self.no, self.yes],
            [self.no],
            [two],
            ['failure=temporary', down, self.no],
            ['refused=1', own],
            [crash],
            [missing, own],
            [f'users=nobody {self.yes}'],
        ):
            with self.subTest(lines=lines):
                self.configure(*lines)
                self.assert_as_server(ALICE)

    def test_is_so_for_odd_logins_too(self) -> None:
        """Which are escaped where they are shown, and can be words that look like commands."""
        self.configure(f'name=x {self.no}')
        for login in ('a "b" ip=192.0.2.9 \x1b[2J', '', 'x' * 600, '-x', '--check', '\udce4'):
            with self.subTest(login=login):
                text = ''.join(self.assert_as_server(login).lines)
                self.assertTrue(text.isprintable() and text.isascii(), text)

    def test_failure_crash_is_told_from_a_verdict(self) -> None:
        """The log's line has 111, and the code is a shell's for SIGTERM, by which the login has ended."""
        self.settings('failure=crash', f'name=down {self.tool("down", tools.refuses(111))}')
        tried = self.try_login()
        self.assertRegex('\n'.join(tried.part(TRUE)), 'the log: result=temporary .* code=111 ')
        self.assertEqual((tried.code, tried.lines[-1]), (143, 'the exit code: 143'))
        self.settings('failure=crash', self.no)
        self.assertEqual(self.try_login().code, 1)


class Session(Try):
    def test_a_tool_that_runs_only_the_first_word_is_right_for_prog_true(self) -> None:
        """Behind a session the sentence that helps is shown; the exit code is that of prog true."""
        for end in (FIRST_WORD, '"$1"'):  # which returns its exit code
            first = self.tool('first', HONEST.replace(tools.BECOMES, f'{end}; exit $?'))
            for lines in ([first], [self.no, first]):
                with self.subTest(end=end, lines=lines):
                    self.settings(*lines)
                    tried = self.try_login()
                    self.assertEqual((tried.code, tried.rows()[-1][2]), (0, 'accepted'))
                    self.assertNotEqual(tried.rows(SESSION)[-1][2], 'accepted')
                    self.assertIn(SAYS_EXEC, ' '.join(tried.part(SESSION)))
                    self.assertFalse(tried.is_loud)

    def test_a_tool_that_ends_with_0_before_prog_is_told_there(self) -> None:
        """As one that never runs prog, which Dovecot could not use either."""
        self.settings(f'name=x {self.tool("never", HONEST.replace(tools.BECOMES, "exit 0"))}')
        tried = self.try_login()
        self.assertEqual((tried.code, tried.rows()[0][2]), (0, 'accepted'))
        self.assertIn('prog was not reached', tried.rows(SESSION)[0][2])
        self.assertIn(SAYS_EXEC, ' '.join(tried.part(SESSION)))

    def test_a_tool_that_closes_descriptors_is_told_there(self) -> None:
        """As sudo does; on descriptor 2, unless that is a terminal, also by the step that has missed them."""
        self.settings(self.python_tool('closes', tools.CLOSES_ALL))
        said = self.say('--test', ALICE, given=WRONG)
        tried = Tried(said.code, unwrapped(said.output))
        self.assertEqual(tried.rows()[0][2], 'accepted')
        self.assertNotEqual(tried.rows(SESSION)[0][2], 'accepted')
        self.assertIn(SAYS_EXEC, ' '.join(tried.part(SESSION)))
        self.assertRegex(said.errors, 'closed descriptors')

    def test_a_tool_that_is_right_for_both_has_nothing_said_of_it(self) -> None:
        """Its row is there twice."""
        self.settings(self.no, self.yes)
        tried = self.try_login()
        verdicts = [row[2] for row in tried.rows()]
        self.assertEqual([row[2] for row in tried.rows(SESSION)], verdicts)
        self.assertNotIn(SAYS_EXEC, ' '.join(tried.lines))


class RandomPassword(Try):
    def assert_tried(self, code: int, is_loud: bool, **options: bytes) -> Tried:
        """--test ends with this code, and says or does not say that everybody is let in."""
        tried = self.try_login(**options)  # type: ignore[arg-type]
        self.assertEqual((tried.code, tried.is_loud), (code, is_loud), tried.lines)
        self.assertEqual(tried.lines[-1], f'the exit code: {code}')
        return tried

    def test_honest_tools_are_found_honest(self) -> None:
        """The whole chain is asked again, refuses, and the exit code is the server's."""
        self.settings(f'name=no {self.no}', f'name=yes {self.yes}', f'name=last {self.no}')
        tried = self.assert_tried(0, False)
        shown = [row[1:3] for row in tried.rows(RANDOM)]
        self.assertEqual(shown, [[name, 'rejected'] for name in ('no', 'yes', 'last')])

    def test_a_tool_that_accepts_everybody_is_told_loudly(self) -> None:
        """Whatever password was typed, --test ends with 2 instead of the server's code.

        indimail's tools run prog when they refuse, so behind any wrapper they accept everybody,
        unless NATIVE_CHECKPASSWORD=1 is set for those that know it.
        """
        native = '/usr/bin/env NATIVE_CHECKPASSWORD=1 '
        sys_checkpwd = tools.indimail(USERS, has_switch=False)
        vchkpass = tools.indimail(USERS, has_switch=True)
        right = f'{PASSWORD}\n'.encode()
        for body, before, given, code in (
            (tools.ACCEPTS, '', WRONG, 2),
            (f'{tools.READS}; exit 0', '', WRONG, 2),
            (f'{tools.READS}; {FIRST_WORD}', '', right, 2),
            (sys_checkpwd, native, right, 2),
            (vchkpass, '', right, 2),
            (vchkpass, native, right, 0),
            (vchkpass, native, WRONG, 1),
        ):
            with self.subTest(body=body, before=before, given=given):
                self.settings(f'name=lax {before}{self.tool("lax", body)}')
                self.assert_tried(code, code == 2, given=given)

    def test_a_second_tool_that_accepts_everybody_is_seen(self) -> None:
        """Behind one that accepts the right password."""
        self.settings(f'name=yes {self.yes}', f'name=lax {self.tool("lax", tools.ACCEPTS)}')
        tried = self.assert_tried(2, True)
        self.assertEqual([row[1] for row in tried.rows()], ['yes'])
        self.assertEqual([row[1] for row in tried.rows(RANDOM)], ['yes', 'lax'])

    def test_it_is_seen_where_nobody_has_accepted(self) -> None:
        """As with an empty password, which no tool is asked for."""
        self.settings(f'name=lax {self.tool("lax", tools.ACCEPTS)}')
        tried = self.assert_tried(2, True, given=b'\n')
        self.assertRegex(tried.rows()[0][2], '^skipped')
        self.assertEqual(tried.rows(RANDOM)[0][1:3], ['lax', 'accepted'])

    def test_an_answer_that_is_no_verdict_changes_nothing(self) -> None:
        """As from a backend that is down by then, or a tool that dies of the password."""
        for name, otherwise, said in (
            ('down', 'exit 111', 'temporary failure, exit code 111'),
            ('crash', 'ulimit -c 0; kill -SEGV $$', 'killed by SIGSEGV'),
            ('hang', tools.HANGS, 'timed out after 1 s and was killed'),
        ):
            with self.subTest(tool=name):
                tool = self.tool(name, tools.knows(USERS, otherwise))
                self.settings(f'timeout=1 name={name} {tool}')
                tried = self.assert_tried(0, False)
                self.assertEqual(tried.rows(RANDOM)[0][1:3], [name, said])

    def test_tools_of_other_users_are_not_asked(self) -> None:
        """Each is skipped as a login skips it."""
        lax = self.tool('lax', tools.ACCEPTS)
        self.settings(f'users=nobody {lax}', self.yes)
        self.assert_tried(0, False)
        self.assertEqual(self.ran('lax'), 0)

    def test_it_is_random_and_the_triple_has_at_most_512_bytes(self) -> None:
        """However long the login is; without room for such a password, that is said, and nobody is asked."""
        passwords = set()
        asked = set()
        for length in (1, 400, 440, 470, 475, 480, 485, 490):
            with self.subTest(length=length):
                self.begin_again()
                self.settings(self.tool('keep', 'cat <&3 >>$dir/kept; exit 1'))
                login = 'x' * length
                tried = self.try_login(login, given=b'y\n')
                triples = self.triples()
                self.assertEqual((tried.code, triples[0][:2]), (1, [login.encode(), b'y']))
                asked.add(len(triples) - 1)
                if len(triples) == 1:
                    self.assertGreater(length, 440)
                    self.assertRegex(tried.part(RANDOM)[0], '^not asked: no room')
                    self.assertNotIn('the log: ', '\n'.join(tried.part(RANDOM)))
                    continue
                name, password, stamp = triples[1]
                self.assertLessEqual(len(b'\0'.join(triples[1])) + 1, LIMIT)
                self.assertEqual(name, login.encode())
                self.assertGreaterEqual(len(password), 16)
                self.assertNotIn(password.decode(), '\n'.join(tried.lines))
                passwords.add(password[:16])
        self.assertEqual(asked, {0, 1})
        self.assertGreaterEqual(len(passwords), 2, passwords)  # each is another


class Environment(Try):
    def test_auth_of_the_caller_does_not_count(self) -> None:
        """The chain is asked, and tools see AUTH=1; AUTHORIZED makes no user lookup of it."""
        see = self.tool('see', f'echo "$AUTH$AUTHORIZED" >>$dir/seen; {REJECTS}')
        self.settings(see)
        for env in ({'AUTH': '0'}, {'AUTH': 'pop'}, {'AUTH': ''}, {}, {'AUTHORIZED': '1'}):
            with self.subTest(env=env):
                tried = self.try_login(env=env)
                self.assertEqual((tried.code, tried.rows()[0][2]), (1, 'rejected'))
                self.assertNotIn('auth=0', '\n'.join(tried.lines))
        self.assertEqual(set(read_file(self.path('seen')).split()), {b'1'})
        tried = self.try_login(given=b'\n', env={'AUTHORIZED': '1'})
        self.assertRegex(tried.rows()[0][2], '^skipped')

    def test_auth_0_of_the_file_is_told_and_the_chain_asked(self) -> None:
        """Before the tools, with what it means."""
        self.settings('auth=0', f'name=no {self.no}')
        for env in ({}, {'AUTH': '0'}):
            with self.subTest(env=env):
                tried = self.try_login(env=env)
                self.assertEqual((tried.code, tried.rows()[0][2]), (1, 'rejected'))
                head, _, _ = '\n'.join(tried.lines).partition('no  rejected')
                self.assertRegex(head, '(?m)^auth=0: every')

    def test_tools_run_as_under_a_server(self) -> None:
        """Without a terminal, with the null device as input, in a session that neither they nor the wrapper lead, and
        with nothing but descriptor 3 from --test. What they print is not shown."""
        look = self.python_tool(
            'look',
            f"""
seen = []
for number in range(3, 256):
    try: os.fstat(number)
    except OSError: continue
    seen.append(number)
null = os.stat({os.devnull!r}).st_rdev
seen.append(os.fstat(0).st_rdev == null)
seen.append(os.getsid(0) not in (os.getpid(), os.getppid()))
os.write(1, b'noise')
with open({self.path('seen')!r}, 'a') as file: print(*seen, file=file)
{tools.PYTHON_READS}
sys.exit(1)""",
        )
        self.settings(look)
        tried = self.try_login(given=b'password\nsecond line\n')
        self.assertEqual((tried.code, self.ran('look')), (1, 0))
        seen = read_file(self.path('seen')).decode().splitlines()
        self.assertEqual(set(seen), {'3 True True'})
        self.assertNotIn('noise', '\n'.join(tried.lines))

    def test_works_whatever_the_caller_has_left(self) -> None:
        """SIGCHLD ignored, as some shells and job schedulers leave it; a file at descriptor 3, or none; others open."""
        self.settings(self.no, self.yes)
        with open(self.conf, 'rb') as file, open(self.path('rest'), 'wb') as rest:
            for options in (
                {'before': lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)},
                {'descriptors': {3: file.fileno()}},
                {'descriptors': {4: rest.fileno(), 5: file.fileno(), 63: rest.fileno()}},
                {'closed': [2]},
            ):
                with self.subTest(**options):
                    tried = self.try_login(**options)
                    self.assertEqual(tried.code, 0, tried.lines)
                    for part in (TRUE, SESSION, RANDOM):
                        self.assertEqual(len(tried.rows(part)), 2, tried.lines)
        self.assertEqual(read_file(self.path('rest')), b'')

    def test_what_follows_log_stderr_is_shown_once(self) -> None:
        """As the log's line; nothing stands on descriptor 2."""
        self.configure(self.no)
        lines = self.try_login().part(TRUE)  # which looks at descriptor 2
        self.assertEqual(len([line for line in lines if 'result=' in line]), 1, lines)


class Password(Try):
    def test_is_the_first_line_of_an_input_that_is_no_terminal(self) -> None:
        """With or without a newline, and whatever bytes, in any locale."""
        self.settings(f'empty=1 {self.tool("keep", "cat <&3 >>$dir/kept; exit 1")}')
        for given, password in (
            (b'a b\n', b'a b'),
            (b'a b', b'a b'),
            (b'one\ntwo\n', b'one'),
            (b'', b''),
            (b'\n', b''),
            (b'\xe4\xff"\'\\$x \n', b'\xe4\xff"\'\\$x '),
            (b'p' * 100 + b'\n', b'p' * 100),
        ):
            for locale in ('C', 'de_DE.ISO-8859-1'):
                with self.subTest(given=given, locale=locale):
                    self.write('kept', '')
                    tried = self.try_login('alice', given=given, env={'LC_ALL': locale})
                    self.assertEqual(tried.code, 1)
                    self.assertEqual(self.triples()[0][:2], [b'alice', password])

    def test_that_is_too_long_is_refused_as_a_servers(self) -> None:
        """The triple exceeds 512 bytes, and no tool runs for it."""
        self.settings(self.no)
        tried = self.try_login('alice', given=b'x' * 100000 + b'\n')
        self.assertEqual((tried.code, tried.rows()), (1, []))
        text = '\n'.join(tried.part(TRUE))
        self.assertRegex(text, 'the log: result=rejected ip=- tool=- code=1 ')

    def test_that_is_empty_asks_no_tool(self) -> None:
        """Each is shown as skipped, and why; but for one that takes empty passwords."""
        self.settings(self.yes, f'empty=1 {self.no}')
        tried = self.try_login(given=b'\n')
        first, second = tried.rows()
        self.assertEqual(tried.code, 1)
        self.assertEqual((first[2], second[2]), ('skipped: the password is empty', 'rejected'))

    @needs('/proc')
    def test_stands_nowhere(self) -> None:
        """Not in the output, in no process's arguments or environment, in no file of the folder; nor the random one."""
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
with open({self.path('places')!r}, 'a') as file: print('seen', *places, file=file)
sys.exit(1)""",
        )
        self.settings(self.no, self.tool('crash', tools.CRASHES), look, self.yes)
        given = f'{PASSWORD}\n'.encode()
        tried = self.try_login(given=given)  # which looks at the output
        self.assertEqual(tried.code, 0, tried.lines)
        self.assertEqual(read_file(self.path('places')), b'seen\n' * 3)
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
        obeys = 'echo $$ >$dir/pids; mv $dir/pids $dir/ready; exec sleep 1000'
        for name, body in (
            ('INT', stubborn),
            ('TERM', stubborn),
            # Often, as the signal comes while the login has just started the tool.
            *((name, obeys) for name in ('INT', 'HUP', 'TERM', 'QUIT') * 4),
        ):
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
                self.assertEqual(read_file(f'{login.folder}/2').strip(), b'')

    @needs('/proc')
    def test_right_before_a_wait_are_heard_too(self) -> None:
        """While the password is waited for, of which nothing comes, and while a tool is."""
        # A signal that another thread gets is as one that comes in the moment before a wait: that goes on.
        gets_it = self.python_tool(
            'gets-it',
            f"""
import runpy, signal, threading, time
def hear(number):
    in_a_row = 0
    while in_a_row < 20:
        time.sleep(0.01)
        status = open(f'/proc/self/task/{{os.getpid()}}/stat').read()
        waits = status.rpartition(')')[2].split()[0] == 'S' and os.path.exists({self.path('ready')!r})
        in_a_row = in_a_row + 1 if waits else 0
    signal.pthread_kill(threading.get_ident(), number)
threading.Thread(target=hear, args=(int(argv[0]),), daemon=True).start()
del sys.argv[0]
runpy.run_path({self.command[0]!r}, run_name='__main__')""",
        )
        waits = self.tool('waits', f'{tools.READY}; exec sleep 1000')
        self.settings(f'timeout=0 {waits}')
        for typed in (b'', b'x\n'):
            for number in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(typed=typed, signal=number.name):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.path('ready'))
                    if not typed:  # no tool will write it
                        self.write('ready', '')
                    reader, writer = os.pipe()
                    os.write(writer, typed)
                    with open(reader, 'rb'), open(writer, 'wb'):
                        login = self.start(
                            f'{int(number)}',
                            *('--test', ALICE),
                            command=(gets_it,),
                            triple=None,
                            descriptors={0: reader},
                        )
                        self.assertEqual(login.wait().code, 128 + number)
                    self.assertEqual(read_file(f'{login.folder}/2'), b'\n')

    def test_while_python_destroys_an_object_end_it_soon_after(self) -> None:
        """An exception would be lost there, as in many imports, and Python would print a traceback."""
        sends = self.python_tool(
            'sends',
            f"""
import resource, runpy
class Sends:
    def __del__(self):
        os.kill(os.getpid(), int(argv[0]))
def patch(module, name):
    original = getattr(module, name)
    def sends_first(*given):
        Sends()
        return original(*given)
    setattr(module, name, sends_first)
patch(sys.modules[argv[1]], argv[2])
del sys.argv[:3]
runpy.run_path({self.command[0]!r}, run_name='__main__')""",
        )
        self.settings(f'name=x {self.yes}')
        # Before the password, between that and the first login, and between two logins.
        for function in (('resource', 'setrlimit'), ('posix', 'dup2'), ('os', 'urandom')):
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
                with self.subTest(function=function, signal=number.name):
                    words = (str(int(number)), *function, '--test', ALICE)
                    tried = self.say(*words, given=f'{PASSWORD}\n'.encode(), command=(sends,))
                    self.assertEqual((tried.code, tried.errors), (128 + number, '\n'))
                    self.assertNotIn('the exit code', tried.output)

    def test_that_are_ignored_stay_so(self) -> None:
        """As nohup(1) has it."""
        wait = (
            ': >$dir/ready; cat <&3 >/dev/null; while [ ! -e $dir/go ]; do sleep 0.02; done; exit 1'
        )
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
