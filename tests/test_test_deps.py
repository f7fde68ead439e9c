"""make test-deps: it starts no service, and leaves none enabled that was not before."""

from __future__ import annotations

import os
import unittest

from tests.harness.installation import Installation
from tests.harness.logins import Said, read_file
from tests.harness.machine import needs, program

POLICY = 'usr/sbin/policy-rc.d'
KEPT = f'{POLICY}.before-test-deps'
WANTS = 'etc/systemd/system/multi-user.target.wants'

# apt-get, which asks the policy as invoke-rc.d does, and enables what a mail server's package would.
APT = f"""#!/bin/sh
echo "$*" >>$dir/apt
case $* in *install*) ;; *) exit 0 ;; esac
$dir/{POLICY} dovecot start; echo $? >>$dir/answers
if test -d $dir/{WANTS}; then ln -sf /lib/systemd/system/dovecot.service $dir/{WANTS}/dovecot.service; fi
if test -d $dir/etc/rc2.d; then ln -sf ../init.d/dovecot $dir/etc/rc2.d/S01dovecot; fi
"""
# It knows all packages but those in the file "unknown".
APT_CACHE = """#!/bin/sh
test "$1" = policy || exit 1
if grep -qsx "$2" $dir/unknown; then exit 0; fi
printf '%s:\\n  Installed: (none)\\n  Candidate: 1.0-1\\n' "$2"
"""
UPDATE_RC = '#!/bin/sh\ntest "$2" = disable && mv $dir/etc/rc2.d/S01$1 $dir/etc/rc2.d/K01$1\n'
REFUSES, OTHER_ANSWER = '#!/bin/sh\nexit 101\n', '#!/bin/sh\nexit 104\n'


@needs('make')
class TestDependencies(Installation):
    def setUp(self) -> None:
        super().setUp()
        for folder in ('usr/sbin', WANTS, 'etc/rc2.d'):
            os.makedirs(self.path(folder))
        self.program('update-rc.d', UPDATE_RC)
        self.program('apt-get', APT)
        self.program('apt-cache', APT_CACHE)

    def program(self, name: str, text: str) -> None:
        """Make a program that stands before the system's, and finds the test's folder in $dir."""
        self.write(f'bin/{name}', text.replace('$dir', self.folder), 0o755)

    def make_dependencies(self) -> Said:
        """Run make test-deps on a machine that is the test's folder."""
        said = self.run_make('test-deps', ROOT=self.folder)
        self.assertEqual(read_file(self.path('answers')).split()[-1:], [b'101'])
        return said

    def links(self) -> list[str]:
        return sorted(
            os.path.join(place, name)[len(self.folder) + 1 :]
            for place, _, names in os.walk(self.path('etc'))
            for name in names
        )

    def test_asks_for_packages_and_upgrades_none(self) -> None:
        """What is on the machine already is left as it is."""
        self.assertEqual(self.make_dependencies().code, 0)
        update, install = read_file(self.path('apt')).decode().splitlines()
        self.assertEqual(update, 'update')
        for word in ('--no-upgrade', '--no-install-recommends', 'dovecot-core', 'qpsmtpd'):
            self.assertIn(word, install.split())

    def test_a_package_that_there_is_not_is_named_and_left_out(self) -> None:
        """All others are installed, and that is no failure: not every Debian has every package."""
        self.write('unknown', 'cvm\npamtester\n')
        said = self.make_dependencies()
        self.assertEqual(said.code, 0)
        self.assertEqual(
            [line.split(':')[0] for line in said.output.splitlines()],
            ['apt knows no package cvm', 'apt knows no package pamtester'],
        )
        _, install = read_file(self.path('apt')).decode().splitlines()
        self.assertFalse({'cvm', 'pamtester'} & set(install.split()))
        self.assertIn('dovecot-core', install.split())

    def test_no_service_starts_and_the_policy_is_as_before(self) -> None:
        """Whether there was none, a file, or a link, even one into nothing."""
        policy = self.path(POLICY)
        self.assertEqual(self.make_dependencies().code, 0)
        self.assertEqual(os.listdir(self.path('usr/sbin')), [])
        self.write(POLICY, OTHER_ANSWER, 0o750)
        before = os.stat(policy)
        self.assertEqual(self.make_dependencies().code, 0)
        self.assertEqual(os.stat(policy)[:7], before[:7])
        for target in (self.write('policy', OTHER_ANSWER, 0o755), '/nonexistent'):
            os.unlink(policy)
            os.symlink(target, policy)
            self.assertEqual(self.make_dependencies().code, 0)
            self.assertEqual(os.readlink(policy), target)
        self.assertEqual(read_file(self.path('policy')), OTHER_ANSWER.encode())
        self.assertEqual(os.listdir(self.path('usr/sbin')), ['policy-rc.d'])

    def test_policy_that_a_killed_run_left_is_undone(self) -> None:
        """Its own goes, and what it had put aside comes back."""
        self.program('apt-get', APT + 'kill -KILL $PPID\n')
        self.assertNotEqual(self.make_dependencies().code, 0)
        self.program('apt-get', APT)
        self.assertEqual(self.make_dependencies().code, 0)
        self.assertEqual(os.listdir(self.path('usr/sbin')), [])
        self.write(POLICY, OTHER_ANSWER, 0o755)
        self.program('apt-get', APT + 'kill -KILL $PPID\n')
        self.assertNotEqual(self.make_dependencies().code, 0)
        self.assertTrue(os.path.exists(self.path(KEPT)))
        self.program('apt-get', APT)
        self.assertEqual(self.make_dependencies().code, 0)
        self.assertEqual(read_file(self.path(POLICY)), OTHER_ANSWER.encode())
        self.assertEqual(os.listdir(self.path('usr/sbin')), ['policy-rc.d'])

    def test_nothing_is_enabled_that_was_not_before(self) -> None:
        """Neither for systemd nor for init scripts; what was enabled or masked stays so."""
        for name in ('ssh.service', 'cron.service'):
            os.symlink(f'/lib/systemd/system/{name}', self.path(f'{WANTS}/{name}'))
        os.symlink('../init.d/ssh', self.path('etc/rc2.d/S01ssh'))
        mask = 'etc/systemd/system/masked.service'
        self.program('apt-get', f'{APT}ln -sf /dev/null $dir/{mask}\n')
        self.assertEqual(self.make_dependencies().code, 0)
        expected = [f'{WANTS}/{name}' for name in ('cron.service', 'ssh.service')]
        expected += [mask, 'etc/rc2.d/K01dovecot', 'etc/rc2.d/S01ssh']
        self.assertEqual(self.links(), sorted(expected))

    def test_consoles_of_a_new_systemd_stay_enabled(self) -> None:
        """Without them, nobody could log in on a machine that later boots with it."""
        kept = [f'{WANTS}/getty@tty1.service', f'{WANTS}/remote-fs.target']
        text = ''.join(f'ln -sf /lib/systemd/system/x $dir/{name}\n' for name in kept)
        self.program('apt-get', APT + text)
        self.assertEqual(self.make_dependencies().code, 0)
        self.assertEqual(self.links(), sorted([*kept, 'etc/rc2.d/K01dovecot']))

    def test_failure_is_passed_on_and_leaves_nothing_behind(self) -> None:
        """When apt fails, or is interrupted, halfway."""
        for end in ('exit 100', 'kill -TERM $PPID', 'kill -INT $PPID', 'kill -HUP $PPID'):
            with self.subTest(end=end):
                self.begin_again()
                self.program('apt-get', f'{APT}{end}\n')
                self.write(POLICY, OTHER_ANSWER, 0o755)
                self.assertNotEqual(self.make_dependencies().code, 0)
                self.assertEqual(read_file(self.path(POLICY)), OTHER_ANSWER.encode())
                self.assertEqual(os.listdir(self.path('usr/sbin')), ['policy-rc.d'])
                self.assertEqual(self.links(), ['etc/rc2.d/K01dovecot'])

    def test_works_without_systemd_and_without_init_scripts(self) -> None:
        """Where one of them is missing, and systemctl or update-rc.d with it."""
        for gone in ('etc/systemd', 'etc/rc2.d'):
            with self.subTest(gone=gone):
                self.begin_again()
                self.run_program(program('rm'), '-r', self.path(gone))
                self.program('systemctl', '#!/bin/sh\nexit 1\n')
                said = self.make_dependencies()
                self.assertEqual((said.code, said.errors), (0, ''))


if __name__ == '__main__':
    unittest.main()
