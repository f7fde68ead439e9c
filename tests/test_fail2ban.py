"""The filter and the jail of README.md ban those whose logins were rejected, and nobody else."""

from __future__ import annotations

import glob
import os
import re
import shutil
import time
import unittest
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.harness.documents import block
from tests.harness.logins import ACCEPTS, REJECTS, TRIPLE, Case
from tests.harness.machine import needs
from tests.harness.processes import read_file
from tests.harness.tools import refuses

FORGED = '203.0.113.9'  # stands in what clients say, and must never be banned
REJECTED = f'result=rejected ip={FORGED} tool=- code=1 ms=1 user='
FORGERIES = (
    *(f'x ip={FORGED}', f"' ip={FORGED}", f'\\" ip={FORGED}', f'x\t ip={FORGED}', f'<{FORGED}>'),
    *(FORGED, f'[{FORGED}]', f'{FORGED} ' * 30, f'result=rejected ip={FORGED}'),
    *(f'" {REJECTED}"', f'\nqmail-pwrap[1]: {REJECTED}"x"', f'qmail-pwrap[1]: {REJECTED}""'),
    f'\r\nNov 22 14:00:00 host qmail-pwrap[1]: {REJECTED}""\n',
    f'"\nqmail-pwrap[1]: result=rejected ip={FORGED} tool=/bin/no code=1 ms=1 user="',
    *(f'\u2028qmail-pwrap[1]: result=rejected ip={FORGED}', f'\x85result=rejected ip={FORGED}'),
    *('1999-01-01T00:00:00', '1999-01-01', 'Jan-01-1999', '@400000003685f4a000000000'),
    *('<HOST>', '<F-ID>x</F-ID>', '%(x)s'),
)
FORGED_ADDRESSES = (
    *(f'x ip={FORGED}', f'- tool=x user="" ip={FORGED}', f'{FORGED}\n', f'-\n{FORGED}'),
    *(f'"{FORGED}"', f' {FORGED}', 'x' * 500),
)


class LoggedLine(NamedTuple):
    text: str
    banned: str | None  # the address that is to be banned for it


@needs('fail2ban')
class Fail2ban(Case):
    def setUp(self) -> None:
        super().setUp()
        self.filter = self.write('qmail-pwrap.conf', block(first='# /etc/fail2ban/filter.d'))

    def find_banned(self, lines: list[str]) -> list[tuple[str, float]]:
        """Return address and time of each line in which the filter sees a failed login."""
        log = self.write('log', ''.join(f'{line}\n' for line in lines))
        found = self.run_program('fail2ban-regex', '-o', '<ip> <time>', log, self.filter)
        self.assertEqual(found.code, 0, found.output)
        pairs = [line.split() for line in found.output.splitlines()]
        return [(address, float(when)) for address, when in pairs]

    def forms_of(self, lines: list[str]) -> Iterator[list[str]]:
        """Yield the lines as each log has them, all of this very time."""
        now = time.time()
        local = time.localtime(now)
        zone = time.strftime('%z', local)
        date = time.strftime('%Y-%m-%dT%H:%M:%S.123456', local) + f'{zone[:3]}:{zone[3:]}'
        starts = {
            'syslog': time.strftime('%b %e %H:%M:%S host ', local),
            'rsyslog of Debian 13': f'{date} mx-1.example.org ',
            'busybox syslogd': time.strftime('%b %e %H:%M:%S host mail.notice ', local),
            'journal': 'host ',
            'stderr': '',
            'multilog t': f'@{(1 << 62) + 10 + int(now):016x}{5:08x} ',
            'tai64nlocal': time.strftime('%Y-%m-%d %H:%M:%S.123456789 ', local),
        }
        for name, start in starts.items():
            with self.subTest(log=name):
                yield [start + line for line in lines]

    def logged_by_logins(self) -> Iterator[LoggedLine]:
        """Yield the lines of real logins that end in every way."""
        bodies = {'yes': ACCEPTS, 'no': REJECTS, 'down': 'exit 111', 'crash': 'kill -SEGV $$'}
        bodies['found'] = refuses(2)
        for name, body in bodies.items():
            self.tool(name, f'ulimit -c 0; {body}')
        address = {'TCPREMOTEIP': '192.0.2.7'}
        chains: tuple[tuple[str | None, Mapping[str, str], tuple[str, ...]], ...] = (
            ('192.0.2.7', address, ('no',)),
            ('2001:db8::7', {'TCP6REMOTEIP': '2001:db8::7'}, ('no',)),
            ('192.0.2.7', address, ('failure=temporary', 'no', 'no')),
            (None, {}, ('no',)),
            *((None, address, (one,)) for one in ('down', 'crash', 'missing', 'yes')),
            *((None, address, (one, 'no')) for one in ('down', 'missing', 'auth=0')),
            (None, address, ('no', 'down')),
            (None, address, ('no', 'yes')),
            (None, address, ('failure=temporary', 'no', 'crash')),
            (None, {**address, 'AUTHORIZED': '1'}, ('no',)),
            (None, {**address, 'AUTHORIZED': '1'}, ('found',)),
        )
        for banned, environment, tools in chains:
            self.configure(*(one if '=' in one else self.path(one) for one in tools))
            triple = b'alice\0\0\0' if 'AUTHORIZED' in environment else TRIPLE
            login = self.login('true', env=environment, triple=triple)
            for line in read_file(f'{login.folder}/2').decode().splitlines():
                yield LoggedLine(line, banned if 'result=' in line else None)

    def logged_of(self, login: str, **environment: str) -> str:
        """Return the line of a login that is refused."""
        triple = login.encode() + b'\0wrong\0\0'
        done = self.login('true', triple=triple, env=environment)
        [line] = read_file(f'{done.folder}/2').decode().splitlines()
        self.assertIn('result=rejected ', line)
        return line

    def logged_lines(self) -> Iterator[LoggedLine]:
        yield from self.logged_by_logins()
        self.configure(self.path('no'))
        for login in FORGERIES:
            yield LoggedLine(self.logged_of(login, TCPREMOTEIP='192.0.2.8'), '192.0.2.8')
        for login in FORGERIES[::4]:
            yield LoggedLine(self.logged_of(login), None)
        for address in FORGED_ADDRESSES:
            for name in ('TCPREMOTEIP', 'REMOTE_HOST'):  # this may be the name of a host, too
                yield LoggedLine(self.logged_of('alice', **{name: address}), None)
        yield LoggedLine(self.logged_of('alice', REMOTE_HOST='client.example.net'), None)
        for name in ('TCPREMOTEIP', 'SSLREMOTEIP'):
            for address in ('::1', '198.51.100.255', '::ffff:192.0.2.9'):
                line = self.logged_of('alice', **{name: address})
                yield LoggedLine(line, address.replace('::ffff:', ''))

    def test_filter_bans_who_was_rejected_and_nobody_else(self) -> None:
        """The filter finds the address of each result=rejected line that has one, at the line's
        time, in every form of a log; never another result's, nor what a client has forged."""
        logged = list(self.logged_lines())
        wanted = [line.banned for line in logged if line.banned]
        self.assertGreater(len(wanted), 20)
        now = time.time()
        for lines in self.forms_of([line.text for line in logged]):
            found = self.find_banned(lines)
            self.assertEqual([address for address, _ in found], wanted)
            for _, when in found:
                self.assertLess(abs(when - now), 600)

    def test_filter_ignores_other_programs(self) -> None:
        """Lines of other programs into which a client has put one of ours are not taken for it."""
        line = f'qmail-pwrap[1]: {REJECTED}"x"'
        self.assertEqual([one for one, _ in self.find_banned([f'host {line}'])], [FORGED])
        starts = (
            *('postfix/smtpd[7]: lost connection after HELO <', 'other[7]: ', 'other: ', '"'),
            *('qmail-smtpd: helo ', 'qmail-pwrap2[7]: ', 'helo=x ', 'qmail-pwrap[7]: '),
            'sshd[7]: Invalid user ',
        )
        logs = self.forms_of([start + line for start in starts])
        self.assertEqual(self.find_banned([one for lines in logs for one in lines]), [])

    @unittest.skipUnless(os.path.isdir('/etc/fail2ban/filter.d'), 'no /etc/fail2ban here')
    def test_jail_is_taken_by_fail2ban(self) -> None:
        """fail2ban starts the jail with the filter, as both are shown."""
        jail = block(first='# /etc/fail2ban/jail.d')
        log = self.write('mail.log', '')
        folder = self.path('fail2ban')
        shutil.copytree('/etc/fail2ban', folder)
        for name in glob.glob(f'{folder}/jail.d/*'):
            os.unlink(name)
        shutil.copy(self.filter, f'{folder}/filter.d')
        jail, count = re.subn(r'(?m)^(logpath\s*= ).+$', rf'\g<1>{log}', jail)
        self.assertEqual(count, 1)
        self.write('fail2ban/jail.d/qmail-pwrap.conf', jail)
        done = self.run_program('fail2ban-client', '-c', folder, '-d')
        self.assertEqual(done.code, 0, done.output)
        self.assertIn("['start', 'qmail-pwrap']", done.output)
        self.assertIn('qmail-pwrap\\\\[', done.output)


if __name__ == '__main__':
    unittest.main()
