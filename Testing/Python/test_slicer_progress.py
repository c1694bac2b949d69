"""How far a run is: a share that grows to 1, and a time left that is right for steps of equal length."""

from __future__ import annotations

from itertools import pairwise

import pytest

from LesionDiffusionLib.extension.progress import RunProgress

STAGES = {"load": 1, "plan": 1, "mask": 20, "encode": 1, "inpaint": 20, "decode": 1, "blend": 1, "measure": 1}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(progress: RunProgress, candidates: int, skips_mask: bool = False) -> list[float]:
    """The shares of a whole run."""
    shares = []
    for candidate in range(candidates):
        for stage, total in STAGES.items():
            if (candidate and stage in ("load", "plan")) or (skips_mask and stage == "mask"):
                continue
            for step in range(total + 1):
                progress.heard(stage, step, total)
                shares.append(progress.share)
        progress.candidate_done()
    return [*shares, progress.share]


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("skips_mask", [False, True])
def test_the_share_grows_from_0_to_1(candidates, skips_mask):
    shares = run(RunProgress(candidates, skips_mask), candidates, skips_mask)
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert max(b - a for a, b in pairwise(shares)) < 0.1


def test_a_stage_that_is_tried_again_does_not_turn_the_bar_back():
    progress = RunProgress()
    progress.heard("mask", 20, 20)
    before = progress.share
    progress.heard("mask", 1, 20)
    assert progress.share == before


def test_the_time_left_follows_the_pace_of_the_steps():
    clock = Clock()
    progress = RunProgress(clock=clock)
    progress.heard("load", 1, 1)
    assert progress.seconds_left is None
    assert "left" not in progress.text
    for step in range(1, 11):
        progress.heard("mask", step, 20)
        clock.now += 1.0
    clock.now -= 1.0
    # Nine steps in nine seconds; the mask's other ten and LINet's, which take a little longer, are to come.
    assert 30 < progress.seconds_left < 38
    assert progress.text == f"Drawing the shape, about {round(progress.seconds_left)} s left"
    clock.now += 1000
    assert progress.text.endswith("min left")


def test_several_candidates_are_counted():
    progress = RunProgress(candidates=3)
    progress.heard("mask", 1, 2)
    assert progress.text.startswith("Drawing the shape, lesion 1 of 3")
    progress.candidate_done()
    assert progress.text.startswith("Working, lesion 2 of 3")
