"""A process is started as a server starts it, and ends with its test, whatever happened.

    test ── supervisor ── the process ── whatever it starts
       └──────┘ a socket

The supervisor takes in every orphan below it, and tells how the process ended. It lives until nothing is left below
it. When the test ends or dies, the socket closes, and it kills all that is left.

To fork a process that has loaded all the tests takes long. So the supervisors are forked by the starter, which is a
small one, unless the test has something to call in the new process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import marshal
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

LONG_ENOUGH = (
    60.0  # seconds: a condition that is not met by then never will be, even on a busy machine
)
ENDING = 10.0  # seconds that the supervisor takes at most to end what is left
PR_SET_CHILD_SUBREAPER = 36
NUMBER = struct.Struct('=i')
ALL_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

T = TypeVar('T')


def wait_until(
    condition: Callable[[], T], what: str = 'condition', seconds: float = LONG_ENOUGH
) -> T:
    """Return the first true value of condition(), which is asked again and again; AssertionError if none comes."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f'not within {seconds:.0f} s: {what}')
        time.sleep(0.005)
    return value


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file."""
    with open(path, 'rb') as file:
        return file.read()


def readable(descriptor: int, seconds: float = LONG_ENOUGH) -> bool:
    """Tell whether there is something to read, or an end, within that time."""
    poller = select.poll()  # select(2) knows no descriptor above 1023
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not, where /proc can tell)."""
    try:
        return read_file(f'/proc/{pid}/stat').rpartition(b')')[2].split()[0] not in b'ZX'
    except OSError:
        if os.path.exists('/proc/self/stat'):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Process:
    """A process that ends with its test.

    pid is its number, group and session are those that it begins in. Once over() or wait() has said so, code is its
    exit code, or minus the signal that ended it, and dumped_core tells whether the system made a core file of it.
    """

    dumped_core = False

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str] | Mapping[bytes, bytes],
        descriptors: Mapping[int, int],
        folder: str = '/',
        before: Callable[[], object] | None = None,
    ) -> None:
        """Start a program with these descriptors (here by there) and no others, in a folder.

        All signals have their default action and none is blocked; it leads neither session nor process group, and has
        no terminal. before() is called in it just before it becomes the program; the test goes on once it has.
        """
        self.code: int | None = None
        self._socket, theirs = socket.socketpair()
        order = Order(
            [os.fsencode(word) for word in words],
            {os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
            list(descriptors),
            folder,
        )
        given = list(descriptors.values())
        self._child = 0  # the supervisor, if it is one of this process
        with theirs:
            if before:
                self._child = fork_supervisor(theirs, order, given, before)
            else:
                starter().ask(self._socket, theirs, order, given)
        numbers = [self._hear(LONG_ENOUGH) for _ in ('session', 'pid', 'group')]
        self.session, self.pid, self.group = (number or 0 for number in numbers)
        if None in numbers:
            self.end()
            raise AssertionError(f'{words[0]!r} does not start')

    def _hear(self, seconds: float) -> int | None:
        """Return the next number that the supervisor says within that time."""
        if not readable(self._socket.fileno(), seconds):
            return None
        said = self._socket.recv(NUMBER.size)
        if len(said) < NUMBER.size:
            raise AssertionError('the supervisor has been killed')
        return int(NUMBER.unpack(said)[0])

    def over(self) -> bool:
        """Tell whether the process has ended."""
        return self._ends(0)

    def _ends(self, seconds: float) -> bool:
        """Tell whether the process ends within that time."""
        if self.code is None:
            self._take_status(self._hear(seconds))
        return self.code is not None

    def _take_status(self, status: int | None) -> None:
        """Hear how the process ended, as wait(2) says it."""
        if self.code is None and status is not None:
            self.code = os.waitstatus_to_exitcode(status)
            self.dumped_core = os.WCOREDUMP(status)

    def wait(self, seconds: float = LONG_ENOUGH) -> Self:
        """Wait for the end of the process, and return it; AssertionError if the end does not come."""
        if not self._ends(seconds):
            raise AssertionError(f'not over within {seconds:.0f} s')
        return self

    def settle(self) -> bool:
        """Let go of the process if it is over and nothing that it started is left; tell whether that is so."""
        if self._socket.fileno() < 0:
            return True
        if not self.over() or not readable(self._socket.fileno(), 0):
            return False
        self.end()
        return True

    def kill(self) -> None:
        """Kill the process, and wait for its end. What it has started stays until the end of the test."""
        if not self.over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def end(self) -> None:
        """Kill the process, and all that it has started."""
        if self._socket.fileno() < 0:
            return
        with contextlib.suppress(AssertionError):
            self.over()
        self._socket.shutdown(socket.SHUT_WR)
        if not self._supervisor_ends(ENDING + 5):
            os.kill(self.session, signal.SIGKILL)
        self._socket.close()
        if self._child:
            os.waitpid(self._child, 0)

    def _supervisor_ends(self, seconds: float) -> bool:
        """Wait for the end of the supervisor, with what it may still have to say."""
        deadline = time.monotonic() + seconds
        while readable(self._socket.fileno(), max(0.0, deadline - time.monotonic())):
            said = self._socket.recv(NUMBER.size)
            if not said:
                return True
            self._take_status(int(NUMBER.unpack(said)[0]))
        return False


def fork() -> int:
    with warnings.catch_warnings():  # about threads: the listener's; nothing here needs its locks
        warnings.simplefilter('ignore', DeprecationWarning)
        return os.fork()


@contextlib.contextmanager
def leaving(code: int) -> Iterator[None]:
    """In a new process: end with the block, with this code, and leave nothing to the test's own way out."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode('utf-8', 'replace'))
    finally:
        os._exit(code)


# The new process


MORE_THAN_ALL = 65536  # descriptors


class Order(NamedTuple):
    """What a process is to be: a program with its words and environment, with descriptors in these places, in a folder."""

    words: list[bytes]
    environment: dict[bytes, bytes]
    places: list[int]
    folder: str


def close_all_but(*keep: int) -> None:
    """Close every descriptor but these, whether or not a /proc could tell which are open."""
    first = 0
    for number in sorted(set(keep)):
        if number > first:  # an empty range that begins with 0 is, for close_range(2), all there is
            os.closerange(first, number)
        first = number + 1
    os.closerange(first, MORE_THAN_ALL)


def out_of_the_way(descriptor: int) -> int:
    """Return a copy of a descriptor that stands above all that programs are given, and closes when one starts."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    lowest = 700 if limit == resource.RLIM_INFINITY or limit > 1000 else limit // 2
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)


def default_signals() -> None:
    """Give every signal its default action, and block none."""
    for number in ALL_SIGNALS:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def spawn(order: Order, given: list[int], leader: int) -> int:
    """Start the program with the descriptors that it is given in their places, in the leader's group; return its pid.

    All others have to close by themselves. A fork would take longer, as it copies what a Python needs.
    """
    os.chdir(order.folder)
    os.umask(0o022)
    copies = [out_of_the_way(number) for number in given]
    return os.posix_spawn(
        order.words[0],
        order.words,
        order.environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, *pair) for pair in zip(copies, order.places)],
        setpgroup=leader,
        setsigmask=[],
        setsigdef=ALL_SIGNALS,
    )


def fork_and_become(
    order: Order, given: list[int], leader: int, before: Callable[[], object]
) -> int:
    """Do the same by a fork, and call before() in the new process."""
    started, starting = os.pipe()
    pid = fork()
    if not pid:
        with leaving(99):
            os.setpgid(0, leader)
            starting = out_of_the_way(starting)
            copies = [out_of_the_way(number) for number in given]
            for to, number in zip(order.places, copies):
                os.dup2(number, to)
                os.close(number)
            close_all_but(*order.places, starting)
            os.chdir(order.folder)
            os.umask(0o022)
            default_signals()
            before()
            os.execve(order.words[0], order.words, order.environment)
    os.close(starting)
    readable(started, ENDING)  # its end, when the program starts
    os.close(started)
    return pid


# The supervisor


def fork_supervisor(
    control: socket.socket, order: Order, given: list[int], before: Callable[[], object]
) -> int:
    """Start a supervisor of the process that is ordered, as a child of this one; return its pid."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
    try:
        child = fork()
        if not child:
            with leaving(1):
                supervise(
                    control.detach(), lambda leader: fork_and_become(order, given, leader, before)
                )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return child


class Starter:
    """A small process that forks supervisors. It ends with this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        atexit.register(self._socket.close)
        words = [sys.executable, '-IS', os.path.abspath(__file__)]
        with theirs:
            to_be_0 = (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)
            os.posix_spawn(words[0], words, os.environ, file_actions=[to_be_0])

    def ask(
        self, ours: socket.socket, theirs: socket.socket, order: Order, given: list[int]
    ) -> None:
        """Have the process started that is ordered: theirs is its supervisor's end of the socket, and ours is the test's."""
        socket.send_fds(self._socket, [b'.'], [theirs.fileno(), *given])
        data = marshal.dumps(tuple(order))
        ours.sendall(NUMBER.pack(len(data)) + data)


starter = functools.cache(Starter)


def serve() -> None:
    """Be the starter."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the test hears of their ends
    close_all_but(0, 1, 2)
    for number in range(3):
        os.set_inheritable(number, False)
    listener = socket.socket(fileno=0)
    while True:
        message, received, _, _ = socket.recv_fds(listener, 1, 1000)
        if not message:
            return
        if not fork():
            with leaving(1):
                obey(*received)
        for number in received:
            os.close(number)


def obey(control: int, *given: int) -> None:
    """In a new process: be the supervisor of what the test orders."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (control, *given):
        os.set_inheritable(number, False)
    order = Order(*marshal.loads(read(control, *NUMBER.unpack(read(control, NUMBER.size)))))
    supervise(control, lambda leader: spawn(order, list(given), leader))


def read(descriptor: int, count: int) -> bytes:
    """Read that many bytes."""
    data = b''
    while len(data) < count:
        some = os.read(descriptor, count - len(data))
        if not some:
            raise EOFError('the test is gone')
        data += some
    return data


def supervise(control: int, start: Callable[[int], int]) -> None:
    """Have a process started in the group of a leader; end when nothing is left of it, or when all of it was killed."""
    os.setsid()
    with contextlib.suppress(Exception):  # no ctypes, or no Linux
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    leader, release = lead_a_group()
    has_leader = True
    pid = start(leader)
    close_all_but(control, wake, waking, release)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    tell(control, os.getpid())
    tell(control, pid)
    tell(control, leader)
    poller = select.poll()
    for descriptor in (control, wake):
        poller.register(descriptor, select.POLLIN)
    while True:
        left, ended = reap()
        has_leader = has_leader and leader not in ended
        if pid in ended:
            tell(control, ended[pid])
            if has_leader:  # its work is done; and who looks for what is left shall not find it
                os.kill(leader, signal.SIGKILL)
                os.waitpid(leader, 0)
            continue
        if not left:
            return
        if control in dict(poller.poll()):
            return end_everything(pid)
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)


def lead_a_group() -> tuple[int, int]:
    """Start the leader of the group that the new process will be in, as a server is one; return its pid, and a
    descriptor that it lives no longer than. It is not the supervisor, which "kill 0" in a tool must not hit."""
    waiting, release = os.pipe()
    places = [(os.POSIX_SPAWN_DUP2, waiting, number) for number in range(3)]
    leader = os.posix_spawn('/bin/cat', ['cat'], {}, file_actions=places, setpgroup=0)
    os.close(waiting)
    return leader, release


def tell(control: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test is gone
        os.write(control, NUMBER.pack(number))


def reap() -> tuple[bool, dict[int, int]]:
    """Take leave of all children that have ended; return whether some are left, and how those ended, by number."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False, ended
        if not pid:
            return True, ended
        ended[pid] = status


def end_everything(pid: int) -> None:
    """Kill all that is left of the process of that number and of what it started."""
    deadline = time.monotonic() + ENDING
    has_proc = os.path.exists('/proc/self/stat')
    while time.monotonic() < deadline:
        found = descendants(pid) if has_proc else members_of_sessions({os.getpid(), pid})
        for one in found:
            with contextlib.suppress(OSError):
                os.kill(one, signal.SIGKILL)
        left, _ = reap()
        if not left and not found:
            return
        time.sleep(0.002)


def descendants(pid: int) -> list[int]:
    """Return who stands below this process, and who is in its session or in one that the process of pid made."""
    children: dict[int, list[int]] = {}
    found = []
    for name in os.listdir('/proc'):
        if name.isdigit() and name != f'{os.getpid()}':
            with contextlib.suppress(OSError):  # it ended meanwhile
                state, parent, _, session = (
                    read_file(f'/proc/{name}/stat').rpartition(b')')[2].split()[:4]
                )
                if state not in b'ZX':
                    children.setdefault(int(parent), []).append(int(name))
                    if int(session) in (os.getpid(), pid):
                        found.append(int(name))
    below = [os.getpid()]
    for one in below:
        below += children.get(one, [])
    return [*dict.fromkeys(below[1:] + found)]


def members_of_sessions(sessions: set[int]) -> list[int]:
    """Return the members of sessions, but not this process, on a system that cannot list processes."""
    newest = fork()
    if not newest:
        os._exit(0)
    os.waitpid(newest, 0)
    me, largest = os.getpid(), 1 << 22
    numbers = [range(me + 1, newest)] if newest > me else [range(me + 1, largest), range(2, newest)]
    found = []
    for number in (number for some in numbers for number in some):
        with contextlib.suppress(OSError):
            if os.getsid(number) in sessions:
                found.append(number)
    return found


if __name__ == '__main__':
    serve()
