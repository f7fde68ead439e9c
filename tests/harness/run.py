"""`make test`: python3 -m unittest, which says beforehand about how long it takes, and at its end why tests were skipped.

python3 -m tests.harness.run [-v] [tests.test_configuration ...]
"""

from __future__ import annotations

import collections
import unittest
from typing import Any

SECONDS = 0.28  # a test, on the average, on an idle machine with two processors
LONG = 30  # seconds that are worth a word


class Runner(unittest.TextTestRunner):
    def run(self, test: Any) -> Any:
        count = test.countTestCases()
        if count * SECONDS > LONG:
            minutes = max(1, round(count * SECONDS / 60))
            about = 'a minute' if minutes == 1 else f'{minutes} minutes'
            self.stream.writeln(f'{count} tests: about {about}, longer on a busy machine')
            self.stream.flush()
        result = super().run(test)
        reasons = collections.Counter(reason for _, reason in result.skipped)
        if reasons:
            self.stream.writeln('Skipped, and why:')
        for reason, number in reasons.most_common():
            self.stream.writeln(f'{number:5}  {reason}')
        return result


if __name__ == '__main__':
    unittest.main(module=None, testRunner=Runner)
