"""`make demo`: five logins, as a mail server does them, with the real script. Needs only python3, and no rights."""

import os
import re
import tempfile

from tests.support import SCRIPT, TOP

TOOL = os.path.join(TOP, 'tests', 'demo_tool')

LOGINS = [  # what it shows, login, password, prog, AUTH
    ('the first tool accepts', 'alice', 'wonderland', ['/bin/true'], None),
    ('the second tool accepts', 'bob@example.org', 'builder', ['/bin/true'], None),
    ('both refuse', 'alice', 'guess', ['/bin/true'], None),
    ('a session that ends badly is not retried', 'alice', 'wonderland', ['/bin/sh', '-c', 'exit 3'], None),
    ('AUTH=0: everybody is let in', 'mallory', 'any', ['/bin/true'], '0'),
]


def log_in(configuration, login, password, prog, auth):
    """Do what a server does: write the triple to a pipe that is descriptor 3, run the tool, look at its exit code.
    Returns the code and what was logged."""
    reader, writer = os.pipe()
    os.write(writer, b'%s\0%s\0<1.2@mail>\0' % (login.encode(), password.encode()))
    os.close(writer)
    log, logging = os.pipe()
    environment = {'PATH': '/usr/bin:/bin', 'PWRAP_CONF': configuration, 'TCPREMOTEIP': '192.0.2.7'}
    if auth is not None:
        environment['AUTH'] = auth
    pid = os.fork()
    if pid == 0:
        os.dup2(logging, 20)
        os.dup2(reader, 3)
        if reader == 3:
            os.set_inheritable(3, True)
        os.dup2(20, 2)
        os.closerange(4, 100)
        os.execve(SCRIPT, [SCRIPT, *prog], environment)
    os.close(reader)
    os.close(logging)
    with open(log) as lines:
        logged = lines.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), logged


def main():
    with tempfile.TemporaryDirectory() as folder:
        lines = ['log=stderr']
        for name, users in (('system', 'alice:wonderland'), ('virtual', 'bob@example.org:builder')):
            path = os.path.join(folder, name)
            with open(path, 'w') as file:
                file.write(users + '\n')
            lines.append(f"name={name} '{TOOL}' '{path}'")
        configuration = os.path.join(folder, 'pwrap.conf')
        with open(configuration, 'w') as file:
            file.write('\n'.join(lines) + '\n')
        os.chmod(configuration, 0o644)

        shown = '\n'.join(lines).replace(folder, '').replace(TOP + '/', '')
        print('The configuration:\n')
        print('    ' + shown.replace('\n', '\n    ') + '\n')
        print(f'{"what happens":42} {"login":16} {"password":11} {"prog":22} exit code')
        log = ''
        for what, login, password, prog, auth in LOGINS:
            code, logged = log_in(configuration, login, password, prog, auth)
            print(f'{what:42} {login:16} {password:11} {" ".join(prog):22} {code}')
            log += logged
        print('\nThe log:\n')
        print('    ' + re.sub(r'(?m)^qmail-pwrap\[\d+\]', 'qmail-pwrap', log).strip().replace('\n', '\n    '))


if __name__ == '__main__':
    main()
