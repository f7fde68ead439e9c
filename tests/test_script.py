"""The script is a text that can be read: plain code, in the order of a login, in one file."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import unittest
from collections.abc import Iterator

from tests.harness import machine
from tests.harness.processes import read_file

RUNS_TEXT = {'exec', 'eval', 'compile', '__import__', 'execfile'}
LONGEST_FUNCTION = 70  # lines
RULE = '# ' + '-' * 98
PARTS = (  # in the order of a login
    'Imports and constants',
    'The two doors',
    'A login from beginning to end',
    'What a login needs',
    'The report step',
    'Waiting, and signals',
    'The configuration',
    'The log',
    'For people',
)
# Built into the interpreter, so they cost next to nothing. os and signal are not.
FREE_OF_CHARGE = {'_signal', '_stat', 'atexit', 'errno', 'posix', 'select', 'sys', 'syslog', 'time'}

Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def text_of_script() -> str:
    return read_file(machine.ORIGINAL).decode()


class Form(unittest.TestCase):
    def setUp(self) -> None:
        self.text = text_of_script()
        self.tree = ast.parse(self.text, feature_version=(3, 9))

    def docstrings(self) -> Iterator[ast.Constant]:
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Module, ast.ClassDef, *Function)):
                first = node.body[0]
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    yield first.value

    def test_no_text_is_run(self) -> None:
        """Nothing is exec'd, eval'd or compiled: readers and tools see all code as code."""
        names = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}
        self.assertEqual(names & RUNS_TEXT, set())

    def test_no_string_holds_code(self) -> None:
        """No string but docstrings is one or more statements of Python."""
        docstrings = list(self.docstrings())
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Constant) or node in docstrings:
                continue
            if not isinstance(node.value, (str, bytes)):
                continue
            try:
                statements = ast.parse(node.value).body
            except (SyntaxError, ValueError):
                continue
            with self.subTest(line=node.lineno):
                self.assertTrue(
                    all(isinstance(one, (ast.Expr, ast.AnnAssign)) for one in statements)
                )
                self.assertLess(len(statements), 2)

    def test_no_function_is_long(self) -> None:
        """No function has more than 70 lines."""
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                with self.subTest(node.name):
                    length = (node.end_lineno or 0) - node.lineno + 1
                    self.assertLessEqual(length, LONGEST_FUNCTION)

    def test_parts_in_the_order_of_a_login(self) -> None:
        """A header line names each part, and the parts stand in the order of a login."""
        lines = self.text.splitlines()
        headers = [lines[number + 1] for number, line in enumerate(lines) if line == RULE]
        self.assertEqual(len(headers), len(PARTS), headers)
        for header, part in zip(headers, PARTS):
            self.assertTrue(header.startswith(f'# {part}'), header)

    def test_every_class_and_function_is_typed(self) -> None:
        """Every function says what it takes and returns."""
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                with self.subTest(node.name):
                    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                    untyped = [one.arg for one in given if one.annotation is None]
                    self.assertIn(untyped, ([], ['self']))
                    self.assertIsNotNone(node.returns)


class File(unittest.TestCase):
    def test_it_is_executable_and_isolated(self) -> None:
        """The first line names Python, isolated and without site packages; it is executable."""
        self.assertEqual(text_of_script().splitlines()[0], '#!/usr/bin/python3 -ISXutf8')
        self.assertTrue(os.access(machine.ORIGINAL, os.X_OK))

    def test_one_file_without_dependencies(self) -> None:
        """It runs from whatever folder it is copied to, and takes nothing from beside itself."""
        folder = machine.make_folder()
        self.addCleanup(shutil.rmtree, folder)
        copy = machine.copy_with_python(machine.ORIGINAL, os.path.join(folder, 'renamed'))
        for name in ('os', 'errno', 'select', 'syslog', 'time', 'io', 'tests'):
            with open(os.path.join(folder, f'{name}.py'), 'w', encoding='utf-8') as file:
                file.write('raise SystemExit(17)\n')
        done = subprocess.run(
            [copy, '--version'], cwd=folder, capture_output=True, text=True, check=False, timeout=60
        )
        self.assertRegex(done.stdout, r'^qmail_pwrap \d+\.\d+\n$')
        self.assertEqual((done.returncode, done.stderr), (0, ''))

    def test_a_login_imports_little(self) -> None:
        """Every login imports only what costs next to nothing; all else is imported where it is
        needed."""
        tree = ast.parse(text_of_script())
        outer = [node for node in ast.walk(tree) if isinstance(node, Function)]
        inner = {node for function in outer for node in ast.walk(function)}
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and node not in inner:
                imported |= {one.name for one in node.names}
            if isinstance(node, ast.ImportFrom) and node not in inner:
                imported.add(node.module)
        self.assertEqual(imported - FREE_OF_CHARGE, set())


if __name__ == '__main__':
    unittest.main()
