#!/usr/bin/python3
"""Stand-ins for the servers that Debian does not have: what they do around a login, as their manual pages promise it.

    standins.py smtpd [-w SECONDS] TOOL [prog [arg ...]]           qmail-smtpd with the AUTH patch
    standins.py popup HOST TOOL prog [arg ...]                     qmail-popup
    standins.py authup [-t TRIES] smtp|pop3 TOOL prog [arg ...]    authup, of acceptutils

Descriptors 0 and 1 are the client. All three write the triple to a pipe that is the tool's descriptor 3, wait for the
tool (or what it became) and tell the client if that exited non-zero or crashed. They differ in what surrounds this.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

HOST = 'mail.example.org'
SMTPD_WAIT = 5  # seconds that qmail-smtpd waits before it says 535
ACCEPTED, REFUSED, CRASHED, UNWRITTEN = 'accepted', 'refused', 'crashed', 'unwritten'
SMTPD_REPLIES = {
    ACCEPTED: '235 ok, go ahead (#2.0.0)',
    REFUSED: '535 auth failure (#5.7.1)',
    CRASHED: "454 oops, problem with child and I can't auth (#4.3.0)",
    UNWRITTEN: "454 oops, unable to write pipe and I can't auth (#4.3.0)",
}
POP3_REPLIES = {  # after a success the session itself has said +OK
    REFUSED: '-ERR authorization failed',
    CRASHED: '-ERR aack, child crashed',
    UNWRITTEN: '-ERR unable to write pipe',
}
AUTHUP_REPLIES = {
    'pop3': POP3_REPLIES,
    'smtp': {
        REFUSED: '535 authorization failed (#5.7.1)',
        CRASHED: '454 aack, child crashed (#4.3.0)',
        UNWRITTEN: '454 unable to write pipe (#4.3.0)',
    },
}


class Client:
    """The client on descriptors 0 and 1, line by line."""

    def __init__(self) -> None:
        self._unread = b''

    def say(self, line: str) -> None:
        os.write(1, line.encode() + b'\r\n')

    def ask(self, line: str) -> bytes:
        self.say(line)
        return self.hear()

    def hear(self) -> bytes:
        """Return the next line without its end; leave when the client has left."""
        while b'\n' not in self._unread:
            if not (some := os.read(0, 1024)):
                raise SystemExit(1)
            self._unread += some
        line, self._unread = self._unread.split(b'\n', 1)
        return line.rstrip(b'\r')

    def command(self) -> tuple[str, bytes]:
        """Return the next command's name in lower case, and its argument."""
        name, _, argument = self.hear().partition(b' ')
        return name.decode('latin-1').lower(), argument


def timestamp(host: str) -> bytes:
    """Return a challenge that was never used before."""
    return f'<{os.getpid()}.{int(time.time())}@{host}>'.encode()


def check(tool: Sequence[str], login: bytes, password: bytes, challenge: bytes) -> str:
    """Run the tool with the triple on its descriptor 3; return what became of it and of what it became."""
    with contextlib.suppress(OSError):
        os.close(3)
    reading, writing = os.pipe()
    if reading != 3:
        return UNWRITTEN
    child = os.fork()
    if not child:
        become(tool)
    os.close(reading)
    try:
        os.write(writing, b''.join(field + b'\0' for field in (login, password, challenge)))
    except BrokenPipeError:
        return UNWRITTEN
    finally:
        os.close(writing)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return CRASHED
    return REFUSED if os.WEXITSTATUS(status) else ACCEPTED


def become(command: Sequence[str]) -> None:
    """Exec a command with descriptor 3 open; exit 1 if there is none, as these servers do."""
    try:
        os.set_inheritable(3, True)
        for number in (
            signal.SIGPIPE,
            signal.SIGXFSZ,
        ):  # Python ignores them; a C program would not
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], list(command))
    finally:
        os._exit(1)


# SMTP


class Cancelled(Exception):
    """The client's answer is not one; str() is what to reply."""


def decoded(text: bytes) -> bytes:
    if text == b'*':
        raise Cancelled('501 auth exchange cancelled (#5.0.0)')
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Cancelled('501 malformed auth input (#5.5.4)') from None


def asked(client: Client, question: bytes) -> bytes:
    return decoded(client.ask('334 ' + base64.b64encode(question).decode()))


def auth_plain(client: Client, initial: bytes) -> tuple[bytes, bytes, bytes]:
    fields = (decoded(initial) if initial else asked(client, b'')).split(b'\0')
    if len(fields) != 3:
        raise Cancelled('501 malformed auth input (#5.5.4)')
    return fields[1], fields[2], b''


def auth_login(client: Client, initial: bytes) -> tuple[bytes, bytes, bytes]:
    name = decoded(initial) if initial else asked(client, b'Username:')
    return name, asked(client, b'Password:'), b''


def auth_cram_md5(client: Client, _initial: bytes) -> tuple[bytes, bytes, bytes]:
    challenge = timestamp(HOST)
    name, space, answer = asked(client, challenge).rpartition(b' ')
    if not space:
        raise Cancelled('501 malformed auth input (#5.5.4)')
    return name, answer, challenge


Attempt = Callable[
    [bytes, bytes, bytes], bool
]  # login, password and challenge in, whether they were accepted out
Mechanism = Callable[[Client, bytes], 'tuple[bytes, bytes, bytes]']


def smtp_dialogue(client: Client, mechanisms: dict[str, Mechanism], attempt: Attempt) -> None:
    """Speak SMTP until the client quits."""
    accepted = False
    client.say(f'220 {HOST} ESMTP')
    while (command := client.command())[0] != 'quit':
        name, argument = command
        mechanism, _, initial = argument.partition(b' ')
        if name == 'ehlo':
            client.say(f'250-{HOST}\r\n250-AUTH {" ".join(mechanisms).upper()}\r\n250 8BITMIME')
        elif name in ('helo', 'noop', 'rset'):
            client.say('250 ok')
        elif name != 'auth':
            client.say('502 unimplemented (#5.5.1)')
        elif accepted:
            client.say("503 you're already authenticated (#5.5.0)")
        elif mechanism.decode('latin-1').lower() not in mechanisms:
            client.say('504 auth type unimplemented (#5.5.1)')
        else:
            try:
                triple = mechanisms[mechanism.decode().lower()](client, initial)
            except Cancelled as reply:
                client.say(str(reply))
            else:
                accepted = attempt(*triple)
    client.say(f'221 {HOST}')


# POP3


def pop3_dialogue(client: Client, challenge: bytes, with_apop: bool, attempt: Attempt) -> None:
    """Speak POP3 up to the login, or until the client quits."""
    user = b''
    client.say('+OK ' + challenge.decode())
    while (command := client.command())[0] != 'quit':
        name, argument = command
        if name not in ('user', 'pass', 'apop')[: 3 if with_apop else 2]:
            client.say('-ERR authorization first')
        elif name == 'pass' and not user:
            client.say('-ERR USER first')
        elif not argument or (name == 'apop' and b' ' not in argument):
            client.say('-ERR syntax error')
        elif name == 'user':
            user = argument
            client.say('+OK ')
        elif name == 'pass':
            attempt(user, argument, challenge)
        else:
            user, _, answer = argument.partition(b' ')
            attempt(user, answer, challenge)
    client.say('+OK ')


# The servers


def option(arguments: list[str], name: str, default: int) -> int:
    """Take `name NUMBER` from the head of the arguments, if it stands there."""
    if arguments[0] != name:
        return default
    number = int(arguments[1])
    del arguments[:2]
    return number


def smtpd(tool: list[str]) -> None:
    """qmail-smtpd: the tool's exit is a yes or a no, and the dialogue goes on here."""
    client = Client()
    wait = option(tool, '-w', SMTPD_WAIT)

    def attempt(login: bytes, password: bytes, challenge: bytes) -> bool:
        result = check(tool, login, password, challenge)
        if result == REFUSED:
            time.sleep(wait)
        client.say(SMTPD_REPLIES[result])
        return result == ACCEPTED

    smtp_dialogue(
        client, {'login': auth_login, 'plain': auth_plain, 'cram-md5': auth_cram_md5}, attempt
    )


def popup(arguments: list[str]) -> None:
    """qmail-popup: the tool becomes the session, and one attempt is all that the client gets."""
    host, *tool = arguments
    client = Client()

    def attempt(login: bytes, password: bytes, challenge: bytes) -> bool:
        os.dup2(1, 2)
        result = check(tool, login, password, challenge)
        if result != ACCEPTED:
            client.say(POP3_REPLIES[result])
        raise SystemExit(1)

    pop3_dialogue(client, timestamp(host), True, attempt)


def authup(arguments: list[str]) -> None:
    """authup: qmail-popup's way for SMTP too; what the tool becomes says 235 itself (fixsmtpio does that)."""
    tries = option(arguments, '-t', 0)
    protocol, *tool = arguments
    left = tries or {'smtp': 5, 'pop3': 1}[protocol]
    client = Client()

    def attempt(login: bytes, password: bytes, challenge: bytes) -> bool:
        nonlocal left
        os.environb[b'AUTHUP_USER'] = login
        os.dup2(1, 2)
        result = check(tool, login, password, challenge)
        if result == ACCEPTED:
            raise SystemExit
        client.say(AUTHUP_REPLIES[protocol][result])
        left -= 1
        if not left:
            raise SystemExit(1)
        return False

    if protocol == 'smtp':
        smtp_dialogue(client, {'login': auth_login, 'plain': auth_plain}, attempt)
    else:
        pop3_dialogue(client, HOST.encode(), False, attempt)


if __name__ == '__main__':
    {'smtpd': smtpd, 'popup': popup, 'authup': authup}[sys.argv[1]](sys.argv[2:])
