# qmail_pwrap: nothing is built; `make install` puts it where qmail is.

QMAILHOME = /var/qmail
PYTHON = /usr/bin/python3
DESTDIR =
TESTFLAGS =

# The installed command. Whatever goes wrong in it ends with 111, a temporary problem: a traceback's 1 would call the
# password wrong. Only os is dear, so it is imported for a link alone.
define LAUNCHER
"""qmail-pwrap: runs the compiled form of the program, which is qmail_pwrap.py beside this file."""

import posix

try:
    import sys
    from _frozen_importlib_external import SourceFileLoader  # importlib.machinery's, but loaded

    sys.dont_write_bytecode = True
    program = __file__
    if posix.lstat(program) != posix.stat(program):  # a link; what lies beside that may be others'
        import os

        program = os.path.realpath(program)
    script = program.rpartition('/')[0] + '/qmail_pwrap.py'
    module = type(sys)('qmail_pwrap')
    module.__file__ = script
    sys.modules['qmail_pwrap'] = module
    stderr, sys.stderr = sys.stderr, None  # descriptor 2 may be the client: no compiler's warnings
    SourceFileLoader('qmail_pwrap', script).exec_module(module)
    sys.stderr = stderr
    module.main(__file__)
    raise EOFError('main() never returns, unless the script is cut short')
except BaseException as error:
    import syslog

    syslog.openlog('qmail-pwrap', syslog.LOG_PID, syslog.LOG_MAIL)
    syslog.syslog(syslog.LOG_ERR, f'qmail_pwrap.py cannot be loaded: {type(error).__name__}')
finally:
    posix._exit(111)
endef

# What make install and make uninstall do first: refuse paths that could not be right in a shebang, a run file or sed.
define PATHS
LC_ALL=C
export LC_ALL
umask 022
refuse() {
    printf '%s\n' "$$1; nothing was changed" >&2
    exit 1
}
check() {
    case $$2 in
    /*) ;;
    *) refuse "$$1 must be an absolute path" ;;
    esac
    case $$2 in
    *[!A-Za-z0-9/._+,@%=:~-]*) refuse "$$1 may hold only letters, digits and /._+,@%=:~-" ;;
    esac
}
check QMAILHOME "$$home"
case $$dest in
*'$$'*) refuse 'DESTDIR must not hold a dollar sign, which is make'"'"'s' ;;
'' | /*) ;;
*) dest=./$$dest ;;
esac
home=$${home%/}
bin=$$dest$$home/bin
control=$$dest$$home/control
endef

# Everything is made beside its place, tried there, and moved when whole; the command comes last. A login in between
# finds an old file or a new one, and a compiled form counts only for the script that it was made from.
define INSTALL
check PYTHON "$$python"
shebang="#!$$python -ISXutf8"
test $${#shebang} -le 127 || refuse 'PYTHON is too long for the first line of a program'
newest=$$("$$python" -IS -c 'import sys; print(sys.version_info >= (3, 9))' </dev/null 2>/dev/null) || true
test "$$newest" = True || refuse "PYTHON=$$python is not a Python 3.9 or newer"
stage= example=
trap 'rm -rf "$$stage" "$$example"' EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$$bin" "$$control"
stage=$$(mktemp -d "$$bin/.qmail-pwrap.XXXXXX")
sed -e "1s|.*|$$shebang|" -e "s|^CONFIGURATION = '[^']*'|CONFIGURATION = '$$home/control/pwrap.conf'|" \
    qmail_pwrap.py >"$$stage/qmail_pwrap.py"
printf '%s\n' "$$shebang" "$$launcher" >"$$stage/qmail-pwrap"
chmod 0755 "$$stage/qmail_pwrap.py" "$$stage/qmail-pwrap"
"$$python" -IS -m compileall -q --invalidation-mode checked-hash -d "$$home/bin" "$$stage/qmail_pwrap.py"
"$$python" -IS "$$stage/qmail-pwrap" --version >/dev/null 3<&- || refuse "what was made for $$bin does not run"
if ! test -e "$$control/pwrap.conf" && ! test -h "$$control/pwrap.conf"; then
    example=$$(mktemp "$$control/.pwrap.conf.XXXXXX")
    cat pwrap.conf.example >"$$example"
    chmod 0644 "$$example"
    mv "$$example" "$$control/pwrap.conf"
fi
mkdir -p "$$bin/__pycache__"
mv -f "$$stage"/__pycache__/qmail_pwrap.*.pyc "$$bin/__pycache__/"
mv -f "$$stage/qmail_pwrap.py" "$$bin/"
mv -f "$$stage/qmail-pwrap" "$$bin/"

cat <<END

Installed. Next:
  1. enable your tools in $$home/control/pwrap.conf (as it comes, it denies every login)
  2. $$home/bin/qmail-pwrap --check
  3. $$home/bin/qmail-pwrap --test SOMEBODY
  4. put $$home/bin/qmail-pwrap in the place of your checkpassword tool
END
endef

define UNINSTALL
rm -f "$$bin/qmail-pwrap"
rm -f "$$bin/qmail_pwrap.py" "$$bin"/__pycache__/qmail_pwrap.*.pyc
rmdir "$$bin/__pycache__" 2>/dev/null || true
rm -rf "$$bin"/.qmail-pwrap.?????? "$$control"/.pwrap.conf.?????? # of an installation that was killed
endef

# No service may start, now or at the next boot: a policy-rc.d forbids it until the end, and what was enabled is disabled.
define TEST_DEPS
policy=$$root/usr/sbin/policy-rc.d
kept=$$policy.before-test-deps
mark='qmail_pwrap, make test-deps: no service may start'
exists() {
    test -e "$$1" || test -h "$$1"
}
enabled() {
    find "$$root/etc/systemd" "$$root"/etc/rc?.d -type l ! -name 'K*' 2>/dev/null || true
}
put_policy_back() {
    ! grep -qs "$$mark" "$$policy" || rm "$$policy"
    ! exists "$$kept" || mv -f "$$kept" "$$policy"
}
disable_new() {
    enabled | while read -r link; do
        test "$$(readlink "$$link")" != /dev/null || continue # masked
        printf '%s\n' "$$before" | grep -Fqx "$$link" && continue
        case $$link in
        */rc?.d/S*)
            name=$${link##*/S??}
            update-rc.d "$$name" disable </dev/null
            ;;
        */getty@*.service | */remote-fs.target | */systemd-*) ;; # systemd's own, where it was not there before
        *) rm "$$link" ;;
        esac
    done
    ! test -d "$$root/run/systemd/system" || systemctl daemon-reload
}
put_policy_back # an earlier run may have been killed
before=$$(enabled)
trap 'trap "" HUP INT TERM; rm -f "$$policy.new"; put_policy_back; disable_new' EXIT
trap 'exit 1' HUP INT TERM

! exists "$$policy" || mv "$$policy" "$$kept"
printf '%s\n' '#!/bin/sh' "# $$mark" 'exit 101' >"$$policy.new"
chmod 0755 "$$policy.new"
mv "$$policy.new" "$$policy"
apt-get update
there= missing=
for one in $$packages; do
    if LC_ALL=C apt-cache policy "$$one" | grep -q '^  Candidate: [^(]'; then
        there="$$there $$one"
    else
        missing="$$missing $$one"
    fi
done
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --no-upgrade $$there
for one in $$missing; do
    printf '%s\n' "apt knows no package $$one: the tests that need it skip"
done
endef

# Not every Debian has all of them: Debian 13 has no cvm.
TEST_PACKAGES = make python3 gcc libc6-dev qpsmtpd dovecot-core dovecot-pop3d dovecot-imapd dovecot-lmtpd dovecot-auth-lua \
    ucspi-tcp fgetty cvm checkpw pamtester swaks fail2ban strace xinetd daemontools systemd sudo locales util-linux \
    passwd procps

help:
	@echo 'make demo       show what it does, on this machine, as any user'
	@echo 'make test       run all tests (those that lack a server, a tool or root skip)'
	@echo 'make test-deps  install what the tests need (Debian, as root)'
	@echo 'make bench      measure what a login costs'
	@echo 'make install    install into $$(DESTDIR)$$(QMAILHOME), with these variables:'
	@echo '                PYTHON=$(PYTHON)'
	@echo '                QMAILHOME=$(QMAILHOME)'
	@echo '                DESTDIR=$(DESTDIR)'
	@echo 'make uninstall  remove what was installed, but not control/pwrap.conf'

demo:
	@python3 -m tests.harness.demo

test:
	@python3 -m tests.harness.run $(TESTFLAGS)

# What another Python may change: the script, run by it. The other tests need servers, or are about this source tree.
OTHER_TESTS = servers dovecot24 run_files lookups documents fail2ban first_hour script install command test_deps harness
PYTHON_TESTS = $(filter-out $(OTHER_TESTS:%=tests/test_%.py),$(sort $(wildcard tests/test_*.py)))

test-python:
	PWRAP_TEST_PYTHON=$(TESTPYTHON) $(TESTPYTHON) -m tests.harness.run $(TESTFLAGS) $(PYTHON_TESTS)

test-deps: export packages := $(TEST_PACKAGES)
test-deps: export root := $(value ROOT)
test-deps: export script := $(TEST_DEPS)
test-deps:
	@sh -ec "$$script"

bench:
	@python3 -m tests.harness.bench

# $(value): as they were given, so that a dollar sign is seen and not expanded
install uninstall: export home := $(value QMAILHOME)
install uninstall: export dest := $(value DESTDIR)
install uninstall: export paths := $(PATHS)
install: export python := $(value PYTHON)
install: export launcher := $(LAUNCHER)
install: export script := $(INSTALL)
install:
	@sh -ec "$$paths; $$script"

uninstall: export script := $(UNINSTALL)
uninstall:
	@sh -ec "$$paths; $$script"

.PHONY: help demo test test-python test-deps bench install uninstall
