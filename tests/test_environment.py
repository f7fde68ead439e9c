"""The environment: tool and prog have the server's, with AUTH in it, whatever the interpreter makes
of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import posix
import types
import unittest
from collections.abc import Callable, Collection
from typing import Any
from unittest import mock

from tests.harness import faults, machine
from tests.harness.imported import SCRIPT
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
        """Compare the environments; AUTH is what the wrapper promises."""
        for view, direct, wrapped in self.views('environ', only, **options):
            with self.subTest(view, env=options.get('env')):
                entries = wrapped.split(b'\0')[:-1]
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
        for others in ({}, {'LC_ALL': ''}, {'LC_ALL': 'C'}, {'LC_ALL': 'C.UTF-8'}, {'LANG': 'C'}):
            for more in ({}, {'LC_CTYPE': 'C'}, {'LC_CTYPE': 'C.UTF-8'}):
                self.compare((THE_SESSION,), env={**others, **more})

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
                    seen = [one for one in wrapped.split(b'\0') if not one.startswith(b'AUTH=')]
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

    def test_an_empty_one_has_nothing_but_auth(self) -> None:
        """Under env -i there is nothing in the environment but AUTH."""
        command = self.launcher(faults.Replaces('CONFIGURATION', self.conf))
        looks = self.tool('looks', 'cat /proc/$$/environ; exit 0')
        for tool, prog, expected in (
            (PLAIN, (CAT, '/proc/self/environ'), b'AUTH=success\0'),
            (looks, ('true',), b'AUTH=1\0'),
            (looks, ('prog',), b'AUTH=1\0'),
        ):
            self.configure(tool)
            with self.subTest(tool=tool, prog=prog):
                login = self.login(*prog, command=command, whole_env={})
                self.assertEqual((login.code, login.output(1), login.output(2)), (0, expected, b''))

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


class LcCtype(unittest.TestCase):
    """When LC_CTYPE is what the interpreter has set, by the function that decides it: also for
    other versions."""

    OLD, NEW = (3, 14), (3, 15)

    def restored(
        self,
        now: str | None,
        found: str | None,
        version: tuple[int, int],
        utf8_mode: int,
        has_proc: bool = True,
    ) -> str | None:
        """Return what LC_CTYPE becomes that is "now" in this process and was "found" when it was
        started."""
        before = {b'A': b'1', **({} if found is None else {b'LC_CTYPE': found.encode()})}
        after = {b'A': b'1', **({} if now is None else {b'LC_CTYPE': now.encode()})}
        content = b''.join(b'%s=%s\0' % entry for entry in before.items())
        read = mock.Mock(return_value=(None, content) if has_proc else None)
        if not has_proc:
            read.side_effect = FileNotFoundError
        system = types.SimpleNamespace(
            version_info=(*version, 0), flags=types.SimpleNamespace(utf8_mode=utf8_mode)
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(posix.environ, after, clear=True))
            stack.enter_context(mock.patch.object(SCRIPT, 'sys', system))
            stack.enter_context(mock.patch.object(SCRIPT, 'read_file', read))
            environment = SCRIPT.restore_environment()
        self.assertEqual(environment.pop(b'A'), b'1')
        value = environment.pop(b'LC_CTYPE', None)
        self.assertEqual(environment, {})
        return None if value is None else value.decode()

    def test_what_the_interpreter_set_is_undone(self) -> None:
        """It sets one of three values where the locale is C; then LC_CTYPE is again what it was, or
        not there."""
        for version in (self.OLD, self.NEW):
            for now in ('C.UTF-8', 'C.utf8', 'UTF-8'):
                for found in (None, '', 'C', 'POSIX', 'C.UTF-8', 'xx_YY'):
                    with self.subTest(version=version, now=now, found=found):
                        self.assertEqual(self.restored(now, found, version, 1), found)

    def test_other_values_are_the_administrators(self) -> None:
        """What the interpreter would not set stays, also under Python 3.15, where UTF-8 mode is
        always on."""
        for version, mode in ((self.OLD, 0), (self.OLD, 1), (self.NEW, 1)):
            for value in (None, '', 'C', 'de_DE.UTF-8', 'en_US.utf8', 'c.utf-8', 'UTF-16'):
                with self.subTest(version=version, mode=mode, value=value):
                    self.assertEqual(self.restored(value, 'x', version, mode), value)

    def test_without_utf8_mode_an_older_python_has_set_nothing(self) -> None:
        """Up to 3.14 its UTF-8 mode tells; since 3.15 that is always on, whatever the flag says."""
        for value in ('C.UTF-8', 'C.utf8', 'UTF-8'):
            with self.subTest(value):
                self.assertEqual(self.restored(value, 'x', self.OLD, 0), value)
                self.assertEqual(self.restored(value, 'x', self.NEW, 0), 'x')

    def test_without_proc_it_stays(self) -> None:
        """Where /proc/self/environ cannot tell what it was it stays as it is, whatever it is."""
        for version in (self.OLD, self.NEW):
            for value in ('C.UTF-8', 'UTF-8', 'de_DE.UTF-8'):
                with self.subTest(version=version, value=value):
                    self.assertEqual(self.restored(value, None, version, 1, False), value)

    def test_a_variable_without_a_name_is_dropped(self) -> None:
        """posix_spawn would not take it; the environment of this process itself is not changed."""
        with mock.patch.dict(posix.environ, {b'': b'x', b'B': b'2'}, clear=True):
            self.assertEqual(SCRIPT.restore_environment(), {b'B': b'2'})
            self.assertEqual(posix.environ, {b'': b'x', b'B': b'2'})


if __name__ == '__main__':
    unittest.main()
