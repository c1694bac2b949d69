"""What the numbers of an organ map mean: numbering tables, and organ masks asked for by name.

TotalSegmentator 1 and 2 number the same structures differently, so a numbering is never guessed. Tables lie in
``Resources/Labels``. Source of the numbers: released-model 8.3 (version 1), headers written by TotalSegmentator 2.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LesionDiffusionLib.errors import LabelError
from LesionDiffusionLib.geometry import Geometry
from LesionDiffusionLib.resources import resource_path
from LesionDiffusionLib.vocabulary import Organ, vocabulary
from LesionDiffusionLib.volume import Volume

NUMBERINGS = ("totalseg_v1", "totalseg_v2")
MAX_LABEL = 65535

LabelTable = dict[int, str]  # label number -> structure name in TotalSegmentator's spelling, e.g. "kidney_right"


def load_table(numbering: str | Path) -> LabelTable:
    """The table of a known numbering, or of a JSON file such as ``{"5": "liver", "2": "right kidney"}``.

    A "source" entry and the background 0 are left out; organ names may be written as in a report. Raises LabelError.
    """
    if numbering in NUMBERINGS:
        path = resource_path(f"Labels/{numbering}.json")
    else:
        path = Path(numbering)
        if path.suffix.lower() != ".json" or not path.is_file():
            raise LabelError(f'unknown numbering "{numbering}"; give {", ".join(NUMBERINGS)} or an existing FILE.json')
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        entries = {int(number): name for number, name in data.items() if number != "source"}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise LabelError(f'{path} cannot be read as a JSON object such as {{"5": "liver"}}: {error}') from error
    return _checked(entries, str(path))


@dataclass(frozen=True, eq=False)
class OrganMap:
    """A label map and what its numbers mean.

    ``volume.array`` is an integer array (I, J, K), 0 = background; ``table`` maps numbers to structure names. An organ
    is asked for by its term in a report ("right kidney", "lung"), by a synonym, or by a structure name ("aorta").

    Raises LabelError when the array cannot be a label map.
    """

    volume: Volume
    table: Mapping[int, str]

    def __post_init__(self) -> None:
        array = self.volume.array
        if array.dtype.kind not in "iu":
            raise LabelError(f"an organ map holds whole numbers, got values of type {array.dtype}; is it a label map?")
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < 0 or high > MAX_LABEL:
            raise LabelError(f"labels of an organ map lie in 0..{MAX_LABEL}, got {low}..{high}; is it a label map?")

    @classmethod
    def unknown(cls, geometry: Geometry) -> OrganMap:
        """The map of a patient whose organs nobody has labeled, on the CT's grid; it takes no memory."""
        return cls(Volume(np.broadcast_to(np.uint8(0), geometry.shape), geometry), {})

    @property
    def is_unknown(self) -> bool:
        """Whether this map says nothing about any organ."""
        return not self.table

    def names_present(self) -> list[str]:
        """Structure names with at least one voxel, in the order of their numbers."""
        return list(dict.fromkeys(self.table[n] for n in np.flatnonzero(self._counts) if n in self.table))

    def organs_present(self) -> list[str]:
        """Organ terms of the vocabulary, groups included, that have at least one voxel."""
        return [organ for organ in vocabulary().organs if self.voxel_count(organ)]

    def voxel_count(self, name: str) -> int:
        """Number of voxels of an organ or structure. Raises LabelError for a name nobody knows."""
        return int(self._counts[self.numbers(name)].sum())

    def mask(self, names: str | Iterable[str]) -> np.ndarray:
        """Voxels of any of the named organs or structures: bool (I, J, K), possibly empty. Raises LabelError."""
        chosen = np.zeros(len(self._counts), bool)
        for name in [names] if isinstance(names, str) else names:
            chosen[self.numbers(name)] = True
        return chosen[self.volume.array]

    def require(self, name: str) -> np.ndarray:
        """Like ``mask`` for one organ, but raises LabelError, naming the organs present, when it has no voxel."""
        if not self.voxel_count(name):
            present = ", ".join(self.organs_present()) or "none that the vocabulary knows"
            raise LabelError(f'the organ map has no voxel of "{name}"; organs present: {present}')
        return self.mask(name)

    def resolve_organ(self, term: str, generator: np.random.Generator) -> str:
        """A single organ for an organ term: of a group such as "kidney" one present part, by chance and volume.

        In an unknown map any part may be present. Draws exactly one random number. Raises LabelError when no part is
        present, ReportError for an unknown term.
        """
        organ, chance = vocabulary().organ(term), generator.random()
        if self.is_unknown:
            return organ.parts[int(chance * len(organ.parts))] if organ.parts else organ.name
        volumes = np.cumsum([self.voxel_count(part) for part in organ.parts])
        if not organ.parts or not volumes[-1]:  # not a group, or a map that labels the group as a whole
            self.require(organ.name)
            return organ.name
        return organ.parts[int(np.searchsorted(volumes, chance * volumes[-1], side="right"))]

    def numbers_in(self, numbering: str) -> np.ndarray:
        """Lookup table from this map's numbers to those of another numbering; 0 for what that one does not know."""
        numbers = {name: number for number, name in load_table(numbering).items()}
        table = np.zeros(len(self._counts), np.uint16)
        for number, name in self.table.items():
            if number < len(table):
                table[number] = numbers.get(name, 0)
        return table

    def warnings(self) -> list[str]:
        """One sentence when the map holds numbers that the table lacks (a sign of the wrong numbering)."""
        unknown = [str(n) for n in np.flatnonzero(self._counts) if n and n not in self.table]
        if not unknown:
            return []
        shown = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        return [f"the organ map holds {len(unknown)} numbers that its label table lacks: {shown}"]

    @functools.cached_property
    def _counts(self) -> np.ndarray:
        # Slab by slab: bincount wants 64-bit copies, eight times a uint8 map.
        length = int(self.volume.array.max(initial=0)) + 1
        slabs = (slab.ravel(order="K").astype(np.intp) for slab in np.moveaxis(self.volume.array, -1, 0))
        return sum((np.bincount(slab, minlength=length) for slab in slabs), np.zeros(length, np.intp))

    def numbers(self, name: str) -> list[int]:
        """Numbers in the map of one organ or structure."""
        organ = _organ(name)
        if organ is None and name not in self.table.values():
            close = difflib.get_close_matches(name, [*self.table.values(), *vocabulary().organs], n=3)
            raise LabelError(f'unknown organ or structure "{name}"; closest: {", ".join(close) or "none"}')
        return [
            number
            for number, label in self.table.items()
            if number < len(self._counts) and (label == name or _is_part(_organ(label), organ))
        ]


def organ_map(
    volume: Volume, header_table: Mapping[int, str] | None = None, labels: str | Path | None = None
) -> OrganMap:
    """The organ map of a label volume, numbered by its own header or else as the user says.

    header_table: the label table found in the file, if any. labels: a numbering for ``load_table``. Raises LabelError
    when neither is there, when they disagree about a number in the map, or when the map is empty.
    """
    stated = None if labels is None else load_table(labels)
    named = None if not header_table else _checked(header_table, "the organ map's header")
    if stated is None and named is None:
        choices = ", ".join(NUMBERINGS)
        raise LabelError(
            f"the organ map's header does not say what its numbers mean; choose --labels {choices} or FILE.json"
        )
    organs = OrganMap(volume, named or stated)
    if not volume.array.any():
        raise LabelError("the organ map is empty: every voxel is 0; give the label map that belongs to the CT")
    if stated and named:
        _refuse_disagreement(organs, stated, labels)
    return organs


def _refuse_disagreement(organs: OrganMap, stated: LabelTable, labels: str | Path) -> None:
    for number in map(int, np.flatnonzero(organs._counts)):
        header, argument = organs.table.get(number), stated.get(number)
        if header and argument and header != argument:
            raise LabelError(
                f'the header of the organ map says {number} = "{header}", --labels {labels} says "{argument}"; '
                "leave --labels out, or give the table that matches the map"
            )


def _checked(entries: Mapping[int, str], where: str) -> LabelTable:
    wrong = [
        f"{number!r}: {name!r}" for number, name in entries.items() if not isinstance(name, str) or not name.strip()
    ]
    wrong += [f"{number!r}: {name!r}" for number, name in entries.items() if not 0 <= int(number) <= MAX_LABEL]
    if wrong:
        raise LabelError(f"{where}: expected whole numbers 0..{MAX_LABEL} with names, got {', '.join(wrong[:3])}")
    table = {int(number): _structure_name(name) for number, name in entries.items() if int(number) != 0}
    if not table:
        raise LabelError(f'{where} names no structure; expected entries such as "5": "liver"')
    return table


def _structure_name(name: str) -> str:
    """TotalSegmentator's spelling of an organ, whatever the spelling ("Right kidney"); other names with underscores."""
    organ = _organ(name)
    if organ is not None and len(organ.labels) == 1:
        return organ.labels[0]
    return "_".join(name.replace("-", " ").split())


@functools.cache
def _organ(name: str) -> Organ | None:
    return vocabulary().organs.get(vocabulary().find("organ", name))


def _is_part(part: Organ | None, whole: Organ | None) -> bool:
    return part is not None and whole is not None and set(part.labels) <= set(whole.labels)
