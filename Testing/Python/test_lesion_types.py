"""The lesion types as data, and the random draw: complete, consistent, reproducible, and obedient."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.lesion_types import all_lesion_types, checks, draw_report, lesion_type
from LesionDiffusionLib.report import FIELDS, LesionReport, region_rule
from LesionDiffusionLib.vocabulary import vocabulary

TYPES = all_lesion_types()
every_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
SINGLE_ORGANS = [organ.name for organ in vocabulary().organs.values() if not organ.parts]


def split(text):
    return () if text == "none" else tuple(text.split(", "))


def test_the_papers_fourteen_and_the_unseen_one():
    cancers = ("esophageal", "gallbladder", "lung", "liver", "pancreas", "kidney", "stomach", "colon", "bladder")
    named = ["gallstone", "kidney stone", "liver cyst", "pancreas cyst", "kidney cyst"]
    named += [f"{organ} cancer" for organ in cancers] + ["intracranial haemorrhage"]
    assert [kind.name for kind in TYPES] == named


@every_type
def test_data_uses_only_words_of_the_vocabulary(kind):
    assert set(kind.organs) <= set(SINGLE_ORGANS)
    assert kind.occurs_in(kind.organ)
    assert kind.family in vocabulary().families.values()
    assert set(kind.weights) == set(vocabulary().attributes) - {"organ", "organ type", "size"}
    for attribute, weights in kind.weights.items():
        values = [value for text in weights for value in split(text)]
        assert set(values) <= set(vocabulary().values(attribute))
        assert all(weight > 0 for weight in weights.values())
    assert all(weight > 0 for weight in kind.organs.values())
    assert kind.source


@every_type
def test_sizes_are_ordered(kind):
    size = kind.size_mm
    assert 0 < size.min <= size.low < size.high <= size.max
    assert 0 < kind.aspect_ratio[0] <= kind.aspect_ratio[1] <= 1
    assert sum(kind.longest_axis) > 0
    assert min(kind.longest_axis) >= 0


@every_type
def test_every_choice_can_be_completed_without_contradiction(kind):
    """No draw can come to a dead end: any consistent start has a consistent next value."""
    for organ in kind.organs:
        starts = [{"organ type": (vocabulary().organs[organ].organ_type,)}]
        for attribute in kind.weights:
            extended = []
            for start in starts:
                nexts = [start | {attribute: split(text)} for text in kind.weights[attribute]]
                consistent = [stated for stated in nexts if vocabulary().contradiction(stated) is None]
                assert consistent, (start, attribute)
                extended += consistent
            starts = extended


@every_type
def test_draws_are_complete_consistent_and_plausible(kind, generator):
    for _ in range(50):
        report = draw_report(kind, generator)
        assert all(report.stated(name) for name in FIELDS if name != "specific features")
        assert report.specific_features is not None, "drawn: some or none"
        assert report.organ in kind.organs
        assert checks(report) == []
        assert region_rule(report)
        assert all(extent == round(extent) >= 1 for extent in report.size_mm)
        assert kind.size_mm.low - 0.5 <= max(report.size_mm) <= kind.size_mm.high + 0.5


def test_stones_are_hyperdense_and_lie_inside(generator):
    for name in ("gallstone", "kidney stone"):
        report = draw_report(lesion_type(name), generator)
        assert (report.density, report.specific_features) == ("hyperdense lesion", ("stone",))
        assert report.lesion_location == "inside organ"


@every_type
def test_same_seed_same_report(kind):
    draws = [draw_report(kind, np.random.default_rng(seed)) for seed in (4, 4, 5, 6, 7)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


@pytest.mark.parametrize(("attribute", "field"), FIELDS.items())
def test_given_values_change_nothing_else(attribute, field):
    kind = lesion_type("kidney cancer")
    values = {"size": "33x22x11", "organ": "stomach"}.get(attribute) or vocabulary().values(attribute)[-1]
    given = LesionReport.from_attributes({attribute: values})
    follows = {"organ_type"} if field == "organ" else set()
    for seed in range(20):
        free = draw_report(kind, np.random.default_rng(seed))
        bound = draw_report(kind, np.random.default_rng(seed), given=given)
        assert getattr(bound, field) == getattr(given, field)
        changed = {f.name for f in dataclasses.fields(free) if getattr(free, f.name) != getattr(bound, f.name)}
        assert changed <= {field} | follows


def test_draws_use_the_same_number_of_random_numbers():
    """So that what follows in a pipeline (the box, the noise) is the same in a same-seed pair."""
    states = []
    for kind, given in itertools.product(TYPES, (None, LesionReport(shape="irregular"))):
        generator = np.random.default_rng(0)
        draw_report(kind, generator, given=given)
        states.append(generator.random())
    assert len(set(states)) == 1


def test_given_organ_sets_the_organ_type(generator):
    report = draw_report(lesion_type("liver cyst"), generator, given=LesionReport(organ="stomach"))
    assert report.organ_type == "hollow organ"
    assert checks(report)


def test_only_organs_present_are_drawn():
    kind = lesion_type("kidney cyst")
    for seed in range(10):
        assert draw_report(kind, np.random.default_rng(seed), ["liver", "left kidney"]).organ == "left kidney"


def test_presence_of_other_organs_changes_no_other_attribute():
    kind = lesion_type("lung cancer")
    for seed in range(10):
        free = draw_report(kind, np.random.default_rng(seed))
        bound = draw_report(kind, np.random.default_rng(seed), ["left lower lung lobe"])
        assert dataclasses.replace(free, organ=bound.organ) == bound


def test_absent_organs_are_named(generator):
    with pytest.raises(
        ReportError, match="liver cyst occurs in liver; none is in the organ map \\(present: brain, spleen\\)"
    ):
        draw_report(lesion_type("liver cyst"), generator, ["spleen", "brain"])
    with pytest.raises(ReportError, match="present: none"):
        draw_report(lesion_type("liver cyst"), generator, [])
    with pytest.raises(ReportError, match='the organ map has no "brain"; present: spleen'):
        draw_report(lesion_type("liver cyst"), generator, ["spleen"], LesionReport(organ="brain"))


def test_a_given_present_organ_is_kept_even_if_unusual(generator):
    report = draw_report(lesion_type("liver cyst"), generator, ["spleen"], LesionReport(organ="spleen"))
    assert report.organ == "spleen"
    assert checks(report) == ["liver cyst does not occur in the spleen; usual: liver"]


def test_weights_are_frequencies(generator):
    kind = lesion_type("lung cancer")
    organs = [draw_report(kind, generator).organ for _ in range(2000)]
    for organ, weight in kind.organs.items():
        expected = weight / sum(kind.organs.values())
        assert organs.count(organ) / 2000 == pytest.approx(expected, abs=4 * np.sqrt(expected / 2000))


def test_longest_extent_is_log_uniform_and_axis_weighted(generator):
    kind = lesion_type("pancreas cancer")
    sizes = np.array([draw_report(kind, generator).size_mm for _ in range(2000)])
    assert np.median(sizes.max(1)) == pytest.approx(np.sqrt(kind.size_mm.low * kind.size_mm.high), rel=0.06)
    x_longest = np.mean(sizes[:, 0] == sizes.max(1))
    assert x_longest > 0.5  # weight 2 of 4, and ties after rounding
    esophageal = np.array([draw_report(lesion_type("esophageal cancer"), generator).size_mm for _ in range(50)])
    assert (esophageal.argmax(1) == 2).all()


def test_names_and_synonyms():
    for kind in TYPES:
        for text in (kind.name, *vocabulary().terms["lesion type"][kind.name].synonyms):
            assert lesion_type(text) is kind
    assert lesion_type("Renal Tumours").name == "kidney cancer"
    assert lesion_type("intracranial hemorrhage").name == "intracranial haemorrhage"
    with pytest.raises(ReportError, match='unknown lesion type "liver cist"; did you mean "liver cyst"'):
        lesion_type("liver cist")


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        (["organ=pancreas"], "liver cyst does not occur in the pancreas; usual: liver"),
        (["density=hyperdense"], 'density "hyperdense lesion" is unusual for liver cyst; usual: hypoattenuating fluid'),
        (["specific features=stone"], 'specific features "stone" is unusual for liver cyst; usual: none'),
        (["size=3"], "size 3x3x3 mm is unusual for liver cyst; longest extent: 4 to 180 mm"),
        (["size=500x4x4"], "size 500x4x4 mm is unusual"),
        (["specific features=stone", "density=hypodense"], '"stone" and "hypodense lesion" contradict each other'),
        (["organ type=hollow organ"], 'the liver is not a "hollow organ"'),
    ],
)
def test_checks_warn(settings, warning, generator):
    report = draw_report(lesion_type("liver cyst"), generator)
    assert checks(report) == []
    assert any(found.startswith(warning) for found in checks(report.with_values(settings)))


def test_nothing_stated_is_nothing_strange():
    assert checks(LesionReport()) == []
    assert checks(LesionReport(lesion_type="kidney cyst", organ="kidney")) == []


def test_none_can_be_stated_and_is_kept():
    """A cancer without any feature, where the draw would have given it some."""
    kind = lesion_type("liver cancer")
    seed = next(s for s in range(50) if draw_report(kind, np.random.default_rng(s)).features)
    given = LesionReport().with_values(["specific features=none"])
    report = draw_report(kind, np.random.default_rng(seed), given=given)
    assert report.specific_features == ()
    assert LesionReport.from_json(report.to_json()) == report
