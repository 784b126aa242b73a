"""Bucket mounts that make sense, and their credentials."""

import pytest

from pilotlight.core.buckets import Credentials, check_bucket, credentials_of, has_no_subdomains
from pilotlight.core.errors import InvalidInput

URL = "https://s3.example.com"


@pytest.mark.parametrize(
    ("bucket", "endpoint", "prefix"),
    [("things", "", ""), ("my.bucket-1", URL, "a/b/"), ("x_y", "http://127.0.0.1:9000", "é/")],
)
def test_good_ones(bucket: str, endpoint: str, prefix: str) -> None:
    check_bucket("Function 'f'", "/data", bucket, endpoint, prefix)


@pytest.mark.parametrize(
    ("bucket", "endpoint", "prefix", "named"),
    [
        ("", "", "", "''"),
        ("a/b", "", "", "'a/b'"),
        ("b:c", "", "", "'b:c'"),
        ("-flag", "", "", "'-flag'"),
        ("things", "s3.example.com", "", "bucket_endpoint_url"),
        ("things", "file:///etc", "", "bucket_endpoint_url"),
        ("things", "https://", "", "bucket_endpoint_url"),
        ("things", "https://a b", "", "bucket_endpoint_url"),
        ("things", "https://a:port", "", "bucket_endpoint_url"),
        ("things", "", "a", "key_prefix='a'"),
        ("things", "", "/a/", "key_prefix"),
        ("things", "", "a/../b/", "key_prefix"),
    ],
)
def test_bad_ones_are_told_with_their_mount(bucket: str, endpoint: str, prefix: str, named: str) -> None:
    with pytest.raises(InvalidInput, match="Function 'f': the bucket mount at '/data'") as refused:
        check_bucket("Function 'f'", "/data", bucket, endpoint, prefix)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("endpoint", "has_none"), [("http://127.0.0.1:9000", True), ("https://[::1]:9000", True), (URL, False), ("", False)]
)
def test_an_address_has_no_subdomains(endpoint: str, has_none: bool) -> None:
    assert has_no_subdomains(endpoint) is has_none


def test_credentials_go_by_the_names_of_aws_or_google() -> None:
    aws = {"AWS_ACCESS_KEY_ID": "i", "AWS_SECRET_ACCESS_KEY": "k", "AWS_SESSION_TOKEN": "t", "AWS_DEFAULT_REGION": "r", "X": "y"}
    assert credentials_of("f", "/data", aws) == Credentials("i", "k", "t", "r")
    google = {"GOOGLE_ACCESS_KEY_ID": "i", "GOOGLE_ACCESS_KEY_SECRET": "k"}
    assert credentials_of("f", "/data", google) == Credentials("i", "k")
    assert credentials_of("f", "/data", {}) == Credentials()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "GOOGLE_ACCESS_KEY_SECRET"])
def test_half_of_the_credentials_is_told(name: str) -> None:
    with pytest.raises(InvalidInput, match="has no AWS_"):
        credentials_of("Function 'f'", "/data", {name: "value"})
