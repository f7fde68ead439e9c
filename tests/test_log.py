"""What is logged, and that nobody can make it lie."""

import os
import re
import shutil

from tests.harness.logins import ACCEPTS, REJECTS, TRIPLE, Case, read_file

HOSTILE = [b'"', b'\\', b'\\"', b'a" tool=/bin/x user="b', b'bob result=accepted', b'a\nqmail-pwrap[1]: result=accepted',
           b'\r\n\r\n', b'\x1b[2J\x1b]0;x\x07', b'x ip=203.0.113.9', b'\xe4\xf6\xff', '\u202euser'.encode(), b'\x00'[:0],
           b'%s%n%x', b'a' * 490, b'"' * 490, b'\xff' * 490, bytes(range(1, 256)), b' ', b'=', b'-', b'\t\x7f\x80']


class Lines(Case):
    def setUp(self):
        super().setUp()
        self.tool('yes', ACCEPTS)
        self.tool('no', REJECTS)

    def test_fields(self):
        """Exactly one result line a login, with result, ip, tool, code, ms and user in this order."""
        self.configure(self.path('no'), self.path('yes'))
        login = self.login('true', env={'TCPREMOTEIP': '192.0.2.7'})
        self.assertRegex(login.log()[0], r'^result=accepted ip=192\.0\.2\.7 tool=\S+/yes ms=\d+ user="alice@example\.org"$')
        self.configure(self.path('no'))
        login = self.login('true', env={'TCPREMOTEIP': '192.0.2.7'})
        self.assertRegex(login.log()[0],
                         r'^result=rejected ip=192\.0\.2\.7 tool=\S+/no code=1 ms=\d+ user="alice@example\.org"$')
        self.assertEqual(len(login.log()), 1)

    def test_address(self):
        """ip is TCPREMOTEIP, else TCP6REMOTEIP, else "-"; nothing else gets into the line that way."""
        self.configure(self.path('no'))
        for env, shown in [({}, '-'), ({'TCPREMOTEIP': ''}, '-'), ({'TCP6REMOTEIP': '2001:db8::7'}, '2001:db8::7'),
                           ({'TCPREMOTEIP': '192.0.2.7', 'TCP6REMOTEIP': '2001:db8::7'}, '192.0.2.7'),
                           ({'TCPREMOTEIP': '1 user="x" tool=y'}, '1\\x20user\\x3d\\x22x\\x22\\x20tool\\x3dy'),
                           ({'TCPREMOTEIP': 'x' * 5000}, 'x' * 60 + '\\...'), ({'TCPREMOTEIP': '1\n2'}, '1\\x0a2')]:
            with self.subTest(env=env):
                self.assertEqual(self.login('true', env=env).result()['ip'], shown)

    def test_hostile_logins(self):
        """Whatever bytes a login holds, one printable ASCII line of less than 1,024 bytes comes out, in which a
        reader sees no field that the wrapper did not write."""
        self.configure(self.path('no'))
        for user in HOSTILE:
            with self.subTest(user=user):
                login = self.login('true', triple=user.replace(b'\0', b'') + b'\0' + b'p\0')
                self.assertEqual(login.code, 1)
                text = read_file(f'{login.folder}/2')
                self.assertEqual(text.count(b'\n'), 1)
                self.assertLess(len(text), 1024)
                line = text[:-1].decode('ascii')
                self.assertTrue(line.isprintable())
                names = re.findall(r'(\w+)=', line)
                self.assertEqual(names, ['result', 'ip', 'tool', 'code', 'ms', 'user'])
                self.assertEqual(len(line.split(' ')), 7)
                shown = login.result()['user']
                decoded = re.sub(r'\\x(..)', lambda match: chr(int(match[1], 16)), shown).encode('latin-1')
                self.assertTrue(decoded == user or shown.endswith('\\...') and user.startswith(decoded[:-4]))

    def test_secret(self):
        """The password is never logged, wherever the NULs stand."""
        self.tool('crash', 'kill -SEGV $$')
        for line in (self.path('no'), self.path('crash'), '/nonexistent'):
            self.configure(line)
            for triple in (b'alice\0s3cr3t\0\0', b'\0s3cr3t\0', b'alice\0s3cr3t', b'alice s3cr3t', b'a\0s3cr3t' + b'x' * 600,
                           b's3cr3t' * 100):
                with self.subTest(triple=triple):
                    login = self.login('true', triple=triple)
                    self.assertNotIn(b's3cr3t', read_file(f'{login.folder}/2'))
                    login.result()

    def test_long_tool(self):
        """A tool's path is shortened and escaped, so that the line stays a line."""
        path = os.path.join(self.folder, 'a "b' + 'c' * 200, 'd' * 200)
        os.makedirs(os.path.dirname(path))
        shutil.copy(self.path('no'), path)
        quoted = "'" + path + "'"
        self.configure(quoted)
        login = self.login('true', triple=b'"' * 490 + b'\0\0', env={'TCPREMOTEIP': '"' * 100})
        self.assertEqual(login.code, 1)
        self.assertLess(len(read_file(f'{login.folder}/2')), 1024)
        self.assertIn('/a\\x20\\x22bccc', login.result()['tool'])

    def test_closed_stderr(self):
        """Where the log cannot be reached, the exit code alone is the answer."""
        self.configure(self.path('no'))
        self.assertEqual(self.login('true', closed=(2,)).code, 1)
        self.configure('/nonexistent', self.path('yes'))
        self.assertEqual(self.login('true', closed=(2,)).code, 0)
        reader, writer = os.pipe()
        os.close(reader)
        self.assertEqual(self.login('true', descriptors={2: writer}).code, 0)
        os.close(writer)

    def test_one_write(self):
        """A line is written at once, so that the lines of logins at the same time do not mix."""
        self.configure(self.path('no'))
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        logins = [self.start('true', descriptors={2: writer}) for _ in range(20)]
        os.close(writer)
        for login in logins:
            login.wait()
        text = b''
        piece = b'first'
        while piece:
            piece = os.read(reader, 65536)
            text += piece
        self.assertEqual(len(re.findall(rb'(?m)^qmail-pwrap\[\d+\]: result=rejected .*"alice@example\.org"$', text)), 20)

    def test_triple(self):
        """The login is logged also where the triple is refused."""
        self.configure(self.path('no'))
        self.assertEqual(self.login('true', triple=TRIPLE + b'x' * 600).result()['user'], 'alice@example.org')
        self.assertEqual(self.login('true', triple=b'alice\0').result()['user'], 'alice')
        self.assertEqual(self.login('true', triple=b'alice').result()['user'], '')
