"""One OpenAI-compatible chat endpoint: where it is, how a request reaches it, and what can go wrong on the way.

It knows nothing of lesions. Nothing it says shows the key.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from LesionDiffusionLib import __version__
from LesionDiffusionLib.errors import ReportError

URL_VARIABLE = "LESIONDIFFUSION_LLM_URL"
MODEL_VARIABLE = "LESIONDIFFUSION_LLM_MODEL"
KEY_VARIABLE = "LESIONDIFFUSION_LLM_KEY"

MAX_ANSWER_BYTES = 1_000_000
_MAX_SHOWN = 600  # characters of foreign text in a message; the longest list of allowed values fits

_URL = re.compile(r"https?://(\[[0-9a-f:.]+\]|[\w.-]+)(:\d+)?(/[\w.~%:+/-]*)?", re.ASCII | re.IGNORECASE)
_REMEDIES = {
    401: f"check the key ({KEY_VARIABLE})",
    403: f"check the key ({KEY_VARIABLE}) and what it is allowed to use",
    404: f"check the model's name ({MODEL_VARIABLE}) and the address up to /chat/completions ({URL_VARIABLE})",
    429: "wait a while, or look at the limits of the account",
}


class Transport(Protocol):
    """The way to the endpoint: ``http_post``, or a fake one."""

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
        """POST without following redirects; the HTTP status and the body, of which 1 MB and a byte are enough.

        Raises OSError (TimeoutError when the time is over), http.client.HTTPException or UnicodeError (a host name
        that cannot be one).
        """


@dataclass(frozen=True)
class LanguageModel:
    """One chat model, how long an answer may take, and how many answers may be asked for until one is usable.

    base_url: what comes before "/chat/completions", such as "https://api.openai.com/v1". Plain http is for this machine
        only ("http://localhost:11434/v1"): elsewhere it would show the key to the network.
    api_key: sent as bearer token; "" for an endpoint that wants none. No message and no ``repr`` shows it.

    Raises ReportError for a setting that cannot work.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    timeout_s: float = 120.0
    tries: int = 3

    def __post_init__(self) -> None:
        if not (self.model and 0 < self.timeout_s <= 3600 and 1 <= self.tries <= 10):
            raise ReportError(
                "a language model has a name, a timeout of at most 3600 s and 1 to 10 tries; "
                f'got "{self.model}", {self.timeout_s} s, {self.tries} tries'
            )
        if not re.fullmatch("[!-~]*", self.api_key):
            raise ReportError(
                f"the key of the language model ({KEY_VARIABLE}) holds spaces, line breaks or letters that no HTTP "
                "header can carry; copy it again"
            )
        _check_url(self.base_url)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> LanguageModel:
        """The model named by LESIONDIFFUSION_LLM_URL, _MODEL and (optional) _KEY. Raises ReportError."""
        url, model, key = (environment.get(name, "").strip() for name in (URL_VARIABLE, MODEL_VARIABLE, KEY_VARIABLE))
        if missing := [name for name, value in ((URL_VARIABLE, url), (MODEL_VARIABLE, model)) if not value]:
            raise ReportError(
                f"no language model is set up, {' and '.join(missing)} missing: set the environment variables "
                f"{URL_VARIABLE} (such as https://api.openai.com/v1), {MODEL_VARIABLE} (such as gpt-4o-mini) "
                f"and, where the endpoint wants a key, {KEY_VARIABLE}"
            )
        return cls(url, model, key)

    @property
    def host(self) -> str:
        """Who receives the text: host and port."""
        return urlsplit(self.base_url).netloc

    def shown(self, text: str) -> str:
        """Foreign text fit for one line on a terminal: without the key and control characters, and not long."""
        if self.api_key:
            text = text.replace(self.api_key, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def http_post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
    """The ``Transport`` of the standard library; through the system's proxies, except to this machine."""
    deadline = time.monotonic() + timeout_s
    proxies = urllib.request.ProxyHandler({} if _is_this_machine(urlsplit(url).hostname or "") else None)
    opener = urllib.request.build_opener(proxies, _EveryStatus)
    answer = bytearray()
    with opener.open(urllib.request.Request(url, body, dict(headers)), timeout=timeout_s) as response:
        # The socket's timeout starts anew with every byte; the deadline also stops a body that only drips.
        while chunk := response.read1(MAX_ANSWER_BYTES + 1 - len(answer)):
            answer += chunk
            if time.monotonic() > deadline:
                raise TimeoutError
        return response.status, bytes(answer)


class _EveryStatus(urllib.request.HTTPErrorProcessor):
    """Every status is an answer. So no redirect is followed, which would carry the key to another host."""

    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        return response

    https_response = http_response


def complete(model: LanguageModel, request: dict, transport: Transport) -> str:
    """The text that the model answers to a chat request, "" when it answers none.

    An endpoint that refuses "response_format" gets the request without it: the key is then deleted from ``request``.
    Raises ReportError for anything that is not a chat completion.
    """
    status, answer = _post(model, request, transport)
    if status in (400, 422) and "response_format" in request and b"response_format" in answer:
        del request["response_format"]
        status, answer = _post(model, request, transport)
    if status != 200:
        remedy = _REMEDIES.get(status, "try again later" if status >= 500 else f"check {URL_VARIABLE}")
        raise ReportError(f"{model.host} refused with HTTP {status}{_reason(answer, model)}; {remedy}")
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise ReportError(
            f"{model.host} sent no chat completion{_reason(answer, model)}; "
            f"is {URL_VARIABLE} the address of an OpenAI-compatible endpoint?"
        ) from error
    return content if isinstance(content, str) else ""


def _post(model: LanguageModel, request: dict, transport: Transport) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json", "User-Agent": f"LesionDiffusion/{__version__}"}
    if model.api_key:
        headers["Authorization"] = f"Bearer {model.api_key}"
    url = model.base_url.rstrip("/") + "/chat/completions"
    try:
        status, answer = transport(url, json.dumps(request).encode(), headers, model.timeout_s)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise _unreachable(
            model, error
        ) from None  # the error itself may quote what the endpoint sent, the key included
    if len(answer) > MAX_ANSWER_BYTES:
        raise ReportError(f"{model.host} sent more than {MAX_ANSWER_BYTES} bytes; is it a chat endpoint?")
    return status, answer


def _unreachable(model: LanguageModel, error: Exception) -> ReportError:
    reason = getattr(error, "reason", error)  # urllib wraps the errors of a connection
    if isinstance(reason, TimeoutError):
        told = f"gave no answer within {model.timeout_s:g} s; try again (it may be loading the model)"
        return ReportError(f"{model.host} {told} or allow more time")
    told = model.shown(str(reason) or type(reason).__name__)
    return ReportError(f"cannot reach {model.host}: {told}; is it running, and is {URL_VARIABLE} right?")


def _reason(answer: bytes, model: LanguageModel) -> str:
    """What an endpoint says went wrong, after a colon; empty when it does not say so in the usual JSON."""
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    error = data.get("error", data) if isinstance(data, dict) else None
    told = error.get("message") if isinstance(error, dict) else error
    return f": {model.shown(told)}" if isinstance(told, str) else ""


def _check_url(url: str) -> None:
    """Raises ReportError. The address itself is not shown: mixed-up settings may have put the key there."""
    try:
        parts = urlsplit(url) if _URL.fullmatch(url) else None
        usable = parts is not None and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ReportError(
            f"the address of the language model ({URL_VARIABLE}) is expected as https://HOST/PATH, "
            "without user name, query or spaces; correct it"
        )
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise ReportError(
            f"plain http is for this machine only, got http://{parts.netloc}: use https, or a tunnel "
            f"(ssh -L PORT:localhost:PORT {parts.hostname}) and http://localhost:PORT"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
