"""A second reading of the rules of the configuration, written apart from the script, agrees with it
on files as they come: whether they are valid, and what they say."""

from __future__ import annotations

import random
import re
import unittest
from typing import Any, NamedTuple

from tests.harness.imported import SCRIPT, read_text

OF_THE_FILE = {'auth': '[01]', 'log': 'syslog|stderr', 'failure': 'last|temporary|crash'}
CODE = '0*(?:[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])'
OF_TOOLS = {
    'timeout': '[0-9]{1,9}',
    'users': '.*',
    'refused': f'{CODE}(?:-{CODE})?(?:,{CODE}(?:-{CODE})?)*',
    'empty': '[01]',
    'name': '[A-Za-z0-9._-]{1,200}',
}
REFUSED = '1,3-74,76-110,112-125,128-254'  # where nothing else is said
FORMS = {**OF_THE_FILE, **OF_TOOLS}


class Wrong(Exception):
    """The file is invalid."""


class ToolLine(NamedTuple):
    """A tool as its line gives it."""

    command: list[str]
    settings: dict[str, str]


def words_of(line: str) -> list[str]:
    """Split a line, character by character."""
    words: list[str] = []
    word: str | None = None
    quote, escaped = '', False
    blanks = ' \t\r' if set('"\'\\') & set(line) else ' \t'  # as shlex has it
    for character in line:
        if escaped:
            kept = '' if not quote or character in '"\\' else '\\'
            word, escaped = f'{word or ""}{kept}{character}', False
        elif character == '\\' and quote != "'":
            word, escaped = word or '', True
        elif quote:
            if character == quote:
                quote = ''
            else:
                word = (word or '') + character
        elif character in '"\'':
            word, quote = word or '', character
        elif character in blanks:
            words += [] if word is None else [word]
            word = None
        else:
            word = (word or '') + character
    words += [] if word is None else [word]
    if quote or escaped or any(one.startswith('#') for one in words):
        raise Wrong
    return words


def check_setting(name: str, value: str) -> None:
    if not re.fullmatch(FORMS[name], value, re.DOTALL):
        raise Wrong
    if name == 'users' and any(pattern in ('', '!') for pattern in value.split(',')):
        raise Wrong
    if name == 'timeout' and int(value) > 86400:
        raise Wrong
    if name == 'refused':
        for part in value.split(','):
            ends = [int(end) for end in part.split('-')]
            if ends[0] > ends[-1] or any(len(end) > 9 for end in part.split('-')):
                raise Wrong


def read_line(words: list[str], settings: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return what a line sets, and its tool's command."""
    given: dict[str, str] = {}
    while words and words[0][:1] != '/':
        name, equals, value = words[0].partition('=')
        if not equals or name not in FORMS or name in given or name in settings:
            raise Wrong
        check_setting(name, value)
        given[name] = value
        words = words[1:]
    if words and OF_THE_FILE.keys() & given.keys():
        raise Wrong
    if not words and 'name' in given:
        raise Wrong
    if any(word.partition('=')[0] in FORMS and '=' in word for word in words[1:]):
        raise Wrong
    return given, words


def read_rules(text: str) -> tuple[dict[str, str], list[ToolLine]]:
    """Return the settings of the file, and its tools."""
    settings: dict[str, str] = {}
    defaults: dict[str, str] = {}
    tools = []
    is_bare = True  # in the form of 0.3
    for line in text.split('\n'):
        line = line[:-1] if line.endswith('\r') else line
        if '\0' in line:
            raise Wrong
        is_empty = line.strip(' \t')[:1] in ('', '#')
        if is_empty:
            continue
        given, command = read_line(words_of(line), settings)
        is_bare = is_bare and not given and len(command) == 1
        if command:
            tools.append(ToolLine(command, {**defaults, **given}))
        for name, value in given.items() if not command else ():
            if name in OF_THE_FILE:
                settings[name] = value
            else:
                defaults[name] = value
    if not tools or not (is_empty or is_bare):
        raise Wrong
    return settings, tools


def described(configuration: Any) -> tuple[dict[str, str], list[tuple[Any, ...]]]:
    """Return what the script has read."""
    settings = {name: configuration.values[name] for name in OF_THE_FILE}
    tools = [
        (
            tool.command,
            tool.patterns,
            int(tool.settings['timeout']),
            SCRIPT.parse_codes(tool.settings['refused']),
            tool.settings['empty'] == '1',
            tool.name,
        )
        for tool in configuration.tools
    ]
    return settings, tools


def expected(text: str) -> tuple[dict[str, str], list[tuple[Any, ...]]] | None:
    """Return the same by the second reading; None if the file is invalid."""
    try:
        settings, tools = read_rules(text)
    except Wrong:
        return None
    return {'auth': '1', 'log': 'syslog', 'failure': 'last', **settings}, [
        (
            [word.encode('latin-1') for word in command],
            given.get('users', '*').encode('latin-1').lower().split(b','),
            int(given.get('timeout', '20')),
            codes_of(given.get('refused', REFUSED)),
            given.get('empty') == '1',
            given.get('name') or SCRIPT.escape(command[0].encode('latin-1'), 200),
        )
        for command, given in tools
    ]


def codes_of(value: str) -> set[int]:
    codes: set[int] = set()
    for part in filter(None, value.split(',')):
        ends = [int(end) for end in part.split('-')]
        codes |= set(range(ends[0], ends[-1] + 1))
    return codes


class Files(unittest.TestCase):
    TOOLS = ('/y', '/n', '/nonexistent/tool', '/usr/bin/env A=b /t')
    SETTINGS = (
        *('timeout=9', 'timeout=0', 'users=alice*', 'users=*@EXAMPLE.org', 'users=!alice*'),
        *('users=bob,carol', 'users=*,!*@example.org', 'users="a*e@e*,b o b"', 'name=x-1'),
        *("users='!#*'", 'users=\\a*', 'refused=1', 'refused=1,3,12-13', 'empty=1', 'empty=0'),
        *('timeout=', 'users=a,,b', 'timeout=99999', 'refused=0', 'refused=3-1', 'empty=2'),
    )
    WRONG_SETTINGS = 6  # the last of these
    ALONE = (
        *('# comment', '', ' \t', '  #"', 'users=*e*', 'timeout=7\r', 'users=!bob', 'refused=5-7'),
        *('failure=temporary', 'empty=1', 'auth=1', 'failure=crash', 'log=stderr', 'users=*'),
        *('timeout=', 'log=stderr\r', 'auth=0', 'nonsense', 'users=!*', '/x "', "''", 'name=x'),
    )
    ARGUMENTS = (
        *('', '', '', ' a', " 'a b'", ' a#b', ' ""', '\r', ' "a"\'b\'', '\t'),
        *(' a=b', ' "\\""', ' \\#', ' #', ' ""#', ' users=x', ' timeout=5', ' X=users=x'),
    )
    WRONG_ARGUMENTS = 6

    def random_file(self, draw: random.Random) -> str:
        """Make a file of a few lines, some of them wrong, and some spoilt by a byte."""
        lines = ['log=stderr'] if draw.random() < 0.8 else []
        for _ in range(draw.randrange(1, 7)):
            if draw.random() < 0.6:
                likely = self.SETTINGS[: -self.WRONG_SETTINGS]
                settings = likely if draw.random() < 0.9 else self.SETTINGS
                words = draw.sample(settings, draw.choice((0, 0, 1, 2)))
                tool = draw.choice(self.TOOLS)
                few = self.ARGUMENTS[: -self.WRONG_ARGUMENTS]
                arguments = self.ARGUMENTS if draw.random() < 0.2 else few
                lines.append(' '.join([*words, tool]) + draw.choice(arguments))
            else:
                lines.append(draw.choice(self.ALONE if draw.random() < 0.3 else self.ALONE[:8]))
        text = '\n'.join(lines) + draw.choice(('\n', '\n', '\n', '\n', '\r\n', ''))
        if draw.random() < 0.25:
            place = draw.randrange(len(text) + 1)
            other = draw.choice('\0 \t\n\r"\'\\#=!,*/a\xff')
            text = text[:place] + other + text[place + draw.randrange(2) :]
        return text

    def compare(self, text: str) -> bool:
        """Compare the two readings of a file; return whether it is valid."""
        with self.subTest(text=text):
            configuration = read_text(text.encode('latin-1'))
            wanted = expected(text)
            self.assertEqual(bool(configuration.problems), wanted is None)
            if wanted is not None:
                self.assertEqual(described(configuration), wanted)
        return wanted is not None

    def test_files_that_are_nearly_right(self) -> None:
        """10,000 of them, about half of which are valid."""
        draw = random.Random(3)
        valid = sum(self.compare(self.random_file(draw)) for _ in range(10000))
        self.assertTrue(3000 < valid < 7000, f'{valid} are valid: a lopsided test')

    def test_files_without_any_sense(self) -> None:
        """Any bytes, and any of those that mean something: nothing but a defined end."""
        draw = random.Random(5)
        for _ in range(2000):
            self.compare(bytes(draw.choices(range(256), k=draw.randrange(400))).decode('latin-1'))
            some = b'\n\n #"=/\\\'atuseo,!*\0\r-1'
            self.compare(bytes(draw.choices(some, k=draw.randrange(60))).decode('latin-1'))

    def test_any_cut_means_what_the_rules_say(self) -> None:
        """A file with most that there is, and a file of 0.3."""
        for text in (
            'log=stderr\r\nusers=*@b\n/n\n# c\nfailure=temporary refused=1,100\n'
            "users=!bo* timeout=9 name=x empty=1 /y \"a #b\" \\' 'c'\n  /usr/bin/env A=/y /y\n#\n",
            '# config file\n\n/n\n  /nonexistent/a\n/y\n',
        ):
            for length in range(len(text) + 1):
                self.compare(text[:length])
