"""The reference in README.md and pwrap.conf.example say what the script does."""

from __future__ import annotations

import glob
import os
import posix
import re
import signal
import tempfile
import unittest
import unittest.mock

from tests.harness import machine
from tests.harness.documents import BLOCK, block, blocks, example, readme, table
from tests.harness.logins import ACCEPTS, RESULT, SESSION, TRIPLE, Case
from tests.harness.machine import TOP
from tests.harness.processes import read_file, wait_until
from tests.harness.tools import refuses

script = machine.import_script()


def parse(text: str) -> list[str]:
    """Return what is wrong with a configuration file, FILE, of this text."""
    with tempfile.NamedTemporaryFile('w', dir=machine.make_folder('pwrap-test-')) as file:
        file.write(text)
        file.flush()
        with unittest.mock.patch.dict(posix.environ, {b'PWRAP_CONF': file.name.encode()}):
            problems = list(script.Configuration().problems)
    os.rmdir(os.path.dirname(file.name))
    return [problem.replace(file.name, 'FILE') for problem in problems]


class Reference(Case):
    def test_settings_are_those_of_the_script(self) -> None:
        """Table and example have every setting, and the table no other, each in its place."""
        places = {row[0].strip('`='): row[1] for row in table('setting')}
        self.assertEqual(sorted(places), sorted(script.DEFAULTS))
        for name, place in places.items():
            self.assertEqual(place == 'file', name in script.FILE_SETTINGS, name)
            self.assertRegex(example(), rf'(?m)^# (\S+ )*{name}=')

    def test_defaults_are_those_of_the_script(self) -> None:
        """The defaults in table and example are the script's; where they say it in words, they mean
        the same."""
        refused = script.parse_codes(script.DEFAULTS['refused'])
        others = ', '.join(str(code) for code in range(1, 256) if code not in refused)
        said = {'users': 'everyone', 'name': 'its path', 'refused': f'all but {others}'}
        shown = {row[0].strip('`='): row[3] for row in table('setting')}
        self.assertEqual(shown, {**script.DEFAULTS, **said})
        lines = dict(re.findall(r'(?m)^# ([a-z]+)=(\S+)$', example()))
        wanted = {**script.DEFAULTS}
        del wanted['name']
        self.assertEqual(lines, wanted)

    def test_example_lines_are_valid_without_their_mark(self) -> None:
        """As it is, the example enables nothing; without "# ", each line of it is valid, and so are
        all together."""
        self.assertEqual(parse(example()), ['FILE: no tool is enabled'])
        pattern = rf'(?m)^# ((?:(?:{"|".join(script.DEFAULTS)})=\S|/).*)$'
        lines = re.findall(pattern, example())
        self.assertEqual(len(lines), 13, lines)
        for line in lines:
            self.assertEqual(parse(f'{line}\n/bin/tool\n'), [], line)
        self.assertEqual(parse(re.sub(pattern, r'\1', example())), [])

    def test_configurations_are_valid(self) -> None:
        """Every configuration that README.md shows is one that a login would use."""
        shown = blocks(first='# pwrap.conf')
        self.assertEqual(len(shown), 2)
        for text in shown:
            self.assertEqual(parse(text), [])

    def test_results_are_those_of_the_log(self) -> None:
        """Every word that stands behind result= is explained; the lines shown are well formed."""
        names = [script.ACCEPTED, script.REJECTED, script.TEMPORARY, script.DISABLED]
        names += script.SAID_OF_A_LOOKUP.values()
        cells = ', '.join(row[0] for row in table('`result=`'))
        self.assertEqual(re.findall(r'`(\w+)`', cells), names)
        lines = [line.partition(': ')[2] for line in block('log').splitlines()]
        matches = [RESULT.match(line) for line in lines]
        shown = [match['result'] if match else None for match in matches]
        self.assertEqual(shown, [script.ACCEPTED, script.REJECTED, script.TEMPORARY, 'unknown'])

    PROBLEMS = (
        *('cannot run: ', 'was killed', 'cannot be killed', 'killed by '),
        *('interrupted, exit code ', 'temporary failure, exit code ', 'prog cannot be run: '),
        *('accepted without reading the password', 'ended with 0, but prog was not reached'),
        'the tool has closed descriptors that it inherited, ',
        'a tool has started the wrapper with this same file: ',
        *('no tool is enabled', 'belongs to user ', 'others can write to it; mend it with: '),
        *(
            'chmod go-w ',
            'larger than 1 MB',
            'internal error: ',
            'qmail_pwrap.py cannot be loaded: ',
        ),
        *(' is ignored: ', ' is refused: '),
        'descriptor 3 is not open, or cannot be read: ',
    )

    def test_problems_are_those_of_the_log(self) -> None:
        """Every problem that script and installed command log is in the table, and no other."""
        sources = ' '.join(
            read_file(f'{TOP}/{name}').decode() for name in ('qmail_pwrap.py', 'Makefile')
        )
        rows = table('line at level err')
        cells = ' '.join(' '.join(row) for row in rows)
        for problem in self.PROBLEMS:
            with self.subTest(problem=problem):
                self.assertIn(problem, sources)
                self.assertIn(problem.strip(), cells)
        for text in re.findall('`(.*?)`', ' '.join(row[0] for row in rows)):
            is_known = any(problem.strip() in text for problem in self.PROBLEMS)
            self.assertTrue(is_known or text == 'FILE:LINE: …', text)


class ExitCodes(Case):
    def setUp(self) -> None:
        super().setUp()
        self.tool('yes', ACCEPTS)
        for code in (1, 3, 100, 111):
            self.tool(f'no{code}', refuses(code))

    def code_of(
        self,
        chain: str,
        *prog: str,
        triple: bytes | None = TRIPLE,
        **environment: str,
    ) -> int | None:
        """Return the code of a login; chain is the configuration, its lines with / between them."""
        tools = ('yes', 'no1', 'no3', 'no100', 'no111', 'missing')
        lines = [
            re.sub(rf'\b({"|".join(tools)})$', lambda match: self.path(match[1]), line)
            for line in chain.split('/')
        ]
        self.configure(*lines)
        return self.login(*(prog or ('true',)), triple=triple, env=environment).code

    def test_table_of_exit_codes(self) -> None:
        """Each line of the table is so, and there is no other."""
        lookup = {'triple': b'alice\0\0\0', 'AUTHORIZED': '1'}
        short, empty, long = b'alice\0', b'alice\0\0\0', b'alice\0' + b'x' * 600 + b'\0\0'
        dies = ('/bin/sh', '-c', 'kill -TERM $$')
        found = ('/bin/sh', '-c', 'exit 2')
        cases: dict[str, list[tuple[int | None, int]]] = {
            '0, or any': [
                (self.code_of('yes'), 0),
                (self.code_of('yes', *SESSION.prog), SESSION.code),
                (self.code_of('yes', *dies), -signal.SIGTERM),
                (self.code_of('no1', *SESSION.prog, AUTH='0'), 0),
            ],
            '1': [
                (self.code_of('failure=temporary/no1/no100'), 1),
                (self.code_of('users=nobody yes'), 1),
                (self.code_of('yes', triple=empty), 1),
                (self.code_of('yes', triple=long), 1),
            ],
            '2': [
                (self.code_of('yes', triple=None), 2),
                (self.code_of('yes', triple=short), 2),
                (self.code_of('yes', *found, **lookup), 2),  # type: ignore[arg-type]
            ],
            '3': [(self.code_of('no3', **lookup), 3)],  # type: ignore[arg-type]
            '111': [
                (self.code_of('failure=temporary/no111/no1'), 111),
                (self.code_of('failure=temporary/refused=100 no1'), 111),
                (self.code_of('no1', **lookup), 111),  # type: ignore[arg-type]
                (self.code_of('missing'), 111),
                (self.interrupted(), 111),
                (self.code_of('no1/tiemout=3'), 111),
            ],
            'SIGTERM': [
                (self.code_of('failure=crash/no111/no1'), -signal.SIGTERM),
                (self.code_of('failure=crash/missing'), -signal.SIGTERM),
            ],
            'other': [(self.code_of('no1/no100'), 100), (self.code_of('no100/no1'), 1)],
        }
        self.assertEqual([row[0] for row in table('exit code')], list(cases))
        for row, pairs in cases.items():
            for number, (code, wanted) in enumerate(pairs):
                with self.subTest(row=row, number=number):
                    self.assertEqual(code, wanted)

    def interrupted(self) -> int | None:
        """Return the code of a login that a signal ends while a tool decides."""
        self.configure(self.tool('slow', ': >$dir/slow.ready; exec sleep 1000'))
        login = self.start('true')
        wait_until(lambda: os.path.exists(self.path('slow.ready')), 'the tool runs')
        os.kill(login.pid, signal.SIGTERM)
        return login.wait().code


class Form(unittest.TestCase):
    def test_what_the_documents_name_is_there(self) -> None:
        """Every file, folder, heading and make target that the documents name is there."""
        targets = re.findall(r'(?m)^\.PHONY: (.*)$', read_file(f'{TOP}/Makefile').decode())
        for name in ('README.md', 'tests/README.md'):
            text = read_file(f'{TOP}/{name}').decode()
            titles = re.findall(r'(?m)^#+ (.*)$', BLOCK.sub('', text))
            anchors = {re.sub(r'[^\w\- ]', '', one.lower()).replace(' ', '-') for one in titles}
            for target in re.findall(r'\]\(([^)\s]+)\)', text):
                path, _, anchor = target.partition('#')
                if not re.match('[a-z]+:', target):
                    folder = os.path.dirname(f'{TOP}/{name}')
                    self.assertTrue(not path or os.path.exists(f'{folder}/{path}'), target)
                    self.assertTrue(not anchor or anchor in anchors, target)
            files = r'`((?:tests/|\.ci/|Makefile|qmail_pwrap\.py|pwrap\.conf\.example)[\w.*/]*)`'
            for path in re.findall(files, text):
                self.assertTrue(glob.glob(f'{TOP}/{path}'), path)
            for target in re.findall(r'(?:`|^    )make ([a-z-]+)', text, re.MULTILINE):
                self.assertIn(target, ' '.join(targets).split())

    def test_readme_is_short(self) -> None:
        """README.md has at most 380 lines, none above 120 columns, and nothing to be filled in."""
        lines = readme().splitlines()
        self.assertLessEqual(len(lines), 380)
        self.assertEqual([line for line in lines if len(line) > 120], [])
        self.assertEqual(re.findall(r'\b(?:TODO|FIXME|XXX)\b|(?m:^[A-Z]{6,}$)', readme()), [])


if __name__ == '__main__':
    unittest.main()
