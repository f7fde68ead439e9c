"""The plumbing of the tests.

machine.py    what this machine has, and the skips that say what it lacks
processes.py  a process is started as a server starts it, and ends with its test, whatever happened
logins.py     a login: Case, Login, both_ways; begin here
people.py     somebody at a command line, and a terminal
tools.py      the fixture tools
imported.py   its functions, to be called
probes.py     programs that look around, as tool and as prog; a login that is held meanwhile
faults.py     the script with a fault inside
syslog.py     what arrives in the system log
installation.py  what make installs, in a folder of the test
documents.py  what the documents show, block by block
mailhost.py   users, mailboxes and tools for the servers
servers.py    the real servers and their clients; standins.py those that Debian does not have
demo.py       `make demo`; bench.py `make bench`
"""

from tests.harness import machine

machine.prepare_this_process()
