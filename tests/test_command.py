"""The installed command: it does what the script does, and fails closed."""

from __future__ import annotations

import ast
import functools
import os
import pathlib
import re
import shutil
import struct
import sys
import unittest

from tests.harness.installation import Installation, pythons, tree
from tests.harness.logins import (
    ACCEPTS,
    QUICK,
    SESSION,
    TRIPLE,
    WAYS,
    Way,
    both_ways,
    read_file,
    wait_until,
)
from tests.harness.machine import HARNESS, TOP, drop_root, needs
from tests.harness.servers import Qpsmtpd, smtp_login
from tests.harness.syslog import SyslogListener
from tests.harness.tools import PYTHON_BECOMES, PYTHON_READS, refuses

CANNOT = 'qmail_pwrap.py cannot be loaded: '
MAIL_ERROR = 2 << 3 | 3  # facility mail, level err
SETTINGS = {
    'auth',
    'log',
    'failure',
    'timeout',
    'users',
    'name',
    'refused',
    'empty',
}  # that an administrator has

BROKEN = {  # what may stand in the script's place, and what the log calls it
    b'': 'AttributeError',
    b'#!/usr/bin/python3 -IS\n': 'AttributeError',
    b'#!/bin/sh\nexit 0\n': 'SyntaxError',
    b'def main(:\n': 'SyntaxError',
    b'a = 1\0\n': '',  # the error's name depends on the Python
    b'# \xff\xfe\na = 1\n': '',
    b'raise ValueError\n': 'ValueError',
    b'raise MemoryError\n': 'MemoryError',
    b'import nothing_of_that_name\n': 'ModuleNotFoundError',
    b'import sys\nsys.exit(0)\n': 'SystemExit',
    b'print(1)\nprint(2 is 2)\nraise ValueError\n': 'ValueError',
    b'import posix\nposix.kill(posix.getpid(), 2)\nwhile True: pass\n': 'KeyboardInterrupt',
    b'main = None\n': 'TypeError',
    b'def main(): pass\n': 'TypeError',
    b'def main(program): pass\n': 'EOFError',
    b'def main(program): raise SystemExit\n': 'SystemExit',
    b'def main(program): raise KeyboardInterrupt\n': 'KeyboardInterrupt',
    b'def main(program): decide()\n': 'NameError',
}


class Installed(Installation):
    def setUp(self) -> None:
        super().setUp()
        self.make('install')

    def replace(self, path: str, content: bytes) -> None:
        """Write something else into an installed file."""
        with open(path, 'wb') as file:
            file.write(content)

    def assert_fails_closed(self) -> None:
        """A login that a tool would accept ends with 111, before any tool, with nothing on descriptors 1 and 2."""
        self.use_tool()
        before = self.ran('tool')
        for way, triple in (*((way, TRIPLE) for way in WAYS), (QUICK, None)):
            login = self.login(*way.prog, triple=triple)
            written = [read_file(f'{login.folder}/{number}') for number in (1, 2)]
            self.assertEqual((login.code, written), (111, [b'', b'']))
        self.assertEqual(self.ran('tool'), before)


@needs('make')
class Command(Installed):
    def test_accepts_and_refuses_as_the_script_does(self) -> None:
        """With prog true and with a session."""
        self.assert_works()

    def test_tools_run_the_command_in_the_place_of_prog(self) -> None:
        """By its absolute path, also if it was called by a relative one."""
        note = f'open({self.path("seen")!r}, "w").write("\\n".join(argv))\n'
        self.configure(self.python_tool('tool', PYTHON_READS + note + PYTHON_BECOMES))
        for command, folder in (
            (self.installed, '/'),
            ('./qmail-pwrap', self.bin),
            ('bin/../bin/qmail-pwrap', os.path.dirname(self.bin)),
        ):
            with self.subTest(command=command):
                login = self.login(
                    *SESSION.prog,
                    command=(command,),
                    before=lambda folder=folder: os.chdir(folder),
                )
                self.assertEqual((login.code, login.problems()), (SESSION.code, []))
                argv = read_file(self.path('seen')).decode().split('\n')
                self.assertTrue(
                    os.path.isabs(argv[0]) and os.path.samefile(argv[0], self.installed)
                )
                self.assertTrue(argv[1].startswith('qmail_pwrap.report'), argv)
                self.assertEqual(argv[2:], list(SESSION.prog))

    def test_words_for_people_are_those_of_the_script(self) -> None:
        """--version, --help and --check say and end alike; an unknown word is refused."""
        self.use_tool()
        for word in ('--version', '--help', '--check'):
            ours = self.say(word)
            scripts = self.say(word, command=(self.script,))
            self.assertEqual((ours.code, ours.errors), (0, ''))
            self.assertEqual(
                ours.output.replace(self.installed, 'X'), scripts.output.replace(self.script, 'X')
            )
        self.assertEqual(self.say('--nonsense').code, 2)

    def test_link_works_as_the_command(self) -> None:
        """From another folder, absolute or relative, also through a second link; nothing is written there."""
        os.mkdir(self.path('links'))
        link, second = self.path('links/checkpassword'), self.path('links/second')
        os.symlink(link, second)
        for target in (self.installed, os.path.relpath(self.installed, self.path('links'))):
            os.symlink(target, link)
            for command in ((link,), (second,)):
                self.assert_works(command)
                self.assertEqual(self.say('--version', command=command), self.say('--version'))
                self.assertNotIn('missing or stale', self.say('--check', command=command).output)
            self.assertEqual(sorted(os.listdir(self.path('links'))), ['checkpassword', 'second'])
            os.unlink(link)

    def test_link_never_runs_what_lies_beside_it(self) -> None:
        """A qmail_pwrap.py that somebody put into the link's folder, even where the true one is missing."""
        self.write('qmail_pwrap.py', f'open({self.path("theirs")!r}, "w")\n')
        shutil.copytree(f'{self.bin}/__pycache__', self.path('__pycache__'))
        link = self.path('link')
        os.symlink(self.installed, link)
        self.assert_works((link,))
        os.unlink(self.script)
        self.assertEqual(self.login(*QUICK.prog, command=(link,)).code, 111)
        self.assertFalse(os.path.exists(self.path('theirs')))

    def test_no_module_beside_the_command_is_imported(self) -> None:
        """Not even one of the name of a module of the library, or of one that is not there."""
        for name in (
            *sys.builtin_module_names,
            'os',
            'shlex',
            'resource',
            'select',
            'syslog',
            'pathlib',
            'none',
        ):
            text = f'open({self.path("imported")!r}, "a").write({name!r})\n'
            os.rename(self.write('module', text), f'{self.bin}/{name}.py')
        self.assert_works()
        self.configure(f'"{self.tool("tool", ACCEPTS)}"')  # quotes need shlex
        self.assertEqual(self.login(*SESSION.prog).code, SESSION.code)
        self.say('--check')
        self.say('--test', 'alice', given=b'secret\n')
        with open(self.script, 'ab') as file:
            file.write(b'import none\n')
        self.assert_fails_closed()
        self.assertFalse(os.path.exists(self.path('imported')))

    @needs('root', 'public python', 'public folder')
    def test_folder_need_not_be_readable(self) -> None:
        """A user who may enter the folder of the command, but not list it, can log in."""
        os.chmod(self.bin, 0o711)
        self.use_tool(refuses(7).replace('exit 7', 'exec "$@"'))
        os.chmod(self.write('tool.ran', ''), 0o666)
        login = self.login(*SESSION.prog, before=drop_root)
        self.assertEqual((login.code, login.problems()), (SESSION.code, []))

    @both_ways
    def test_login_does_not_pay_for_os(self, way: Way) -> None:
        """The module os, the dearest at start-up, is not imported at a login."""
        self.make('install')
        tail = b"\nassert 'os' not in sys.modules\n"
        name, _, _ = read_file(self.script).rpartition(b"\nif __name__ == '__main__':")
        self.replace(self.script, name + tail)
        self.use_tool()
        self.assertEqual(self.login(*way.prog).code, way.code)

    def test_no_run_writes_a_file(self) -> None:
        """Neither command nor script, with a compiled form that is good, stale or missing."""
        good = read_file(self.script)
        for change in ('none', 'stale', 'missing'):
            with self.subTest(form=change):
                if change == 'stale':
                    self.replace(self.script, good + b'# edited\n')
                elif change == 'missing':
                    shutil.rmtree(f'{self.bin}/__pycache__')
                before = tree(self.dest)
                env = {'PYTHONPYCACHEPREFIX': self.path('prefix'), 'PYTHONDONTWRITEBYTECODE': ''}
                for command in ((self.installed,), (self.script,)):
                    self.assert_works(command, env=env)
                    self.say('--version', command=command, env=env)
                self.assertEqual(tree(self.dest), before)
                self.assertFalse(os.path.exists(self.path('prefix')))

    def test_edit_counts_at_once(self) -> None:
        """Also if size and time of change stay the same; --check tells, and make install undoes it."""
        version = self.say('--version').output.split()[1]
        before = os.stat(self.script)
        old, new = (f"VERSION = '{one}'".encode() for one in (version, '9.9'))
        with open(self.script, 'r+b') as file:
            file.write(read_file(self.script).replace(old, new))
        os.utime(self.script, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertEqual(os.stat(self.script).st_size, before.st_size)
        self.assertEqual(self.say('--version').output, 'qmail_pwrap 9.9\n')
        self.assertIn('stale', self.say('--check').output)
        self.make('install')
        self.assertEqual(self.say('--version').output, f'qmail_pwrap {version}\n')
        self.assertNotIn('stale', self.say('--check').output)

    def test_compilers_warnings_stay_unseen(self) -> None:
        """An edited script that Python warns of writes nothing to a client."""
        with open(self.script, 'ab') as file:
            file.write(b"\nassert (VERSION is '1') or True\n")
        self.assert_works()

    def test_check_warns_of_a_missing_or_stale_compiled_form(self) -> None:
        """With exit code 0, as logins work without it, and with what renews it."""
        self.use_tool()
        self.assertNotIn('missing or stale', self.check())
        form, good = self.form(), read_file(self.form())
        status = os.stat(self.script)
        by_time = bytes(4) + struct.pack('<II', int(status.st_mtime), status.st_size)
        for content in (
            b'',
            good[:10],
            good[:8] + bytes(8) + good[16:],
            good[:4] + by_time + good[16:],  # which would not notice every edit
            None,
        ):
            with self.subTest(content=content and content[:20]):
                if content is None:
                    os.unlink(form)
                else:
                    self.replace(form, content)
                for command in (self.installed, self.script):
                    said = self.check(command=(command,))
                    self.assertRegex(said, rf'warning: {re.escape(form)}\W+(is )?missing or stale')
                    self.assertIn('make install', said)

    def test_check_misses_no_compiled_form_where_no_command_would_use_it(self) -> None:
        """A script without the installed command beside it needs none."""
        self.use_tool()
        os.unlink(self.installed)
        os.unlink(self.form())
        self.assertNotIn('missing or stale', self.check(command=(self.script,)))

    @needs('root', 'public python', 'public folder')
    def test_check_warns_of_a_compiled_form_that_others_cannot_read(self) -> None:
        """To the user who cannot read it, instead of failing itself."""
        self.use_tool()
        os.chmod(self.form(), 0o600)
        said = self.check(before=drop_root)
        self.assertRegex(said, f'warning: .*{re.escape(self.form())}')


@needs('make')
class Damaged(Installed):
    def test_damaged_compiled_form_never_gives_a_wrong_answer(self) -> None:
        """Whatever stands in its place, a login comes out right or ends with 111, and nothing is on 1 and 2."""
        form, good = self.form(), read_file(self.form())
        self.use_tool(refuses(7))
        ends = [0, 1, 4, 8, 15, 16, 17, 100, 4096, len(good) // 2, len(good) - 1]
        contents = [good[:end] for end in ends]
        contents += [good[:end] + bytes(len(good) - end) for end in ends]
        contents += [b'garbage' * 100, good[:16] + b'N', good[:16] + read_file(self.script)]
        contents += [good[:4] + b'\xff' * 4 + good[8:], good[:8] + bytes(8) + good[16:]]
        for content in contents:
            with self.subTest(form=content[:20], size=len(content)):
                self.replace(form, content)
                login = self.login(*QUICK.prog)
                self.assertIn(login.code, (7, 111))
                self.assertEqual((login.output(1), login.output(2)), (b'', b''))

    def test_compiled_form_that_is_no_file_is_not_missed(self) -> None:
        """Without one, with a folder, a link into nothing or another Python's in its place, logins work."""
        form, good = self.form(), read_file(self.form())
        os.unlink(form)
        self.assert_works()
        os.mkdir(form)
        self.assert_works()
        os.rmdir(form)
        os.symlink('/nonexistent', form)
        self.assert_works()
        os.unlink(form)
        self.replace(form, b'\x33\x0d\r\n' + good[4:])
        self.assert_works()

    def test_broken_script_fails_closed(self) -> None:
        """Missing, empty, no Python, one that raises, ends, is interrupted, or has no right main()."""
        for content in BROKEN:
            with self.subTest(script=content):
                self.replace(self.script, content)
                self.assert_fails_closed()
        os.unlink(self.script)
        self.assert_fails_closed()
        os.mkdir(self.script)
        self.assert_fails_closed()

    @needs('syslog')
    def test_broken_script_has_one_line_in_the_system_log(self) -> None:
        """It names the error, in facility mail at level err, with the ident of every other line."""
        with SyslogListener() as log:
            for content, error in BROKEN.items():
                with self.subTest(script=content):
                    self.replace(self.script, content)
                    login = self.login(*QUICK.prog)
                    tag = f'qmail-pwrap[{login.pid}]'
                    wait_until(functools.partial(log.lines, tag), 'a line in the log')
                    (line,) = log.lines(tag)
                    self.assertEqual(line.priority, MAIL_ERROR)
                    self.assertRegex(line.text, f'^{re.escape(CANNOT)}{error or "[A-Za-z]+"}$')

    def test_failure_without_a_log_is_111_too(self) -> None:
        """Where even the module syslog is missing."""
        self.replace(self.script, b"import sys\nsys.modules['syslog'] = None\nraise ValueError\n")
        self.assert_fails_closed()

    def test_script_cut_short_lets_nobody_in(self) -> None:
        """It never calls a password wrong either: a refusal stays the tool's own, or it is 111."""
        text = read_file(self.script).decode()
        lines = text.splitlines(True)
        self.configure(self.tool('tool', refuses(7)))
        for end in ends_of_statements(text):
            with self.subTest(lines=end):
                self.replace(self.script, ''.join(lines[:end]).encode())
                login = self.login('/bin/sh', '-c', 'exit 0')
                self.assertIn(login.code, (7, 111))
                self.assertEqual((login.output(1), login.output(2)), (b'', b''))


def ends_of_statements(text: str) -> list[int]:
    """Return the last lines of up to 80 statements of a script: cut off there, it still is Python."""
    ends = set()
    for node in ast.parse(text).body:
        ends.add(node.end_lineno or 0)
        for inner in getattr(node, 'body', []):
            ends.add(inner.end_lineno or 0)
    chosen = sorted(ends)
    return chosen[:: len(chosen) // 80 + 1]


@needs('make')
class Example(Installed):
    """The configuration as it is installed."""

    def test_denies_every_login(self) -> None:
        """With 111, for every prog, and writes to neither 1 nor 2; --check says why."""
        env = {'PWRAP_CONF': self.example}
        for prog in ((), *(way.prog for way in WAYS)):
            login = self.login(*prog, env=env)
            written = [read_file(f'{login.folder}/{number}') for number in (1, 2)]
            self.assertEqual((login.code, written), (111, [b'', b'']))
        self.assertIn(f'{self.example}: no tool is enabled', self.check(1, env=env))

    @needs('syslog')
    def test_says_in_the_log_that_no_tool_is_enabled(self) -> None:
        """Besides the result, which is temporary."""
        with SyslogListener() as log:
            self.login(env={'PWRAP_CONF': self.example})
            log.wait_for(f'^{re.escape(self.example)}: no tool is enabled$')
            log.wait_for(
                r'^result=temporary ip=- tool=- code=111 ms=\d+ user="alice@example\.org"$'
            )

    def test_shows_every_setting_and_is_valid_with_all_of_them(self) -> None:
        """With each commented line of settings and tools enabled, nothing is wrong with the file."""
        text = read_file(f'{TOP}/pwrap.conf.example').decode()
        lines = re.sub(r'(?m)^# (?=([a-z]+=\S+ )*(/|[a-z]+=\S+$))', '', text)
        enabled = [line for line in lines.split('\n') if line[:1] not in ('#', '')]
        names = {
            word.partition('=')[0]
            for line in enabled
            for word in re.findall(r'^[^/]*', line)[0].split()
        }
        self.assertEqual(names, SETTINGS)
        self.write('pwrap.conf', lines)
        said = self.say('--check').output
        missing = rf'{re.escape(self.conf)}:\d+: \S+: cannot run: \S+ No such file or directory'
        others = re.sub(missing, '', ' '.join(said.split()))  # but tools that this machine has not
        self.assertNotRegex(others, f'(?<!warning: ){re.escape(self.conf)}:')


@needs('make', 'root', 'qpsmtpd', 'syslog')
class RealServer(Installation):
    def test_qpsmtpd_accepts_and_refuses(self) -> None:
        """With each Python of this machine, with the installed command and its default configuration."""
        self.place(self.path('qmail'), '')
        users = self.write('users', 'alice:secret of alice\nbob:secret of bob\n')
        tool = f'{HARNESS}/demo_tool'
        for tag, python in pythons().items():
            with self.subTest(python=python), SyslogListener() as log:
                self.make('install', PYTHON=python)
                self.write('qmail/control/pwrap.conf', f'{tool} /dev/null\n{tool} {users}\n')
                folder = pathlib.Path(self.path('server' + tag))
                with Qpsmtpd(folder, self.installed, pathlib.Path(self.folder), {}) as server:
                    for mechanism in ('PLAIN', 'LOGIN'):
                        right = smtp_login(server.port, mechanism, 'alice', 'secret of alice')
                        wrong = smtp_login(server.port, mechanism, 'alice', 'secret of bob')
                        self.assertEqual((right, wrong), (235, 535))
                log.wait_for(
                    r'^result=accepted ip=127\.0\.0\.1 tool=\S+/demo_tool ms=\d+ user="alice"$'
                )


if __name__ == '__main__':
    unittest.main()
