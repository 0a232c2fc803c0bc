# SPDX-License-Identifier: Apache-2.0
"""`i2o doctor`: looks at this machine, and with -i at IOPs, and says what to do about problems.

Each line is ok, a note (it matters only to some), or a problem. It needs no root and changes
nothing, except that an IOP is brought up to be looked at. It ends with 0 if there is no problem,
with 1 if there is one, and with 3 if an IOP cannot be opened.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from i2o.errors import I2OError, MessageLayerError, TransportUnavailable, UriError
from i2o.tools import output
from i2o.tools.arguments import SubParsers, UsageError, add_faults, add_json, with_faults
from i2o.tools.checks import (
    kernel_checks,
    pci_checks,
    port_checks,
    program_checks,
    python_checks,
    serial_checks,
    system_checks,
    usb_checks,
    wireshark_checks,
)
from i2o.tools.checks.finding import Finding, Level, Result, note, problem, run_checks
from i2o.tools.checks.machine import Machine
from i2o.tools.failures import NEGATIVE, OK, UNAVAILABLE, USAGE, explain

MACHINE: Final = (
    *python_checks.CHECKS,
    *port_checks.CHECKS,
    *wireshark_checks.CHECKS,
    *system_checks.CHECKS,
    *program_checks.CHECKS,
)
HARDWARE: Final = (
    *pci_checks.CHECKS,
    *usb_checks.CHECKS,
    *serial_checks.CHECKS,
    *kernel_checks.CHECKS,
)
_TIMEOUT_S: Final = 5.0
_COLOURS: Final = {
    Level.OK: output.GREEN,
    Level.NOTE: output.YELLOW,
    Level.PROBLEM: output.RED,
}


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("doctor", help=summary, description=__doc__)
    parser.add_argument(
        "-i",
        "--iop",
        metavar="URI",
        action="append",
        default=[],
        help="bring this IOP up and look at it, too (for example emu:)",
    )
    add_faults(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check everything; see the module for the exit code."""
    if args.faults and not args.iop:
        raise UsageError("--faults goes with -i", remedy="-i emu:")
    uris = [with_faults(uri, args.faults) for uri in args.iop]
    report = _Report(as_json=args.json)
    machine = Machine()
    for result in run_checks("this machine", MACHINE, machine):
        report.add(result)
    for result in run_checks("hardware", HARDWARE, machine):
        report.add(result)
    code = OK
    for uri in uris:
        code = max(code, _look_at(uri, report))
    report.end()
    return code or (NEGATIVE if report.counts[Level.PROBLEM] else OK)


def _look_at(uri: str, report: _Report) -> int:
    """Open an IOP and check it; return the exit code of that it cannot be opened, or 0."""
    try:
        # not before: without its packages the rest must still run
        from i2o import opening
        from i2o.tools.checks.iop_checks import CHECKS, Patient
    except ImportError as error:
        report.add(Result(uri, "open", problem(f"{error}", "see the packages above")))
        return UNAVAILABLE
    start = time.perf_counter()
    try:
        iop = opening.open(uri, frame_source="fifo", timeout_s=_TIMEOUT_S, recovery=None)
    except (I2OError, OSError) as error:
        report.add(Result(uri, "open", _not_opened(error)))
        return USAGE if isinstance(error, UriError) else UNAVAILABLE
    try:
        patient = Patient(iop, time.perf_counter() - start)
        for result in run_checks(uri, CHECKS, patient):
            report.add(result)
    finally:
        try:
            iop.close()
        except (I2OError, OSError) as error:
            report.add(Result(uri, "close", note(explain(error))))
    return OK


def _not_opened(error: Exception) -> Finding:
    """Return why an IOP cannot be opened."""
    if isinstance(error, TransportUnavailable):
        text = f"{error.backend}: {error.reason}"
        return problem(text, error.remedy or "see the lines above about this machine")
    if isinstance(error, UriError):
        return problem(explain(error), "write it as SCHEME:ADDRESS?OPTION=VALUE, for example emu:")
    if isinstance(error, MessageLayerError):
        return problem(explain(error), "cycle its power; I2O_CAPTURE=FILE keeps what it was told")
    return problem(explain(error), "look at what the URI names")


class _Report:
    """Prints results as they come.

    Attributes:
        counts: how many there were of each level.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json, self._area = as_json, ""
        self.counts: Counter[Level] = Counter()

    def add(self, result: Result) -> None:
        """Print one."""
        self.counts[result.finding.level] += 1
        if self._as_json:
            output.emit(result.record)
            return
        if result.area != self._area:
            self._area = result.area
            output.show(output.styled(output.printable(result.area), output.BOLD))
        output.show(*_lines(result))

    def end(self) -> None:
        """Print how many there were."""
        if not self._as_json:
            counts = self.counts
            output.show(
                f"{counts[Level.OK]} ok, {output.plural(counts[Level.NOTE], 'note')}, "
                f"{output.plural(counts[Level.PROBLEM], 'problem')}"
            )


def _lines(result: Result) -> Iterator[str]:
    level, text, remedy = result.finding
    word = output.styled(f"{level.value:8}", _COLOURS[level])
    yield f"  {word} {result.check:11} {output.printable(text)}"
    if remedy:
        yield f"  {'':8} {'':11} -> {output.printable(remedy)}"
