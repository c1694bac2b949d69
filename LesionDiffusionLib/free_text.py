"""A lesion described in everyday radiological English, turned into a report with the words of the vocabulary.

Nothing is guessed: a phrase is understood when the vocabulary has it and nothing negates it; every other word that
could carry information is handed back.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.lesion_types import all_lesion_types, lesion_type
from LesionDiffusionLib.report import FIELDS, LesionReport, parse_size
from LesionDiffusionLib.vocabulary import LESION_TYPE, vocabulary, words

MAX_CHARACTERS = 2000

_NUMBER = r"\d+(?:[.,]\d+)?"
_UNIT = r"(?:mm|millimet(?:er|re)s?|cm|centimet(?:er|re)s?)\b"
_SIZE = rf"{_NUMBER}(?:\s*-?\s*(?:{_UNIT})?\s*(?:[x×*]|by\b)\s*{_NUMBER}){{0,2}}\s*-?\s*{_UNIT}"
_TOKEN = re.compile(
    rf"(?P<range>(?:[<>≤≥~±]|{_NUMBER}\s*(?:{_UNIT})?\s*(?:[-–±]|to\b))\s*{_SIZE})|(?P<size>{_SIZE})"
    rf"|(?P<number>{_NUMBER}(?![^\W\d_]))|(?P<word>[^\W_]+)|(?P<stop>[.,;!?()])|(?P<symbol>[^\s\w:-])",
    re.IGNORECASE,
)

_NOUN = "lesion noun"  # "mass", "cyst": with the organ it makes a lesion type

_CONTRACTED = frozenset({"isn", "aren", "wasn", "weren", "doesn", "don", "hasn"})  # before "'t"
_NEGATIONS = _CONTRACTED | frozenset(
    {"no", "not", "none", "without", "absence", "lack", "lacking", "negative", "never", "neither", "nor", "except"}
)
_NEGATION_ENDS = frozenset({"in", "within", "inside", "with", "but", "however", "measuring", "measures", "located"})
_SAID_OF_THE_BEFORE = _CONTRACTED | frozenset({"absent", "excluded", "unlikely"})  # "calcification absent"
_SEEN = frozenset({"seen", "present", "visible", "evident", "identified", "noted"})  # "calcification not seen"

_PLACES = frozenset({"from", "to", "into", "off", "away", "apart", "outside", "beside", "behind", "beyond", "past"})
_PLACES |= {"above", "below", "over", "under", "beneath", "underneath", "deep"}  # "2 cm below" is a distance, no size
_DIRECTIONS = frozenset({"anterior", "posterior", "superior", "inferior", "lateral", "medial", "left", "right"})
_DIRECTIONS |= {"ventral", "dorsal", "cranial", "caudal", "proximal", "distal"}
_ENDS_A_DIRECTION = frozenset({"to", "of", "from", *".,;!?()"})  # "2 cm distal to", but not "2 cm distal tumor"


@dataclass(frozen=True)
class FreeTextResult:
    """``report`` holds what was understood and leaves the rest unstated.

    understood: (phrase as written, attribute or "lesion type", canonical value) in the order of the text.
    not_understood: phrases as written.
    """

    report: LesionReport
    understood: list[tuple[str, str, str]]
    not_understood: list[str]


@dataclass(frozen=True)
class _Token:
    kind: str  # the group of _TOKEN that matched, or "distance" for a size that is none
    raw: str  # lower case, as written
    word: str  # one spelling; empty for anything but a word
    start: int
    end: int

    @property
    def filler(self) -> bool:
        return self.word in vocabulary().filler


@dataclass(frozen=True)
class _Phrase:
    tokens: tuple[int, ...]  # token numbers, ascending
    attribute: str  # one of the 11, "lesion type" or "lesion noun"
    value: str  # canonical value, size in mm, or the family of a noun


def parse_free_text(text: str) -> FreeTextResult:
    """Understand a description such as "3 cm ill-defined hypodense tumour in the right kidney".

    Two extents ("2 by 3 cm") are X and Y, and Z is their mean; a single one stands for all axes. A negated phrase ("no
    calcification"), a number without mm or cm, a range, a distance ("2 cm below the dome"), and a second value for an
    attribute are not understood. Raises ReportError for a text of more than 2000 characters.
    """
    if len(text) > MAX_CHARACTERS:
        raise ReportError(f"a description has at most {MAX_CHARACTERS} characters, got {len(text)}; shorten it")
    tokens = _without_distances([_token(match) for match in _TOKEN.finditer(text)])
    phrases = _phrases(tokens)
    negated = _negated(tokens, {number for phrase in phrases for number in phrase.tokens})
    report, accepted = _interpret([phrase for phrase in phrases if not negated.intersection(phrase.tokens)])
    understood = [(_written(text, tokens, phrase.tokens), phrase.attribute, phrase.value) for phrase in accepted]
    used = {number for phrase in accepted for number in phrase.tokens}
    return FreeTextResult(report, understood, [_written(text, tokens, run) for run in _rest(tokens, used)])


def _token(match: re.Match) -> _Token:
    found = words(match[0]) if match.lastgroup == "word" else ()
    return _Token(match.lastgroup, match[0].lower(), found[0] if found else "", match.start(), match.end())


def _without_distances(tokens: list[_Token]) -> list[_Token]:
    """The same tokens, but lengths that tell where a lesion lies are no sizes any more."""
    raws = [".", *(token.raw for token in tokens), ".", "."]
    around = zip(tokens, raws, raws[2:], raws[3:], strict=False)
    return [
        dataclasses.replace(token, kind="distance") if token.kind == "size" and _is_distance(*raw) else token
        for token, *raw in around
    ]


def _is_distance(before: str, after: str, then: str) -> bool:
    """Whether the words around a length make it a distance."""
    direction = after in _DIRECTIONS and then in _ENDS_A_DIRECTION
    adverb = after.endswith("ly") and after[:-2] in _DIRECTIONS
    within = (before, after) == ("within", "of")
    return after in _PLACES or direction or adverb or within or (after, then) == ("in", "front")


def _phrases(tokens: list[_Token]) -> list[_Phrase]:
    """All phrases of the vocabulary in the order of the text; the longest claim their words first."""
    content = [number for number, token in enumerate(tokens) if not token.filler]
    free, phrases = set(content), []
    for length in range(max(map(len, vocabulary().phrases)), 0, -1):
        for first in range(len(content) - length + 1):
            run = tuple(content[first : first + length])
            meanings = _meanings([tokens[number] for number in run]) if free.issuperset(run) else []
            if meanings:
                free.difference_update(run)
            phrases += [_Phrase(run, *meaning) for meaning in meanings]
    return sorted(phrases, key=lambda phrase: phrase.tokens)


def _meanings(run: list[_Token]) -> list[tuple[str, str]]:
    """What a run of content tokens says: (attribute, value), usually none or one."""
    key = tuple(token.word for token in run)
    family = vocabulary().families.get(key[-1:])
    if len(run) == 1 and run[0].kind == "size":
        size_text = _size_text(run[0].raw)
        return [("size", size_text)] if size_text else []
    if len(run) == 1 and family:
        return [(_NOUN, family)]
    if key not in vocabulary().phrases:
        return []
    meaning = vocabulary().phrases[key]
    return [meaning, (_NOUN, family)] if family and meaning[0] == "density" else [meaning]  # "soft tissue mass"


def _size_text(raw: str) -> str | None:
    """From "3 x 4 cm" to "30x40x35 mm"; None when that is no possible size."""
    found = re.findall(rf"({_NUMBER})\s*-?\s*({_UNIT})?", raw)
    if any(re.search(r",\d{3}", number) for number, _ in found):
        return None  # a thousands separator or three decimals: unclear
    last_unit = found[-1][1]
    extents_mm = [float(n.replace(",", ".")) * (10 if (unit or last_unit)[0] == "c" else 1) for n, unit in found]
    if len(extents_mm) == 2:
        extents_mm.append(sum(extents_mm) / 2)
    size_text = "x".join(f"{extent_mm:.6g}" for extent_mm in extents_mm * (3 // len(extents_mm))) + " mm"
    try:
        parse_size(size_text)
    except ReportError:
        return None
    return size_text


def _negated(tokens: list[_Token], claimed: set[int]) -> set[int]:
    """Numbers of the tokens that a negation reaches; words of a phrase ("no close relationship") negate nothing."""
    reached = set()
    for number, token in enumerate(tokens):
        if number in claimed:
            continue
        following = _clause(tokens, range(number + 1, len(tokens)))
        if token.raw == "non":
            reached.update(following[:1])
        if token.raw in _NEGATIONS:
            reached.update(following)
        ends = not following or (token.raw == "not" and tokens[following[0]].raw in _SEEN)
        if token.raw in _SAID_OF_THE_BEFORE or (token.raw in _NEGATIONS and ends):
            reached.update(_clause(tokens, range(number - 1, -1, -1)))
    return reached


def _clause(tokens: list[_Token], numbers: range) -> list[int]:
    reached = []
    for number in numbers:
        if tokens[number].kind == "stop" or (reached and tokens[number].raw in _NEGATION_ENDS):
            break
        reached.append(number)
    return reached


def _interpret(phrases: list[_Phrase]) -> tuple[LesionReport, list[_Phrase]]:
    """The report that the phrases state, and the phrases it holds. The first of two differing values wins."""
    report, accepted = LesionReport(), []
    # Named lesion types first: they tell which organ is meant. Nouns last: they need the organ.
    for phrase in sorted(phrases, key=lambda phrase: (phrase.attribute == _NOUN, phrase.attribute != LESION_TYPE)):
        resolved = _with_noun_resolved(phrase, report)
        changed = _with_value(report, resolved.attribute, resolved.value)
        if changed is not None:
            report = changed
            accepted.append(resolved)
    if report.lesion_type and not report.organ:
        source = next(phrase for phrase in accepted if phrase.attribute == LESION_TYPE)
        accepted.append(dataclasses.replace(source, attribute="organ", value=lesion_type(report.lesion_type).organ))
        report = dataclasses.replace(report, organ=accepted[-1].value)
    return report, sorted(accepted, key=lambda phrase: phrase.tokens)


def _with_noun_resolved(phrase: _Phrase, report: LesionReport) -> _Phrase:
    """A lesion noun as the lesion type that it makes with the organ; every other phrase as it is."""
    if phrase.attribute != _NOUN:
        return phrase
    kinds = [kind for kind in all_lesion_types() if kind.family == phrase.value]
    fitting = [kind.name for kind in kinds if report.organ and kind.occurs_in(report.organ)]
    if phrase.value == "stone" and (report.lesion_type or not fitting):
        return dataclasses.replace(phrase, attribute="specific features")
    if report.lesion_type in [kind.name for kind in kinds]:
        fitting = [report.lesion_type]
    return dataclasses.replace(phrase, attribute=LESION_TYPE, value=fitting[0]) if fitting else phrase


def _with_value(report: LesionReport, attribute: str, value: str) -> LesionReport | None:
    """The report with one more value; None when that contradicts it, or for a noun that made no lesion type."""
    if attribute == _NOUN:
        return None
    name = "lesion_type" if attribute == LESION_TYPE else FIELDS[attribute]
    current, new = getattr(report, name), parse_size(value) if attribute == "size" else value
    if attribute == "specific features":
        new = tuple(dict.fromkeys((*(current or ()), value)))
    elif attribute == "organ":
        new = _narrower_organ(current, value)
        if new is None or (report.lesion_type and not lesion_type(report.lesion_type).occurs_in(new)):
            return None
    elif current not in (None, new):
        return None
    return dataclasses.replace(report, **{name: new})


def _narrower_organ(current: str | None, new: str) -> str | None:
    """Of "kidney" and "right kidney" the latter; None when the two are different organs."""
    organs = vocabulary().organs
    if current is None or new == current or new in organs[current].parts:
        return new
    return current if current in organs[new].parts else None


def _rest(tokens: list[_Token], used: set[int]) -> list[list[int]]:
    """Runs of tokens that were not understood; filler alone is no run."""
    runs: list[list[int]] = [[]]
    for number, token in enumerate(tokens):
        if number in used or token.kind == "stop":
            runs.append([])
        elif not token.filler:
            runs[-1].append(number)
    return [run for run in runs if run]


def _written(text: str, tokens: list[_Token], numbers: tuple[int, ...] | list[int]) -> str:
    return " ".join(text[tokens[numbers[0]].start : tokens[numbers[-1]].end].split())
