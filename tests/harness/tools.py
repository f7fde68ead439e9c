"""The fixture tools: bodies for Case.tool(), in shell, and for Case.python_tool(), in Python.

In shell, $dir is the test's folder and "$@" is prog. Every tool but those that say otherwise reads descriptor 3 to its
end, closes it, and becomes prog where it accepts. The last part stands for real tools, by the codes that they were seen
to end with.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

READS = 'cat <&3 >/dev/null; exec 3<&-'
BECOMES = 'exec "$@"'
ACCEPTS = f'{READS}; {BECOMES}'
REJECTS = 'cat <&3 >/dev/null; exit 1'
CRASHES = 'cat <&3 >/dev/null; ulimit -c 0; kill -SEGV $$'
HANGS = 'exec sleep 1000'
LOOPS = 'while :; do sleep 0.01; done'  # behind a trap: a signal that comes right before a read would not end that
CVM_REFUSES = 100
READY = ': >$dir/ready; read line'  # as tool or session: says so by a file, and waits for the end of descriptor 0


def refuses(code: int) -> str:
    """Return a tool that ends with this code, whatever the password."""
    return f'cat <&3 >/dev/null; exit {code}'


def records(name: str, otherwise: str = BECOMES) -> str:
    """Return a tool that writes what it reads on descriptor 3 to this file, and then accepts or does otherwise."""
    return f'cat <&3 >$dir/{name}; exec 3<&-; {otherwise}'


def knows(users: Iterable[tuple[str, str]], otherwise: str = 'exit 1') -> str:
    """Return a tool that accepts these logins with these passwords, and does otherwise with all else."""
    patterns = ' | '.join(shlex.quote(f'{login} {password} ') + '*' for login, password in users)
    return (
        "given=$(tr '\\0' ' ' <&3; echo .); exec 3<&-\n"
        f'case $given in {patterns}) exec "$@" ;; esac\n'
        f'{otherwise}'
    )


# In Python, where argv is prog

PYTHON_READS = 'while os.read(3, 512): pass\nos.close(3)\n'
PYTHON_BECOMES = 'os.execvp(argv[0], argv)'
PYTHON_ACCEPTS = PYTHON_READS + PYTHON_BECOMES
CLOSES_ALL = PYTHON_READS + 'os.closerange(4, 1024)\n' + PYTHON_BECOMES  # as sudo -C4 does
FORKS = (  # as PAM's sessions do: prog is a child
    PYTHON_READS
    + """
child = os.fork()
if not child:
    os.execvp(argv[0], argv)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
)
# As checkpassword-pam, which takes its options anywhere on the line, by getopt_long(3). So prog must have none.
PERMUTES = (
    'import getopt\noptions, argv = getopt.gnu_getopt(argv, "s:", ["service=", "stdout", "debug", "noenv"])\n'
    + PYTHON_ACCEPTS
)


def changes_to(uid: int, gid: int) -> str:
    """Return a tool, in Python, that accepts and runs prog as this user, with an initial PATH and HOME."""
    return (
        f'{PYTHON_READS}os.setgroups([])\nos.setgid({gid})\nos.setuid({uid})\n'
        f'os.environ.update(USER="nobody", HOME="/nonexistent", SHELL="/bin/sh")\n{PYTHON_BECOMES}'
    )


def reads_users(path: str) -> str:
    """Return a tool, in Python, that knows the users of a file with lines of login:password:uid:gid:name:home:shell, as
    cvm-pwfile does. A login's domain does not count; it refuses with CVM_REFUSES."""
    return f"""
login, password = os.read(3, 512).split(b'\\0')[:2]
os.close(3)
for line in open({path!r}, 'rb').read().splitlines():
    name, right, uid, gid, _, home, shell = line.split(b':')
    if (name, right) == (login.partition(b'@')[0], password):
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
        os.environb.update({{b'USER': name, b'HOME': home, b'SHELL': shell}})
        os.chdir(home)
        {PYTHON_BECOMES}
sys.exit({CVM_REFUSES})
"""


# What stands for real tools

VCHKPW_REFUSES = (1, 3, 12, 13, 15, 20, 21, 22, 23)
VCHKPW_TROUBLE = (*range(4, 12), 14, 24)
CVM_TROUBLE = (4, 111)  # 4: without its file


def vchkpw(code: int) -> str:
    """Return what vpopmail's vchkpw does that ends with this code; with 0 it accepts."""
    if code == 0:
        return ACCEPTS
    if code not in VCHKPW_REFUSES + VCHKPW_TROUBLE:
        raise ValueError(f'vchkpw does not end with {code}')
    return refuses(code)


def cvm(users: Iterable[tuple[str, str]]) -> str:
    """Return what cvm-checkpassword does with these users: 100 is its refusal."""
    return knows(users, f'exit {CVM_REFUSES}')


def checkpw(users: Iterable[tuple[str, str]]) -> str:
    """Return what checkpw does with these users: it dies of an empty login."""
    return knows(users, 'case $given in " "*) ulimit -c 0; kill -SEGV $$ ;; esac; exit 1')


def checkpassword_pg() -> str:
    """Return what checkpassword-pg does that accepts: it runs prog wrongly, with an empty environment."""
    return f'{READS}; exec env -i "$1" "$@"'


def indimail(users: Iterable[tuple[str, str]], has_switch: bool) -> str:
    """Return what indimail's tools do with these users: they run prog when they refuse, and give it the triple, as their
    chain is the command line itself; vchkpass, ldap-checkpwd and pam-checkpwd, unlike sys-checkpwd, not so with
    NATIVE_CHECKPASSWORD=1."""
    switch = 'if [ "$NATIVE_CHECKPASSWORD" = 1 ]; then exit 1; fi\n' if has_switch else ''
    return knows(users, f'{switch}exec "$@" 3</dev/null')


def looks_up(users: Mapping[str, str], uid: int, gid: int, homes: str) -> str:
    """Return a tool that knows these users with their passwords, all with this uid and gid, also for Dovecot's lookups.

    With AUTHORIZED=1 it does not look at the password, which is empty: it sets AUTHORIZED=2 and becomes prog, or ends
    with 3.
    """
    names = '|'.join(map(shlex.quote, users))
    pairs = '|'.join(shlex.quote(f'{login} {password} ') + '*' for login, password in users.items())
    return (
        "given=$(tr '\\0' ' ' <&3; echo .); exec 3<&-\n"
        'login=${given%% *}\n'
        'if [ "$AUTHORIZED" = 1 ]; then\n'
        f'    case $login in {names}) export AUTHORIZED=2 ;; *) exit 3 ;; esac\n'
        'else\n'
        f'    case $given in {pairs}) ;; *) exit 1 ;; esac\n'
        'fi\n'
        f'export USER="$login" HOME={shlex.quote(homes)}/"$login" userdb_uid={uid} userdb_gid={gid}\n'
        'export EXTRA="userdb_uid userdb_gid"\n'
        'exec "$@"'
    )


# Sessions, for the prog of a server

# Its first argument is the code that it ends with.
POP3_SESSION = r"""
printf '+OK session of %s, AUTH=%s\r\n' "$(id -un)" "$AUTH"
while read -r command; do
    case $command in
    STAT*) printf '+OK 0 0\r\n' ;;
    QUIT*) printf '+OK bye\r\n'; exit "$1" ;;
    CRASH*) kill -SEGV $$ ;;
    esac
done
"""
SMTP_SESSION = r"""
printf '235 session of %s for %s\r\n' "$(id -un)" "$AUTHUP_USER"
while read -r command; do printf '221 bye\r\n'; exit 0; done
"""
