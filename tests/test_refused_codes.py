"""Which exit codes of a tool mean a wrong password, and which are trouble."""

from __future__ import annotations

from tests.harness.logins import QUICK, SESSION, Case, Login, read_file

MISUSED, TRY_LATER, CANNOT_RUN = 2, 111, (126, 127)
EX_TEMPFAIL, DIED = 75, 255  # how perl, php and ssh die
NO_VERDICT = {MISUSED, EX_TEMPFAIL, TRY_LATER, *CANNOT_RUN, DIED}
ALL = set(range(1, 256))


class Codes(Case):
    def setUp(self) -> None:
        super().setUp()
        says = self.write('says', '#!/bin/sh\nexit $1\n', 0o755)
        self.lines = [f'name=c{code} {says} {code}' for code in sorted(ALL)]

    def trouble(self, login: Login) -> set[int]:
        """Return the codes that the log calls trouble, each in a line that names it."""
        said = [line.split(': temporary failure, exit code ') for line in login.problems()]
        self.assertTrue(all(name == f'c{code}' for name, code in said), said)
        return {int(code) for _, code in said}

    def test_each_code(self) -> None:
        """Without refused=, those that no tool uses for a verdict are trouble, and all others mean
        a wrong password; with refused=, exactly those that it names. The tool's own code is in the
        log, whatever the server gets."""
        logins: list[tuple[Login, str, set[int]]] = []
        for way, refused, trouble in (
            (QUICK, '', NO_VERDICT),
            (SESSION, '', NO_VERDICT),
            (QUICK, 'refused=1,2', ALL - {1, 2}),
            (SESSION, 'refused=100', ALL - {100}),
            (QUICK, 'refused=1-255', set()),
            (SESSION, 'refused=2,75,111,126-127,255', ALL - NO_VERDICT),
        ):
            self.configure(refused, 'failure=temporary', *self.lines)
            conf = self.write(f'conf{len(logins)}', read_file(self.conf))
            login = self.start(*way.prog, env={'PWRAP_CONF': conf})
            logins.append((login, refused, trouble))
        for login, refused, trouble in logins:
            with self.subTest(refused=refused):
                login.wait()
                self.assertEqual(self.trouble(login), trouble)
                first = f'c{min(trouble)}' if trouble else 'c255'
                result = ('temporary', first, '111') if trouble else ('rejected', first, '1')
                fields = login.result()
                self.assertEqual((fields['result'], fields['tool'], fields['code']), result)
