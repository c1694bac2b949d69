"""The chat endpoint: what is sent where, and each way in which an endpoint can be down, slow or lying."""

from __future__ import annotations

import json
import socket
import time
import traceback

import pytest
from fake_endpoint import KEY, completion, running_endpoint

from LesionDiffusionLib import __version__
from LesionDiffusionLib.adapters.chat_endpoint import MAX_ANSWER_BYTES, LanguageModel, complete, http_post
from LesionDiffusionLib.errors import ReportError


@pytest.fixture
def endpoint():
    with running_endpoint() as server:
        yield server


@pytest.fixture
def model(endpoint):
    return LanguageModel(endpoint.url, "tiny", KEY, timeout_s=5)


def refusal(model, request=None, transport=http_post) -> str:
    """The message of the ReportError: one short line, and no trace of the key in it or in its traceback."""
    with pytest.raises(ReportError) as caught:
        complete(model, request or {"model": "tiny"}, transport)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return message


@pytest.mark.parametrize("slash", ["", "/"])
def test_request_and_answer(endpoint, slash):
    endpoint.replies = [completion("hello")]
    model = LanguageModel(endpoint.url + slash, "tiny", KEY)
    assert complete(model, {"model": "tiny"}, http_post) == "hello"
    [(line, headers, body)] = endpoint.asked
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert json.loads(body) == {"model": "tiny"}
    assert headers == {
        "Authorization": f"Bearer {KEY}",
        "User-Agent": f"LesionDiffusion/{__version__}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Host": model.host,
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


def test_no_key_no_authorization(endpoint):
    endpoint.replies = [completion("hello")]
    complete(LanguageModel(endpoint.url, "tiny"), {}, http_post)
    assert "Authorization" not in endpoint.asked[0][1]


def test_no_text_is_empty_text(endpoint, model):
    endpoint.replies = [completion(None)]
    assert complete(model, {}, http_post) == ""


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "check the key .LESIONDIFFUSION_LLM_KEY"),
        (403, "check the key .LESIONDIFFUSION_LLM_KEY"),
        (404, "check the model's name .LESIONDIFFUSION_LLM_MODEL.*LESIONDIFFUSION_LLM_URL"),
        (400, "check LESIONDIFFUSION_LLM_URL"),
        (429, "wait a while"),
        (500, "try again later"),
        (503, "try again later"),
    ],
)
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (json.dumps({"error": {"message": f"bad key {KEY}\n\x1b[2J!"}}).encode(), r": bad key \*\*\* \[2J!"),
        (f'{{"error": "bad key {KEY}"}}'.replace("/", "\\/").encode(), r": bad key \*\*\*"),
        (b'{"object": "error", "message": "sorry"}', ": sorry"),
        (b'{"error": {"message": 5}}', ""),
        (b"[1]", ""),
        (b"<html>no</html>", ""),
        (b"", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_http_errors(endpoint, model, status, remedy, body, told):
    endpoint.replies = [(status, body)]
    message = refusal(model)
    with pytest.raises(ReportError, match=f"^{model.host} refused with HTTP {status}{told}; {remedy}"):
        raise ReportError(message)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(endpoint, model, status):
    """They would carry the key to whatever host the answer names."""
    endpoint.replies = [(status, b""), completion("hello")]
    assert f"refused with HTTP {status}; check LESIONDIFFUSION_LLM_URL" in refusal(model)
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>welcome</html>",
        b"",
        b'{"choices": [',
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": {"0": 1}}',
        b'{"choices": [{"message": "hello"}]}',
        b'{"choices": [{"message": {}}]}',
        b'{"choices": null}',
    ],
)
def test_no_chat_completion(endpoint, model, body):
    endpoint.replies = [(200, body)]
    assert "sent no chat completion; is LESIONDIFFUSION_LLM_URL the address" in refusal(model)


def test_error_with_status_200(endpoint, model):
    endpoint.replies = [(200, b'{"error": {"message": "no credits", "code": 402}}')]
    assert "sent no chat completion: no credits; " in refusal(model)


def test_huge_answer(endpoint, model):
    endpoint.replies = [(200, b'{"a": "' + b"a" * MAX_ANSWER_BYTES)]
    assert "sent more than 1000000 bytes" in refusal(model)


def test_endless_answer_is_cut_off(endpoint, model):
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while sum(sent) < 50_000_000:
            sent.append(handler.wfile.write(b" " * 65536))

    endpoint.replies = [_until_hung_up(endless)]
    assert "sent more than 1000000 bytes" in refusal(model)
    assert sum(sent) < 50_000_000


def test_no_answer_in_time(endpoint):
    endpoint.replies = [lambda handler: endpoint.over.wait(10)]
    start = time.monotonic()
    assert "gave no answer within 0.2 s; try again" in refusal(LanguageModel(endpoint.url, "tiny", KEY, 0.2))
    assert time.monotonic() - start < 3


def test_dripping_answer_runs_out_of_time(endpoint):
    """Every byte comes within the socket's timeout; the answer as a whole does not."""

    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(60):  # 3 s
            handler.wfile.write(b" ")
            endpoint.over.wait(0.05)

    endpoint.replies = [_until_hung_up(drip)]
    start = time.monotonic()
    assert "gave no answer within 0.4 s" in refusal(LanguageModel(endpoint.url, "tiny", KEY, 0.4))
    assert time.monotonic() - start < 3


def _until_hung_up(write):
    def handle(handler):
        try:
            write(handler)
        except OSError:
            handler.close_connection = True

    return handle


@pytest.mark.parametrize("garbage", [b"\x1b[2J" + KEY.encode() + b"\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b""])
def test_garbage_instead_of_http(endpoint, model, garbage):
    endpoint.replies = [lambda handler: handler.wfile.write(garbage)]
    assert f"cannot reach {model.host}: " in refusal(model)


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can take the port meanwhile
        model = LanguageModel(f"http://localhost:{taken.getsockname()[1]}", "tiny", KEY)
        assert "refused; is it running, and is LESIONDIFFUSION_LLM_URL right?" in refusal(model)


def test_host_that_cannot_be_one(monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert "cannot reach a..b: " in refusal(LanguageModel("https://a..b/v1", "tiny", KEY))


def test_proxies_are_used_but_not_for_this_machine(endpoint, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, endpoint.url)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    endpoint.replies = [(403, b"")]
    assert "cannot reach llm.example: " in refusal(LanguageModel("https://llm.example/v1", "tiny", KEY))
    [(line, headers, _)] = endpoint.asked
    assert line.startswith("CONNECT llm.example:443")
    assert KEY not in str(headers)
    with running_endpoint() as other:
        other.replies = [completion("hello")]
        assert complete(LanguageModel(other.url, "tiny", KEY), {}, http_post) == "hello"
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error": {"message": "Invalid parameter: \'response_format\' of type \'json_schema\'"}}'),
        (422, b'{"detail": [{"loc": ["body", "response_format"]}]}'),
    ],
)
def test_response_format_is_dropped_where_refused(endpoint, model, status, body):
    endpoint.replies = [(status, body), completion("hello")]
    request = {"model": "tiny", "response_format": {"type": "json_schema"}}
    assert complete(model, request, http_post) == "hello"
    assert ["response_format" in sent for sent in endpoint.requests] == [True, False]
    assert request == {"model": "tiny"}


@pytest.mark.parametrize(
    ("status", "body", "sent"), [(400, b"response_format", 2), (400, b"temperature", 1), (500, b"response_format", 1)]
)
def test_response_format_is_dropped_once_and_only_for_that(endpoint, model, status, body, sent):
    endpoint.replies = [(status, body)]
    assert f"refused with HTTP {status}" in refusal(model, {"model": "tiny", "response_format": {}})
    assert len(endpoint.asked) == sent


def test_key_is_not_shown(model):
    assert KEY not in repr(model)
    assert KEY not in str(model)
    assert model.shown(f"a{KEY}b\tc\x00\n d") == "a***b c d"
    assert len(model.shown("x" * 10_000)) == 600
    assert LanguageModel("https://llm.example", "tiny").shown("ab") == "ab"


def test_from_environment():
    set_up = {"LESIONDIFFUSION_LLM_URL": " https://llm.example/v1\n", "LESIONDIFFUSION_LLM_MODEL": "tiny"}
    assert LanguageModel.from_environment(set_up) == LanguageModel("https://llm.example/v1", "tiny", "")
    set_up["LESIONDIFFUSION_LLM_KEY"] = KEY
    assert LanguageModel.from_environment(set_up) == LanguageModel("https://llm.example/v1", "tiny", KEY)


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ({}, "LESIONDIFFUSION_LLM_URL and LESIONDIFFUSION_LLM_MODEL missing"),
        ({"LESIONDIFFUSION_LLM_URL": "https://llm.example"}, "up, LESIONDIFFUSION_LLM_MODEL missing"),
        ({"LESIONDIFFUSION_LLM_MODEL": "tiny", "LESIONDIFFUSION_LLM_URL": " "}, "up, LESIONDIFFUSION_LLM_URL missing"),
    ],
)
def test_missing_settings_are_named(environment, missing):
    with pytest.raises(ReportError, match=f"{missing}: set the environment variables .*LESIONDIFFUSION_LLM_KEY"):
        LanguageModel.from_environment(environment)


@pytest.mark.parametrize(
    "settings", [{"model": ""}, {"timeout_s": 0}, {"timeout_s": float("nan")}, {"timeout_s": 1e9}, {"tries": 0}]
)
def test_settings_that_cannot_work(settings):
    with pytest.raises(ReportError, match="a timeout of at most 3600 s and 1 to 10 tries; got"):
        LanguageModel(**{"base_url": "https://llm.example", "model": "tiny", **settings})


@pytest.mark.parametrize("key", ["two words", "line\nbreak: x", "schlüssel", "nul\0"])
def test_keys_no_header_can_carry(key):
    with pytest.raises(ReportError, match="that no HTTP header can carry") as caught:
        LanguageModel("https://llm.example", "tiny", key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        KEY,
        "",
        "llm.example/v1",
        "ftp://llm.example",
        "file:///etc/passwd",
        "https://",
        "https://user:word@llm.example",
        "https://llm.example/v1?key=1",
        "https://llm.example/v1#part",
        "https://llm.example/v 1",
        "https://llm.example/v1\r\nX: y",
        "https://llm.example/v1\n",
        "https://llm.example:99999",
        "https://llm.example:0",
        "https://[::1",
        "https://[1::2::3]/",
        "https://bücher.example",
    ],
)
def test_addresses_that_cannot_work(url):
    with pytest.raises(ReportError, match="expected as https://HOST/PATH") as caught:
        LanguageModel(url, "tiny", KEY)
    assert KEY not in str(caught.value)
    assert "word@" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["llm.example", "192.168.1.7:8000", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_plain_http_stays_on_this_machine(host):
    with pytest.raises(ReportError, match=r"plain http is for this machine only, got http://.*use https, or a tunnel"):
        LanguageModel(f"http://{host}/v1", "tiny", KEY)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.1.2.3:1", "[::1]:11434"])
def test_plain_http_to_this_machine(host):
    assert LanguageModel(f"http://{host}/v1", "tiny").host == host
    assert LanguageModel("HTTPS://llm.example:8443", "tiny").host == "llm.example:8443"
