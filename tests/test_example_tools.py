"""The tools that README.md shows: check-vmail in Python, which is for real use, and check-ldap in shell."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import unittest
from pathlib import Path

from tests.harness import machine
from tests.harness.documents import commands
from tests.harness.dovecot24 import CHECK_LDAP, CHECK_VMAIL, VMAIL, place, vmail_line
from tests.harness.logins import Case, Way, both_ways
from tests.harness.machine import needs
from tests.harness.processes import LONG_ENOUGH, read_file
from tests.harness.syslog import SyslogListener

BOB, BUILDER = 'bob@example.org', 'builder'


def triple_of(login: str | bytes, password: str | bytes) -> bytes:
    fields = [one if isinstance(one, bytes) else one.encode() for one in (login, password)]
    return b'\0'.join((*fields, b'<17.42@mail.example.org>', b''))


class Tool(Case):
    """A test of one of the tools, by itself or behind the wrapper."""

    tool_path: str

    def ask(self, triple: bytes | int | None, *prog: str) -> int | None:
        """Return the code of the tool alone, which must have said nothing, whoever hears descriptors 1 and 2."""
        login = self.login(*(prog or ('/bin/true',)), triple=triple, command=(self.tool_path,))
        self.assertEqual((login.output(1), login.output(2)), (b'', b''))
        return login.code

    def assert_behind_the_wrapper(
        self, way: Way, login: str, password: str, result: str, code: int
    ) -> None:
        """A login through the wrapper, with this tool, has this result and code."""
        ended = self.login(*way.prog, triple=triple_of(login, password))
        self.assertEqual((ended.code, ended.result()['result']), (code, result), ended.log())


class CheckVmail(Tool):
    def setUp(self) -> None:
        super().setUp()
        os.mkdir(self.path('home'))
        self.file = self.path('vmail')
        self.lines = [
            '# a comment\n',
            self.line('anna@example.org', 'other'),
            '\n',
            self.line(BOB, BUILDER),
            '#' + self.line('dora@example.org', BUILDER),
        ]
        self.write('vmail', ''.join(self.lines), 0o600)
        self.tool_path = place(Path(self.folder), CHECK_VMAIL, vmail=self.file)
        self.configure('failure=temporary', self.tool_path)

    def line(self, login: str, password: str | bytes) -> str:
        """Return a line of the file, with the uid of this process."""
        return vmail_line(login, password, os.getuid(), os.getgid(), self.path('home'))

    @both_ways
    def test_right_wrong_unknown_and_broken(self, way: Way) -> None:
        """Behind the wrapper: accepted, rejected, and temporary, with its codes."""
        for login, password, result, code in (
            (BOB, BUILDER, 'accepted', way.code),
            (BOB, 'wrong', 'rejected', 1),
            ('eve@example.org', BUILDER, 'rejected', 1),
        ):
            self.assert_behind_the_wrapper(way, login, password, result, code)
        os.remove(self.file)
        self.assert_behind_the_wrapper(way, BOB, BUILDER, 'temporary', 111)

    def test_the_line_that_is_shown(self) -> None:
        """The commands of README.md make a line that the tool takes, with the password that was typed."""
        shown = commands('apt-get install')
        script = '\n'.join(one for one in shown if one.startswith(('hash=', 'echo ')))
        for old, new in (
            (VMAIL, self.path('made')),
            ('/var/vmail/bob', self.path('home')),
            ('id -u vmail', 'id -u'),
            ('id -g vmail', 'id -g'),
            ('python3', machine.PYTHON),
        ):
            self.assertIn(old, script)
            script = script.replace(old, new)
        password = 'a "new" one: $x \\ ü'
        self.run_program('/bin/sh', '-ec', script, given=f'{password}\n'.encode())
        os.rename(self.path('made'), self.file)
        self.assertEqual(self.ask(triple_of(BOB, password)), 0)
        self.assertEqual(self.ask(triple_of(BOB, f'{password} ')), 1)

    def test_only_the_whole_password_of_the_whole_login(self) -> None:
        """What is like a login or a password of the file, or is written so that it might be one, is refused."""
        fields = self.lines[3].split(':')
        self.assertEqual(self.ask(triple_of(BOB, BUILDER)), 0)
        for login, password in (
            (BOB, BUILDER[:-1]),
            (BOB, f'{BUILDER} '),
            (BOB, ''),
            (BOB, fields[1]),
            (BOB.upper(), BUILDER),
            (f'{BOB} ', BUILDER),
            (BOB[:-1], BUILDER),
            ('', BUILDER),
            ('', ''),
            (f'{BOB}:{fields[1]}', BUILDER),
            (f'{BOB}\n', BUILDER),
            (f'\n{BOB}', BUILDER),
            (f'anna@example.org\n{BOB}', BUILDER),
            ('# a comment', ''),
            ('dora@example.org', BUILDER),
            ('#dora@example.org', BUILDER),
            (b'\xff', b'\xfe'),
        ):
            with self.subTest(login=login, password=password):
                self.assertEqual(self.ask(triple_of(login, password)), 1)

    def test_any_bytes(self) -> None:
        """Login and password may hold every byte but those that the file or the triple end them with."""
        login = bytes(set(range(1, 256)) - set(b'\n:'))
        password = bytes(range(33, 256)) + b' \n:#'
        self.write('vmail', self.line('LOGIN', password).encode().replace(b'LOGIN', login))
        self.assertEqual(self.ask(b'\0'.join((login, password, b'', b''))), 0)
        self.assertEqual(self.ask(b'\0'.join((login, password[::-1], b'', b''))), 1)

    def test_512_bytes_and_no_more(self) -> None:
        """A triple of 512 bytes is taken, a longer one is refused, whatever it begins with."""
        right = triple_of(BOB, BUILDER)
        for size, code in ((512, 0), (513, 1), (5000, 1)):
            self.assertEqual(self.ask(right.ljust(size, b'x')), code)

    def test_what_is_no_triple(self) -> None:
        """Less than a login and a password, and no descriptor 3, is trouble."""
        for triple in (b'', BOB.encode(), None):
            self.assertEqual(self.ask(triple), 111)

    def test_trouble(self) -> None:
        """A file that is missing, empty, cut short or wrong in the user's line, a home that is missing and a prog that
        cannot run are no refusals."""
        good, right = ''.join(self.lines), triple_of(BOB, BUILDER)
        name, secret, uid, gid, *rest = self.lines[3].split(':')
        for text in (
            '',
            good[:-1],
            good[: good.index(secret) + 40],
            self.lines[3].replace(secret, secret[:-1]),
            self.lines[3].replace(secret, secret[:-2]),
            self.lines[3].replace(secret, ''),
            self.lines[3].replace(secret, '!' + secret),
            f'{name}:{secret}\n',
            f'{name}\n',
            ':'.join((name, secret, uid, gid, '', self.path('missing'), '/bin/sh\n')),
        ):
            with self.subTest(text=text):
                self.write('vmail', text)
                self.assertEqual(self.ask(right), 111)
        self.write('vmail', good)
        self.assertEqual(self.ask(right, self.path('missing')), 111)
        os.remove(self.file)
        for triple in (right, triple_of(BOB, 'wrong')):
            self.assertEqual(self.ask(triple), 111)
        os.mkdir(self.file)
        self.assertEqual(self.ask(right), 111)

    @needs('syslog')
    def test_the_log_says_what_the_trouble_is(self) -> None:
        """And nothing of what is no trouble."""
        with SyslogListener() as log:
            command = (self.tool_path,)
            for password in (BUILDER, 'wrong'):
                self.login('/bin/true', triple=triple_of(BOB, password), command=command)
            self.assertEqual(log.lines('check-vmail'), [])
            os.remove(self.file)
            self.login('/bin/true', triple=triple_of(BOB, BUILDER), command=command)
            line = log.wait_for(rf"^FileNotFoundError: .*'{self.file}'")
        self.assertEqual((line.facility, line.severity, line.tag), (2, 3, 'check-vmail'))

    def test_prog_gets_what_the_tool_had(self) -> None:
        """All arguments, the environment with the user's, every descriptor but 3, and SIGPIPE as it is for programs."""
        body = 'printf "%s\\n" "$@" "$USER" "$HOME" "$SHELL" "$MORE" "$PWD" >&5; kill -PIPE $$'
        prog = ('/bin/sh', '-c', body, 'sh', 'one two', '', '$three')
        with open(self.path('said'), 'wb') as said:
            login = self.login(
                *prog,
                triple=triple_of(BOB, BUILDER),
                command=(self.tool_path,),
                env={'MORE': 'kept'},
                descriptors={5: said.fileno()},
            )
        self.assertEqual(login.code, -signal.SIGPIPE)
        home = os.path.realpath(self.path('home'))
        wanted = ['one two', '', '$three', BOB, self.path('home'), '/bin/sh', 'kept', home]
        self.assertEqual(read_file(self.path('said')).decode().split('\n')[:-1], wanted)
        self.assertEqual(self.ask(triple_of(BOB, BUILDER), '/bin/sh', '-c', ': 2>/dev/null <&3'), 2)

    @needs('root')
    def test_root_becomes_the_user(self) -> None:
        """With uid and gid of the line, and no other group; a number that is none is trouble."""
        uid, gid = machine.someone()
        line = vmail_line(BOB, BUILDER, uid, gid, self.path('home'))
        self.write('vmail', line, 0o600)
        login = self.login(
            *('/bin/sh', '-c', 'id -u; id -ru; id -g; id -rg; id -G'),
            triple=triple_of(BOB, BUILDER),
            command=(self.tool_path,),
            before=lambda: os.setgroups([0, 4242]),
        )
        self.assertEqual(login.output(1).decode().split(), [f'{uid}'] * 2 + [f'{gid}'] * 3)
        for wrong in (f':{uid}:{gid}:', f'::{gid}:', f':{uid}::', f':-1:{gid}:', f':{uid}x:{gid}:'):
            self.write('vmail', line.replace(f':{uid}:{gid}:', wrong))
            code = 0 if wrong == f':{uid}:{gid}:' else 111
            self.assertEqual(self.ask(triple_of(BOB, BUILDER)), code, wrong)

    def test_unknown_logins_take_as_long(self) -> None:
        """An unknown login costs what a wrong password costs, so that nobody learns who is known."""
        # In turns, so that whatever else the machine does falls on both.
        times = [
            [self.seconds_for(triple_of(login, 'wrong')) for login in (BOB, 'eve@example.org')]
            for _ in range(7)
        ]
        known, unknown = map(min, zip(*times))
        self.assertGreater(unknown, known * 0.8)
        self.assertLess(unknown, known * 1.25)

    def seconds_for(self, triple: bytes) -> float:
        """Return how much computing a login is for the tool."""
        path = self.write('triple', triple)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = ['/bin/sh', '-c', 'exec "$0" /bin/true 3<"$1"', self.tool_path, path]
        done = subprocess.run(words, check=False, timeout=LONG_ENOUGH)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.assertEqual(done.returncode, 1)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    @needs('daemontools')
    def test_the_recommended_memory_limit_is_enough(self) -> None:
        """Behind the wrapper under the softlimit of README.md's run lines."""
        command = (machine.program('softlimit'), '-m', '60000000', *self.command)
        login = self.login('/bin/true', triple=triple_of(BOB, BUILDER), command=command)
        self.assertEqual(login.code, 0, login.log())


@needs('bash', '/proc')
class CheckLdap(Tool):
    """ldapwhoami is a script that knows alice."""

    LDAPWHOAMI = r"""#!/bin/bash
test -e "$0.down" && exit 255
while getopts xH:D:y: option; do
    case $option in
    D) name=$OPTARG ;;
    y) password=$(cat "$OPTARG"; echo .) ;;
    esac
done
printf '%s\n' "$name" >>"$0.asked"
test "$name" = uid=alice,dc=example,dc=org && test "$password" = "$(cat "$0.password")." && exit 0
exit 49
"""
    PASSWORD = 'won"der$(id)\\ \'ländü'

    def setUp(self) -> None:
        super().setUp()
        self.tool_path = place(Path(self.folder), CHECK_LDAP)
        self.configure('failure=temporary', self.tool_path)
        self.write('bin/ldapwhoami', self.LDAPWHOAMI, 0o755)
        self.write('bin/ldapwhoami.password', self.PASSWORD)

    @both_ways
    def test_right_wrong_and_down(self, way: Way) -> None:
        """Behind the wrapper: accepted, rejected, and temporary, with its codes."""
        for login, password, result, code in (
            ('alice', self.PASSWORD, 'accepted', way.code),
            ('alice', 'wrong', 'rejected', 1),
            ('bob', self.PASSWORD, 'rejected', 1),
        ):
            self.assert_behind_the_wrapper(way, login, password, result, code)
        self.write('bin/ldapwhoami.down', '')
        self.assert_behind_the_wrapper(way, 'alice', self.PASSWORD, 'temporary', 111)

    def test_by_itself(self) -> None:
        """What is no triple is trouble. Names that could be more in LDAP, and empty passwords, are refused unasked."""
        self.assertEqual(self.ask(triple_of('alice', self.PASSWORD), '/bin/sh', '-c', 'exit 7'), 7)
        for triple, code in (
            (triple_of('alice', 'wrong'), 1),
            (b'', 111),
            (b'alice', 111),
            (b'alice\0secret', 111),
        ):
            with self.subTest(triple=triple):
                self.assertEqual(self.ask(triple), code)
        os.remove(self.path('bin/ldapwhoami.asked'))
        for login, password in (
            ('alice', ''),
            ('', 'secret'),
            ('alice,dc=x', 'secret'),
            ('*', 'secret'),
            ('alice\n', 'secret'),
            ('Älice', 'secret'),
            (b'\xff', 'secret'),
        ):
            with self.subTest(login=login, password=password):
                self.assertEqual(self.ask(triple_of(login, password)), 1)
        self.assertFalse(os.path.exists(self.path('bin/ldapwhoami.asked')))


if __name__ == '__main__':
    unittest.main()
