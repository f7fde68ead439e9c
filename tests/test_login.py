"""A login goes through the chain: AUTH, the triple, the tools in order, prog, the exit code."""

import os
import signal
import socket

from tests.harness.logins import ACCEPTS, REJECTS, TRIPLE, Case, read_file, readable, wait_until

QUICK, SESSION = ('true',), ('/bin/sh', '-c', 'exit 0')  # prog for which the exit code is enough; any other


class Chain(Case):
    def test_order(self):
        """The tools are tried in the order of the configuration, and the first that accepts ends the chain."""
        for name, body in (('no1', REJECTS), ('no2', REJECTS), ('yes', ACCEPTS), ('never', ACCEPTS)):
            self.tool(name, 'echo $0 >>$dir/order\n' + body)
        self.configure(*(self.path(name) for name in ('no1', 'no2', 'yes', 'never')))
        for prog in (QUICK, SESSION, ()):
            with self.subTest(prog=prog):
                self.write('order', '')
                login = self.login(*prog)
                self.assertEqual(login.code, 0)
                self.assertEqual(read_file(self.path('order')).decode().split(),
                                 [self.path(name) for name in ('no1', 'no2', 'yes')])
                self.assertEqual(login.result()['tool'], self.path('yes'))
        self.assertEqual(self.ran('never'), 0)

    def test_bytes(self):
        """Each tool reads on descriptor 3 exactly the bytes that the server wrote, whatever follows the timestamp."""
        self.tool('no', 'cat <&3 >$dir/first; exit 1')
        self.tool('yes', 'cat <&3 >$dir/second; exec 3<&-; exec "$@"')
        self.configure(self.path('no'), self.path('yes'))
        for triple in (TRIPLE, b'a\0b\0', b'\0\0', b'a\0b\0c\0more\0and more', bytes(range(1, 256)) + b'\0\xff\n\0\n\0',
                       b'x' * 300 + b'\0' + b'y' * 210 + b'\0'):
            for prog in (QUICK, SESSION):
                with self.subTest(triple=triple, prog=prog):
                    self.assertEqual(self.login(*prog, triple=triple).code, 0)
                    self.assertEqual(read_file(self.path('first')), triple)
                    self.assertEqual(read_file(self.path('second')), triple)

    def test_exit_codes(self):
        """The exit code is that of the tool that accepted or of the prog it became, else the last failure."""
        self.tool('yes', ACCEPTS)
        for code in (1, 2, 3, 100, 111, 255):
            self.tool(f'no{code}', f'exit {code}')
        table = [  # tools, failure=, exit code, result
            (('no1',), 'last', 1, 'rejected'), (('no1', 'no2'), 'last', 2, 'rejected'),
            (('no2', 'no1'), 'last', 1, 'rejected'), (('no100',), 'last', 100, 'rejected'),
            (('no255',), 'last', 255, 'rejected'), (('no3', 'no100'), 'temporary', 100, 'rejected'),
            (('no111', 'no1'), 'last', 1, 'temporary'), (('no1', 'no111'), 'last', 111, 'temporary'),
            (('no111', 'no1'), 'temporary', 111, 'temporary'), (('no111', 'yes'), 'temporary', 0, 'accepted'),
            (('missing', 'no1'), 'last', 1, 'temporary'), (('no1', 'missing'), 'last', 1, 'temporary'),
            (('no1', 'missing'), 'temporary', 111, 'temporary'), (('missing',), 'last', 111, 'temporary'),
            (('missing', 'yes'), 'last', 0, 'accepted'),
        ]
        for names, failure, code, result in table:
            self.configure(f'failure={failure}', *(self.path(name) for name in names))
            for prog in (QUICK, SESSION):
                with self.subTest(names=names, failure=failure, prog=prog):
                    login = self.login(*prog)
                    self.assertEqual(login.code, code)
                    fields = login.result()
                    self.assertEqual(fields['result'], result)
                    self.assertEqual(fields['code'], None if result == 'accepted' else str(code))
        for code in (1, 2, 111, 126, 127, 200):
            with self.subTest(prog=code):
                self.configure(self.path('yes'), self.path('no1'))
                login = self.login('/bin/sh', '-c', f'exit {code}')
                self.assertEqual((login.code, login.result()['result']), (code, 'accepted'))
        self.assertEqual(self.ran('no1') > 0, True)

    def test_no_verdict(self):
        """126 and 127 count as temporary failures of a tool, as 111 does, and a tool that a signal ended is 111."""
        for body, code in (('exit 126', 126), ('exit 127', 127), ('kill -SEGV $$', 111)):
            self.tool('bad', body)
            self.tool('no', REJECTS)
            with self.subTest(body=body):
                self.configure(self.path('bad'))
                login = self.login(*QUICK)
                self.assertEqual((login.code, login.result()['result']), (code, 'temporary'))
                self.assertEqual(len(login.problems()), 1)
                self.configure('failure=temporary', self.path('bad'), self.path('no'))
                login = self.login(*QUICK)
                self.assertEqual((login.code, login.result()['result']), (111, 'temporary'))

    def test_cannot_run(self):
        """What cannot be run is skipped with a line that says why, and the chain goes on."""
        self.tool('yes', ACCEPTS)
        self.write('plain', 'no program', 0o755)
        self.write('locked', '#!/bin/sh\n', 0o644)
        for name, why in (('missing', 'No such file'), ('plain', 'Exec format'), ('locked', 'Permission denied')):
            for prog in (QUICK, SESSION):
                with self.subTest(name=name, prog=prog):
                    self.configure(self.path(name), self.path('yes'))
                    login = self.login(*prog)
                    self.assertEqual((login.code, login.result()['tool']), (0, self.path('yes')))
                    self.assertEqual(len(login.problems()), 1)
                    self.assertIn(self.path(name), login.problems()[0])
                    self.assertIn(why, login.problems()[0])

    def test_timeout(self):
        """A tool that gives no answer in its time is killed with all it started, counts as 111; the chain goes on."""
        self.tool('hang', 'sleep 1000 & echo $! >$dir/helper; echo $$ >$dir/pid; wait')
        self.tool('yes', ACCEPTS)
        for prog in (QUICK, SESSION):
            with self.subTest(prog=prog):
                self.configure('timeout=1 ' + self.path('hang'))
                login = self.login(*prog)
                self.assertEqual((login.code, login.result()['result']), (111, 'temporary'))
                self.assertRegex(login.problems()[0], 'timed out after 1 s and was killed')
                for name in ('helper', 'pid'):
                    pid = int(read_file(self.path(name)))
                    wait_until(lambda pid=pid: not os.path.exists(f'/proc/{pid}/fd/0'), f'{name} is gone')
                self.configure('timeout=1 ' + self.path('hang'), self.path('yes'))
                self.assertEqual(self.login(*prog).code, 0)

    def test_setsid(self):
        """A tool behind setsid(1) is asked as if it were run directly: setsid would fork, and end with 0 before any
        answer, if it led its process group."""
        self.tool('no', REJECTS)
        self.tool('yes', ACCEPTS)
        for name, codes in (('no', (1, 1)), ('yes', (0, 7))):
            self.configure('/usr/bin/setsid ' + self.path(name))
            for prog, code in zip((QUICK, ('/bin/sh', '-c', 'exit 7')), codes):
                with self.subTest(name=name, prog=prog):
                    self.assertEqual(self.login(*prog).code, code)

    def test_session_is_not_timed(self):
        """A session that was accepted is never timed."""
        self.tool('yes', ACCEPTS)
        self.configure('timeout=1 ' + self.path('yes'))
        reader, writer = os.pipe()
        login = self.start('/bin/sh', '-c', 'read line <&7; exit 5', descriptors={7: reader})
        os.close(reader)
        wait_until(login.log, 'the session has begun')
        # Longer than the timeout, seen by the clock of another tool that is killed by it.
        self.tool('hang', 'sleep 1000')
        self.configure('timeout=2 ' + self.path('hang'))
        self.assertEqual(self.login(*QUICK).code, 111)
        self.assertFalse(login.over())
        os.write(writer, b'\n')
        os.close(writer)
        self.assertEqual(login.wait().code, 5)


class Auth(Case):
    def setUp(self):
        super().setUp()
        self.tool('no', 'printf %s "$AUTH" >$dir/seen; exit 1')
        self.tool('yes', 'printf %s "$AUTH" >$dir/seen; ' + ACCEPTS)

    def test_off(self):
        """AUTH=0, in the environment or else in the configuration, lets everybody in: no tool or prog runs, and the
        log warns."""
        for env, setting in (({'AUTH': '0'}, 'auth=1'), ({'AUTH': '0'}, ''), ({}, 'auth=0'), ({'AUTH': ''}, 'auth=0')):
            self.configure(setting, self.path('no'))
            for triple in (TRIPLE, b'', b'x' * 100000, None):
                if triple and len(triple) > 65536:  # more than a pipe holds
                    triple = os.open(self.write('big', triple), os.O_RDONLY)
                    self.addCleanup(os.close, triple)
                with self.subTest(env=env, setting=setting, triple=triple):
                    login = self.login('/bin/sh', '-c', f'touch {self.folder}/prog', env=env, triple=triple)
                    self.assertEqual((login.code, login.result()['result']), (0, 'disabled'))
        self.assertEqual(self.ran('no'), 0)
        self.assertFalse(os.path.exists(self.path('prog')))

    def test_slow_writer(self):
        """With AUTH=0, descriptor 3 is read to its end, so that a slow writer never gets a broken pipe."""
        self.configure(self.path('no'))
        reader, writer = os.pipe()
        login = self.start('true', triple=reader, env={'AUTH': '0'})
        os.close(reader)
        for _ in range(200):
            os.write(writer, b'x' * 1000)
        self.assertFalse(login.over())
        os.close(writer)
        self.assertEqual(login.wait().code, 0)

    def test_on(self):
        """Every other value of AUTH means enabled, and tools see it as it was set, 1 where it was unset or empty."""
        self.configure('auth=0', self.path('no'))
        for value in ('1', '00', ' 0', '0 ', 'no', 'pop', 'apop', 'off'):
            with self.subTest(value=value):
                self.assertEqual(self.login('true', env={'AUTH': value}).code, 1)
                self.assertEqual(read_file(self.path('seen')).decode(), value)
        self.configure(self.path('no'))
        for env in ({}, {'AUTH': ''}):
            with self.subTest(env=env):
                self.assertEqual(self.login('true', env=env).code, 1)
                self.assertEqual(read_file(self.path('seen')), b'1')

    def test_broken_configuration(self):
        """A broken configuration never switches authentication off."""
        for lines in (('auth=0', 'nonsense'), ('auth=0',), ('auth=0', 'auth=0', self.path('yes')), ('auth=00',)):
            with self.subTest(lines=lines):
                self.configure(*lines)
                self.assertEqual(self.login('true').code, 111)
        os.unlink(self.conf)
        self.assertEqual(self.login('true').code, 111)

    def test_success(self):
        """AUTH=success stands in prog's environment, and only there."""
        self.configure(self.path('no'), self.path('yes'))
        login = self.login('/bin/sh', '-c', 'printf %s "$AUTH"')
        self.assertEqual((login.code, login.output(1)), (0, b'success'))
        self.assertEqual(read_file(self.path('seen')), b'1')


class Reading(Case):
    """Descriptor 3."""

    def setUp(self):
        super().setUp()
        self.tool('yes', ACCEPTS)
        self.configure(self.path('yes'))

    def test_limits(self):
        """More than 512 bytes end with 1, fewer than two fields with 2, and no tool runs."""
        at_limit = b'a\0' + b'b' * 509 + b'\0'
        self.assertEqual(len(at_limit), 512)
        for triple, code in ((at_limit, 0), (at_limit + b'c', 1), (b'a' * 60000, 1), (at_limit * 2, 1), (b'', 2),
                             (b'a', 2), (b'a\0', 2), (b'a\0b', 2), (b'a\0b\0', 0), (b'\0\0', 0), (b'\0', 2)):
            before = self.ran('yes')
            with self.subTest(triple=triple):
                login = self.login('true', triple=triple)
                self.assertEqual(login.code, code)
                self.assertEqual(self.ran('yes') - before, 0 if code else 1)
                fields = login.result()
                self.assertEqual(fields['result'], 'rejected' if code else 'accepted')
                if code:
                    self.assertEqual((fields['tool'], fields['code']), ('-', str(code)))
                    self.assertEqual(login.problems(), [])

    def test_closed(self):
        """Descriptor 3 closed: exit 2, and nothing but the log on descriptor 2 where that is no terminal."""
        login = self.login('true', triple=None)
        self.assertEqual((login.code, login.result()['code']), (2, '2'))
        self.assertEqual((login.output(1), login.output(2)), (b'', b''))
        self.assertEqual(len(login.problems()), 1)

    def test_hint(self):
        """On a terminal, one line also says what this program is and names --help."""
        leader, terminal = os.openpty()
        self.addCleanup(os.close, leader)
        self.write('pwrap.conf', self.path('yes') + '\n')
        login = self.login('true', triple=None, descriptors={2: terminal})
        os.close(terminal)
        self.assertEqual(login.code, 2)
        said = os.read(leader, 1000)
        self.assertEqual((said.count(b'\n'), b'--help' in said), (1, True))

    def test_kinds(self):
        """Descriptor 3 may be a pipe, a file or a socket, blocking or not, and the triple may come in pieces."""
        path = self.write('triple', TRIPLE)
        file = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, file)
        self.assertEqual(self.login('true', triple=file).code, 0)
        for kind in ('pipe', 'socket'):
            for blocking in (True, False):
                for size in (1, 7, 100):
                    with self.subTest(kind=kind, blocking=blocking, size=size):
                        if kind == 'pipe':
                            reader, writer = os.pipe()
                        else:
                            ends = socket.socketpair()
                            reader, writer = (end.detach() for end in ends)
                        os.set_blocking(reader, blocking)
                        login = self.start('true', triple=reader)
                        os.close(reader)
                        for start in range(0, len(TRIPLE), size):
                            os.write(writer, TRIPLE[start:start + size])
                        os.close(writer)
                        self.assertEqual(login.wait().code, 0)

    def test_unreadable(self):
        """Any other error in reading descriptor 3 ends with 111."""
        for flags, path in ((os.O_RDONLY, self.folder), (os.O_WRONLY, self.write('file', ''))):
            descriptor = os.open(path, flags)
            self.addCleanup(os.close, descriptor)
            with self.subTest(path=path):
                login = self.login('true', triple=descriptor)
                self.assertEqual((login.code, login.result()['result']), (111, 'temporary'))
                self.assertRegex(login.problems()[0], '^descriptor 3 cannot be read: ')
        self.assertEqual(self.ran('yes'), 0)


class Prog(Case):
    def setUp(self):
        super().setUp()
        self.tool('yes', ACCEPTS)
        self.tool('after', 'exit 1')
        self.configure(self.path('yes'), self.path('after'))

    def test_sessions_that_end_badly(self):
        """A session that ends with 1 or 111 or is killed does not send the password on to the next tool."""
        for end, code in (('exit 1', 1), ('exit 111', 111), ('kill -9 $$', -9), ('kill -TERM $$', -15),
                          ('kill -SEGV $$', -11), ('kill -ALRM $$', -14)):
            with self.subTest(end=end):
                login = self.login('/bin/sh', '-c', end)
                self.assertEqual(login.code, code)
                self.assertEqual(login.result()['result'], 'accepted')
        self.assertEqual(self.ran('after'), 0)

    def test_logged_when_it_begins(self):
        """An accepted session is logged when it begins, not when it ends."""
        reader, writer = os.pipe()
        login = self.start('/bin/sh', '-c', 'read line <&7', descriptors={7: reader})
        os.close(reader)
        wait_until(login.log, 'a line is logged')
        self.assertEqual((login.over(), login.result()['result']), (False, 'accepted'))
        os.close(writer)
        self.assertEqual(login.wait().code, 1)

    def test_arguments(self):
        """Prog's arguments arrive untouched, and nothing is added to them."""
        words = [b'', b' ', b'two words', b'-v', b'--', b'--help', b'$HOME', b'`', b"'", b'"', b'\\', b'*', b'a\nb',
                 bytes(range(1, 256)), 'é'.encode(), b'\xe9', b'\xff\xfe', b'qmail_pwrap.report:1']
        for locale in ({}, {'LC_ALL': 'C'}, {'LC_ALL': 'C.UTF-8'}, {'LC_ALL': 'POSIX'}):
            with self.subTest(locale=locale):
                login = self.login('/bin/sh', '-c', 'printf "%s\\0" "$@"', 'sh', *words, env=locale)
                self.assertEqual(login.output(1).split(b'\0')[:-1], words)

    def test_cannot_be_run(self):
        """If prog cannot be run: a problem line, 111, and no further tool."""
        self.write('locked', '#!/bin/sh\n', 0o644)
        for prog in ('nonsuch-program', '/nonexistent/prog', self.folder, self.path('locked')):
            with self.subTest(prog=prog):
                login = self.login(prog, '-x')
                self.assertEqual((login.code, login.result()['result']), (111, 'accepted'))
                self.assertEqual(len(login.problems()), 1)
                self.assertIn(prog, login.problems()[0])
        self.assertEqual(self.ran('after'), 0)

    def test_what_is_added_to_the_line(self):
        """What stands in prog's place behind a tool begins with no dash and has nothing that a shell would change;
        behind true, nothing is added at all."""
        self.tool('show', 'printf "%s\\0" "$@"; exit 1')
        self.configure(self.path('show') + ' -o arg')
        login = self.login('prog', '-a', 'b c')
        shown = login.output(1).decode().split('\0')[:-1]
        self.assertEqual((shown[:2], shown[-3:]), (['-o', 'arg'], ['prog', '-a', 'b c']))
        added = shown[2:-3]
        self.assertEqual(added[0], self.command[0])
        for word in added:
            self.assertRegex(word, r'^[A-Za-z0-9_/][A-Za-z0-9_./:,-]*$')
        for prog in ('true', '/bin/true', '/usr/bin/true'):
            self.assertEqual(self.login(prog, 'x').output(1).split(b'\0')[:-1], [b'-o', b'arg', prog.encode(), b'x'])

    def test_relative_path(self):
        """The script may be started by a relative path, and a tool may change the folder: the report step is found."""
        self.tool('moves', 'cd /; ' + ACCEPTS)
        self.configure(self.path('moves'))
        folder, name = os.path.split(self.command[0])
        login = self.login('/bin/sh', '-c', 'exit 9', command=['./' + name], before=lambda: os.chdir(folder))
        self.assertEqual((login.code, login.result()['result']), (9, 'accepted'))

    def test_given_up(self):
        """A tool that accepts after it was given up gets no session: prog is not started."""
        self.python_tool('late', f'''
if os.fork() == 0:
    os.setsid()
    while not os.path.exists({self.path('given-up')!r}):
        os.stat('/')
    pid = os.fork()
    if pid == 0:
        os.execv(argv[0], argv)
    with open({self.path('code')!r}, 'w') as file:
        file.write(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) + '.')
    os._exit(0)
import time
time.sleep(1000)''')
        self.configure('timeout=1 ' + self.path('late'))
        login = self.login('/bin/sh', '-c', f'touch {self.folder}/prog')
        self.assertEqual((login.code, login.result()['result']), (111, 'temporary'))
        self.write('given-up', '')
        wait_until(lambda: os.path.exists(self.path('code')) and read_file(self.path('code')).endswith(b'.'))
        self.assertEqual(read_file(self.path('code')), b'111.')
        self.assertFalse(os.path.exists(self.path('prog')))

    def test_foreign_descriptor(self):
        """A tool that has its own file where the report pipe was gets nothing written there; prog is reached."""
        self.python_tool('own', f'''
os.read(3, 1000)
own = os.open({self.path('file')!r}, os.O_RDWR | os.O_CREAT, 0o600)
for number in range(4, 40):
    if number != own:
        os.dup2(own, number)
os.execvp(argv[0], argv)''')
        self.configure(self.path('own'))
        login = self.login('/bin/sh', '-c', 'echo here')
        self.assertEqual((login.code, login.output(1)), (0, b'here\n'))
        self.assertEqual(read_file(self.path('file')), b'')
        self.assertEqual(login.result()['result'], 'accepted')


class Signals(Case):
    def test_passed_on(self):
        """A signal to the wrapper reaches the tool; the wrapper then ends with the tool's code, trying no other."""
        self.tool('traps', 'trap "exit 44" TERM HUP INT QUIT USR1 USR2 ALRM; echo >$dir/ready; while :; do sleep 0.01; done')
        self.tool('after', ACCEPTS)
        self.configure(self.path('traps'), self.path('after'))
        for prog in (QUICK, SESSION):
            for name in ('TERM', 'HUP', 'INT', 'QUIT', 'USR1', 'USR2', 'ALRM'):
                with self.subTest(name=name, prog=prog):
                    login = self.start(*prog)
                    wait_until(lambda: os.path.exists(self.path('ready')))
                    os.unlink(self.path('ready'))
                    os.kill(login.pid, getattr(signal, 'SIG' + name))
                    self.assertEqual(login.wait().code, 44)
                    self.assertEqual(login.result()['result'], 'temporary')
        self.assertEqual(self.ran('after'), 0)

    def test_session(self):
        """A signal to the wrapper reaches the session, whose end it shares."""
        self.tool('yes', ACCEPTS)
        self.configure(self.path('yes'))
        for name in ('TERM', 'HUP', 'INT', 'QUIT', 'USR1', 'USR2', 'ALRM'):
            number = getattr(signal, 'SIG' + name)
            for trap, code in ((f'trap "exit 44" {name};', 44), ('', -number)):
                with self.subTest(name=name, trap=trap):
                    reader, writer = os.pipe()
                    login = self.start('/bin/sh', '-c', trap + 'echo ready; while :; do sleep 0.01; done',
                                       descriptors={1: writer})
                    os.close(writer)
                    self.assertTrue(readable(reader))
                    os.kill(login.pid, number)
                    self.assertEqual(login.wait().code, code)
                    os.close(reader)
