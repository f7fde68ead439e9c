"""What README.md shows for Dovecot 2.4, for PAM and of tools, put in its place for the tests."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import smtplib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.harness import machine
from tests.harness.documents import BIN, BLOCK, block, readme
from tests.harness.machine import program
from tests.harness.mailhost import OnAMailHost, User, system_user
from tests.harness.processes import LONG_ENOUGH
from tests.harness.servers import LOOPBACK, Mailboxes, write_file

CHECK_VMAIL, CHECK_LDAP = '/usr/local/bin/check-vmail', '/usr/local/bin/check-ldap'
VMAIL = '/etc/vmail'
SASL = '/var/spool/postfix/private/auth'
LUA = '/etc/dovecot/qmail-pwrap.lua'
FOR_PAM = '/usr/local/sbin/qmail-pwrap-pam'


def shown(path: str) -> str:
    """Return the one block of README.md that says in its head that it is this file."""
    head = re.compile(rf'(?:#!.*\n)?(?:#|--) {re.escape(path)}(?![\w/.-])')
    [text] = [text for _, text in BLOCK.findall(readme()) if head.match(text)]
    return text


def place(folder: Path, path: str, **replaced: str | os.PathLike[str]) -> str:
    """Put a program that README.md shows into a folder, with other paths in it; return its path.

    replaced: by the name of a path, as in vmail='/tmp/vmail', what stands in its place.
    """
    paths = {'vmail': VMAIL, 'wrapper': f'{BIN}/qmail-pwrap'}
    text = shown(path).replace('#!/usr/bin/python3 ', f'#!{machine.PYTHON} ')
    for name, instead in replaced.items():
        if paths[name] not in text:
            raise AssertionError(f'{path} does not name {paths[name]}')
        text = text.replace(paths[name], str(instead))
    return str(write_file(folder / os.path.basename(path), text, 0o755))


def vmail_line(login: str, password: str | bytes, uid: int, gid: int, home: str | Path) -> str:
    """Return a line of check-vmail's file."""
    salt = os.urandom(16)
    secret = password.encode() if isinstance(password, str) else password
    key = hashlib.scrypt(secret, salt=salt, n=16384, r=8, p=1)
    return f'{login}:{(salt + key).hex()}:{uid}:{gid}::{home}:/bin/sh\n'


class Dovecot24(Mailboxes):
    """Dovecot 2.4 with Debian's configuration, changed as README.md says, and moved to loopback ports and a folder.

    lua: the file for `passdb lua`, if it is not README.md's. more: lines of local.conf below those of README.md.
    """

    DEBIANS = '/usr/share/dovecot'  # what the package puts into /etc/dovecot
    # No waiting after failures, and no penalty for the address that all clients of the tests have.
    MOVED = """
        base_dir = {folder}/run
        state_dir = {folder}/state
        log_path = {folder}/log
        protocols = imap pop3 lmtp
        ssl = no
        auth_failure_delay = 0
        auth_internal_failure_delay = 0
        login_trusted_networks = {address}
        first_valid_uid = 1
        import_environment {{
            {environment}
        }}
        service imap-login {{
            chroot =
            inet_listener imap {{
                listen = {address}
                port = {imap_port}
            }}
            inet_listener imaps {{
                port = 0
            }}
        }}
        service pop3-login {{
            chroot =
            inet_listener pop3 {{
                listen = {address}
                port = {pop3_port}
            }}
            inet_listener pop3s {{
                port = 0
            }}
        }}
    """

    def __init__(
        self,
        folder: Path,
        wrapper: str,
        vmail: Path,
        environment: Mapping[str, str],
        lua: str = '',
        more: str = '',
    ) -> None:
        super().__init__(folder, {})
        self.wrapper = wrapper
        self.vmail = vmail
        self.wrapper_environment = environment
        self.lua = lua or shown(LUA)
        self.more = more

    @property
    def configuration(self) -> Path:
        return self.folder / 'dovecot' / 'dovecot.conf'

    @property
    def sasl(self) -> str:
        """The socket at which Postfix would ask."""
        return f'{self.folder}/sasl'

    def ask_as_postfix_does(self, login: str, password: str) -> str:
        """Authenticate at the socket for Postfix; return the answer: OK or FAIL, and its fields."""
        response = base64.b64encode(f'\0{login}\0{password}'.encode()).decode()
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
            server.settimeout(LONG_ENOUGH)
            server.connect(self.sasl)
            with server.makefile('rw', encoding='utf-8') as lines:
                fields = ('AUTH', '1', 'PLAIN', 'service=smtp', 'rip=192.0.2.7', f'resp={response}')
                lines.write(f'VERSION\t1\t1\nCPID\t{os.getpid()}\n' + '\t'.join(fields) + '\n')
                lines.flush()
                return next(line for line in lines if line.startswith(('OK\t', 'FAIL\t'))).strip()

    def deliver(self, recipient: str, subject: str) -> None:
        """Hand in a mail by LMTP; smtplib.SMTPException has the server's words if it does not take it."""
        with smtplib.LMTP(f'{self.folder}/run/lmtp') as client:
            client.sendmail('test@example.net', recipient, f'Subject: {subject}\r\n\r\nHello.\r\n')

    def command(self) -> list[str]:
        folder = self.configuration.parent
        if not folder.exists():
            shutil.copytree(self.DEBIANS, folder)
            comment(folder / 'conf.d/10-auth.conf', '!include auth-system.conf.ext')
            master = folder / 'conf.d/10-master.conf'
            uncomment(master, f'unix_listener {SASL} {{', 3)
            write_file(master, master.read_text().replace(SASL, self.sasl))
        lua = write_file(
            folder / 'qmail-pwrap.lua', self.lua.replace(f'{BIN}/qmail-pwrap', self.wrapper)
        )
        text = block('dovecot', '# /etc/dovecot/local.conf')
        text = text.replace(LUA, str(lua)).replace(VMAIL, str(self.vmail))
        moved = self.MOVED.format(
            folder=self.folder,
            address=LOOPBACK,
            pop3_port=self.pop3_port,
            imap_port=self.imap_port,
            environment='\n'.join(f'{n} = {v}' for n, v in self.wrapper_environment.items()),
        )
        write_file(folder / 'local.conf', f'{text}{moved}\n{self.more}\n')
        return [program('dovecot'), '-F', '-c', str(self.configuration)]


def comment(file: Path, line: str) -> None:
    """Put a `#` before this line of a file; AssertionError unless it is there once."""
    lines = file.read_text().splitlines(True)
    [number] = [number for number, one in enumerate(lines) if one.strip() == line]
    lines[number] = f'#{lines[number]}'
    write_file(file, ''.join(lines))


def uncomment(file: Path, line: str, count: int) -> None:
    """Remove the `#` before this line of a file, and before those behind it, so many in all."""
    lines = file.read_text().splitlines(True)
    [first] = [number for number, one in enumerate(lines) if one.strip() == f'#{line}']
    for number in range(first, first + count):
        lines[number] = lines[number].replace('#', '', 1)
    write_file(file, ''.join(lines))


class OnFirstConfiguration(OnAMailHost):
    """A machine with README.md's first configuration: alice is a system user, bob@example.org and zoe@example.org are
    virtual users with one uid."""

    bob: User
    zoe: User
    vmail: Path
    chain: list[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        host = cls.host
        owner = cls.stack.enter_context(system_user('v', '', host.homes))
        cls.bob, cls.zoe = (
            User(f'{name}@example.org', password, owner.uid, owner.gid, host.homes / name)
            for name, password in (('bob', 'builder'), ('zoe', '"$(id)" \'\\n\\\' ümläut'))
        )
        cls.vmail = host.folder / 'vmail'
        lines = [vmail_line(one.login, one.password, *one[2:]) for one in (cls.bob, cls.zoe)]
        write_file(cls.vmail, ''.join(lines), 0o600)
        tool = place(host.folder, CHECK_VMAIL, vmail=cls.vmail)
        text = block(first='# pwrap.conf: all').replace(CHECK_VMAIL, tool)
        cls.chain = [line for line in text.splitlines() if not line.startswith('#')]

    def setUp(self) -> None:
        super().setUp()
        for user in (self.bob, self.zoe):
            shutil.rmtree(user.home, ignore_errors=True)
            user.make_maildir()
        self.host.configure(*self.chain)

    def tool_first(self, body: str, *settings: str) -> None:
        """Have a further tool, of a few lines of shell and with these settings, before those of README.md."""
        line = ' '.join(('name=first', *settings, self.host.script('first', body)))
        self.host.configure(self.chain[0], line, *self.chain[1:])


class OnDovecot24(OnFirstConfiguration):
    """The same with Dovecot 2.4, which starts once a class."""

    dovecot: Dovecot24

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.dovecot = cls.start_dovecot(**cls.options())

    @classmethod
    def options(cls) -> dict[str, str]:
        """Say what is not as in README.md: see Dovecot24."""
        return {}

    @classmethod
    def start_dovecot(cls, wrapper: str = '', lua: str = '', more: str = '') -> Dovecot24:
        """Start a server until the class ends; see Dovecot24."""
        folder = Path(machine.make_folder('pwrap-dovecot-'))
        cls.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        host = cls.host
        server = Dovecot24(
            folder / 'server',
            wrapper or str(host.wrapper),
            cls.vmail,
            host.environment,
            lua,
            more,
        )
        return cls.stack.enter_context(server)


@contextlib.contextmanager
def pam_service(script: str) -> Iterator[str]:
    """A PAM service whose file has README.md's lines, with this script in the place of README.md's; yield its name."""
    lines = re.findall(r'`((?:auth|account) \w+ pam_\w+\.so[^`]*)`', readme())
    name = f'pwt{os.urandom(4).hex()}'
    path = write_file(
        Path('/etc/pam.d') / name, ''.join(f'{line}\n' for line in lines).replace(FOR_PAM, script)
    )
    try:
        yield name
    finally:
        path.unlink()
