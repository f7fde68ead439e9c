"""What the tests with real servers stand on: users, mailboxes, a system log, and Debian's servers on loopback.

What starts, creates or writes something is a context manager: it is gone when the `with` block ends. Nothing sleeps for
a fixed time; `wait_until` polls for the condition that the next step needs.
"""

from __future__ import annotations

import base64
import contextlib
import email
import imaplib
import itertools
import os
import poplib
import pwd
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

TOP = Path(__file__).resolve().parent.parent
WRAPPER = TOP / "qmail_pwrap.py"
STANDINS = TOP / "tests" / "standins.py"
LOOPBACK = "127.0.0.1"
PATIENCE = 30.0  # seconds: a condition that takes longer has failed, even on a busy machine
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

T = TypeVar("T")

PROGRAMS = {  # Debian package: what the tests run of it
    "checkpw": ["checkpw", "checkapoppw"],
    "daemontools": ["multilog", "softlimit"],
    "cvm": ["cvm-checkpassword", "cvm-pwfile"],
    "dovecot-core": ["dovecot", "/usr/lib/dovecot/checkpassword-reply"],
    "dovecot-imapd": ["/usr/lib/dovecot/imap"],
    "dovecot-pop3d": ["/usr/lib/dovecot/pop3"],
    "fgetty": ["checkpassword.login"],
    "passwd": ["useradd", "userdel", "chpasswd"],
    "qpsmtpd": ["qpsmtpd-forkserver"],
    "swaks": ["swaks"],
    "systemd": ["systemd-socket-activate"],
    "ucspi-tcp": ["tcpserver"],
    "xinetd": ["xinetd"],
}


def program(name: str) -> str:
    """Return the absolute path of a program of the system, or "" if it is not installed."""
    return shutil.which(name, path=SYSTEM_PATH) or ""


def missing(*wanted: str) -> str:
    """Say what this machine lacks of Debian packages (and of "root"), or "" if nothing."""
    lacks = [package for package in wanted if package != "root" and not all(map(program, PROGRAMS[package]))]
    reasons = [f"Debian package not installed: {package}" for package in lacks]
    if "root" in wanted and os.geteuid() != 0:
        reasons.append("only root can do this")
    return "; ".join(reasons)


def needs(*wanted: str) -> Callable[[Any], Any]:
    """Skip a test or a class of tests, with the names of the Debian packages that are not there."""
    reason = missing(*wanted)
    return unittest.skipIf(reason, reason)


def wait_until(condition: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
    """Return the first true value of condition(); AssertionError with `what` after `timeout` seconds without one."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.0f} s in vain: {what}")
        time.sleep(0.01)
    return value


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


# Files and users


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter and read, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="pwrap-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


def write_file(path: Path, text: str, mode: int = 0o644) -> Path:
    """Put a file in its place in one step, as an administrator should: readers see the old text or the new."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.chmod(mode)
    beside.replace(path)
    return path


class User(NamedTuple):
    """Someone with a mailbox. The password is what the client says, whoever checks it."""

    login: str
    password: str
    uid: int
    gid: int
    home: Path

    @property
    def address(self) -> str:
        return f"{self.login}@example.org"

    @property
    def maildir(self) -> Path:
        return self.home / "Maildir"

    def make_maildir(self) -> None:
        for folder in (self.home, self.maildir, *(self.maildir / part for part in ("cur", "new", "tmp"))):
            folder.mkdir(exist_ok=True)
            os.chown(folder, self.uid, self.gid)
            folder.chmod(0o700)

    def empty_maildir(self) -> None:
        """Throw away mail and Dovecot's indexes, keep what the user had there besides (checkpw's password)."""
        for path in self.maildir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name.startswith("dovecot"):
                path.unlink()
        self.make_maildir()


@contextlib.contextmanager
def system_user(letter: str, password: str, homes: Path) -> Iterator[User]:
    """A system user with a home under `homes` (not made yet) and no password in /etc/shadow, removed at the end."""
    login = f"pwt{os.getpid()}{letter}"
    home = homes / login
    run("useradd", "--system", "--no-create-home", "--home-dir", str(home), "--shell", "/bin/sh", login)
    try:
        entry = pwd.getpwnam(login)
        yield User(login, password, entry.pw_uid, entry.pw_gid, home)
    finally:
        run("userdel", "--force", login)


def set_shadow_password(user: User) -> None:
    """Make /etc/shadow know the user's password, for checkpassword.login."""
    run("chpasswd", "--crypt-method", "SHA512", given=f"{user.login}:{user.password}\n")


def set_maildir_password(user: User) -> None:
    """Make ~/Maildir/.password hold the user's password, for checkpw and checkapoppw."""
    path = write_file(user.maildir / ".password", user.password + "\n", 0o600)
    os.chown(path, user.uid, user.gid)


def run(name: str, *arguments: str, given: str = "") -> str:
    """Run a program of the system to its end, return what it printed; AssertionError with that if it failed."""
    done = subprocess.run([program(name), *arguments], check=False, input=given, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{name} exited {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


# The system log


class LogLine(NamedTuple):
    """One syslog message: its priority (facility * 8 + severity), its tag such as `qmail-pwrap[17]`, and the text."""

    priority: int
    tag: str
    text: str

    @property
    def facility(self) -> int:
        return self.priority >> 3

    @property
    def severity(self) -> int:
        return self.priority & 7


class SyslogListener:
    """Receives what programs tell syslog(3) while the `with` block runs. Needs root.

    Where nobody listens at /dev/log, it does, and every program's lines arrive. Where somebody does, that one is left
    alone: only programs started through `command` see this listener at /dev/log, in a mount namespace of their own.
    """

    SHAPE = re.compile(r"<(\d+)>(?:\w{3} [ \d]\d \d\d:\d\d:\d\d )?(?:([^\s:]+): ?)?(.*)", re.DOTALL)
    UNDER_PRIVATE_MOUNT = 'mount --bind "$0" /dev/log && exec "$@"'

    def __init__(self) -> None:
        self._lines: list[LogLine] = []
        self._arrived = threading.Condition()
        self._leaving = False

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._folder = tempfile.mkdtemp(prefix="pwrap-log-")
        os.chmod(self._folder, 0o755)
        self.path = os.path.realpath("/dev/log")
        self.private = False
        try:
            self._socket.bind(self.path)
        except OSError:  # somebody is there already
            self.path = os.path.join(self._folder, "log")
            self.private = True
            self._socket.bind(self.path)
        os.chmod(self.path, 0o666)  # the tools log as the user who logged in
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
            wake.sendto(b"", self.path)
        self._thread.join()
        self._socket.close()
        os.unlink(self.path)
        os.rmdir(self._folder)

    def _receive(self) -> None:
        while (datagram := self._socket.recv(65536)) or not self._leaving:
            # Latin-1 gives every byte a character of its own, so a test can look for bytes that should not be there.
            match = self.SHAPE.fullmatch(datagram.rstrip(b"\0\n").decode("latin-1"))
            line = LogLine(int(match[1]), match[2] or "", match[3]) if match else LogLine(-1, "", repr(datagram))
            with self._arrived:
                self._lines.append(line)
                self._arrived.notify_all()

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command line under which `command` finds this listener at /dev/log."""
        if not self.private:
            return list(command)
        unshare = [program("unshare"), "--mount", "--propagation", "private", "--"]
        return [*unshare, "/bin/sh", "-c", self.UNDER_PRIVATE_MOUNT, self.path, *command]

    def lines(self, tag: str = "") -> list[LogLine]:
        """Return what arrived so far, of programs whose tag begins with `tag`."""
        with self._arrived:
            return [line for line in self._lines if line.tag.startswith(tag)]

    def clear(self) -> None:
        """Forget what arrived so far."""
        with self._arrived:
            self._lines.clear()

    def wait_for(self, pattern: str, timeout: float = PATIENCE) -> LogLine:
        """Return the first line whose text matches the regular expression somewhere, as soon as it arrives."""

        def found() -> LogLine | None:
            return next((line for line in self._lines if re.search(pattern, line.text)), None)

        with self._arrived:
            line = self._arrived.wait_for(found, timeout)
            if line is None:
                seen = "\n".join(f"{line.priority} {line.tag}: {line.text}" for line in self._lines)
                raise AssertionError(f"no line matching {pattern!r} in the log within {timeout:.0f} s. It has:\n{seen}")
            return line


# Servers


class Server:
    """A server on loopback ports that the system picks, in a session of its own so that all of it can be stopped.

    A subclass says how many ports it needs and by what command it listens on them. `folder` is made for its files,
    among them `output` with what it prints. With `syslog`, it and all it starts log to that listener.
    """

    ports_needed = 1

    def __init__(self, folder: Path, environment: Mapping[str, str], syslog: SyslogListener | None = None) -> None:
        self.folder = folder
        self.environment = {"PATH": SYSTEM_PATH, **environment}
        self.output = folder / "output"
        self._syslog = syslog

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
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def __enter__(self) -> Self:
        self.folder.mkdir()
        for _ in range(5):  # somebody else may take a port between our look and the server's bind; then it ends
            self.ports = [free_port() for _ in range(self.ports_needed)]
            self._start()
            try:
                wait_until(lambda: self._ended() or all(map(answers, self.ports)), f"{self.name} answers")
            except BaseException as error:
                self._stop()
                raise AssertionError(f"{self.name} does not answer. It says:\n{self.log()}") from error
            if not self._ended():
                return self
            self._stop()
        raise AssertionError(f"{self.name} does not start. It says:\n{self.log()}")

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        command = self.command()
        if self._syslog:
            command = self._syslog.command(command)
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )

    def _ended(self) -> bool:
        # WNOWAIT leaves the zombie, so that the number of the session stays ours until we have emptied it.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def _stop(self) -> None:
        with contextlib.suppress(AssertionError):
            os.kill(self._process.pid, signal.SIGTERM)
            wait_until(self._ended, f"{self.name} ends", 10)
        wait_until(self._session_is_empty, f"everything that {self.name} started ends")
        self._process.wait()

    def _session_is_empty(self) -> bool:
        alive = members_of_session(self._process.pid)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not alive


def answers(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def members_of_session(session: int) -> list[int]:
    """Return the process ids of a session, without the dead that only wait for their parent."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, _parent, _group, its_session = status.read_text(errors="replace").rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                members.append(int(status.parent.name))
    return members


# The servers of Debian


class Qpsmtpd(Server):
    """An SMTP server that asks `tool` about AUTH PLAIN and LOGIN and delivers mail for USER to HOMES/USER/Maildir."""

    def __init__(
        self, folder: Path, tool: str, homes: Path, environment: Mapping[str, str], syslog: SyslogListener | None = None
    ) -> None:
        super().__init__(folder, {**environment, "QPSMTPD_CONFIG": str(folder / "config")}, syslog)
        self.tool = tool
        self.homes = homes

    def command(self) -> list[str]:
        settings = {
            "plugins": f"auth/auth_checkpassword checkpw {self.tool} true /bin/true\n"
            f"rcpt_ok\nqueue/maildir {self.homes} %l/Maildir 755\n",
            "plugin_dirs": "/usr/share/qpsmtpd/plugins\n",
            "rcpthosts": "example.org\n",
            "logging": "logging/warn 6\n",
            "loglevel": "6\n",
            "spool_dir": f"{self.folder / 'spool'}\n",
            "me": "mail.example.org\n",
        }
        for name in ("config", "spool"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        for name, text in settings.items():
            write_file(self.folder / "config" / name, text)
        options = ["--no-rdns", "-m", "100", "-c", "100", "-u", "root"]
        return [program("qpsmtpd-forkserver"), *options, "-l", LOOPBACK, "-p", str(self.port)]


class Dovecot(Server):
    """A POP3 and IMAP server that asks `tool` and takes uid, gid and home from what the tool changed to."""

    ports_needed = 2
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
            driver = prefetch
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
        self, folder: Path, tool: str, environment: Mapping[str, str], syslog: SyslogListener | None = None
    ) -> None:
        super().__init__(folder, {}, syslog)
        self.tool = tool
        # The tool changes uid before it runs checkpassword-reply, which refuses that unless INSECURE_SETUID is set.
        self.tool_environment = {"INSECURE_SETUID": "1", **environment}

    @property
    def pop3_port(self) -> int:
        return self.ports[0]

    @property
    def imap_port(self) -> int:
        return self.ports[1]

    def log(self) -> str:
        file = self.folder / "log"
        return super().log() + (file.read_text(errors="replace") if file.exists() else "")

    def command(self) -> list[str]:
        text = self.CONFIGURATION.format(
            folder=self.folder,
            environment=" ".join(f"{name}={value}" for name, value in self.tool_environment.items()),
            tool=self.tool,
            address=LOOPBACK,
            pop3_port=self.pop3_port,
            imap_port=self.imap_port,
        )
        return [program("dovecot"), "-F", "-c", str(write_file(self.folder / "dovecot.conf", text))]


class Tcpserver(Server):
    """tcpserver, which runs `client_command` with descriptors 0 and 1 the client and TCPREMOTEIP its address."""

    def __init__(
        self,
        folder: Path,
        client_command: Sequence[str],
        environment: Mapping[str, str],
        syslog: SyslogListener | None = None,
    ) -> None:
        super().__init__(folder, environment, syslog)
        self.client_command = client_command

    def command(self) -> list[str]:
        options = ["-v", "-R", "-H", "-l", "mail.example.org"]
        return [program("tcpserver"), *options, LOOPBACK, str(self.port), *self.client_command]


def standin(*arguments: str) -> list[str]:
    """Return the command line of a stand-in for a server program that Debian has not (see standins.py)."""
    return [sys.executable, "-I", str(STANDINS), *arguments]


# The machine with the wrapper


class MailHost:
    """A machine with the wrapper installed, mailboxes, a system log, and three users whom one tool each knows.

    alice has a password in /etc/shadow, bob in cvm's file, carol in her ~/Maildir/.password. `tools` has a
    configuration line for each of these tools, `configure` puts lines in place, `reset` goes back to all three.
    """

    packages = ("root", "passwd", "fgetty", "cvm", "checkpw")

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = stack.enter_context(public_folder())
            self.homes = self.folder / "homes"
            self.homes.mkdir()
            self.log = stack.enter_context(SyslogListener())
            # The tool runs the wrapper's report step as the user who logged in, who may be unable to enter a checkout.
            self.wrapper = Path(shutil.copy(WRAPPER, self.folder))
            self.wrapper.chmod(0o755)
            self.configuration = self.folder / "pwrap.conf"
            self.environment = {"PWRAP_CONF": str(self.configuration)}
            self.alice = stack.enter_context(system_user("a", "alice's secret", self.homes))
            set_shadow_password(self.alice)
            self.bob = bob = User("bob", "bob's secret", 65534, 65534, self.homes / "bob")
            line = f"{bob.login}:{bob.password}:{bob.uid}:{bob.gid}::{bob.home}:/bin/sh\n"
            cvm_file = write_file(self.folder / "cvm.passwd", line, 0o600)
            self.carol = stack.enter_context(system_user("c", "carol's secret", self.homes))
            for user in (self.alice, self.bob, self.carol):
                user.make_maildir()
            set_maildir_password(self.carol)
            self.users = {"checkpassword.login": self.alice, "cvm": self.bob, "checkpw": self.carol}
            self.tools = {
                "checkpassword.login": f"name=checkpassword.login {program('checkpassword.login')}",
                "cvm": f"name=cvm {program('env')} CVM_PWFILE_PATH={cvm_file} "
                f"{program('cvm-checkpassword')} {program('cvm-pwfile')}",
                "checkpw": f"name=checkpw {program('checkpw')}",
                "checkapoppw": f"name=checkapoppw {program('checkapoppw')}",
            }
            self.reset()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def reset(self) -> None:
        """Configure the chain of all three tools, empty the mailboxes, forget the log."""
        self.configure("failure=temporary", *(self.tools[name] for name in ("checkpassword.login", "cvm", "checkpw")))
        for user in self.users.values():
            user.empty_maildir()
        self.log.clear()

    def configure(self, *lines: str) -> None:
        """Replace the wrapper's configuration by these lines."""
        write_file(self.configuration, "".join(line + "\n" for line in lines))

    def script(self, name: str, text: str) -> str:
        """Write a shell script that everybody may run; return its path."""
        return str(write_file(self.folder / name, f"#!/bin/sh\n{text}\n", 0o755))

    def qpsmtpd(self) -> Qpsmtpd:
        return Qpsmtpd(self.folder / "qpsmtpd", str(self.wrapper), self.homes, self.environment, self.log)

    def dovecot(self) -> Dovecot:
        return Dovecot(self.folder / "dovecot", str(self.wrapper), self.environment, self.log)

    def tcpserver(self, *client_command: str) -> Tcpserver:
        folder = self.folder / f"tcpserver{next(self._numbers)}"
        return Tcpserver(folder, client_command, self.environment, self.log)


# What the clients do


def smtp_login(port: int, mechanism: str, login: str, password: str) -> int:
    """Authenticate and leave; return the reply code of AUTH."""
    with smtplib.SMTP(LOOPBACK, port, timeout=PATIENCE) as client:
        client.ehlo()
        client.user, client.password = login, password
        speaker = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
        try:
            return client.auth(mechanism, speaker)[0]
        except smtplib.SMTPAuthenticationError as error:
            return error.smtp_code


def smtp_send(port: int, sender: User, recipient: User, subject: str) -> None:
    """Log in as the sender and send the recipient a mail."""
    with smtplib.SMTP(LOOPBACK, port, timeout=PATIENCE) as client:
        client.login(sender.login, sender.password)
        client.sendmail(sender.address, recipient.address, f"Subject: {subject}\r\n\r\nHello.\r\n")


def pop3_subjects(port: int, login: str, password: str) -> list[str]:
    """Log in, and return the subjects of all messages; poplib.error_proto has the server's words if it refuses."""
    with contextlib.closing(poplib.POP3(LOOPBACK, port, timeout=PATIENCE)) as client:
        client.user(login)
        client.pass_(password)
        texts = [b"\n".join(client.retr(number + 1)[1]) for number in range(client.stat()[0])]
        client.quit()
        return [subject_of(text) for text in texts]


def imap_subjects(port: int, login: str, password: str) -> list[str]:
    """Log in, and return the subjects of all messages; imaplib.IMAP4.error has the server's words if it refuses."""
    client = imaplib.IMAP4(LOOPBACK, port, timeout=PATIENCE)
    try:
        client.login(login, password)
        count = int(client.select("INBOX", readonly=True)[1][0] or 0)
        answers: list[Any] = [client.fetch(str(number + 1), "(RFC822)")[1] for number in range(count)]
        client.logout()
        return [subject_of(answer[0][1]) for answer in answers]
    finally:
        with contextlib.suppress(OSError):
            client.shutdown()


def subject_of(message: bytes) -> str:
    return email.message_from_bytes(message)["Subject"]


def converse(port: int, *lines: str) -> list[str]:
    """Hear the greeting; say each line and hear one in answer until the server leaves; return all that it said."""
    with socket.create_connection((LOOPBACK, port), timeout=PATIENCE) as client, client.makefile("rwb") as stream:
        said = stream.readline()
        for line in lines:
            stream.write(line.encode() + b"\r\n")
            stream.flush()
            if not (answer := stream.readline()):
                break
            said += answer
        client.shutdown(socket.SHUT_WR)
        return (said + stream.read()).decode().splitlines()


def plain(login: str, password: str) -> str:
    """Return the initial response of AUTH PLAIN."""
    return base64.b64encode(f"\0{login}\0{password}".encode()).decode()
