"""Whoever has not read the password has not checked it: such a tool lets nobody in."""

from __future__ import annotations

import os
import re
import unittest

from tests.harness import machine
from tests.harness.logins import QUICK, TRIPLE, Case, Way, both_ways, read_file
from tests.harness.tools import ACCEPTS, BECOMES, records

UNREAD = 'accepted without reading the password'
LOGIN_AND_PASSWORD = TRIPLE.index(b'<')  # bytes


class Unread(Case):
    def setUp(self) -> None:
        super().setUp()
        self.session = self.tool('session', 'exit 7')

    def forgetful(self) -> list[str]:
        """Return lines of programs and scripts that run all behind them, with the tool forgotten."""
        commands = ('/bin/true', 'timeout 5', 'nice -n 0', 'env', 'env A=1', 'setsid -w')
        found = [
            (machine.program(name), words)
            for name, _, words in (one.partition(' ') for one in commands)
        ]
        return [
            *(f'{path} {words}'.strip() for path, words in found if path),
            self.tool('script', BECOMES),
            self.tool('closes', f'exec 3<&-; {BECOMES}'),
            self.tool('waits', '"$@"; exit'),
        ]

    @both_ways
    def test_what_only_runs_prog_lets_nobody_in(self, way: Way) -> None:
        """Each of them is trouble, and the next tool has the whole triple."""
        lines = self.forgetful()
        prog = way.prog if way is QUICK else (self.session,)
        self.configure(*lines)
        alone = self.login(*prog)
        self.configure(*lines, self.tool('keeps', records('kept')))
        login = self.login(*prog)
        for one, code, result in ((alone, 111, 'temporary'), (login, way.code, 'accepted')):
            self.assertEqual((one.code, one.result()['result']), (code, result), one.log())
            self.assertEqual(len(one.problems()), len(lines))
            for line, problem in zip(lines, one.problems()):
                # Behind a session, /bin/true does not get as far as to accept.
                why = UNREAD if way is QUICK or line != '/bin/true' else f'ended with 0|{UNREAD}'
                self.assertRegex(problem, f'^{re.escape(line.split()[0])}: (?:{why})')
        self.assertEqual(read_file(self.path('kept')), TRIPLE)
        self.assertEqual(self.ran('session'), 0 if way is QUICK else 1)

    def test_it_is_ended_before_the_next_is_asked(self) -> None:
        """Whether it has become the report step, waits for that, or ignores TERM: prog does not begin, and the tool
        is gone when the next one runs."""
        looks = 'for pid in $(cat $dir/tool.ran); do kill -0 $pid && echo $pid >>$dir/left; done'
        last = self.tool('next', f'{looks} 2>$dir/said\n{ACCEPTS}')
        for body in (BECOMES, '"$@"; sleep 1000', 'trap "" TERM; "$@"; sleep 1000'):
            tool = self.tool('tool', body)
            self.configure(tool, last)
            with self.subTest(body):
                before = self.ran('session')
                login = self.login(self.session)
                self.assert_ends(login, 7, 'accepted', last, f'^{re.escape(tool)}: {UNREAD}$')
                self.assertEqual(self.ran('session') - before, 1)
        self.assertFalse(os.path.exists(self.path('left')))
        self.assertEqual((self.ran('tool'), self.ran('next')), (3, 3))

    @both_ways
    def test_part_of_it_is_enough(self, way: Way) -> None:
        """A byte, or login and password byte by byte, the timestamp left to prog, as tools in bash do it."""
        for count in (1, LOGIN_AND_PASSWORD, len(TRIPLE)):
            tool = self.tool(
                f'reads{count}', f'dd bs=1 count={count} <&3 >$dir/part 2>$dir/said; exec "$@"'
            )
            self.configure(tool)
            with self.subTest(count=count):
                self.assert_ends(self.login(*way.prog), way.code, 'accepted', tool)
                self.assertEqual(read_file(self.path('part')), TRIPLE[:count])


if __name__ == '__main__':
    unittest.main()
