"""A worklist's rows as cases to be made: each row is a call of `synthesize`, with its options as columns."""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from LesionDiffusionLib.csv_rows import Row
from LesionDiffusionLib.errors import LesionDiffusionError, WorklistError
from LesionDiffusionLib.report import FIELDS
from LesionDiffusionLib.scripts import synthesize
from LesionDiffusionLib.worklist import read_worklist

if TYPE_CHECKING:
    from LesionDiffusionLib.run import Settings
    from LesionDiffusionLib.wish import Wish

PATHS = ("ct", "organs", "mask", "report")  # counted from the worklist's folder
OPTIONS = ("labels", "lesion", "text", "size_mm", "bbox", "center_mm", "sampler", "steps", "guidance", "candidates")
OTHERS = ("avoid", "seed", "name", "count")
DECIDING = (*PATHS, *OPTIONS, "avoid", "set", "seed", "bundle", "text_encoder")
MOST = 100_000  # cases of one row


@dataclass(frozen=True, eq=False)
class Job:
    """One case to be made: its name, its row's line, the arguments of `synthesize`, and what follows from them."""

    name: str
    line: int
    args: argparse.Namespace
    wish: Wish
    settings: Settings
    notes: list[str]

    @property
    def asked(self) -> dict[str, Any]:
        """Everything that decides the case, in plain JSON types."""
        given = {name: getattr(self.args, name) for name in DECIDING}
        given |= {name: given[name] and given[name].resolve() for name in PATHS}  # however the worklist was named
        return {k: v if isinstance(v, list) else str(v) for k, v in given.items() if v not in (None, [])}


@dataclass
class Notes:
    """Stands for a `Reporter` where warnings are kept with the case."""

    texts: list[str] = field(default_factory=list)

    def warning(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """Every case of ``args.worklist``; what a row leaves open is as ``args`` say.

    Raises:
        WorklistError: it cannot be read, a line asks for something impossible, or two cases have the same name.
    """
    jobs: list[Job] = []
    for row in read_worklist(args.worklist):
        try:
            jobs += _jobs_of_row(row, args, args.seed + len(jobs))
        except LesionDiffusionError as error:
            raise WorklistError(f"{args.worklist}, line {row.line}: {error}") from error
    name, times = Counter(job.name for job in jobs).most_common(1)[0]
    if times > 1:
        raise WorklistError(f'{args.worklist}: expected a name for each case, got "{name}" {times} times; rename one')
    return jobs


def _jobs_of_row(row: Row, args: argparse.Namespace, next_seed: int) -> Iterator[Job]:
    name, count = row.cells.get("name", f"case_{row.line:04d}"), _number(row, "count", 1)
    if Path(name).name != name or name.startswith("."):
        raise WorklistError(f'expected a plain name for the case, got "{name}"')
    if not 1 <= count <= MOST:
        raise WorklistError(f"count must lie in 1..{MOST}, got {count}")
    first_seed = _number(row, "seed", next_seed)
    stated = _row_parser().parse_args(_argv(row.cells, args.worklist.parent), argparse.Namespace(**vars(args)))
    notes = Notes()
    wish = synthesize.wish_from(stated, notes)
    for number in range(count):
        own = argparse.Namespace(**vars(stated) | {"seed": first_seed + number})
        own_name = name if count == 1 else f"{name}_{number:0{len(str(count - 1))}d}"
        yield Job(own_name, row.line, own, wish, synthesize.settings_from(own), notes.texts)


def _argv(cells: Mapping[str, str], folder: Path) -> list[str]:
    """A row as arguments of `synthesize`."""
    argv = ["--out=."]  # which it asks for; the case's name decides
    for column, text in cells.items():
        option = "--" + column.replace("_", "-")
        if column in PATHS or (column == "labels" and text.endswith(".json")):
            argv.append(f"{option}={folder / text}")
        elif column in OPTIONS:
            argv.append(f"{option}={text}")
        elif column == "avoid":
            argv += [f"{option}={part.strip()}" for part in text.split(";")]
        elif column in FIELDS:
            argv.append(f"--set={column}={text}")
        elif column not in OTHERS:
            known = ", ".join((*PATHS, *OPTIONS, *OTHERS, *FIELDS))
            raise WorklistError(f'no column is called "{column}"; there are: {known}')
    return argv


def _number(row: Row, column: str, default: int) -> int:
    text = row.cells.get(column)
    if text is None:
        return default
    if not text.isdecimal():
        raise WorklistError(f'{column} must be a whole number, got "{text}"')
    return int(text)


@functools.cache
def _row_parser() -> argparse.ArgumentParser:
    parser = _RowParser(add_help=False, allow_abbrev=False)
    synthesize.add_arguments(parser)
    return parser


class _RowParser(argparse.ArgumentParser):
    """Reads the arguments that a row stands for; a mistake is the worklist's."""

    def error(self, message: str) -> NoReturn:
        raise WorklistError(message)
