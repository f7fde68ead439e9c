#!/usr/bin/python3 -ISXutf8
"""The script with a fault inside: a launcher, run in its place, imports and patches it, then runs its main().

    command = self.launcher(faults.Raises('Login.decide', 'MemoryError'))
    self.login(*way.prog, command=command)

The launcher is a copy of this file; a file beside it names the script and the faults. The report step is run through
it, too. It needs nothing but Python, as the user who logged in may run it.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn, Union

REPORT = 'qmail_pwrap.report'  # how the first argument of the report step begins
EVERYWHERE, LOGIN_ONLY, REPORT_ONLY = 'everywhere', 'login', 'report'  # where a fault shows


class Raises(NamedTuple):
    """A function or method of the script, 'decide' or 'Login.decide', or of a module, 'posix.fork', raises an error.

    error is the name of a built-in exception, arguments are what it is made with.
    """

    target: str
    error: str = 'RuntimeError'
    arguments: tuple[Any, ...] = ()
    where: str = EVERYWHERE


class Returns(NamedTuple):
    """A function or method returns a value (a Python literal) and does nothing."""

    target: str
    value: Any = None
    where: str = EVERYWHERE


class Replaces(NamedTuple):
    """A constant has another value (a Python literal)."""

    target: str
    value: Any
    where: str = EVERYWHERE


class Removes(NamedTuple):
    """Something is not there, as on another system: 'posix.pidfd_open'. It need not be here, either."""

    target: str
    where: str = EVERYWHERE


Fault = Union[Raises, Returns, Replaces, Removes]
KINDS: dict[str, Callable[..., Fault]] = {
    'Raises': Raises,
    'Returns': Returns,
    'Replaces': Replaces,
    'Removes': Removes,
}


def make_launcher(path: str, script: str, given: Iterable[Fault]) -> str:
    """Make the launcher for a script with these faults; return its path."""
    from tests.harness import machine

    with open(path + '.faults', 'w', encoding='utf-8') as file:
        file.write(repr((script, [(type(fault).__name__, *fault) for fault in given])))
    os.chmod(path + '.faults', 0o644)
    return machine.copy_with_python(os.path.abspath(__file__), path)


def function_names(script: str) -> list[str]:
    """Return the names of all functions and methods of the script, in their order: 'main', 'Login.decide'."""
    with open(script, encoding='utf-8') as file:
        body = ast.parse(file.read()).body
    names = []
    for node in body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        if isinstance(node, ast.ClassDef):
            names += [
                f'{node.name}.{one.name}' for one in node.body if isinstance(one, ast.FunctionDef)
            ]
    return names


# The launcher


def find(module: Any, target: str) -> tuple[Any, str]:
    """Return what a target is an attribute of, in the script or in another module, and its name there."""
    *places, name = target.split('.')
    owner = module
    if places and not hasattr(module, places[0]):
        owner = importlib.import_module(places.pop(0))
    for place in places:
        owner = getattr(owner, place)
    return owner, name


def apply(module: Any, fault: Fault) -> None:
    """Put a fault into the script's module. AttributeError if its target is not there."""
    owner, name = find(module, fault.target)
    if isinstance(fault, Removes):
        if hasattr(owner, name):
            delattr(owner, name)
        return
    kind = type(vars(owner)[name])
    if isinstance(fault, Replaces):
        setattr(owner, name, fault.value)
        return
    function = raising(fault) if isinstance(fault, Raises) else returning(fault)
    wrapped = kind(function) if kind in (property, staticmethod, classmethod) else function
    setattr(owner, name, wrapped)


def raising(fault: Raises) -> Callable[..., NoReturn]:
    error = getattr(builtins, fault.error)

    def raises(*_: object, **__: object) -> NoReturn:
        raise error(*fault.arguments)

    return raises


def returning(fault: Returns) -> Callable[..., Any]:
    def returns(*_: object, **__: object) -> Any:
        return fault.value

    return returns


def launch(path: str) -> None:
    """Be the script, with the faults that stand beside this launcher."""
    with open(path + '.faults', encoding='utf-8') as file:
        script, given = ast.literal_eval(file.read())
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location('qmail_pwrap', script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules['qmail_pwrap'] = module
    spec.loader.exec_module(module)
    reports = len(sys.argv) > 1 and sys.argv[1].startswith(REPORT)
    here = (EVERYWHERE, REPORT_ONLY if reports else LOGIN_ONLY)
    for kind, *fields in given:
        fault = KINDS[kind](*fields)
        if fault.where in here:
            apply(module, fault)
    module.main(path)


if __name__ == '__main__':
    launch(__file__)
