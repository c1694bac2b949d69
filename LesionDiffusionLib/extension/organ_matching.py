"""Which organ a segment shows: by its terminology, else by its name. Pure: names and texts, no MRML."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping

from LesionDiffusionLib.resources import resource_path
from LesionDiffusionLib.vocabulary import vocabulary, words

SIDES = {"right": ("24028007", "Right"), "left": ("7771000", "Left")}
_SAME = {"superior": "upper", "inferior": "lower"}
_FILLER = frozenset({"of", "the", "and"})


def structure_for(name: str, terminology: str) -> str | None:
    """The structure (TotalSegmentator's spelling, such as "kidney_right") of a segment, or None for none we know.

    Args:
        name: of the segment, in any usual spelling.
        terminology: the segment's terminology entry as Slicer writes it, or "".
    """
    return _by_code(terminology) or _by_name(name)


def known_structures() -> list[str]:
    """What a segment can be matched with: our organs first, then the other structures of TotalSegmentator."""
    organs = [_spelled(organ) for organ in vocabulary().organs]
    return [*organs, *(name for name in _totalsegmentator_names() if name not in organs)]


def anatomic_region(structure: str) -> tuple[str, str]:
    """Region and region modifier of a terminology entry, "scheme^code^meaning" each; "^^" where there is none."""
    entry = _codes().get(structure)
    if entry is None:
        return "^^", "^^"
    side = SIDES.get(entry.get("side"))
    return f"SCT^{entry['code']}^{entry['meaning']}", "^^" if side is None else f"SCT^{side[0]}^{side[1]}"


def structure_of_organ(organ: str) -> str:
    """The structure name of an organ term of a report ("right kidney" -> "kidney_right")."""
    return _spelled(organ)


def _by_code(terminology: str) -> str | None:
    """Terminology entry: context~category~type~type modifier~region context~region~region modifier."""
    parts = terminology.split("~")
    if len(parts) < 4:
        return None
    code, modifier = (part.split("^")[1] if part.count("^") == 2 else "" for part in parts[2:4])
    side = next((name for name, (value, _) in SIDES.items() if value == modifier), None)
    found = [name for name, entry in _codes().items() if entry["code"] == code and entry.get("side") == side]
    return found[0] if found else None


def _by_name(name: str) -> str | None:
    # "Segment_3", "liver 1": Slicer numbers the segments of equal names.
    organ = vocabulary().find("organ", re.sub(r"[_\s]+\d+$", "", name))
    if organ is not None:
        return _spelled(organ)
    return _by_words().get(_key(name))


def _spelled(organ: str) -> str:
    """TotalSegmentator's spelling of one of our organs; a group ("right lung") gets one of the same kind."""
    entry = vocabulary().organs[organ]
    if not entry.parts:
        return entry.labels[0]
    side, _, base = organ.rpartition(" ")
    return f"{base}_{side}" if side in SIDES else organ


def _key(name: str) -> frozenset[str]:
    return frozenset(_SAME.get(word, word) for word in words(name.replace("_", " ")) if word not in _FILLER)


@functools.cache
def _by_words() -> Mapping[frozenset[str], str]:
    return {_key(name): name for name in reversed(_totalsegmentator_names())}


@functools.cache
def _totalsegmentator_names() -> list[str]:
    names: dict[str, None] = {}
    for numbering in ("totalseg_v2", "totalseg_v1"):
        table = json.loads(resource_path(f"Labels/{numbering}.json").read_text(encoding="utf-8"))
        names |= dict.fromkeys(name for number, name in table.items() if number != "source")
    return list(names)


@functools.cache
def _codes() -> Mapping[str, Mapping[str, str]]:
    return json.loads(resource_path("organ_codes.json").read_text(encoding="utf-8"))["structures"]
