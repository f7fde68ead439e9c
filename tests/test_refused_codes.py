"""Which exit codes of a tool mean a wrong password, and which are trouble."""

from __future__ import annotations

from tests.harness.logins import Case, Login, Way, both_ways

MISUSED, TRY_LATER, CANNOT_RUN = 2, 111, (126, 127)
EX_TEMPFAIL, DIED = 75, 255  # how perl, php and ssh die
NO_VERDICT = {MISUSED, EX_TEMPFAIL, TRY_LATER, *CANNOT_RUN, DIED}
ALL = set(range(1, 256))


class Codes(Case):
    def setUp(self) -> None:
        super().setUp()
        says = self.write('says', '#!/bin/sh\nexit $1\n', 0o755)
        self.lines = {code: f'name=c{code} {says} {code}' for code in ALL}

    def trouble(self, login: Login) -> set[int]:
        """Return the codes that the log calls trouble, each in a line that names it."""
        said = [line.split(': temporary failure, exit code ') for line in login.problems()]
        self.assertTrue(all(name == f'c{code}' for name, code in said), said)
        return {int(code) for _, code in said}

    @both_ways
    def test_each_code(self, way: Way) -> None:
        """Without refused=, those that no tool uses for a verdict are trouble, and all others mean
        a wrong password; with refused=, exactly those that it names."""
        for refused, trouble in (
            ('', NO_VERDICT),
            ('refused=1,2', ALL - {1, 2}),
            ('refused=100', ALL - {100}),
            ('refused=1-255', set()),
            ('refused=2,75,111,126-127,255', ALL - NO_VERDICT),
        ):
            with self.subTest(refused=refused):
                self.configure(refused, 'failure=temporary', *self.lines.values())
                login = self.login(*way.prog)
                self.assertEqual(self.trouble(login), trouble)
                first = f'c{min(trouble)}' if trouble else 'c255'
                result = ('temporary', first, '111') if trouble else ('rejected', first, '1')
                fields = login.result()
                self.assertEqual((fields['result'], fields['tool'], fields['code']), result)

    def test_the_code_that_the_server_gets(self) -> None:
        """With failure=last the last tool's own, whatever it means; with failure=temporary 1 or
        111, and the log still has the tool's own code."""
        for code in (1, 2, 3, 75, 100, 111, 126, 255):
            result = 'temporary' if code in NO_VERDICT else 'rejected'
            problem = f'^c{code}: temporary failure, exit code {code}$'
            for failure, seen in (('last', code), ('temporary', 111 if code in NO_VERDICT else 1)):
                with self.subTest(code=code, failure=failure):
                    self.configure(f'failure={failure}', self.lines[code])
                    login = self.start('true')
                    self.assert_ends(
                        login, seen, result, f'c{code}', problem if code in NO_VERDICT else None
                    )
