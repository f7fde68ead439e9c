"""A wrapper that would ask itself without end ends at once, however it is called; one that asks
another configuration is a tool like any other."""

from __future__ import annotations

import os
import re
import shutil

from tests.harness import machine
from tests.harness.logins import ACCEPTS, TRIPLE, Case, Login, Way, both_ways, wait_until
from tests.harness.tools import READS

SAME = 'this same file'


class AskingCase(Case):
    def setUp(self) -> None:
        super().setUp()
        self.yes = self.tool('yes', ACCEPTS)

    def calling(self, name: str, conf: str = '', command: str = machine.SCRIPT) -> str:
        """Make a tool that runs the wrapper; conf: with another configuration."""
        variable = f'PWRAP_CONF={conf} ' if conf else ''
        return self.tool(name, f'{variable}exec {command} "$@"')

    def other(self, name: str, *lines: str) -> str:
        """Write another configuration; return its path."""
        return self.write(name, '\n'.join(['log=stderr', *lines, '']))


class Itself(AskingCase):
    def check_refused(self, login: Login, tool: str, depth: int = 1) -> None:
        """The login has ended with 111: the wrapper that found itself wrote one line, those above
        it called that trouble, and no process is left."""
        login.wait()
        self.assertEqual(login.code, 111, login.log())
        lines = login.log()
        self.assertEqual([SAME in line for line in lines], [True, *[False] * (len(lines) - 1)])
        results = [line for line in lines if line.startswith('result=')]
        self.assertEqual(len(results), depth, lines)
        self.assertEqual(len(lines), 1 + 2 * depth, lines)
        self.assertIn(f'{tool}: temporary failure, exit code 111', lines)
        self.assertRegex(results[-1], f'^result=temporary .* tool={re.escape(tool)} code=111 ')
        wait_until(login.settle, 'nothing of the login is left')

    @both_ways
    def test_ends_at_once(self, way: Way) -> None:
        """As the tool itself, by a script, a link, a copy of another name, behind other programs:
        111, and nobody below it is asked."""
        copy = self.path('another-name')
        shutil.copy(machine.SCRIPT, copy)
        link, hard = self.path('link'), self.path('a hard link')
        os.symlink(machine.SCRIPT, link)
        os.link(copy, hard)
        env = machine.program('env')
        for line, tool in (
            (machine.SCRIPT, machine.SCRIPT),
            (link, link),
            (copy, copy),
            (f'name=hard "{hard}"', 'hard'),
            (self.calling('script'), self.path('script')),
            (self.calling('copied', command=copy), self.path('copied')),
            (self.tool('child', f'{machine.SCRIPT} "$@"; exit'), self.path('child')),
            (f'{env} A=b {machine.program("nice")} {copy}', env),
            (f'{env} PWRAP_CONF={self.folder}/bin/../pwrap.conf {copy}', env),
        ):
            with self.subTest(line=line):
                self.configure(line)
                self.check_refused(self.start(*way.prog), tool)

    @both_ways
    def test_whoever_is_asked_besides_decides(self, way: Way) -> None:
        """It is trouble like any other: the next tool is asked."""
        self.configure(self.calling('script'), self.yes)
        login = self.login(*way.prog)
        self.assertEqual((login.code, login.result()['tool']), (way.code, self.yes))

    @both_ways
    def test_two_that_ask_each_other(self, way: Way) -> None:
        """A asks B, and B asks A; so do three in a ring."""
        for ring in (['a', 'b'], ['a', 'b', 'c']):
            with self.subTest(ring=ring):
                for name, following in zip(ring, [*ring[1:], ring[0]]):
                    tool = self.calling(f'asks-{following}', self.path(following))
                    self.other(name, tool)
                login = self.start(*way.prog, env={'PWRAP_CONF': self.path('a')})
                self.check_refused(login, self.path('asks-b'), depth=len(ring))

    def test_it_does_not_read_the_triple(self) -> None:
        """Who finds itself writes its line before it looks at descriptor 3: one line, no result."""
        self.configure(self.yes)
        status = os.stat(self.conf)
        own = f'{status.st_ino}.{status.st_dev}'
        for mark in (f',{own},', f',1.1,,{own},', f',{own},,1.1,', f',2.2,,{own},,1.1,'):
            with self.subTest(mark=mark):
                reader, writer = os.pipe()
                with open(reader, 'rb') as left, open(writer, 'wb'):  # no end: nothing to wait for
                    os.write(writer, TRIPLE)
                    login = self.login('true', triple=reader, env={'PWRAP_ASKING': mark})
                    self.assertEqual(os.read(left.fileno(), 600), TRIPLE)
                self.assertEqual(login.code, 111)
                [line] = login.log()
                self.assertIn(SAME, line)
        for mark in ('', ',1.1,', f',{own[:-1]},', f',1{own},', f',{own}1,', ',', 'x' * 5000):
            with self.subTest(mark=mark):
                login = self.start('true', env={'PWRAP_ASKING': mark})
                self.assert_ends(login, 0, 'accepted', self.yes)

    def test_a_tool_that_runs_only_the_first_word_of_prog(self) -> None:
        """Behind a session that is the wrapper, without any words: no second login, and no wrong
        password, but 111 and one line that says what is wrong."""
        first = self.tool('first', f'{READS}; exec "$1"')
        self.configure(first)
        self.check_refused(self.start('/bin/sh', '-c', 'exit 7'), first)
        for prog in ('true', self.tool('checkpassword-reply', ':')):
            with self.subTest(prog=prog):
                self.assert_ends(self.start(prog), 0, 'accepted', first)


class Another(AskingCase):
    @both_ways
    def test_another_configuration_is_a_tool(self, way: Way) -> None:
        """Asked by the same file or by a copy, two deep, behind a script or env: each has its log
        line, and prog its code."""
        copy = machine.copy_with_python(machine.SCRIPT, self.path('copy.py'))
        inmost = self.other('inmost', self.yes)
        inner = self.other('inner', f'name=inmost {self.calling("asks", inmost, copy)}')
        for wrapper in (machine.SCRIPT, copy):
            with self.subTest(wrapper=wrapper):
                self.configure(f'name=inner /usr/bin/env PWRAP_CONF={inner} {wrapper}')
                login = self.login(*way.prog)
                self.assertEqual(login.code, way.code, login.log())
                named = [re.search(r'result=accepted .*tool=(\S+)', line) for line in login.log()]
                names = [match and match[1] for match in named]
                self.assertCountEqual(names, [self.yes, 'inmost', 'inner'])

    @both_ways
    def test_its_refusal_is_that_of_a_tool(self, way: Way) -> None:
        """A wrong password is refused by all of them, and the next tool is asked."""
        inner = self.other('inner', self.tool('no', 'cat <&3 >/dev/null; exit 1'))
        self.configure(f'name=inner {self.calling("asks", inner)}', self.yes)
        login = self.login(*way.prog)
        results = [line.split()[0] for line in login.log()]
        self.assertEqual((login.code, results), (way.code, ['result=rejected', 'result=accepted']))

    def test_twice_in_one_chain(self) -> None:
        """One that has answered is not being asked any more."""
        inner = self.other('inner', 'users=bob', self.yes)
        self.configure(*[f'name=inner {self.calling("asks", inner)}'] * 2, self.yes)
        login = self.login('true')
        results = [line.split()[0] for line in login.log()]
        self.assertEqual(results, ['result=rejected', 'result=rejected', 'result=accepted'])

    def test_the_mark_is_gone_in_a_session(self) -> None:
        """So a session may ask for another login, and behind an inner wrapper, too."""
        session = self.write(
            'session',
            '#!/bin/sh\nprintf "%s." "${PWRAP_ASKING-unset}"\n'
            f'printf "bob\\\\0secret\\\\0\\\\0" | {machine.SCRIPT} true 3<&0\n',
            0o755,
        )
        inner = self.other('inner', self.yes)
        for line in (self.yes, f'name=inner {self.calling("asks", inner)}'):
            with self.subTest(line=line):
                self.configure(line)
                login = self.login(session)
                self.assertEqual((login.code, login.problems()), (0, []))
                self.assertEqual(login.output(1), b'unset.')
                self.assertRegex(login.log()[-1], '^result=accepted .* user="bob"$')

    def test_what_a_tool_finds(self) -> None:
        """The identities of all that are being asked."""
        marks = self.tool('marks', 'printf %s "$PWRAP_ASKING"; exit 1')
        inner = self.other('inner', marks)
        self.configure(self.calling('asks', inner))
        places = [os.stat(path) for path in (self.conf, inner)]
        wanted = {f'{place.st_ino}.{place.st_dev}' for place in places}
        self.assertEqual(set(self.login('true').output(1).decode().split(',')), {'', *wanted})
