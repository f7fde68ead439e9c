"""The two doors: a word that begins with -- is a person's, and nothing of it is a login."""

from __future__ import annotations

import os
import re
import signal
import socket
import unittest

from tests.harness import faults
from tests.harness.logins import ACCEPTS, QUICK, REJECTS, TRIPLE, WAYS, Login, read_file
from tests.harness.machine import SYSTEM_PATH, import_script, needs
from tests.harness.people import Person, Terminal
from tests.harness.syslog import SyslogListener

COMMANDS = (('--check',), ('--check', 'alice'), ('--test', 'alice'), ('--version',), ('--help',))
NO_COMMANDS = (  # nothing that anybody may have meant is guessed at
    ('--chekc',),
    ('--',),
    ('--check', 'alice', 'bob'),
    ('--test',),
    ('--test', 'alice', 'bob'),
    ('--help', '--test'),
    ('--version', ''),
    ('--check=1',),
    ('--Check',),
    ('--\x1b[31m',),
)


class Command(Person):
    """With one tool, which refuses and notes that it ran."""

    def setUp(self) -> None:
        super().setUp()
        self.no = self.tool('no', REJECTS)
        self.settings(self.no)

    def start_command(self, *words: str, **options: object) -> Login:
        return self.start(*words, triple=None, **options)  # type: ignore[arg-type]

    def said_on(self, login: Login, number: int) -> str:
        return read_file(f'{login.folder}/{number}').decode()


class Words(Command):
    def test_help_names_every_command(self) -> None:
        """--help names every command and the configuration, and ends with 0."""
        said = self.say('--help')
        self.assertEqual((said.code, said.errors), (0, ''))
        for word in ('--check [LOGIN]', '--test LOGIN', '--version', '--help', '$PWRAP_CONF'):
            self.assertIn(word, said.output)
        self.assertIn('/var/qmail/control/pwrap.conf', said.output)
        self.assertLessEqual(max(map(len, said.output.replace(self.folder, '').splitlines())), 80)

    def test_version_is_one_line(self) -> None:
        """--version prints one line, the script's version, and ends with 0."""
        said = self.say('--version')
        version = import_script(self.command[0]).VERSION
        self.assertEqual(said, (0, f'qmail_pwrap {version}\n', ''))
        self.assertRegex(version, r'^\d+\.\d+(\.\d+)?$')

    def test_what_is_no_command_is_refused(self) -> None:
        """An unknown word, or words that a command does not take: exit 2, and a line that names it.

        The word is escaped, as whatever goes to a terminal. No tool runs.
        """
        for words in NO_COMMANDS:
            with self.subTest(words=words):
                said = self.say(*words, given=b'x\n')
                self.assertEqual((said.code, said.output), (2, ''))
                shown = words[0].replace('\x1b', '\\x1b')
                self.assertTrue(said.errors.startswith(f'{shown}: not a command'), said.errors)
                self.assertIn('--test LOGIN', said.errors)
        self.assertEqual(self.ran('no'), 0)

    @needs('/dev/pts')
    def test_no_password_is_asked_for_without_a_login(self) -> None:
        """--test without LOGIN asks for no password."""
        terminal = Terminal(self)
        self.assertEqual(terminal.wait_for_end(terminal.start('--test')), 2)
        self.assertNotIn('assword', terminal.shown)

    def test_only_the_first_word_can_be_a_command(self) -> None:
        """A prog's own words, and a prog that begins with one dash, are a server's: a login."""
        self.configure(self.no)
        for number, words in enumerate(
            (('/bin/sh', '--check'), ('true', '--help'), ('-check',), ('-H',), ('check',), ('-',))
        ):
            with self.subTest(words=words):
                login = self.login(*words)
                self.assertEqual((login.code, self.ran('no')), (1, number + 1))
                self.assertEqual(login.result()['result'], 'rejected')

    def test_default_configuration_is_read_without_pwrap_conf(self) -> None:
        """Without PWRAP_CONF, or with an empty one, the default file is read, as in a login."""
        default = self.write('default', f'{self.no}\n')
        command = self.launcher(faults.Replaces('CONFIGURATION', default))
        for more in ({}, {'PWRAP_CONF': ''}):
            said = self.say('--check', command=command, whole_env={'PATH': SYSTEM_PATH, **more})
            self.assertEqual(said.code, 0, said)
            self.assertIn(f'configuration: {default}\n', said.output)


@needs('/dev/pts')
class Usage(Command):
    """Somebody has typed the command to see what it is."""

    def test_on_a_terminal_without_descriptor_3_the_usage_is_shown(self) -> None:
        """On descriptor 2, with any prog or none; the code is 2, nothing is logged, and no tool runs."""
        self.configure(self.no)
        for prog in ((), *(way.prog for way in WAYS), ('/nonexistent',)):
            with self.subTest(prog=prog), open(self.path('output'), 'wb') as output:
                terminal = Terminal(self)
                login = terminal.start(*prog, descriptors={1: output.fileno()})
                self.assertEqual(terminal.wait_for_end(login), 2)
                self.assertIn('--check [LOGIN]', terminal.shown)
                self.assertNotIn('qmail-pwrap[', terminal.shown)
                self.assertEqual(read_file(self.path('output')), b'')
        self.assertEqual(self.ran('no'), 0)

    def test_nothing_is_shown_where_descriptor_2_is_no_terminal(self) -> None:
        """It may be a client, or a file: a login without descriptor 3, which the log tells of."""
        self.configure(self.no)
        for prog in ((), *(way.prog for way in WAYS)):
            with self.subTest(prog=prog), open(self.path('errors'), 'w+b') as errors:
                terminal = Terminal(self)
                login = terminal.start(*prog, descriptors={2: errors.fileno()})
                self.assertEqual((terminal.wait_for_end(login), terminal.shown), (2, ''))
                lines = read_file(self.path('errors')).decode().splitlines()
                self.assertIn('descriptor 3 is not open', lines[0])
                self.assertTrue(all(line.startswith('qmail-pwrap[') for line in lines), lines)

    def test_a_server_that_runs_on_a_terminal_gets_its_login(self) -> None:
        """Its descriptor 3 is open; and the report step, for which it is closed, is no person's."""
        self.settings('log=stderr', self.tool('yes', ACCEPTS))
        for way in WAYS:
            with self.subTest(way=way.name):
                terminal = Terminal(self)
                login = terminal.start(*way.prog, triple=TRIPLE)
                self.assertEqual(terminal.wait_for_end(login), way.code)
                self.assertIn('result=accepted', terminal.shown)
                self.assertNotIn('--check', terminal.shown)


class Server(Command):
    def test_commands_refuse_a_servers_descriptor_3(self) -> None:
        """Where descriptor 3 is a pipe or socket, a command ends with 2 and a line that says 3<&-.

        Left in a run file, it would else accept every login. Nothing is read, no tool runs.
        """
        for kind in ('pipe', 'ended pipe', 'fifo', 'socket'):
            descriptor = self.descriptor(kind)
            for words in (*COMMANDS, ('--chekc',)):
                with self.subTest(words=words, descriptor=kind):
                    login = self.login(*words, triple=descriptor)
                    self.assertEqual((login.code, self.said_on(login, 1)), (2, ''))
                    lines = self.said_on(login, 2).splitlines()
                    self.assertEqual(len(lines), 1, lines)
                    self.assertTrue(lines[0].startswith(f'{words[0]}: '), lines)
                    self.assertIn('3<&-', lines[0])
        self.assertEqual(self.ran('no'), 0)

    def test_another_descriptor_3_is_no_servers(self) -> None:
        """A file or a device on descriptor 3, as shell scripts leave them open, is no hindrance."""
        for path in (os.devnull, self.conf, self.folder):
            for words, code in ((('--check',), 0), (('--test', 'alice'), 1), (('--version',), 0)):
                descriptor = os.open(path, os.O_RDONLY)
                self.addCleanup(os.close, descriptor)
                with self.subTest(path=path, words=words):
                    self.assertEqual(self.login(*words, triple=descriptor).code, code)

    def descriptor(self, kind: str) -> int:
        """Return the end of something that holds a triple."""
        if kind == 'socket':
            ours, theirs = socket.socketpair()
            self.addCleanup(ours.close)
            self.addCleanup(theirs.close)
            ours.sendall(TRIPLE)
            return theirs.fileno()
        if kind == 'fifo':
            os.mkfifo(self.path('fifo'))
            reader = os.open(self.path('fifo'), os.O_RDONLY | os.O_NONBLOCK)
            self.addCleanup(os.close, reader)
            return reader
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        os.write(writer, TRIPLE)
        if kind == 'ended pipe':
            os.close(writer)
        else:
            self.addCleanup(os.close, writer)
        return reader


class Streams(Command):
    @unittest.skipUnless(os.path.exists('/dev/full'), '/dev/full is missing')
    def test_full_disk_is_told(self) -> None:
        """A command whose output cannot be written ends with 2, and a line that says why."""
        full = os.open('/dev/full', os.O_WRONLY)
        self.addCleanup(os.close, full)
        for words in COMMANDS:
            with self.subTest(words=words):
                login = self.start_command(*words, descriptors={1: full}).wait()
                self.assertEqual(login.code, 2)
                said = self.said_on(login, 2)
                self.assertRegex(said, rf'^{words[0]}: .*: No space left on device\n$')

    def test_closed_output_is_an_error(self) -> None:
        """A command without standard output ends with 2, and a line."""
        for words in COMMANDS:
            with self.subTest(words=words):
                login = self.start_command(*words, closed=[1]).wait()
                self.assertEqual(login.code, 2)
                self.assertRegex(self.said_on(login, 2), rf'^{words[0]}: .*\n$')

    def test_closed_input_is_an_empty_one(self) -> None:
        """For --test, as the null device is: an empty password, for which no tool is asked."""
        for words in COMMANDS:
            with self.subTest(words=words):
                login = self.start_command(*words, closed=[0]).wait()
                self.assertEqual(login.code, 1 if words[0] == '--test' else 0)
                self.assertEqual(self.said_on(login, 2), '')
                self.assertEqual('password is empty' in self.said_on(login, 1), login.code == 1)

    def test_closed_errors_change_no_code(self) -> None:
        """With descriptor 2 closed, or with all of them, the exit codes are the same."""
        for words, closed, code in (
            (('--chekc',), [2], 2),
            (('--chekc',), [0, 1, 2], 2),
            (('--version',), [2], 0),
            (('--version',), [1, 2], 2),
            (('--check',), [2], 0),
            (('--check',), [0, 2], 0),
            (('--test', 'alice'), [2], 1),
            (('--test', 'alice'), [0, 2], 1),
        ):
            with self.subTest(words=words, closed=closed):
                self.assertEqual(self.start_command(*words, closed=closed).wait().code, code)

    def test_reader_that_has_gone_ends_a_command_silently(self) -> None:
        """As `... | head` does: the command ends by SIGPIPE, without a word."""
        reader, writer = os.pipe()
        os.close(reader)
        self.addCleanup(os.close, writer)
        for words in (('--check',), ('--help',), ('--test', 'alice')):
            with self.subTest(words=words):
                login = self.start_command(*words, descriptors={1: writer}).wait()
                self.assertEqual((login.code, self.said_on(login, 2)), (-signal.SIGPIPE, ''))

    def test_reader_that_goes_while_a_tool_runs_is_no_error(self) -> None:
        """As `--test LOGIN | head -n 1` does."""
        waits = self.tool('waits', 'while [ ! -e $dir/go ]; do sleep 0.01; done; exit 1')
        self.settings(waits, self.no)
        reader, writer = os.pipe()
        login = self.start_command('--test', 'alice', descriptors={1: writer})
        os.close(writer)
        self.assertTrue(os.read(reader, 1000))
        os.close(reader)
        self.write('go', '')
        login.wait()
        self.assertEqual((login.code, self.said_on(login, 2)), (-signal.SIGPIPE, ''))


class Plain(Command):
    def test_a_file_or_pipe_gets_neither_marks_nor_colour(self) -> None:
        """Whatever TERM says: they are for a terminal."""
        self.settings(self.no, '/nonexistent', f'users=nobody {self.no}')
        for words in (('--check',), ('--test', 'alice'), ('--help',)):
            output = self.say(*words, given=b'x\n', env={'TERM': 'xterm'}).output
            self.assertTrue(output.isascii(), output)
            self.assertNotIn('\033', output)
            self.assertNotRegex(output, '(?m)^- ')


class Ends(Command):
    def test_ctrl_c_has_its_usual_code(self) -> None:
        """Ctrl-C ends a command with 130, without a traceback."""
        command = self.launcher(faults.Raises('check', 'KeyboardInterrupt'))
        self.assertEqual(self.say('--check', command=command), (130, '', '\n'))

    def test_internal_error_is_shown_and_no_success(self) -> None:
        """An error of the script itself is named with its line, and ends with 2."""
        for error in ('RuntimeError', 'MemoryError'):
            with self.subTest(error=error):
                command = self.launcher(faults.Raises('check', error))
                said = self.say('--check', command=command)
                self.assertEqual((said.code, said.output), (2, ''))
                self.assertRegex(
                    said.errors, rf'^--check: {error} in line \d+: please report it\n$'
                )


@needs('syslog')
class Log(Command):
    def test_a_person_writes_nothing_to_the_mail_log(self) -> None:
        """No command logs, be the file good or not, and whatever is wrong with the descriptors."""
        crash = self.tool('crash', 'ulimit -c 0; kill -SEGV $$')
        checks = COMMANDS[:3]
        with SyslogListener() as log:
            for lines, some in (
                ([self.no, crash, '/nonexistent'], (*COMMANDS, *NO_COMMANDS[:2])),
                (['colour=red'], checks),
                (['log=stderr', self.no], checks),
            ):
                self.settings(*lines)
                with open(self.write('typed', 'x\n'), 'rb') as typed:  # only --test reads it
                    options = {'descriptors': {0: typed.fileno()}}
                    started = [self.start_command(*words, **options) for words in some]
                for login in started:
                    login.wait()
            # With a server's descriptor 3, and without one of the others.
            started = [self.start(*words) for words in COMMANDS]
            started += [
                self.start_command(*words, closed=[number])
                for words in (*checks, ('--help',))
                for number in (0, 1, 2)
            ]
            for login in started:
                login.wait()
            # A login, which does log, proves that the listener hears this script.
            self.settings(self.no)
            self.login(*QUICK.prog, triple=b'heard\0x\0')
            log.wait_for('user="heard"')
            lines = [line.text for line in log.lines('qmail-pwrap[')]
        mine = [line for line in lines if self.is_mine(line)]
        self.assertEqual(len(mine), 1, mine)
        self.assertIn('user="heard"', mine[0])

    def is_mine(self, line: str) -> bool:
        """Tell whether a line of the log is about this test."""
        about = f'{re.escape(self.folder)}|user="(alice|heard)"|internal error'
        return bool(re.search(about, line))
