"""The log: one line for each login, at most one for each problem, and nobody can make it lie."""

from __future__ import annotations

import os
import posix
import re
import shutil
import socket
import syslog
import unittest
from typing import Any
from unittest import mock

from tests.harness import machine
from tests.harness.logins import (
    ACCEPTS,
    REJECTS,
    RESULT,
    TRIPLE,
    WAYS,
    Case,
    Login,
    Way,
    both_ways,
    read_file,
)
from tests.harness.machine import needs
from tests.harness.syslog import SyslogListener
from tests.harness.tools import refuses

SCRIPT = machine.import_script()
FIELDS = ['result', 'ip', 'tool', 'code', 'ms', 'user']
PRINTABLE = re.compile(r'[ -~]{1,1000}')
SHOWN = re.compile(r'(?:\\x[0-9a-f]{2}|[!#-<>-\[\]-~])*')  # what escape() makes, uncut

HOSTILE = [  # as login, and as address where the environment can hold it
    b'',
    b' ',
    b'\\',
    b'"',
    b'"" ',
    b'\t\x7f\x80',
    b'a" tool=/bin/x user="b',
    b'bob result=accepted',
    b'x ip=203.0.113.9',
    b'a\nqmail-pwrap[1]: result=accepted',
    b'\r\n\r\n',
    b'\x1b[2J\x1b]0;x\x07',
    b'\xe4\xf6\xff',
    'ä@exämple.org'.encode(),
    '\u202euser'.encode(),
    '\u202e\u2028\u0085'.encode(),
    b'x' * 490,
    b'a' * 595 + b'\n',
    b'"' * 490,
    b'=' * 490,
    b'\n' * 490,
    b'\xff' * 490,
    bytes(range(1, 256)),
]

VARIABLES = (b'TCPREMOTEIP', b'TCP6REMOTEIP', b'SSLREMOTEIP', b'REMOTE_HOST')


def addresses_from(first: int) -> dict[bytes, bytes]:
    """Return an address for each of the variables from this one on; those before are empty."""
    places = enumerate(VARIABLES)
    return {name: b'192.0.2.%d' % place if place >= first else b'' for place, name in places}


ADDRESSES: list[tuple[dict[bytes, bytes], str]] = [  # environment, and what stands behind ip=
    ({}, '-'),
    ({b'TCPREMOTEIP': b''}, '-'),
    ({b'TCPREMOTEIP': b'', b'TCP6REMOTEIP': b''}, '-'),
    ({b'TCPREMOTEIP': b'192.0.2.7'}, '192.0.2.7'),
    ({b'TCP6REMOTEIP': b'2001:db8::7'}, '2001:db8::7'),
    ({b'SSLREMOTEIP': b'192.0.2.8'}, '192.0.2.8'),
    ({b'REMOTE_HOST': b'192.0.2.9'}, '192.0.2.9'),  # xinetd's
    ({b'REMOTE_ADDR': b'192.0.2.7'}, '-'),
    *((addresses_from(first), f'192.0.2.{first}') for first in range(len(VARIABLES))),
    ({b'TCPREMOTEIP': b'::ffff:192.0.2.7'}, '::ffff:192.0.2.7'),
    ({b'TCPREMOTEIP': b'fe80::1%e0'}, 'fe80::1%e0'),
    ({b'TCPREMOTEIP': b'1 user="x" tool=y'}, '1\\x20user\\x3d\\x22x\\x22\\x20tool\\x3dy'),
    ({b'TCPREMOTEIP': b'1\n2'}, '1\\x0a2'),
    ({b'TCP6REMOTEIP': b'1\n2'}, '1\\x0a2'),
    ({b'TCPREMOTEIP': b' '}, '\\x20'),
    ({b'TCPREMOTEIP': b'\xff'}, '\\xff'),
    ({b'TCPREMOTEIP': b'x' * 60}, 'x' * 60),
    ({b'TCPREMOTEIP': b'x' * 61}, 'x' * 60 + '\\...'),
    ({b'TCPREMOTEIP': b'x' * 5000}, 'x' * 60 + '\\...'),
    ({b'TCPREMOTEIP': b'"' * 5000}, '\\x22' * 15 + '\\...'),
]

TIMEOUT = 'timeout= takes seconds, 0 to 86400, without blanks'
LEVELS = {
    'accepted': syslog.LOG_INFO,
    'found': syslog.LOG_INFO,
    'unknown': syslog.LOG_INFO,
    'rejected': syslog.LOG_NOTICE,
    'temporary': syslog.LOG_WARNING,
    'disabled': syslog.LOG_WARNING,
}


VERDICTS_OF_LOOKUPS = {'found': 'accepted', 'unknown': 'rejected'}


def unescape(shown: str) -> tuple[bytes, bool]:
    """Return the bytes of which this is shown, and whether it was cut."""
    is_cut = shown.endswith('\\...')
    kept = shown[:-4] if is_cut else shown
    if not SHOWN.fullmatch(kept):
        raise AssertionError(f'not well formed: {shown}')
    return re.sub(rb'\\x(..)', lambda match: bytes([int(match[1], 16)]), kept.encode()), is_cut


class Recorder:
    """Takes the place of a Log."""

    shows_answers = False

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def write(self, line: str, priority: int = syslog.LOG_ERR) -> None:
        self.lines.append((priority, line))


def log_of(
    result: str,
    code: int = 1,
    problem: str = '',
    tool: str = '-',
    name: bytes = b'alice',
    environment: dict[bytes, bytes] | None = None,
    seconds: float = 0,
) -> list[tuple[int, str]]:
    """Return priority and text of the lines of a login that comes to this result."""
    recorder = Recorder()
    with mock.patch.dict(posix.environ, environment or {}):
        for variable in set(VARIABLES) - set(environment or {}):
            posix.environ.pop(variable, None)
        login = SCRIPT.Login('/program', ['true'])
        login.name = name
        login.is_lookup = result in VERDICTS_OF_LOOKUPS
        login.started -= seconds
        verdict = VERDICTS_OF_LOOKUPS.get(result, result)
        with mock.patch.object(SCRIPT, 'LOG', recorder):
            login.end(SCRIPT.Outcome(problem, verdict, code, tool))
    return recorder.lines


class Escaping(unittest.TestCase):
    """escape(): any bytes become one printable word that looks like no field."""

    def test_what_is_shown(self) -> None:
        """Letters, digits and harmless punctuation stay, everything else becomes \\xHH."""
        plain = b"azAZ09._-@+/:,;!?#$%&'()*<>[]^`{|}~"
        table = [
            (b'', ''),
            (plain, plain.decode()),
            (b' ', '\\x20'),
            (b'"', '\\x22'),
            (b'=', '\\x3d'),
            (b'\\', '\\x5c'),
            (b'\\x41', '\\x5cx41'),
            (b'\0\t\n\r\x1b\x1f', '\\x00\\x09\\x0a\\x0d\\x1b\\x1f'),
            (b'\x7f\x80\xff', '\\x7f\\x80\\xff'),
            ('ä€'.encode(), '\\xc3\\xa4\\xe2\\x82\\xac'),
        ]
        for data, shown in table:
            with self.subTest(data=data):
                self.assertEqual(SCRIPT.escape(data, 100), shown)

    def test_every_byte_can_be_read_back(self) -> None:
        """Each of the 256 bytes has a form that can be read back, without blank, quote or =."""
        for byte in range(256):
            with self.subTest(byte=byte):
                shown = SCRIPT.escape(bytes([byte]), 10)
                self.assertEqual(unescape(shown), (bytes([byte]), False))

    def test_what_is_too_long(self) -> None:
        """Beyond the limit it ends in \\..., not within an escape; at most four characters more."""
        table = [
            (b'abcdef', 6, 'abcdef'),
            (b'abcdefg', 6, 'abcdef\\...'),
            (b'ab"', 6, 'ab\\x22'),
            (b'abc"', 6, 'abc\\...'),
            (b'abcd"', 6, 'abcd\\...'),
            (b'abcde"', 6, 'abcde\\...'),
            (b'abcdef"', 6, 'abcdef\\...'),
            (b'ab"c', 6, 'ab\\x22\\...'),
            (b'""', 4, '\\x22\\...'),
            (b'""', 3, '\\...'),
            (b'\\' * 9, 12, '\\x5c' * 3 + '\\...'),
        ]
        for data, limit, shown in table:
            with self.subTest(data=data, limit=limit):
                self.assertEqual(SCRIPT.escape(data, limit), shown)
        for data in HOSTILE:
            for limit in range(4, 40):
                shown = SCRIPT.escape(data, limit)
                self.assertLessEqual(len(shown), limit + 4)
                kept, is_cut = unescape(shown)
                self.assertTrue(data.startswith(kept))
                self.assertEqual(is_cut, kept != data)


class ResultLine(unittest.TestCase):
    """The one result line: its fields, its level, and that nobody else can write into it."""

    def test_fields_stand_in_one_order(self) -> None:
        """result, ip, tool, code, ms and user in this order; code only where nobody is let in."""
        for result, code, shown in (
            ('accepted', 0, ''),
            ('found', 0, ''),
            ('disabled', 0, ''),
            ('rejected', 1, ' code=1'),
            ('rejected', 100, ' code=100'),
            ('temporary', 111, ' code=111'),
            ('unknown', 3, ' code=3'),
        ):
            with self.subTest(result):
                [(_, line)] = log_of(result, code, tool='x')
                wanted = f'result={result} ip=- tool=x{shown} ms=0 user="alice"'
                self.assertEqual(re.sub(r' ms=\d+', ' ms=0', line), wanted)
                self.assertRegex(line, RESULT)

    def test_each_result_has_its_level(self) -> None:
        """Each result has its syslog level, and a problem, in a line before it, is an error."""
        for result, level in LEVELS.items():
            for problem in ('', 'what is wrong'):
                with self.subTest(result, problem=problem):
                    lines = log_of(result, problem=problem)
                    self.assertEqual(lines[:-1], [(syslog.LOG_ERR, problem)] if problem else [])
                    self.assertEqual(lines[-1][0], level)
                    self.assertTrue(lines[-1][1].startswith(f'result={result} '))

    def test_the_address_is_that_of_the_environment(self) -> None:
        """ip is the first that is not empty, in the order of VARIABLES, else "-"; none adds a
        field."""
        for environment, shown in ADDRESSES:
            with self.subTest(environment):
                [(_, line)] = log_of('rejected', environment=environment)
                match = RESULT.match(line)
                self.assertEqual(match and match['ip'], shown)

    def test_no_word_adds_a_line_or_a_field(self) -> None:
        """Whatever bytes login and address hold, one printable line of less than 1,000 characters
        comes out, without a field that the wrapper did not write; the login can be read back."""
        for word in HOSTILE:
            for verdict in ('accepted', 'rejected'):
                with self.subTest(verdict, word=word):
                    address = {b'TCPREMOTEIP': word}
                    tool = '/' + 't' * 199 + '\\...'
                    [(_, line)] = log_of(verdict, tool=tool, name=word, environment=address)
                    self.assertRegex(line, PRINTABLE)
                    self.assertEqual(line.count(' '), 5 if verdict == 'rejected' else 4)
                    names = [name for name in FIELDS if verdict == 'rejected' or name != 'code']
                    self.assertEqual(re.findall(r'(\w+)=', line), names)
                    match = RESULT.match(line)
                    assert match
                    shown, is_cut = unescape(match['user'])
                    self.assertTrue(word.startswith(shown) if is_cut else shown == word)
                    self.assertTrue(len(shown) > 100 or shown == word)

    def test_milliseconds_count_from_the_start(self) -> None:
        """ms counts from the start of the login."""
        [(_, line)] = log_of('temporary', seconds=60.004)
        match = RESULT.match(line)
        assert match
        self.assertLess(abs(int(match['ms']) - 60004), 5000)


class Descriptor2(Case):
    """log=stderr, for multilog."""

    def setUp(self) -> None:
        super().setUp()
        self.yes = self.tool('yes', ACCEPTS)
        self.no = self.tool('no', REJECTS)

    def text(self, login: Login) -> str:
        return read_file(f'{login.folder}/2').decode('latin-1')

    @both_ways
    def test_one_line_a_login(self, way: Way) -> None:
        """A login is one line that begins with program and process number, however many refuse."""
        environment = {'TCPREMOTEIP': '192.0.2.7'}
        for tools, code, end in (
            ([self.no, self.yes], way.code, f'result=accepted ip=192.0.2.7 tool={self.yes} ms=0'),
            ([self.no], 1, f'result=rejected ip=192.0.2.7 tool={self.no} code=1 ms=0'),
        ):
            self.configure(*tools)
            login = self.login(*way.prog, env=environment)
            line = re.sub(r' ms=\d+', ' ms=0', self.text(login))
            wanted = f'qmail-pwrap[{login.pid}]: {end} user="alice@example.org"\n'
            self.assertEqual((login.code, line), (code, wanted))

    def test_one_write_a_line(self) -> None:
        """A line is written at once, so that the lines of logins at the same time do not mix."""
        self.configure(self.path('missing'), self.no)
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with reader, writer:
            self.login('true', descriptors={2: writer.fileno()})
            writer.close()
            writes = []
            while packet := reader.recv(4096):
                writes.append(packet)
        self.assertEqual(len(writes), 2, writes)
        for packet in writes:
            self.assertRegex(packet, rb'\Aqmail-pwrap\[\d+\]: [ -~]+\n\Z')

    def test_login_of_a_bad_triple(self) -> None:
        """The login is logged also where the triple is refused, as far as it is one."""
        self.configure(self.no)
        for triple, result, user in (
            (TRIPLE + b'x' * 600, 'rejected', 'alice@example.org'),
            (b'alice\0', 'temporary', 'alice'),
            (b'alice\0secret', 'temporary', 'alice'),
            (b'alice', 'temporary', ''),
            (b'', 'temporary', ''),
            (b'\0secret\0', 'rejected', ''),
        ):
            with self.subTest(triple=triple[:30]):
                fields = self.login('true', triple=triple).result()
                self.assertEqual((fields['result'], fields['user']), (result, user))

    def test_name_of_a_tool(self) -> None:
        """A tool is called by its name=, else by its path, escaped and cut."""
        path = os.path.join(self.folder, 'a "b' + 'c' * 200, 'd' * 200)
        os.makedirs(os.path.dirname(path))
        shutil.copy(self.no, path)
        self.configure(f"'{path}'")
        login = self.login('true', triple=b'"' * 490 + b'\0p\0', env={'TCPREMOTEIP': '"' * 100})
        self.assertEqual(login.code, 1)
        self.assertLess(len(self.text(login)), 1024)
        self.assertRegex(login.result()['tool'], r'/a\\x20\\x22bc+\\\.\.\.$')
        self.configure(f"name=a.B-3_ '{path}'")
        self.assertEqual(self.login('true').result()['tool'], 'a.B-3_')

    def test_counts_in_a_file_with_a_mistake(self) -> None:
        """log=stderr counts where its own line is right, also if another line is wrong."""
        for lines in (['nonsense', 'log=stderr'], ['log=stderr', 'timeout=x'], ['log=stderr']):
            with self.subTest(lines=lines):
                self.write('pwrap.conf', '\n'.join([*lines, '']))
                login = self.login('true')
                self.assertEqual((login.code, login.result()['result']), (111, 'temporary'))
                self.assertRegex(login.problems()[0], f'^{re.escape(self.conf)}:')

    def test_counts_only_as_its_own_line_says(self) -> None:
        """A file whose line about the log is wrong, or is not there, never reaches descriptor 2."""
        for line in (
            'log=STDERR',
            'log=',
            'log=syslog',
            'log=stderr log=stderr',
            f'log=stderr {self.yes}',
            'log=stderr nonsense',
            '#log=stderr',
            f'{self.yes} log=stderr',
        ):
            with self.subTest(line=line):
                self.write('pwrap.conf', f'{line}\nnonsense\n')
                self.assertEqual((self.login('true').code, self.text(self.last)), (111, ''))

    def login(self, *prog: str, **options: Any) -> Login:
        self.last = super().login(*prog, **options)
        return self.last


class Problems(Case):
    """What is logged besides the result, and what it is worth."""

    def setUp(self) -> None:
        super().setUp()
        yes, no = self.tool('yes', ACCEPTS), self.tool('no', REJECTS)
        crash = self.tool('crash', 'ulimit -c 0; kill -SEGV $$')
        down, slow = self.tool('down', refuses(111)), self.tool('slow', 'exec sleep 1000')
        none, unrun = self.path('none'), self.write('unrun', '')
        self.table: list[tuple[list[str], str | None]] = [  # lines, and the one problem line
            ([none, yes], f'{none}: cannot run: No such file or directory'),
            ([unrun, no], f'{unrun}: cannot run: Permission denied'),
            ([f'name=my-tool {crash}', yes], 'my-tool: killed by SIGSEGV'),
            ([down], f'{down}: temporary failure, exit code 111'),
            ([f'timeout=1 {slow}', yes], f'{slow}: timed out after 1 s and was killed'),
            (['timeout=', yes], f'CONF:2: {TIMEOUT}'),
            (['users=*'], 'CONF: no tool is enabled'),
            (['users=bob ' + yes, no, yes], None),
            ([no], None),
        ]

    def test_at_most_one_line_each(self) -> None:
        """A problem is one line before the result: whose it is, and what; a refusal is none."""
        started = []
        for number, (lines, problem) in enumerate(self.table):
            conf = self.write(f'conf{number}', '\n'.join(['log=stderr', *lines, '']))
            wanted = [] if problem is None else [problem.replace('CONF', conf)]
            for way in WAYS:
                started.append((wanted, self.start(*way.prog, env={'PWRAP_CONF': conf})))
        for wanted, login in started:
            with self.subTest(problem=wanted):
                login.wait()
                self.assertEqual(login.problems(), wanted)
                self.assertIn('result=', login.log()[-1])
                self.assertEqual((login.output(1), login.output(2)), (b'', b''))

    def test_one_line_for_each_of_several(self) -> None:
        """Each tool with a problem has a line, in order."""
        none, crash = self.path('none'), self.path('crash')
        self.configure(none, crash, 'name=second ' + none, self.path('no'))
        said = [line.partition(': ')[0] for line in self.login('true').problems()]
        self.assertEqual(said, [none, crash, 'second'])

    def test_prog_that_cannot_be_run(self) -> None:
        """A prog that cannot be run is one line, with its name escaped and cut."""
        self.configure(self.path('yes'))
        long = '/x' * 150
        for prog, shown, why in (
            ('/none/a "b=\n', '/none/a\\x20\\x22b\\x3d\\x0a', 'No such file or directory'),
            (self.folder, self.folder, 'Permission denied'),
            (self.path('yes') + '/prog', self.path('yes') + '/prog', 'Not a directory'),
            (long, long[:200] + '\\...', 'No such file or directory'),
        ):
            with self.subTest(prog=prog):
                login = self.login(prog)
                self.assertEqual(login.problems(), [f'{shown}: prog cannot be run: {why}'])
                self.assertEqual((login.code, login.result()['result']), (111, 'accepted'))


@needs('syslog')
class Syslog(Case):
    """log=syslog, the default."""

    @both_ways
    def test_facility_levels_and_tag(self, way: Way) -> None:
        """The lines go to the facility mail, with program and process number in front, results at
        their levels and problems at err; nothing goes to descriptors 1 and 2."""
        yes, no = self.tool('yes', ACCEPTS), self.tool('no', REJECTS)
        none = self.path('none')
        knows = self.tool('knows', 'cat <&3 >/dev/null; exit 3')
        err, warning = syslog.LOG_ERR, syslog.LOG_WARNING
        cases: list[tuple[list[str], dict[str, str], list[tuple[int, str]]]] = [
            ([none, yes], {}, [(err, none), (syslog.LOG_INFO, 'result=accepted')]),
            ([no], {}, [(syslog.LOG_NOTICE, 'result=rejected')]),
            ([none], {}, [(err, none), (warning, 'result=temporary')]),
            (['auth=0', yes], {}, [(warning, 'result=disabled')]),
            (['nonsense'], {}, [(err, self.conf), (warning, 'result=temporary')]),
            ([knows], {'AUTHORIZED': '1'}, [(syslog.LOG_INFO, 'result=unknown')]),
        ]
        with SyslogListener() as listener:
            for lines, environment, wanted in cases:
                with self.subTest(lines=lines):
                    listener.clear()
                    self.write('pwrap.conf', '\n'.join([*lines, '']))
                    triple = b'alice\0\0\0' if environment else TRIPLE
                    login = self.login(*way.prog, env=environment, triple=triple)
                    listener.wait_for('^result=')
                    got = listener.lines('qmail-pwrap')
                    self.assertEqual([line.severity for line in got], [one for one, _ in wanted])
                    for line, (_, start) in zip(got, wanted):
                        self.assertTrue(line.text.startswith(start), line)
                        self.assertEqual(line.tag, f'qmail-pwrap[{login.pid}]')
                        self.assertEqual(line.facility, syslog.LOG_MAIL >> 3)
                    self.assertRegex(got[-1].text, RESULT)
                    for number in (1, 2):
                        self.assertEqual(read_file(f'{login.folder}/{number}'), b'')

    def test_the_report_step_logs_to_the_same_place(self) -> None:
        """The report step logs to the same place."""
        self.write('pwrap.conf', self.tool('yes', ACCEPTS) + '\n')
        with SyslogListener() as listener:
            self.login('/nonexistent/prog')
            line = listener.wait_for('prog cannot be run')
        self.assertEqual((line.severity, line.facility), (syslog.LOG_ERR, syslog.LOG_MAIL >> 3))

    def test_a_percent_sign_is_one(self) -> None:
        """A % in a line is a %."""
        self.write('pwrap.conf', self.tool('no', REJECTS) + '\n')
        with SyslogListener() as listener:
            self.login('true', triple=b'%s%n%m%d\0p\0')
            self.assertTrue(listener.wait_for('^result=').text.endswith(' user="%s%n%m%d"'))


if __name__ == '__main__':
    unittest.main()
