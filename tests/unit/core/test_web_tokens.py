"""Tokens that pass the proxy authentication of one host."""

import time

import jwt

from pilotlight.core.web_tokens import WEB_TOKEN_TTL_S, is_web_token, web_token

KEY = bytes(32)
HOST = "main--a-f.modal-dev.direct"


def test_a_token_is_for_its_host_alone() -> None:
    token = web_token(KEY, HOST.upper(), time.time())
    assert is_web_token(KEY, token, HOST)
    assert not is_web_token(KEY, token, "other.modal-dev.direct")
    assert not is_web_token(bytes(31) + b"1", token, HOST)


def test_a_token_expires() -> None:
    assert not is_web_token(KEY, web_token(KEY, HOST, time.time() - WEB_TOKEN_TTL_S - 1), HOST)


def test_what_else_the_key_signs_is_no_token() -> None:
    assert not is_web_token(KEY, jwt.encode({"aud": HOST, "exp": int(time.time()) + 60}, KEY, "HS256"), HOST)
    assert not is_web_token(KEY, "", HOST)
    assert not is_web_token(KEY, "nonsense", HOST)
