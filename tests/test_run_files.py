"""The run files of the README that the other tests do not start: xinetd, systemd sockets, softlimit and multilog.

qmail-smtpd itself is the stand-in of standins.py, and env stands in for tcp-env.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import servers
from tests.support import SCRIPT, TOP, TRIPLE, Case, wait_until

TOOL = Path(TOP) / "tests" / "demo_tool"
LOGINS = (("alice", "wonderland", 235), ("alice", "wrong", 535), ("bob", "wonderland", 535))


class Xinetd(servers.Server):
    """xinetd with one service, on a port of its own."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        super().__init__(folder, {})
        self.words = words

    def command(self) -> list[str]:
        service = f"""
service pwrap
{{
    type        = UNLISTED
    socket_type = stream
    protocol    = tcp
    wait        = no
    user        = root
    bind        = {servers.LOOPBACK}
    port        = {self.port}
    server      = {self.words[0]}
    server_args = {" ".join(self.words[1:])}
}}
"""
        path = servers.write_file(self.folder / "xinetd.conf", service)
        return [servers.program("xinetd"), "-dontfork", "-stayalive", "-pidfile", str(self.folder / "pid"), "-f", str(path)]


class SystemdSocket(servers.Server):
    """A socket with Accept=yes, as systemd's own tool for trying one makes it."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        super().__init__(folder, {})
        self.words = words

    def command(self) -> list[str]:
        listen = f"{servers.LOOPBACK}:{self.port}"
        return [servers.program("systemd-socket-activate"), "-l", listen, "--accept", "--inetd", *self.words]


class RunFiles(Case):
    def setUp(self) -> None:
        super().setUp()
        users = self.write("users", "alice:wonderland\n")
        self.write("pwrap.conf", f"'{TOOL}' {users}\n")
        self.words = ["/usr/bin/env", "PATH=/usr/bin:/bin", "TCPREMOTEIP=192.0.2.7", f"PWRAP_CONF={self.conf}",
                      *servers.standin("smtpd", "-w", "0", SCRIPT, "/bin/true")]

    def log_in(self, port: int) -> None:
        for login, password, code in LOGINS:
            with self.subTest(login=login, password=password):
                self.assertEqual(servers.smtp_login(port, "PLAIN", login, password), code)

    @servers.needs("xinetd", "root")
    def test_xinetd(self) -> None:
        """Under xinetd, logins are accepted and refused as anywhere."""
        with Xinetd(Path(self.folder) / "xinetd", self.words) as server:
            self.log_in(server.port)

    @servers.needs("systemd")
    def test_systemd_socket(self) -> None:
        """Under a systemd socket with Accept=yes, logins are accepted and refused as anywhere."""
        with SystemdSocket(Path(self.folder) / "systemd", self.words) as server:
            self.log_in(server.port)

    @servers.needs("daemontools")
    def test_softlimit(self) -> None:
        """The memory limit that the README recommends is enough for a login with a session."""
        with open(f"{TOP}/README.md") as file:
            self.assertIn("softlimit -m 60000000", file.read())
        for prog in (["/bin/true"], ["/bin/sh", "-c", "exit 7"]):
            login = self.start(*prog, triple=b"alice\0wonderland\0\0",
                               command=[servers.program("softlimit"), "-m", "60000000", SCRIPT])
            self.assertEqual(login.wait().code, 0 if prog == ["/bin/true"] else 7)

    @servers.needs("daemontools")
    def test_multilog(self) -> None:
        """With log=stderr, multilog gets the lines as they are."""
        self.configure(f"'{TOOL}' {self.path('users')}")
        command = [servers.program("multilog"), self.path("log")]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as multilog:
            assert multilog.stdin
            self.assertEqual(self.login("true", triple=TRIPLE, descriptors={2: multilog.stdin.fileno()}).code, 1)
        current = wait_until(lambda: Path(self.path("log"), "current").read_text(), "multilog has written")
        self.assertRegex(current, r'^qmail-pwrap\[\d+\]: result=rejected .* user="alice@example\.org"\n$')
