"""What this machine has, where the script and its Python are, and the skips that say what is missing."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import functools
import importlib.util
import os
import pty
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from types import ModuleType
from typing import Any

HARNESS = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HARNESS))
ORIGINAL = os.path.join(TOP, 'qmail_pwrap.py')
SYSTEM_PATH = '/usr/sbin:/usr/bin:/sbin:/bin'
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x1000, 0x4000, 0x40000, 2
LOG = '/dev/log'

PROGRAMS = {  # Debian package: what the tests run of it
    'bash': ['bash'],
    'checkpw': ['checkpw', 'checkapoppw'],
    'cvm': ['cvm-checkpassword', 'cvm-pwfile'],
    'daemontools': ['multilog', 'softlimit'],
    'dovecot-auth-lua': ['/usr/lib/dovecot/modules/auth/libauthdb_lua.so'],
    'dovecot-core': ['dovecot', 'doveadm', 'doveconf'],
    'dovecot-imapd': ['/usr/lib/dovecot/imap'],
    'dovecot-lmtpd': ['/usr/lib/dovecot/lmtp'],
    'dovecot-pop3d': ['/usr/lib/dovecot/pop3'],
    'fail2ban': ['fail2ban-client', 'fail2ban-regex'],
    'fgetty': ['checkpassword.login'],
    'gcc': ['gcc'],
    'locales': ['localedef', '/usr/share/i18n/charmaps'],
    'make': ['make'],
    'mount': ['mount'],
    'passwd': ['useradd', 'userdel', 'chpasswd'],
    'pamtester': ['pamtester'],
    'procps': ['ps'],
    'qpsmtpd': ['qpsmtpd-forkserver'],
    'strace': ['strace'],
    'sudo': ['sudo'],
    'swaks': ['swaks'],
    'systemd': ['systemd-socket-activate'],
    'ucspi-tcp': ['tcpserver'],
    'util-linux': ['setsid', 'unshare'],
    'xinetd': ['xinetd'],
}


# This process


def prepare_this_process() -> None:
    """Undo what nohup, cron and CI runners leave behind: closed standard streams, ignored and blocked signals; and let
    no test write to the machine's log, where root can see to that.

    What was ignored gets a handler that does nothing, so that it does nothing here, and has its default action in
    every program that is started from here.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    with contextlib.suppress(ValueError):  # not in the main thread
        for one in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
            if signal.getsignal(one) == signal.SIG_IGN:
                action = signal.SIG_DFL if one == signal.SIGCHLD else (lambda *_: None)
                signal.signal(one, action)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            have_own_dev()


has_own_dev = False


def have_own_dev() -> None:
    """Have a /dev with what is everybody's there, for this process and all that it starts. Nobody listens at its
    /dev/log: what a test makes a program log, users and addresses, is no event of this machine. Raises OSError."""
    global has_own_dev
    have_own_mounts()
    folder = tempfile.mkdtemp(prefix='pwrap-dev-')
    mount('none', folder, 'tmpfs', 0, 'mode=755')
    try:
        for one in os.scandir('/dev'):
            copy = os.path.join(folder, one.name)
            status = one.stat(follow_symlinks=False)
            if one.is_symlink():
                os.symlink(os.readlink(one.path), copy)
            elif one.is_dir():
                os.mkdir(copy)
                mount(one.path, copy, None, MS_BIND | MS_REC)
            elif stat.S_ISCHR(status.st_mode) and status.st_mode & 0o006 == 0o006:
                os.mknod(copy, stat.S_IFCHR, status.st_rdev)  # /dev/ptmx works beside /dev/pts
                os.chmod(copy, 0o666)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, 'log'))  # a link to the socket
        mount(folder, '/dev', None, MS_BIND | MS_REC)
        has_own_dev = True
    finally:
        unmount(folder)
        os.rmdir(folder)


def succeeds_in_a_child(action: Callable[[], None]) -> bool:
    """Tell whether an action comes to its end without an exception, in a process of its own."""
    child = os.fork()
    if not child:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


# Where things are


def everybody_enters(folder: str) -> bool:
    """Tell whether every user can reach what lies in a folder."""
    while os.stat(folder).st_mode & 1:
        if folder == '/':
            return True
        folder = os.path.dirname(folder)
    return False


def everybody_runs(path: str) -> bool:
    """Tell whether every user can reach a program, through links too."""
    return all(everybody_enters(os.path.dirname(way)) for way in (path, os.path.realpath(path)))


def _takes_programs(folder: str) -> bool:
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    return not os.statvfs(folder).f_flag & os.ST_NOEXEC and everybody_enters(
        os.path.realpath(folder)
    )


def _public_root() -> str:
    """Return the folder for the tests' folders: one that every user can enter, if there is one."""
    usual = tempfile.gettempdir()  # of one user alone, where libpam-tmpdir is
    return next(filter(_takes_programs, (usual, '/tmp', '/var/tmp', '/dev/shm')), usual)


PUBLIC = _public_root()


def make_folder(prefix: str = 'pwrap-') -> str:
    """Make a folder that every user may enter and read, for whoever removes it again."""
    folder = tempfile.mkdtemp(prefix=prefix, dir=PUBLIC)
    os.chmod(folder, 0o755)
    return folder


# The script runs under the Python that its first line names. To test it under another one, PWRAP_TEST_PYTHON names that.
USUAL_PYTHON = '/usr/bin/python3'
PYTHON = os.environ.get('PWRAP_TEST_PYTHON') or (
    USUAL_PYTHON if os.path.exists(USUAL_PYTHON) else sys.executable
)


def copy_with_python(source: str, target: str) -> str:
    """Copy a program in Python, and name PYTHON in its first line. Return the copy's path."""
    with open(source, encoding='utf-8') as original:
        text = original.read()
    if text.startswith('#!'):
        text = text.partition('\n')[2]
    with open(target, 'w', encoding='utf-8') as copy:
        copy.write(f'#!{PYTHON} -ISXutf8\n{text}')
    os.chmod(target, 0o755)
    return target


def _place_script() -> str:
    """Return the path of the script to be tested: a copy where another Python or other users must run it."""
    if PYTHON == USUAL_PYTHON and everybody_runs(ORIGINAL):
        return ORIGINAL
    folder = make_folder('pwrap-script-')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return copy_with_python(ORIGINAL, os.path.join(folder, 'qmail_pwrap.py'))


SCRIPT = _place_script()


@functools.cache
def command() -> str:
    """Return the path of the command to be tested, as `make install` makes it; where there is no make, of the script."""
    if lacks('make'):
        return SCRIPT
    folder = make_folder('pwrap-installed-')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    words = [program('make'), '-s', '-C', TOP, 'install', f'DESTDIR={folder}', f'PYTHON={PYTHON}']
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return f'{folder}/var/qmail/bin/qmail-pwrap'


def import_script(path: str = SCRIPT) -> ModuleType:
    """Return the script as a module, for tests of single functions."""
    spec = importlib.util.spec_from_file_location('qmail_pwrap', path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


def program(name: str) -> str:
    """Return the absolute path of a program of the system, or '' if it is not installed."""
    if name.startswith('/'):
        return name if os.path.exists(name) else ''
    return shutil.which(name, path=SYSTEM_PATH) or ''


# Users, and a view of the system of one's own


def someone() -> tuple[int, int]:
    """Return uid and gid of a user without rights."""
    try:
        user = pwd.getpwnam('nobody')
    except KeyError:
        return 65534, 65534
    return user.pw_uid, user.pw_gid


def drop_root() -> None:
    """In a new process of root: become a user without rights."""
    become_user(*someone())


def become_user(uid: int, gid: int | None = None) -> None:
    """In a new process of root: become the user of that number, with the group of the same number or of another."""
    group = uid if gid is None else gid
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(uid, uid, uid)


def have_own_mounts() -> None:
    """Have mounts that no other process sees, but for those that are started from here. Raises OSError."""
    check_call(libc().unshare(CLONE_NEWNS))
    mount('none', '/', None, MS_REC | MS_PRIVATE)


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str = '') -> None:
    """Mount something, as mount(2) does. Raises OSError."""
    words = [word and os.fsencode(word) for word in (source, target, kind)]
    check_call(libc().mount(*words, flags, options.encode()))


def unmount(target: str) -> None:
    check_call(libc().umount2(os.fsencode(target), MNT_DETACH))


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def check_call(result: int) -> None:
    """Raise the OSError of a call of libc that has failed."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def hide(folder: str) -> None:
    """In a new process of root: see an empty folder in that place. Raises OSError."""
    have_own_mounts()
    mount('none', folder, 'tmpfs')


def hide_proc() -> None:
    """In a new process of root: have no /proc."""
    hide('/proc')


# What is missing


@functools.cache
def _lacks_root() -> str:
    if os.geteuid() != 0:
        return 'only root can do this'
    return '' if succeeds_in_a_child(drop_root) else 'this root cannot become another user'


@functools.cache
def _lacks_namespaces() -> str:
    if os.geteuid() != 0:
        return 'only root can do this'
    allowed = succeeds_in_a_child(lambda: hide(PUBLIC))
    return '' if allowed else 'namespaces or mounts are not allowed here'


def _lacks_proc() -> str:
    return '' if os.path.exists('/proc/self/stat') else '/proc is not mounted'


@functools.cache
def _lacks_terminals() -> str:
    try:
        for number in pty.openpty():
            os.close(number)
    except OSError:
        return 'no terminal can be opened: /dev/pts is not mounted'
    return ''


def _lacks_public_folder() -> str:
    return '' if _takes_programs(PUBLIC) else 'no temporary folder that every user can enter'


def _lacks_public_python() -> str:
    return '' if everybody_runs(PYTHON) else f'not every user can reach {PYTHON}'


def somebody_logs() -> bool:
    """Tell whether somebody listens at /dev/log."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        try:
            log.connect(LOG)
        except OSError as error:
            return (
                error.errno == errno.EPROTOTYPE
            )  # a socket of another kind, which syslog(3) tries too
    return True


@functools.cache
def _lacks_syslog() -> str:
    """Say why nobody can listen here, unseen by the system or in its place."""
    if os.geteuid() != 0:
        return 'only root can do this'
    if somebody_logs() and not has_own_dev:
        return f'somebody listens at {LOG}, and mounts are not allowed here'
    return '' if os.access('/dev', os.W_OK) else 'nothing can be made in /dev'


@functools.cache
def _lacks_strace() -> str:
    strace = program('strace')
    if not strace:
        return missing('strace')
    done = subprocess.run(
        [strace, '-o', os.devnull, program('true')],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=20,
    )
    return '' if done.returncode == 0 else 'strace is not allowed here'


@functools.cache
def _lacks_users() -> str:
    """Say why no system user can be made."""
    writable = os.access('/etc/passwd', os.W_OK) and os.access('/etc', os.W_OK)
    return lacks('root', 'passwd') or ('' if writable else '/etc/passwd cannot be written')


@functools.cache
def _lacks_dovecot(version: str) -> str:
    dovecot = program('dovecot')
    if not dovecot:
        return ''  # that is what lacks() says
    done = subprocess.run(
        [dovecot, '--version'], capture_output=True, text=True, check=False, timeout=20
    )
    found = done.stdout.partition(' ')[0].strip()
    return '' if found.startswith(f'{version}.') else f'Dovecot is {found} here, not {version}'


FACILITIES: dict[
    str, Callable[[], str]
] = {  # what a test may need besides packages: why it is not there, or ''
    'root': _lacks_root,
    '/proc': _lacks_proc,
    '/dev/pts': _lacks_terminals,
    'dovecot 2.3': lambda: _lacks_dovecot('2.3'),  # the last that has checkpassword
    'dovecot 2.4': lambda: _lacks_dovecot('2.4'),
    'namespaces': _lacks_namespaces,
    'public folder': _lacks_public_folder,
    'public python': _lacks_public_python,
    'strace': _lacks_strace,
    'syslog': _lacks_syslog,
    'users': _lacks_users,
}


def missing(*packages: str) -> str:
    return f'Debian package not installed: {", ".join(packages)}'


def lacks(*wanted: str) -> str:
    """Say what this machine lacks of FACILITIES and of Debian packages, or '' if nothing."""
    reasons = [FACILITIES[one]() for one in wanted if one in FACILITIES]
    packages = ['dovecot-core' if one.startswith('dovecot 2.') else one for one in wanted]
    packages = [one for one in packages if one not in FACILITIES]
    packages = [one for one in packages if not all(map(program, PROGRAMS[one]))]
    if packages:
        reasons.append(missing(*packages))
    return '; '.join(dict.fromkeys(filter(None, reasons)))


def needs(*wanted: str) -> Callable[[Any], Any]:
    """Skip a test or a class of tests, with the reason, where this machine lacks what it needs.

    needs('root', '/proc', 'procps'): names of FACILITIES, and of Debian packages in PROGRAMS.
    """
    reason = lacks(*wanted)
    return unittest.skipIf(bool(reason), reason)
