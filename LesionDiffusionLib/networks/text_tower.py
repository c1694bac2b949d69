"""BiomedCLIP's text tower: strings -> vectors (released-model 4.1).

open_clip and transformers are imported when a tower is built: they take seconds that other encoders need not spend.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from LesionDiffusionLib.errors import BundleError

BIOMEDCLIP_HUB_ID = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
CONFIG_FILE, VOCABULARY_FILE, BERT_FILE = "open_clip_config.json", "vocab.txt", "config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4; the common BERT vocabularies differ
LOADING_ERRORS = (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError, pickle.UnpicklingError)

Tokenize = Callable[[str], list[int]]


class TextEncoder(Protocol):
    """Strings in, one vector each out."""

    def encode(self, strings: Sequence[str]) -> Tensor:
        """-> float32 (len(strings), dim)"""
        ...


@dataclass(frozen=True)
class TextTowerConfig:
    """Size of the tower; the defaults are BiomedCLIP's."""

    bert: Mapping[str, Any] = field(default_factory=dict)  # what differs from BERT base, as transformers.BertConfig
    output_dim: int = 512
    context_length: int = 256  # longer strings are cut


def build_text_tower(config: TextTowerConfig) -> nn.Module:
    """open_clip's text tower with random weights: ids (B, L), 0 = padding -> (B, output_dim), not normalized.

    BERT without pooler, the last hidden state of [CLS], then Linear, exact GELU, Linear without biases. The parameter
    names are those behind ``cond_stage_model.model.`` in the released files and behind ``text.`` in BiomedCLIP's own.
    """
    from open_clip.hf_model import HFTextEncoder
    from transformers import BertConfig

    tower = HFTextEncoder(
        "",
        output_dim=config.output_dim,
        config=BertConfig(**config.bert),
        pooler_type="cls_last_hidden_state_pooler",
        proj_type="mlp",
    )
    tower.transformer.pooler = None  # open_clip adds one to a BERT made from a config; BiomedCLIP has none
    return tower.eval().requires_grad_(False)


def load_text_tower(config: TextTowerConfig, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The tower with the given weights; raises ``BundleError`` when a tensor is missing, left over or misshapen."""
    tower = build_text_tower(config)
    tensors = {name: tensor for name, tensor in state_dict.items() if not name.endswith("position_ids")}
    try:
        tower.load_state_dict(tensors)
    except RuntimeError as error:
        raise BundleError(f"the text weights do not fit BiomedCLIP's text tower: {_one_line(error)}") from error
    return tower


def wordpiece_tokenizer(vocabulary: Path, context_length: int = 256) -> Tokenize:
    """String -> token ids without padding: open_clip's cleaning, then uncased BERT WordPiece.

    Raises ``BundleError`` when the file is absent or is not a vocabulary of the BiomedCLIP kind.
    """
    from open_clip.tokenizer import get_clean_fn
    from tokenizers import BertWordPieceTokenizer

    try:
        first = tuple(vocabulary.read_text(encoding="utf-8").split("\n")[: len(SPECIAL_TOKENS)])
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"cannot read the vocabulary {vocabulary} ({error}); it is BiomedCLIP's vocab.txt") from error
    if first != SPECIAL_TOKENS:
        raise BundleError(
            f"{vocabulary} is not BiomedCLIP's vocabulary: it must begin with {' '.join(SPECIAL_TOKENS)}, "
            f"got {' '.join(first)[:60]!r}; take vocab.txt from {BIOMEDCLIP_HUB_ID}"
        )
    clean = get_clean_fn("whitespace")
    wordpiece = BertWordPieceTokenizer(vocab=str(vocabulary), lowercase=True)
    wordpiece.enable_truncation(context_length)
    return lambda string: wordpiece.encode(clean(string)).ids


class BiomedCLIPTextEncoder:
    """A :class:`TextEncoder` made of a text tower and a tokenizer. Every string is encoded once and remembered."""

    def __init__(self, tower: nn.Module, tokenize: Tokenize) -> None:
        self.tower = tower
        self.tokenize = tokenize
        self._cache: dict[str, Tensor] = {}

    @classmethod
    def from_tensors(
        cls, state_dict: Mapping[str, Tensor], vocabulary: Path, config: TextTowerConfig | None = None
    ) -> BiomedCLIPTextEncoder:
        """From the tensors of a bundle and its ``vocab.txt``."""
        config = config or TextTowerConfig()
        return cls(load_text_tower(config, state_dict), wordpiece_tokenizer(vocabulary, config.context_length))

    @classmethod
    def from_folder(cls, folder: Path) -> BiomedCLIPTextEncoder:
        """From a folder in the form of BiomedCLIP's hub page: open_clip_config.json, weights, vocab.txt.

        A ``config.json`` beside them gives the BERT's size where it is not BERT base. Raises ``BundleError``.
        """
        config = _read_config(folder)
        weights = _read_weights(folder)
        text = {name.removeprefix("text."): tensor for name, tensor in weights.items() if name.startswith("text.")}
        return cls.from_tensors(text, folder / VOCABULARY_FILE, config)

    @classmethod
    def from_hub(cls, hub_id: str = BIOMEDCLIP_HUB_ID, allow_download: bool = False) -> BiomedCLIPTextEncoder:
        """From the local Hugging Face cache; only with ``allow_download`` are absent files fetched (784 MB)."""
        from huggingface_hub import hf_hub_download

        repository = hub_id.removeprefix("hf-hub:")
        try:
            files = [
                hf_hub_download(repository, name, local_files_only=not allow_download)
                for name in (CONFIG_FILE, VOCABULARY_FILE, WEIGHT_FILES[-1])
            ]
        except (OSError, ValueError) as error:
            raise BundleError(
                f"the text encoder {hub_id} is not in the local Hugging Face cache and nothing is downloaded unasked "
                f"(allow_download={allow_download}: {_one_line(error)}); allow the download or give a local folder"
            ) from error
        return cls.from_folder(Path(files[0]).parent)

    def encode(self, strings: Sequence[str]) -> Tensor:
        """-> float32 (len(strings), output_dim) on the tower's device.

        Strings pass one by one and without padding, so that a vector never depends on its company in the batch.
        """
        for string in strings:
            if string not in self._cache:
                self._cache[string] = self._encode_one(string)
        device = next(self.tower.parameters()).device
        vectors = [self._cache[string].to(device) for string in strings]
        return torch.stack(vectors) if vectors else torch.empty(0, self.tower.output_dim, device=device)

    def forget(self) -> None:
        """Encode every string anew from now on."""
        self._cache.clear()

    @torch.no_grad()
    def _encode_one(self, string: str) -> Tensor:
        device = next(self.tower.parameters()).device
        with torch.autocast(device.type, enabled=False):  # it is kept, and must not depend on who asked first
            return self.tower(torch.tensor([self.tokenize(string)], device=device))[0].float()


def _read_config(folder: Path) -> TextTowerConfig:
    model = _read_json(folder / CONFIG_FILE).get("model_cfg", {})
    text = model.get("text_cfg", {})
    form = (text.get("hf_proj_type"), text.get("hf_pooler_type"))
    if form != ("mlp", "cls_last_hidden_state_pooler"):
        raise BundleError(
            f"{folder / CONFIG_FILE} describes no tower of BiomedCLIP's form: expected hf_proj_type mlp and "
            f"hf_pooler_type cls_last_hidden_state_pooler, got {form[0]} and {form[1]}"
        )
    bert = _read_json(folder / BERT_FILE) if (folder / BERT_FILE).exists() else {}
    return TextTowerConfig(bert, model.get("embed_dim", 512), text.get("context_length", 256))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {path} ({error}); expected the files of {BIOMEDCLIP_HUB_ID}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if path is None:
        raise BundleError(f"no weights in {folder}: expected {' or '.join(WEIGHT_FILES)} of {BIOMEDCLIP_HUB_ID}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (*LOADING_ERRORS, SafetensorError) as error:
        raise BundleError(f"{path} is damaged or no plain weight file: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
