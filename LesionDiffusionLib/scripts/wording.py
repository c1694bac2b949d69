"""Arguments that say what lesion is wanted, shared by `synthesize`, `report` and `demo`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.free_text import parse_free_text
from LesionDiffusionLib.lesion_types import lesion_type
from LesionDiffusionLib.released_report import read_type_json
from LesionDiffusionLib.report import MAX_REPORT_BYTES, LesionReport
from LesionDiffusionLib.scripts.output import Reporter


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """--lesion, --report, --text, --set, --size-mm."""
    words = parser.add_argument_group("lesion (what is not stated is drawn at random from what is usual)")
    words.add_argument("--lesion", metavar="TYPE", help='lesion type, such as "liver cyst"')
    words.add_argument("--report", type=Path, metavar="FILE", help="report file (ours, or the released type.json)")
    words.add_argument("--text", help='free text, such as "3 cm ill-defined hypodense tumor in the right kidney"')
    words.add_argument(
        "--set", action="append", default=[], metavar="ATTRIBUTE=VALUE", help="one attribute; repeatable"
    )
    words.add_argument(
        "--size-mm", metavar="X,Y,Z", help="extent along right-left, anterior-posterior, superior-inferior"
    )


def add_text_encoder_arguments(parser: argparse._ActionsContainer, needed_by: str) -> None:
    """Where the text encoder comes from that ``needed_by`` needs."""
    parser.add_argument("--text-encoder", metavar="FOLDER_OR_HUB_ID", help=f"BiomedCLIP, for {needed_by}")
    parser.add_argument(
        "--allow-download", action="store_true", help="let --text-encoder fetch a hub id that is not here"
    )


def report_from(args: argparse.Namespace, reporter: Reporter) -> LesionReport:
    """What the arguments state; later ones win: file, free text, lesion type, --set, --size-mm.

    Raises:
        ReportError: nothing is stated, or something unknown is.
    """
    if not any((args.lesion, args.report, args.text, args.set)):
        raise ReportError("expected a lesion: give --lesion TYPE, --text TEXT, --report FILE or --set ATTRIBUTE=VALUE")
    report = LesionReport() if args.report is None else read_report(args.report, reporter)
    if args.text:
        parsed = parse_free_text(args.text)
        if parsed.not_understood:
            reporter.warning(f"not understood and not used: {', '.join(parsed.not_understood)}")
        stated = {f.name: value for f in dataclasses.fields(parsed.report) if (value := getattr(parsed.report, f.name))}
        report = report.updated(stated)
    if args.lesion:
        report = dataclasses.replace(report, lesion_type=lesion_type(args.lesion).name)
    settings = [*args.set, *([f"size={args.size_mm.replace(',', 'x')} mm"] if args.size_mm else [])]
    report = report.with_values(settings)
    if report == LesionReport():
        raise ReportError(
            "nothing that was given tells of a lesion; give --lesion TYPE, or other words: "
            "'lesiondiffusion report --vocabulary' lists them"
        )
    return report


def read_report(path: Path, reporter: Reporter) -> LesionReport:
    """A report from our own file or from a released type.json (its first lesion)."""
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise ReportError(f"{path} has more than {MAX_REPORT_BYTES} bytes: is it a report file?")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"cannot read the report {path}: {error}") from error
    try:
        return LesionReport.from_json(text)
    except ReportError as ours:
        try:
            entries = read_type_json(text)
        except ReportError:
            raise ours from None
    if len(entries) > 1:
        reporter.warning(f"{path} describes {len(entries)} lesions; the first is used: {entries[0].report.describe()}")
    for warning in entries[0].warnings:
        reporter.warning(warning)
    return entries[0].report
