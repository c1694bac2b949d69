"""The report by a language model: what is asked, what leaves the machine, and that no answer is taken on trust."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from fake_endpoint import KEY, completion, running_endpoint

from LesionDiffusionLib.adapters.language_model import LanguageModel, write_report
from LesionDiffusionLib.errors import ReportError
from LesionDiffusionLib.lesion_types import all_lesion_types, draw_report, lesion_type
from LesionDiffusionLib.report import FIELDS, LesionReport
from LesionDiffusionLib.scripts.cli import main
from LesionDiffusionLib.vocabulary import vocabulary, words

LIVER_MM = (160.7, 120, 150)
MODEL = LanguageModel("https://llm.example/v1", "tiny", KEY)
CYST = {
    "shape": "round-like",
    "lesion_location": "inside organ",
    "size_mm": {"x": 14, "y": 12, "z": 15},
    "relationship": "no close relationship with surrounding organs",
    "surface": "well-defined margin",
    "specific_features": [],
    "enhancement": "enhanced CT",
    "density": "hypoattenuating fluid-like lesion",
    "density_variations": "homogeneous",
}
CYST_REPORT = LesionReport(
    **{**CYST, "size_mm": (14.0, 12.0, 15.0), "specific_features": ()},
    lesion_type="liver cyst",
    organ="liver",
    organ_type="parenchymal organ",
)


class Answers:
    """A transport that gives prepared texts as completions, the last one again, and keeps the requests."""

    def __init__(self, *texts: str | None) -> None:
        self.texts, self.requests = list(texts), []

    def __call__(self, url, body, headers, timeout_s):
        self.requests.append(json.loads(body))
        return completion(self.texts.pop(0) if len(self.texts) > 1 else self.texts[0])


def ask(*texts, given=None, organ_size_mm=LIVER_MM, model=MODEL):
    return write_report(model, "liver cyst", "liver", organ_size_mm, given or LesionReport(), Answers(*texts))


def asked_for(given=None, kind="liver cyst", organ="liver", organ_size_mm=LIVER_MM) -> dict:
    """The request that a question sends."""
    answers = Answers("no")
    model = dataclasses.replace(MODEL, tries=1)
    with pytest.raises(ReportError, match="no complete JSON object"):
        write_report(model, kind, organ, organ_size_mm, given or LesionReport(), answers)
    return answers.requests[0]


def schema_of(request: dict) -> dict:
    return request["response_format"]["json_schema"]["schema"]


def cyst(**changes) -> str:
    return json.dumps(CYST | changes)


def answer_of(report: LesionReport, keys) -> str:
    """A report as an obedient model spells it."""
    answer = {key: getattr(report, key) for key in keys}
    answer["size_mm"] = dict(zip("xyz", report.size_mm, strict=True))
    return json.dumps(answer)


@pytest.fixture
def endpoint():
    with running_endpoint() as server:
        yield server


def test_a_report_over_http(endpoint):
    endpoint.replies = [completion(cyst())]
    model = LanguageModel(endpoint.url, "tiny", KEY)
    report, complaints = write_report(model, "hepatic cyst", "hepatic", LIVER_MM, LesionReport())
    assert report == CYST_REPORT
    assert complaints == []


@pytest.mark.parametrize("kind", all_lesion_types(), ids=lambda kind: kind.name)
def test_every_drawn_report_can_be_answered(kind, generator):
    keys = schema_of(asked_for(kind=kind.name, organ=kind.organ))["properties"]
    for _ in range(20):
        report = draw_report(kind, generator)
        answers = Answers(answer_of(report, keys))
        assert write_report(MODEL, kind.name, report.organ, None, LesionReport(), answers) == (report, [])


def test_schema_is_the_vocabulary():
    request = asked_for()
    schema = schema_of(request)
    assert list(schema["properties"]) == [f for f in FIELDS.values() if f not in ("organ", "organ_type")]
    for name, field in FIELDS.items():
        value = schema["properties"].get(field, {})
        allowed = value.get("items", value).get("enum", [])
        assert allowed == ([] if name in ("organ", "organ type", "size") else list(vocabulary().values(name)))
    size = schema["properties"]["size_mm"]["properties"]
    assert {axis: (v["type"], v["minimum"], v["maximum"]) for axis, v in size.items()} == {
        "x": ("integer", 1, 160),
        "y": ("integer", 1, 120),
        "z": ("integer", 1, 150),
    }
    assert request["response_format"]["json_schema"]["strict"] is True
    assert json.dumps(schema) in request["messages"][0]["content"]  # for endpoints that overlook response_format


def test_schema_is_strict():
    """Strict endpoints want every key required, no others allowed, and plain key names."""
    schema = schema_of(asked_for())
    for part in (schema, schema["properties"]["size_mm"]):
        assert part["required"] == list(part["properties"])
        assert part["additionalProperties"] is False
        assert all(re.fullmatch("[a-z_]+", key) for key in part["properties"])


def test_keys_of_the_answer_are_names_of_attributes():
    for name, field in FIELDS.items():
        assert vocabulary().attribute(field) == name
        assert words(name) in vocabulary().attribute_names


def test_without_organ_size_the_lesion_type_sets_the_limit():
    limit = lesion_type("liver cyst").size_mm.max
    size = schema_of(asked_for(organ_size_mm=None))["properties"]["size_mm"]["properties"]
    assert [axis["maximum"] for axis in size.values()] == [limit] * 3


@pytest.mark.parametrize("organ_size_mm", [(0, 1, 1), (-1, 5, 5), (float("nan"), 5, 5), (5, 5), (1e9, 5, 5)])
def test_bad_organ_size(organ_size_mm):
    with pytest.raises(ReportError, match=r"expected a size such as|three numbers above 0"):
        ask(cyst(), organ_size_mm=organ_size_mm)


def test_unknown_lesion_type_or_organ_asks_nobody():
    for kind, organ in (("wart", "liver"), ("liver cyst", "skin")):
        answers = Answers(cyst())
        with pytest.raises(ReportError, match=r'unknown (lesion type "wart"|organ "skin")'):
            write_report(MODEL, kind, organ, LIVER_MM, LesionReport(), answers)
        assert answers.requests == []


def test_given_attributes_win_and_are_stated():
    given = LesionReport(
        lesion_type="gallstone",
        organ="colon",
        density="hypodense lesion",
        specific_features=("presence of increased density areas",),
        density_variations="heterogeneous",
        size_mm=(200.0, 1.5, 20.0),
    )
    expected = dataclasses.replace(given, lesion_type="liver cyst", organ="liver")
    lying = cyst(density="no such thing", density_variations=5, organ="colon", size_mm="none")
    report, complaints = ask(lying, given=given)
    assert complaints == []
    stated = {f.name: v for f in dataclasses.fields(expected) if (v := getattr(expected, f.name))}
    assert report == dataclasses.replace(CYST_REPORT, **stated)
    request = asked_for(given)
    assert not {"density", "density_variations", "specific_features", "size_mm"} & set(schema_of(request)["properties"])
    fixed = json.loads(request["messages"][1]["content"])["fixed attributes"]
    assert fixed == dataclasses.replace(expected, organ_type="parenchymal organ").attributes()


def test_a_complete_report_asks_nobody():
    given = dataclasses.replace(
        CYST_REPORT, specific_features=("presence of increased density areas",), density_variations="heterogeneous"
    )
    answers = Answers("never read")
    assert write_report(MODEL, "liver cyst", "liver", None, given, answers) == (given, [])
    assert answers.requests == []


def test_only_report_words_leave_the_machine(endpoint, tmp_path, monkeypatch, capsys):
    """The whole request, byte by byte: a fixed frame, and facts made of vocabulary, the size, and nothing else."""
    secret_file = tmp_path / "Jane_Doe_1970.json"
    secret_file.write_text(LesionReport(density="hypodense lesion").to_json(), encoding="utf-8")
    endpoint.replies = [completion("It cannot be done."), completion(cyst())]
    monkeypatch.chdir(tmp_path)
    set_environment(monkeypatch, endpoint)
    text = "cyst of Jane Doe, born 1970, ill-defined"
    argv = ["report", "--ask-model", "--report", secret_file.name, "--text", text, "--lesion", "liver cyst"]
    assert main([*argv, "--organ-size-mm", "160,120,150"]) == 0
    assert "Jane" in capsys.readouterr().err  # said to the user as not understood, and said nowhere else
    for line, headers, body in endpoint.asked:
        sent = f"{line} {headers} {body.decode()}".lower()
        assert not [word for word in ("jane", "doe", "1970", "born", str(tmp_path).lower()) if word in sent]
    first, second = endpoint.requests
    assert set(first) == {"model", "messages", "response_format"}
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert json.loads(first["messages"][1]["content"]) == {
        "lesion type": "liver cyst",
        "fixed attributes": {
            "organ type": "parenchymal organ",
            "organ": "liver",
            "surface characteristics": "ill-defined margin",
            "density": "hypodense lesion",
        },
        "largest possible size": "160x120x150 mm",
    }
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2:] == [
        {"role": "assistant", "content": "It cannot be done."},
        {
            "role": "user",
            "content": "This answer cannot be used: it holds no complete JSON object. Answer again, in full.",
        },
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{json.dumps(CYST, indent=2)}\n```",
        f"Here it is: {cyst()} I hope {{this}} helps.",
        f"<think>Perhaps {cyst(density='hyperdense lesion')}? No, {{ it is water }}.</think>\n{cyst()}",
        "thinking { " * 20_000 + cyst() + "\n" * 20_000,
        cyst(specific_features=None),
        cyst(specific_features="none"),
        cyst(size_mm=[14, 12, 15]),
        cyst(size_mm="14x12x15 mm"),
        cyst(size_mm={"z": 15.0, "y": 12, "x": 14, "unit": "mm"}),
        cyst(lesion_type="wart", organ="skin", explanation="because"),
        json.dumps({name.upper(): CYST[field] for name, field in FIELDS.items() if field in CYST}),
        cyst(density="Fluid,", surface="well circumscribed"),
    ],
)
def test_answers_that_can_be_understood(text):
    assert ask(text) == (CYST_REPORT, [])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "it holds no complete JSON object"),
        ("I cannot help with that.", "it holds no complete JSON object"),
        ("[1, 2]", "it holds no complete JSON object"),
        ("{" * 50_000, "it holds no complete JSON object"),
        ('{"a":' * 1_900, "it holds no complete JSON object"),
        (cyst() + " and so on" * 1_000, "it holds no complete JSON object"),
        (cyst()[:60], "it holds no complete JSON object"),
        (cyst()[:-1], "one JSON object with all keys is expected; missing: shape, lesion_location, size_mm, rel"),
        (json.dumps({"report": CYST}), "missing: shape"),
        (cyst(density=None), "missing: density"),
        (cyst(shape=5), 'the value of "shape" is a text; got int'),
        (cyst(shape=["round-like"]), 'the value of "shape" is a text; got list'),
        (cyst(shape={"a": 1}), 'the value of "shape" is a text; got dict'),
        (cyst(shape="a \x1b[2J blob"), r'unknown shape "a \[2J blob".*allowed: round-like'),
        (cyst(density="wet" * 1000), 'unknown density "wetwet.*allowed: hypodense lesion.*ring enhancement$'),
        (cyst(specific_features=["moss"]), 'unknown specific features "moss"'),
        (cyst(specific_features=[1, True]), 'unknown specific features "1"'),
        (cyst(specific_features=[[["a"]]]), 'the value of "specific features" is a text; got list'),
        (cyst(size_mm={"x": 161, "y": 1, "z": 1}), "161 mm along x, more than the 160 mm possible"),
        (cyst(size_mm=[1, 1, 150.5]), "150.5 mm along z, more than the 150 mm possible"),
        (cyst(size_mm={"x": 0, "y": 1, "z": 1}), "three numbers above 0"),
        (cyst(size_mm={"x": -3, "y": 1, "z": 1}), "expected a size such as"),
        (cyst(size_mm={"x": float("nan"), "y": 1, "z": 1}), "expected a size such as"),
        (cyst(size_mm={"x": True, "y": 1, "z": 1}), "expected a size such as"),
        (cyst(size_mm={"x": 3, "y": 1}), "expected a size such as"),
        (cyst(size_mm=[1, 2]), "expected a size such as"),
        (cyst(size_mm=12), 'the value of "size" is a text; got int'),
        (cyst(specific_features=["stone"]), '"stone" and "hypoattenuating fluid-like lesion" contradict each other'),
    ],
)
def test_answers_that_are_sent_back(text, complaint):
    answers = Answers(text, cyst())
    report, complaints = write_report(MODEL, "liver cyst", "liver", LIVER_MM, LesionReport(), answers)
    assert report == CYST_REPORT
    assert len(complaints) == 1
    assert re.search(complaint, complaints[0])
    assert complaints[0].isprintable()
    assert complaints[0] in answers.requests[1]["messages"][-1]["content"]
    assert [m["role"] for m in answers.requests[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert 0 < len(answers.requests[1]["messages"][2]["content"]) <= 10_000


def test_after_the_last_try_the_last_complaint_is_told():
    answers = Answers(cyst(shape="blob"), "no", cyst(density="wet"))
    with pytest.raises(
        ReportError,
        match=r'^tiny at llm.example gave no valid report in 3 tries; the last complaint: unknown density "wet"',
    ) as caught:
        write_report(MODEL, "liver cyst", "liver", LIVER_MM, LesionReport(), answers)
    assert "\n" not in str(caught.value)
    assert len(answers.requests) == 3
    with pytest.raises(ReportError, match="in 1 tries"):
        ask("no", cyst(), model=dataclasses.replace(MODEL, tries=1))


def test_the_third_answer_may_be_the_good_one():
    report, complaints = ask("no", "still no", cyst())
    assert report == CYST_REPORT
    assert complaints == ["it holds no complete JSON object"] * 2


def test_a_contradiction_in_what_is_given_is_not_the_models_fault():
    given = LesionReport(density="ring enhancement", enhancement="non-contrast CT")
    report, complaints = ask(cyst(density_variations="heterogeneous"), given=given)
    assert (report.density, report.enhancement, complaints) == (given.density, given.enhancement, [])


def test_no_piece_of_an_answer_breaks_the_reader():
    """Whatever is cut off, doubled or nested: a valid report or a complaint, never another error."""
    model = dataclasses.replace(MODEL, tries=1)
    text = cyst(specific_features=["presence of increased density areas"], density_variations="heterogeneous")
    pieces = [text[:end] for end in range(len(text))] + [text[start:] for start in range(1, len(text))]
    for depth in (10, 500, 900, 950, 980, 990, 1000, 1500):
        pieces += [
            cyst().replace("[]", "[" * depth + "]" * depth),
            cyst(shape=0).replace("0", '{"":' * depth + "0" + "}" * depth),
        ]
    for piece in pieces:
        with pytest.raises(ReportError, match="gave no valid report"):
            ask(piece, model=model)


def test_response_format_stays_dropped_for_later_tries(endpoint):
    endpoint.replies = [(400, b"response_format is not supported"), completion("no"), completion(cyst())]
    model = LanguageModel(endpoint.url, "tiny")
    assert write_report(model, "liver cyst", "liver", LIVER_MM, LesionReport())[0] == CYST_REPORT
    assert ["response_format" in request for request in endpoint.requests] == [True, False, False]


def test_a_failing_endpoint_is_not_asked_again(endpoint):
    endpoint.replies = [(500, b"")]
    with pytest.raises(ReportError, match="refused with HTTP 500"):
        write_report(LanguageModel(endpoint.url, "tiny"), "liver cyst", "liver", None, LesionReport())
    assert len(endpoint.asked) == 1


def set_environment(monkeypatch, endpoint):
    monkeypatch.setenv("LESIONDIFFUSION_LLM_URL", endpoint.url)
    monkeypatch.setenv("LESIONDIFFUSION_LLM_MODEL", "tiny")
    monkeypatch.setenv("LESIONDIFFUSION_LLM_KEY", KEY)


def test_command(endpoint, monkeypatch, capsys, tmp_path):
    endpoint.replies = [completion("no"), completion(cyst())]
    set_environment(monkeypatch, endpoint)
    out = tmp_path / "report.json"
    assert main(["report", "--ask-model", "--lesion", "liver cyst", "--set", "density=fluid", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert LesionReport.from_json(printed.out) == CYST_REPORT == LesionReport.from_json(out.read_bytes())
    assert f"asking tiny at 127.0.0.1:{endpoint.server_port}, which receives lesion type, organ" in printed.err
    assert "warning: an answer was rejected: it holds no complete JSON object" in printed.err
    assert KEY not in printed.err + printed.out


def test_command_takes_the_organ_of_the_lesion_type_or_the_stated_one(endpoint, monkeypatch, capsys):
    endpoint.replies = [completion(cyst())]
    set_environment(monkeypatch, endpoint)
    for argv, organ in (
        (["--lesion", "kidney cyst"], "kidney"),
        (["--text", "cyst in the left kidney"], "left kidney"),
    ):
        assert main(["report", "--ask-model", *argv]) == 0
        assert LesionReport.from_json(capsys.readouterr().out).organ == organ


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ask-model", "--set", "organ=liver"], "--ask-model needs to know the lesion type: give --lesion TYPE"),
        (["--ask-model", "--lesion", "liver cyst"], "no language model is set up"),
        (["--ask-model", "--lesion", "liver cyst", "--organ-size-mm", "wide"], 'expected a size .* got "wide"'),
        (["--lesion", "liver cyst", "--organ-size-mm", "9,9,9"], "give --ask-model too, or leave it out"),
        (["--ask-model", "--draw", "--lesion", "liver cyst"], "not allowed with argument"),
    ],
)
def test_command_refuses(argv, message, monkeypatch, capsys, tmp_path):
    for name in ("URL", "MODEL", "KEY"):
        monkeypatch.delenv(f"LESIONDIFFUSION_LLM_{name}", raising=False)
    out = tmp_path / "report.json"
    try:
        code = main(["report", *argv, "--out", str(out)])
    except SystemExit as exit_:  # argparse
        code = exit_.code
    printed = capsys.readouterr()
    assert code == 2
    assert re.fullmatch(f"error: .*{message}.*\n", printed.err)
    assert not out.exists()


def test_command_with_a_dead_endpoint_writes_nothing(endpoint, monkeypatch, capsys, tmp_path):
    endpoint.replies = [(401, json.dumps({"error": {"message": f"wrong key {KEY}"}}).encode())]
    set_environment(monkeypatch, endpoint)
    out = tmp_path / "report.json"
    assert main(["report", "--ask-model", "--lesion", "liver cyst", "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(r"error: 127.0.0.1:\d+ refused with HTTP 401: wrong key \*\*\*; check the key", printed.err)
    assert KEY not in printed.err
    assert not out.exists()
