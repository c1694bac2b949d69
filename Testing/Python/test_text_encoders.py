"""Text encoders: BiomedCLIP's tower at a tiny size, its tokenizer, and the offline vocabulary encoder."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from LesionDiffusionLib.errors import BundleError
from LesionDiffusionLib.networks.text_tower import (
    SPECIAL_TOKENS,
    BiomedCLIPTextEncoder,
    TextTowerConfig,
    build_text_tower,
    load_text_tower,
    wordpiece_tokenizer,
)
from LesionDiffusionLib.networks.vocabulary_encoder import VocabularyEncoder

WORDS = ("liver", "cyst", "ct", "enhanced", "hypo", "##den", "##se", ",", "&", "spaces", "-", "non", "contrast")
BERT = {
    "vocab_size": len(SPECIAL_TOKENS) + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
CONFIG = TextTowerConfig(BERT, output_dim=16, context_length=8)


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return build_text_tower(CONFIG)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, *WORDS]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path, tower, vocabulary):
    """A tiny model with the files of BiomedCLIP's hub page."""
    text = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 8}
    config = {"model_cfg": {"embed_dim": 16, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps(BERT | {"model_type": "bert"}))
    weights = {f"text.{name}": tensor for name, tensor in tower.state_dict().items()}
    weights |= {"visual.anything": torch.zeros(3), "text.transformer.embeddings.position_ids": torch.arange(64)[None]}
    torch.save(weights, tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path


def ids(*tokens: str) -> list[int]:
    return [[*SPECIAL_TOKENS, *WORDS].index(token) for token in ("[CLS]", *tokens, "[SEP]")]


@pytest.mark.shared
def test_tower_names_and_shapes_are_the_released_ones(shared):
    released = json.loads((shared / "reference/released-state-dict.json").read_text())["models"]["LMNet"]["tensors"]
    prefix = "cond_stage_model.model."
    expected = {name.removeprefix(prefix): spec[0] for name, spec in released.items() if name.startswith(prefix)}
    actual = {name: list(tensor.shape) for name, tensor in build_text_tower(TextTowerConfig()).state_dict().items()}
    assert actual == expected


def test_padding_and_batching_do_not_change_a_vector(tower):
    short, long = torch.tensor([[2, 5, 3]]), torch.tensor([[2, 7, 8, 9, 6, 3]])
    padded = torch.cat([torch.nn.functional.pad(short, (0, 3)), long])
    torch.testing.assert_close(tower(padded), torch.cat([tower(short), tower(long)]), atol=1e-5, rtol=1e-5)


def test_tower_is_the_first_token_through_a_bias_free_mlp_without_normalization(tower):
    tokens = torch.tensor([[2, 5, 6, 3]])
    hidden = tower.transformer(input_ids=tokens).last_hidden_state[:, 0]
    weights = tower.state_dict()
    inner = torch.nn.functional.gelu(hidden @ weights["proj.0.weight"].T)
    torch.testing.assert_close(tower(tokens), inner @ weights["proj.2.weight"].T)
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_tower_loads_strictly_but_ignores_position_ids(tower):
    weights = tower.state_dict()
    loaded = load_text_tower(CONFIG, weights | {"transformer.embeddings.position_ids": torch.arange(64)[None]})
    tokens = torch.tensor([[2, 5, 3]])
    assert torch.equal(loaded(tokens), tower(tokens))
    del weights["proj.2.weight"]
    with pytest.raises(BundleError, match=r"do not fit BiomedCLIP's text tower: .*proj.2.weight"):
        load_text_tower(CONFIG, weights)


@pytest.mark.parametrize(
    ("string", "tokens"),
    [
        ("", ()),
        ("Liver", ("liver",)),
        ("enhanced CT,", ("enhanced", "ct", ",")),
        ("non-contrast ct", ("non", "-", "contrast", "ct")),
        ("hypodense", ("hypo", "##den", "##se")),
        ("  liver \n\t cyst ", ("liver", "cyst")),
        ("spaces &amp;amp; cyst", ("spaces", "&", "cyst")),
        ("l\u00edver", ("liver",)),
        ("kidney", ("[UNK]",)),
        ("liver " * 20, ("liver",) * 6),
    ],
)
def test_tokenizer(vocabulary, string, tokens):
    assert wordpiece_tokenizer(vocabulary, context_length=8)(string) == ids(*tokens)


@pytest.mark.shared
def test_tokenizer_gives_the_recorded_ids_of_strings_whose_words_are_single_tokens(shared, tmp_path):
    """A vocabulary pieced together from the record: one line per word where words and ids correspond one to one."""
    record = json.loads((shared / "reference/parity/tokens_biomedclip.json").read_text())
    lines = [*SPECIAL_TOKENS, *(f"[unused{i}]" for i in range(len(SPECIAL_TOKENS), record["vocab_size"]))]
    certain = {}
    for string, tokens in record["tokens"].items():
        words = re.findall(r"\w+|[^\w\s]", string.lower().replace("&amp;", "&"))
        if len(words) == len(tokens) - 2:
            certain[string] = tokens
            for word, token in zip(words, tokens[1:-1], strict=True):
                lines[token] = word
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(lines), encoding="utf-8")
    tokenize = wordpiece_tokenizer(vocabulary)
    assert len(certain) > 30
    assert {string: tokenize(string) for string in certain} == certain


def test_encoder_from_folder_gives_the_towers_vectors(folder, tower):
    encoder = BiomedCLIPTextEncoder.from_folder(folder)
    vectors = encoder.encode(["liver cyst", "", "Liver  cyst"])
    assert vectors.shape == (3, 16)
    assert torch.equal(vectors[0], tower(torch.tensor([ids("liver", "cyst")]))[0])
    assert torch.equal(vectors[1], tower(torch.tensor([ids()]))[0])
    assert torch.equal(vectors[0], vectors[2])
    assert encoder.encode([]).shape == (0, 16)


def test_encoder_reads_safetensors_too(folder, tower):
    (folder / "open_clip_pytorch_model.bin").unlink()
    save_file(
        {f"text.{n}": t.contiguous() for n, t in tower.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    vector = BiomedCLIPTextEncoder.from_folder(folder).encode(["cyst"])
    assert torch.equal(vector, tower(torch.tensor([ids("cyst")])))


def test_every_string_is_encoded_once_and_independently_of_its_company(tower, vocabulary):
    asked = []

    class CountingTower(torch.nn.Module):
        output_dim = 16

        def __init__(self):
            super().__init__()
            self.inner = tower

        def forward(self, tokens):
            asked.append(tokens.shape)
            return self.inner(tokens)

    encoder = BiomedCLIPTextEncoder(CountingTower(), wordpiece_tokenizer(vocabulary))
    together = encoder.encode(["liver", "liver cyst", "liver"])
    assert asked == [(1, 3), (1, 4)]
    assert torch.equal(encoder.encode(["liver cyst"])[0], together[1])
    assert len(asked) == 2


def test_encoder_from_tensors_of_a_bundle(tower, vocabulary):
    encoder = BiomedCLIPTextEncoder.from_tensors(tower.state_dict(), vocabulary, CONFIG)
    assert torch.equal(encoder.encode(["cyst"]), tower(torch.tensor([ids("cyst")])))


def test_nothing_is_downloaded_unasked(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def hub(repository, name, *, local_files_only):
        assert repository == "microsoft/some-model"
        assert local_files_only
        raise LocalEntryNotFoundError("not\ncached")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    with pytest.raises(BundleError, match=r"not in the local Hugging Face cache .*not cached\); allow the download or"):
        BiomedCLIPTextEncoder.from_hub("hf-hub:microsoft/some-model")


def test_files_in_the_hub_cache_are_used(monkeypatch, folder):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name, local_files_only: str(folder / name))
    assert BiomedCLIPTextEncoder.from_hub().encode(["liver"]).shape == (1, 16)


def break_file(name, content):
    def damage(folder):
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            break_file("open_clip_config.json", None),
            r"cannot read .*open_clip_config.json .*expected the files of hf-hub",
        ),
        (break_file("open_clip_config.json", b"{"), r"cannot read .*open_clip_config.json"),
        (break_file("open_clip_config.json", b"[]"), r"must hold a JSON object, got list"),
        (break_file("open_clip_config.json", b"{}"), r"no tower of BiomedCLIP's form: .* got None and None"),
        (break_file("open_clip_pytorch_model.bin", None), r"no weights in .*: expected open_clip_model.safetensors or"),
        (break_file("open_clip_pytorch_model.bin", b"PK\x03\x04 cut"), "is damaged or no plain weight file"),
        (
            break_file("open_clip_pytorch_model.bin", b"cos\nsystem\n(S'true'\ntR."),
            "is damaged or no plain weight file",
        ),
        (break_file("open_clip_pytorch_model.bin", b""), "is damaged or no plain weight file"),
        (break_file("vocab.txt", None), r"cannot read the vocabulary .*vocab.txt"),
        (break_file("vocab.txt", b"[PAD]\n[unused0]\n"), r"is not BiomedCLIP's vocabulary: it must begin with \[PAD\]"),
        (break_file("vocab.txt", b"\xff\xfe\xfa"), r"cannot read the vocabulary"),
    ],
)
def test_damaged_folders_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(BundleError, match=message) as caught:
        BiomedCLIPTextEncoder.from_folder(folder)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- vocabulary encoder

PHRASES = ("liver", "kidney right", "hypodense lesion", "hyperdense lesion", "enhanced CT,")


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return VocabularyEncoder(PHRASES, dim=12)


def test_known_phrases_have_their_own_vectors_whatever_their_spelling(encoder):
    vectors = encoder.encode(["liver", "  LIVER,", "Kidney \t right", "enhanced ct"])
    rows = encoder.embedding.weight
    assert torch.equal(vectors, rows[torch.tensor([1, 1, 2, 5])])


def test_empty_and_hopeless_strings_are_the_null_vector(encoder):
    assert torch.equal(encoder.encode(["", " , ", "spiculated"]), encoder.embedding.weight[:1].expand(3, -1))


def test_an_unknown_string_is_the_mean_of_its_known_words(encoder):
    rows = encoder.embedding.weight
    lesion = rows[3:5].mean(dim=0)
    (vector,) = encoder.encode(["spiculated lesion of the liver"])
    torch.testing.assert_close(vector, (lesion + rows[1]) / 2)


def test_unknown_strings_are_named(encoder):
    strings = ["liver", "", "12x10x14 mm", "spiculated", "12x10 mm", "Hypodense lesion, ", "liver lesion", "0x1x1 mm"]
    assert encoder.unknown(strings) == ["spiculated", "12x10 mm", "liver lesion", "0x1x1 mm"]


def test_sizes_are_read_in_any_spelling_and_their_order_counts(encoder):
    a, b, c, d = encoder.encode(["12x10x14 mm", "12.0 x 10 X 14.00mm,", "14x10x12 mm", "12x10x14.5 mm"])
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    assert not torch.allclose(a, d)
    assert (a - d).abs().max() < (a - c).abs().max()


@pytest.mark.parametrize("size", ["1.2.3x1x1 mm", "..x1x1 mm", "0x1x1 mm", "-1x1x1 mm"])
def test_what_is_no_size_is_unknown(encoder, size):
    assert encoder.unknown([size]) == [size]
    assert encoder.encode([size]).isfinite().all()


def test_batches_are_padded_with_the_null_vector(encoder):
    batch = encoder([["liver", "5x5x5 mm"], [], ["kidney right"]])
    assert batch.shape == (3, 2, 12)
    assert torch.equal(batch[1], encoder.embedding.weight[:1].expand(2, -1))
    assert torch.equal(batch[2], encoder.encode(["kidney right", ""]))
    assert encoder.encode([]).shape == (0, 12)


def test_gradients_reach_the_table_and_the_size_network(encoder):
    encoder([["liver", "5x6x7 mm", "", "right lesion"]]).sum().backward()
    touched = encoder.embedding.weight.grad.abs().sum(dim=1) > 0
    assert touched.tolist() == [True, True, True, True, True, False]
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.size_mlp.parameters())


def test_a_saved_encoder_comes_back_the_same(encoder, tmp_path):
    save_file(encoder.state_dict(), tmp_path / "text.safetensors")
    from safetensors.torch import load_file

    copy = VocabularyEncoder(PHRASES, dim=12)
    copy.load_state_dict(load_file(tmp_path / "text.safetensors"))
    strings = ["liver", "", "3x4x5 mm", "lesion"]
    assert torch.equal(copy.encode(strings), encoder.encode(strings))


@pytest.mark.parametrize("phrases", [("liver", "Liver,"), ("liver", ""), ("liver", " ,")])
def test_phrases_must_be_distinct_and_say_something(phrases):
    with pytest.raises(ValueError, match="distinct, non-empty phrases"):
        VocabularyEncoder(phrases)
