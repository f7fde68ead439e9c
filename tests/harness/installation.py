"""The project, installed by make into a folder of the test."""

from __future__ import annotations

import glob
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

from tests.harness.logins import ACCEPTS, QUICK, REJECTS, WAYS, Case, Said, read_file
from tests.harness.machine import PYTHON, TOP, program

LAUNCHER, SCRIPT = 'qmail-pwrap', 'qmail_pwrap.py'
CONFIGURATION = 'var/qmail/control/pwrap.conf'


def mode(path: str) -> str:
    return oct(os.stat(path).st_mode & 0o7777)


def tree(folder: str) -> dict[str, tuple[str, bytes]]:
    """Return mode and content of every file under a folder, by its path there; a folder has no content."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in folders + names:
            path = os.path.join(place, name)
            content = b'' if name in folders else read_file(path)
            found[os.path.relpath(path, folder)] = (mode(path), content)
    return found


def files(folder: str) -> list[str]:
    """Return the paths of all files under a folder."""
    found = [path for path in tree(folder) if not os.path.isdir(os.path.join(folder, path))]
    return sorted(found)


def pythons() -> dict[str, str]:
    """Return the Pythons of this machine that the script supports, one of each version, by cache tag."""
    found: dict[str, str] = {}
    for folder in ('/usr/bin', '/usr/local/bin', os.path.expanduser('~/.pyenv/versions/*/bin')):
        for path in [PYTHON, *sorted(glob.glob(f'{folder}/python3.*'))]:
            if path == PYTHON or re.fullmatch(r'python3\.(9|1[0-5])', os.path.basename(path)):
                tag = cache_tag(path)
                if tag:
                    found.setdefault(tag, path)
    return found


def cache_tag(python: str) -> str:
    """Return what a Python calls its compiled forms, or '' if it does not run."""
    words = [python, '-IS', '-c', 'import sys; print(sys.implementation.cache_tag)']
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


class Installation(Case):
    """A test that runs make; it needs('make')."""

    def setUp(self) -> None:
        super().setUp()
        self.place()

    def place(self, home: str = '/var/qmail', dest: str | None = None) -> None:
        """Say where make installs to from now on: QMAILHOME and DESTDIR."""
        self.home = home
        self.dest = self.path('dest') if dest is None else dest
        self.bin = f'{self.dest}{home}/bin'
        self.control = f'{self.dest}{home}/control'
        self.installed = f'{self.bin}/{LAUNCHER}'
        self.script = f'{self.bin}/{SCRIPT}'
        self.example = f'{self.control}/pwrap.conf'
        self.command = (self.installed,)

    def run_make(
        self,
        target: str,
        top: str = TOP,
        before: Callable[[], object] | None = None,
        env: dict[str, str] | None = None,
        **variables: Any,
    ) -> Said:
        """Run make, and return how it ended and what it said; a variable that is None is left out."""
        given = {'DESTDIR': self.dest, 'QMAILHOME': self.home, 'PYTHON': PYTHON, **variables}
        words = [f'{name}={value}' for name, value in given.items() if value is not None]
        command = (program('make'), '--no-print-directory', '-C', top, target)
        return self.say(*words, command=command, before=before, env=env)

    def make(self, target: str, **options: Any) -> str:
        """Run make, which must succeed without an error; return what it says."""
        said = self.run_make(target, **options)
        self.assertEqual((said.code, said.errors), (0, ''), said)
        return said.output

    def check(self, code: int = 0, **options: Any) -> str:
        """Return what --check says, on one line, as it may wrap lines where it likes."""
        said = self.say('--check', **options)
        self.assertEqual((said.code, said.errors), (code, ''), said)
        return ' '.join(said.output.split())

    def form(self) -> str:
        """Return the path of the one compiled form."""
        (name,) = os.listdir(f'{self.bin}/__pycache__')
        return f'{self.bin}/__pycache__/{name}'

    def use_tool(self, body: str = ACCEPTS) -> None:
        """Have one tool, which accepts or does otherwise."""
        self.configure(self.tool('tool', body))

    def assert_works(self, command: tuple[str, ...] | None = None, **options: Any) -> None:
        """Logins come out right: accepted and refused, with prog true and with a session, and quiet."""
        for body, result in ((REJECTS, 'rejected'), (ACCEPTS, 'accepted')):
            self.use_tool(body)
            for way in WAYS:
                login = self.login(*way.prog, command=command, **options)
                self.assertEqual(login.code, way.code if result == 'accepted' else 1, login.log())
                self.assertEqual((login.result()['result'], login.problems()), (result, []))
                self.assertEqual((login.output(1), login.output(2)), (b'', b''))

    def assert_runs(self, command: tuple[str, ...] | None = None) -> None:
        """A login is accepted."""
        self.use_tool()
        self.assertEqual(self.login(*QUICK.prog, command=command).code, 0)
