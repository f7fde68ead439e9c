"""`make bench`: what a login costs. Every command is run in turn, ROUNDS times (default 200), so that whatever else the
machine does falls on all of them; medians and ratios of one run. Nothing is asserted."""

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = '/usr/bin/python3' if os.path.exists('/usr/bin/python3') else sys.executable
TRIPLE = b'alice@example.org\0secret\0<17.42@mail>\0'
TRUE = '/bin/true' if os.path.exists('/bin/true') else '/usr/bin/true'

ACCEPTS = '#!/bin/sh\nread -r line <&3\nexec 3<&-\nexec "$@"\n'
REFUSES = '#!/bin/sh\nread -r line <&3\nexit 1\n'
MEMORY = '#!/bin/sh\ngrep VmHWM /proc/$PPID/status >&2\nexit 0\n'
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


def write(path, content, mode=0o755):
    with open(path, 'w') as file:
        file.write(content)
    os.chmod(path, mode)
    return path


def run(command, configuration, stderr=None, limit=None):
    """Run a login; return its seconds and its wait status."""
    reader, writer = os.pipe()
    os.write(writer, TRIPLE)
    os.close(writer)
    actions = [(os.POSIX_SPAWN_DUP2, reader, 3)]
    if stderr is not None:
        actions.append((os.POSIX_SPAWN_DUP2, stderr, 2))
    if limit:
        command = ['/bin/sh', '-c', f'ulimit -v {limit}; exec "$@"', 'sh', *command]
    environment = {'PATH': '/usr/bin:/bin', 'PWRAP_CONF': configuration}
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
    status = os.waitpid(pid, 0)[1]
    seconds = time.perf_counter() - started
    os.close(reader)
    return seconds, status


def peak(folder, command, configuration):
    """Return the peak memory, in KiB, of the process that writes VmHWM to descriptor 2."""
    with open(os.path.join(folder, 'memory'), 'w+b') as file:
        run(command, configuration, stderr=file.fileno())
        file.seek(0)
        return int(file.read().partition(b'VmHWM:')[2].split()[0])


def smallest_limit(command, configuration):
    """Return the smallest address space in KiB, to 64, under which a login works."""
    low, high = 1024, 1024 * 1024
    with open(os.devnull, 'wb') as null:
        while high - low > 64:
            middle = (low + high) // 2
            if all(run(command, configuration, null.fileno(), middle)[1] == 0 for _ in range(3)):
                high = middle
            else:
                low = middle
    return high


def main():
    rounds = int(os.environ.get('ROUNDS', '200'))
    while os.open(os.devnull, os.O_RDONLY) <= 3:  # descriptor 3 is for the triple
        pass
    folder = tempfile.mkdtemp(prefix='pwrap-bench-')
    try:
        subprocess.run(
            ['make', '-s', '-C', TOP, 'install', f'DESTDIR={folder}', f'PYTHON={PYTHON}'],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        measure(folder, rounds)
    finally:
        shutil.rmtree(folder)


def measure(folder, rounds):
    def path(name):
        return os.path.join(folder, name)

    script, installed = path('dropped-in'), path('var/qmail/bin/qmail-pwrap')
    shutil.copy(os.path.join(TOP, 'qmail_pwrap.py'), script)
    shell = write(path('shell-wrapper'), SHELL_WRAPPER)
    yes, no, memory = (
        write(path('yes'), ACCEPTS),
        write(path('no'), REFUSES),
        write(path('memory-tool'), MEMORY),
    )
    one = write(path('one'), f'{yes}\n', 0o644)
    five = write(path('five'), f'{no}\n' * 4 + f'{yes}\n', 0o644)
    users = write(path('users'), f'users=*@example.org {yes}\n', 0o644)
    remembers = write(path('remembers'), f'{memory}\n', 0o644)
    session = ['/bin/sh', '-c', ':']
    commands = {  # name: command, configuration, status
        'bare': ([PYTHON, '-IS', '-c', 'pass'], one, 0),
        'tool': ([yes, TRUE], one, 0),
        'refusing': ([no, TRUE], one, 256),
        'script': ([script, TRUE], one, 0),
        'installed': ([installed, TRUE], one, 0),
        'users': ([installed, TRUE], users, 0),
        'five': ([installed, TRUE], five, 0),
        'shell': ([shell, TRUE], one, 0),
        'shell five': ([shell, TRUE], five, 0),
        'session': ([installed, *session], one, 0),
    }
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, (command, configuration, expected) in commands.items():
            seconds, status = run(command, configuration)
            if status != expected:
                raise SystemExit(f'{name}: status {status}')
            times[name].append(seconds * 1000)
    median = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    bare_memory = peak(
        folder,
        [
            PYTHON,
            '-IS',
            '-c',
            'import posix\nf = posix.open("/proc/self/status", 0)\n'
            'posix.write(2, posix.read(f, 4096))',
        ],
        one,
    )
    login_memory = peak(folder, [installed, TRUE], remembers)

    version = subprocess.run([PYTHON, '-V'], capture_output=True, text=True).stdout.strip()
    print(
        f'{platform.system()} {platform.machine()}, {os.cpu_count()} processors, {version}, {rounds} rounds, '
        f'{"with" if os.path.exists("/dev/log") else "without"} a syslog socket\n'
    )
    print('| median, ms | |\n|---|---|')
    for name, what in (
        ('bare', 'a bare `python3 -IS`'),
        ('tool', 'the tool directly'),
        ('refusing', 'a refusing tool directly'),
        ('script', 'the dropped-in script'),
        ('installed', 'the installed command'),
        ('users', 'the same with `users=`'),
        ('five', 'the same with five tools'),
        ('shell', 'a shell wrapper'),
        ('shell five', 'the same with five tools'),
        ('session', 'the installed command with a prog that is a shell doing nothing'),
    ):
        print(f'| {what} | {median[name]:.1f} |')
    bare, tool = median['bare'], median['tool']
    further = (median['five'] - median['installed']) / 4
    print('\n| ratio | measured | to reach |\n|---|---|---|')
    for what, ratio, goal in (
        (
            'installed command, (wrapper − tool) / bare interpreter',
            (median['installed'] - tool) / bare,
            1.10,
        ),
        ('the same with `users=*@example.org` on its line', (median['users'] - tool) / bare, 1.12),
        (
            'dropped-in script, (wrapper − tool) / bare interpreter',
            (median['script'] - tool) / bare,
            1.50,
        ),
        (
            'installed command / shell wrapper, with 1 tool',
            median['installed'] / median['shell'],
            1.00,
        ),
        ('the same with 5 tools', median['five'] / median['shell five'], 0.95),
        (
            'each further refusing tool / running that tool directly',
            further / median['refusing'],
            0.80,
        ),
        (
            'installed command with a prog that is a shell doing nothing / bare interpreter',
            median['session'] / bare,
            2.60,
        ),
        ('peak memory / bare interpreter', login_memory / bare_memory, 1.10),
    ):
        print(f'| {what} | {ratio:.2f} | ≤ {goal:.2f} |')
    print(f'\npeak memory: {login_memory} KiB (bare interpreter: {bare_memory} KiB)')
    for what, command in (
        ('prog true', [installed, TRUE]),
        ('a session', [installed, *session]),
        ('the dropped-in script with a session', [script, *session]),
    ):
        limit = smallest_limit(command, one)
        print(
            f'smallest address space for a login with {what}: ulimit -v {limit}, softlimit -m {limit * 1024}'
        )


if __name__ == '__main__':
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
