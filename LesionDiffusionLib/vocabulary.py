"""The words of a lesion report: the 11 attributes, their values and synonyms, organs, and the names of lesion types.

The words are data (``Resources/vocabulary.json``, names of lesion types in ``Resources/lesion_types.json``), read once.
Sources: LesionDiffusion paper, Fig. 1; released-model 8.1 and 8.3.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.resources import resource_path

LESION_TYPE = "lesion type"  # not one of the 11 attributes, but named and looked up like one
_BRITISH = (("oesoph", "esoph"), ("haem", "hem"), ("tumour", "tumor"))


def words(text: str) -> tuple[str, ...]:
    """Words of a text in one spelling: lower case, singular, US English, no punctuation.

    >>> words("Ill-defined tumours,")
    ('ill', 'defined', 'tumor')
    """
    return tuple(_one_spelling(word) for word in re.findall(r"[^\W_]+", text.lower()))


def _one_spelling(word: str) -> str:
    for british, american in _BRITISH:
        word = word.replace(british, american)
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is", "creas")):
        return word[:-1]
    return word


@dataclass(frozen=True)
class Term:
    """One allowed value: its name, other spellings, and the spelling of the released training reports (or None)."""

    name: str
    synonyms: tuple[str, ...] = ()
    released: str | None = None


@dataclass(frozen=True)
class Organ:
    """One organ term, or a group such as "kidney" or "lung".

    The gallbladder is a hollow organ here: stones lie in its lumen and cancers grow from its wall. (The released box
    script leaves it out of its hollow organs, though the released strings for LMNet count it among them.)
    """

    name: str
    organ_type: str  # "hollow organ" or "parenchymal organ"
    labels: tuple[str, ...]  # TotalSegmentator names, the same in versions 1 and 2
    parts: tuple[str, ...] = ()  # the organ terms a group stands for; empty for a single organ


@dataclass(frozen=True)
class Vocabulary:
    networks: Mapping[str, tuple[str, ...]]  # the 11 attributes in the paper's order -> "mask" and/or "image"
    terms: Mapping[str, Mapping[str, Term]]  # attribute (and "lesion type") -> canonical value -> Term
    organs: Mapping[str, Organ]
    attribute_names: Mapping[tuple[str, ...], str]  # words of a name or synonym -> attribute
    families: Mapping[tuple[str, ...], str]  # words of a lesion noun ("mass") -> family ("cancer")
    contradictions: tuple[Mapping[str, tuple[str, ...]], ...]  # values of two attributes that exclude each other
    filler: frozenset[str]  # words that carry no information

    @property
    def attributes(self) -> tuple[str, ...]:
        """The 11 attribute names in the paper's order."""
        return tuple(self.networks)

    def attribute(self, text: str) -> str:
        """Canonical attribute name. Raises ReportError naming the allowed ones."""
        return self._find("attribute", text, self.attribute_names, self.attributes)

    def values(self, attribute: str) -> tuple[str, ...]:
        """Canonical values of an attribute, or of "lesion type"; empty for "size"."""
        return tuple(self.terms.get(attribute, ()))

    def canonical(self, attribute: str, text: str) -> str:
        """Canonical value for a value or synonym, whatever its case, hyphens, plural or trailing comma.

        Raises ReportError naming the closest and all allowed values.
        """
        return self._find(attribute, text, self._phrases[attribute], self.values(attribute))

    def find(self, attribute: str, text: str) -> str | None:
        """Like ``canonical``, but None for an unknown value."""
        return self._phrases[attribute].get(self.key(text))

    def organ(self, text: str) -> Organ:
        """The organ of a term or synonym ("renal", "kidney_right", ...). Raises ReportError."""
        return self.organs[self.canonical("organ", text)]

    def key(self, text: str) -> tuple[str, ...]:
        """The words of a text that carry information: two phrases with one key mean the same."""
        return tuple(word for word in words(text) if word not in self.filler)

    def contradiction(self, stated: Mapping[str, Iterable[str]]) -> tuple[str, str] | None:
        """The first two stated values (attribute -> values) that exclude each other, or None."""
        for pair in self.contradictions:
            clash = [next((v for v in stated.get(name, ()) if v in values), None) for name, values in pair.items()]
            if all(clash):
                return clash[0], clash[1]
        return None

    @functools.cached_property
    def phrases(self) -> Mapping[tuple[str, ...], tuple[str, str]]:
        """Key of every value and synonym -> (attribute, canonical value): what free text is searched for."""
        return {key: (name, value) for name, found in self._phrases.items() for key, value in found.items()}

    @functools.cached_property
    def _phrases(self) -> Mapping[str, Mapping[tuple[str, ...], str]]:
        return {
            attribute: {self.key(text): term.name for term in terms.values() for text in (term.name, *term.synonyms)}
            for attribute, terms in self.terms.items()
        }

    def _find(self, what: str, text: str, phrases: Mapping[tuple[str, ...], str], allowed: Iterable[str]) -> str:
        key = words(text) if what == "attribute" else self.key(text)
        if key in phrases:
            return phrases[key]
        spelled = {" ".join(words_): name for words_, name in phrases.items()}
        close = difflib.get_close_matches(" ".join(key), spelled, n=1)
        hint = f'; did you mean "{spelled[close[0]]}"?' if close else ";"
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise ReportError(f'unknown {what} "{shown}"{hint} allowed: {", ".join(allowed)}')


@functools.cache
def vocabulary() -> Vocabulary:
    """The vocabulary, read from ``Resources`` on first use."""
    data = json.loads(resource_path("vocabulary.json").read_text(encoding="utf-8"))
    types = json.loads(resource_path("lesion_types.json").read_text(encoding="utf-8"))["lesion types"]
    attributes = data["attributes"]
    terms = {name: _terms(entry["values"]) for name, entry in attributes.items() if "values" in entry}
    terms |= {"organ": _terms(data["organs"]), LESION_TYPE: _terms(types)}
    return Vocabulary(
        networks={name: tuple(entry["networks"]) for name, entry in attributes.items()},
        terms=terms,
        organs={name: _organ(name, data["organs"]) for name in data["organs"]},
        attribute_names={words(text): name for name, e in attributes.items() for text in (name, *e["synonyms"])},
        families={words(noun): family for family, nouns in data["lesion families"].items() for noun in nouns},
        contradictions=tuple({k: tuple(v) for k, v in pair.items()} for pair in data["contradictions"]),
        filler=frozenset(data["filler words"]),
    )


def _terms(entries: Mapping[str, dict]) -> dict[str, Term]:
    return {name: Term(name, tuple(e["synonyms"]), e.get("released")) for name, e in entries.items()}


def _organ(name: str, entries: Mapping[str, dict]) -> Organ:
    entry = entries[name]
    parts = tuple(entry.get("parts", ()))
    labels = entry.get("labels") or [label for part in parts for label in entries[part]["labels"]]
    return Organ(name, entry["organ type"], tuple(labels), parts)
