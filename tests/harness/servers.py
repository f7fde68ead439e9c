"""Debian's servers on loopback, and their clients.

What starts, creates or writes something is a context manager: it is gone when the `with` block ends.
"""

from __future__ import annotations

import base64
import contextlib
import email
import imaplib
import os
import poplib
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.harness import machine
from tests.harness.machine import SYSTEM_PATH, program
from tests.harness.processes import LONG_ENOUGH, Process, wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

STANDINS = Path(machine.HARNESS) / 'standins.py'
LOOPBACK = '127.0.0.1'


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


# Files


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter and read, removed at the end."""
    folder = Path(machine.make_folder()).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_file(path: Path, text: str, mode: int = 0o644) -> Path:
    """Put a file in its place in one step, as an administrator should: readers see the old text or the new."""
    beside = path.with_name(path.name + '.new')
    beside.write_text(text)
    beside.chmod(mode)
    beside.replace(path)
    return path


# Servers


class Server:
    """A server on loopback ports that the system picks, and all of it ends with the `with` block.

    A subclass says how many ports it needs and by what command it listens on them. `folder` is made for its files,
    among them `output` with what it prints.
    """

    ports_needed = 1

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {'PATH': SYSTEM_PATH, **environment}
        self.output = folder / 'output'

    def command(self) -> list[str]:
        """Write what the server needs, for self.ports, and return its command line."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def port(self) -> int:
        return self.ports[0]

    def log(self) -> str:
        """Return what the server printed and wrote to its log so far."""
        return self.output.read_text(errors='replace') if self.output.exists() else ''

    def __enter__(self) -> Self:
        self.folder.mkdir()
        # Somebody else may take a port between our look and the server's bind; then it ends.
        for _ in range(5):
            self.ports = [free_port() for _ in range(self.ports_needed)]
            self._start()
            try:
                wait_until(
                    lambda: self._ended() or all(map(answers, self.ports)), f'{self.name} answers'
                )
            except BaseException as error:
                self._stop()
                raise AssertionError(
                    f'{self.name} does not answer. It says:\n{self.log()}'
                ) from error
            if not self._ended():
                return self
            self._stop()
        raise AssertionError(f'{self.name} does not start. It says:\n{self.log()}')

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        command = self.command()
        with open(os.devnull, 'rb') as null, self.output.open('wb') as output:
            descriptors = {0: null.fileno(), 1: output.fileno(), 2: output.fileno()}
            self._process = Process(command, self.environment, descriptors, str(self.folder))

    def _ended(self) -> bool:
        return self._process.over()

    def _stop(self) -> None:
        """End the server by TERM, and what is left of it by KILL."""
        if not self._ended():
            with contextlib.suppress(AssertionError, ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
                self._process.wait(10)
        self._process.end()


def answers(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


# The servers of Debian


class Qpsmtpd(Server):
    """An SMTP server that asks `tool` about AUTH PLAIN and LOGIN and delivers mail for USER to HOMES/USER/Maildir."""

    def __init__(
        self,
        folder: Path,
        tool: str,
        homes: Path,
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(folder, {**environment, 'QPSMTPD_CONFIG': str(folder / 'config')})
        self.tool = tool
        self.homes = homes

    def command(self) -> list[str]:
        settings = {
            'plugins': f'auth/auth_checkpassword checkpw {self.tool} true /bin/true\n'
            f'rcpt_ok\nqueue/maildir {self.homes} %l/Maildir 755\n',
            'plugin_dirs': '/usr/share/qpsmtpd/plugins\n',
            'rcpthosts': 'example.org\n',
            'logging': 'logging/warn 6\n',
            'loglevel': '6\n',
            'spool_dir': f'{self.folder / "spool"}\n',
            'me': 'mail.example.org\n',
        }
        for name in ('config', 'spool'):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        for name, text in settings.items():
            write_file(self.folder / 'config' / name, text)
        options = ['--no-rdns', '-m', '100', '-c', '100', '-u', 'root']
        return [program('qpsmtpd-forkserver'), *options, '-l', LOOPBACK, '-p', str(self.port)]


class Lookup(NamedTuple):
    """What `doveadm user` says."""

    code: int
    fields: dict[str, str]
    errors: str


FOUND, UNKNOWN, TRY_LATER = 0, 67, 75  # codes of `doveadm user`: success, and two of sysexits.h


class Mailboxes(Server):
    """Any Dovecot: a POP3 and IMAP server that writes the file `log`."""

    ports_needed = 2

    @property
    def pop3_port(self) -> int:
        return self.ports[0]

    @property
    def imap_port(self) -> int:
        return self.ports[1]

    def log(self) -> str:
        file = self.folder / 'log'
        return super().log() + (file.read_text(errors='replace') if file.exists() else '')


class Dovecot(Mailboxes):
    """A POP3 and IMAP server that asks `tool` and takes uid, gid and home from what the tool changed to.

    With `lookups`, it asks the tool about users as well, as LMTP and the delivery agent need it.
    """

    CONFIGURATION = """
        base_dir = {folder}/run
        state_dir = {folder}/state
        log_path = {folder}/log
        protocols = pop3 imap
        ssl = no
        disable_plaintext_auth = no
        import_environment = TZ {environment}
        mail_location = maildir:~/Maildir
        first_valid_uid = 1
        auth_failure_delay = 0
        auth_cache_size = 0
        auth_mechanisms = plain login
        passdb {{
            driver = checkpassword
            args = {tool}
        }}
        userdb {{
            {userdb}
        }}
        service auth {{
            user = root
        }}
        service anvil {{
            chroot =
            unix_listener anvil-auth-penalty {{
                mode = 0
            }}
        }}
        service pop3-login {{
            chroot =
            inet_listener pop3 {{
                address = {address}
                port = {pop3_port}
            }}
        }}
        service imap-login {{
            chroot =
            inet_listener imap {{
                address = {address}
                port = {imap_port}
            }}
        }}
    """

    def __init__(
        self,
        folder: Path,
        tool: str,
        environment: Mapping[str, str],
        lookups: bool = False,
    ) -> None:
        super().__init__(folder, {})
        self.tool = tool
        self.lookups = lookups
        # The tool changes uid before it runs checkpassword-reply, which refuses that unless INSECURE_SETUID is set.
        self.tool_environment = {'INSECURE_SETUID': '1', **environment}

    @property
    def configuration(self) -> Path:
        return self.folder / 'dovecot.conf'

    def look_up(self, login: str) -> Lookup:
        """Ask for a user, as the delivery agent does, by `doveadm user`."""
        done = subprocess.run(
            [program('doveadm'), '-c', str(self.configuration), 'user', login],
            check=False,
            capture_output=True,
            text=True,
            timeout=LONG_ENOUGH,
        )
        lines = [line.split('\t') for line in done.stdout.splitlines() if '\t' in line]
        return Lookup(done.returncode, {words[0]: words[1] for words in lines}, done.stderr)

    def command(self) -> list[str]:
        userdb = f'driver = checkpassword\n            args = {self.tool}'
        text = self.CONFIGURATION.format(
            folder=self.folder,
            userdb=userdb if self.lookups else 'driver = prefetch',
            environment=' '.join(
                f'{name}={value}' for name, value in self.tool_environment.items()
            ),
            tool=self.tool,
            address=LOOPBACK,
            pop3_port=self.pop3_port,
            imap_port=self.imap_port,
        )
        return [program('dovecot'), '-F', '-c', str(write_file(self.configuration, text))]


class Tcpserver(Server):
    """tcpserver, which runs `client_command` with descriptors 0 and 1 the client and TCPREMOTEIP its address."""

    def __init__(
        self,
        folder: Path,
        client_command: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(folder, environment)
        self.client_command = client_command

    def command(self) -> list[str]:
        options = ['-v', '-R', '-H', '-l', 'mail.example.org']
        return [program('tcpserver'), *options, LOOPBACK, str(self.port), *self.client_command]


class Xinetd(Server):
    """xinetd with one service of root's, which runs `client_command`."""

    SERVICE = """
        service pwrap
        {{
            type        = UNLISTED
            socket_type = stream
            protocol    = tcp
            wait        = no
            user        = root
            bind        = {address}
            port        = {port}
            server      = {program}
            server_args = {arguments}
        }}
    """

    def __init__(self, folder: Path, client_command: Sequence[str]) -> None:
        super().__init__(folder, {})
        self.client_command = client_command

    def command(self) -> list[str]:
        text = self.SERVICE.format(
            address=LOOPBACK,
            port=self.port,
            program=self.client_command[0],
            arguments=' '.join(self.client_command[1:]),
        )
        path = write_file(self.folder / 'xinetd.conf', text)
        options = ['-dontfork', '-stayalive', '-pidfile', str(self.folder / 'pid')]
        return [program('xinetd'), *options, '-f', str(path)]


class SystemdSocket(Server):
    """A socket with Accept=yes, as systemd's own tool for trying one makes it."""

    def __init__(self, folder: Path, client_command: Sequence[str]) -> None:
        super().__init__(folder, {})
        self.client_command = client_command

    def command(self) -> list[str]:
        listen = ['-l', f'{LOOPBACK}:{self.port}', '--accept', '--inetd']
        return [program('systemd-socket-activate'), *listen, *self.client_command]


def standin(*arguments: str) -> list[str]:
    """Return the command line of a stand-in for a server program that Debian has not (see standins.py)."""
    return [sys.executable, '-I', str(STANDINS), *arguments]


# What the clients do


def smtp_login(port: int, mechanism: str, login: str, password: str) -> int:
    """Authenticate and leave; return the reply code of AUTH."""
    with smtplib.SMTP(LOOPBACK, port, timeout=LONG_ENOUGH) as client:
        client.ehlo()
        client.user, client.password = login, password
        speaker = getattr(client, 'auth_' + mechanism.lower().replace('-', '_'))
        try:
            return client.auth(mechanism, speaker)[0]
        except smtplib.SMTPAuthenticationError as error:
            return error.smtp_code


def pop3_subjects(port: int, login: str, password: str) -> list[str]:
    """Log in, and return the subjects of all messages; poplib.error_proto has the server's words if it refuses."""
    with contextlib.closing(poplib.POP3(LOOPBACK, port, timeout=LONG_ENOUGH)) as client:
        client.user(login)
        client.pass_(password)
        texts = [b'\n'.join(client.retr(number + 1)[1]) for number in range(client.stat()[0])]
        client.quit()
        return [subject_of(text) for text in texts]


def imap_subjects(port: int, login: str, password: str) -> list[str]:
    """Log in, and return the subjects of all messages; imaplib.IMAP4.error has the server's words if it refuses."""
    client = imaplib.IMAP4(LOOPBACK, port, timeout=LONG_ENOUGH)
    try:
        client.login(login, password)
        count = int(client.select('INBOX', readonly=True)[1][0] or 0)
        answers: list[Any] = [
            client.fetch(str(number + 1), '(RFC822)')[1] for number in range(count)
        ]
        client.logout()
        return [subject_of(answer[0][1]) for answer in answers]
    finally:
        with contextlib.suppress(OSError):
            client.shutdown()


def subject_of(message: bytes) -> str:
    return email.message_from_bytes(message)['Subject']


def converse(port: int, *lines: str) -> list[str]:
    """Hear the greeting; say each line and hear one in answer until the server leaves; return all that it said."""
    with (
        socket.create_connection((LOOPBACK, port), timeout=LONG_ENOUGH) as client,
        client.makefile('rwb') as stream,
    ):
        said = stream.readline()
        for line in lines:
            stream.write(line.encode() + b'\r\n')
            stream.flush()
            if not (answer := stream.readline()):
                break
            said += answer
        client.shutdown(socket.SHUT_WR)
        return (said + stream.read()).decode().splitlines()


def plain(login: str, password: str) -> str:
    """Return the initial response of AUTH PLAIN."""
    return base64.b64encode(f'\0{login}\0{password}'.encode()).decode()
