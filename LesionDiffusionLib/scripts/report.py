"""Make, check or explain a lesion report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from LesionDiffusionLib.adapters.language_model import LanguageModel, write_report
from LesionDiffusionLib.errors import OutputError, ReportError
from LesionDiffusionLib.lesion_types import all_lesion_types, checks, draw_report, lesion_type
from LesionDiffusionLib.report import LesionReport, parse_size
from LesionDiffusionLib.scripts.output import Reporter
from LesionDiffusionLib.scripts.wording import add_report_arguments, report_from
from LesionDiffusionLib.vocabulary import vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion report`."""
    add_report_arguments(parser)
    fill = parser.add_mutually_exclusive_group()
    fill.add_argument("--draw", action="store_true", help="draw what is not stated")
    fill.add_argument(
        "--ask-model",
        action="store_true",
        help="let a language model choose what is not stated; any OpenAI-compatible endpoint, set by the environment "
        "variables LESIONDIFFUSION_LLM_URL, LESIONDIFFUSION_LLM_MODEL and, if it wants one, LESIONDIFFUSION_LLM_KEY. "
        "It receives lesion type, organ, attributes and sizes, nothing else",
    )
    parser.add_argument("--organ-size-mm", metavar="X,Y,Z", help="with --ask-model: the lesion is not larger than this")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--out", type=Path, help="write the report to this file")
    parser.add_argument("--vocabulary", action="store_true", help="list lesion types, organs, attributes and values")
    parser.add_argument("--json", action="store_true", help="print warnings as JSON lines")


def run(args: argparse.Namespace) -> int:
    """Print the report as JSON; the sentence and warnings go to stderr."""
    reporter = Reporter(args.json)
    if args.vocabulary:
        print(vocabulary_text())
        return 0
    if args.organ_size_mm and not args.ask_model:
        raise ReportError("--organ-size-mm limits what a language model chooses: give --ask-model too, or leave it out")
    report = report_from(args, reporter)
    if args.ask_model:
        report = _asked(report, args.organ_size_mm, reporter)
    if args.draw:
        report = _drawn(report, np.random.default_rng(args.seed))
    for warning in checks(report):
        reporter.warning(warning)
    if args.out is not None:
        try:
            args.out.write_text(report.to_json() + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {args.out}: {error.strerror}; choose another --out") from error
    print(report.to_json())
    return 0


def _drawn(report: LesionReport, generator: np.random.Generator) -> LesionReport:
    kinds = [k for k in all_lesion_types() if report.organ is None or k.occurs_in(report.organ)] or all_lesion_types()
    chance = int(generator.integers(len(kinds)))
    kind = lesion_type(report.lesion_type) if report.lesion_type else kinds[chance]
    return draw_report(kind, generator, given=report)


def _asked(report: LesionReport, organ_size_mm: str | None, reporter: Reporter) -> LesionReport:
    if report.lesion_type is None:
        raise ReportError("--ask-model needs to know the lesion type: give --lesion TYPE")
    size_mm = None if organ_size_mm is None else parse_size(organ_size_mm.replace(",", "x"))
    organ = report.organ or lesion_type(report.lesion_type).organ
    model = LanguageModel.from_environment()
    sent = "lesion type, organ, attributes and sizes, nothing else"
    print(f"asking {model.model} at {model.host}, which receives {sent}", file=sys.stderr)
    report, complaints = write_report(model, report.lesion_type, organ, size_mm, report)
    for complaint in complaints:
        reporter.warning(f"an answer was rejected: {complaint}")
    return report


def vocabulary_text() -> str:
    """All words of a report, readable."""
    words = vocabulary()
    lines = ["lesion types:", *(f"  {kind.name} ({', '.join(kind.organs)})" for kind in all_lesion_types())]
    for attribute in words.attributes:
        heard = " and ".join({"mask": "LMNet", "image": "LINet"}[n] for n in words.networks[attribute])
        lines.append(f"{attribute} (heard by {heard}):")
        lines += [f"  {value}" for value in words.values(attribute)] or ["  such as 12x10x14 mm, 1.2 cm"]
    return "\n".join(lines)
