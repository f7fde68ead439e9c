"""A machine with the wrapper, users with mailboxes, and real checkpassword tools that know them."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import smtplib
import subprocess
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.harness import machine, tools
from tests.harness.machine import program
from tests.harness.processes import LONG_ENOUGH, wait_until
from tests.harness.servers import LOOPBACK, Dovecot, Qpsmtpd, Tcpserver, public_folder, write_file
from tests.harness.syslog import SyslogListener

if TYPE_CHECKING:
    from typing_extensions import Self


class User(NamedTuple):
    """Someone with a mailbox. The password is what the client says, whoever checks it."""

    login: str
    password: str
    uid: int
    gid: int
    home: Path

    @property
    def address(self) -> str:
        return f'{self.login}@example.org'

    @property
    def maildir(self) -> Path:
        return self.home / 'Maildir'

    def make_maildir(self) -> None:
        for folder in (
            self.home,
            self.maildir,
            *(self.maildir / part for part in ('cur', 'new', 'tmp')),
        ):
            folder.mkdir(exist_ok=True)
            os.chown(folder, self.uid, self.gid)
            folder.chmod(0o700)

    def empty_maildir(self) -> None:
        """Throw away mail and Dovecot's indexes, keep what the user had there besides (checkpw's password)."""
        for path in self.maildir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name.startswith('dovecot'):
                path.unlink()
        self.make_maildir()


@contextlib.contextmanager
def system_user(letter: str, password: str, homes: Path) -> Iterator[User]:
    """A system user with a home under `homes` (not made yet) and no password in /etc/shadow, removed at the end."""
    login = (
        f'pwt{os.urandom(4).hex()}{letter}'  # no number of a process: in a container it comes again
    )
    home = homes / login
    run(
        'useradd',
        '--system',
        '--no-create-home',
        '--home-dir',
        str(home),
        '--shell',
        '/bin/sh',
        login,
    )
    try:
        entry = pwd.getpwnam(login)
        yield User(login, password, entry.pw_uid, entry.pw_gid, home)
    finally:
        run('userdel', '--force', login)


def set_shadow_password(user: User) -> None:
    """Make /etc/shadow know the user's password, for checkpassword.login."""
    run('chpasswd', '--crypt-method', 'SHA512', given=f'{user.login}:{user.password}\n')


def set_maildir_password(user: User) -> None:
    """Make ~/Maildir/.password hold the user's password, for checkpw and checkapoppw."""
    path = write_file(user.maildir / '.password', user.password + '\n', 0o600)
    os.chown(path, user.uid, user.gid)


def run(name: str, *arguments: str, given: str = '') -> str:
    """Run a program of the system to its end, return what it printed; AssertionError with that if it failed."""
    done = subprocess.run(
        [program(name), *arguments],
        check=False,
        input=given,
        capture_output=True,
        text=True,
        timeout=LONG_ENOUGH,
    )
    if done.returncode != 0:
        raise AssertionError(f'{name} exited {done.returncode}: {done.stdout}{done.stderr}')
    return done.stdout


class MailHost:
    """A machine with the wrapper installed, mailboxes, a system log, and three users whom one tool each knows.

    alice has a password in /etc/shadow, bob in a file with virtual users, carol in her ~/Maildir/.password. `tools` has
    a configuration line for each of these tools, `configure` puts lines in place, `reset` goes back to all three.
    """

    packages = ('users', 'syslog', 'public folder', 'public python', 'fgetty', 'checkpw')

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = stack.enter_context(public_folder())
            self.homes = self.folder / 'homes'
            self.homes.mkdir()
            self.log = stack.enter_context(SyslogListener())
            self.wrapper = Path(machine.SCRIPT)
            self.configuration = self.folder / 'pwrap.conf'
            self.environment = {'PWRAP_CONF': str(self.configuration)}
            self.alice = stack.enter_context(system_user('a', "alice's secret", self.homes))
            set_shadow_password(self.alice)
            self.bob = bob = User('bob', "bob's secret", 65534, 65534, self.homes / 'bob')
            line = f'{bob.login}:{bob.password}:{bob.uid}:{bob.gid}::{bob.home}:/bin/sh\n'
            virtual = self.tool_for_virtual_users(write_file(self.folder / 'vmail', line, 0o600))
            self.carol = stack.enter_context(system_user('c', "carol's secret", self.homes))
            for user in (self.alice, self.bob, self.carol):
                user.make_maildir()
            set_maildir_password(self.carol)
            self.users = {
                'checkpassword.login': self.alice,
                'virtual': self.bob,
                'checkpw': self.carol,
            }
            self.tools = {
                'checkpassword.login': f'name=checkpassword.login {program("checkpassword.login")}',
                'virtual': f'name=virtual {virtual}',
                'checkpw': f'name=checkpw {program("checkpw")}',
                'checkapoppw': f'name=checkapoppw {program("checkapoppw")}',
            }
            self.reset()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tool_for_virtual_users(self, file: Path) -> str:
        """Return the command of cvm, or where that is not installed (Debian 13 has none), of one that stands for it."""
        if machine.lacks('cvm'):
            body = f'import os, sys\nargv = sys.argv[1:]\n{tools.reads_users(str(file))}'
            head = f'#!{machine.PYTHON} -IS\n'
            return str(write_file(self.folder / 'virtual', head + body, 0o755))
        words = ('env', f'CVM_PWFILE_PATH={file}', 'cvm-checkpassword', 'cvm-pwfile')
        return ' '.join(program(word) or word for word in words)

    def reset(self) -> None:
        """Configure the chain of all three tools, empty the mailboxes, forget the log."""
        self.configure(
            'failure=temporary',
            *(self.tools[name] for name in ('checkpassword.login', 'virtual', 'checkpw')),
        )
        for user in self.users.values():
            user.empty_maildir()
        self.log.clear()

    def configure(self, *lines: str) -> None:
        """Replace the wrapper's configuration by these lines."""
        write_file(self.configuration, ''.join(line + '\n' for line in lines))

    def script(self, name: str, text: str) -> str:
        """Write a shell script that everybody may run; return its path."""
        return str(write_file(self.folder / name, f'#!/bin/sh\n{text}\n', 0o755))

    def qpsmtpd(self) -> Qpsmtpd:
        return Qpsmtpd(self.folder / 'qpsmtpd', str(self.wrapper), self.homes, self.environment)

    def dovecot(self, lookups: bool = False) -> Dovecot:
        folder = self.folder / f'dovecot{next(self._numbers)}'
        return Dovecot(folder, str(self.wrapper), self.environment, lookups)

    def tcpserver(self, *client_command: str) -> Tcpserver:
        folder = self.folder / f'tcpserver{next(self._numbers)}'
        return Tcpserver(folder, client_command, self.environment)


class OnAMailHost(unittest.TestCase):
    """Starts the machine once a class; every test begins with the chain of three tools, no mail and an empty log."""

    host: MailHost
    stack: contextlib.ExitStack

    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = contextlib.ExitStack()
        cls.addClassCleanup(cls.stack.close)
        cls.host = cls.stack.enter_context(MailHost())

    def setUp(self) -> None:
        self.host.reset()

    def results(self) -> list[str]:
        """Return the lines of the log that report a login."""
        return [
            line.text
            for line in self.host.log.lines('qmail-pwrap[')
            if line.text.startswith('result=')
        ]

    def assert_logged(self, *patterns: str) -> None:
        """The log reports one login for each pattern, in this order, and no other."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: len(self.results()) >= len(patterns), 'so many logins in the log')
        self.assertEqual(len(self.results()), len(patterns), self.results())
        for line, pattern in zip(self.results(), patterns):
            self.assertRegex(line, f'^{pattern}$')


def smtp_send(port: int, sender: User, recipient: User, subject: str) -> None:
    """Log in as the sender and send the recipient a mail."""
    with smtplib.SMTP(LOOPBACK, port, timeout=LONG_ENOUGH) as client:
        client.login(sender.login, sender.password)
        client.sendmail(sender.address, recipient.address, f'Subject: {subject}\r\n\r\nHello.\r\n')
