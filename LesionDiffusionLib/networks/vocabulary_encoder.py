"""A small text encoder that knows a list of phrases and sizes, trained together with its networks, fully offline."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SIZE_PATTERN = re.compile(r"([\d.]+) ?x ?([\d.]+) ?x ?([\d.]+) ?mm")
SIZE_FREQUENCIES = 6
LARGEST_MM = 512.0  # half a period of the slowest wave spans 1 mm to this


class VocabularyEncoder(nn.Module):
    """Strings in, one learned vector each out.

    A known phrase (any case, blanks and a trailing comma ignored) has its own vector. "12x10x14 mm" becomes a small
    function of the three extents. "" is the learned null vector, also used for padding and as the unconditional text
    of guidance. Any other string is the mean over its known words, where a word is the mean of the phrases that hold
    it; without a known word it is the null vector. ``unknown`` names these strings, so that a caller can report them.
    """

    def __init__(self, phrases: Sequence[str], dim: int = 512, size_width: int = 128) -> None:
        super().__init__()
        self.phrases = tuple(phrases)
        self._rows = {_normalized(phrase): row for row, phrase in enumerate(self.phrases, start=1)}
        if len(self._rows) != len(self.phrases) or "" in self._rows:
            raise ValueError("VocabularyEncoder needs distinct, non-empty phrases (case and commas do not count)")
        self._word_rows: dict[str, list[int]] = {}
        for phrase, row in self._rows.items():
            for word in set(_words(phrase)):
                self._word_rows.setdefault(word, []).append(row)
        self.embedding = nn.Embedding(1 + len(self.phrases), dim)  # row 0: null
        self.size_mlp = nn.Sequential(
            nn.Linear(6 * SIZE_FREQUENCIES, size_width), nn.SiLU(), nn.Linear(size_width, dim)
        )

    @property
    def dim(self) -> int:
        return self.embedding.embedding_dim

    def encode(self, strings: Sequence[str]) -> Tensor:
        """-> (len(strings), dim)"""
        vectors = [self._vector(_normalized(string)) for string in strings]
        return torch.stack(vectors) if vectors else self.embedding.weight.new_empty(0, self.dim)

    def encode_batch(self, string_lists: Sequence[Sequence[str]]) -> Tensor:
        """-> (B, n, dim), n the length of the longest list; shorter ones are padded with the null vector."""
        longest = max((len(strings) for strings in string_lists), default=0)
        return torch.stack([self.encode([*strings, *[""] * (longest - len(strings))]) for strings in string_lists])

    def forward(self, string_lists: Sequence[Sequence[str]]) -> Tensor:
        """As :meth:`encode_batch`."""
        return self.encode_batch(string_lists)

    def unknown(self, strings: Sequence[str]) -> list[str]:
        """Those strings that are neither a known phrase nor a size nor empty, in order."""
        return [string for string in strings if not self._knows(_normalized(string))]

    def _knows(self, string: str) -> bool:
        return not string or string in self._rows or _parse_size_mm(string) is not None

    def _vector(self, string: str) -> Tensor:
        if string in self._rows:
            return self.embedding.weight[self._rows[string]]
        size_mm = _parse_size_mm(string)
        if size_mm is not None:
            return self.size_mlp(_size_features(size_mm).to(self.embedding.weight))
        words = [self.embedding.weight[self._word_rows[word]].mean(dim=0) for word in self._known_words(string)]
        return torch.stack(words).mean(dim=0) if words else self.embedding.weight[0]

    def _known_words(self, string: str) -> list[str]:
        return [word for word in _words(string) if word in self._word_rows]


def _normalized(string: str) -> str:
    return " ".join(string.lower().split()).strip(" ,")


def _words(string: str) -> list[str]:
    return re.findall(r"\w+", string)


def _parse_size_mm(string: str) -> tuple[float, ...] | None:
    match = SIZE_PATTERN.fullmatch(string)
    if match is None:
        return None
    try:
        size_mm = tuple(float(extent) for extent in match.groups())
    except ValueError:  # such as "1.2.3"
        return None
    return size_mm if all(extent > 0 for extent in size_mm) else None


def _size_features(size_mm: tuple[float, ...]) -> Tensor:
    """Sines and cosines of the logarithm of each extent -> (6 * SIZE_FREQUENCIES,)."""
    slowest = math.pi / math.log(LARGEST_MM)
    angles = torch.tensor(size_mm).log()[:, None] * slowest * 2.0 ** torch.arange(SIZE_FREQUENCIES)
    return torch.cat([angles.sin(), angles.cos()], dim=1).flatten()
