"""The phrases a vocabulary encoder learns: every value of the report's vocabulary."""

from __future__ import annotations

from LesionDiffusionLib.vocabulary import vocabulary


def vocabulary_phrases() -> list[str]:
    """All values of all attributes, organs included, in the vocabulary's order and without repetition."""
    words = vocabulary()
    return list(dict.fromkeys(value for attribute in words.attributes for value in words.values(attribute)))
