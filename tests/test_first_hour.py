"""What README.md tells an administrator to type does what it says: check, test, run, configure."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import unittest
from pathlib import Path

from tests.harness import machine, servers
from tests.harness.documents import BIN, CONTROL, block, commands, example, readme, words
from tests.harness.dovecot24 import CHECK_VMAIL
from tests.harness.logins import ACCEPTS, REJECTS, Case
from tests.harness.machine import TOP, needs, program
from tests.harness.processes import read_file
from tests.harness.tools import knows

NO_SYSTEM_LOG = 'warning: there is no system log (/dev/log) here; log=stderr needs none'


class Commands(Case):
    def shown(self, output: str, **paths: str) -> str:
        """Return what a command printed, with the paths that README.md shows."""
        output = output.replace(self.conf, f'{CONTROL}/pwrap.conf')
        for name, path in paths.items():
            output = output.replace(self.path(name), path)
        return words(output)

    def test_check_prints_what_is_shown(self) -> None:
        """--check of a file with those mistakes prints what is shown and ends with 1, else 0."""
        tool = self.tool('login', REJECTS)
        good = f'# comment\nfailure=temporary\nusers=*@example.net {tool}\n'
        bad = good.replace('*@', '') + 'timout=10 /usr/bin/checkpw\n'
        self.write('pwrap.conf', bad)
        said = self.say('--check')
        self.assertEqual(said.code, 1)
        output = self.shown(said.output, login='/usr/bin/checkpassword.login')
        # Not on every machine.
        output = output.replace(words(NO_SYSTEM_LOG) + ' ', '')
        self.assertIn(words(block('check')), output)
        self.write('pwrap.conf', good)
        self.assertEqual(self.say('--check').code, 0)

    def test_test_prints_what_is_shown(self) -> None:
        """--test of the first configuration prints what is shown; 2 if everybody gets in."""
        real, login = '/usr/bin/checkpassword.login', self.tool('login', REJECTS)
        text = block(first='# pwrap.conf: all').replace(real, login)
        tool = self.tool('vmail', knows([('bob@example.org', 'builder')]))
        self.assertIn(CHECK_VMAIL, text)
        text = text.replace(CHECK_VMAIL, tool)
        self.write('pwrap.conf', text)
        said = self.say('--test', 'bob@example.org', given=b'builder\n')
        self.assertEqual(said.code, 0)
        self.assertIn(words(block('test')), self.shown(said.output, login=real))
        self.tool('vmail', ACCEPTS)
        self.assertEqual(self.say('--test', 'bob@example.org', given=b'x\n').code, 2)

    def test_new_file_before_the_old_one(self) -> None:
        """The line that brings a new file does so if it is good, and only then."""
        [line] = re.findall(r'`(PWRAP_CONF=\S+\.new [^`]+)`', readme())
        self.assertIn(line, example())
        self.write(
            'bin/qmail-pwrap', f'#!/bin/sh\nexec {shlex.quote(machine.SCRIPT)} "$@" 3<&-\n', 0o755
        )
        old, tool = 'users=*', self.tool('yes', ACCEPTS)
        for text, wanted in (('tiemout=3\n', old), (f'{tool}\n', f'{tool}\n')):
            self.write('pwrap.conf', old)
            self.write('pwrap.conf.new', text)
            self.run_program('/bin/sh', '-c', line)
            self.assertEqual(read_file(self.conf).decode(), wanted)

    def test_logins_are_counted_by_tool(self) -> None:
        """The line that counts logins does."""
        [line] = re.findall(r'`(journalctl [^`]+ uniq -c)`', readme())
        log = self.write('log', block('log'))
        said = self.run_program(
            '/bin/sh', '-c', line.replace('journalctl -t qmail-pwrap', f'cat {log}')
        )
        self.assertEqual(said.output.split(), ['1', 'tool=/usr/bin/checkpw'])

    def test_demo_prints_what_is_shown(self) -> None:
        """`make demo` prints the table that is shown."""
        done = self.run_program('make', '-s', '-C', TOP, 'demo')
        self.assertIn(block('demo'), done.output)


class RunFiles(Case):
    # A server that is told to run a tool, and runs it with alice's triple; prog says that it ran.
    SERVER = 'printf \'alice\\0secret\\0\\0\' >"$0.triple"; exec "$@" 3<"$0.triple"'
    STUBS = {
        'softlimit': 'shift 2; exec "$@"',
        'tcpserver': 'while :; do\n'
        'case $1 in -[vRH]) shift ;; -[lug]) shift 2 ;; *) shift 2; exec "$@" ;; esac\ndone',
        'qmail-smtpd': SERVER,
        'qmail-popup': f'shift; {SERVER}',
        'authup': f'shift; {SERVER}',
        'tcp-env': 'exec "$@"',
        'checknotroot': 'exec "$@"',
        'fixsmtpio': 'exec "$@"',
        'ofmipd': 'exit 0',
        'qmail-pop3d': 'exit 0',
        'id': 'echo 17',
    }
    WITHOUT_SHELL = re.compile(
        r'^(server_args = |ExecStart=|smtp-auth-command=|auth/auth_checkpassword checkpw )'
    )

    def test_every_run_line_reaches_prog(self) -> None:
        """Each line, with small programs in place of the servers, runs wrapper and then prog."""
        for name, body in self.STUBS.items():
            self.write(f'bin/{name}', f'#!/bin/sh\n{body}\n', 0o755)
        os.symlink(machine.SCRIPT, self.path('bin/qmail-pwrap'))
        self.configure(self.tool('yes', ACCEPTS))
        lines = [one for one in commands('# qmail-smtpd') if not one.startswith(('#', 'swaks '))]
        self.assertEqual(len(lines), 7)
        for number, line in enumerate(lines, 1):
            with self.subTest(line=line):
                command = self.WITHOUT_SHELL.sub('exec ', line)
                command = command.replace(
                    f'exec {BIN}/qmail-pwrap', f'{BIN}/qmail-smtpd {BIN}/qmail-pwrap'
                )
                command = command.replace(BIN, self.path('bin'))
                done = self.run_program('/bin/sh', '-c', command)
                self.assertEqual(done.code, 0, done.output)
                self.assertIn('result=accepted ', done.output)
                self.assertEqual(self.ran('yes'), number)

    def test_lines_of_the_servers_in_the_tests(self) -> None:
        """What is shown of qpsmtpd is what the tests run."""
        [line] = [one for one in commands('# qmail-smtpd') if one.startswith('auth/')]
        server = servers.Qpsmtpd(Path(self.folder), f'{BIN}/qmail-pwrap', Path('/home'), {})
        server.ports = [25]
        server.command()
        self.assertIn(f'{line}\n', read_file(self.path('config/plugins')).decode())


class FirstConfiguration(Case):
    DEBIANS = '/usr/share/dovecot'  # what the package puts into /etc/dovecot

    @needs('cvm')
    def test_the_line_for_cvm(self) -> None:
        """cvm in the example's line accepts, refuses with 100, and has trouble without its file or
        the home."""
        [tool] = re.findall(r'(?m)^# (.* /usr/bin/cvm-checkpassword .*)$', example())
        home = self.path('bob')
        line = f'bob@example.org:builder:{os.getuid()}:{os.getgid()}::{home}:/bin/false\n'
        file = self.write('vmail', line)
        self.assertIn('/etc/vmail', tool)
        self.configure('failure=temporary', tool.replace('/etc/vmail', file))
        os.mkdir(home)
        for login, password, code in (
            ('example.org', 'builder', 0),
            ('example.org', 'x', 1),
            ('x.example.org', 'builder', 1),
        ):
            triple = f'bob@{login}\0{password}\0\0'.encode()
            self.assertEqual(self.login('true', triple=triple).code, code, triple)
        right = b'bob@example.org\0builder\0\0'
        os.rmdir(home)
        self.assertEqual(self.login('true', triple=right).code, 111)
        os.unlink(file)
        self.assertEqual(self.login('true', triple=right).code, 111)

    @needs('dovecot 2.3')
    @unittest.skipUnless(os.path.isdir(DEBIANS), f'not as in Debian: {DEBIANS} is not there')
    def test_the_steps_for_dovecot(self) -> None:
        """With Debian's files changed as is shown for Debian 12, only the wrapper is asked about
        passwords, as root, and with what is said of LMTP, users are looked up in three places."""
        folder = self.path('dovecot')
        shutil.copytree(self.DEBIANS, folder)
        steps = [
            ('10-auth.conf', r'(?m)^(!include auth-system\.conf\.ext)$', r'#\1'),
            ('10-auth.conf', r'(?m)^#(!include auth-checkpassword\.conf\.ext)$', r'\1'),
            ('auth-checkpassword.conf.ext', r'(?m)^  args = .*$', f'  args = {BIN}/qmail-pwrap'),
        ]
        for name, pattern, new in steps:
            text = read_file(f'{folder}/conf.d/{name}').decode()
            text, count = re.subn(pattern, new, text)
            self.assertEqual(count, 1, name)
            self.write(f'dovecot/conf.d/{name}', text)
        text = block('dovecot', '# for LMTP')
        for fields in re.findall(r'(driver = [\w-]+)(?:, (args = .*))?', text.splitlines()[0]):
            text += '\n'.join(('userdb {', *fields, '}\n'))
        self.write('dovecot/local.conf', text)
        done = self.run_program('doveconf', '-c', f'{folder}/dovecot.conf', '-n')
        self.assertEqual(done.code, 0, done.output)
        databases = re.findall(
            r'(?m)^(passdb|userdb) {\n(?:  args = (.*)\n)?  driver = (.*)\n', done.output
        )
        self.assertEqual(
            databases,
            [
                ('passdb', f'{BIN}/qmail-pwrap', 'checkpassword'),
                ('userdb', '', 'prefetch'),
                ('userdb', '', 'passwd'),
                ('userdb', 'username_format=%u /etc/vmail', 'passwd-file'),
            ],
        )
        self.assertNotIn('= pam', done.output)
        self.assertRegex(done.output, r'(?m)^import_environment = TZ .*INSECURE_SETUID=1$')
        self.assertRegex(done.output, r'(?m)^service auth {\n  user = root\n}')


class Packages(Case):
    @unittest.skipUnless(program('dpkg-deb'), 'Debian package not installed: dpkg')
    def test_debian_package(self) -> None:
        """The steps to a Debian package make one that keeps pwrap.conf."""
        [line] = re.findall(r'`(make install DESTDIR=pkg)`', readme())
        [build] = re.findall(r'`(dpkg-deb [^`]*)`', readme())
        install = line.replace('DESTDIR=pkg', f'DESTDIR={self.path("pkg")} PYTHON={machine.PYTHON}')
        done = self.run_program('/bin/sh', '-c', f'cd {shlex.quote(TOP)} && {install}')
        self.assertEqual(done.code, 0, done.output)
        os.mkdir(self.path('pkg/DEBIAN'))
        fields = 'Package: p\nVersion: 1\nArchitecture: all\nMaintainer: root\nDescription: p\n'
        self.write('pkg/DEBIAN/control', fields)
        self.write('pkg/DEBIAN/conffiles', f'{CONTROL}/pwrap.conf\n')
        done = self.run_program('/bin/sh', '-c', build)
        self.assertEqual(done.code, 0, done.output)
        done = self.run_program('dpkg-deb', '--contents', self.path('p_1_all.deb'))
        for path in (f'{BIN}/qmail-pwrap', f'{BIN}/qmail_pwrap.py', f'{CONTROL}/pwrap.conf'):
            self.assertIn('root/root', done.output)
            self.assertIn(f' .{path}\n', done.output)


if __name__ == '__main__':
    unittest.main()
