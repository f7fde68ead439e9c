"""Arguments, folder, limits and all else: what prog finds is what it would find without the
wrapper."""

from __future__ import annotations

import os
import resource
import unittest
from collections.abc import Iterator

from tests.harness import machine
from tests.harness.machine import needs
from tests.harness.probes import PLAIN, PROBE, ProbeCase, status_fields

LIMITS = (
    (resource.RLIMIT_NOFILE, 77),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_CPU, 1234),
    (resource.RLIMIT_STACK, 1 << 22),
    (resource.RLIMIT_FSIZE, 1 << 20),
    (resource.RLIMIT_DATA, 1 << 28),
    (resource.RLIMIT_MEMLOCK, 4096),
)


class Surroundings(ProbeCase):
    """What a process inherits besides descriptors, environment and signals."""

    def change(self) -> None:
        """In a new process: be somewhere else, in a folder that is gone, with other limits."""
        os.mkdir(self.path('gone'))
        os.chdir(self.path('gone'))
        os.rmdir(self.path('gone'))
        os.umask(0o137)
        os.nice(3)
        for limit, soft in LIMITS:
            resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))

    def test_folder_umask_limits_and_niceness_are_as_found(self) -> None:
        """Working directory, umask, resource limits and niceness are what the server has set."""
        probe = self.python_tool('probe', PROBE)
        for name, before in (
            ('usual', None),
            ('changed', self.change),
            ('root folder', lambda: os.chdir('/')),
        ):
            for way in self.ways_to(probe):
                with self.subTest(name, way=way.name):
                    direct = self.probe(*way.prog, command=(self.yes,), before=before)
                    wrapped = self.probe(*way.prog, before=before)
                    for what in ('folder', 'umask', 'niceness', 'limits'):
                        self.assertEqual(wrapped[what], direct[what], what)
                    if name == 'changed':
                        self.assertEqual(wrapped['folder'], 'a folder that is gone')
                        self.assertEqual(wrapped['umask'], 0o137)
                        self.assertEqual(wrapped['niceness'] - os.nice(0), 3)
                        for limit, soft in LIMITS:
                            self.assertEqual(dict(wrapped['limits'])[limit][0], soft)

    @needs('/proc')
    def test_what_the_kernel_tells_is_as_found(self) -> None:
        """User, groups, capabilities, processors: as found, for the tool and for prog."""
        names = (
            *('Umask', 'Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'),
            *('NoNewPrivs', 'Seccomp', 'Cpus_allowed', 'Mems_allowed', 'Threads', 'THP_enabled'),
        )
        for view, direct, wrapped in self.views('status'):
            found, seen = status_fields(direct), status_fields(wrapped)
            for name in names:
                with self.subTest(view=view, name=name):
                    self.assertEqual(seen.get(name), found.get(name))


class Arguments(ProbeCase):
    """What prog gets on its command line."""

    WORDS: tuple[str | bytes, ...] = (
        *('', ' ', '-', '--', '--help', '-x', '*', '$HOME', '`id`', "a'b", 'a"b', 'a\\b', 'a\nb'),
        *('=', b'\xc3\xa4', bytes(range(1, 256)), b'\xed\xb0\x80', b'\xf0\x82\x82\xac'),
        *(bytes([byte]) for byte in range(128, 256)),
        *(b'\xf4\x90\x80\x80', b'\xed\xa0\x80\xed\xb0\x80', b'x' * 100000),
        *('qmail_pwrap.report', '--check', '--test', ''),
    )

    def check_words(self, **env: str) -> None:
        """Have prog print its arguments."""
        prints = self.write('prints', '#!/bin/sh\nprintf "%s\\0" "$@"\n', 0o755)
        words = [os.fsdecode(word) for word in self.WORDS]
        for way in self.ways_to(prints):
            with self.subTest(way.name, **env):
                login = self.login(*way.prog, *words, env=env)
                seen = login.output(1).split(b'\0')
                self.assertEqual((login.code, login.problems()), (0, []))
                self.assertEqual(seen[:-1], [os.fsencode(word) for word in words])

    def test_arrive_untouched_in_every_locale(self) -> None:
        """Blanks, empty ones, leading dashes, any bytes: in C, UTF-8 and unknown locales."""
        self.check_words()
        for name in ('C', 'POSIX', 'C.UTF-8', 'xx_YY.unknown'):
            self.check_words(LC_ALL=name)
        self.check_words(LANG='C.utf8')

    @needs('locales')
    def test_arrive_untouched_in_every_character_set(self) -> None:
        """Also in those that lack some bytes or put two into one character, and in those with which Python by
        itself would not start."""
        locale = machine.program('locale')
        for charset in ('ISO-8859-3', 'BIG5', 'EUC-JP', 'EUC-TW', 'GEORGIAN-PS', 'TCVN5712-1'):
            name = f'xx.{charset}'
            self.run_program(
                'localedef', '-c', '-i', 'POSIX', '-f', charset, self.path(f'xx.{charset}')
            )
            said = self.run_program(locale, 'charmap', LOCPATH=self.folder, LC_ALL=name)
            self.assertEqual(said.output.strip(), charset)
            self.check_words(LOCPATH=self.folder, LC_ALL=name)

    def test_names_of_script_and_prog_may_hold_any_bytes(self) -> None:
        """The script, its folder and prog have names that are no text in any locale."""
        probe = self.python_tool('probe', PROBE)
        copy = machine.copy_with_python(machine.SCRIPT, self.path('copy'))
        folder = self.path(os.fsdecode(b'- \xe4\xff$x'))
        os.mkdir(folder)
        odd = [os.path.join(folder, os.fsdecode(b'-\xfc ') + name) for name in ('probe', 'copy')]
        for old, new in zip((probe, copy), odd):
            os.rename(old, new)
        for env in ({}, {'LC_ALL': 'C'}, {'LC_ALL': 'C.UTF-8'}):
            with self.subTest(env):
                self.probe(odd[0], command=(odd[1],), env=env)


class Prog(ProbeCase):
    """How prog is found, by real programs, compared with a tool that uses execvp(3) itself."""

    def trees(self) -> Iterator[tuple[str | None, str]]:
        """Make programs of some names in several folders; yield PATH and name."""
        os.mkdir(self.path('first'))
        os.mkdir(self.path('second'))
        os.mkdir(self.path('first/is-folder'))
        self.write('first/not-executable', 'echo wrong', 0o644)
        self.write('here', '#!/bin/sh\necho here "$# $0" "$@"; exit 3\n', 0o755)
        self.write('first/twice', '#!/bin/sh\necho first\n', 0o755)
        for name in ('not-executable', 'is-folder', 'twice'):
            self.write(f'second/{name}', '#!/bin/sh\necho second "$@"\n', 0o755)
        both = f'/nonexistent:{self.conf}:{self.path("first")}:{self.path("second")}'
        yield from (('/bin', './here'), ('/bin', self.path('here')), (self.folder, 'here'))
        yield from (('', 'here'), ('/bin::/usr/bin', 'here'), ('.', 'here'), ('second', 'twice'))
        yield from ((both, 'not-executable'), (both, 'is-folder'), (both, 'twice'), (None, 'expr'))

    def test_the_same_program_runs_by_the_same_name(self) -> None:
        """PATH with and without folders, files that are no programs, no PATH at all."""
        self.configure(PLAIN)
        for path, name in self.trees():
            whole = {'PWRAP_CONF': self.conf, **({} if path is None else {'PATH': path})}
            with self.subTest(path=path, name=name):
                words = name, '1', '+', '1'
                command = tuple(PLAIN.split())
                direct = self.login(*words, whole_env=whole, command=command)
                wrapped = self.login(*words, whole_env=whole)
                self.assertNotIn(direct.code, (125, 126, 127), direct.output(2))
                self.assertEqual((wrapped.code, wrapped.problems()), (direct.code, []))
                for number in (1, 2):
                    self.assertEqual(wrapped.output(number), direct.output(number))


if __name__ == '__main__':
    unittest.main()
