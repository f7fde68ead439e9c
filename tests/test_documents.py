"""What README.md shows and names is so: the filter for fail2ban, settings, words, files; and the script's length."""

import ast
import glob
import os
import re
import shutil
import subprocess
import time
import unittest

from tests.harness.logins import ACCEPTS, REJECTS, RESULT, Case, read_file
from tests.harness.machine import TOP

FORGED = '203.0.113.9'  # stands in what clients say, and must never be banned
FORGERIES = [
    f'x ip={FORGED}', f'result=rejected ip={FORGED}', f'" ip={FORGED} tool=/bin/x code=1 ms=1 user="',
    f'\nqmail-pwrap[1]: result=rejected ip={FORGED} tool=- code=1 ms=1 user="x"',
    f'\r\nNov 22 14:00:00 host qmail-pwrap[1]: result=rejected ip={FORGED} tool=- code=1 ms=1 user=""\n', FORGED, f'[{FORGED}]',
    f'"\nqmail-pwrap[1]: result=rejected ip={FORGED} tool=/bin/no code=1 ms=1 user="', f"' ip={FORGED}", f'\\" ip={FORGED}',
    f'qmail-pwrap[1]: result=rejected ip={FORGED} tool=- code=1 ms=1 user=""', f'x\x00 ip={FORGED}', f'<{FORGED}>',
    f'\u2028qmail-pwrap[1]: result=rejected ip={FORGED}', f'\x85result=rejected ip={FORGED}', f'{FORGED} ' * 30,
    '1999-01-01T00:00:00', '1999-01-01', '@400000003685f4a000000000', 'Jan-01-1999', '<HOST>', '<F-ID>x</F-ID>', '%(x)s',
]


def readme():
    return read_file(f'{TOP}/README.md').decode()


def blocks(first=''):
    """Return the text of README.md's fenced blocks that begin with this line, as pairs of their kind and their text."""
    found = re.findall(r'(?ms)^```(\w*)\n(.*?)^```$', readme())
    return [(kind, text) for kind, text in found if text.startswith(first)]


def headings():
    """Return the anchors of README.md's headings, as GitHub makes them."""
    text = re.sub(r'(?ms)^```.*?^```$', '', readme())
    words = re.findall(r'(?m)^#+ (.*)$', text)
    return {re.sub(r'[^\w\- ]', '', one.lower()).replace(' ', '-') for one in words}


@unittest.skipUnless(shutil.which('fail2ban-regex'), 'Debian package not installed: fail2ban')
class Fail2ban(Case):
    def setUp(self):
        super().setUp()
        [(_, text)] = blocks('# /etc/fail2ban/filter.d/qmail-pwrap.conf\n')
        self.filter = self.write('qmail-pwrap.conf', text)

    def banned(self, lines):
        """Return address and time of each line in which the filter sees a failed login."""
        log = self.write('log', ''.join(line + '\n' for line in lines))
        done = subprocess.run(['fail2ban-regex', '-o', '<ip> <time>', log, self.filter], check=False, text=True, capture_output=True)
        self.assertEqual((done.returncode, done.stderr), (0, ''), done.stdout)
        return [(line.split()[0], float(line.split()[1])) for line in done.stdout.splitlines()]

    def forms(self, lines):
        """Return the lines as each log has them, by its name, all of this very time."""
        now = time.time()
        local = time.localtime(now)
        dates = {
            'syslog': time.strftime('%b %e %H:%M:%S host ', local),
            'rsyslog of Debian 13': time.strftime('%Y-%m-%dT%H:%M:%S.123456', local) + f'{time.strftime("%z")[:3]}:{time.strftime("%z")[3:]} mx-1.example.org ',
            'busybox syslogd': time.strftime('%b %e %H:%M:%S host mail.notice ', local),
            'journal': 'host ',
            'stderr': '',
            'multilog t': f'@{(1 << 62) + 10 + int(now):016x}{5:08x} ',
            'multilog t, by tai64nlocal': time.strftime('%Y-%m-%d %H:%M:%S.123456789 ', local),
        }
        return now, {name: [date + line for line in lines] for name, date in dates.items()}

    def lines(self):
        """Log in; return each line that the wrapper logged, with its prefix, and the address that is to be banned, or None."""
        self.tool('yes', ACCEPTS)
        self.tool('no', REJECTS)
        self.tool('down', 'exit 111')
        self.tool('crash', 'kill -SEGV $$')
        found = []

        def attempt(banned, login, *tools, **env):
            self.configure(*(tool if '=' in tool else self.path(tool) for tool in tools))
            done = self.login('true', triple=login.encode().replace(b'\0', b'') + b'\0password\0\0', env=env)
            for line in read_file(f'{done.folder}/2').decode().split('\n')[:-1]:
                self.assertRegex(line, r'^qmail-pwrap\[\d+\]: ')
                found.append((line, banned if 'result=' in line else None))

        for address in ('192.0.2.7', '2001:db8::7', '::1', '198.51.100.255'):
            attempt(address, 'alice@example.org', 'no', TCPREMOTEIP=address)
            attempt(address, 'alice@example.org', 'no', TCP6REMOTEIP=address)
            for tools in (('down',), ('down', 'no'), ('no', 'down'), ('crash',), ('missing',), ('missing', 'no'), ('yes',), ('no', 'yes'),
                          ('auth=0', 'no'), ('failure=temporary', 'no', 'crash')):
                attempt(None, 'alice@example.org', *tools, TCPREMOTEIP=address)
        attempt(None, 'alice@example.org', 'no')
        for login in FORGERIES:
            attempt('192.0.2.8', login, 'no', TCPREMOTEIP='192.0.2.8')
            attempt(None, login, 'no')
            attempt(None, login, 'down', TCPREMOTEIP='192.0.2.8')
            attempt(None, login, 'yes', TCPREMOTEIP='192.0.2.8')
        for address in (f'x ip={FORGED}', f'- tool=x user="" ip={FORGED}', f'{FORGED}\n', f'-\n{FORGED}', f'"{FORGED}"', 'x' * 500, f' {FORGED}'):
            attempt(None, 'alice', 'no', TCPREMOTEIP=address)
        return found

    def test_filter(self):
        """The filter of README.md bans exactly the address of each result=rejected line that has one, at the line's time,
        in every form that a log has; never on another result, never what stands in a forged login or address."""
        found = self.lines()
        wanted = [banned for _, banned in found if banned]
        self.assertGreater(len(wanted), 20)
        now, forms = self.forms([line for line, _ in found])
        for name, lines in forms.items():
            with self.subTest(log=name):
                got = self.banned(lines)
                self.assertEqual([address for address, _ in got], wanted)
                for _, when in got:
                    self.assertLess(abs(when - now), 600)

    def test_other_programs(self):
        """Lines of other programs, into which a client has put a line of this one, are not taken for it."""
        line = f'qmail-pwrap[1]: result=rejected ip={FORGED} tool=- code=1 ms=1 user="x"'
        self.assertEqual([address for address, _ in self.banned([f'host {line}'])], [FORGED])  # it would work
        for name, lines in self.forms([f'postfix/smtpd[7]: lost connection after HELO <{line}', f'other[7]: {line}', f'other: {line}',
                                       f'qmail-smtpd: helo {line}', f'qmail-pwrap2[7]: {line}', f'"{line}', f'helo=x {line}',
                                       f'qmail-pwrap[7]: {line}', f'sshd[7]: Invalid user {line}'])[1].items():
            with self.subTest(log=name):
                self.assertEqual(self.banned(lines), [])

    def test_jail(self):
        """fail2ban takes filter and jail as README.md shows them."""
        if not os.path.isdir('/etc/fail2ban/filter.d'):
            self.skipTest('Debian package not installed: fail2ban')
        [(_, jail)] = blocks('# /etc/fail2ban/jail.d/qmail-pwrap.conf\n')
        log = self.write('mail.log', '')
        self.assertRegex(jail, r'(?m)^logpath\s*= \S+$')
        folder = self.path('fail2ban')
        shutil.copytree('/etc/fail2ban', folder)
        for name in glob.glob(folder + '/jail.d/*'):
            os.unlink(name)
        shutil.copy(self.filter, folder + '/filter.d')
        self.write('fail2ban/jail.d/qmail-pwrap.conf', re.sub(r'(?m)^(logpath\s*=).*', rf'\1 {log}', jail))
        done = subprocess.run(['fail2ban-client', '-c', folder, '-d'], check=False, text=True, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("['start', 'qmail-pwrap']", done.stdout)
        self.assertIn('qmail-pwrap\\\\[', done.stdout)


class Readme(Case):
    def test_settings(self):
        """README.md's table of the configuration has a row for every setting, and for nothing else; so has the example."""
        tree = ast.parse(read_file(f'{TOP}/qmail_pwrap.py'))
        checks = next(node.value for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'CHECKS')
        settings = [key.value for key in checks.keys]
        self.assertEqual(len(settings), 6)
        table = re.search(r'(?ms)^\| setting \|.*?\n\n', readme())[0]
        rows = re.findall(r'(?m)^\| `([a-z]+)=` \|', table)
        self.assertEqual(sorted(rows), sorted(settings))
        example = read_file(f'{TOP}/pwrap.conf.example').decode()
        for name in settings:
            self.assertRegex(example, rf'(?m)^#.*\b{name}=')

    def test_defaults(self):
        """The defaults in README.md's table and in the example are those of the script."""
        self.tool('yes', ACCEPTS)
        self.write('pwrap.conf', self.path('yes'))
        login = self.login('--check', triple=None)
        shown = dict(re.findall(r'(\w+)=(\S+)', login.output(1).decode().split('\n')[1]))
        self.assertEqual(login.output(1).decode().split('\n')[3].split()[-3:], ['*', '60', 'ok'])
        rows = dict(re.findall(r'(?m)^\| `([a-z]+)=` \|.*\| ([^|]*) \|$', readme()))
        self.assertEqual(rows, {**rows, **shown, 'timeout': '60', 'users': 'everyone'})
        example = dict(re.findall(r'(?m)^# (auth|log|failure|timeout|users)=(\S+)$', read_file(f'{TOP}/pwrap.conf.example').decode()))
        self.assertEqual(example, {**shown, 'timeout': '60', 'users': '*'})

    def test_results(self):
        """README.md explains every word that stands behind result=, and its example lines are well formed."""
        words = re.search(r'\?P<result>([^)]*)', RESULT.pattern)[1].split('|')
        for word in words:
            self.assertRegex(readme(), rf'(?m)^\| `{word}` \|')
            self.assertIn(f'result={word} ', readme())
        shown = [line for kind, text in blocks() if kind == 'log' for line in text.splitlines()]
        self.assertEqual({RESULT.match(re.sub(r'^qmail-pwrap\[\d+\]: ', '', line))['result'] for line in shown}, set(words))

    def test_problems(self):
        """README.md's table names every problem that script and installed command log."""
        text = readme()
        sources = read_file(f'{TOP}/qmail_pwrap.py').decode() + read_file(f'{TOP}/Makefile').decode()
        for words in ('cannot run: ', 'cannot be started: ', 'timed out after', 'was killed', 'cannot be killed', 'killed by ', 'temporary failure, exit code ',
                      'prog cannot be run: ', 'PWRAP_CONF is ignored: real and effective user or group differ', 'descriptor 3 is not open: ',
                      'descriptor 3 cannot be read: ', 'internal error: ', 'others can write to it; mend it with: chmod go-w ',
                      'belongs to user ', 'no tool is enabled', 'qmail_pwrap.py cannot be loaded: '):
            with self.subTest(words=words):
                self.assertIn(words, sources)
                self.assertIn(words, text)

    def test_configurations(self):
        """Every configuration that README.md shows is valid."""
        shown = blocks('# pwrap.conf\n')
        self.assertGreater(len(shown), 3)
        for _, text in shown:
            self.write('pwrap.conf', text)
            login = self.login('--check', triple=None)
            problems = [line for line in login.output(1).decode().splitlines() if line.startswith(self.conf)]
            for line in problems:  # tools that this machine has not
                self.assertRegex(line, r'cannot run: No such file')
            self.assertIn('  1  ', login.output(1).decode())

    @unittest.skipUnless(os.path.exists('/usr/bin/checkpassword.login'), 'Debian package not installed: fgetty')
    def test_check(self):
        """What README.md shows of --check is what it prints."""
        [(_, text)] = [block for block in blocks() if block[0] == 'check']
        self.write('pwrap.conf', '/usr/bin/checkpassword.login\nusers=*@example.org timeout=20 name=virtual /usr/bin/missing\n\ntimeout=soon\n')
        login = self.login('--check', triple=None)
        output = login.output(1).decode().replace(f'PWRAP_CONF={self.conf} {self.command[0]}', '/var/qmail/bin/qmail-pwrap')
        output = output.replace(self.conf, '/var/qmail/control/pwrap.conf').splitlines()
        wanted = text.splitlines()
        self.assertEqual([line for line in output if line in wanted], wanted, output)

    def test_demo(self):
        """What README.md shows of `make demo` is what it prints, milliseconds aside."""
        done = subprocess.run(['make', '-s', '-C', TOP, 'demo'], check=True, text=True, capture_output=True)
        [(_, shown)] = [block for block in blocks() if block[0] == 'text']
        self.assertEqual(*(re.sub(r' ms=\d+', '', text).strip() for text in (done.stdout, shown)))

    def test_links(self):
        """Every file, folder, heading and make target that README.md names is there."""
        text = readme()
        for target in re.findall(r'\]\(([^)\s]+)\)', text):
            if not re.match(r'[a-z]+:', target):
                path, _, anchor = target.partition('#')
                self.assertTrue(not path or os.path.exists(os.path.join(TOP, path)), target)
                self.assertTrue(not anchor or anchor in headings(), target)
        for path in re.findall(r'`((?:tests/|\.ci/|Makefile|qmail_pwrap\.py|pwrap\.conf\.example)[\w.*/]*)`', text):
            self.assertTrue(glob.glob(os.path.join(TOP, path)), path)
        targets = re.search(r'(?m)^\.PHONY: (.*)$', read_file(f'{TOP}/Makefile').decode())[1].split()
        for target in re.findall(r'`make ([a-z-]+)|^    make ([a-z-]+)', text, re.MULTILINE):
            self.assertIn(''.join(target), targets)

    def test_no_placeholder(self):
        """Nothing in README.md waits to be filled in."""
        self.assertEqual(re.findall(r'(?m)^[A-Z]{6,}$|\b(?:TODO|FIXME|XXX)\b', readme()), [])


class Script(unittest.TestCase):
    def test_length(self):
        """The script has at most 700 lines, none longer than 120 characters, and is what README.md says."""
        lines = read_file(f'{TOP}/qmail_pwrap.py').decode().split('\n')
        self.assertEqual(lines.pop(), '')
        self.assertLessEqual(len(lines), 700)
        self.assertLessEqual(max(map(len, lines)), 120)

    def test_unfolded(self):
        """The script compiles, and so does its last part, which is text until it is needed."""
        text = read_file(f'{TOP}/qmail_pwrap.py').decode()
        compile(text, 'qmail_pwrap.py', 'exec')
        unfolded = re.sub(r"(?m)^(RARE|PEOPLE) = r'''$", r"\1 = ''", text)
        unfolded = re.sub(r"(?m)^'''$", '', unfolded)
        functions = {node.name for node in ast.parse(unfolded).body if isinstance(node, ast.FunctionDef)}
        self.assertTrue({'main', 'fork', 'people', 'check', 'test'} <= functions, functions)
        compile(unfolded, 'unfolded', 'exec')

    def test_first_line(self):
        """The first line names Python, isolated and without site packages; the file is executable."""
        self.assertTrue(read_file(f'{TOP}/qmail_pwrap.py').startswith(b'#!/usr/bin/python3 -IS\n'))
        self.assertTrue(os.access(f'{TOP}/qmail_pwrap.py', os.X_OK))


if __name__ == '__main__':
    unittest.main()
