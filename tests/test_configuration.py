"""What a line of the configuration may say, and what that means."""

from __future__ import annotations

import random
import re
import shlex
import unittest
from itertools import product

from tests.harness.imported import SCRIPT, problems_of, read_text, tool_of

TOOL = '/bin/true'

TAKES = {
    'auth': 'auth= takes 0 or 1',
    'log': 'log= takes syslog or stderr',
    'failure': 'failure= takes last',
    'empty': 'empty= takes 0 or 1',
    'timeout': 'timeout= takes seconds, 0 to 86400',
    'users': 'users= takes patterns, none of them empty',
    'refused': 'refused= takes exit codes and ranges of 1 to 255',
    'name': r'name= takes letters, digits, \. _ and -',
}

# Values of each setting. Whatever is not right must stay out of the log: it has Zxq in it where it
# is a word.
RIGHT = {
    'auth': ['0', '1'],
    'log': ['syslog', 'stderr'],
    'failure': ['last', 'temporary', 'crash'],
    'empty': ['0', '1'],
    'timeout': ['0', '1', '020', '86400', '000000009'],
    'users': ['*', 'a', '!a', 'a,!b', '*@a.org,b@*,!c*', 'a!b', '!!', 'a=b', '?[x]'],
    'refused': ['1', '255', '1,3', '12-13', '1,3,12-13,15,20-23', '5-5', '1-255', '007', '3,3,2-4'],
    'name': ['x', 'Virtual_1.x-y', '-', 'a' * 200],
}
WRONG = {
    'auth': ['', '2', '00', '-1', 'Zxq', 'yes', '0,1', '1 ', ' 1'],
    'log': ['', 'Zxq', 'STDERR', 'file', 'syslog,stderr'],
    'failure': ['', 'Zxq', 'first', 'LAST', 'crash '],
    'empty': ['', '2', '00', 'Zxq', 'no'],
    'timeout': [
        *('', '-1', '+1', '1.5', '1e3', '86401', '0x10', '1_0', 'Zxq', '1s', ' 1', '1 ', '1,2'),
        *('9' * 30, '9' * 5000, '\u0661', '\u00b2', '0000000009'),
    ],
    'users': ['', ',', 'zxqa,,zxqb', 'zxqa,', ',zxqa', '!', 'zxqa,!', '!,zxqa'],
    'refused': [
        *('', '0', '0-5', '256', '1-256', '-1', '1-', '-', ',', '1,', ',1', '1,,2', '5-3', '1-2-3'),
        *('+1', '1.5', 'Zxq', '1 2', ' 1', '\u00b2', '1:3', '1;3', '!1', '*', '0x1', '9' * 5000),
    ],
    'name': ['', 'Zxq/a', 'Zxq=b', 'Zxq b', 'Zxq\u00e4', 'a"Zxq', 'Zxq,b', 'a' * 201, '*'],
}


class Words(unittest.TestCase):
    def test_a_line_is_split_as_a_shell_does(self) -> None:
        """At blanks and tabs, with quotes and backslashes; nothing is expanded, and any other byte
        reaches the tool as it stands in the file."""
        for line, words in (
            (b'', []),
            (b' a  b\tc\t', [b'a', b'b', b'c']),
            (b' "a b" \'c  d\'', [b'a b', b'c  d']),
            (b' a\\ b', [b'a b']),
            (b' ""', [b'']),
            (b' \'\'x""', [b'x']),
            (b' a#b', [b'a#b']),
            (b' "\\"" \'\\\'', [b'"', b'\\']),
            (b' "\\a" \\a', [b'\\a', b'a']),
            (b' auth users', [b'auth', b'users']),
            (b' x=0 Auth=0 =', [b'x=0', b'Auth=0', b'=']),
            (b' \xe4\xff\x85\xa0\x0b\x0c\x1c', [b'\xe4\xff\x85\xa0\x0b\x0c\x1c']),
            (b' "\xe4 \xff"', [b'\xe4 \xff']),
            (b' a\r', [b'a']),
            (b' a\rb\r', [b'a\rb']),
            (b' "a\r"\r', [b'a\r']),
            (b' $HOME `x` * ~ ; | > & ${X}', [*b'$HOME `x` * ~ ; | > & ${X}'.split()]),
        ):
            for before in (b'', b' \t ', b'timeout=5 ', b'  timeout=5\tname=x '):
                with self.subTest(line=line, before=before):
                    tool = tool_of(before + b'/bin/show' + line)
                    self.assertEqual(tool.command, [b'/bin/show', *words])

    def test_a_path_may_be_quoted(self) -> None:
        """A tool's path may hold any byte but NUL and newline."""
        for line, path in (
            (b'"/a b/c"', b'/a b/c'),
            (b"'/a\tb'", b'/a\tb'),
            (b'/a\\ b', b'/a b'),
            (b'/a=b', b'/a=b'),
            (b'/a\xffb', b'/a\xffb'),
            (b'/a#b', b'/a#b'),
        ):
            with self.subTest(line=line):
                self.assertEqual(tool_of(line).command, [path])

    def test_the_words_are_those_of_shlex(self) -> None:
        """Whatever a line of quotes, backslashes and blanks holds: 5,000 lines."""
        draw = random.Random(4)
        invalid = 0
        for _ in range(5000):
            line = '/t ' + ''.join(draw.choice('ab"\'\\ \t#') for _ in range(draw.randrange(14)))
            lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
            lexer.whitespace, lexer.whitespace_split, lexer.commenters = ' \t', True, ''
            words: list[str] | None
            try:
                words = list(lexer)
            except ValueError:
                words = None
            if words is not None and any(word.startswith('#') for word in words):
                words = None
            invalid += words is None
            with self.subTest(line=line):
                try:
                    self.assertEqual(SCRIPT.split_line(line), words)
                except ValueError:
                    self.assertIsNone(words)
        self.assertTrue(1000 < invalid < 4000, f'{invalid} lines are invalid: a lopsided test')

    def test_blank_lines_and_comments_say_nothing(self) -> None:
        """A comment is a line whose first character, after blanks, is #, whatever else it holds."""
        for line in ('', ' ', '\t ', '#', '# comment', ' \t# comment', '#"', "# it's", '#\\', '\r'):
            with self.subTest(line=line):
                configuration = read_text(f'{line}\n{TOOL}\n{line}\n')
                self.assertFalse(configuration.problems)
                self.assertEqual(len(configuration.tools), 1)


class Settings(unittest.TestCase):
    def line(self, name: str, value: str) -> str:
        """Return a line that sets this, with a tool if the setting belongs to one."""
        setting = f"'{name}={value}'"
        return (
            f'{setting}\n{TOOL}\n' if name in ('auth', 'log', 'failure') else f'{setting} {TOOL}\n'
        )

    def test_right_values_are_kept(self) -> None:
        """Every setting takes what the README says, and keeps it."""
        for name, values in RIGHT.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.assertEqual(problems_of(self.line(name, value)), [])

    def test_wrong_values_are_errors_of_the_line(self) -> None:
        """Anything else is an error of the line that says what the setting takes, but not what
        stands there."""
        self.assertEqual(set(WRONG), set(SCRIPT.DEFAULTS))
        for name, values in WRONG.items():
            for value in values:
                with self.subTest(name=name, value=value[:50]):
                    [said] = problems_of(self.line(name, value) + TOOL + '\n')
                    self.assertRegex(said, f'^/conf:1: {TAKES[name]}')
                    self.assertNotIn('zxq', said.lower())

    def test_digits_are_those_of_ascii(self) -> None:
        """Not what else Unicode, or Latin-1, takes for a digit."""
        for line in (b'timeout=\xb2 /t', b'timeout=1\xb9 /t', b'refused=\xb3 /t', b'empty=\xb9 /t'):
            with self.subTest(line=line):
                [said] = problems_of(line + b'\n/t\n')
                self.assertRegex(said, '^/conf:1: [a-z]+= takes ')

    def test_the_defaults_count_where_nothing_is_said(self) -> None:
        """What counts where the file says nothing."""
        configuration = read_text(f'{TOOL}\n')
        values = {name: configuration.values[name] for name in ('auth', 'log', 'failure')}
        self.assertEqual(values, {'auth': '1', 'log': 'syslog', 'failure': 'last'})
        tool = tool_of(TOOL)
        self.assertEqual((tool.name, tool.patterns), (TOOL, [b'*']))
        self.assertEqual((tool.settings['timeout'], tool.settings['empty']), ('20', '0'))
        no_verdict = {2, 75, 111, 126, 127, 255}
        refused = SCRIPT.parse_codes(tool.settings['refused'])
        self.assertEqual(refused, set(range(1, 256)) - no_verdict)

    def test_defaults_count_for_the_lines_below(self) -> None:
        """A setting without a path counts from there on, until another takes its place; one on a
        tool's line counts for that tool alone."""
        configuration = read_text(
            'name=one users=bob /a\n'
            'users=alice*\n'
            '/b\n'
            'users=* timeout=9 refused=3\n'
            'empty=1\n'
            '/c\n'
            'users=!alice timeout=8 refused=4 empty=0 /d\n'
            'timeout=0\n'
            '/e\n'
        )
        self.assertFalse(configuration.problems)
        seen = [
            (
                tool.command[0],
                tool.patterns,
                tool.settings['timeout'],
                tool.settings['refused'],
                tool.settings['empty'],
                tool.name,
                tool.line,
            )
            for tool in configuration.tools
        ]
        usual = SCRIPT.DEFAULTS['refused']
        self.assertEqual(
            seen,
            [
                (b'/a', [b'bob'], '20', usual, '0', 'one', 1),
                (b'/b', [b'alice*'], '20', usual, '0', '/b', 3),
                (b'/c', [b'*'], '9', '3', '1', '/c', 6),
                (b'/d', [b'!alice'], '8', '4', '0', '/d', 7),
                (b'/e', [b'*'], '0', '3', '1', '/e', 9),
            ],
        )

    def test_settings_of_the_file(self) -> None:
        """auth=, log= and failure= stand alone, several on a line if one likes, anywhere."""
        configuration = read_text(f'auth=0 log=stderr\n{TOOL}\nfailure=temporary\n')
        self.assertFalse(configuration.problems)
        values = [configuration.values[name] for name in ('auth', 'log', 'failure')]
        self.assertEqual(values, ['0', 'stderr', 'temporary'])

    def test_codes_of_refused(self) -> None:
        """Codes and ranges, both ends included."""
        for value, codes in (
            ('1', {1}),
            ('1,3,12-13,15,20-23', {1, 3, 12, 13, 15, 20, 21, 22, 23}),
            ('5-5', {5}),
            ('1-255', set(range(1, 256))),
            ('3,3,2-4', {2, 3, 4}),
            ('', set()),
        ):
            with self.subTest(value=value):
                self.assertEqual(SCRIPT.parse_codes(value), codes)

    def test_name_is_what_the_log_calls_a_tool(self) -> None:
        """Else it is the path, which cannot look like a field of the log."""
        for line, name in (
            (f'name=Virtual_1.x-y {TOOL} -a', 'Virtual_1.x-y'),
            (f'{TOOL} -a', TOOL),
            ('"/a b=c"', '/a\\x20b\\x3dc'),
            ('/' + 'a' * 300, '/' + 'a' * 199 + '\\...'),
        ):
            with self.subTest(line=line):
                self.assertEqual(tool_of(line).name, name)


class Patterns(unittest.TestCase):
    """users=: who may see a login's password."""

    def test_which_logins_a_tool_serves(self) -> None:
        """Those that fit one pattern as a whole and no exclusion; * stands for anything, nothing
        else is special, and the case of ASCII letters does not matter."""
        for users, login, serves in (
            ('*', b'anyone', True),
            ('*', b'', True),
            ('alice', b'alice', True),
            ('alice', b'ALICE', True),
            ('ALICE', b'alice', True),
            ('alice', b'alice@x', False),
            ('alice', b'malice', False),
            ('*@example.org', b'a@EXAMPLE.org', True),
            ('*@example.org', b'a@example.org.net', False),
            ('*@example.org', b'@example.org', True),
            ('*@example.org', b'example.org', False),
            ('*@example.org', b'a@example.org\n', False),
            ('a*b*c', b'abc', True),
            ('a*b*c', b'aXbYc', True),
            ('a*b*c', b'acb', False),
            ('a*a', b'a', False),
            ('ab*ba', b'aba', False),
            ('*aa*aa*', b'aaa', False),
            ('*a*', b'xax', True),
            ('*a*', b'xx', False),
            ('a**b', b'ab', True),
            ('?lice', b'alice', False),
            ('[a]lice', b'alice', False),
            ('a.ice', b'alice', False),
            ('bob,alice', b'alice', True),
            ('bob,carol', b'alice', False),
            ('!alice', b'alice', False),
            ('!alice', b'bob', True),
            ('!alice,!bob', b'carol', True),
            ('!alice,!bob', b'bob', False),
            ('*@x,!root@x', b'root@x', False),
            ('!root@x,*@x', b'root@x', False),
            ('*@x,!root@x', b'ROOT@X', False),
            ('*@x,!root@x', b'bob@x', True),
            ('*@x,!root@x', b'bob@y', False),
            ('!r*,ro*', b'root', False),
            ('!*@*,!root', b'root', False),
            ('!*@*,!root', b'bob', True),
            ('a!b', b'a!b', True),
            ('!!a', b'!a', False),
            ('\xe4*', b'\xe4x', True),
            ('\xc4*', b'\xe4x', False),
            ('*b', b'a\nb', True),
            ('*', bytes(range(1, 256)), True),
        ):
            with self.subTest(users=users, login=login):
                tool = tool_of(f"'users={users}' {TOOL}".encode('latin-1'))
                self.assertIs(tool.serves(login), serves)

    def test_every_short_pattern_matches_as_a_regular_expression_does(self) -> None:
        """With "*" as anything: all patterns and logins of up to four letters."""
        patterns = [''.join(one) for size in range(1, 5) for one in product('aB*', repeat=size)]
        logins = [''.join(one) for size in range(5) for one in product('ab', repeat=size)]
        for pattern in patterns:
            tool = tool_of(f'users={pattern} {TOOL}')
            expression = re.compile(pattern.replace('*', '.*'), re.IGNORECASE)
            for login in logins:
                with self.subTest(pattern=pattern, login=login):
                    fits = expression.fullmatch(login) is not None
                    self.assertIs(tool.serves(login.encode()), fits)
