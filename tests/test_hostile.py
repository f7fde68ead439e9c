"""Nothing gets past it: hostile tools, systems, configurations and clients; where the password goes; many at once.

Whatever happens, a login ends in a defined exit code, with one result line, at most one line about each problem, no
traceback, and nothing on descriptors 1 and 2 besides the log.
"""

import array
import contextlib
import fcntl
import os
import random
import re
import resource
import shutil
import signal
import socket
import stat
import string
import termios
import unittest

from tests.harness.logins import ACCEPTS, REJECTS, TRIPLE, Case, alive, read_file, wait_until
from tests.harness.machine import SCRIPT, needs
from tests.harness.syslog import SyslogListener

SOMEBODY = 64123  # user and group ids that nobody has, so that no other process counts against their limits
SOMEBODY_ELSE = 64125
LOGIN, PASSWORD = b'alice@example.org', b'secret'  # of TRIPLE


def over_in_turn(count, started):
    """Let a generator start logins, count of them at a time; yield its tuples, whose last item is the login, as the
    logins end."""
    running = []

    def one_is_over():
        return next((item for item in running if item[-1].over()), None)

    for item in started:
        running.append(item)
        while len(running) >= count:
            done = wait_until(one_is_over, 'one of the logins is over')
            running.remove(done)
            yield done
    while running:
        done = wait_until(one_is_over, 'one of the logins is over')
        running.remove(done)
        yield done


def unescape(shown):
    """Turn what the log shows of a login into its bytes, and tell whether it was cut."""
    cut = shown.endswith('\\...')
    shown = shown[:-4] if cut else shown
    if not re.fullmatch(r'(?:\\x[0-9a-f]{2}|[!#-\[\]-~])*', shown):
        raise AssertionError(f'not well formed: {shown}')
    return re.sub(rb'\\x(..)', lambda match: bytes([int(match[1], 16)]), shown.encode()), cut


def become_user(number):
    os.setgroups([])
    os.setgid(number)
    os.setuid(number)


class HostileCase(Case):
    """A test with a tool that accepts, one that refuses, and a session that ends with 7."""

    def setUp(self):
        super().setUp()
        self.good = self.tool('good', ACCEPTS)
        self.bad = self.tool('bad', REJECTS)
        self.session = self.tool('session', 'exit 7')
        self.progs = ([['true'], 0], [[self.session], 7])  # the quick path, and the one with the report step
        self.chains = 0

    def chain(self, *lines, first=('log=stderr',)):
        """Write a configuration of its own for one login; return the environment that names it."""
        self.chains += 1
        lines = [line if isinstance(line, bytes) else line.encode() for line in (*first, *lines)]
        return {'PWRAP_CONF': self.write(f'chain{self.chains}', b'\n'.join(lines) + b'\n')}

    def pids(self, name):
        """The process ids that tools noted in a file."""
        try:
            return [int(word) for word in read_file(self.path(name)).split()]
        except FileNotFoundError:
            return []

    def end(self, *names):
        """End the processes whose ids tools noted in these files."""
        for name in names:
            for pid in self.pids(name):
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)

    def check_quiet(self, login):
        """Nothing came out besides the log."""
        self.assertEqual((login.output(1), login.output(2)), (b'', b''))

    def check(self, login, code, result, tool=None, problem=None):
        """A login ended as expected: with this one result, and with one line about a problem that matches, or none."""
        self.check_quiet(login)
        fields = login.result()
        self.assertEqual((login.code, fields['result']), (code, result), login.log())
        self.assertEqual(fields['code'], None if result in ('accepted', 'disabled') else str(code), login.log())
        if tool:
            self.assertEqual(fields['tool'], tool)
        self.assertEqual(len(login.problems()), 1 if problem else 0, login.log())
        if problem:
            self.assertRegex(login.problems()[0], problem)
            self.assertLess(len(login.problems()[0]), 1000)

    def check_alone_and_first(self, line, name, problem, **options):
        """A tool that gives no verdict, in both paths: alone, the login is a temporary failure; before a tool that
        accepts, that one decides; before one that refuses, too, but the log does not say rejected, and with
        failure=temporary neither does the exit code."""
        cases = [
            ('alone', [line], 111, 'temporary', name),
            ('then one accepts', [line, self.good], None, 'accepted', self.good),
            ('then one refuses', [line, self.bad], 1, 'temporary', self.bad),
            ('failure=temporary', ['failure=temporary', line, self.bad], 111, 'temporary', self.bad),
        ]
        # All at the same time: some of these tools take their time.
        logins = [(prog, case, prog_code if code is None else code, result, tool,
                   self.start(*prog, env=self.chain(*lines), **options))
                  for prog, prog_code in self.progs for case, lines, code, result, tool in cases]
        for prog, case, code, result, tool, login in logins:
            with self.subTest(line=line[:100], case=case, prog=prog[0]):
                login.wait()
                self.check(login, code, result, tool, problem)

    def copy_for_others(self):
        """Make the folder somebody's, who has no rights, and put a copy of the script there; return its command."""
        os.chown(self.folder, SOMEBODY, SOMEBODY)
        command = [*self.command[:-1], self.write('qmail_pwrap.py', read_file(SCRIPT), 0o755)]
        if self.login(command=command, env=self.chain(self.good), triple=None,
                      before=lambda: become_user(SOMEBODY)).code != 2:
            self.skipTest('this Python is in a folder that only root can enter')
        return command


class Tools(HostileCase):
    def test_nothing_that_can_be_run(self):
        """What stands in a tool's place but cannot be run is skipped with a line in the log; alone it means 111."""
        broken = {
            self.path('missing'): 'No such file',
            self.folder: 'Permission denied',
            self.write('plain', '#!/bin/sh\nexec "$@"\n', 0o644): 'Permission denied',
            self.write('without-shebang', 'exec "$@"\n', 0o755): 'Exec format error',
            self.write('empty', '', 0o755): 'Exec format error',
            self.write('garbage', b'\x7fELF' + bytes(range(256)), 0o755): 'Exec format error',
            self.write('no-interpreter', '#!/nonexistent/sh\nexec "$@"\n', 0o755): 'No such file',
            self.path('good') + '/tool': 'Not a directory',
            '/dev/null': 'Permission denied',
        }
        for path, why in broken.items():
            self.check_skipped(path, f'^{re.escape(path)}: cannot (be )?run: {why}')
        for path in ('/' + 'a' * 4999, '/a' * 2500):
            self.check_skipped(path, r'^/a[a/]+\\\.\.\.: cannot (be )?run: File name too long')

    def test_nothing_that_can_be_run_where_sigchld_is_ignored(self):
        """The same is true under a server that ignores SIGCHLD, where tools are started in another way."""
        for path in (self.path('missing'), self.folder, self.write('plain', '#!/bin/sh\n', 0o644),
                     self.write('garbage', b'\x7fELF' + bytes(range(256)), 0o755),
                     self.write('no-interpreter', '#!/nonexistent/sh\n', 0o755)):
            self.check_skipped(path, f'^{re.escape(path)}: cannot (be )?run: ',
                               before=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))

    def check_skipped(self, path, problem, **options):
        """As check_alone_and_first, for what never ran and so never stands in the result."""
        for prog, prog_code in self.progs:
            cases = [
                ('alone', [path], 111, 'temporary', '-'),
                ('then one accepts', [path, self.good], prog_code, 'accepted', self.good),
                ('one refused before', [self.bad, path], 1, 'temporary', self.bad),
                ('failure=temporary', ['failure=temporary', path, self.bad], 111, 'temporary', self.bad),
            ]
            started = ((case, self.start(*prog, env=self.chain(*case[1]), **options)) for case in cases)
            for (case, _, code, result, tool), login in over_in_turn(3, started):
                with self.subTest(path=path[:100], case=case, prog=prog[0]):
                    self.check(login, code, result, tool, problem)

    def test_dies_by_a_signal(self):
        """A tool that is killed by a signal, before or after it read the password, has failed temporarily."""
        for name in ('SEGV', 'KILL', 'TERM', 'ABRT', 'BUS', 'PIPE', 'HUP', 'INT', 'ALRM', 'USR1'):
            reading = '' if name in ('SEGV', 'TERM') else 'cat <&3 >/dev/null; exec 3<&-;'
            tool = self.tool(f'dies-{name}', f'ulimit -c 0; {reading} kill -{name} $$; sleep 1000')
            self.check_alone_and_first(tool, tool, f'^{re.escape(tool)}: killed by SIG{name}$')

    def test_hangs(self):
        """A tool that hangs is killed when its time is over, even if it ignores every signal that it can."""
        self.addCleanup(self.end, 'hangs.ran')
        tool = self.tool('hangs', "trap '' TERM HUP INT QUIT ALRM USR1 USR2; exec sleep 1000")
        self.check_alone_and_first(f'timeout=1 {tool}', tool, '^' + re.escape(tool) + ': timed out after 1 s and was')
        wait_until(lambda: not any(map(alive, self.pids('hangs.ran'))), 'the hung tools are gone')

    def test_hangs_with_a_hung_helper(self):
        """What a hung tool has started in its process group is gone with it."""
        self.addCleanup(self.end, 'hangs.ran', 'helpers')
        tool = self.tool('hangs', """
            (trap '' TERM HUP; sh -c 'echo $$ >>$0/helpers; sleep 1000 & echo $! >>$0/helpers; wait' $dir) &
            wait; sleep 1000""")
        self.check_alone_and_first(f'timeout=1 {tool}', tool, 'timed out after 1 s and was killed$')
        helpers = self.pids('helpers') + self.pids('hangs.ran')
        self.assertGreater(len(helpers), 3)
        wait_until(lambda: not any(map(alive, helpers)), 'the helpers are gone')

    @needs('root')
    def test_hangs_and_cannot_be_killed(self):
        """Where a hung tool cannot be killed, the chain ends: nobody else gets the password, 111."""
        # The wrapper runs without root, with nothing but the right to change its uid (CAP_SETUID), which the tool
        # inherits. So the tool can become root in all its uids, as su and sudo do, and the wrapper, which has no
        # CAP_KILL, cannot signal it. No setuid program has to lie in a folder where somebody else might run it.
        command = ['/usr/bin/setpriv', f'--reuid={SOMEBODY}', f'--regid={SOMEBODY}', '--clear-groups',
                   '--inh-caps=+setuid', '--ambient-caps=+setuid', '--', *self.copy_for_others()]
        tool = self.tool('hangs', 'exec setpriv --reuid=0 sleep 1000')
        logins = [self.start(*prog, command=command, env=self.chain(f'timeout=2 {tool}', self.good))
                  for prog, _ in self.progs]
        self.addCleanup(self.end, 'hangs.ran')
        for login, (prog, _) in zip(logins, self.progs):
            with self.subTest(prog=prog[0]):
                login.wait()
                self.check(login, 111, 'temporary', tool, 'timed out after 2 s and cannot be killed$')
        self.assertEqual([alive(pid) for pid in self.pids('hangs.ran')], [True, True], 'the tools were hard to kill')
        self.assertEqual((self.ran('good'), self.ran('session')), (0, 0))

    def test_does_not_read(self):
        """A tool that never reads descriptor 3, or never closes it, has its verdict like any other."""
        for name, body, refuses in (
                ('refuses without reading', 'exit 1', True),
                ('refuses with descriptor 3 closed', 'exec 3<&-; exit 1', True),
                ('accepts without reading', 'exec 3<&-; exec "$@"', False),
                ('accepts without reading or closing', 'exec "$@"', False),
                ('never closes it', 'cat <&3 >/dev/null; exec "$@"', False),
                ('reads half', 'head -c 9 <&3 >/dev/null; exec "$@"', False)):
            tool = self.tool(name.replace(' ', '-'), body)
            for prog, prog_code in self.progs:
                with self.subTest(name, prog=prog[0]):
                    login = self.login(*prog, env=self.chain(tool))
                    self.check(login, *((1, 'rejected') if refuses else (prog_code, 'accepted')), tool)

    def test_opens_a_file_of_its_own_on_the_number_of_the_report_pipe(self):
        """Nothing is ever written to a file that a tool has opened on a descriptor that the wrapper used."""
        victim = self.write('victim', '')
        session = self.tool('quiet', 'exit 0')
        tool = self.python_tool('opens', 'first, last = map(int, argv[:2])\n'
                                         f'file = os.open({victim!r}, os.O_RDWR)\n'
                                         'for number in range(first, last):\n'
                                         '    if number != file: os.dup2(file, number)\n'
                                         'os.close(3)\n'
                                         'os.execvp(argv[2], argv[2:])')
        ranges = [(4, 31), *((number, number + 1) for number in range(4, 31))]
        started = ((pair, prog, self.start(prog, env=self.chain('{} {} {}'.format(tool, *pair))))
                   for pair in ranges for prog in (session, 'true') if prog == session or pair == (4, 31))
        for pair, prog, login in over_in_turn(4, started):
            with self.subTest(numbers=pair, prog=prog):
                self.check(login, 0, 'accepted', tool)
        self.assertEqual(read_file(victim), b'')
        self.assertEqual(self.ran('quiet'), len(ranges))

    def test_opens_a_pipe_of_its_own_on_the_number_of_the_report_pipe(self):
        """A pipe that a tool has opened there is not taken for the wrapper's: prog starts, and nobody hangs."""
        session = self.tool('quiet', 'exit 0')
        tool = self.python_tool('opens', 'pair = os.pipe()\n'
                                         'for number in range(5, 31):\n'
                                         '    os.dup2(pair[number % 2], number)\n'
                                         'os.execvp(argv[0], argv)')
        self.check(self.login(session, env=self.chain(tool)), 0, 'accepted', tool)
        self.assertEqual(self.ran('quiet'), 1)

    def test_accepts_after_it_was_given_up(self):
        """Once the wrapper has given a tool up, prog is not started: whoever tries gets 111."""
        late = """
            setsid sh -c 'echo $$ >>$0/away; while [ -d $0 ] && [ ! -e $0/go ]; do sleep 0.02; done
                          "$@"; echo $? >$0/answer.new; mv $0/answer.new $0/answer' $dir "$@" &
            while [ -d $dir ] && [ ! -s $dir/away ]; do sleep 0.02; done
            """
        for name, body, timeout, code, result in (
                ('timed out', 'sleep 1000', True, 111, 'temporary'),
                ('refused', 'exit 1', False, 1, 'rejected'),
                ('died', 'kill -KILL $$', False, 111, 'temporary')):
            for seconds in (1, 4, 16, 60):  # on a busy machine its first second may not suffice to get away
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path('away'))
                tool = self.tool('late', late + body)
                login = self.login(self.session, env=self.chain(f'timeout={seconds if timeout else 0} {tool}'))
                if self.pids('away'):
                    break
            with self.subTest(name):
                log = login.log()
                self.write('go', '')
                wait_until(lambda: os.path.exists(self.path('answer')), 'the late helper got an answer')
                self.assertEqual(self.pids('answer'), [111])
                self.check(login, code, result, tool, None if result == 'rejected' else 'timed out|killed by')
                self.assertEqual(login.log(), log)
                self.assertEqual(self.ran('session'), 0)
            for file in ('go', 'answer', 'away'):
                os.unlink(self.path(file))

    def test_accepts_after_the_wrapper_died(self):
        """Where the wrapper itself was killed, prog is not started either."""
        tool = self.tool('late', 'while [ -d $dir ] && [ ! -e $dir/go ]; do sleep 0.02; done\n'
                                 '"$@"; echo $? >$dir/answer.new; mv $dir/answer.new $dir/answer')
        login = self.start(self.session, env=self.chain(tool))
        wait_until(lambda: self.ran('late'), 'the tool runs')
        login.kill()
        self.write('go', '')
        wait_until(lambda: os.path.exists(self.path('answer')), 'the tool got an answer')
        self.assertEqual((self.pids('answer'), self.ran('session')), ([111], 0))

    def test_accepts_at_the_last_moment(self):
        """However close to its time limit a tool accepts, prog runs exactly if the login was logged as accepted."""
        session = self.write('moment', f'#!/bin/sh\necho >>{self.folder}/session.$1\nexit 7\n', 0o755)
        tool = self.tool('slow', 'cat <&3 >/dev/null; delay=$1; shift; sleep $delay; exec "$@"')
        logins = {number: self.start(session, str(number), env=self.chain(
            f'timeout=1 {tool} {0.90 + number * 0.005:.3f}', self.bad)) for number in range(24)}
        for number, login in logins.items():
            login.wait()
            with self.subTest(number=number):
                ran = os.path.exists(self.path(f'session.{number}'))
                if ran:
                    self.check(login, 7, 'accepted', tool)
                else:
                    self.check(login, 1, 'temporary', self.bad, 'timed out')

    def test_stopped(self):
        """A tool that was stopped, or stops itself, is killed when its time is over."""
        tool = self.tool('stops', 'kill -STOP $$; exec "$@"')
        self.check_alone_and_first(f'timeout=1 {tool}', tool, 'timed out after 1 s and was killed$')


class System(HostileCase):
    @needs('root')
    def test_no_more_processes(self):
        """Where no process can be started the login fails temporarily; a process at a time is enough to log in."""
        command = self.copy_for_others()

        def limit(count, ignore=False):
            def before():
                if ignore:  # a server that ignores SIGCHLD is served by another code path
                    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_NPROC, (count, count))
                become_user(SOMEBODY)
            return before

        for prog, _ in self.progs:
            with self.subTest(prog=prog[0]):
                login = self.login(*prog, command=command, env=self.chain(self.good), before=limit(1))
                self.check(login, 111, 'temporary', self.good, '^' + re.escape(self.good) + ': cannot be started: ')
                login = self.login(*prog, command=command, env=self.chain(self.good), before=limit(1, ignore=True))
                self.check(login, 111, 'temporary', self.good, '^' + re.escape(self.good) + ': cannot be started: ')
        self.assertEqual(self.ran('good'), 0)
        tool = self.tool('frugal', 'exec "$@"')
        for prog, code in self.progs:
            with self.subTest(prog=prog[0], limit=2):
                login = self.login(*prog, command=command, env=self.chain(tool, self.bad), before=limit(2))
                self.check(login, code, 'accepted', tool)

    def test_sixteen_descriptors_are_enough(self):
        """With no more than 16 descriptors everything works, however long the chain."""
        def before():
            resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))

        shifts = self.tool('shifts', 'shift; ' + ACCEPTS)  # its first argument is its own
        for prog, code in self.progs:
            for lines, result, tool in (
                    ([self.good], 'accepted', self.good),
                    ([self.bad], 'rejected', self.bad),
                    ([*[self.bad] * 12, self.good], 'accepted', self.good),
                    ([*[self.bad] * 3, f'name=quoted {shifts} "a b"'], 'accepted', 'quoted')):
                with self.subTest(prog=prog[0], tools=len(lines)):
                    login = self.login(*prog, env=self.chain(*lines), before=before)
                    self.check(login, 1 if result == 'rejected' else code, result, tool)

    def test_fewer_descriptors(self):
        """With even fewer, the verdict is right or a temporary failure, wherever Python itself can start."""
        imports = [line for line in read_file(SCRIPT).decode().splitlines() if line.startswith(('import ', '#!'))]
        bare = self.write('bare.py', '\n'.join(imports) + '\nimport fcntl\n', 0o755)
        # These tools need no descriptor of their own, as a shell would.
        accepts, refuses, sleep = shutil.which('env'), shutil.which('false'), shutil.which('sleep')
        tried = 0
        for count in range(15, 3, -1):
            def before(count=count):
                resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

            if self.login(command=[*self.command[:-1], bare], before=before).code:
                continue
            for prog in (['true'], [sleep, '0']):
                for tool, code, result in ((accepts, 0, 'accepted'), (refuses, 1, 'rejected')):
                    with self.subTest(count=count, prog=prog[0], tool=tool):
                        login = self.login(*prog, env=self.chain(tool), before=before)
                        if login.code == 111:
                            self.check(login, 111, 'temporary', None, 'cannot be|internal error')
                        else:
                            self.check(login, code, result, tool)
                        tried += 1
        self.assertGreater(tried, 20)

    def test_little_memory(self):
        """With too little memory the verdict is right or a temporary failure, wherever Python can read the script."""
        script = read_file(SCRIPT)
        bare = self.write('bare.py', script.replace(b"\nif __name__ == '__main__':\n    main", b'\nposix._exit(0)\n#'), 0o755)
        enough = tried = 0
        for kilobytes in range(8192, 40960, 1024):
            def before(kilobytes=kilobytes):
                resource.setrlimit(resource.RLIMIT_AS, (kilobytes * 1024, kilobytes * 1024))

            # Short of that, the interpreter fails in ways of its own, and now and then for ever.
            reads = self.start(command=[*self.command[:-1], bare], before=before)
            with contextlib.suppress(AssertionError):
                reads.wait(20)
            enough = enough + 1 if reads.code == 0 else 0
            if enough < 3:
                continue
            for prog, code in self.progs:
                with self.subTest(kilobytes=kilobytes, prog=prog[0]):
                    tried += 1
                    login = self.login(*prog, env=self.chain(self.good), before=before)
                    if login.code == 111:
                        self.check(login, 111, 'temporary', None, 'cannot be|internal error')
                    elif login.code != 127:  # what the tool's own shell says without memory
                        self.check(login, code, 'accepted', self.good)
        self.assertGreater(tried, 20)

    def verdicts(self, first):
        """Configurations below the lines in first, with both progs, and the exit codes that they lead to."""
        for prog, code in self.progs:
            yield prog, self.chain(self.good, first=first), code
            yield prog, self.chain(self.bad, first=first), 1
            yield prog, self.chain(self.path('missing'), first=first), 111
        yield ['/nonexistent/prog'], self.chain(self.good, first=first), 111

    def test_no_syslog(self):
        """Where no syslog listens, the exit code is right all the same, and nothing is said anywhere else."""
        private = ['unshare', '--mount', '--propagation', 'private', '--', '/bin/sh', '-c']
        dead = self.path('dead')
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as closed:
            closed.bind(dead)
        ways = {
            'no file': [*private, 'mount -t tmpfs none /dev && exec "$@"', 'sh'],
            'dead socket': [*private, f'mount --bind {dead} /dev/log && exec "$@"', 'sh'],
            'no socket': [*private, 'mount --bind /dev/null /dev/log && exec "$@"', 'sh'],
        }
        if not os.path.exists('/dev/log'):
            ways = {'no file': []}
        elif os.geteuid():
            self.skipTest('only root can hide /dev/log')
        for way, hide in ways.items():
            if hide:
                hide = [shutil.which(hide[0]), *hide[1:]]
            started = ((prog, code, self.start(*prog, command=[*hide, *self.command], env=env))
                       for prog, env, code in [*self.verdicts([]), (['true'], {'PWRAP_CONF': '/nonexistent'}, 111)])
            for prog, code, login in over_in_turn(3, started):
                with self.subTest(way, prog=prog[0], code=code):
                    self.assertEqual((login.code, login.log()), (code, []))
                    self.check_quiet(login)

    def test_no_stderr(self):
        """Where log=stderr leads nowhere, the exit code is right all the same."""
        reader, broken = os.pipe()
        os.close(reader)
        full, filler = os.pipe()
        os.set_blocking(filler, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(filler, bytes(4096)):
                pass
        opened = {'a broken pipe': broken, 'a full pipe': filler, '/dev/full': os.open('/dev/full', os.O_WRONLY),
                  'only for reading': os.open('/dev/null', os.O_RDONLY)}
        for descriptor in [full, *opened.values()]:
            self.addCleanup(os.close, descriptor)
        for way, descriptor in [('closed', None), *opened.items()]:
            how = {'closed': (2,)} if descriptor is None else {'descriptors': {2: descriptor}}
            started = ((prog, code, self.start(*prog, env=env, **how))
                       for prog, env, code in self.verdicts(['log=stderr']))
            for prog, code, login in over_in_turn(3, started):
                with self.subTest(way, prog=prog[0], code=code):
                    self.assertEqual(login.code, code)
                    self.assertEqual((read_file(f'{login.folder}/1'), read_file(f'{login.folder}/2')), (b'', b''))

    def test_files_may_not_grow(self):
        """Where no file may grow (RLIMIT_FSIZE), the log is lost, and the exit code is right all the same."""
        tool, prog = shutil.which('env'), shutil.which('sleep')
        for words in (['true'], [prog, '0']):
            with self.subTest(prog=words[0]):
                login = self.login(*words, env=self.chain(tool),
                                   before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
                self.assertEqual((login.code, login.log()), (0, []))

    @needs('root')
    def test_nothing_takes_the_place_of_descriptor_3(self):
        """Where descriptor 3 is closed and something has to be logged at once, the log is not read as the triple."""
        with SyslogListener() as syslog:
            login = self.start('true', triple=None, command=syslog.command(self.command),
                               env=self.chain(self.good), before=lambda: os.setresuid(SOMEBODY, 0, 0))
            login.wait()
        self.assertEqual(login.code, 2)
        self.check_quiet(login)


# What makes a configuration invalid: the lines, and the number of the one that is wrong. GOOD is a tool. All words but
# the settings' names must stay out of the log.
GOOD = '/bin/true'
INVALID = [
    *[(line, 1) for line in (
        'colour=Zxqblue', f'colour=Zxqblue {GOOD}', 'Zxqword', f'Zxqword {GOOD}', 'users', f'timeout {GOOD}', '=',
        '=Zxq',
        f'=Zxq {GOOD}', 'USERS=zxqalice', 'users =zxqalice', '""', "''", f'"" {GOOD}', 'pass word=Zxqsecret',
        'Zxqsecret!word=', 'q' * 1200 + '=1', 'Zxq' * 4000,
        # relative paths
        'bin/Zxqtool', './Zxqtool', '~/Zxqtool', 'true', f'users=zxqalice ./true {GOOD}', '"bin/Zxqtool"',
        '\\ /Zxqtool',
        # for the file: values, and places
        'auth=2', 'auth=', 'auth=00', 'auth=Zxq', 'auth=1 auth=1', f'auth=1 {GOOD}', f'auth=0 {GOOD} Zxq', 'log=',
        'log=Zxq',
        'log=STDERR', f'log=stderr {GOOD}', 'log=syslog log=stderr', 'failure=', 'failure=Zxq', f'failure=last {GOOD}',
        'failure=last failure=last',
        # timeout
        'timeout=', f'timeout= {GOOD}', 'timeout=-1', 'timeout=+1', 'timeout=1.5', 'timeout=1e3', 'timeout=86401',
        'timeout=0x10', 'timeout=1_0', 'timeout=Zxq', 'timeout="1 "', 'timeout=" 1"', 'timeout=1s',
        'timeout=' + '9' * 30, 'timeout=' + '9' * 5000, 'timeout=\u0661', 'timeout=\u00b2',
        f'timeout=1 timeout=2 {GOOD}',
        # users
        'users=', f'users= {GOOD}', 'users=,', 'users=zxqa,,zxqb', 'users=zxqa,', 'users=,zxqa', 'users=!',
        'users=zxqa,!',
        'users=""', f'users=zxqa users=zxqb {GOOD}', 'users=zxqa users=zxqb',
        # name
        'name=Zxq', f'name= {GOOD}', f'name=Zxq/a {GOOD}', f'name=Zxq=b {GOOD}', f'name="Zxq b" {GOOD}',
        f'name=Zxq\u00e4 {GOOD}', f'name=Zxq name=Zxq {GOOD}', f"name='' {GOOD}", f'name=a\\"Zxq {GOOD}',
        # quotes, comments, NUL
        f'{GOOD} "Zxq', f"{GOOD} 'Zxq", f'{GOOD} Zxq\\', '"', "'", '\\', f'{GOOD} "Zxq\\"', f'users="zxqa {GOOD}',
        f'{GOOD} # Zxq', f'{GOOD} #Zxq', f'{GOOD} #', 'users=zxqa # Zxq', f'{GOOD} "a b" #Zxq', f'{GOOD} a\\ b\t#Zxq',
        f'{GOOD} "Zxq"  # b', f'timeout=1 # {GOOD}', f'{GOOD} a\0Zxq', '\0', 'users=zxqa\0b', f'\0{GOOD}',
        f'{GOOD} "a\0Zxq"',
        # no text
        b'\xff\xfe Zxq', b'\xef\xbb\xbf' + GOOD.encode(), b'\xff' * 300, f'{GOOD} Zxq\n'.encode('utf-16'),
        bytes(range(14, 256)),
        '\x0b' + GOOD, '\x0c', '\x1b[2J', '\u00a0' + GOOD, '\r' + GOOD, GOOD + ' "\r')],
    # once in a file
    ('auth=1\n\nauth=1', 3), ('auth=1\nauth=0', 2), ('log=syslog\nlog=syslog', 2),
    ('failure=last\n#\n\n\nfailure=last', 5),
    ('\n\n  # fine\n\tZxqword', 4), ('# a\r\n# b\r\ntimeout=x', 3),
]


class Settings(HostileCase):
    def logged(self, syslog, login):
        """Return the lines that a login told syslog: its problems, and its results."""
        tag = f'qmail-pwrap[{login.pid}]'

        def texts():
            return [line.text for line in syslog.lines(tag)]

        wait_until(lambda: any(text.startswith('result=') for text in texts()), 'the result is logged')
        return ([text for text in texts() if 'result=' not in text], [text for text in texts() if 'result=' in text])

    def check_invalid(self, files, prog='true', **options):
        """Log in with each of these configurations, a dictionary from PWRAP_CONF to what the one problem has to match:
        111, no tool runs, and nothing is logged to a place that the file itself names."""
        with contextlib.ExitStack() as stack:
            syslog = None if os.geteuid() else stack.enter_context(SyslogListener())
            command = options.pop('command', self.command)
            command = syslog.command(command) if syslog else command
            started = ((path, problem, self.start(prog, env={'PWRAP_CONF': path}, command=command, **options))
                       for path, problem in files.items())
            for path, problem, login in over_in_turn(4, started):
                with self.subTest(os.path.basename(path)[-100:], content=self.shown(path)):
                    self.assertEqual(login.code, 111)
                    self.assertEqual((read_file(f'{login.folder}/1'), read_file(f'{login.folder}/2')), (b'', b''))
                    if syslog:
                        problems, results = self.logged(syslog, login)
                        self.assertEqual(len(problems), 1, problems)
                        self.assertRegex(problems[0], problem)
                        self.assertNotIn('zxq', problems[0].replace(self.folder, '').lower())
                        self.assertRegex(problems[0], '^[ -~]{1,900}$')
                        self.assertEqual(len(results), 1)
                        self.assertRegex(results[0], '^result=temporary ip=- tool=- code=111 ms=[0-9]+ '
                                                     'user="alice@example.org"$')
        self.assertEqual((self.ran('good'), self.ran('session')), (0, 0))

    @staticmethod
    def shown(path):
        with contextlib.suppress(OSError, ValueError):
            if stat.S_ISREG(os.stat(path).st_mode):
                return read_file(path)[-200:]
        return None

    def test_every_error_of_form(self):
        """Whatever is wrong in a configuration, and wherever, no tool runs, 111; the log names file, line and what is
        wrong without repeating what stands there; nobody writes to descriptors 1 and 2."""
        files = {}
        before, after = f'log=stderr\n{self.good}\n'.encode(), f'\n{self.good}\n'.encode()
        for number, (lines, wrong) in enumerate(INVALID):
            lines = lines if isinstance(lines, bytes) else lines.encode()
            placed = before.replace(b'log=stderr', b'') if b'log=sys' in lines else before
            path = self.write(f'invalid{number}', placed + lines + after)
            files[path] = f'^{re.escape(path)}:{wrong + 2}: .'
        self.check_invalid(files)

    def test_only_the_last_line_is_wrong(self):
        """Also an error in the last line, without a newline, keeps the tools above from being run."""
        files = {}
        for line in ('Zxq', 'timeout=', f'{self.good} "'):
            path = self.write(f'last{len(files)}', f'log=stderr\n{self.good}\n{line}')
            files[path] = f'^{re.escape(path)}:3: .'
        self.check_invalid(files, self.session)

    def test_no_file_to_read(self):
        """A configuration that is missing, empty, no regular file or without a tool is as good as invalid: 111."""
        os.mkfifo(self.path('fifo'))
        os.mkfifo(self.path('held'))
        held = os.open(self.path('held'), os.O_RDWR)  # has a writer, who writes nothing
        self.addCleanup(os.close, held)
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(self.path('socket'))
        os.symlink('loop', self.path('loop'))
        os.symlink('nowhere', self.path('dangling'))
        names = {
            self.path('missing'): 'No such file', self.folder: 'not a regular file', '/': 'not a regular file',
            self.path('fifo'): 'not a regular file', self.path('held'): 'not a regular file',
            self.path('socket'): '.', self.path('loop'): '.', self.path('dangling'): 'No such file',
            '/dev/null': 'not a regular file', '/dev/zero': 'not a regular file',
            self.path('good/file'): 'Not a directory',
            self.path('missing') + '\n\x1b"= result=accepted': 'No such file',
            self.write('empty', ''): 'no tool', self.write('comments', '# a\n \t\r\n#'): 'no tool',
            self.write('defaults', 'log=stderr\ntimeout=5\n'): 'no tool',
        }
        self.check_invalid({path: f'^{re.escape(path.split(chr(10))[0])}[^ ]*: {why}' for path, why in names.items()})
        self.check_invalid({self.path('a' * 5000): 'File name too long',
                            self.path('\udcff\udce4'): r'\\xff\\xe4: No such'})

    @needs('root')
    def test_not_safe_from_others(self):
        """A configuration that somebody else owns or can write to is not used, and the log says how to mend that."""
        files = {}
        for mode in (0o664, 0o646, 0o622, 0o602, 0o620, 0o666, 0o777):
            path = self.write(f'mode{mode:o}', f'log=stderr\n{self.good}\n', mode)
            files[path] = f'^{re.escape(path)}: .*chmod'
        path = self.write('others', f'log=stderr\n{self.good}\n')
        os.chown(path, SOMEBODY, 0)
        files[path] = f'^{re.escape(path)}: .*chown'
        link = self.path('link')
        os.symlink('others', link)  # what counts is the file
        files[link] = f'^{re.escape(link)}: .*chown'
        self.check_invalid(files)

    @needs('root')
    def test_for_a_service_that_is_not_root(self):
        """A service's own user or root may own its configuration, nobody else; and it must be able to read it."""
        command = self.copy_for_others()
        own, root, other, unreadable = [self.write(name, f'log=stderr\n{self.good}\n') for name in
                                        ('own', 'root', 'other', 'unreadable')]
        os.chown(own, SOMEBODY, SOMEBODY)
        os.chmod(own, 0o600)
        os.chown(other, SOMEBODY_ELSE, SOMEBODY)
        os.chmod(unreadable, 0o600)
        hidden = self.path('hidden')
        os.mkdir(hidden, 0o700)
        switch = [shutil.which('setpriv'), f'--reuid={SOMEBODY}', f'--regid={SOMEBODY}', '--clear-groups', '--']
        self.check_invalid({
            other: f'^{re.escape(other)}: .*chown', unreadable: f'^{re.escape(unreadable)}: Permission denied',
            f'{hidden}/conf': 'Permission denied'}, command=[*switch, *command])
        for path in (own, root):
            for prog, code in self.progs:
                with self.subTest(path, prog=prog[0]):
                    login = self.login(*prog, command=[*switch, *command], env={'PWRAP_CONF': path})
                    self.check(login, code, 'accepted', self.good)

    def test_huge(self):
        """A configuration of some 50,000 lines, or with a line of a megabyte, is read like any other."""
        for name, lines in (('many lines', ['# comment', '  '] * 25000), ('a long comment', ['#' + 'x' * 1000000]),
                            ('many tools', [f'users=nobody{number} /nonexistent/{number}' for number in range(5000)]),
                            ('many patterns', ['users=' + ','.join(f'nobody{number}@*' for number in range(50000)),
                                               '/nonexistent/tool', 'users=*'])):
            with self.subTest(name):
                self.check(self.login('true', env=self.chain(*lines, self.good)), 0, 'accepted', self.good)


class Form(HostileCase):
    """Configurations as they come, each compared with a second reading of the rules."""

    def setUp(self):
        super().setUp()
        self.yes = self.tool('y', 'exit 0')
        self.no = self.tool('n', 'exit 1')

    @staticmethod
    def words(line):
        """Split a line as the rules say, character by character. Return None if it is invalid."""
        words, word, quote, escaped, quoted = [], None, '', False, False
        for character in line:
            if escaped:
                word += character if not quote or character in '"\\' else '\\' + character
                escaped = False
            elif character == '\\' and quote != "'":
                word, escaped, quoted = word or '', True, quoted or word is None
            elif quote:
                if character == quote:
                    quote = ''
                else:
                    word += character
            elif character in '"\'':
                word, quote = word or '', character
            elif character in ' \t':
                words += [] if word is None else [word]
                word = None
            else:
                if word is None and character == '#':
                    return None
                word = (word or '') + character
        if quote or escaped or '\0' in line:
            return None
        return words + ([] if word is None else [word])

    def read(self, data):
        """Return the settings of the file and its tools (path, users), or None if it is invalid."""
        settings, defaults, tools = {}, {'users': '*'}, []
        for line in data.decode('latin-1').split('\n'):
            line = line[:-1] if line.endswith('\r') else line
            if not line.strip(' \t') or line.strip(' \t')[0] == '#':
                continue
            words = self.words(line)
            if words is None:
                return None
            given = {}
            while words and not words[0].startswith('/'):
                match = re.fullmatch('(auth|log|failure|users|timeout|name)=(.*)', words.pop(0), re.DOTALL)
                if not match or match[1] in given:
                    return None
                given[match[1]] = match[2]
            forms = {'auth': '[01]', 'log': 'syslog|stderr', 'failure': 'last|temporary', 'timeout': '[0-9]{1,9}',
                     'name': r'[A-Za-z0-9._-]{1,200}'}
            for name, value in given.items():
                if name == 'users':
                    if any(pattern in ('', '!') for pattern in value.split(',')):
                        return None
                elif not re.fullmatch(forms[name], value):
                    return None
                if name == 'timeout' and int(value) > 86400:
                    return None
                if name in ('auth', 'log', 'failure'):
                    if words or name in settings:
                        return None
                    settings[name] = value
                if name == 'name' and not words:
                    return None
            if words:
                tools.append((words[0], given.get('users', defaults['users'])))
            else:
                defaults.update(given)
        return (settings, tools) if tools else None

    @staticmethod
    def serves(users, login):
        """Tell whether users= lets a login through."""
        def fits(pattern):
            pattern = ''.join(map(Form.lower, pattern))
            expression = '.*'.join(re.escape(part) for part in pattern.split('*'))
            return re.fullmatch(expression, ''.join(map(Form.lower, login)), re.DOTALL) is not None

        patterns = users.split(',')
        wanted = [pattern for pattern in patterns if pattern[0] != '!']
        return (any(map(fits, wanted)) or not wanted) and not any(fits(word[1:]) for word in patterns if word[0] == '!')

    @staticmethod
    def lower(character):
        return character.lower() if character in string.ascii_uppercase else character

    def expected(self, data):
        """Return exit code and result of a login with a configuration, and where the latter is logged."""
        valid = self.read(data)
        if valid is None:
            return 111, 'temporary', 'syslog'
        settings, tools = valid
        where = settings.get('log', 'syslog')
        if settings.get('auth') == '0':
            return 0, 'disabled', where
        tools = [path for path, users in tools if self.serves(users, LOGIN.decode())]
        code, skipped = (111 if tools else 1), False
        for path in tools:
            if path == self.yes:
                return 0, 'accepted', where
            code, skipped = (1, skipped) if path == self.no else (code, True)
        if skipped and settings.get('failure') == 'temporary':
            code = 111
        return code, 'temporary' if skipped else 'rejected', where

    def check_files(self, contents):
        """Log in with each of these contents; return how many of the files were invalid."""
        started = ((data, self.start('true', env={'PWRAP_CONF': self.write(f'form{number}', data)}))
                   for number, data in enumerate(contents))
        invalid = 0
        for data, login in over_in_turn(4, started):
            code, result, where = self.expected(data)
            invalid += self.read(data) is None
            with self.subTest(data=data):
                self.check_quiet(login)
                self.assertEqual(login.code, code)
                if where == 'stderr':
                    self.assertEqual(login.result()['result'], result)
                else:
                    self.assertEqual(login.log(), [])
        return invalid

    def lines(self):
        tools = (self.yes, self.no, '/nonexistent/tool', self.folder)
        settings = ('timeout=9', 'timeout=0', 'users=alice*', 'users=*@EXAMPLE.org', 'users=!alice*', 'users=bob,carol',
                    'users=*,!*@example.org', 'users="a*e@e*,b o b"', 'name=x-1', "users='!#*'", 'users=\\a*',
                    'timeout=',
                    'users=a,,b', 'timeout=99999')
        alone = ('# comment', '', ' \t', '  #"', 'users=*e*', 'timeout=7\r', 'users=!bob', 'failure=temporary',
        'auth=1', 'failure=last',
                 'log=stderr', 'users=*', 'timeout=', 'log=stderr\r', 'auth=0', 'nonsense', 'users=!*', '/x "', "''")
        arguments = ('', '', '', ' a', ' "#b"', " 'a b'", ' \\#', ' a#b', ' ""', '\r', ' "a"\'b\'', ' #', ' "\\""',
        '\t', ' ""#')
        return tools, settings, alone, arguments

    def random_file(self, source):
        tools, settings, alone, arguments = self.lines()
        likely = random.Random(source.random())
        lines = ['log=stderr'] if likely.random() < 0.8 else []
        for _ in range(likely.randrange(1, 7)):
            if likely.random() < 0.6:
                given = likely.sample(settings[:-3] if likely.random() < 0.9 else settings, likely.choice((0, 0, 1, 2)))
                lines.append(' '.join([*given, likely.choice(tools)]) + likely.choice(
                    arguments if likely.random() < 0.2 else arguments[:10]))
            else:
                lines.append(likely.choice(alone if likely.random() < 0.3 else alone[:7]))
        data = '\n'.join(lines).encode()
        if likely.random() < 0.25:  # and one byte of it spoilt
            place = likely.randrange(len(data) + 1)
            other = bytes([likely.choice(b'\0 \t\n\r"\'\\#=!,*/a\xff')])
            data = data[:place] + other + data[place + likely.randrange(2):]
        return data

    def test_random_files(self):
        """Of 200 random files, some without any sense, each gives the verdict that a second reading of the rules
        gives, or 111."""
        source = random.Random(3)
        files = [self.random_file(source) for _ in range(170)]
        files += [bytes(source.choices(range(256), k=source.randrange(400))) for _ in range(15)]
        files += [bytes(source.choices(b'\n\n #"=/\\\'atuseo,!*\0\r', k=source.randrange(60))) for _ in range(15)]
        invalid = self.check_files(files)
        self.assertTrue(60 < invalid < 140, f'{invalid} of {len(files)} are invalid: a lopsided test')

    def test_cut_at_every_byte(self):
        """A file that is cut at any byte gives a verdict by the lines that are there, or 111."""
        data = (f'log=stderr\r\nusers=*@b\n{self.no}\n# c\nfailure=temporary\n'
                f'users=!bo* timeout=9 name=x {self.yes} "a #b"\n').encode()
        self.check_files(data[:length] for length in range(len(data) + 1))

    def test_patterns(self):
        """users= serves exactly the logins that a second matcher says, whatever characters and stars there are."""
        notes = self.write('notes', f'#!/bin/sh\ncat <&3 >/dev/null\necho $1 >>{self.folder}/$2\nexit 1\n', 0o755)
        source = random.Random(7)

        def text(characters, limit):
            return ''.join(source.choices(characters, k=source.randrange(limit)))

        cases = []
        for number in range(24):
            login = text('abABab@.\xc4\xe4*?[!', 9)
            # Any patterns, and some that nearly are the login itself.
            patterns = [','.join(source.choice(('', '', '!')) + text('abAB@**\xc4\xe4', 6)
                                 for _ in range(source.randrange(1, 4))) for _ in range(60)]
            patterns += [f'{login[:2]}*{login[2:]}', f'*{login[1:]}', f'{login[:-1]}*', f'*,!{login}', login.upper()]
            patterns = [users for users in patterns if not {'', '!'} & set(users.split(','))]
            lines = [f'users={users} {notes} {count} seen{number}' for count, users in enumerate(patterns)]
            cases.append((number, login, patterns, lines))
        started = ((number, login, patterns, self.start(
            'true', triple=login.encode('latin-1') + b'\0p\0t\0',
            env=self.chain(*[line.encode('latin-1') for line in lines]))) for number, login, patterns, lines in cases)
        for number, login, patterns, run in over_in_turn(3, started):
            seen = self.pids(f'seen{number}')
            should = [count for count, users in enumerate(patterns) if self.serves(users, login)]
            with self.subTest(login=login):
                self.check_quiet(run)
                self.assertEqual([patterns[count] for count in seen], [patterns[count] for count in should])
                self.assertEqual(run.code, 1)


class Network(HostileCase):
    def setUp(self):
        super().setUp()
        # A tool whose verdict depends on what it reads. It keeps what it has read in the file that $SEEN names.
        self.judge = self.write('judge', """#!/bin/sh
            cat <&3 >"$SEEN"; exec 3<&-
            read -r line <"$SEEN"
            case ${#line} in
            *[0-4]) exec "$@" ;;
            *[56]) exit 1 ;;
            *7) exit 111 ;;
            *8) exit 100 ;;
            esac
            exit 3
            """, 0o755)

    @staticmethod
    def triples(count, source):
        """Generate triples of at most 512 bytes with two fields or more."""
        special = [b'', b'"', b"'", b'\n', b'\r\n', b'\\', b'%s%n', b'$(id)', b'`id`', b' ', b'-', b'--', b'\x1b[2J',
        b'\xff\xfe',
                   b'result=accepted', 'äöü'.encode(), b'*', b'alice@example.org', b'\x80', b'\x7f', b'\x01', b'=']
        for number in range(count):
            fields = [b''.join(source.choice(special) if source.random() < 0.5 else bytes(
                source.choices(range(1, 256), k=source.randrange(20))) for _ in range(source.randrange(4)))
                for _ in range(source.choice((2, 3, 3, 3, 4, 9)))]
            triple = b'\0'.join(fields) + b'\0'
            if number % 7 == 0:  # more behind the last NUL
                triple += bytes(source.choices(range(1, 256), k=source.randrange(30)))
            if number % 11 == 0:  # as long as can be
                triple = bytes(source.choices(range(1, 256), k=max(0, 512 - len(triple)))) + triple
            yield triple[:512] if triple[:512].count(0) >= 2 else b'a\0b\0'

    def test_generated_triples(self):
        """A tool behind the wrapper reads the bytes that it reads when it is run directly, and the verdict is always
        the same: for 1,000 triples of any bytes."""
        env = self.chain(self.judge)

        def logins():
            for number, triple in enumerate(self.triples(1000, random.Random(11))):
                prog, code = self.progs[number % 8 == 0]
                prog = ['true'] if code == 0 else ['/bin/sh', '-c', 'exit 7']
                for name, command in (('direct', [self.judge]), ('wrapped', None)):
                    seen = self.path(f'{name}{number}')
                    yield number, triple, name, self.start(
                        *prog, triple=triple, command=command, env={**env, 'SEEN': seen})

        verdicts, codes = {}, set()
        for number, triple, name, login in over_in_turn(4, logins()):
            seen = read_file(self.path(f'{name}{number}'))
            codes.add(login.code)
            if name == 'wrapped':
                with self.subTest(triple=triple):
                    self.check_quiet(login)
                    self.assertEqual(login.problems(), [f'{self.judge}: temporary failure, exit code 111']
                                     if login.code == 111 else [])
                    user, cut = unescape(login.result()['user'])
                    self.assertTrue(triple.startswith(user) if cut else triple.startswith(user + b'\0'), user)
            verdict = (login.code, seen)
            with self.subTest(triple=triple):
                self.assertEqual(seen, triple)
                self.assertEqual(verdicts.setdefault(number, verdict), verdict)
            os.unlink(self.path(f'{name}{number}'))
            shutil.rmtree(login.folder)
        self.assertEqual(len(verdicts), 1000)
        self.assertEqual(codes, {0, 7, 1, 111, 100, 3})

    def test_logins_in_the_log(self):
        """Whatever a login holds, one clean line of printable ASCII comes out, and it tells no lies."""
        logins = [
            b'', b' ', b'"', b'"" ', b'\\', b'\\x22', b'\\...', b'alice"', b'alice" result=accepted user="bob', b"'",
            b'%s%n%d%m',
            b'a\nresult=accepted ip=192.0.2.1 tool=/bin/x ms=1 user="root"', b'a\r\nqmail-pwrap[1]: result=accepted',
            b'result=accepted', b'ip=192.0.2.66', b'tool=/bin/true', b'user=root', b'\x1b[2J\x1b]0;x\x07',
            b'\x08' * 30, b'\x7f\x80\x9b',
            'ä@exämple.org'.encode(), 'ä'.encode('latin-1'), b'\xff' * 490, b'x' * 490, b'"' * 490, b'\n' * 490,
            b'=' * 490,
            bytes(range(1, 256)), '\u202e\u2028\u0085'.encode(), b'<img src=x>', b'-', b'\t',
        ]
        for name, lines, code, result in (('accepted', [self.good], None, 'accepted'),
                                          ('refused', [self.bad], 1, 'rejected')):
            env = {**self.chain(*lines), 'TCPREMOTEIP': '192.0.2.7'}
            started = ((login, prog_code if code is None else code,
                        self.start(*prog, triple=login + b'\0secret\0\0', env=env))
                       for number, login in enumerate(logins) for prog, prog_code in [self.progs[number % 2]])
            for login, expected, run in over_in_turn(4, started):
                with self.subTest(name, login=login):
                    self.check(run, expected, result, lines[0])
                    raw = read_file(f'{run.folder}/2')
                    self.assertRegex(raw, rb'\A[ -~]{1,1000}\n\Z')
                    self.assertEqual((raw.count(b'result='), raw.count(b'ip='), raw.count(b'tool=')), (1, 1, 1))
                    self.assertEqual(run.result()['ip'], '192.0.2.7')
                    user, cut = unescape(run.result()['user'])
                    self.assertTrue(login.startswith(user) and (cut or user == login), user)
                    self.assertTrue(len(user) > 100 or user == login)

    def test_addresses_in_the_log(self):
        """The client's address is quoted as the login is: it cannot add a field either."""
        for address in ('192.0.2.7" result=accepted', '\n', ' ', 'x' * 5000, '\udcff', '=', '"', '\\', 'a b', '::1%e0'):
            with self.subTest(address=address):
                login = self.login('true', env={**self.chain(self.bad), 'TCPREMOTEIP': address})
                self.check(login, 1, 'rejected', self.bad)
                self.assertEqual(len(read_file(f'{login.folder}/2').splitlines()), 1)
                self.assertLess(len(login.result()['ip']), 100)

    def start_sending(self, kind, pieces, prog):
        """Start a login that gets these pieces one by one, each only after the one before was read."""
        if kind == 'socket':
            writer, reader = (end.detach() for end in socket.socketpair())
        elif kind == 'file':
            reader = os.open(self.write(f'triple{self.count}', b''.join(pieces)), os.O_RDONLY)
            writer = None
        else:
            reader, writer = os.pipe()
            os.set_blocking(reader, kind != 'non-blocking pipe')
        login = self.start(*prog, triple=reader)
        unread = array.array('i', [0])

        def was_read():
            fcntl.ioctl(reader, termios.FIONREAD, unread)
            return not unread[0] or login.over()

        for piece in pieces if writer is not None else ():
            os.write(writer, piece)
            wait_until(was_read, 'the piece was read')
        if writer is not None:
            os.close(writer)
        os.close(reader)
        return login

    KINDS = ('pipe', 'socket', 'file', 'non-blocking pipe')

    def test_cut_in_pieces(self):
        """However the triple arrives (pipe, socket, file; blocking or not; in pieces or at once) the tool gets it."""
        tool = self.tool('keeps', 'cat <&3 >$dir/seen; exec 3<&-; exec "$@"')
        self.configure(tool)
        long = b'u' * 490 + b'\0' + b'p' * 19 + b'\0' + b'\n'
        for kind in self.KINDS:
            for name, pieces in (('at once', [TRIPLE]), ('byte by byte', [TRIPLE[n:n + 1] for n in range(len(TRIPLE))]),
                                 ('at the NULs', [b'alice@example.org\0', b'secret\0', b'<17.42@mail.example.org>\0']),
                                 ('512 bytes', [long[:300], long[300:]]), ('empty fields', [b'\0', b'\0'])):
                for prog, code in self.progs[:2 if name == 'at the NULs' else 1]:
                    with self.subTest(kind, pieces=name, prog=prog[0]):
                        login = self.start_sending(kind, pieces, prog).wait()
                        self.check(login, code, 'accepted', tool)
                        self.assertEqual(read_file(self.path('seen')), b''.join(pieces))

    def test_too_long_or_too_short(self):
        """More than 512 bytes are refused with 1, fewer than two fields with 2, and no tool sees them."""
        self.configure(self.good)
        tail = b'\0b\0'
        cases = [
            (1, 'one byte too long', [b'a' * 510 + tail]), (1, 'in pieces', [b'a' * 200, b'a' * 300, tail, b'a' * 20]),
            (1, 'much too long', [b'a' + tail, b'x' * 3000]), (1, 'no NUL', [b'a' * 513]), (1, 'only NULs',
            [b'\0' * 600]),
            (1, 'a NUL at the end', [b'a\0' + b'b' * 600 + b'\0']),
            (2, 'nothing', []), (2, 'no NUL', [b'alice']), (2, 'one NUL', [b'alice', b'\0']), (2, 'an open field',
            [b'a\0secret']),
            (2, 'as long as can be', [b'a' * 300 + b'\0', b'b' * 211]), (2, 'only a NUL', [b'\0']),
        ]
        for kind in self.KINDS:
            for code, name, pieces in cases:
                with self.subTest(kind, triple=name):
                    login = self.start_sending(kind, pieces, self.progs[code - 1][0]).wait()
                    self.check(login, code, 'rejected', '-')
                    self.assertTrue(b''.join(pieces).startswith(unescape(login.result()['user'])[0]))
        self.assertEqual((self.ran('good'), self.ran('session')), (0, 0))

    def test_no_triple(self):
        """A descriptor 3 that is closed means 2, one that cannot be read 111; no tool runs, one line says why."""
        self.configure(self.good)
        writing = os.open('/dev/null', os.O_WRONLY)
        folder = os.open('/', os.O_RDONLY)
        for descriptor in (writing, folder):
            self.addCleanup(os.close, descriptor)
        for name, descriptor, code, result in (('closed', None, 2, 'rejected'), ('a folder', folder, 111, 'temporary'),
                                               ('only for writing', writing, 111, 'temporary')):
            for prog, _ in self.progs:
                with self.subTest(name, prog=prog[0]):
                    self.check(self.login(*prog, triple=descriptor), code, result, '-', '^descriptor 3 ')
        self.assertEqual(self.ran('good'), 0)


# In the output of strace -f -yy: a process, and a call that began, or went on after others came between.
CALL = re.compile(r'^(?P<pid>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)$')
PASSWORD_MAY_PASS = re.compile(r'(?:readv?|writev?|pread64|pwrite64)\(\d+<pipe:\[\d+\]>, ')


class Password(HostileCase):
    SECRET = 'Pw4711Tr1v1alNowhereElse'

    def setUp(self):
        super().setUp()
        strace = shutil.which('strace')
        if not strace:
            self.skipTest('Debian package not installed: strace')
        self.strace = [strace, '-f', '-yy', '-v', '-s', '2000', '-e', 'trace=all', '-o', self.path('trace'), '--']
        if self.login(command=[*self.strace, shutil.which('true')]).code:
            self.skipTest('strace is not allowed here')

    def misplaced(self, trace):
        """Return the calls in a trace that have the password where it must not be, and those where it may."""
        begun, wrong, right = {}, [], []
        for line in trace.splitlines():
            match = CALL.match(line)
            if not match:  # a signal, or an end
                wrong += [line] * (self.SECRET in line)
                continue
            call = f'{match["call"]}({match["rest"]}' if match['call'] else begun.pop(match['pid'], '') + match['rest']
            if call.endswith('<unfinished ...>'):
                begun[match['pid']] = call[:-len('<unfinished ...>')]
                wrong += [call] * (self.SECRET in call and not PASSWORD_MAY_PASS.match(call))
            elif self.SECRET in call:
                (right if PASSWORD_MAY_PASS.match(call) else wrong).append(call)
        return wrong, right

    def test_where_it_appears(self):
        """The password appears in reads, and in writes to pipes, and nowhere else: in no file, argument, environment or
        log; whether a tool accepts, refuses, crashes, times out or cannot be run, and when the wrapper itself fails."""
        accepts = self.python_tool('accepts', 'os.read(3, 600); os.close(3); os.execvp(argv[0], argv)')
        refuses = self.python_tool('refuses', 'os.read(3, 600); sys.exit(1)')
        crashes = self.python_tool('crashes', 'os.read(3, 600); os.kill(os.getpid(), 11)')
        hangs = self.python_tool('hangs', 'os.read(3, 600)\nimport time; time.sleep(1000)')
        killed = self.tool('killed', 'kill -TERM $$')
        tripped = re.sub(r'^( *)def serves\(.*\n(?:.*"""\n)?', r'\g<0>\1    raise RuntimeError(login)\n',
                         read_file(SCRIPT).decode(), flags=re.MULTILINE)
        broken = [*self.command[:-1], self.write('broken.py', tripped, 0o755)]
        triple = f'alice@example.org\0{self.SECRET}\0<17.42@mail>\0'.encode()
        cases = [
            ('accepts', 'true', [accepts], 0, triple), ('session', self.session, [refuses, accepts], 7, triple),
            ('session dies', killed, [accepts], -15, triple), ('refuses', 'true', [refuses], 1, triple),
            ('crashes', self.session, [crashes, refuses], 1, triple), ('crashes alone', 'true', [crashes], 111, triple),
            ('times out', self.session, [f'timeout=1 {hangs}', accepts], 7, triple),
            ('cannot be run', 'true', ['/nonexistent/tool', self.folder], 111, triple),
            ('prog cannot be run', '/nonexistent/prog', [accepts], 111, triple),
            ('invalid', 'true', ['nonsense'], 111, triple), ('disabled', 'true', ['auth=0', accepts], 0, triple),
            ('too long', 'true', [accepts], 1, triple + b'x' * 512), ('too few fields', 'true', [accepts], 2,
            triple[:-14]),
            ('internal error', 'true', [accepts], 111, triple),
        ]
        started = []
        for number, (name, prog, lines, code, data) in enumerate(cases):
            strace = [self.path(f'trace{number}') if word == self.path('trace') else word for word in self.strace]
            started.append((name, number, code, self.start(
                prog, triple=data, env=self.chain(*lines),
                command=[*strace, *(broken if name == 'internal error' else self.command)])))
        for name, number, code, login in started:
            login.wait()
            with self.subTest(name):
                self.assertEqual(login.code, code, login.log())
                self.check_quiet(login)
                wrong, right = self.misplaced(read_file(self.path(f'trace{number}')).decode('latin-1'))
                self.assertEqual(wrong, [])
                self.assertTrue(right, 'it did not even appear where it has to')
                if name == 'session':  # written to two tools, and read by them
                    self.assertEqual(len([call for call in right if call.startswith('write')]), 2)
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if not name.startswith('trace'):
                    self.assertNotIn(self.SECRET.encode(), read_file(os.path.join(folder, name)), name)


class Load(HostileCase):
    def test_many_logins_at_once(self):
        """Of 400 logins over a chain of three tools, 24 at a time, each has its own verdict and log line, and no
        process is left over."""
        judge = """login=$(tr '\\0' ' ' <&3); exec 3<&-
            case $login in *"@{} right "*) exec "$@";; esac; exit {}"""
        first, second = self.tool('first', judge.format('a', 1)), self.tool('second', judge.format('b', 1))
        third = self.tool('third', 'cat <&3 >/dev/null; exit 3')
        session = self.write('mailbox', '#!/bin/sh\nexit $1\n', 0o755)
        mark = f'PWRAP_LOAD={self.folder}'
        env = {**self.chain(first, second, third), 'PWRAP_LOAD': self.folder}

        def logins():
            for number in range(400):
                domain, password = 'abc'[number % 3], 'right' if number % 5 else 'wrong'
                good = domain in 'ab' and password == 'right'
                prog, code = (['true'], 0) if number % 2 else ([session, str(10 + number % 50)], 10 + number % 50)
                yield (f'u{number}@{domain}', *((code, 'accepted', {'a': first, 'b': second}[domain]) if good else
                                               (3, 'rejected', third)),
                       self.start(*prog, triple=f'u{number}@{domain}\0{password}\0t\0'.encode(), env=env))

        count = 0
        for user, code, result, tool, login in over_in_turn(24, logins()):
            count += 1
            with self.subTest(user=user):
                self.check(login, code, result, tool)
                self.assertEqual(login.result()['user'], user)
        self.assertEqual(count, 400)

        def left():
            found = []
            for name in os.listdir('/proc'):
                with contextlib.suppress(OSError):
                    if name.isdigit() and mark.encode() in read_file(f'/proc/{name}/environ').split(b'\0'):
                        found.append(name)
            return found

        wait_until(lambda: not left(), 'no process is left over')


class Unexpected(HostileCase):
    TOP = (('', 'main'), ('Log', '__init__'))  # where it is caught, and what that needs
    def broken_scripts(self):
        """Yield copies of the script: in each, one function raises an exception with login and password in its text."""
        lines, where = read_file(SCRIPT).decode().splitlines(), ''
        for start, line in enumerate(lines):
            where = line[6:].rstrip(':') if line.startswith('class ') else where
            match = re.match(r'( *)def (\w+)\(', line)
            where = '' if match and not match[1] else where
            if match and (where, match[2]) not in self.TOP:
                body = start + 1
                while not lines[body - 1].endswith(':'):
                    body += 1
                trap = f"{match[1]}    raise RuntimeError('{LOGIN.decode()} {PASSWORD.decode()}')"
                yield f'{match[2]}-{start + 1}', '\n'.join([*lines[:body], trap, *lines[body:]]) + '\n'

    def test_an_exception_in_any_function(self):
        """An unexpected exception, wherever it is raised, ends in 111 and a line that says internal error without data
        from the network; never in a traceback, and prog runs only if the login was accepted."""
        reached = {'true': 0, 'session': 0}
        with contextlib.ExitStack() as stack:
            syslog = None if os.geteuid() else stack.enter_context(SyslogListener())

            def logins():
                for name, text in self.broken_scripts():
                    script = self.write(f'{name}.py', text, 0o755)
                    command = [*self.command[:-1], script]
                    for prog, code in self.progs:
                        session = self.tool(f'session-{name}', 'exit 7')
                        yield name, code, self.start(
                            *prog if not code else [session], env=self.chain(self.bad, f'users=a*g {self.good}'),
                            command=syslog.command(command) if syslog else command)

            def lines_of(login):
                told = syslog.lines(f'qmail-pwrap[{login.pid}]') if syslog else []
                return login.log() + [line.text for line in told]

            for name, code, login in over_in_turn(4, logins()):
                with self.subTest(function=name, prog='session' if code else 'true'):
                    self.check_quiet(login)
                    self.assertIn(login.code, (code, 111))
                    is_log = name.split('-')[0] in ('escape', 'write', 'problem', 'result')
                    if syslog and not is_log:  # what was written last has arrived last
                        wait_until(lambda login=login: 'result=' in ' '.join(lines_of(login)), 'the result is logged')
                    lines = lines_of(login)
                    problems = [line for line in lines if 'result=' not in line]
                    results = [line.split()[0] for line in lines if 'result=' in line]
                    self.assertNotIn('secret', ' '.join(lines))
                    self.assertNotIn('alice', ' '.join(problems))
                    self.assertLess(len(problems), 3, lines)  # a failed report step is a failed tool, too
                    if login.code != code:
                        reached['session' if code else 'true'] += 1
                    session_ran = bool(self.ran(f'session-{name}'))
                    if syslog and not is_log:
                        internal = [line for line in problems if line.startswith('internal error: RuntimeError')]
                        self.assertEqual(len(results), 1, lines)
                        if code and not internal and not session_ran:  # the report step may have told syslog itself
                            internal = [line.text for line in syslog.lines('qmail-pwrap')
                                        if line.text.startswith('internal error: RuntimeError')][:len(problems)]
                        if login.code == 111 and not session_ran:
                            self.assertEqual(len(internal), 1, lines)
                        elif not internal:  # while a session runs, the wrapper has no descriptor to log to
                            self.assertEqual(results, ['result=accepted'], lines)
        # Not every function has a part in such a login, but many have.
        self.assertGreater(reached['true'], 15)
        self.assertGreater(reached['session'], reached['true'])


if __name__ == '__main__':
    unittest.main()
