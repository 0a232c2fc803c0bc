# SPDX-License-Identifier: Apache-2.0
"""The `i2o` command: finds the sub-command, and turns every error into one line and an exit code.

Only the module of the sub-command that runs is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Final

from i2o._version import __version__
from i2o.errors import I2OError
from i2o.tools.arguments import Parser, UsageError
from i2o.tools.failures import OK, UNAVAILABLE, exit_code, explain
from i2o.tools.output import note, printable

INTERRUPTED: Final = 128 + signal.SIGINT
BROKEN_PIPE: Final = 128 + signal.SIGPIPE
TERMINATED: Final = 128 + signal.SIGTERM

COMMANDS: Final = {
    "demo": "run the main job: a software IOP, a disk, and data through I2O messages",
    "list": "list the IOPs that can be opened here, and what stands in the way of others",
    "status": "show an IOP's status block, counters and complaints",
    "lct": "list an IOP's devices (logical configuration table)",
    "hrt": "list an IOP's adapters (hardware resource table)",
    "params": "show or change parameters of a device",
    "read": "copy bytes from a block device to a file or a pipe",
    "write": "copy a file or a pipe to a block device",
    "rescue": "copy a disk that has bad blocks, with a map of what is missing",
    "nbd": "export a block device by NBD, through nbdkit",
    "dump": "show the messages between host and IOP, live or from a capture",
    "decode": "take apart frames given in hexadecimal",
    "extcap": "show live traffic in Wireshark, and set that up",
    "replay": "send the requests of a capture again and compare the replies",
    "events": "show what an IOP reports: events and changes of its device table",
    "bench": "measure messages and transfers of an IOP",
    "serve": "let hosts on other machines use an IOP of this one",
    "emulate": "control a software IOP that is running: disks, media, bad blocks, faults",
    "peers": "show a peer table of a running process: states, queues, counters",
    "ping": "measure round trips to whoever listens at a tcp address",
    "config": "show an IOP's configuration dialog in the browser",
    "download": "send software to an IOP, list it, fetch it, remove it",
    "nmsg": "send, receive, probe, list and sweep network messages",
    "doctor": "check this machine and an IOP, and say what to do about problems",
}
"""Sub-commands and what they do; each is `run` and `add_parser` in the module of its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        0 done, 1 a negative answer, 2 wrong usage, 3 the transport cannot be used; 130, 141 and
        143 after an interrupt, a closed pipe and SIGTERM.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    code = BROKEN_PIPE
    try:
        _prepare_streams()
        with _SigtermAsExit():
            code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit as stop:  # argparse after --help and --version, or SIGTERM
        code = stop.code if isinstance(stop.code, int) else OK
        _flush_or_drop()
    except KeyboardInterrupt:
        note("i2o: interrupted")
        code = INTERRUPTED
        _flush_or_drop()
    except BrokenPipeError:
        _drop_stdout()
        code = BROKEN_PIPE
    except ModuleNotFoundError as error:
        if (error.name or "i2o").partition(".")[0] == "i2o":
            raise
        note(f"i2o: {error} (i2o doctor says what is missing)")
        code = UNAVAILABLE
    except (I2OError, OSError) as error:
        _flush_or_drop()
        note(f"i2o: {explain(error)}")
        code = exit_code(error)
    return code


def dump_main() -> int:
    """Run `i2o dump`, as the command `i2odump`."""
    return main(["dump", *sys.argv[1:]])


def build_parser(arguments: Sequence[str]) -> Parser:
    """Return the parser; only the sub-command that the arguments name is complete."""
    parser = Parser(
        prog="i2o",
        description="I2O (Intelligent I/O) in user space: drive an IOP, or try a software one.",
        epilog="exit codes: 0 done, 1 negative answer, 2 wrong usage, 3 transport unavailable",
    )
    parser.add_argument("--version", action="version", version=f"i2o {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command")
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == chosen:
            import_module(f"i2o.tools.{name}").add_parser(subparsers, summary)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


def _run(arguments: Sequence[str]) -> int:
    parser = build_parser(arguments)
    args = parser.parse_args(arguments)
    if args.command is None:
        raise UsageError(f"no command given: {', '.join(COMMANDS)}", remedy="see i2o --help")
    _quiet_logging()
    code: int = args.run(args)
    return code


def _prepare_streams() -> None:
    """Make printing never fail for a character that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _quiet_logging() -> None:
    """Keep warnings of the library off stderr: commands say themselves what matters.

    What goes wrong with a capture that the environment asked for only the log knows.
    """
    import logging

    class Notes(logging.Handler):
        """Writes records as the command's own remarks."""

        def emit(self, record: logging.LogRecord) -> None:
            """Write one."""
            note(f"i2o: {printable(record.getMessage())}")

    logger = logging.getLogger("i2o")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        names = ("i2o.capture", "i2o.transport.capture") if os.environ.get("I2O_CAPTURE") else ()
        for name in names:
            logging.getLogger(name).addHandler(Notes(logging.WARNING))


def _flush_or_drop() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _drop_stdout()


def _drop_stdout() -> None:
    """Send what is still buffered to nowhere, so that Python does not complain at its end."""
    try:
        target = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), target)


class _SigtermAsExit:
    """While it is entered SIGTERM raises SystemExit, so that temporary files are removed."""

    def __init__(self) -> None:
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self._is_main:
            self._before = signal.signal(signal.SIGTERM, self._exit)

    def __exit__(self, *error: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGTERM, self._before)

    @staticmethod
    def _exit(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)
