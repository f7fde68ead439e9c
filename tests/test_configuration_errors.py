"""What is wrong with a line of the configuration, and so with the whole file."""

from __future__ import annotations

import unittest

from tests.harness.imported import SCRIPT, problems_of, read_text

TOOL = '/bin/true'

# What is wrong, as the log says it.
NEITHER = r'neither a setting \(name=value\) nor an absolute path'
UNKNOWN = 'unknown setting'
TWICE = '{}= is set twice'
ALONE = '{}= belongs on a line without a tool'
WITH_TOOL = '{}= belongs on a line with a tool'
BEFORE = '{}= belongs before the path'
COMMENT = 'a comment needs a line of its own, and no word may begin with #'
NUL = 'a NUL byte'
QUOTE = 'No closing quotation'
ESCAPE = 'No escaped character'
NO_PROGRAM = 'env has no program to run'


class Errors(unittest.TestCase):
    """What makes a line wrong, and so the whole file."""

    # By what the log says. All words but names of settings have Zxq in them: they may be passwords.
    LINES: dict[str, list[str | bytes]] = {
        NEITHER: [
            *('Zxqword', f'Zxqword {TOOL}', 'users', f'timeout {TOOL}', '""', "''", f'"" {TOOL}'),
            *('bin/Zxqtool', './Zxqtool x', '~/Zxqtool', 'true', '"bin/Zxqtool"', '\\ /Zxqtool'),
            *(f'users=zxqalice ./true {TOOL}', 'pass Zxqword', 'Zxq' * 4000, 'users Zxq=x'),
            *(
                b'\xff\xfe Zxq',
                b'\xef\xbb\xbf' + TOOL.encode(),
                b'\xff' * 300,
                b'\x0b' + TOOL.encode(),
            ),
            *('\x0c', '\x1b[2J', '\u00a0' + TOOL, '\r' + TOOL, 'env Zxq=1 /t', '-Zxq', '--'),
        ],
        UNKNOWN + r' colour=$': ['colour=Zxqblue', f'colour=Zxqblue {TOOL}', 'colour='],
        UNKNOWN + r' Users=$': [f'Users=zxq {TOOL}', 'Users='],
        UNKNOWN + r' timeou=$': [f'timeou=1 {TOOL}'],
        UNKNOWN + '$': [
            *('=', '=Zxq', f'=Zxq {TOOL}', '"pass word=Zxqsecret"', 'Zxqsecret!word=', '"a b"=x'),
            *(
                'q' * 1200 + '=1',
                'se;cret=x /t',
                'users\u00e4=x',
                'Zxq/a=b',
                f'"users =zxq" {TOOL}',
            ),
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
        ESCAPE: [f'{TOOL} Zxq\\', '\\'],
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
                self.assertEqual([problem.line for problem in read_text(text).problems], numbers)

    def test_a_file_without_a_tool(self) -> None:
        """Nobody can be asked: that is an error, too, of no line."""
        for text in ('', '\n', '# a\n \t\r\n#', 'log=stderr\ntimeout=5\n', '# /bin/true'):
            with self.subTest(text=text):
                self.assertEqual(problems_of(text), ['/conf: no tool is enabled'])


class Env(unittest.TestCase):
    """env(1) in front of a tool: whatever it runs instead of a tool would be prog, and let
    everybody in."""

    def test_a_line_that_ends_before_a_program_is_wrong(self) -> None:
        """Only options with their operands and assignments: the line may have been cut short."""
        for words in (
            *('', 'A=b', 'A=b C=d', '-i', '-', '-i A=b', '-u X', '-uX', '-iu X', '--unset X'),
            *('--unset=X', '--unset=X A=b', '-C /', '-C/', '--chdir /', '--chdir=/ A=b', '-a x'),
            *('--argv0=x', '--', '-- A=b', '-v', '-iv A=b', '--debug', '--ignore-signal=PIPE'),
            *('--block-signal', '--default-signal', '-S A=b', '-SA=b', '-vS A=b', '-S "A=b C=d"'),
            *('--split-string=A=b', '--split-string "-i A=b"', '-S "-u X"', '-S ""', '-u', '-C'),
            *('"A=b c"', '--unse X', '--chd /', '-S "A=b # c"', '/usr/bin/env'),
            *('-i /usr/bin/env A=b',),
            *('--help /t', '--version /t', '--v /t', '-i --he /t'),
            *('A=1 --split-string=/t', 'A=1 "-SB=1 /t"', '-- --unset=X', '- -uX=y'),
            "-S \"'A=1\\\\' /t '\\\\'\"",
        ):
            for path in ('/usr/bin/env', '/opt/env'):
                with self.subTest(path=path, words=words):
                    said = problems_of(f'{path} {words}\n{TOOL}\n')
                    self.assertEqual(len(said), 1, said)
                    self.assertRegex(said[0], f'^/conf:1: {NO_PROGRAM}')

    def test_a_program_behind_env_is_a_tool(self) -> None:
        """Also as env's -S takes it, in one word or two, and behind a second env."""
        for words in (
            *('/t', 'A=b /t', 't', '-i /t', '- /t', '-u X /t', '-uX /t', '--unset=X /t', '-C / /t'),
            *('--chdir / A=b /t -i', '-- /t', '-- A=b /t', '-S "/t a"', '-S/t', '-iS "A=b /t"'),
            *('--split-string="/t a"', '-S "-i A=b" /t', '-a x /t', '--block-signal /t', '-v /t'),
            *(
                'A=b -u X',
                '--split-string "A=b -i"',
                '-- -u',
                '- -S/t',
            ),  # no options there, but a program that is not there
            *('/usr/bin/env A=b /t', '--default-signal=PIPE /t', '-i A=b env /t'),
        ):
            with self.subTest(words=words):
                self.assertEqual(problems_of(f'/usr/bin/env {words}\n'), [])

    def test_env_may_stand_behind_another_program(self) -> None:
        """As timeout; there it has to stand with its path, as env may be a word of any tool."""
        for line, is_right in (
            ('/usr/bin/timeout 9 /usr/bin/env A=b', False),
            ('/usr/bin/setsid -w /bin/env', False),
            ('/usr/bin/env A=b /usr/bin/nice /usr/bin/env C=d', False),
            ('/usr/bin/timeout 9 /usr/bin/env A=b /t', True),
            ('/usr/bin/nice env A=b', True),  # --check warns
            ('/t /etc/mail/env', True),
        ):
            with self.subTest(line=line):
                self.assertEqual(problems_of(f'{line}\n') == [], is_right)

    def test_only_env_itself_is_meant(self) -> None:
        """Other programs with such arguments are tools like any other."""
        for line in (
            '/t A=b',
            '/usr/bin/environment A=b',
            '/t env',
            '/env/t',
            '/t -u X',
            '/t /env',
        ):
            with self.subTest(line=line):
                self.assertEqual(problems_of(f'{line}\n'), [])
