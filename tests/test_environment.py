"""The environment: tool and prog have the server's, with AUTH in it, whatever the interpreter makes
of it, and whatever locale it names."""

from __future__ import annotations

import ctypes
import os
import unittest
from collections.abc import Callable, Collection
from typing import Any

from tests.harness import faults, machine
from tests.harness.logins import ACCEPTS
from tests.harness.machine import needs
from tests.harness.probes import CAT, PLAIN, THE_SESSION, THE_TOOL, ProbeCase

ENV = machine.program('env')
LIBC = ctypes.CDLL(None, use_errno=True)
PYTHON_VARIABLES = (
    *('PATH', 'HOME', 'STARTUP', 'PLATLIBDIR', 'EXECUTABLE', 'WARNINGS', 'VERBOSE', 'INSPECT'),
    *('DEVMODE', 'MALLOC', 'HASHSEED', 'DUMPREFS', 'BREAKPOINT', 'SAFEPATH', 'NOUSERSITE', 'UTF8'),
    *('COERCECLOCALE', 'IOENCODING', 'PROFILEIMPORTTIME', 'TRACEMALLOC', 'FAULTHANDLER'),
)


def execute_raw(*entries: bytes) -> None:
    """In a new process: what the test executes gets exactly these entries, also such as Python
    refuses."""

    def execve(path: str, words: list[str], environment: object) -> None:
        del environment
        arguments = [os.fsencode(word) for word in words]
        LIBC.execve(
            os.fsencode(path),
            (ctypes.c_char_p * (len(arguments) + 1))(*arguments),
            (ctypes.c_char_p * (len(entries) + 1))(*entries),
        )
        os._exit(98)

    os.execve = execve  # type: ignore[assignment]


@needs('/proc')
class Environment(ProbeCase):
    """What tool and prog have, compared with what they have when the tool is run directly."""

    def compare(self, only: Collection[str] = (THE_TOOL, THE_SESSION), **options: Any) -> None:
        """Compare the environments. AUTH is what the wrapper promises; its mark against asking
        itself is taken out again before a session."""
        for view, direct, wrapped in self.views('environ', only, **options):
            with self.subTest(view, env=options.get('env')):
                entries = wrapped.split(b'\0')[:-1]
                if view != THE_SESSION:
                    entries = [one for one in entries if not one.startswith(b'PWRAP_ASKING=')]
                auth = [entry for entry in entries if entry.startswith(b'AUTH=')]
                expected = direct.split(b'\0')[:-1]
                self.assertEqual(
                    sorted(entry for entry in entries if entry not in auth),
                    sorted(entry for entry in expected if not entry.startswith(b'AUTH=')),
                )
                found = (options.get('env') or {}).get('AUTH') or '1'
                told = 'success' if view == THE_SESSION else found
                if view == 'prog true':
                    told = found
                self.assertEqual(auth, [b'AUTH=' + os.fsencode(told)])

    def raw(self, *entries: bytes) -> Callable[[], None]:
        """Return what starts a login, as start(before=), with entries that Python would refuse."""
        own = [os.fsencode(f'{name}={value}') for name, value in self.environment().items()]
        return lambda: execute_raw(*entries[:1], *own, *entries[1:])

    def test_every_value_is_the_same(self) -> None:
        """Whatever bytes it holds; the tools find AUTH=1 where it was unset or empty, else what it
        was."""
        values: dict[str | bytes, str | bytes] = {
            'EMPTY': '',
            'BYTES': bytes(range(1, 256)),
            b'N\xe4me': b'\xff\xc3',
            'LINES': 'a\nb=c\n',
            '1 2': '=',
            'LONG': 'x' * 100000,
            'IFS': 'P/',
            'ENV': '/nonexistent',
            'HOME': '/nonexistent',
            'TCPREMOTEIP': ':',
        }
        self.compare((), env=values)
        for auth in ('', 'pop', '00'):
            self.compare(env={'AUTH': auth})

    def test_what_means_something_to_python_changes_nothing(self) -> None:
        """No PYTHON variable reaches the wrapper, and no module of a folder that one names."""
        names = [f'PYTHON{name}' for name in PYTHON_VARIABLES]
        values = dict.fromkeys(names, '1')
        values.update(PYTHONPATH=self.folder, PYTHONHOME='/nonexistent', PYTHONIOENCODING='utf-16')
        for module in ('errno', 'os', 'select', 'stat', 'syslog', 'time'):
            self.write(f'{module}.py', 'raise SystemExit(0)')
        self.compare((), env=values)
        self.compare(env={**values, 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'})

    def test_lc_ctype_is_not_the_interpreters(self) -> None:
        """The interpreter's own idea of LC_CTYPE reaches neither tool nor prog, whatever the locale
        settings are."""
        for value in ('', 'C', 'POSIX', 'C.UTF-8', 'C.utf8', 'UTF-8', 'xx_YY.unknown'):
            self.compare(env={'LC_CTYPE': value})
        for env in (
            {},
            {'LC_ALL': '', 'LC_CTYPE': 'C'},
            {'LC_ALL': 'C'},
            {'LC_ALL': 'C.UTF-8', 'LC_CTYPE': 'C.UTF-8'},
            {'LANG': 'C'},
        ):
            self.compare((THE_SESSION,), env=env)

    def test_lc_ctype_may_stand_anywhere(self) -> None:
        """LC_CTYPE is the same wherever it stands among the others."""
        for value in ('C', 'C.UTF-8'):
            own = self.environment()
            for whole in ({'LC_CTYPE': value, **own}, {**own, 'LC_CTYPE': value}):
                self.compare(whole_env=whole)

    def test_a_variable_without_a_name_is_dropped(self) -> None:
        """It breaks no login, and reaches neither tool nor prog; the others do."""
        for entries in ((b'=x',), (b'=',), (b'=x', b'=y', b'A=1', b'LC_CTYPE=C')):
            for view, direct, wrapped in self.views(
                'environ', (THE_TOOL, THE_SESSION), before=self.raw(*entries)
            ):
                with self.subTest(entries=entries, view=view):
                    kept = [one for one in direct.split(b'\0') if not one.startswith(b'=')]
                    added = (b'AUTH=', b'PWRAP_ASKING=')
                    seen = [one for one in wrapped.split(b'\0') if not one.startswith(added)]
                    self.assertEqual(sorted(seen), sorted(kept))

    def test_odd_entries_break_no_login(self) -> None:
        """An entry without "=" and a name that stands twice: the login works, and the others
        arrive."""
        self.configure(PLAIN)
        for entries in ((b'nothing',), (b'',), (b'A=1', b'A=2')):
            with self.subTest(entries=entries):
                login = self.login(CAT, '/proc/self/environ', before=self.raw(*entries, b'Z=9'))
                self.assertEqual(login.code, 0)
                seen = login.output(1).split(b'\0')
                self.assertLessEqual({b'AUTH=success', b'Z=9'}, set(seen))

    def test_an_empty_one_has_nothing_but_ours(self) -> None:
        """Under env -i there is nothing in the environment of a session but AUTH, and in that of a
        tool besides which file is being asked."""
        command = self.launcher(faults.Replaces('CONFIGURATION', self.conf))
        looks = self.tool('looks', f'cat /proc/$$/environ; {ACCEPTS}')
        for tool, prog, expected in (
            (PLAIN, (CAT, '/proc/self/environ'), [b'AUTH=success']),
            (looks, ('true',), [b'AUTH=1', b'PWRAP_ASKING=,MARK,']),
            (looks, ('/bin/sh', '-c', ':'), [b'AUTH=1', b'PWRAP_ASKING=,MARK,']),
        ):
            self.configure(tool)
            status = os.stat(self.conf)
            mark = f'{status.st_ino}.{status.st_dev}'.encode()
            with self.subTest(tool=tool, prog=prog):
                login = self.login(*prog, command=command, whole_env={})
                self.assertEqual((login.code, login.output(2)), (0, b''))
                seen = sorted(login.output(1).replace(mark, b'MARK').split(b'\0')[:-1])
                self.assertEqual(seen, expected)

    def test_what_the_tool_changes_stays_changed(self) -> None:
        """What a tool sets and unsets is set and unset in prog."""
        for words in (
            ('-i',),
            ('-i', 'LC_CTYPE=C'),
            ('LC_CTYPE=C.UTF-8',),
            ('-u', 'PATH', 'LC_ALL=POSIX'),
            ('-u', 'AUTH'),
            ('USER=alice', 'HOME=/home/alice', 'SHELL=/bin/sh', 'PYTHONHOME=/nonexistent'),
        ):
            command = (ENV, *words, *PLAIN.split())
            self.configure(' '.join(command))
            with self.subTest(words):
                prog = CAT, '/proc/self/environ'
                direct = self.login(*prog, command=command).output(1).split(b'\0')
                seen = self.login(*prog).output(1).split(b'\0')
                self.assertEqual(sorted(seen), sorted([*direct, b'AUTH=success']))

    @needs('namespaces')
    def test_where_proc_is_missing_lc_ctype_stays_as_it_is(self) -> None:
        """What the administrator has set is not taken away where nothing can tell who set it."""
        self.configure(PLAIN)
        for env in (
            {'LC_CTYPE': 'C.UTF-8'},
            {'LC_CTYPE': 'de_DE.UTF-8', 'LC_ALL': 'C.UTF-8'},
        ):
            with self.subTest(env):
                login = self.login(ENV, env=env, before=machine.hide_proc)
                self.assertEqual(login.code, 0)
                self.assertIn(f'LC_CTYPE={env["LC_CTYPE"]}'.encode(), login.output(1).split(b'\n'))


@needs('locales')
class Locales(ProbeCase):
    def test_none_stops_a_login_or_changes_a_byte(self) -> None:
        """Python has no codec for some character sets, and would not even start; in others, it
        takes some bytes for parts of a character. Prog's arguments arrive as they were."""
        show = self.tool('show', 'printf "%s\\0" "$@"')
        words = [bytes([byte]) for byte in range(1, 256)]
        words += [b'%c\x40' % byte for byte in range(128, 256)] + [
            b'\xc9\xa1\xff',
            b'a\x8e\xa2\xa1\xa1',
        ]
        given = [os.fsdecode(word) for word in words]
        for charset in ('GEORGIAN-PS', 'TCVN5712-1', 'EUC-TW', 'BIG5', 'EUC-JP'):
            locale = f'xx.{charset}'
            self.run_program('localedef', '-c', '-i', 'POSIX', '-f', charset, self.path(locale))
            self.assertTrue(os.path.exists(self.path(locale)), charset)
            for way in self.ways_to(show):
                with self.subTest(charset=charset, way=way.name):
                    env = {'LOCPATH': self.folder, 'LC_ALL': locale}
                    login = self.login(*way.prog, *given, env=env)
                    self.assertEqual((login.code, login.problems()), (0, []))
                    self.assertEqual(login.output(1).split(b'\0')[:-1], words)


if __name__ == '__main__':
    unittest.main()
