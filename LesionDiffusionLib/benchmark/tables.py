"""Figures as Markdown."""

from __future__ import annotations

from typing import Any

STAGES = ("mask", "encode", "inpaint", "decode", "blend")


def as_markdown(figures: dict[str, Any]) -> str:
    """Everything that was measured, for people."""
    parts = [_environment(figures["comparison"]["environment"]), _comparison(figures["comparison"])]
    if "steps" in figures:
        parts.append(_steps(figures["steps"]))
    if "growth" in figures:
        parts.append(_growth(figures["growth"]))
    return "\n".join(parts)


def _environment(environment: dict[str, Any]) -> str:
    told = (f"{name} {value}" for name, value in environment.items() if name not in ("mask", "image"))
    sampled = (f"{name}: {environment[name]}" for name in ("mask", "image"))
    return "\n".join(["; ".join(told) + ".", "", *(f"- defaults, {line}" for line in sampled), ""])


def _comparison(comparison: dict[str, Any]) -> str:
    head = ["way", *(f"{stage} s" for stage in STAGES), "total s", "ratio", "TFLOP/s", "of ceiling", "MiB", "dHU"]
    rows = []
    for row in comparison["rows"]:
        seconds = [row["seconds"].get(stage, 0.0) for stage in STAGES]
        memory = ", ".join(f"{where} {mib}" for where, mib in row["peak_memory_mib"].items())
        cells = [row["name"], *(f"{s:.2f}" for s in seconds), f"{sum(row['seconds'].values()):.2f}"]
        cells += [_told(row["ratio"]), f"{row['tflops']:.3f}", f"{row['share_of_ceiling']:.0%}", memory]
        rows.append([*cells, _told(row["difference_hu"])])
    why = comparison["released_way_missing"]
    missing = f"\nThe released way {why}: no ratio, no difference. With --margin-mm it takes less.\n" if why else ""
    bare = ", ".join(
        f"{name} {one['tflop']:.3f} TFLOP at {one['tflops']:.3f} TFLOP/s, {one['share_of_ceiling']:.0%} of the ceiling "
        f"({_channels_last(one['channels_last_tflops'])})"
        for name, one in comparison["forwards"].items()
    )
    note = (
        f"\nCeiling: matrix products at {comparison['matmul_tflops']:.3f} TFLOP/s. dHU: mean absolute difference to "
        f"the released way inside the lesion; from one seed to another it is {comparison['seed_to_seed_hu']:.1f} HU, "
        f"from float32 to our precision {comparison['rounding_hu']:.1f} HU. "
        f"One evaluation of one sample: {bare}.\n"
    )
    return _table(head, rows) + missing + note


def _channels_last(tflops: float | None) -> str:
    how = "as they are" if tflops is None else f"{tflops:.3f} TFLOP/s"
    return f"with the channels last in memory {how}"


def _told(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f}"


def _steps(steps: dict[str, Any]) -> str:
    kinds = ("difference_hu", "mask_dice")
    rows = [[f"DPM-Solver++ 2M, {n}", *(f"{found[k]:.3g}" for k in kinds)] for n, found in steps["dpmpp"].items()]
    rows.append([f"another seed, DDIM {steps['many']}", *(f"{steps['seed_to_seed'][kind]:.3g}" for kind in kinds)])
    return _table([f"against DDIM {steps['many']}, {steps['seeds']} seeds", "mean dHU in the lesion", "Dice"], rows)


def _growth(growth: dict[str, list[dict[str, Any]]]) -> str:
    rows = []
    for name, points in growth.items():
        unit = next(key for key in points[0] if key != "x")
        rows.append([name, unit, ", ".join(f"{point['x']}: {point[unit]:.2f}" for point in points)])
    return _table(["what grows", "measured", "value: figure"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
