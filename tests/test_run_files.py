"""The run files of the README that the other tests do not start: xinetd, systemd sockets, softlimit and multilog.

qmail-smtpd itself is the stand-in of standins.py, and env stands in for tcp-env.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.harness import machine, servers
from tests.harness.logins import TRIPLE, WAYS, Case, read_file
from tests.harness.machine import needs
from tests.harness.processes import Process

TOOL = f'{machine.HARNESS}/demo_tool'
ATTEMPTS = (('alice', 'wonderland', 235), ('alice', 'wrong', 535), ('bob', 'wonderland', 535))


class RunFiles(Case):
    def setUp(self) -> None:
        super().setUp()
        users = self.write('users', 'alice:wonderland\n')
        # Under xinetd and systemd descriptor 2 is the client, so the log is the system's.
        self.write('pwrap.conf', f"'{TOOL}' {users}\n")
        self.run_line = [
            '/usr/bin/env',
            'PATH=/usr/bin:/bin',
            'TCPREMOTEIP=192.0.2.7',
            f'PWRAP_CONF={self.conf}',
            *servers.standin('smtpd', '-w', '0', machine.SCRIPT, '/bin/true'),
        ]

    def log_in(self, port: int) -> None:
        for login, password, code in ATTEMPTS:
            with self.subTest(login=login, password=password):
                self.assertEqual(servers.smtp_login(port, 'PLAIN', login, password), code)

    @needs('xinetd', 'root')
    def test_xinetd_runs_it(self) -> None:
        """Under xinetd, logins are accepted and refused as anywhere."""
        with servers.Xinetd(Path(self.path('xinetd')), self.run_line) as server:
            self.log_in(server.port)

    @needs('systemd')
    def test_a_systemd_socket_runs_it(self) -> None:
        """Under a systemd socket with Accept=yes, logins are accepted and refused as anywhere."""
        with servers.SystemdSocket(Path(self.path('systemd')), self.run_line) as server:
            self.log_in(server.port)

    @needs('daemontools')
    def test_the_recommended_memory_limit_is_enough(self) -> None:
        """Under softlimit with the bytes that the README recommends, a login works, with a session too."""
        self.assertIn('softlimit -m 60000000', read_file(f'{machine.TOP}/README.md').decode())
        command = [machine.program('softlimit'), '-m', '60000000', machine.SCRIPT]
        for way in WAYS:
            with self.subTest(way=way.name):
                login = self.login(*way.prog, triple=b'alice\0wonderland\0\0', command=command)
                self.assertEqual(login.code, way.code)

    @needs('daemontools')
    def test_multilog_gets_the_lines_as_they_are(self) -> None:
        """With log=stderr, multilog on descriptor 2 gets the lines of the log, and nothing else."""
        self.configure(f"'{TOOL}' {self.path('users')}")
        reader, writer = os.pipe()
        words = [machine.program('multilog'), self.path('log')]
        multilog = Process(words, self.environment(), {0: reader})
        self.run_process(multilog)
        os.close(reader)
        self.assertEqual(self.login('true', triple=TRIPLE, descriptors={2: writer}).code, 1)
        os.close(writer)
        multilog.wait()
        current = Path(self.path('log'), 'current').read_text()
        self.assertRegex(
            current, r'^qmail-pwrap\[\d+\]: result=rejected .* user="alice@example\.org"\n$'
        )
