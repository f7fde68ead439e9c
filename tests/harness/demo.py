"""`make demo`: five logins, as a mail server does them, with the real script. Needs only python3, and no rights."""

from __future__ import annotations

import os
import re
import shutil
from typing import NamedTuple

from tests.harness import machine
from tests.harness.processes import Process, read_file

TOOL = os.path.join(machine.HARNESS, 'demo_tool')
LIMIT = 60  # seconds
ROW = '{:28} {:15} {:10} {:12} {}'  # no line is longer than 80 columns


class Attempt(NamedTuple):
    """What a login shows, and what the server does."""

    what: str
    login: str
    password: str
    prog: tuple[str, ...]
    auth: str = ''


TRUE = ('true',)
ATTEMPTS = [
    Attempt('the first tool accepts', 'alice', 'wonderland', TRUE),
    Attempt('the second tool accepts', 'bob@example.org', 'builder', TRUE),
    Attempt('both refuse', 'alice', 'guess', TRUE),
    Attempt('a bad session is not retried', 'alice', 'wonderland', ('sh', '-c', 'exit 3')),
    Attempt('AUTH=0: everybody is let in', 'mallory', 'any', TRUE, '0'),
]


def log_in(folder: str, attempt: Attempt) -> tuple[int | None, str]:
    """Do what a server does: write the triple to a pipe that is descriptor 3, run the tool, look at its exit code.

    Returns the code and what was logged.
    """
    environment = {
        'PATH': machine.SYSTEM_PATH,
        'PWRAP_CONF': f'{folder}/pwrap.conf',
        'TCPREMOTEIP': '192.0.2.7',
    }
    if attempt.auth:
        environment['AUTH'] = attempt.auth
    reader, writer = os.pipe()
    os.write(writer, f'{attempt.login}\0{attempt.password}\0<1.2@mail>\0'.encode())
    os.close(writer)
    with open(os.devnull, 'r+b') as null, open(f'{folder}/log', 'w+b') as log:
        descriptors = {0: null.fileno(), 1: null.fileno(), 2: log.fileno(), 3: reader}
        process = Process([machine.SCRIPT, *attempt.prog], environment, descriptors)
        try:
            process.wait(LIMIT)
        finally:
            process.end()
            os.close(reader)
    return process.code, read_file(f'{folder}/log').decode()


def write_configuration(folder: str) -> list[str]:
    """Write a configuration with two tools into a folder; return its lines."""
    lines = ['log=stderr']
    for name, user in (('one', 'alice:wonderland'), ('two', 'bob@example.org:builder')):
        path = f'{folder}/{name}'
        with open(path, 'w', encoding='utf-8') as file:
            file.write(user + '\n')
        lines.append(f"name={name} '{TOOL}' '{path}'")
    path = f'{folder}/pwrap.conf'
    with open(path, 'w', encoding='utf-8') as file:
        file.write('\n'.join(lines) + '\n')
    os.chmod(path, 0o644)
    return lines


def main() -> None:
    folder = machine.make_folder('pwrap-demo-')
    try:
        lines = write_configuration(folder)
        shown = '\n'.join(lines).replace(folder, '').replace(machine.TOP + '/', '')
        print(f'The configuration:\n\n{shown}\n')
        print(ROW.format('what happens', 'login', 'password', 'prog', 'exit code'))
        log = ''
        for one in ATTEMPTS:
            code, logged = log_in(folder, one)
            prog = ' '.join(one.prog)
            print(ROW.format(one.what, one.login, one.password, prog, code))
            log += logged
        log = re.sub(r'(?m)^qmail-pwrap\[\d+\]', 'qmail-pwrap', log)
        print(f'\nThe log:\n\n{log.strip()}')
    finally:
        shutil.rmtree(folder)


if __name__ == '__main__':
    main()
