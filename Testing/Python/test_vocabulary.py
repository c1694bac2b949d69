"""The words: complete, unambiguous, forgiving about spelling, and clear when they do not know one."""

from __future__ import annotations

import itertools

import pytest

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.labels import load_table
from LesionDiffusionLib.vocabulary import LESION_TYPE, vocabulary, words

MASK, IMAGE, BOTH = ("mask",), ("image",), ("mask", "image")

# Paper, Fig. 1.
NETWORKS = {
    "shape": MASK,
    "organ type": MASK,
    "lesion location": MASK,
    "organ": BOTH,
    "size": BOTH,
    "relationship with surrounding organs": BOTH,
    "surface characteristics": BOTH,
    "specific features": BOTH,
    "enhancement status": IMAGE,
    "density": IMAGE,
    "density variations": IMAGE,
}

# released-model 8.1: the groups of synonyms, each of which must be one value.
RELEASED_GROUPS = {
    "enhancement status": ["enhanced ct,", "non-contrast ct,"],
    "shape": [
        "round-like", "irregular", "irregular wall thickening|irregular,wall thickening", "punctate|nodular", "cystic",
        "luminal narrowing", "protrusion into the lumen",
    ],
    "density": [
        "hypodense lesion|low density lesion|hypoattenuating lesion|low attenuation lesion",
        "isodense lesion|isoattenuating lesion",
        "hyperdense lesion|high density lesion|hyperattenuating lesion|high attenuation lesion",
        "mixed-density lesion|mixed attenuation lesion",
        "hypoattenuating fluid-like lesion|hypodense fluid-like lesion",
        "isodense soft tissue mass",
        "isodense soft tissue mass with peripheral low-density ground-glass opacity",
        "low-density ground-glass opacity",
        "ring enhancement",
    ],
    "density variations": ["homogeneous", "heterogeneous"],
    "surface characteristics": [
        "well-defined margin", "clear serosal surface", "clear boundary with the renal parenchyma",
        "ill-defined margin", "serosal surface irregularity", "unclear boundary with the renal parenchyma",
        "poorly defined boundary with normal esophageal tissue",
    ],
    "relationship with surrounding organs": [
        "no close relationship with surrounding organs", "close relationship with adjacent organs",
    ],
    "specific features": [
        "presence of decreased density areas|presence of decreased attenuation areas",
        "presence of increased density areas|presence of increased attenuation areas",
        "spiculated margins", "retention of pancreatic fluid", "stone|calculus",
    ],
}  # fmt: skip


def all_terms():
    v = vocabulary()
    return [(name, term) for name, terms in v.terms.items() for term in terms.values()]


def test_eleven_attributes_and_the_networks_that_hear_them():
    assert dict(vocabulary().networks) == NETWORKS
    assert vocabulary().attributes == tuple(NETWORKS)


@pytest.mark.parametrize("attribute", RELEASED_GROUPS)
def test_released_groups_are_our_values(attribute):
    groups = [group.split("|") for group in RELEASED_GROUPS[attribute]]
    named = [{vocabulary().canonical(attribute, text) for text in group} for group in groups]
    assert all(len(names) == 1 for names in named)
    assert [names.pop() for names in named] == list(vocabulary().values(attribute))
    for term in vocabulary().terms[attribute].values():
        assert vocabulary().canonical(attribute, term.released) == term.name


def test_every_spelling_means_one_thing():
    """Within an attribute and across attributes, so that free text is unambiguous."""
    v, meanings = vocabulary(), {}
    for name, term in all_terms():
        for text in (term.name, *term.synonyms):
            assert v.key(text), text
            assert meanings.setdefault(v.key(text), (name, term.name)) == (name, term.name), text


@pytest.mark.parametrize("change", [str.upper, "{},".format, "  {} ".format, lambda t: t.replace("-", " ")])
def test_spelling_does_not_matter(change):
    for name, term in all_terms():
        for text in (term.name, *term.synonyms):
            assert vocabulary().canonical(name, change(text)) == term.name


def test_words_unify_plural_and_british_spelling():
    assert words("Ill-defined tumours, masses; HAEMATOMAS") == ("ill", "defined", "tumor", "mass", "hematoma")
    assert words("calculus pancreas") == ("calculus", "pancreas")  # no plural s


def test_attribute_names_are_forgiving():
    assert vocabulary().attribute("Relationship with adjacent organs") == "relationship with surrounding organs"
    assert vocabulary().attribute("density_variations") == "density variations"


def test_unknown_words_name_the_allowed_ones():
    with pytest.raises(
        ReportError, match=r'unknown shape "rond"; did you mean "round-like"\? allowed: round-like, irr'
    ):
        vocabulary().canonical("shape", "rond")
    with pytest.raises(ReportError, match=r'unknown attribute "colour"; .*allowed: shape, organ type'):
        vocabulary().attribute("colour")
    with pytest.raises(ReportError, match=r'unknown density "q{57}\.\.\."; allowed: hypodense lesion'):
        vocabulary().canonical("density", "q" * 1000)
    assert vocabulary().find("shape", "rond") is None


def test_organs_exist_in_both_numberings():
    v1, v2 = (set(load_table(name).values()) for name in ("totalseg_v1", "totalseg_v2"))
    for organ in vocabulary().organs.values():
        assert set(organ.labels) <= v1 & v2
        assert organ.organ_type in vocabulary().values("organ type")


def test_groups_are_the_union_of_their_parts():
    organs = vocabulary().organs
    groups = [organ for organ in organs.values() if organ.parts]
    assert {organ.name for organ in groups} == {"kidney", "lung", "right lung", "left lung"}
    for group in groups:
        assert sorted(group.labels) == sorted(itertools.chain(*(organs[part].labels for part in group.parts)))
    assert all(len(organ.labels) == 1 for organ in organs.values() if not organ.parts)


def test_hollow_organs():
    hollow = {organ.name for organ in vocabulary().organs.values() if organ.organ_type == "hollow organ"}
    assert hollow == {"gallbladder", "stomach", "colon", "urinary bladder", "esophagus"}


def test_contradictions_name_existing_values_and_are_found():
    for pair in vocabulary().contradictions:
        assert len(pair) == 2
        for attribute, values in pair.items():
            assert set(values) <= set(vocabulary().values(attribute))
    stone = {"specific features": ("stone",), "density": ("hypodense lesion",)}
    assert vocabulary().contradiction(stone) == ("stone", "hypodense lesion")
    assert vocabulary().contradiction(stone | {"density": ("hyperdense lesion",)}) is None


def test_lesion_types_are_named_too():
    assert len(vocabulary().values(LESION_TYPE)) == 15
    assert vocabulary().canonical(LESION_TYPE, "renal cell carcinoma") == "kidney cancer"
