# qmail_pwrap: nothing is built; `make install` puts it where qmail is.

QMAILHOME = /var/qmail
PYTHON = /usr/bin/python3
DESTDIR =
TESTFLAGS =

BIN = $(DESTDIR)$(QMAILHOME)/bin
CONTROL = $(DESTDIR)$(QMAILHOME)/control

# The installed command: it runs the compiled form of the script that lies beside it.
define COMMAND
#!$(PYTHON) -IS
"""qmail_pwrap, from its compiled form. The program is qmail_pwrap.py in the same folder, and complete in itself."""
import sys
sys.dont_write_bytecode = True
sys.path.append(__file__.rpartition('/')[0] or '.')  # last: nothing else beside this file is meant to be imported
try:
    try:
        from qmail_pwrap import main
    except Exception:
        import os
        sys.path[-1] = os.path.dirname(os.path.realpath(__file__))
        try:
            from qmail_pwrap import main  # this is a link from another folder
        except Exception:
            sys.pycache_prefix = '/nonexistent'
            from qmail_pwrap import main  # the compiled form is damaged
    main(__file__)
    raise EOFError  # the script is cut short, as main() never returns
except BaseException as error:  # a traceback would end with 1, which says that a password is wrong
    import os
    import syslog
    syslog.openlog('qmail-pwrap', syslog.LOG_PID, syslog.LOG_MAIL)
    syslog.syslog(syslog.LOG_ERR, f'qmail_pwrap.py cannot be loaded: {type(error).__name__}')
    syslog.syslog(syslog.LOG_WARNING, 'result=temporary ip=- tool=- code=111 ms=0 user=""')
    os._exit(111)
endef
export COMMAND

# Compiled with the hash of its source, so that an edit counts at once whatever the clock says.
define COMPILE
import py_compile, sys
py_compile.compile(sys.argv[1], dfile=sys.argv[2], doraise=True,
                   invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
endef
export COMPILE

help:
	@echo 'make demo       show what it does, on this machine, as any user'
	@echo 'make test       run all tests (those that need a server, a tool or root skip without it)'
	@echo 'make test-deps  install what the tests need (Debian, as root)'
	@echo 'make bench      measure what a login costs'
	@echo 'make install    install into $$(DESTDIR)$$(QMAILHOME); PYTHON=$(PYTHON) QMAILHOME=$(QMAILHOME) DESTDIR=$(DESTDIR)'
	@echo 'make uninstall  remove what was installed, but not control/pwrap.conf'

demo:
	@python3 -m tests.harness.demo

test:
	python3 -m unittest $(TESTFLAGS)

# The tests that need no mail server, with the script run by another Python.
test-python:
	PWRAP_TEST_PYTHON=$(TESTPYTHON) $(TESTPYTHON) -m unittest $(TESTFLAGS) tests.test_login tests.test_configuration \
	    tests.test_log tests.test_people tests.test_invisible tests.test_hostile

test-deps:
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends make python3 gcc libc6-dev qpsmtpd \
	    dovecot-core dovecot-pop3d dovecot-imapd ucspi-tcp fgetty cvm checkpw swaks fail2ban strace xinetd daemontools systemd \
	    sudo locales util-linux passwd procps

bench:
	@python3 -m tests.harness.bench

install:
	@for path in '$(PYTHON)' '$(QMAILHOME)'; do \
	    case $$path in /*) ;; *) echo "$$path: PYTHON and QMAILHOME must be absolute paths" >&2; exit 1 ;; esac; done
	test -d "$(BIN)" || install -d -m 0755 "$(BIN)"
	test -d "$(CONTROL)" || install -d -m 0755 "$(CONTROL)"
	sed -e '1s|.*|#!$(PYTHON) -IS|' -e "s|^CONFIGURATION = '[^']*'|CONFIGURATION = '$(QMAILHOME)/control/pwrap.conf'|" \
	    qmail_pwrap.py >"$(BIN)/.qmail_pwrap.py.new"
	chmod 0755 "$(BIN)/.qmail_pwrap.py.new"
	mv -f "$(BIN)/.qmail_pwrap.py.new" "$(BIN)/qmail_pwrap.py"
	umask 022; $(PYTHON) -IS -c "$$COMPILE" "$(BIN)/qmail_pwrap.py" '$(QMAILHOME)/bin/qmail_pwrap.py'
	printf '%s\n' "$$COMMAND" >"$(BIN)/.qmail-pwrap.new"
	chmod 0755 "$(BIN)/.qmail-pwrap.new"
	mv -f "$(BIN)/.qmail-pwrap.new" "$(BIN)/qmail-pwrap"
	test -e "$(CONTROL)/pwrap.conf" || test -h "$(CONTROL)/pwrap.conf" || install -m 0644 pwrap.conf.example "$(CONTROL)/pwrap.conf"
	@echo
	@echo 'Installed. Next:'
	@echo '  1. enable your tools in $(QMAILHOME)/control/pwrap.conf (as it comes, it denies every login)'
	@echo '  2. $(QMAILHOME)/bin/qmail-pwrap --check'
	@echo '  3. $(QMAILHOME)/bin/qmail-pwrap --test SOMEBODY'
	@echo '  4. put $(QMAILHOME)/bin/qmail-pwrap in the place of your checkpassword tool'

uninstall:
	rm -f "$(BIN)/qmail-pwrap" "$(BIN)/qmail_pwrap.py" "$(BIN)"/__pycache__/qmail_pwrap.*.pyc
	-rmdir "$(BIN)/__pycache__" 2>/dev/null || true

.PHONY: help demo test test-python test-deps bench install uninstall
