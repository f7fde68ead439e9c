"""--check shows what a login would read, and every problem of it, and asks nobody."""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import re
import shlex
import shutil
import subprocess
from unittest import mock

from tests.harness.logins import ACCEPTS, QUICK, REJECTS
from tests.harness.machine import SYSTEM_PATH, drop_root, import_script, needs, someone
from tests.harness.people import COLUMNS, Person, Terminal, unwrapped

script = import_script()

GOOD = 'the configuration is good'
BAD = 'every login would fail or miss a tool'


class Check(Person):
    """With a tool that accepts."""

    def setUp(self) -> None:
        super().setUp()
        self.yes = self.tool('yes', ACCEPTS)


class Shown(Check):
    def test_settings_and_a_paragraph_for_each_tool_are_shown(self) -> None:
        """Path and settings of the file; of each tool number, name, command, settings and state."""
        no = self.tool('no', REJECTS)
        self.settings(
            '# comment',
            'failure=temporary',
            'timeout=7',
            f'users=*@example.org,!bob* name=first {self.yes} -a b',
            'timeout=0',
            f'refused=1,3-5 empty=1 {no} --user=x',
        )
        code, lines = self.check()
        self.assertEqual(code, 0, lines)
        self.assertEqual(
            lines[:13],
            [
                f'configuration: {self.conf}',
                'settings: auth=1 log=syslog failure=temporary',
                '',
                '1  first',
                f'   {self.yes} -a b',
                '   users=*@example.org,!bob* timeout=7',
                '   state: ok',
                '',
                f'2  {no}',
                f'   {no} --user=x',
                '   users=* timeout=none refused=1,3-5 empty=1',
                '   state: ok',
                '',
            ],
        )
        self.assertEqual(lines[13], GOOD)
        self.assertEqual((self.ran('yes'), self.ran('no')), (0, 0))

    def test_hostile_bytes_reach_no_terminal(self) -> None:
        """Whatever file, paths, link targets and words hold: all that is printed is plain ASCII."""
        os.mkdir(self.path('\x1b[2Jopen'))
        target = shutil.copy(self.yes, self.path('\x1b[2Jopen'))
        os.chmod(self.path('\x1b[2Jopen'), 0o777)
        os.symlink(target, self.path('link'))
        own = self.path('\x1b]0;own\x07')
        os.mkdir(own)
        os.chmod(own, 0o700)
        command = (shutil.copy(self.command[0], own),)
        odd = b"'\x1b[2J\xff' \xe4\xf6 \xc3\xa4 \x9b31m"
        conf = self.write(
            'a\x1b[31m\xe4.conf',
            b'users=\x1b[31m*,* %s %s\n\x1b]0;x\x07=1\n' % (self.path('link').encode(), odd),
        )
        for locale in ('C', 'C.UTF-8', 'POSIX', 'de_DE.ISO-8859-1'):
            with self.subTest(locale=locale):
                env = {'LC_ALL': locale, 'PWRAP_CONF': conf}
                said = self.say('--check', 'x\x1b[2J', command=command, env=env)
                self.assertEqual((said.code, said.errors), (1, ''))
                text = said.output.replace('\n', '')
                self.assertTrue(text.isprintable() and text.isascii(), said.output)
                self.assertIn('\\x1b[2Jopen', text)  # the link's target
                self.assertIn('.conf:2: unknown setting', said.output)

    def test_what_is_printed_fits_80_columns(self) -> None:
        """Long commands, patterns and messages are wrapped at blanks; a longer word stays whole."""
        words = ' '.join(f'--option-{number} value' for number in range(20))
        long_word = 'w' * 90
        self.settings(
            f'name=long users={",".join(["*@example.org"] * 6)} {self.yes} {words} true',
            f'name=one {self.yes} {long_word}',
            'users=a.example.org, b',
            'timoeut=3',
            'CVM=x /bin/true',
        )
        os.chmod(self.yes, 0o777)
        said = self.say('--check', 'alice@example.org')
        self.assertEqual(said.code, 1)
        self.assertIn(long_word, said.output)
        wide = [line for line in said.output.splitlines() if len(line) > COLUMNS]
        self.assertEqual([line.strip() for line in wide], [long_word])

    @needs('/dev/pts')
    def test_a_terminal_of_80_columns_is_not_exceeded(self) -> None:
        """The marks in front of the lines have room, too."""
        self.settings(f'name=long {self.yes} {" ".join(["123456789"] * 30)} true', 'timoeut=' + '3')
        os.chmod(self.yes, 0o777)
        terminal = Terminal(self)
        code = terminal.wait_for_end(
            terminal.start('--check', 'alice@example.org', env={'NO_COLOR': '1'})
        )
        self.assertEqual(code, 1)
        self.assertIn('✗ ', terminal.shown)
        for line in terminal.shown.split('\r\n'):
            self.assertLessEqual(len(line), COLUMNS, line)


class Problems(Check):
    def test_every_problem_of_the_file_is_shown(self) -> None:
        """Every line that makes the file invalid, not just the first, by its number; exit 1."""
        wrong = (  # line, what is said of it
            ('colour=red', 'unknown setting colour='),
            ('timeout=soon', 'timeout= takes seconds, 0 to 86400'),
            ('timeout=86401', 'timeout= takes'),
            ('users=a,,b', 'users= takes patterns'),
            ('bin/tool', 'neither a setting'),
            (f'{self.yes} "unbalanced', 'quot'),
            (f'auth=0 {self.yes}', 'auth= belongs on a line without a tool'),
            ('name=x', 'name= belongs on a line with a tool'),
            ('auth=2', 'auth= takes 0 or 1'),
            (f'{self.yes} # comment', 'a comment needs a line of its own'),
            (f'{self.yes} a\0b', 'a NUL byte'),
            ('log=file', 'log= takes'),
            ('failure=never', 'failure= takes'),
            (f'name=a/b {self.yes}', 'name= takes'),
            ('refused=0', 'refused= takes'),
            ('empty=2', 'empty= takes'),
            (f'{self.yes} users=*@a', 'users= belongs before the path'),
            ('/usr/bin/env A=b', 'env has no program'),
            (self.command[0], 'the wrapper itself'),
            ('failure=last', ''),
            ('failure=temporary', 'failure= is set twice'),
        )
        self.settings(self.yes, *(line for line, _ in wrong))
        code, lines = self.check()
        self.assertEqual(code, 1)
        self.assertIn(BAD, lines)
        self.assertNotIn(GOOD, lines)
        for number, (line, words) in enumerate(wrong, 2):
            with self.subTest(line=line):
                found = [one for one in lines if one.startswith(f'{self.conf}:{number}: ')]
                self.assertEqual(len(found), bool(words), lines)
                self.assertIn(words, ''.join(found))

    def test_first_problem_is_the_one_that_a_login_logs(self) -> None:
        """And where --check shows none, a login works."""
        for lines, code in (
            ([self.yes], 0),
            (['timeout=x', 'y', self.yes], 111),
            ([], 111),
            ([self.command[0]], 111),
        ):
            with self.subTest(lines=lines):
                self.configure(*lines)
                login = self.login(*QUICK.prog)
                checked, shown = self.check()
                problems = [one for one in shown if one.startswith(self.conf)]
                self.assertEqual((login.code, checked), (code, 1 if code else 0))
                self.assertEqual(login.problems(), problems[:1])

    def test_a_file_that_cannot_be_read_or_has_no_tool_is_named(self) -> None:
        """Missing, not a regular file, or without a tool: exit 1, and the path with the reason."""
        self.write('empty', '')
        self.write('comments', '# /bin/true\n\n')
        os.mkfifo(self.path('fifo'))
        for name, words in (
            ('missing', 'No such file'),
            ('fifo', 'not a regular file'),
            ('', 'not a regular file'),
            ('empty', 'no tool is enabled'),
            ('comments', 'no tool is enabled'),
        ):
            with self.subTest(file=name):
                code, lines = self.check(env={'PWRAP_CONF': self.path(name)})
                self.assertEqual(code, 1)
                self.assertIn(f'{self.path(name)}: {words}', '\n'.join(lines))

    def test_a_file_that_others_can_write_to_comes_with_what_mends_it(self) -> None:
        """The command that is shown mends it; --test says the same, and a login does, too."""
        for mode in (0o666, 0o664, 0o646):
            with self.subTest(mode=oct(mode)):
                self.write('pwrap.conf', f'{self.yes}\n', mode)
                code, lines = self.check()
                self.assertEqual(code, 1)
                problem = next(line for line in lines if line.startswith(self.conf))
                self.assertIn(problem, self.try_login()[1])
                mend = problem.partition('mend it with: ')[2]
                self.assertEqual(mend, f'chmod go-w {self.conf}')
                subprocess.run(['/bin/sh', '-c', mend], check=True)
                self.assertEqual(self.check()[0], 0)

    @needs('root')
    def test_a_file_of_somebody_else_comes_with_what_mends_it(self) -> None:
        """The command that is shown mends it."""
        self.settings(self.yes)
        os.chown(self.conf, *someone())
        code, lines = self.check()
        self.assertEqual(code, 1)
        mend = ''.join(lines).partition('mend it with: ')[2]
        self.assertTrue(mend.startswith(f'chown root {self.conf}'), lines)
        subprocess.run(['/bin/sh', '-c', f'chown root {self.conf}'], check=True)
        self.assertEqual(self.check()[0], 0)

    @needs('root', 'public folder', 'public python')
    def test_a_file_is_good_for_its_owner(self) -> None:
        """Whoever that is."""
        self.settings(self.yes)
        os.chown(self.conf, *someone())
        self.assertEqual(self.check(before=drop_root)[0], 0)


class States(Check):
    def test_state_of_a_tool(self) -> None:
        """A binary or script that can be executed is ok; anything else has its reason."""
        binary = os.path.realpath('/bin/sh')
        self.write('spaced', '#! /bin/sh -e\nexit 1\n', 0o755)
        self.write('locked', '#!/bin/sh\n', 0o644)
        self.write('text', 'no program', 0o755)
        self.write('empty', '', 0o755)
        self.write('lost', '#!/nonexistent/python\n', 0o755)
        self.write('nameless', '#! \n/bin/sh', 0o755)
        self.write('nul', b'#!/bin\0/sh\n', 0o755)
        self.write('crlf', '#!/bin/sh\r\nexit 1\r\n', 0o755)
        self.write('for-a-folder', '#!/bin\n', 0o755)
        os.mkdir(self.path('folder'))
        os.mkfifo(self.path('fifo'))
        os.symlink(self.path('nowhere'), self.path('dangling'))
        os.symlink(self.yes, self.path('link'))
        for name, state in (
            (binary, 'ok'),
            ('yes', 'ok'),
            ('spaced', 'ok'),
            ('link', 'ok'),
            ('missing', 'cannot run: No such file or directory'),
            ('dangling', 'cannot run: No such file or directory'),
            ('locked', 'cannot run: not executable'),
            ('text', 'cannot run: not a program'),
            ('empty', 'cannot run: not a program'),
            ('nameless', 'cannot run: not a program'),
            ('lost', 'cannot run: its interpreter is missing'),
            ('nul', 'cannot run: its interpreter is missing'),
            ('for-a-folder', 'cannot run: its interpreter is missing'),
            ('crlf', 'cannot run: its lines end in CR LF; save it with LF'),
            ('folder', 'cannot run: not a regular file'),
            ('fifo', 'cannot run: not a regular file'),
        ):
            with self.subTest(tool=name):
                self.assertEqual(script.describe_state(self.path(name).encode()), state)

    def test_only_the_beginning_of_a_tool_is_read(self) -> None:
        """However large it is."""
        large = self.write('large', '#!/bin/sh\n' + 'x' * 5_000_000, 0o755)
        count = 0
        read = os.read

        def counting(descriptor: int, size: int) -> bytes:
            nonlocal count
            data = read(descriptor, size)
            count += len(data)
            return data

        with mock.patch.object(script.posix, 'read', counting):
            self.assertEqual(script.describe_state(large.encode()), 'ok')
        self.assertTrue(0 < count <= 4096, count)

    def test_a_program_behind_env_has_to_run(self) -> None:
        """The state is that of env, or else that of the program, where its path is there."""
        nothing = 'cannot run: No such file or directory'
        for words, state in (
            (f'/usr/bin/env A=b {self.yes}', 'ok'),
            ('/usr/bin/env A=b /nonexistent/tool x', nothing),
            ('/usr/bin/env A=b tool', 'ok'),  # wherever PATH leads then
            (f'/nonexistent/env A=b {self.yes}', nothing),
        ):
            with self.subTest(words=words):
                configuration = script.Configuration(b'/conf')
                configuration.add_text(f'{words}\n')
                self.assertEqual(script.describe_tool(configuration.tools[0]), state)

    def test_one_tool_that_cannot_run_is_a_problem(self) -> None:
        """It is shown with its line, and in its paragraph; exit 1. Its neighbours are ok."""
        missing = self.path('missing')
        self.settings(self.yes, f'name=second {missing} a', self.yes)
        code, lines = self.check()
        self.assertEqual(code, 1)
        problem = 'cannot run: No such file or directory'
        self.assertIn(f'{self.conf}:2: second: {problem}', lines)
        states = [line for line in lines if line.startswith('   state: ')]
        self.assertEqual(states, [f'   state: {state}' for state in ('ok', problem, 'ok')])

    @needs('root', 'public folder', 'public python')
    def test_all_is_judged_for_the_user_who_runs_it(self) -> None:
        """What only root can run or read is a problem for others; a tool need not be readable."""
        os.mkdir(self.path('private'), 0o700)
        hidden = shutil.copy(self.yes, self.path('private/yes'))
        unreadable = shutil.copy('/bin/sh', self.path('unreadable'))
        os.chmod(unreadable, 0o711)
        self.settings(unreadable, hidden)
        self.assertEqual(self.check()[0], 0)
        code, lines = self.check(before=drop_root)
        self.assertEqual(code, 1)
        self.assertNotIn(f'{self.conf}:1:', '\n'.join(lines))
        self.assertIn(f'{self.conf}:2: {hidden}: cannot run: Permission denied', lines)
        os.chmod(self.conf, 0o600)
        code, lines = self.check(before=drop_root)
        self.assertEqual(code, 1)
        self.assertIn(f'{self.conf}: Permission denied', lines)


class ForALogin(Check):
    LINES = (
        'users=*@example.org,!bob@* name=domain',
        'users=!*@* name=local',
        'users=root name=root',
        'name=all',
    )

    def shown_for(self, login: str) -> str:
        """Return what is shown for a login, of tools with these lines."""
        configuration = script.Configuration(b'/conf')
        configuration.add_text(''.join(f'{line} /bin/sh\n' for line in self.LINES))
        with contextlib.redirect_stdout(io.StringIO()) as output:
            script.show_tools_for(configuration, login)
        return output.getvalue()

    def test_tools_of_a_login_are_shown_in_their_order(self) -> None:
        """As a login would ask them, and below them those that it would not ask, with why."""
        for login, asked in (
            ('alice@example.org', [1, 4]),
            ('ALICE@EXAMPLE.ORG', [1, 4]),
            ('bob@example.org', [4]),
            ('alice@example.net', [4]),
            ('alice', [2, 4]),
            ('root', [2, 3, 4]),
            ('', [2, 4]),
        ):
            with self.subTest(login=login):
                head, _, tail = self.shown_for(login).partition('not asked:\n')
                self.assertTrue(head.startswith(f'asked for {login}, in this order:\n'), head)
                self.assertEqual([int(one) for one in re.findall(r'(?m)^  (\d)  ', head)], asked)
                rest = [number for number in (1, 2, 3, 4) if number not in asked]
                self.assertEqual([int(one) for one in re.findall(r'(?m)^  (\d)  ', tail)], rest)
        self.assertIn('  1  domain  (users=*@example.org,!bob@*)\n', self.shown_for('bob'))

    def test_a_login_without_a_tool_is_said_to_be_refused(self) -> None:
        """With the code that it would have."""
        self.settings(f'users=nobody {self.yes}')
        code, lines = self.check('alice')
        self.assertEqual(code, 0)
        at = lines.index('asked for alice, in this order:')
        self.assertEqual(lines[at + 1], '  none: such a login is refused with 1')
        self.assertEqual(self.try_login('alice')[0], 1)

    def test_nobody_is_asked(self) -> None:
        """--check LOGIN is --check with a paragraph more, and runs no tool."""
        self.settings(f'name=first {self.yes}', 'colour=red')
        code, lines = self.check()
        code_for, lines_for = self.check("a'l ice")
        self.assertEqual((code, code_for, self.ran('yes')), (1, 1, 0))
        more = [line for line in lines_for if line not in lines]
        now = 'now nobody is asked: every login ends with 111. Without the wrong lines:'
        shown = ["asked for a'l\\x20ice, in this order:", '  1  first', 'not asked:', '  none']
        self.assertEqual(more[:5], [now, *shown])
        self.settings(f'name=first {self.yes}')
        self.assertFalse([one for one in self.check('bob')[1] if one.startswith('now nobody')])
        self.settings('auth=0', f'name=first {self.yes}')
        at = self.check('bob')[1].index('asked for bob, in this order:')
        now = 'now nobody is asked: auth=0 lets everybody in. Without it:'
        self.assertEqual(self.check('bob')[1][at - 1], now)


class Service(Check):
    """How to run it as the user of a service."""

    def setUp(self) -> None:
        super().setUp()
        self.settings(f'users=*@example.org {self.yes}')

    def suggested(self, output: str) -> list[str]:
        """Return the command that is suggested, as it is shown and in words."""
        match = re.search(
            r'(?m)user\s+(\S+),\s+uid\s+(\d+);\s+as\s+the\s+user\s+of\s+a\s+service:\n((?:.*\\\n)*.*)$',
            output,
        )
        self.assertTrue(match, output)
        assert match
        self.assertEqual(int(match[2]), os.geteuid())
        with contextlib.suppress(KeyError):
            self.assertEqual(match[1], pwd.getpwuid(os.geteuid()).pw_name)
        words = shlex.split(match[3].replace('\\\n', ''))
        self.assertEqual(words[:5], ['su', '-s', '/bin/sh', 'USER', '-c'])
        self.assertEqual(len(words), 6, words)
        return [match[3], *words]

    def test_command_for_the_services_user_can_be_pasted(self) -> None:
        """What su would have the user's shell run does the same as this command did.

        Whatever blanks and quotes stand in it, and wherever its lines are broken.
        """
        su = self.write('bin/su', '#!/bin/sh\nshift 4\nexec /bin/sh -c "$1"\n', 0o755)
        self.assertTrue(os.access(su, os.X_OK))
        names = ["a 'b' $c", 'many  blanks ' * 6, "''" + ' "\\ ' + 'x ' * 30]
        for name in names:
            os.mkdir(self.path(name))
            conf = shutil.copy(self.conf, os.path.join(self.path(name), 'pwrap.conf'))
            for words in (('--check',), ('--check', 'a b'), ('--test', "al ice'$HOME")):
                with self.subTest(conf=conf, words=words):
                    said = self.say(*words, given=b'x\n', env={'PWRAP_CONF': conf})
                    pasted = self.suggested(said.output)[0]
                    self.assertNotIn('\\x', pasted)
                    again = self.run_program('/bin/sh', '-c', pasted, given=b'x\n')
                    self.assertEqual(again.code, said.code, again.output)
                    texts = [re.sub(r'(?m)\d+ ms$|ms=\d+', '', one.output) for one in (said, again)]
                    self.assertEqual(*texts)

    @needs('root', 'public folder', 'public python')
    def test_su_judges_for_that_user(self) -> None:
        """With USER replaced, the command judges for that user."""
        words = self.suggested(self.say('--check').output)[1:]
        words[3] = 'nobody'
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, env={'PATH': SYSTEM_PATH}, cwd='/'
        )
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        self.assertIn('judged for user nobody, ', ' '.join(unwrapped(done.stdout)))


class CompiledForm(Check):
    """A script beside which stands the installed command, which runs the compiled form."""

    def setUp(self) -> None:
        super().setUp()
        folder = self.path("it's bin")
        os.mkdir(folder)
        self.command = (shutil.copy(self.command[0], folder),)
        self.neighbour = shutil.copy(self.command[0], os.path.join(folder, 'qmail-pwrap'))
        self.settings(self.yes)

    def renewing_command(self) -> str:
        """Return the command that --check shows to renew the compiled form, '' if it is good."""
        said = self.say('--check')
        self.assertEqual((said.code, said.errors), (0, ''))
        match = re.search(
            r'(?m)^warning: [^:]*stale; renew it\s+with:\n((?:.*\\\n)*.*)$', said.output
        )
        return match[1] if match else ''

    def test_the_command_that_is_shown_renews_it(self) -> None:
        """A form that is missing, stale or compiled by time is told, until that command has run."""
        shown = self.renewing_command()
        self.assertNotIn('make', shown)
        self.assertEqual(self.run_program('/bin/sh', '-c', shown), (0, '', ''))
        self.assertEqual(self.renewing_command(), '')
        with open(self.command[0], 'a', encoding='utf-8') as file:
            file.write('# edited\n')
        self.assertEqual(self.renewing_command(), shown)
        self.assertEqual(self.run_program('/bin/sh', '-c', shown), (0, '', ''))
        self.assertEqual(self.renewing_command(), '')
        by_time = shown.replace('checked-hash', 'timestamp')
        self.assertEqual(self.run_program('/bin/sh', '-c', by_time), (0, '', ''))
        self.assertEqual(self.renewing_command(), shown)
        self.assertEqual(self.run_program('/bin/sh', '-c', shown), (0, '', ''))
        self.assertEqual(self.renewing_command(), '')

    def test_no_form_is_missed_where_no_command_would_use_it(self) -> None:
        """A script without the installed command beside it needs none."""
        os.unlink(self.neighbour)
        self.assertEqual(self.renewing_command(), '')
