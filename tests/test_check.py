"""--check shows what a login would read, and every problem of it, and asks nobody."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess

from tests.harness.logins import ACCEPTS, QUICK, REJECTS
from tests.harness.machine import drop_root, import_script, needs, program, someone
from tests.harness.people import COLUMNS, Person, Terminal

GOOD = 'the configuration is good'
BAD = 'every login would fail or miss a tool'
NOTHING = 'No such file or directory'
REFUSED = import_script().DEFAULTS['refused']


def paragraphs(lines: list[str]) -> list[list[str]]:
    """Return what is shown of each tool: a heading with its number, and lines below it."""
    text = '\n'.join(lines)
    return [one.split('\n') for one in text.split('\n\n') if re.match(r'\d+  ', one)]


def states(lines: list[str]) -> list[str]:
    return [line[len('   state: ') :] for line in lines if line.startswith('   state: ')]


class Check(Person):
    """With a tool that accepts."""

    def setUp(self) -> None:
        super().setUp()
        self.yes = self.tool('yes', ACCEPTS)


class Shown(Check):
    def test_settings_and_a_paragraph_for_each_tool_are_shown(self) -> None:
        """The path of the file; of each tool number, command, once, settings and state."""
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
        self.assertEqual(lines[0], f'configuration: {self.conf}')
        first, second = paragraphs(lines)
        self.assertEqual(
            first,
            [
                f'1  {self.yes} -a b',
                f'   name=first users=*@example.org,!bob* timeout=7 refused={REFUSED} empty=0',
                '   state: ok',
            ],
        )
        self.assertEqual(second[0], f'2  {no} --user=x')
        self.assertEqual(second[1:], ['   users=* timeout=0 refused=1,3-5 empty=1', '   state: ok'])
        self.assertIn(GOOD, lines)
        self.assertEqual((self.ran('yes'), self.ran('no')), (0, 0))

    def test_a_command_is_shown_as_it_can_be_typed(self) -> None:
        """Blanks and other odd characters in quotes; only what a terminal may not get is escaped."""
        words = [self.yes, 'a b', "it's", '', '--x=y z', 'A=b', '$c', '*', '"']
        shown = ' '.join(map(shlex.quote, words))
        self.settings(shown, f'{self.yes} "\xe4 b"')
        plain, escaped = paragraphs(self.check()[1])
        self.assertEqual(shlex.split(plain[0])[1:], words)
        self.assertIn('\\xc3\\xa4 b', escaped[0])

    def test_whoever_runs_it_is_named(self) -> None:
        """The last line has the uid, as all is judged for that user."""
        self.settings(self.yes)
        self.assertRegex(self.check()[1][-1], rf'\buid {os.geteuid()}\b')

    def test_hostile_bytes_reach_no_terminal(self) -> None:
        """Whatever file, paths and words hold: all that is printed is plain ASCII."""
        os.mkdir(self.path('\x1b[2Jopen'))
        target = shutil.copy(self.yes, self.path('\x1b[2Jopen'))
        os.chmod(self.path('\x1b[2Jopen'), 0o777)
        os.symlink(target, self.path('link'))
        own = self.path('\x1b]0;own\x07')
        os.mkdir(own)
        os.chmod(own, 0o700)
        command = (shutil.copy(self.command[0], own),)
        odd = b"'\x1b[2J\xff' \xe4\xf6 \xc3\xa4 \x9b31m /\x1b[2J A=/\x1b[2J"
        conf = self.write(
            'a\x1b[31m\xe4.conf',
            b'users=\x1b[31m*,* %s %s\n\x1b]0;x\x07=1\n' % (self.path('link').encode(), odd),
        )
        for locale in ('C', 'C.UTF-8'):
            with self.subTest(locale=locale):
                env = {'LC_ALL': locale, 'PWRAP_CONF': conf}
                said = self.say('--check', 'x\x1b[2J', command=command, env=env)
                self.assertEqual((said.code, said.errors), (1, ''))
                text = said.output.replace('\n', '')
                self.assertTrue(text.isprintable() and text.isascii(), said.output)
                self.assertIn('\\x1b[2Jopen', text)  # the link's target
                self.assertIn('.conf:2: unknown setting', said.output)

    def configure_long_lines(self) -> str:
        """Have much to show, and return the one word that is too long for a line."""
        words = ' '.join(f'--option-{number} value' for number in range(20))
        long_word = 'w' * 90
        self.settings(
            f'name=long users={",".join(["*@example.org"] * 6)} {self.yes} {words} true',
            f'{self.yes} {words} {long_word} "b c" "d e"',
            'users=a.example.org, b',
            'timoeut=3',
            'CVM=x /bin/true',
            f'users=*@example.com\xa0{self.yes}',
        )
        os.chmod(self.yes, 0o777)
        return long_word

    def test_what_is_printed_fits_80_columns(self) -> None:
        """Long commands, patterns and messages are wrapped at blanks; a longer word stays whole."""
        long_word = self.configure_long_lines()
        said = self.say('--check', 'alice@example.org')
        self.assertEqual(said.code, 1)
        wide = [line for line in said.output.splitlines() if len(line) > COLUMNS]
        self.assertEqual([line.strip() for line in wide], [long_word])

    @needs('/dev/pts')
    def test_a_terminal_of_80_columns_is_not_exceeded(self) -> None:
        """The marks in front of the lines have room, too."""
        long_word = self.configure_long_lines()
        terminal = Terminal(self)
        code = terminal.wait_for_end(
            terminal.start('--check', 'alice@example.org', env={'NO_COLOR': '1'})
        )
        self.assertEqual(code, 1)
        self.assertIn('✗ ', terminal.shown)
        wide = [line for line in terminal.shown.split('\r\n') if len(line) > COLUMNS]
        self.assertEqual([line.strip() for line in wide], [long_word])


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
        for lines, code in (([self.yes], 0), (['timeout=x', 'y', self.yes], 111), ([], 111)):
            with self.subTest(lines=lines):
                self.configure(*lines)
                login = self.login(*QUICK.prog)
                checked, shown = self.check()
                problems = [one for one in shown if one.startswith(self.conf)]
                self.assertEqual((login.code, checked), (code, 1 if code else 0))
                self.assertEqual(len(login.problems()), len(problems[:1]))
                for logged, one in zip(login.problems(), problems):
                    self.assertTrue(one.startswith(logged), (logged, one))

    def test_a_file_that_cannot_be_used_as_a_whole_is_named(self) -> None:
        """Missing, not a regular file, too large, or without a tool: exit 1, and the path with the reason."""
        self.write('empty', '')
        self.write('comments', '# /bin/true\n\n')
        self.write('large', '#' * 1_100_000 + f'\n{self.yes}\n')
        os.mkfifo(self.path('fifo'))
        for name, words in (
            ('missing', 'No such file'),
            ('fifo', 'not a regular file'),
            ('', 'Is a directory'),
            ('empty', 'no tool is enabled'),
            ('comments', 'no tool is enabled'),
            ('large', 'larger than 1 MB'),
        ):
            with self.subTest(file=name):
                code, lines = self.check(env={'PWRAP_CONF': self.path(name)})
                self.assertEqual(code, 1)
                self.assertIn(f'{self.path(name)}: {words}', '\n'.join(lines))

    def test_a_file_that_others_can_write_to_comes_with_what_mends_it(self) -> None:
        """The command that is shown mends it; --test says the same."""
        self.write('pwrap.conf', f'{self.yes}\n', 0o666)
        code, lines = self.check()
        self.assertEqual(code, 1)
        problem = next(line for line in lines if line.startswith(self.conf))
        self.assertIn(problem, '\n'.join(self.try_login().lines))
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
        """Whoever that is; who is named."""
        self.settings(self.yes)
        os.chown(self.conf, *someone())
        code, lines = self.check(before=drop_root)
        self.assertEqual(code, 0)
        self.assertRegex(lines[-1], rf'\buid {someone()[0]}\b')


class States(Check):
    def assert_states(self, expected: dict[str, str], *options: str) -> None:
        """Check tools with these lines: each has a state that is ok, or cannot run and has the reason in it, and is a
        problem of its line then."""
        self.settings(*expected)
        code, lines = self.check(*options)
        self.assertEqual(code, 0 if set(expected.values()) == {'ok'} else 1)
        found = states(lines)
        self.assertEqual(len(found), len(expected), lines)
        for number, (line, reason) in enumerate(expected.items()):
            with self.subTest(line=line):
                state = found[number]
                problems = [one for one in lines if f'{self.conf}:{number + 1}: ' in one]  # once
                if reason == 'ok':
                    self.assertEqual((state, problems), ('ok', []))
                else:
                    self.assertTrue(state.startswith('cannot run: ') and reason in state, state)
                    self.assertEqual(len(problems), 1)
                    self.assertTrue(problems[0].endswith(f': {state}'), problems)

    def test_state_of_a_tool(self) -> None:
        """A binary or script that can be executed is ok; anything else has its reason, and is a problem."""
        self.write('spaced', '#! /bin/sh -e\nexit 1\n', 0o755)
        self.write('locked', '#!/bin/sh\n', 0o644)
        self.write('text', 'no program', 0o755)
        self.write('empty', '', 0o755)
        self.write('lost', '#!/nonexistent/python\n', 0o755)
        self.write('nameless', '#! \n/bin/sh', 0o755)
        self.write('nul', b'#!/bin\0/sh\n', 0o755)
        self.write('crlf', '#!/bin/sh\r\nexit 1\r\n', 0o755)
        self.write('for-a-folder', '#!/bin\n', 0o755)
        os.truncate(
            self.write('large', '#!/bin/sh\n', 0o755), 1 << 36
        )  # only its beginning is read
        os.mkdir(self.path('folder'))
        os.mkfifo(self.path('fifo'))
        os.symlink(self.path('nowhere'), self.path('dangling'))
        os.symlink(self.yes, self.path('link'))
        expected = {
            os.path.realpath('/bin/sh'): 'ok',
            'yes': 'ok',
            'spaced': 'ok',
            'link': 'ok',
            'large': 'ok',
            'missing': NOTHING,
            'dangling': NOTHING,
            'locked': 'not executable',
            'text': 'not a program',
            'empty': 'not a program',
            'nameless': 'interpreter',
            'lost': 'interpreter',
            'nul': 'interpreter',
            'for-a-folder': 'interpreter',
            'crlf': 'CR LF',
            'folder': 'not executable',
            'fifo': 'not executable',
        }
        self.assert_states({self.path(name): reason for name, reason in expected.items()})

    def test_what_a_tool_starts_has_to_be_there(self) -> None:
        """Every word that is an absolute path, whatever it is for."""
        env, gone = program('env'), self.path('gone')
        self.assert_states(
            {
                f'{program("timeout")} 5 {gone}': NOTHING,
                f'{program("nice")} {self.yes}': 'ok',
                f'{program("nice")} {self.path("yes/gone")}': 'Not a directory',
                f'{env} A=b {self.yes} {self.conf} {self.folder} {os.devnull}': 'ok',
                f'{env} A=b {self.yes} {gone}': NOTHING,
                f'{env} A=b tool gone/tool': 'ok',  # wherever PATH and the folder lead then
                f'{self.yes} / /. //': 'ok',
            }
        )

    def test_a_path_behind_an_equals_sign_is_only_warned_of(self) -> None:
        """If it is not there: the tool may well make it. A list of paths is not looked at, nor what else has a colon."""
        gone = self.path('gone')
        self.settings(
            f'{program("env")} PATH={gone}:/bin FILE={gone} {self.yes} --a={self.conf} --b= --c=gone'
            ' url=ldap://localhost/dc=example'
        )
        code, lines = self.check()
        self.assertEqual((code, states(lines)), (0, ['ok']), lines)
        (warning,) = self.warnings(lines)
        self.assertIn(gone, warning)

    @needs('root', 'public folder', 'public python')
    def test_all_is_judged_for_the_user_who_runs_it(self) -> None:
        """What only root can run or read is a problem for others; a tool need not be readable."""
        os.mkdir(self.path('private'), 0o700)
        hidden = shutil.copy(self.yes, self.path('private/yes'))
        unreadable = shutil.copy('/bin/sh', self.path('unreadable'))
        os.chmod(unreadable, 0o711)
        self.settings(unreadable, hidden, f'{self.yes} {hidden} A={hidden}')
        self.assertEqual(self.check()[0], 0)
        code, lines = self.check(before=drop_root)
        self.assertEqual((code, states(lines)[0]), (1, 'ok'))
        self.assertNotIn(f'{self.conf}:1:', '\n'.join(lines))
        self.assertIn(f'{self.conf}:2: {hidden}: cannot run: {hidden}: Permission denied', lines)
        os.chmod(self.conf, 0o600)
        code, lines = self.check(before=drop_root)
        self.assertEqual(code, 1)
        self.assertIn(f'{self.conf}: Permission denied', lines)


class ForALogin(Check):
    def asked(self, login: str) -> list[str]:
        """Return which tools are shown as asked for a login; all others are shown as not asked."""
        code, lines = self.check(login)
        self.assertEqual(code, 0)
        line, asked = f'   asked for {login}: ', []
        for heading, *rest in paragraphs(lines):
            (answer,) = [one[len(line) :] for one in rest if one.startswith(line)]
            self.assertIn(answer, ('yes', 'no'))
            if answer == 'yes':
                asked.append(heading[0])
        return asked

    def test_tools_of_a_login_are_shown(self) -> None:
        """Which a login would ask, and which it would not."""
        patterns = ('users=*@example.org,!bob@*', 'users=!*@*', 'users=root', 'name=all')
        self.settings(*(f'{one} {self.yes}' for one in patterns))
        for login, asked in (
            ('ALICE@EXAMPLE.ORG', ['1', '4']),
            ('bob@example.org', ['4']),
            ('root', ['2', '3', '4']),
            ('', ['2', '4']),
        ):
            with self.subTest(login=login):
                self.assertEqual(self.asked(login), asked)

    def test_nothing_else_is_another(self) -> None:
        """--check LOGIN is --check with a line more for each tool, and runs none."""
        self.settings(f'name=first {self.yes}', 'colour=red', self.yes)
        code, lines = self.check()
        code_for, lines_for = self.check("a'l ice")
        self.assertEqual((code, code_for, self.ran('yes')), (1, 1, 0))
        line = "   asked for a'l ice: yes"
        self.assertEqual(lines_for.count(line), 2)
        self.assertEqual([one for one in lines_for if one != line], lines)
