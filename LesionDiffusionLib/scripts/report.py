"""Make, check or explain a lesion report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the library is two folders up, and this folder's names must hide nothing
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parents[1]), *(path for path in sys.path if Path(path).resolve() != _HERE)]
    from LesionDiffusionLib.scripts.headless import run_as_script

    run_as_script("report")

import numpy as np

from LesionDiffusionLib.adapters.language_model import LanguageModel, write_report
from LesionDiffusionLib.errors import OutputError, ReportError
from LesionDiffusionLib.lesion_types import all_lesion_types, checks, draw_report, fitting_types, lesion_type
from LesionDiffusionLib.released_report import write_type_json
from LesionDiffusionLib.report import LesionReport, parse_size
from LesionDiffusionLib.scripts.output import Reporter
from LesionDiffusionLib.scripts.wording import add_report_arguments, report_from
from LesionDiffusionLib.vocabulary import vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion report`."""
    add_report_arguments(parser)
    fill = parser.add_mutually_exclusive_group()
    fill.add_argument("--draw", action="store_true", help="draw what is not stated; alone: draw everything")
    fill.add_argument(
        "--ask-model",
        action="store_true",
        help="let a language model choose what is not stated; any OpenAI-compatible endpoint, set by the environment "
        "variables LESIONDIFFUSION_LLM_URL, LESIONDIFFUSION_LLM_MODEL and, if it wants one, LESIONDIFFUSION_LLM_KEY. "
        "It receives lesion type, organ, attributes and sizes, nothing else",
    )
    parser.add_argument("--type-json", action="store_true", help="print the report in the form of a released type.json")
    parser.add_argument(
        "--organ-size-mm",
        metavar="X,Y,Z",
        help="bounding box of the organ; --type-json needs it, and --ask-model keeps the lesion within it",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--out", type=Path, help="write the report to this file, too")
    parser.add_argument("--force", action="store_true", help="replace an existing --out")
    parser.add_argument("--vocabulary", action="store_true", help="list lesion types, organs, attributes and values")


def run(args: argparse.Namespace) -> int:
    """Print the report on stdout; warnings go to stderr."""
    if args.vocabulary:
        print(vocabulary_text())
        return 0
    _check_options(args)
    reporter = Reporter(as_json=False)
    organ_size_mm = _size_mm(args.organ_size_mm)
    report = _stated(args, reporter)
    if args.ask_model:
        report = _asked(report, organ_size_mm, reporter)
    if args.draw:
        report = _drawn(report, np.random.default_rng(args.seed))
    for warning in checks(report):
        reporter.warning(warning)
    text = write_type_json(report, organ_size_mm) if args.type_json else report.to_json()
    if args.out is not None:
        _write(args.out, text)
    print(text)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raises ReportError or OutputError for options that cannot work, before a model is asked."""
    if args.organ_size_mm and not (args.ask_model or args.type_json):
        raise ReportError("--organ-size-mm serves --type-json and --ask-model: give --ask-model too, or leave it out")
    if args.type_json and not args.organ_size_mm:
        raise ReportError("--type-json needs the extents of the organ's bounding box: give --organ-size-mm X,Y,Z")
    if args.seed < 0:
        raise ReportError(f"seed must not be negative, got {args.seed}; correct the option")
    if args.out is not None and args.out.exists() and not args.force:
        raise OutputError(f"{args.out} exists; choose another --out or add --force")


def _size_mm(text: str | None) -> tuple[float, float, float] | None:
    return None if text is None else parse_size(text.replace(",", "x"))


def _stated(args: argparse.Namespace, reporter: Reporter) -> LesionReport:
    """What the arguments state; for a draw that may be nothing, or a size alone."""
    if args.draw and not any((args.lesion, args.report, args.text, args.set)):
        return LesionReport(size_mm=_size_mm(args.size_mm))
    return report_from(args, reporter)


def _drawn(report: LesionReport, generator: np.random.Generator) -> LesionReport:
    """The report completed at random, as one of the lesion types that fit it best, or as a generic lesion."""
    chance = generator.random()
    kinds = fitting_types(report) if report.lesion_type is None else [lesion_type(report.lesion_type)]
    return draw_report(kinds[int(chance * len(kinds))] if kinds else None, generator, given=report)


def _asked(report: LesionReport, organ_size_mm: tuple[float, float, float] | None, reporter: Reporter) -> LesionReport:
    if report.lesion_type is None:
        raise ReportError("--ask-model needs to know the lesion type: give --lesion TYPE")
    organ = report.organ or lesion_type(report.lesion_type).organ
    model = LanguageModel.from_environment()
    sent = "lesion type, organ, attributes and sizes, nothing else"
    print(f"asking {model.model} at {model.host}, which receives {sent}", file=sys.stderr)
    report, complaints = write_report(model, report.lesion_type, organ, organ_size_mm, report)
    for complaint in complaints:
        reporter.warning(f"an answer was rejected: {complaint}")
    return report


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another --out") from error


def vocabulary_text() -> str:
    """All words of a report, readable."""
    words = vocabulary()
    lines = ["lesion types:", *(f"  {kind.name} ({', '.join(kind.organs)})" for kind in all_lesion_types())]
    for attribute in words.attributes:
        heard = " and ".join({"mask": "LMNet", "image": "LINet"}[n] for n in words.networks[attribute])
        lines.append(f"{attribute} (heard by {heard}):")
        lines += [f"  {value}" for value in words.values(attribute)] or ["  such as 12x10x14 mm, 1.2 cm"]
    return "\n".join(lines)
