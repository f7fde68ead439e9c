"""`make bench`: what a login costs. Every command is run in turn, ROUNDS times (default 200), so that whatever else the
machine does falls on all of them; medians and ratios of one run, beside those of the last release. Nothing is
asserted."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.harness import machine
from tests.harness.logins import TRIPLE

TRUE = '/bin/true' if os.path.exists('/bin/true') else '/usr/bin/true'
SESSION = ('/bin/sh', '-c', ':')
LAST_RELEASE = '1.1'
BARE = (machine.PYTHON, '-IS', '-c')

REPLY = '#!/bin/sh\nexit 0\n'
ACCEPTS = '#!/bin/sh\nread -r line <&3\nexec 3<&-\nexec "$@"\n'
REFUSES = '#!/bin/sh\nread -r line <&3\nexit 1\n'
MEMORY = '#!/bin/sh\ngrep VmHWM /proc/$PPID/status >&2\nexit 0\n'
OWN_MEMORY = (
    'import posix\nf = posix.open("/proc/self/status", 0)\nposix.write(2, posix.read(f, 4096))'
)
SHELL_WRAPPER = """#!/bin/sh
# The same job in shell: keep the data, give it to each tool in turn, log.
data=$(mktemp) || exit 111
cat <&3 >"$data"
exec 3<&-
code=1
while read -r tool; do
    case $tool in ''|'#'*) continue ;; esac
    "$tool" "$@" 3<"$data"
    code=$?
    if [ "$code" = 0 ]; then break; fi
done <"$PWRAP_CONF"
rm -f "$data"
logger -p mail.info -t shell-wrapper "code=$code"
exit "$code"
"""


class Command(NamedTuple):
    """What is run, with which configuration; and how the table calls it."""

    shown: str
    words: tuple[str, ...]
    configuration: str
    status: int = 0


def run(
    words: Sequence[str], configuration: str, errors: int | None = None, limit: int = 0
) -> tuple[float, int]:
    """Run a login, in an address space of limit KiB if not 0; return its seconds and its wait status."""
    reader, writer = os.pipe()
    os.write(writer, TRIPLE)
    os.close(writer)
    actions = [(os.POSIX_SPAWN_DUP2, reader, 3)]
    if errors is not None:
        actions.append((os.POSIX_SPAWN_DUP2, errors, 2))
    if limit:
        words = ['/bin/sh', '-c', f'ulimit -v {limit}; exec "$@"', 'sh', *words]
    environment = {'PATH': '/usr/bin:/bin', 'PWRAP_CONF': configuration}
    started = time.perf_counter()
    pid = os.posix_spawn(words[0], list(words), environment, file_actions=actions)
    status = os.waitpid(pid, 0)[1]
    seconds = time.perf_counter() - started
    os.close(reader)
    return seconds, status


class Place:
    """The folder with everything that is run."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.script = self.path('dropped-in')
        self.installed = self.path('var/qmail/bin/qmail-pwrap')
        subprocess.run(
            [
                'make',
                '-s',
                '-C',
                machine.TOP,
                'install',
                f'DESTDIR={folder}',
                f'PYTHON={machine.PYTHON}',
            ],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        shutil.copy(machine.SCRIPT, self.script)
        self.shell = self.write('shell-wrapper', SHELL_WRAPPER)
        self.accepts = self.write('accepts', ACCEPTS)
        self.refuses = self.write('refuses', REFUSES)
        self.reply = self.write(
            'checkpassword-reply', REPLY
        )  # the name tells that it is no session
        memory = self.write('memory-tool', MEMORY)
        self.one = self.write('one', f'{self.accepts}\n', 0o644)
        self.five = self.write('five', f'{self.refuses}\n' * 4 + f'{self.accepts}\n', 0o644)
        self.users = self.write('users', f'users=*@example.org {self.accepts}\n', 0o644)
        self.remembers = self.write('remembers', f'{memory}\n', 0o644)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def write(self, name: str, content: str, mode: int = 0o755) -> str:
        path = self.path(name)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(content)
        os.chmod(path, mode)
        return path

    def commands(self) -> dict[str, Command]:
        refused = 1 << 8
        return {
            'bare': Command('a bare `python3 -IS`', (*BARE, 'pass'), self.one),
            'tool': Command('the tool directly', (self.accepts, TRUE), self.one),
            'refusing': Command(
                'a refusing tool directly', (self.refuses, TRUE), self.one, refused
            ),
            'script': Command('the dropped-in script', (self.script, TRUE), self.one),
            'installed': Command('the installed command', (self.installed, TRUE), self.one),
            'users': Command('the same with `users=`', (self.installed, TRUE), self.users),
            'five': Command('the same with five tools', (self.installed, TRUE), self.five),
            'shell': Command('a shell wrapper', (self.shell, TRUE), self.one),
            'shell five': Command('the same with five tools', (self.shell, TRUE), self.five),
            'tool, reply': Command(
                'the tool directly, with checkpassword-reply', (self.accepts, self.reply), self.one
            ),
            'reply': Command(
                'the installed command with checkpassword-reply',
                (self.installed, self.reply),
                self.one,
            ),
            'session': Command(
                'the installed command with a session: a shell doing nothing',
                (self.installed, *SESSION),
                self.one,
            ),
        }

    def peak(self, words: Sequence[str], configuration: str) -> int:
        """Return the peak memory, in KiB, of the process that writes VmHWM to descriptor 2."""
        with open(self.path('memory'), 'w+b') as file:
            run(words, configuration, errors=file.fileno())
            file.seek(0)
            return int(file.read().partition(b'VmHWM:')[2].split()[0])

    def smallest_limit(self, words: Sequence[str]) -> int:
        """Return the smallest address space in KiB, to 64, under which a login works."""
        low, high = 1024, 1024 * 1024
        with open(os.devnull, 'wb') as null:
            while high - low > 64:
                middle = (low + high) // 2
                runs = [run(words, self.one, null.fileno(), middle) for _ in range(3)]
                if all(status == 0 for _, status in runs):
                    high = middle
                else:
                    low = middle
        return high


def medians(commands: dict[str, Command], rounds: int) -> dict[str, float]:
    """Return the median of each command in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seconds, status = run(command.words, command.configuration)
            if status != command.status:
                raise SystemExit(f'{name}: status {status}')
            times[name].append(seconds * 1000)
    return {name: sorted(values)[rounds // 2] for name, values in times.items()}


class Ratio(NamedTuple):
    """What was measured, what it was in the last release, and what to reach; 0 for what nobody has said."""

    shown: str
    measured: float
    last: float = 0
    goal: float = 0


def ratios(median: dict[str, float]) -> list[Ratio]:
    """Return the ratios that the medians make."""
    bare, tool = median['bare'], median['tool']
    further = (median['five'] - median['installed']) / 4
    return [
        Ratio(
            'installed command, (wrapper − tool) / bare interpreter',
            (median['installed'] - tool) / bare,
            1.05,
            1.07,
        ),
        Ratio(
            'the same with `users=*@example.org` on its line',
            (median['users'] - tool) / bare,
            1.05,
        ),
        Ratio(
            'the same with checkpassword-reply, which is no session',
            (median['reply'] - median['tool, reply']) / bare,
            2.14,
        ),
        Ratio(
            'dropped-in script, (wrapper − tool) / bare interpreter',
            (median['script'] - tool) / bare,
            2.97,
            2.45,
        ),
        Ratio(
            'installed command with a session / bare interpreter',
            median['session'] / bare,
            2.38,
            2.25,
        ),
        Ratio(
            'each further refusing tool / running that tool directly',
            further / median['refusing'],
            1.22,
            0.80,
        ),
        Ratio(
            'installed command / shell wrapper, with 1 tool',
            median['installed'] / median['shell'],
            1.51,
        ),
        Ratio(
            'the same with 5 tools',
            median['five'] / median['shell five'],
            1.39,
        ),
    ]


def show(place: Place, rounds: int) -> None:
    commands = place.commands()
    median = medians(commands, rounds)
    version = subprocess.run(
        [machine.PYTHON, '-V'], capture_output=True, text=True, check=True
    ).stdout.strip()
    syslog = 'with' if machine.somebody_logs() else 'without'
    print(
        f'{platform.system()} {platform.machine()}, {os.cpu_count()} processors, {version}, '
        f'{rounds} rounds, {syslog} a system log\n'
    )
    print('| median, ms | |\n|---|---|')
    for name, command in commands.items():
        print(f'| {command.shown} | {median[name]:.1f} |')
    print(f'\n| ratio | measured | {LAST_RELEASE} | to reach |\n|---|---|---|---|')
    for ratio in ratios(median):
        goal = f'≤ {ratio.goal:.2f}' if ratio.goal else ''
        last = f'{ratio.last:.2f}' if ratio.last else ''
        print(f'| {ratio.shown} | {ratio.measured:.2f} | {last} | {goal} |')
    if not machine.lacks('/proc'):
        used = place.peak((place.installed, TRUE), place.remembers)
        bare_used = place.peak((*BARE, OWN_MEMORY), place.one)
        print(f'\npeak memory: {used} KiB (bare interpreter: {bare_used} KiB)')
    for what, words in (
        ('prog true', (place.installed, TRUE)),
        ('a session', (place.installed, *SESSION)),
        ('the dropped-in script with a session', (place.script, *SESSION)),
    ):
        limit = place.smallest_limit(words)
        print(
            f'smallest address space for a login with {what}: '
            f'ulimit -v {limit}, softlimit -m {limit * 1024}'
        )


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while os.open(os.devnull, os.O_RDONLY) <= 3:  # descriptor 3 is for the triple
        pass
    folder = machine.make_folder('pwrap-bench-')
    try:
        show(Place(folder), int(os.environ.get('ROUNDS', '200')))
    finally:
        shutil.rmtree(folder)


if __name__ == '__main__':
    main()
