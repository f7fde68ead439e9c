"""What README.md and pwrap.conf.example show, for the tests that run or compare it."""

from __future__ import annotations

import re

from tests.harness.machine import TOP
from tests.harness.processes import read_file

BLOCK = re.compile(r'(?ms)^```(\w*)\n(.*?)^```$')
BIN, CONTROL = '/var/qmail/bin', '/var/qmail/control'


def readme() -> str:
    return read_file(f'{TOP}/README.md').decode()


def example() -> str:
    return read_file(f'{TOP}/pwrap.conf.example').decode()


def blocks(kind: str = '', first: str = '') -> list[str]:
    """Return README.md's fenced blocks of this kind whose first line begins so."""
    found = BLOCK.findall(readme())
    return [text for one, text in found if one == kind and text.startswith(first)]


def block(kind: str = '', first: str = '') -> str:
    """Return the only such block."""
    [text] = blocks(kind, first)
    return text


def commands(beginning: str) -> list[str]:
    """Return the lines of README.md's indented block that begins so; long ones are whole."""
    [text] = [
        one
        for one in re.findall(r'(?m)(?:^    .*\n)+', readme())
        if one.startswith(f'    {beginning}')
    ]
    return [line.strip() for line in text.replace('\\\n', '').splitlines()]


def table(title: str) -> list[list[str]]:
    """Return the rows of README.md's table whose head begins with this cell, as lists of cells."""
    [text] = re.findall(rf'(?m)^\| {re.escape(title)} \|.*\n\|[-|]+\n((?:\|.*\n)+)', readme())
    return [[cell.strip() for cell in line[1:-1].split(' | ')] for line in text.splitlines()]


def words(text: str) -> str:
    """Return text as one line, whatever its line breaks; milliseconds count as equal."""
    return re.sub(r'\b\d+ ms|ms=\d+', 'ms', ' '.join(text.split()))
