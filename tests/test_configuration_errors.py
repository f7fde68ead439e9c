"""What is wrong with a line of the configuration, and so with the whole file."""

from __future__ import annotations

import random
import unittest
from collections.abc import Sequence

from tests.harness.imported import SCRIPT, problems_of

TOOL = '/bin/true'

# What is wrong, as the log says it.
NEITHER = r'neither a setting \(name=value, without blanks\) nor an absolute path$'
UNKNOWN = 'unknown setting'
TWICE = '{}= is set twice'
ALONE = '{}= belongs on a line without a tool'
WITH_TOOL = '{}= belongs on a line with a tool'
BEFORE = '{}= belongs before the path'
COMMENT = 'a comment needs a line of its own, and no word may begin with #'
NUL = 'a NUL byte'
QUOTE = 'No closing quotation'
CONTINUED = 'a line cannot be continued$'
MARK = 'a byte order mark: '


class Errors(unittest.TestCase):
    """What makes a line wrong, and so the whole file."""

    # By what the log says. All words but names of settings have Zxq in them: they may be passwords.
    LINES: dict[str, list[str | bytes]] = {
        NEITHER: [
            *('Zxqword', f'Zxqword {TOOL}', 'users', f'timeout {TOOL}', '""', "''", f'"" {TOOL}'),
            *('bin/Zxqtool', './Zxqtool x', '~/Zxqtool', 'true', '"bin/Zxqtool"', '\\ /Zxqtool'),
            *(f'users=zxqalice ./true {TOOL}', 'pass Zxqword', 'Zxq' * 4000, 'users Zxq=x'),
            *(
                b'\xff' * 300,
                b'\x0b' + TOOL.encode(),
            ),
            *('\x0c', '\x1b[2J', '\u00a0' + TOOL, '\r' + TOOL, 'env Zxq=1 /t', '-Zxq', '--'),
        ],
        UNKNOWN + r' colour=; for a variable': [
            'colour=Zxqblue',
            f'colour=Zxqblue {TOOL}',
            'colour=',
        ],
        UNKNOWN + r' Users=; did you mean users=': [f'Users=zxq {TOOL}', 'Users='],
        UNKNOWN + r' timeou=; did you mean timeout=': [f'timeou=1 {TOOL}'],
        UNKNOWN + r' \S*=; ': [
            *('=', '=Zxq', f'=Zxq {TOOL}', '"pass word=Zxqsecret"', 'secret!word=', '"a b"=Zxq'),
            *('q' * 1200 + '=1', 'se;cret=Zxq /t', 'users\u00e4=Zxq', 'a/b=Zxq'),
            *(f'"users =zxq" {TOOL}', '\x1b[2J=Zxq', 'a\r=Zxq'),
        ],
        ALONE: [
            *(f'auth=1 {TOOL}', f'auth=0 {TOOL} Zxq', f'log=stderr {TOOL}', f'failure=last {TOOL}'),
            *(f'timeout=1 auth=1 {TOOL}',),
        ],
        WITH_TOOL: ['name=Zxq', 'timeout=3 name=Zxq'],
        TWICE: [
            *('auth=1 auth=1', 'log=syslog log=stderr', 'failure=last failure=last'),
            *(f'timeout=1 timeout=2 {TOOL}', f'users=zxqa users=zxqb {TOOL}', 'users=a users=a'),
            *(
                f'name=Zxq name=Zxq {TOOL}',
                f'empty=1 empty=1 {TOOL}',
                f'refused=1 refused=1 {TOOL}',
            ),
        ],
        BEFORE: [
            *(
                f'{TOOL} users=*@zxq.org',
                f'{TOOL} Zxq users=*',
                f'{TOOL} timeout=20',
                f'{TOOL} auth=0',
            ),
            *(f'{TOOL} name=Zxq', f'{TOOL} "users=zxq b"', f'{TOOL} refused=', f'{TOOL} empty=1'),
            *(
                f'users=zxq {TOOL} log=stderr',
                f'{TOOL} failure=Zxq',
                f'/usr/bin/env users=* {TOOL}',
            ),
        ],
        QUOTE: [
            *(f'{TOOL} "Zxq', f"{TOOL} 'Zxq", '"', "'", f'{TOOL} "Zxq\\"', f'users="zxqa {TOOL}'),
            *(f"'{TOOL}",),
        ],
        CONTINUED: [f'{TOOL} Zxq\\', '\\'],
        MARK: [b'\xff\xfe Zxq', b'\xef\xbb\xbf' + TOOL.encode(), '\ufeff# Zxq'],
        COMMENT: [
            *(
                f'{TOOL} # Zxq',
                f'{TOOL} #Zxq',
                f'{TOOL} #',
                'users=zxqa # Zxq',
                f'timeout=1 # {TOOL}',
            ),
            *(f'{TOOL} "a b" #Zxq', f'{TOOL} a\\ b\t#Zxq', f'{TOOL} "Zxq"  # b', f"{TOOL} '#x'"),
            *(f'{TOOL} \\#Zxq', f'{TOOL} "#"', 'auth=1 #', f'{TOOL} ""#'),
        ],
        NUL: [
            *(f'{TOOL} a\0Zxq', '\0', 'users=zxqa\0b', f'\0{TOOL}', f'{TOOL} "a\0Zxq"', '# a\0b'),
            *(f'{TOOL}\0', f'{TOOL} Zxq'.encode('utf-16-le')),
        ],
    }

    def test_every_error_of_form(self) -> None:
        """The problem names file and line, and what is wrong, in plain ASCII, and repeats nothing
        that stands there but the name of a setting."""
        names = '|'.join(SCRIPT.DEFAULTS)
        for reason, lines in self.LINES.items():
            for line in lines:
                data = line if isinstance(line, bytes) else line.encode()
                with self.subTest(reason=reason, line=data[:80]):
                    said = problems_of(
                        TOOL.encode() + b'\n\n' + data + b'\n' + TOOL.encode() + b'\n'
                    )
                    self.assertEqual(len(said), 1, said)
                    self.assertRegex(said[0], '^/conf:3: ' + reason.format(f'({names})'))
                    self.assertRegex(said[0], r'^[ -~]{1,150}$')
                    self.assertNotIn('zxq', said[0].lower())

    def test_wherever_it_stands(self) -> None:
        """Lines are counted from 1, blank ones and comments too; a setting of the file may stand
        only once, whatever its value; every wrong line is found."""
        for text, numbers in (
            ('auth=1\n\nauth=1\n/t\n', [3]),
            ('auth=1\n/t\nauth=0\n', [3]),
            ('log=syslog\nlog=syslog\n/t\n', [2]),
            ('failure=last\n#\n\n\nfailure=last\n/t\n', [5]),
            ('\n\n  # fine\n\tZxqword\n/t\n', [4]),
            ('# a\r\n# b\r\ntimeout=x\r\n/t\r\n', [3]),
            ('/t\nZxq\n/t\nZxq\nusers=\n', [2, 4, 5]),
            ('Zxq\n/t\n', [1]),
        ):
            with self.subTest(text=text):
                said = [int(one.split(':')[1]) for one in problems_of(text)]
                self.assertEqual(said, numbers)

    def test_a_file_without_a_tool(self) -> None:
        """Nobody can be asked: that is an error, too, of no line."""
        for text in ('', '\n', '# a\n \t\r\n#', 'log=stderr\ntimeout=5\n', '# /bin/true'):
            with self.subTest(text=text):
                self.assertEqual(problems_of(text), ['/conf: no tool is enabled'])

    def test_what_runs_no_tool_is_none(self) -> None:
        """Nobody looks into a command: whether it checks a password shows when it is run."""
        for line in (
            '/usr/bin/env',
            '/usr/bin/env A=b',
            '/opt/env -i -u X',
            '/usr/bin/timeout 9 /usr/bin/env A=b',
            '/usr/bin/env -S "A=b # c"',
            '/t A=b env',
        ):
            with self.subTest(line=line):
                self.assertEqual(problems_of(f'{line}\n'), [])

    def test_files_without_any_sense(self) -> None:
        """Any bytes, and any of those that mean something: a problem is a line of plain ASCII."""
        draw = random.Random(5)
        for number in range(2000):
            some: Sequence[int] = range(256) if number % 2 else b'\n\n #"=/\\\'atuseo,!*\0\r-1'
            data = bytes(draw.choices(some, k=draw.randrange(100)))
            with self.subTest(data=data):
                for problem in problems_of(data):
                    self.assertRegex(problem, r'^/conf(:\d+)?: [ -~]{1,150}$')
