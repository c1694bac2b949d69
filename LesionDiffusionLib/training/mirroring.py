"""Mirroring a case left to right so that its report stays true: the words and the organ numbers change sides, too."""

from __future__ import annotations

import functools
import re

import numpy as np

from LesionDiffusionLib.labels import load_table

LEFT_AXIS = 2  # of a window (D, H, W): it grows to the patient's left


def mirrored_words(text: str) -> str:
    """The text with left and right exchanged, capital letters kept.

    >>> mirrored_words("right upper lung lobe, left")
    'left upper lung lobe, right'
    """
    return re.sub(r"(?<![^\W_])(left|right)(?![^\W_])", _other_side, text, flags=re.IGNORECASE)


def _other_side(match: re.Match) -> str:
    word = match[0]
    other = "right" if word[0] in "lL" else "left"
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def mirrored_labels(labels: np.ndarray) -> np.ndarray:
    """A label window (D, H, W) in TotalSegmentator v1 numbers, mirrored, with the numbers of the other side."""
    return np.flip(_numbers()[labels], LEFT_AXIS)


def can_mirror(numbers: np.ndarray) -> bool:
    """Whether all of these organ numbers exist on the other side: there is no left middle lung lobe."""
    return not np.isin(numbers, _one_sided()).any()


@functools.cache
def _numbers() -> np.ndarray:
    table = load_table("totalseg_v1")
    number_of = {name: number for number, name in table.items()}
    mirrored = np.arange(256, dtype=np.uint8)
    for number, name in table.items():
        mirrored[number] = number_of.get(mirrored_words(name), number)
    return mirrored


@functools.cache
def _one_sided() -> np.ndarray:
    table = load_table("totalseg_v1")
    names = set(table.values())
    return np.array([n for n, name in table.items() if mirrored_words(name) not in names])
