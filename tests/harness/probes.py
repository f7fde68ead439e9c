"""Programs that look around, to be run as tool and as prog, and what they saw; a login that is held
while one looks."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from tests.harness import machine
from tests.harness.logins import Case, Login, read_file, wait_until
from tests.harness.tools import ACCEPTS, READY

PASSED_ON = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
# As tool: reads the triple and accepts, and changes nothing before it does, as a shell would.
PLAIN = f'{machine.program("perl")} -e open(F,q(<&=3));sysread(F,$_,999);exec(@ARGV)'
CAT = machine.program('cat')

# Writes what it finds around it into OUT. Python has closed the file of the program when this runs.
PROBE = """
import fcntl, resource
descriptors = {}
for number in range(600):
    try:
        status = os.fstat(number)
        descriptors[number] = status.st_dev, status.st_ino, fcntl.fcntl(number, fcntl.F_GETFL)
    except OSError:
        pass
limits = sorted({getattr(resource, name) for name in dir(resource) if name.startswith('RLIMIT_')})
folder = os.stat('.')
seen = {
    'descriptors': descriptors,
    'arguments': [os.fsencode(word) for word in argv],
    'folder': (folder.st_dev, folder.st_ino) if folder.st_nlink else 'a folder that is gone',
    'umask': os.umask(0o22),
    'niceness': os.nice(0),
    'limits': [(limit, resource.getrlimit(limit)) for limit in limits],
    'group': os.getpgrp(),
    'session': os.getsid(0),
}
with open(OUT, 'w') as file:
    file.write(repr(seen))
"""

# Waits for a signal, and ends with 40 + its number.
CATCHER = f"""
import signal, time
for number in {[int(number) for number in PASSED_ON]}:
    signal.signal(number, lambda number, frame: os._exit(40 + number))
open(READY, 'w').close()
while True:  # a signal can come right before a pause() that would wait for it
    time.sleep(0.01)
"""


THE_TOOL, THE_SESSION = 'the tool, with prog true', 'the session'  # two of the views


class View(NamedTuple):
    """Who reads a file below /proc/self: the tool in one of the two ways, or prog in one of
    them."""

    name: str
    tool: str
    prog: tuple[str, ...]


def views_of(file: str) -> tuple[View, ...]:
    """Return the four views of such a file. "true" is found on PATH, and is cat."""
    return (
        View(THE_TOOL, f'{CAT} {file}', ('true',)),
        View('prog true', PLAIN, ('true', file)),
        View('the tool, before a session', f'{CAT} {file}', ('prog',)),
        View(THE_SESSION, PLAIN, (CAT, file)),
    )


class ProbeCase(Case):
    """A test with a tool that accepts, and with programs that look around."""

    def setUp(self) -> None:
        super().setUp()
        self.ready = self.path('ready')
        self.yes = self.tool('yes', ACCEPTS)
        self.configure(self.yes)

    def python_tool(self, name: str, body: str) -> str:
        """Make a tool in Python, as Case does, with READY and OUT as the paths of files."""
        return super().python_tool(name, f'READY, OUT = {self.ready!r}, {self.seen!r}\n{body}')

    def chain(self, *lines: str) -> dict[str, str]:
        """Write a configuration for one login; return the environment that names it."""
        path = f'chain{self.count}'
        return {'PWRAP_CONF': self.write(path, '\n'.join(['log=stderr', *lines]) + '\n')}

    @property
    def seen(self) -> str:
        return self.path('seen')

    def probe(self, *words: str, **options: Any) -> dict[str, Any]:
        """Run a login whose last prog is a PROBE, and return what that saw."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.seen)
        login = self.login(*words, **options)
        self.assertEqual(login.code, 0, login.output(2) or login.log())
        return self.look()

    def look(self) -> dict[str, Any]:
        """Return what the PROBE saw that ran last."""
        found: dict[str, Any] = ast.literal_eval(read_file(self.seen).decode())
        return found

    def views(
        self, name: str, only: Collection[str] = (), **options: Any
    ) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield what a file of /proc/self says, if the tool is run directly and if it is run by the
        wrapper: in each view, or only in those of these names."""
        link = self.path('bin/true')
        if not os.path.lexists(link):
            os.symlink(CAT, link)
        for view in views_of(f'/proc/self/{name}'):
            if only and view.name not in only:
                continue
            self.configure(view.tool)
            program, *arguments = view.tool.split()
            direct = self.start(*arguments, *view.prog, **{**options, 'command': (program,)})
            wrapped = self.login(*view.prog, **options)
            direct.wait()
            self.assertEqual((wrapped.code, wrapped.problems()), (direct.code, []), view.name)
            # Before a session, cat goes on with the program of the report step.
            yield view.name, direct.output(1), wrapped.output(1).partition(b'#!')[0]

    @contextlib.contextmanager
    def held(
        self, *prog: str, descriptors: Mapping[int, int] | None = None, **options: Any
    ) -> Iterator[Login]:
        """Start a login, and wait until something in it has made the file "ready".

        What reads descriptor 0 (tools.READY) can wait for the end of the block.
        """
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.ready)
        reader, writer = os.pipe()
        login = self.start(*prog, descriptors={0: reader, **(descriptors or {})}, **options)
        os.close(reader)
        try:
            wait_until(lambda: os.path.exists(self.ready) or login.over(), 'ready')
            said = f'ended too early: {login.code} {login.output(2)!r} {login.log()}'
            self.assertFalse(login.over(), said)
            yield login
        finally:
            os.close(writer)
        login.wait()

    def holding(self, name: str = 'holding', code: int = 6) -> str:
        """Make a tool or session that waits for the end of a held() block, and then ends with this
        code."""
        return self.tool(name, f'{READY}; exit {code}')


def status_fields(status: bytes) -> dict[str, str]:
    """Return the content of a file such as /proc/self/status."""
    lines = status.decode().splitlines()
    return {name: value for name, _, value in (line.partition(':\t') for line in lines)}


def ignore(*numbers: int) -> None:
    """In a new process: ignore these signals."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def block(*numbers: int) -> None:
    """In a new process: block these signals."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
