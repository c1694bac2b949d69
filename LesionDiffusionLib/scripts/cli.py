"""`lesiondiffusion COMMAND ...`: chooses the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from LesionDiffusionLib import __version__
from LesionDiffusionLib.errors import Cancelled, LesionDiffusionError
from LesionDiffusionLib.scripts import batch, benchmark, bundles, demo, doctor, prepare, report, synthesize, train

COMMANDS = (demo, synthesize, batch, report, bundles, prepare, train, benchmark, doctor)
USER_ERROR, INTERRUPTED = 2, 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is a --help away."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        # "-42.5,10,120" is a point, not an option: argparse knows only single negative numbers.
        self._negative_number_matcher = re.compile(r"^-\.?\d")

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"error: {message} (see '{self.prog} --help')\n")


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="lesiondiffusion", description="Text-described synthetic lesions in CT. Research use only.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        name = command.__name__.rsplit(".", 1)[-1]
        summary = command.__doc__.strip().splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=summary)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a user's mistake, 130 when interrupted."""
    args = make_parser().parse_args(argv)
    args.told = shlex.join(["lesiondiffusion", *(sys.argv[1:] if argv is None else argv)])  # for provenance
    previous = signal.signal(signal.SIGTERM, _interrupt)  # a polite kill cleans up like Ctrl-C
    try:
        return args.run(args) or 0
    except LesionDiffusionError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except (KeyboardInterrupt, Cancelled):
        print("cancelled; nothing half-written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output went away, and nobody waits for the rest
        sys.stdout = None
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
