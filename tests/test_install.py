"""make install and make uninstall."""

from __future__ import annotations

import glob
import os
import shlex
import shutil
import signal
import tempfile
import unittest
from typing import Any

from tests.harness.installation import (
    CONFIGURATION,
    LAUNCHER,
    SCRIPT,
    Installation,
    cache_tag,
    files,
    mode,
    pythons,
    tree,
)
from tests.harness.logins import QUICK, SESSION, TRIPLE, read_file, wait_until
from tests.harness.machine import (
    PUBLIC,
    PYTHON,
    TOP,
    USUAL_PYTHON,
    drop_root,
    needs,
    program,
    someone,
)

NO_CONFIGURATION = {'PATH': '/usr/bin:/bin'}  # no PWRAP_CONF: what counts is the default
ODD = [
    '&',
    '\\',
    '|',
    ' ',
    "'",
    '"',
    '#',
    '\n',
    '*',
    '`',
    ';',
    'é',
    b'\xff'.decode('utf-8', 'surrogateescape'),
]
READY = 'ready'


@needs('make')
class Install(Installation):
    def test_puts_script_compiled_form_and_command_into_bin_and_the_example_into_control(
        self,
    ) -> None:
        """Programs have mode 0755, other files 0644 and new folders 0755, whatever the umask."""
        for umask in (0o022, 0o077, 0o002):
            with self.subTest(umask=oct(umask)):
                self.place(dest=self.path(f'dest{umask}'))
                self.make('install', before=lambda umask=umask: os.umask(umask), QMAILHOME=None)
                form = f'var/qmail/bin/__pycache__/qmail_pwrap.{cache_tag(PYTHON)}.pyc'
                modes = {f'var/qmail/bin/{name}': '0o755' for name in (LAUNCHER, SCRIPT)}
                modes.update(dict.fromkeys((form, CONFIGURATION), '0o644'))
                folders = ('var', 'var/qmail', 'var/qmail/bin', 'var/qmail/control')
                modes.update(dict.fromkeys((*folders, os.path.dirname(form)), '0o755'))
                found = tree(self.dest)
                self.assertEqual({name: one for name, (one, _) in found.items()}, modes)
                self.assertEqual(found[CONFIGURATION][1], read_file(f'{TOP}/pwrap.conf.example'))

    def test_says_what_to_do_next(self) -> None:
        """The configuration to edit, and the commands that check and try it, are named with their final paths."""
        self.place('/opt/qmail')
        said = self.make('install')
        for words in ('control/pwrap.conf', 'bin/qmail-pwrap --check', 'bin/qmail-pwrap --test'):
            self.assertIn(f' /opt/qmail/{words}', said)

    @unittest.skipUnless(os.path.exists(USUAL_PYTHON), f'no {USUAL_PYTHON}')
    def test_usual_python_and_qmail_are_the_defaults(self) -> None:
        """Without PYTHON and QMAILHOME it is /usr/bin/python3 and /var/qmail."""
        self.make('install', QMAILHOME=None, PYTHON=None)
        for path in (self.installed, self.script):
            self.assertEqual(read_file(path).split(b'\n')[0].decode(), f'#!{USUAL_PYTHON} -ISXutf8')

    def test_default_configuration_is_that_of_qmailhome(self) -> None:
        """Script and command read QMAILHOME's control/pwrap.conf, wherever DESTDIR was."""
        for home in ('/var/qmail', '/opt/qmail', '/usr/local/q.mail-2_+,@%=:~', '/opt/qmail/'):
            with self.subTest(home=home):
                self.place(home)
                self.make('install')
                expected = f'configuration: {home.rstrip("/")}/control/pwrap.conf'
                for path in (self.installed, self.script):
                    said = self.say('--check', command=(path,), whole_env=NO_CONFIGURATION)
                    self.assertIn(expected, said.output.replace('\\x3d', '=').split('\n'))

    def test_works_in_place_without_destdir(self) -> None:
        """Without DESTDIR, the installed command and its default configuration work where they are."""
        self.place(self.path('qmail'), '')
        self.make('install')
        self.use_tool()
        os.rename(self.conf, self.example)
        login = self.login(*SESSION.prog, whole_env=NO_CONFIGURATION)
        self.assertEqual((login.code, login.result()['result']), (SESSION.code, 'accepted'))

    def test_script_is_that_of_the_source_but_for_two_lines(self) -> None:
        """Only its first line and its default configuration differ."""
        self.place('/opt/qmail')
        self.make('install')
        ours = read_file(f'{TOP}/{SCRIPT}').decode().split('\n')
        theirs = read_file(self.script).decode().split('\n')
        self.assertEqual(theirs[0], f'#!{PYTHON} -ISXutf8')
        self.assertEqual(len(ours), len(theirs))
        (changed,) = [new for old, new in zip(ours[1:], theirs[1:]) if old != new]
        self.assertTrue(changed.startswith("CONFIGURATION = '/opt/qmail/control/pwrap.conf'"))

    def test_existing_configuration_is_never_touched(self) -> None:
        """It keeps content, mode, owner and times; also if it is a link, even one into nothing."""
        os.makedirs(self.control)
        for content, how in (('mine\n', 0o600), ('', 0o640)):
            os.chmod(self.write('mine', content), how)
            os.rename(self.path('mine'), self.example)
            os.utime(self.example, (1, 1))
            before = os.stat(self.example)
            self.make('install')
            after = os.stat(self.example)
            self.assertEqual(read_file(self.example).decode(), content)
            self.assertEqual(
                before[:7] + before[8:], after[:7] + after[8:]
            )  # all but the time of access
        self.write('elsewhere', 'linked')
        for target in ('elsewhere', 'nowhere'):
            with self.subTest(link=target):
                os.unlink(self.example)
                os.symlink(self.path(target), self.example)
                self.make('install')
                self.assertEqual(os.readlink(self.example), self.path(target))
        self.assertEqual(read_file(self.path('elsewhere')), b'linked')
        self.assertFalse(os.path.exists(self.path('nowhere')))

    def test_existing_folders_keep_their_mode(self) -> None:
        """Folders that are there already are not changed."""
        for folder, how in ((self.bin, 0o711), (self.control, 0o750)):
            os.makedirs(folder)
            os.chmod(folder, how)
        self.make('install')
        self.assertEqual((mode(self.bin), mode(self.control)), ('0o711', '0o750'))

    def test_installing_again_replaces_what_is_older(self) -> None:
        """Script, command and compiled form of an earlier installation become today's, whatever they were."""
        self.make('install')
        first = tree(self.dest)
        for path in (self.installed, self.script, self.form()):
            self.write('old', '#!/bin/sh\necho an old version\n', 0o600)
            os.rename(self.path('old'), path)
        self.make('install')
        self.assertEqual(comparable(tree(self.dest)), comparable(first))
        self.assert_works()
        self.assertNotIn('stale', self.say('--check').output)

    def test_files_are_replaced_as_a_whole(self) -> None:
        """A login that has begun to read the old script, command or compiled form reads it to its end."""
        self.make('install')
        for path in (self.installed, self.script, self.form()):
            with self.subTest(file=os.path.basename(path)), open(path, 'rb') as old:
                content = read_file(path)
                self.make('install')
                self.assertNotEqual(os.fstat(old.fileno()).st_ino, os.stat(path).st_ino)
                self.assertEqual(old.read(), content)

    def test_logins_work_between_any_two_steps_of_an_upgrade(self) -> None:
        """After each file that is moved into its place, a login is accepted."""
        self.make('install')
        for path in (self.installed, self.script):
            with open(path, 'a') as file:
                file.write('# an older version\n')
        self.use_tool()
        triple = self.write('triple', TRIPLE)
        codes = self.path('codes')
        for name in ('mv', 'sed', 'chmod', 'mkdir'):
            login = f'{self.installed} {QUICK.prog[0]} 3<{triple} 2>/dev/null; echo $? >>{codes}'
            self.write(
                f'bin/{name}',
                f'#!/bin/sh\n{program(name)} "$@"\ncode=$?\n{login}\nexit $code\n',
                0o755,
            )
        self.make('install')
        self.assertEqual(set(read_file(codes).split()), {b'0'})
        self.assertGreater(len(read_file(codes).split()), 5)

    def test_every_python_gets_its_shebang_and_its_compiled_form(self) -> None:
        """Compiled by that Python, checked by the hash of the source (PEP 552), used without a warning."""
        for tag, python in pythons().items():
            with self.subTest(python=python):
                self.make('install', PYTHON=python)
                for path in (self.installed, self.script):
                    self.assertEqual(
                        read_file(path).split(b'\n')[0].decode(), f'#!{python} -ISXutf8'
                    )
                form = f'{self.bin}/__pycache__/qmail_pwrap.{tag}.pyc'
                self.assertEqual(read_file(form)[4:8], b'\3\0\0\0')
                self.assert_works()
                self.assert_runs((self.script,))
                self.assertNotIn('stale', self.say('--check').output)
                version = self.say('--version').output.split()[1].encode()
                marked = read_file(form).replace(version, b'9.9')
                os.rename(self.write('marked', marked), form)
                self.assertEqual(self.say('--version').output, 'qmail_pwrap 9.9\n')

    def test_compiled_form_knows_the_final_path(self) -> None:
        """A package's compiled form does not repeat where it was built."""
        self.make('install')
        content = read_file(self.form())
        self.assertIn(b'/var/qmail/bin/qmail_pwrap.py', content)
        self.assertNotIn(self.dest.encode(), content)

    def test_destdir_may_hold_odd_bytes(self) -> None:
        """The installation in a folder of any name works, and can be removed again."""
        name = ''.join(ODD)
        self.place(dest=self.path(f'dest{name}'))
        self.make('install')
        self.assert_works()
        self.make('uninstall')
        self.assertEqual(files(self.dest), [CONFIGURATION])

    def test_relative_destdir_is_below_the_source(self) -> None:
        """DESTDIR=debian/tmp, as packages have it, and one that looks like an option."""
        top = copy_source(self.path('top'))
        for name in ('debian/tmp', '-r'):
            self.place(dest=f'{top}/{name}')
            self.make('install', top=top, DESTDIR=name)
            self.assert_runs()
            self.make('uninstall', top=top, DESTDIR=name)
            self.assertEqual(files(self.dest), [CONFIGURATION])

    @needs('root', 'public python', 'public folder')
    def test_ordinary_user_can_install_into_destdir(self) -> None:
        """A user with a copy of the source can install, use and uninstall; nothing is built in the source."""
        home = tempfile.mkdtemp(prefix='pwrap-user-', dir=PUBLIC)
        self.addCleanup(shutil.rmtree, home)
        top = copy_source(f'{home}/top')
        for path in (home, top, *glob.glob(f'{top}/*')):
            os.chown(path, *someone())
        before = tree(top)
        self.place(dest=f'{home}/dest')
        self.make('install', top=top, before=drop_root)
        self.assertEqual(os.stat(self.installed).st_uid, someone()[0])
        self.use_tool()
        os.chown(self.write('tool.ran', ''), *someone())
        login = self.login(*SESSION.prog, before=drop_root)
        self.assertEqual(login.code, SESSION.code)
        self.make('uninstall', top=top, before=drop_root)
        self.assertEqual(files(self.dest), [CONFIGURATION])
        self.assertEqual(tree(top), before)


def comparable(found: dict[str, tuple[str, bytes]]) -> dict[str, tuple[str, bytes]]:
    """Return a tree without the content of compiled forms: Python orders the constants as it likes."""
    return {
        name: (how, b'' if name.endswith('.pyc') else content)
        for name, (how, content) in found.items()
    }


def copy_source(top: str) -> str:
    """Copy what make install needs; return the folder."""
    os.mkdir(top)
    for name in ('Makefile', SCRIPT, 'pwrap.conf.example'):
        shutil.copy(f'{TOP}/{name}', top)
    return top


@needs('make')
class FirstLook(Installation):
    def test_fits_80_columns(self) -> None:
        """What make help and make demo print, the first things that anybody runs."""
        for target in ('help', 'demo'):
            with self.subTest(target=target):
                said = self.make(target, DESTDIR=None, QMAILHOME=None, PYTHON=None)
                self.assertEqual([line for line in said.splitlines() if len(line) > 80], [])


@needs('make')
class RefusedInstall(Installation):
    def assert_refused(self, why: str, **variables: Any) -> None:
        """Nothing is made, and one line besides make's own says why."""
        for target in ('install', 'uninstall') if 'PYTHON' not in variables else ('install',):
            said = self.run_make(target, **variables)
            self.assertEqual((said.code, said.output), (2, ''), said)
            ours = [line for line in said.errors.splitlines() if not line.startswith('make: ***')]
            self.assertEqual(len(ours), 1, said.errors)
            self.assertIn(why, ours[0])
        self.assertFalse(os.path.exists(self.dest))

    def test_paths_must_be_absolute(self) -> None:
        """PYTHON and QMAILHOME that are relative or empty are refused."""
        for name in ('PYTHON', 'QMAILHOME'):
            for value in ('relative/path', ''):
                with self.subTest(name=name, value=value):
                    self.assert_refused(f'{name} must be an absolute path', **{name: value})

    def test_paths_with_odd_bytes_are_refused(self) -> None:
        """What a shebang, a run file or the script could not hold is refused in PYTHON and QMAILHOME."""
        for name in ('PYTHON', 'QMAILHOME'):
            for odd in [*ODD, '$x', '$(x)']:
                with self.subTest(name=name, odd=odd):
                    self.assert_refused(f'{name} may hold only', **{name: f'/opt/a{odd}b'})

    def test_dollar_sign_in_destdir_is_refused(self) -> None:
        """make would expand it."""
        self.assert_refused('DESTDIR must not hold a dollar sign', DESTDIR=self.path('dest$x'))

    def test_python_too_long_for_a_shebang_is_refused(self) -> None:
        """A first line of 127 bytes is the longest that every system takes."""
        longest = self.write('p' * (127 - len(f'#! -ISXutf8{self.folder}/')), '', 0o755)
        os.unlink(longest)
        os.symlink(PYTHON, longest)
        os.symlink(PYTHON, f'{longest}n')
        self.assert_refused('PYTHON is too long', PYTHON=f'{longest}n')
        self.make('install', PYTHON=longest)
        self.assert_runs()


@needs('make')
class FailedInstall(Installation):
    """Each test begins with a working installation of an older version, and finds it as it was."""

    def setUp(self) -> None:
        super().setUp()
        self.make('install')
        for path in (self.installed, self.script):
            with open(path, 'a') as file:
                file.write('# an older version\n')
        self.before = tree(self.path('dest'))

    maxDiff = 2000

    def assert_failed(self, said_code: int | None) -> None:
        self.assertNotEqual(said_code, 0)
        self.assertEqual(tree(self.path('dest')), self.before)
        self.assert_runs()

    def python(self, instead: str) -> str:
        """Return a Python that does something else where it should compile."""
        text = f'#!/bin/sh\ncase $* in *compileall*) {instead} ;; esac\nexec {PYTHON} "$@"\n'
        return self.write('python', text, 0o755)

    def test_python_that_is_none_or_too_old_changes_nothing(self) -> None:
        """No such file, a folder, another program, Python before 3.9."""
        says = 'import sys; sys.version_info = (3, 8, 18)'
        text = f'#!/bin/sh\nif test "$2" = -c; then set -- -IS -c "{says}; $3"; fi\n'
        old = self.write('old', f'{text}exec {PYTHON} "$@"\n', 0o755)
        for python in ('/usr/bin/nopython', self.folder, program('true'), program('cat'), old):
            with self.subTest(python=python):
                said = self.run_make('install', PYTHON=python)
                self.assertIn(f'PYTHON={python} is not a Python 3.9 or newer', said.errors)
                self.assert_failed(said.code)

    def test_failed_compilation_changes_nothing(self) -> None:
        """Whether it says that it failed, makes nothing, or makes only the beginning of the compiled form."""
        half = f'{PYTHON} "$@"; for one in {self.bin}/.[!.]*/__pycache__/*.pyc; do head -c 5000 $one >$one.half; mv $one.half $one; done; exit'
        for instead in ('exit 1', 'exit 0', 'kill -KILL $$', half):
            with self.subTest(instead=instead):
                self.assert_failed(self.run_make('install', PYTHON=self.python(instead)).code)

    def test_script_that_does_not_run_changes_nothing(self) -> None:
        """A source that this Python cannot run is found before anything is replaced."""
        top = copy_source(self.path('top'))
        with open(f'{top}/{SCRIPT}', 'a') as file:
            file.write('raise ValueError\n')
        said = self.run_make('install', top=top)
        self.assertIn('does not run', said.errors)
        self.assert_failed(said.code)

    def test_control_folder_that_cannot_be_written_changes_nothing(self) -> None:
        """The example comes before script and command."""
        os.unlink(self.example)
        os.rmdir(self.control)
        self.write('dest/var/qmail/control', 'not a folder')
        self.before = tree(self.path('dest'))
        self.assert_failed(self.run_make('install').code)

    @needs('namespaces', 'mount', 'util-linux')
    def test_full_disk_changes_nothing(self) -> None:
        """Wherever the room ends, the old files stay; the first installation that succeeds is whole."""
        os.unlink(self.example)
        self.before = tree(self.dest)
        pages = [len(content) // 4096 + 1 for _, content in self.before.values()]
        room = sum(pages) * 4096
        failures = 0
        while self.upgrade_on_a_disk_of(room):
            failures += 1
            room += 16384
            self.assertLess(failures, 100, 'it is not the room that is missing')
        self.assertGreater(failures, 4)

    def upgrade_on_a_disk_of(self, size: int) -> int:
        """Upgrade a copy of the installation on a file system of that size; return make's exit code."""
        copy, after = self.path('copy'), self.path('after')
        shutil.rmtree(after, ignore_errors=True)
        os.makedirs(copy, exist_ok=True)
        self.write(
            'upgrade',
            f'mount -t tmpfs -o size={size} none {copy} && cp -a {self.dest}/. {copy}\n'
            f'make -C {shlex.quote(TOP)} install DESTDIR={copy} PYTHON={PYTHON}\n'
            f'code=$?; cp -a {copy} {after}; exit $code\n',
        )
        unshare = (program('unshare'), '--mount', '--propagation', 'private', '/bin/sh')
        said = self.say(self.path('upgrade'), command=unshare)
        if said.code:
            self.assertEqual(tree(after), self.before, said)
            return said.code
        self.make('install')
        self.assertEqual(comparable(tree(after)), comparable(tree(self.dest)))
        return 0

    def test_interrupted_install_leaves_nothing_behind(self) -> None:
        """HUP, INT and TERM end it, and what it was making is removed."""
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number.name):
                python = self.python(f': >{self.path(READY)}; exec sleep 1000')
                words = [f'DESTDIR={self.dest}', f'PYTHON={python}']
                command = (program('make'), '-C', TOP, 'install', *words)
                make = self.start(command=command, triple=None, before=lambda: os.setpgid(0, 0))
                wait_until(lambda: os.path.exists(self.path(READY)))
                os.unlink(self.path(READY))
                os.killpg(make.pid, number)
                make.wait()
                wait_until(lambda: not glob.glob(f'{self.bin}/.qmail*'), 'nothing is left')
                self.assert_failed(make.code)


@needs('make')
class Uninstall(Installation):
    def test_leaves_the_configuration_and_what_is_others(self) -> None:
        """Script, command and the compiled forms of all Pythons go; a second time nothing is to be done."""
        self.make('install')
        cache = f'{self.bin}/__pycache__'
        stay = [
            f'{cache}/other.cpython-311.pyc',
            f'{self.bin}/qmail-smtpd',
            f'{self.bin}/qmail-pwrap2',
        ]
        go = ['cpython-39.opt-1', 'cpython-313', 'pypy39']
        for path in stay + [f'{cache}/qmail_pwrap.{tag}.pyc' for tag in go]:
            os.rename(self.write('other', 'another program'), path)
        kept = sorted(os.path.relpath(path, self.dest) for path in [*stay, self.example])
        for _ in range(2):
            self.make('uninstall')
            self.assertEqual(files(self.dest), kept)
        for path in stay:
            self.assertEqual(read_file(path), b'another program')

    def test_removes_the_compiled_forms_of_all_pythons(self) -> None:
        """Each Python that was installed with has its own; with the last of them their folder goes."""
        ours = pythons()
        for python in ours.values():
            self.make('install', PYTHON=python)
        forms = [f'qmail_pwrap.{tag}.pyc' for tag in ours]
        self.assertEqual(sorted(os.listdir(f'{self.bin}/__pycache__')), sorted(forms))
        self.make('uninstall')
        self.assertEqual(os.listdir(self.bin), [])

    def test_removes_what_a_killed_install_left(self) -> None:
        """The folder in which a killed make install was at work."""
        self.make('install')
        os.mkdir(f'{self.bin}/.qmail-pwrap.x1Y2z3')
        os.rename(self.write('left', ''), f'{self.control}/.pwrap.conf.x1Y2z3')
        self.make('uninstall')
        self.assertEqual((os.listdir(self.bin), os.listdir(self.control)), ([], ['pwrap.conf']))

    def test_makes_nothing_where_nothing_was_installed(self) -> None:
        """That is no error."""
        self.make('uninstall')
        self.assertFalse(os.path.exists(self.dest))


if __name__ == '__main__':
    unittest.main()
