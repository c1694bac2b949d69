"""The lesion types as data, and the random draw: complete, consistent, reproducible, and obedient."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.lesion_types import (
    all_lesion_types,
    checks,
    draw_report,
    draw_size,
    fitting_types,
    lesion_type,
)
from LesionDiffusionLib.report import FIELDS, LesionReport, region_rule
from LesionDiffusionLib.resources import resource_path
from LesionDiffusionLib.vocabulary import vocabulary

TYPES = all_lesion_types()
every_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
SINGLE_ORGANS = [organ.name for organ in vocabulary().organs.values() if not organ.parts]
VALUES = {name: vocabulary().values(name) or ("33x22x11 mm",) for name in FIELDS}
VALUES["specific features"] += ("none",)


def split(text):
    return () if text == "none" else tuple(text.split(", "))


def stating(*settings):
    return LesionReport().with_values(settings)


def told(report):
    return {name: report.stated(name) for name in FIELDS}


def draws(kind, count, given=None):
    generator = np.random.default_rng(11)
    return [draw_report(kind, generator, given=given) for _ in range(count)]


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
    reports = [draw_report(kind, np.random.default_rng(seed)) for seed in (4, 4, 5, 6, 7)]
    assert reports[0] == reports[1]
    assert len(set(reports)) > 1


@every_type
def test_a_given_value_changes_only_what_contradicts_it(kind):
    """For every value: it is kept, what else differs from the free draw contradicts it, and no contradiction is drawn.

    One can only remain between the given value and the organ type, which follows from the organ: a liver cancer that is
    asked to be a wall thickening.
    """
    singles = [(name, LesionReport.from_attributes({name: text})) for name, texts in VALUES.items() for text in texts]
    for seed, (attribute, given) in itertools.product(range(3), singles):
        free = draw_report(kind, np.random.default_rng(seed))
        bound = draw_report(kind, np.random.default_rng(seed), given=given)
        known = {"organ type": bound.stated("organ type"), attribute: given.stated(attribute)}
        assert bound.stated(attribute) == given.stated(attribute)
        for name in FIELDS:
            if name not in known and bound.stated(name) != free.stated(name):
                assert vocabulary().contradiction({**known, name: free.stated(name)}), (attribute, given, name)
        report = told(bound)
        if vocabulary().contradiction(known):
            del report["organ type"]
        assert vocabulary().contradiction(report) is None, (attribute, given)
        assert attribute in ("organ", "organ type") or bound.organ_type == free.organ_type


@pytest.mark.parametrize(
    ("kind", "setting", "avoided"),
    [
        ("lung cancer", "surface=well-defined margin", "spiculated margins"),
        ("kidney cancer", "density variations=homogeneous", "mixed-density lesion"),
        ("kidney cancer", "density variations=homogeneous", "presence of decreased density areas"),
        ("liver cancer", "enhancement status=non-contrast CT", "ring enhancement"),
        ("gallstone", "density=hypodense lesion", "stone"),
        ("colon cancer", "organ=liver", "irregular wall thickening"),
    ],
)
def test_what_is_stated_or_measured_is_not_contradicted(kind, setting, avoided):
    kind = lesion_type(kind)
    values = [value for report in draws(kind, 100) for name in FIELDS for value in report.stated(name)]
    assert avoided in values, "a free draw has it, so the check can fail"
    for report in draws(kind, 100, stating(setting)):
        assert avoided not in itertools.chain(*told(report).values())
        assert vocabulary().contradiction(told(report)) is None


def test_several_given_values_that_agree_are_never_contradicted(generator):
    """Random choices of values, asked of every type and of none; the organ type is stated by the organ."""
    for kind in (*TYPES, None):
        for _ in range(15):
            organ = generator.choice(list(kind.organs) if kind else SINGLE_ORGANS)
            chosen = {name: str(generator.choice(VALUES[name])) for name in FIELDS if generator.random() < 0.4}
            given = LesionReport.from_attributes(
                chosen | {"organ": organ, "organ type": vocabulary().organ(organ).organ_type}
            )
            report = draw_report(kind, generator, given=given)
            assert (vocabulary().contradiction(told(report)) is None) == (
                vocabulary().contradiction(told(given)) is None
            )
            assert {name: report.stated(name) for name in given.attributes()} == {
                name: given.stated(name) for name in given.attributes()
            }


def test_a_contradiction_that_is_given_stays_and_is_told(generator):
    given = stating("specific features=stone", "density=ring enhancement")
    for kind in TYPES:
        report = draw_report(kind, generator, given=given)
        assert (report.features, report.density) == (("stone",), "ring enhancement")
        assert '"stone" and "ring enhancement" contradict each other' in checks(report)
        rest = {name: values for name, values in told(report).items() if name != "density"}
        assert vocabulary().contradiction(rest) is None


def test_values_drawn_again_keep_their_proportions():
    """Homogeneous kidney cancers: the densities that can be homogeneous, in the proportions of the data."""
    kind, count = lesion_type("kidney cancer"), 1000
    drawn = [report.density for report in draws(kind, count, stating("density variations=homogeneous"))]
    weights = {k: w for k, w in kind.weights["density"].items() if k != "mixed-density lesion"}
    assert set(drawn) == set(weights)
    for value, weight in weights.items():
        expected = weight / sum(weights.values())
        assert drawn.count(value) / count == pytest.approx(expected, abs=4 * np.sqrt(expected / count))


def test_draws_use_the_same_number_of_random_numbers():
    """So that what follows in a pipeline (the box, the noise) is the same in a same-seed pair."""
    states = []
    organ = LesionReport(organ="liver")
    for kind, given in itertools.product((*TYPES, None), (organ, dataclasses.replace(organ, shape="irregular"))):
        generator = np.random.default_rng(0)
        draw_report(kind, generator, given=given)
        states.append(generator.random())
    assert len(set(states)) == 1
    states = []
    for kind in (*TYPES, None):
        generator = np.random.default_rng(0)
        draw_size(kind, generator)
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
    sizes = np.array([draw_size(kind, generator) for _ in range(2000)])
    assert np.median(sizes.max(1)) == pytest.approx(np.sqrt(kind.size_mm.low * kind.size_mm.high), rel=0.06)
    x_longest = np.mean(sizes[:, 0] == sizes.max(1))
    assert x_longest > 0.5  # weight 2 of 4, and ties after rounding
    esophageal = np.array([draw_size(lesion_type("esophageal cancer"), generator) for _ in range(50)])
    assert (esophageal.argmax(1) == 2).all()


def test_the_size_of_a_report_is_a_drawn_size():
    """Same medians as draw_size alone, and a given size wins."""
    kind = lesion_type("liver cyst")
    alone = np.array([draw_size(kind, np.random.default_rng(seed)) for seed in range(500)])
    reported = np.array([report.size_mm for report in draws(kind, 500)])
    assert np.median(alone.max(1)) == pytest.approx(np.median(reported.max(1)), rel=0.15)
    assert draw_report(kind, np.random.default_rng(0), given=stating("size=3x4x5")).size_mm == (3, 4, 5)


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
        (["specific features=none", "organ=pancreas"], "liver cyst does not occur in the pancreas"),
    ],
)
def test_checks_warn(settings, warning, generator):
    report = draw_report(lesion_type("liver cyst"), generator)
    assert checks(report) == []
    assert any(found.startswith(warning) for found in checks(report.with_values(settings)))


def test_nothing_stated_is_nothing_strange():
    assert checks(LesionReport()) == []
    assert checks(LesionReport(lesion_type="kidney cyst", organ="kidney")) == []
    assert checks(LesionReport(lesion_type="kidney cyst", organ_type="parenchymal organ")) == []


def test_a_stone_that_is_stated_to_be_none_and_a_cyst_in_a_hollow_organ():
    (warning,) = checks(LesionReport(lesion_type="gallstone", specific_features=()))
    assert warning == 'specific features "none" is unusual for gallstone; usual: stone'
    (warning,) = checks(LesionReport(lesion_type="liver cyst", organ_type="hollow organ"))
    assert warning == "liver cyst does not occur in a hollow organ; usual: liver"


def test_none_can_be_stated_and_is_kept():
    """A cancer without any feature, where the draw would have given it some."""
    kind = lesion_type("liver cancer")
    seed = next(s for s in range(50) if draw_report(kind, np.random.default_rng(s)).features)
    given = LesionReport().with_values(["specific features=none"])
    report = draw_report(kind, np.random.default_rng(seed), given=given)
    assert report.specific_features == ()
    assert LesionReport.from_json(report.to_json()) == report


def names(kinds):
    return [kind.name for kind in kinds]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["organ=liver", "density=hyperdense", "shape=irregular"], ["liver cancer"]),
        (["organ=liver", "density=fluid-like lesion"], ["liver cyst"]),
        (["organ=liver"], ["liver cyst", "liver cancer"]),
        (["organ=kidney", "specific features=stone"], ["kidney stone"]),
        (["organ=right kidney", "specific features=none", "density=hyperdense"], ["kidney cancer"]),
        (["organ=liver", "size=190"], ["liver cancer"]),
        (["shape=luminal narrowing"], ["esophageal cancer", "stomach cancer", "colon cancer"]),
        (["organ type=hollow organ", "density=hyperdense", "surface=well-defined"], ["gallstone", "bladder cancer"]),
        (["organ=spleen"], []),
        # Nothing allows all: a cyst allows two of these, a cancer one.
        (["organ=liver", "shape=cystic", "density=fluid", "specific features=stone"], ["liver cyst"]),
        # ... and here each allows one of two.
        (["organ=liver", "shape=cystic", "density=ring enhancement"], ["liver cyst", "liver cancer"]),
    ],
)
def test_fitting_types(settings, expected):
    assert names(fitting_types(stating(*settings))) == expected


def test_fitting_types_follow_the_organs_present():
    assert fitting_types(LesionReport()) == list(TYPES)
    assert names(fitting_types(LesionReport(), ["spleen", "lung", "right lower lung lobe"])) == ["lung cancer"]
    assert fitting_types(LesionReport(), ["spleen"]) == []
    assert fitting_types(LesionReport(), []) == []
    assert names(fitting_types(stating("organ=brain"), ["liver"])) == [
        "intracranial haemorrhage"
    ]  # stated, so it counts


@every_type
def test_every_drawn_report_fits_its_own_type(kind, generator):
    for _ in range(10):
        report = draw_report(kind, generator)
        assert kind in fitting_types(report)
        assert kind in fitting_types(report, [report.organ])


@pytest.fixture(scope="module")
def generic():
    return json.loads(resource_path("lesion_types.json").read_text(encoding="utf-8"))["generic lesion"]


def test_the_generic_lesion_uses_words_of_the_vocabulary_and_is_no_lesion_type(generic):
    assert "generic lesion" not in vocabulary().values("lesion type")
    assert set(generic) == {field.name for field in dataclasses.fields(TYPES[0])} - {"name"}
    assert set(generic["weights"]) == set(TYPES[0].weights)
    for attribute, weights in generic["weights"].items():
        assert {value for text in weights for value in split(text)} <= set(vocabulary().values(attribute))
        assert all(weight > 0 for weight in weights.values())
    size = generic["size_mm"]
    assert 0 < size["min"] <= size["low"] < size["high"] <= size["max"]


def test_the_generic_lesion_has_a_value_without_contradiction_for_every_attribute(generic):
    """So no draw comes to a dead end, whatever is given."""
    for attribute, weights in generic["weights"].items():
        excluding = {v for pair in vocabulary().contradictions for v in pair.get(attribute, ())}
        assert any(excluding.isdisjoint(split(text)) for text in weights), attribute


def test_generic_draws_are_complete_and_wall_shapes_lie_in_walls_of_hollow_organs():
    wall = {"irregular wall thickening", "luminal narrowing", "protrusion into the lumen"}
    for organ, expected in (("spleen", set()), ("stomach", wall)):
        reports = draws(None, 200, LesionReport(organ=organ))
        assert {report.shape for report in reports} & wall == expected
        for report in reports:
            assert report.lesion_type is None
            assert (report.organ, report.organ_type) == (organ, vocabulary().organ(organ).organ_type)
            assert all(report.stated(name) for name in FIELDS if name != "specific features")
            assert report.specific_features is not None
            assert checks(report) == []


def test_a_generic_lesion_needs_a_present_organ(generator):
    with pytest.raises(ReportError, match="expected a lesion type or an organ, got neither; set one of them"):
        draw_report(None, generator)
    with pytest.raises(ReportError, match='the organ map has no "spleen"; present: liver'):
        draw_report(None, generator, ["liver"], LesionReport(organ="spleen"))
    assert draw_report(None, generator, ["spleen"], LesionReport(organ="spleen")).organ == "spleen"
