"""Numerical parity of the networks with recorded results of the released ones.

    python Testing/parity.py FOLDER [--tol 1e-4] [--vocab vocab.txt]

Prints one line a fixture: name, largest absolute error, verdict, what was compared. A fixture is a JSON file whose
"kind" says what it holds, with a safetensors file of the same name beside it; a folder with an ``expected.json`` is a
recorded pipeline case. Exit code 0: everything compared lies within the tolerance; 1: something does not, or nothing
was compared; 2: FOLDER is unusable. What is absent or skipped says so and never counts as passed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from parity_checks.networks import check_text_tower, check_tokens, check_unet, check_vq
from parity_checks.pipeline import check_pipeline, read_record
from parity_checks.record import Check, ParityError, Tensors
from parity_checks.sampling import check_sampler_linet, check_sampler_lmnet, check_schedule
from safetensors import SafetensorError
from safetensors.torch import load_file

from LesionDiffusionLib.errors import LesionDiffusionError

CHECKERS: dict[str, Callable[[dict[str, Any], Tensors], Iterator[Check]]] = {
    "unet": check_unet,
    "vq": check_vq,
    "sampler_lmnet": check_sampler_lmnet,
    "sampler_linet": check_sampler_linet,
    "schedule": check_schedule,
    "text_tower": check_text_tower,
}

# What a fixture too broken or too foreign to compare can raise; each becomes one FAIL line.
PROBLEMS = (
    *(ParityError, LesionDiffusionError, SafetensorError, zipfile.BadZipFile),
    *(OSError, ValueError, TypeError, LookupError, RuntimeError, AttributeError),
)


@dataclass(frozen=True)
class Line:
    """What is printed about one fixture."""

    name: str
    what: str
    status: str  # ok, FAIL, absent, skipped
    error: float | None = None

    def __str__(self) -> str:
        error = "-" if self.error is None else f"{self.error:.2e}"
        return f"{self.name:<28} {error:>9}  {self.status:<8} {self.what}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare the networks with recorded results of the released ones.")
    parser.add_argument("folder", type=Path, help="folder of fixtures")
    parser.add_argument("--tol", type=float, default=1e-4, help="largest absolute error allowed (default 1e-4)")
    parser.add_argument("--vocab", type=Path, help="BiomedCLIP's vocab.txt, to compare token ids")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        print(f"error: expected a folder of fixtures, but {options.folder} is none", file=sys.stderr)
        return 2
    statuses = []
    with torch.no_grad():
        for line in lines(options.folder, options.vocab, options.tol):
            print(line, flush=True)
            statuses.append(line.status)
    passed, failed = statuses.count("ok"), statuses.count("FAIL")
    others = len(statuses) - passed - failed
    verdict = "ok" if passed and not failed else "FAIL"
    print(f"{verdict}: {passed} within {options.tol:g}, {failed} failed, {others} absent or skipped")
    return 0 if verdict == "ok" else 1


def lines(folder: Path, vocabulary: Path | None, tolerance: float) -> Iterator[Line]:
    """One line for every fixture under ``folder``, and one for every tensor file that no JSON describes."""
    cases = sorted(path.parent for path in folder.rglob("expected.json"))
    described = set()
    for path in sorted(folder.rglob("*.json")):
        if path.parent not in cases:
            described.add(path.with_suffix(".safetensors"))
            yield json_fixture(path, vocabulary, tolerance)
    for path in sorted(set(folder.rglob("*.safetensors")) - described):
        yield Line(path.stem, f"no {path.stem}.json describes {path.name}", "FAIL")
    for case in cases:
        yield pipeline_case(case, tolerance)


def json_fixture(path: Path, vocabulary: Path | None, tolerance: float) -> Line:
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        return failure(path.stem, f"cannot read {path.name}", problem)
    if isinstance(spec, dict) and "kind" in spec:
        return tensor_fixture(path, spec, tolerance)
    if isinstance(spec, dict) and "tokens" in spec:
        return token_fixture(path, spec, vocabulary, tolerance)
    return Line(path.stem, f"{path.name} has no kind: not a fixture", "skipped")


def tensor_fixture(path: Path, spec: dict[str, Any], tolerance: float) -> Line:
    name, kind, twin = path.stem, str(spec["kind"]), path.with_suffix(".safetensors")
    if kind not in CHECKERS:
        return Line(name, f"unknown kind {kind!r}; known: {', '.join(CHECKERS)}", "FAIL")
    if not twin.exists():
        return Line(name, f"{kind}: no {twin.name} beside {path.name}", "absent")
    try:
        tensors = Tensors(load_file(twin))
        missing = sorted(set(spec.get("tensors", {})) - set(tensors.keys()))
        if missing:
            raise ParityError(f"{twin.name} lacks {', '.join(missing)}")
        return summary(name, kind, list(CHECKERS[kind](spec, tensors)), tensors.unused_results(), tolerance)
    except PROBLEMS as problem:
        return failure(name, kind, problem)


def token_fixture(path: Path, spec: dict[str, Any], vocabulary: Path | None, tolerance: float) -> Line:
    if vocabulary is None:
        return Line(path.stem, "tokens: no vocabulary given (--vocab)", "skipped")
    try:
        digest = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
        what = "tokens" if digest == spec.get("vocab_sha256") else "tokens (another vocabulary file than the recorded)"
        return summary(path.stem, what, list(check_tokens(spec, vocabulary)), [], tolerance)
    except PROBLEMS as problem:
        return failure(path.stem, "tokens", problem)


def pipeline_case(folder: Path, tolerance: float) -> Line:
    name = f"{folder.parent.name}/{folder.name}"
    try:
        expected, recorded = read_record(folder)
        checks = list(check_pipeline(folder, expected, recorded))
        return summary(name, "pipeline", checks, recorded.unused_results(), tolerance)
    except PROBLEMS as problem:
        return failure(name, "pipeline", problem)


def summary(name: str, what: str, checks: Sequence[Check], left: Sequence[str], tolerance: float) -> Line:
    """One line about all checks of a fixture; ``left`` are recorded results that were not compared."""
    if not checks:
        return Line(name, f"{what}: nothing to compare", "FAIL")
    failed = [check for check in checks if not check.passes(tolerance)]
    worst = max(failed or checks, key=lambda check: check.error)
    text = f"{what}: {len(checks)} results"
    if failed:
        text += f", {len(failed)} beyond tolerance, worst {worst.what}"
    if left:
        text += f"; not compared: {', '.join(left)}"
    return Line(name, text, "FAIL" if failed else "ok", worst.error)


def failure(name: str, what: str, problem: Exception) -> Line:
    message = " ".join(str(problem).split())[:300]
    return Line(name, f"{what}: {type(problem).__name__}: {message}", "FAIL")


if __name__ == "__main__":
    sys.exit(main())
