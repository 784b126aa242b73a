"""What takes bytes of strangers, one function for each: it may refuse them in its own words, and must keep what it promises.

Each takes any bytes and returns; whatever else it raises is a fault. `run.py` drives them with atheris, guided by coverage;
tests/unit/test_foreign_bytes.py with hypothesis, for a moment each.
"""

import asyncio
import io
import os
import random
import re
import shutil
import stat
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httptools
from google.protobuf.message import DecodeError
from modal_proto import api_pb2

from pilotlight.core import buckets, forwarded, hosts, labels, names, node_labels, plain_results, schedules, volumes, webhooks
from pilotlight.core.errors import InvalidInput
from pilotlight.edge import blobs, completion, messages
from pilotlight.edge.ports import heads
from pilotlight.images import copying, dockerfile, mounts, references, words
from pilotlight.images.registry import extract
from pilotlight.images.trees import Tree
from pilotlight.node import dns, users
from pilotlight.wire import platform_pb2, raw
from pilotlight.wire.frames import Frames

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
SEEDS: dict[str, list[bytes]] = {}
LABEL = re.compile(r"[a-z0-9-]{0,63}")


def target(*seeds: bytes) -> Callable[[Target], Target]:
    """Names a target by its function, with bytes that lead deep into it."""

    def mark(function: Target) -> Target:
        TARGETS[function.__name__] = function
        SEEDS[function.__name__] = list(seeds)
        return function

    return mark


def text_of(data: bytes) -> str:
    """As protobuf has strings: whatever came, it is proper text."""
    return data.decode(errors="replace")


def parts_of(data: bytes, count: int) -> list[str]:
    """So many texts, divided by 0xff, which no text has; missing ones are empty."""
    parts = [text_of(part) for part in data.split(b"\xff")]
    return (parts + [""] * count)[:count]


# ---- images ----


@target(
    b"FROM a AS b\nARG X=1\nENV A=\"x y\" B='c' C=${A:-${X:+d}}\nRUN --mount=type=cache <<EOF\necho $A\nEOF\nCOPY --from=b x /y\n",
    b'FROM scratch\nCMD ["a", "b"]\nENTRYPOINT a b\n# escape=`\nWORKDIR /a`\n  b\nONBUILD RUN x\nHEALTHCHECK --interval=1s CMD x\n',
    b"FROM a\n\\\n\n",
)
def dockerfiles(data: bytes) -> None:
    with suppress(InvalidInput):
        parsed = dockerfile.parse([text_of(part) for part in data.split(b"\xff")])
        assert parsed.stages
        variables = {"A": "1"}
        for number, stage in enumerate(parsed.stages):
            parsed.stage_index(stage.base, number)
            for instruction in (*parsed.outer_args, *stage.instructions):
                assert instruction.name in dockerfile.KNOWN and instruction.text
                with suppress(InvalidInput):
                    if instruction.name in ("ENV", "ARG", "LABEL"):
                        variables |= dockerfile.assignments(instruction, variables)
                    assert all(isinstance(word, str) for word in dockerfile.argv(instruction, ["sh", "-c"]))


@target(b"a'b c'\"$X ${Y:-z}\"\\ d", b"${a:-${b:+${c?d}}}", b"$$1${2}", b'["a", "b"]')
def dockerfile_words(data: bytes) -> None:
    text = text_of(data)
    words.json_list(text)
    with suppress(InvalidInput):
        for word in words.split(text):
            words.expand(word, {"X": "1", "a": "$b", "1": "one"})


@target(b"debian:bookworm-slim", b"ghcr.io/a/b:c@sha256:" + b"0" * 64, b"localhost:5000/x", b"python:3.12-slim")
def image_names(data: bytes) -> None:
    with suppress(InvalidInput):
        read = references.parse_reference(text_of(data))
        assert str(references.parse_reference(str(read))) == str(read)
        assert not str(read).startswith("-"), "it is an argument of a program"
        references.debian_base(read)


NAMES = ("a", "b", "a/b", "a/b/c", "../x", "/x", "./a", "a/../../x", ".wh.a", ".wh..wh..opq", ".wh.", ".wh...", "b/../a/b", "c")
LINKS = ("/tmp", "..", "../..", "a", "b", "/", "a/b", "../../../../../../tmp", "{outside}", "{outside}/x", "c")
KINDS = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)


def tar_of(data: bytes, outside: Path) -> bytes:
    """An archive whose members the bytes choose, three for each; names and links are those that attackers use."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for kind, name, link in zip(data[::3], data[1::3], data[2::3], strict=False):
            entry = tarfile.TarInfo(NAMES[name % len(NAMES)])
            entry.type, entry.mode = KINDS[kind % len(KINDS)], 0o4755
            content = b"content" if entry.type == tarfile.REGTYPE else b""
            entry.size = len(content)
            if entry.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                entry.linkname = LINKS[link % len(LINKS)].format(outside=outside)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


@contextmanager
def workshop() -> Iterator[tuple[Path, Path]]:
    """A directory to work in, and one beside it that must stay as it is."""
    with tempfile.TemporaryDirectory(prefix="pilotlight-fuzz-") as made:
        inside, outside = Path(made, "inside"), Path(made, "outside")
        for directory in (inside, outside, inside / "layer", inside / "image", inside / "from"):
            directory.mkdir()
        (outside / "canary").write_text("whole")
        yield inside, outside
        assert [path.name for path in outside.iterdir()] == ["canary"] and (outside / "canary").read_text() == "whole"
        assert not (Path(made) / "x").exists() and not (Path(made).parent / "x").exists()


@target(b"\1\0\x08" + b"\0\2\0", b"\1\0\3\xff\0\2\0", b"\4\0\0\2\1\0\0\1\0")
def archives(data: bytes) -> None:
    """ADD of several archives into one layer; half of them are made of names and links, the rest is what it is."""
    with workshop() as (inside, outside):
        sources = data.split(b"\xff")[:3]
        for number, source in enumerate(sources):
            content = source[1:] if source[:1] == b"!" else tar_of(source, outside)
            (inside / "from" / f"{number}.tar").write_bytes(content)
        (inside / "image" / "c").symlink_to(outside)
        copy = copying.Copy(("*.tar",), "/c/", Tree([inside / "from"]), copying.Owner(-1, -1), unpack_archives=True)
        with suppress(InvalidInput):
            copying.copy(copy, [inside / "image"], inside / "layer")
        _check_tree(inside / "layer")


@target(b"\0\10\0" + b"\0\11\0" + b"\0\13\0", b"\1\0\10\0\2\0", b"\0\12\0")
def layers(data: bytes) -> None:
    """A layer of a registry."""
    with workshop() as (inside, outside):
        (inside / "archive").write_bytes(data[1:] if data[:1] == b"!" else tar_of(data, outside))
        with suppress(InvalidInput):
            asyncio.run(extract(inside / "archive", inside / "layer"))
        shutil.rmtree(inside / "layer")  # it can be removed, whatever it is


def _check_tree(root: Path) -> None:
    for directory, _, found in os.walk(root):
        for name in found:
            mode = os.lstat(os.path.join(directory, name)).st_mode  # noqa: PTH118
            assert not stat.S_ISBLK(mode) and not stat.S_ISCHR(mode)


@target(b"0:0", b"me:us", b"7", "²".encode())
def owners(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="pilotlight-fuzz-") as made:
        user, passwd, group, mode = (part.encode(errors="replace") for part in parts_of(data, 4))
        Path(made, "etc").mkdir()
        Path(made, "etc/passwd").write_bytes(passwd + b"\nme:x:7:8:::\nodd:x:y:z:::\n")
        Path(made, "etc/group").write_bytes(group + b"\nus:x:9:\n")
        with suppress(InvalidInput):
            copying.parse_owner(user.decode(), Tree([Path(made)]), copying.Owner(0, 0))
        with suppress(InvalidInput):
            copying.parse_mode(mode.decode())


@target(b"web:logs", b"33:34", b"web", b"\xffroot:x:0:0:::\n\xffweb:x:1:web\n")
def users_of_images(data: bytes) -> None:
    name, passwd, group = parts_of(data, 3)
    with suppress(InvalidInput):
        found = users.parse_user(name, lambda path: passwd if path == "/etc/passwd" else group)
        assert found.uid >= 0 and found.gid >= 0


@target(b"/root/a.py", b"/a/../b", b"a//./b", b"/")
def mount_paths(data: bytes) -> None:
    with suppress(InvalidInput):
        path = mounts.relative_path(text_of(data))
        assert not path.startswith("/") and not {"..", ".", ""} & set(path.split("/")) and "\0" not in path


# ---- HTTP ----


class _Heads:
    """What a parser tells of the messages in some bytes."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = b""
        self.found: list[tuple[bytes, list[tuple[bytes, bytes]]]] = []
        self.ended = 0

    def on_message_begin(self) -> None:
        self.headers, self.url = [], b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.found.append((self.url, self.headers))

    def on_message_complete(self) -> None:
        self.ended += 1


@target(
    b"GET /a?b HTTP/1.1\r\nHost: a.localhost\r\nConnection: close, x\r\nX: y\r\n\r\n",
    b"POST http://a/ HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
)
def requests(data: bytes) -> None:
    """What goes on to a container is one request, and the one that was judged, whatever came in."""
    told = _Heads()
    parser = httptools.HttpRequestParser(told)
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(data)
    for url, headers in told.found[:1]:
        try:
            head = heads.read_request(parser.get_method(), url, parser.get_http_version(), headers)
        except heads.BadHead:
            return
        sent = heads.request_bytes(head, heads.Peer("192.0.2.1", "http", is_trusted=False), "fc-1")
        again = _Heads()
        reader = httptools.HttpRequestParser(again)
        with suppress(httptools.HttpParserUpgrade):
            reader.feed_data(sent)
        assert len(again.found) == 1, sent
        assert again.found[0][0] == head.target and reader.get_method() == head.method, sent
        names_sent = [name for name, _ in again.found[0][1]]
        assert names_sent.count(b"host") == 1 and names_sent.count(b"content-length") + names_sent.count(b"transfer-encoding") <= 1
        assert names_sent.count(b"x-forwarded-for") == 1 and names_sent.count(b"x-request-id") == 1


@target(
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\nabc",
    b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n",
)
def responses(data: bytes) -> None:
    """What goes back to a client is one response."""
    told = _Heads()
    parser = httptools.HttpResponseParser(told)
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(data)
    for _, headers in told.found[:1]:
        status = parser.get_status_code()
        try:
            framing, _ = heads.read_response(status, parser.get_http_version(), headers, b"GET")
        except heads.BadHead:
            return
        if not 100 <= status <= 599:
            return
        chunked = framing in (heads.Framing.CHUNKED, heads.Framing.CLOSE)
        sent = heads.response_bytes(status, b"Said", headers, framing, "fc-1", is_chunked=chunked, keeps=True)
        again = _Heads()
        reader = httptools.HttpResponseParser(again)
        with suppress(httptools.HttpParserUpgrade):
            reader.feed_data(sent)
        assert len(again.found) == 1 and reader.get_status_code() == status, sent


@target(b"bytes=0-1", b"bytes=-5", b"bytes=7-", b"bytes=1-0,2-3")
def ranges(data: bytes) -> None:
    for size in (0, 1, 10):
        found = blobs.requested_range(data.decode("latin-1"), size)
        assert found is None or found == (0, 0) or 0 <= found[0] < found[1] <= size


@target(
    b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;"
    + b"0" * 32
    + b"&quot;</ETag></Part></CompleteMultipartUpload>",
    b"<a xmlns='x'><Part><PartNumber>\xc2\xb2</PartNumber></Part></a>",
    b"<a><Part><PartNumber>" + b"9" * 5000 + b"</PartNumber></Part></a>",
)
def completions(data: bytes) -> None:
    with suppress(InvalidInput):
        assert all(number >= 0 for number in completion.parse(data))


@target(b"a.localhost:80\xfflocalhost", b"[::1]:9\xffx", b"shop.example.org\xffexample.com", b"xn--a\xff")
def host_names(data: bytes) -> None:
    header, domain = parts_of(data, 2)
    name = hosts.host_name(header)
    assert hosts.label_of(name, domain or "localhost") != ""
    with suppress(InvalidInput):
        hosts.check_custom_domain(header, domain or "localhost", "Function 'f'")
    client = ("127.0.0.1", 1)
    forwarded.client_and_scheme({b"x-forwarded-for": data, b"x-forwarded-proto": data}, client, "http")


@target(b"https://example.org/x", b"http://[::1]:1/", b"http://0x7f.1/", b"http://a:b@c/#d", b"https://\xe2\x84\xa1/")
def webhook_urls(data: bytes) -> None:
    for allow in (True, False):
        with suppress(InvalidInput):
            webhooks.check_url(text_of(data), allow_private=allow)


# ---- our own protocol, and that of the client ----


class _Wire:
    """A transport that keeps what happens to it."""

    is_over = False

    def abort(self) -> None:
        self.is_over = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.is_over


def _frame(message: Any) -> bytes:
    data = message.SerializeToString()
    return struct.pack("!I", len(data)) + data


@target(
    _frame(platform_pb2.NodeEvent(task_ready=platform_pb2.TaskReady(task_id="ta-1"))) * 2,
    _frame(platform_pb2.NodeEvent()) + b"\0\0\0\5abc",
    b"\xff\xff\xff\xff",
)
def frames(data: bytes) -> None:
    """However the bytes are cut, the same messages come of them."""

    async def read(pieces: list[bytes]) -> tuple[list[bytes], bool]:
        wire, stream = _Wire(), Frames(platform_pb2.NodeEvent)
        stream.connection_made(wire)  # type: ignore[arg-type]
        for piece in pieces:
            if not wire.is_over:
                stream.data_received(piece)
        stream.connection_lost(None)
        taken: list[bytes] = []
        while (message := await stream.receive()) is not None:
            taken.append(message.SerializeToString(deterministic=True))
        return taken, wire.is_over

    chance = random.Random(len(data))
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(5))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert asyncio.run(read([data])) == asyncio.run(read(pieces))


@target(b"\n\5fc-12rest", b"\n\2\xff\xff", b"\n")
def leading_strings(data: bytes) -> None:
    found = raw.leading_string(data, 1)
    with suppress(DecodeError):
        read = api_pb2.FunctionCallPutDataRequest.FromString(data)
        if found is not None and data[2 + data[1] :] == b"":
            assert read.function_call_id == found


@target(
    api_pb2.FunctionCallPutDataRequest(
        function_call_id="fc-1", data_chunks=[api_pb2.DataChunk(data_format=4, data=b"x", index=1)]
    ).SerializeToString(),
    api_pb2.Asgi(http_response_body=api_pb2.Asgi.HttpResponseBody(body=b"x", more_body=True)).SerializeToString(),
)
def chunks_of_containers(data: bytes) -> None:
    """What is read field by field because it is large means the same as what protobuf reads."""
    _same_by_fields(data, lambda given: [bytes(chunk.data) for chunk in messages.chunks_of(given)])
    _same_by_fields(data, _body_of)


def _body_of(data: bytes) -> list[bytes]:
    found = messages.message_of(data)
    return [bytes(found.body if isinstance(found, messages.Piece) else found.http_response_body.body)]


def _same_by_fields(data: bytes, read: Callable[[bytes], list[bytes]]) -> None:
    """By protobuf alone, and then by fields."""
    usual = messages._LARGE_BYTES  # pyright: ignore[reportPrivateUsage]
    by_protobuf = None
    with suppress(DecodeError, UnicodeDecodeError):
        by_protobuf = read(data)
    messages._LARGE_BYTES = -1  # pyright: ignore[reportPrivateUsage]
    try:
        by_fields = read(data)
    except DecodeError:
        return
    finally:
        messages._LARGE_BYTES = usual  # pyright: ignore[reportPrivateUsage]
    if by_protobuf is not None and data == _canonical(data):
        assert by_fields == by_protobuf


def _canonical(data: bytes) -> bytes:
    """As protobuf itself would write it: others may repeat fields, of which the last one counts."""
    for kind in (api_pb2.FunctionCallPutDataRequest, api_pb2.Asgi):
        with suppress(DecodeError):
            if (written := kind.FromString(data).SerializeToString(deterministic=True)) == data:
                return written
    return b""


@target(b"\xa1ax\x01", b"\x82\xf5\xfb\0\0\0\0\0\0\0\0", b"\x81" * 300, b"\xc1\0", b"\x5f\x41a\xff", b"\xf9\x7e\0")
def plain_values(data: bytes) -> None:
    with suppress(plain_results.NotPlain):
        plain_results.to_json(plain_results.from_cbor(data))


@target(
    struct.pack("!6H", 1, 256, 1, 0, 0, 0) + b"\1a\x09localhost\0\0\1\0\1",
    struct.pack("!6H", 1, 256, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
)
def dns_packets(data: bytes) -> None:
    with suppress(dns.MalformedQueryError):
        question = dns.read_question(data)
        for answer in (dns.local_answer(data, question, IPv4Address("169.254.10.1")), dns.server_failure(data, question)):
            assert answer is None or (answer[:2] == data[:2] and len(answer) <= len(data) + 16)


# ---- words of functions ----


@target(b"main\xff\xffapp\xffC.f", b"m\xffs\xffa\xff\xff" + b"x" * 80, "ß\xffİ".encode("latin-1", "ignore"))
def labels_of_functions(data: bytes) -> None:
    workspace, suffix, app, function, requested, ephemeral = parts_of(data, 6)
    made = labels.label_of(
        workspace=workspace, web_suffix=suffix, app=app, function=function, requested=requested, ephemeral_suffix=ephemeral
    )
    assert LABEL.fullmatch(made.text), made
    for check in (lambda: names.check_object_name(app, "app"), lambda: names.check_environment_name(workspace)):
        with suppress(InvalidInput):
            check()
    with suppress(InvalidInput):
        node_labels.parse_labels(text_of(data))


@target(b"*/5 * * * *\xffUTC", b"0 0 29 2 1#5\xffEurope/Berlin", b"@daily\xff../../etc/passwd", b"1-5/2,7 L * JAN MON\xff")
def cron(data: bytes) -> None:
    expression, zone = parts_of(data, 2)
    schedule = schedules.Cron(expression, zone or "UTC")
    period = schedules.Period(len(data) * 997, timedelta(microseconds=int.from_bytes(data[:8], "little", signed=True)))
    with suppress(InvalidInput):
        schedules.check(period, "f")
        schedules.look(period, schedules.first_due(period, 1_700_000_000.0), 1_700_000_100.0)
    with suppress(InvalidInput):
        schedules.check(schedule, "f")
        due = schedules.first_due(schedule, 1_700_000_000.0)
        assert due > 1_700_000_000.0
        schedules.look(schedule, min(due, 4e9), min(due, 4e9) + 7_200)


@target(b"/a/b", b"a/../b", b"a//", b"\xc3\xa9" * 200, b"a\0")
def volume_paths(data: bytes) -> None:
    path = text_of(data)
    assert volumes.decoded(volumes.encoded(path)) == path
    with suppress(InvalidInput):
        parts = volumes.parse_path(path)
        assert not {"..", ".", ""} & set(parts) and not any("/" in part or "\0" in part for part in parts)
        volumes.shown(parts)
    with suppress(InvalidInput):
        assert volumes.parse_file_path(path)
    mount_path, second = parts_of(data, 2)
    mounted = [volumes.VolumeMount(f"vo-{number}", at) for number, at in enumerate((mount_path, second))]
    with suppress(InvalidInput):
        volumes.check_mounts(mounted, "Function 'f'")


@target(b"bucket\xffhttps://s3.example.org\xffa/b/", b"b\xffhttp://[\xff../", b"-x\xff\xff/")
def bucket_mounts(data: bytes) -> None:
    bucket, endpoint, prefix = parts_of(data, 3)
    with suppress(InvalidInput):
        buckets.check_bucket("Function 'f'", "/mnt", bucket, endpoint, prefix)
        assert not bucket.startswith("-") and ".." not in prefix.split("/")
        buckets.has_no_subdomains(endpoint)
