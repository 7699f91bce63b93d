"""Downloads from a server of our own that breaks off, changes its mind, is slow, sends something else or refuses."""

import hashlib
import http.server
import io
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from knnlm.corpus.download import AGENT, download
from knnlm.errors import KnnlmError


@dataclass
class Served:
    """A file as a server has it, and how the server behaves; each answer is told in `asked` as (status, begin)."""

    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"1"'})
    statuses: list[int] = field(default_factory=list)  # of the first answers; the others are 200 or 206
    breaks: list[int] = field(default_factory=list)  # bytes after which the first answers with content break off
    has_ranges: bool = True
    says_length: bool = True
    only_for: str = ""  # what the user agent must begin with
    seconds: float = 0.0  # of silence before an answer
    change: Callable[["Served"], None] | None = None  # once a part has been sent
    asked: list[tuple[int, int]] = field(default_factory=list)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        time.sleep(self.seconds)
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        begin = int(wanted[1]) if wanted and self.has_ranges else 0
        status = self.statuses.pop(0) if self.statuses else 206 if begin else 200
        if not handler.headers["User-Agent"].startswith(self.only_for):
            status = 403
        self.asked.append((status, begin))
        handler.send_response(status)
        content = self.body[begin:] if status in (200, 206) else b"sorry"
        for name, value in self.headers.items():
            handler.send_header(name, value)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {begin}-{len(self.body) - 1}/{len(self.body)}")
        if self.says_length:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        first = self.breaks.pop(0) if self.breaks and status in (200, 206) else len(content)
        handler.wfile.write(content[:first])
        if first < len(content) and self.change:
            self.change(self)


@pytest.fixture
def server() -> Iterator[Callable[[Served], str]]:
    """The function that serves a file, and returns its address."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with suppress(ConnectionError):  # the client has enough
                files[self.path].answer(self)

        def log_message(self, *arguments):
            pass

    files: dict[str, Served] = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()

        def serve(served: Served) -> str:
            files[path := f"/{len(files)}.zip"] = served
            return f"http://127.0.0.1:{started.server_port}{path}"

        yield serve
        started.shutdown()


@pytest.fixture
def body(archive) -> bytes:
    """The small archive with 3 MiB of noise, so that it has a middle."""
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr("noise", np.random.default_rng(0).bytes(3 << 20))
    return archive.read_bytes()


def fetched(tmp_path: Path, *urls: str, body: bytes | None = None, limit: float = 10) -> bytes:
    """Download from these addresses, checked by the SHA-256 of `body`, and return what has arrived."""
    checksum = None if body is None else hashlib.sha256(body).hexdigest()
    download(urls, tmp_path / "kept.zip", checksum, wait=0.001, limit=limit)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["kept.zip"]
    return (tmp_path / "kept.zip").read_bytes()


def refusal(tmp_path: Path, *urls: str, body: bytes | None = None, limit: float = 10) -> str:
    """Return the one sentence in which a download ends."""
    with pytest.raises(KnnlmError) as caught:
        fetched(tmp_path, *urls, body=body, limit=limit)
    said = str(caught.value)
    assert said.endswith(".")
    assert said.isprintable()
    assert not (tmp_path / "kept.zip").exists()
    return said


@pytest.mark.parametrize(("status", "reason"), [(403, "Forbidden"), (404, "Not Found"), (410, "Gone")])
def test_a_refusal_is_told_with_its_number_and_not_tried_again(server, status, reason, tmp_path, capsys):
    url = server(served := Served(b"", statuses=[status] * 9))
    said = refusal(tmp_path, url)
    assert said.startswith(f"{url}: the server refuses the download (HTTP status {status}, {reason}); ")
    assert "correct corpus.wikitext103.url" in said
    assert "name it in corpus.wikitext103.file" in said
    assert f"put it at {tmp_path}/kept.zip" in said
    assert "network access" not in said
    assert served.asked == [(status, 0)]
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == [tmp_path / "served"] * (tmp_path / "served").exists()


@pytest.mark.parametrize("failed", [[503], [429, 500], [408]])
def test_what_may_yet_succeed_is_tried_again(server, failed, body, tmp_path, capsys):
    assert fetched(tmp_path, server(Served(body, statuses=list(failed)))) == body
    told = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert [f"HTTP status {status}" in line for status, line in zip(failed, told, strict=True)] == [True] * len(failed)


def test_the_last_failure_is_told_with_its_number(server, tmp_path):
    served = Served(b"", statuses=[503] * 9)
    assert "could not be downloaded (HTTP status 503, Service Unavailable)" in refusal(tmp_path, server(served))
    assert [status for status, _ in served.asked] == [503] * 4


def test_a_server_that_refuses_python_knows_our_name(server, body, tmp_path):
    version = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["version"]
    assert f"why-knnlm/{version}" == AGENT
    assert fetched(tmp_path, server(Served(body, only_for=AGENT)), body=body) == body


@pytest.mark.parametrize("headers", [{"ETag": '"1"'}, {"Last-Modified": "Mon, 26 Sep 2016 00:00:00 GMT"}, {}])
def test_a_broken_download_is_continued(server, headers, body, tmp_path, capsys):
    served = Served(body, headers=headers, breaks=[1_500_000, 1 << 30, 500_000])
    assert fetched(tmp_path, server(served), body=body) == body
    # a request to see whether the file is still the same goes before each continuation
    assert served.asked == [(200, 0), (200, 0), (206, 1_500_000), (200, 0), (206, 2_000_000)]
    assert f"the connection ended after 1500000 of {len(body)} bytes; trying again" in capsys.readouterr().err


def test_a_download_that_keeps_breaking_but_moves_on_arrives(server, body, tmp_path):
    breaks = [number for _ in range(9) for number in (300_000, 1 << 30)]
    served = Served(body, breaks=breaks)
    assert fetched(tmp_path, server(served), body=body) == body
    assert len(served.asked) > 16


def test_a_part_that_another_job_has_left_is_continued(server, body, tmp_path):
    """Four attempts without anything new end the first job, and the second finds its part."""
    url = server(served := Served(body, breaks=[2_000_000, *[0] * 99]))
    assert "the connection ended after 2000000 of" in refusal(tmp_path, url, body=body)
    served.breaks, served.asked = [], []
    assert fetched(tmp_path, url, body=body) == body
    assert served.asked == [(200, 0), (206, 2_000_000)]


def test_a_part_that_is_whole_is_taken(server, body, tmp_path):
    """A job may be killed before the file has its name."""
    url = server(served := Served(body, breaks=[2_000_000, *[0] * 99]))
    refusal(tmp_path, url, body=body)
    (part,) = tmp_path.glob(".kept.zip.*.part")
    part.write_bytes(body)
    served.breaks, served.asked = [], []
    assert fetched(tmp_path, url, body=body) == body
    assert served.asked == [(200, 0)]


def test_without_ranges_a_download_begins_anew(server, body, tmp_path):
    served = Served(body, has_ranges=False, breaks=[2_000_000, 1 << 30, 1_000_000])
    assert fetched(tmp_path, server(served), body=body) == body
    assert {begin for _, begin in served.asked} == {0}
    served = Served(body, has_ranges=False, breaks=[1_000_000] * 99)
    assert "could not be downloaded (the connection ended after" in refusal(tmp_path / "other", server(served))


def test_a_download_of_unknown_length_arrives(server, body, tmp_path):
    assert fetched(tmp_path, server(Served(body, says_length=False)), body=body) == body


@pytest.mark.parametrize("says", ["the change", "nothing"])
def test_a_file_that_changes_between_two_halves_is_not_glued_together(says, server, body, tmp_path, capsys):
    other = bytearray(body)
    other[100:200] = bytes(100)

    def change(served: Served) -> None:
        served.body = body
        if says == "the change":
            served.headers = {"ETag": '"2"'}

    served = Served(bytes(other), breaks=[2_000_000], change=change)
    assert fetched(tmp_path, server(served), body=body) == body
    assert ("the parts make no whole" in capsys.readouterr().err) == (says == "nothing")


def test_a_file_that_changes_between_the_question_and_the_rest_is_asked_for_again(server, body, tmp_path, capsys):
    served = Served(body, breaks=[2_000_000])
    url = server(served)
    tags = iter(['"1"', '"1"', '"2"'])
    send = served.answer

    def answer(handler) -> None:
        served.headers = {"ETag": next(tags, '"2"')}
        send(handler)

    served.answer = answer
    assert fetched(tmp_path, url, body=body) == body
    assert "the file has changed in the meantime" in capsys.readouterr().err


def test_addresses_are_tried_in_turn_and_each_failure_is_told(server, body, tmp_path, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    page, other = b"<!DOCTYPE html><html>sign in</html>", zip_of("another")
    bad = {
        server(Served(b"", statuses=[404] * 9)): "the server refuses the download (HTTP status 404, Not Found)",
        server(
            Served(page, headers={"Content-Type": "text/html"})
        ): "not a whole zip (it begins with b'<!DOCTYPE html>",
        server(Served(other)): f"SHA-256 is {hashlib.sha256(other).hexdigest()}, but corpus.wikitext103.sha256 is",
        server(Served(body[:-40])): "not a whole zip (it begins with b'PK",
        f"http://127.0.0.1:{port}/": "could not be downloaded ([Errno 111] Connection refused)",
        "http://[::1/": "is not a URL (",
        "http://localhost:port/": "is not a URL (",
        f"http://{'a' * 70}.org/": "is not a URL (",
        "http://no-such-host.invalid/": "could not be downloaded ([Errno",
        (tmp_path / "absent.zip").as_uri(): "could not be downloaded ([Errno 2] No such file or directory",
    }
    said = refusal(tmp_path, *bad, body=body)
    for url, reason in bad.items():
        assert said.count(f"{url}: ") == 1
        assert reason in said.partition(f"{url}: ")[2].partition("; ")[0]
    assert capsys.readouterr().err.count("trying the next address") == len(bad) - 1
    assert not list(tmp_path.glob(".kept*"))
    good = server(Served(body))
    assert fetched(tmp_path, *bad, good, body=body) == body


def zip_of(text: str) -> bytes:
    """Return the bytes of a zip that is none of WikiText's."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as content:
        content.writestr("other.txt", text)
    return file.getvalue()


def test_redirects_are_followed_also_by_a_continuation(server, body, tmp_path):
    served = Served(body, breaks=[2_000_000])
    target = server(served)
    moved = Served(b"", headers={"Location": target}, statuses=[302] * 9)
    assert fetched(tmp_path, server(moved), body=body) == body
    assert served.asked == [(200, 0), (200, 0), (206, 2_000_000)]
    circle = Served(b"", statuses=[302] * 99)
    url = server(circle)
    circle.headers = {"Location": url}
    assert "refuses the download (HTTP status 302" in refusal(tmp_path / "other", url)
    away = server(Served(b"", headers={"Location": "file:///etc/passwd"}, statuses=[302] * 9))
    assert "refuses the download (HTTP status 302" in refusal(tmp_path / "other", away)


def test_a_slow_server_is_left_for_the_next(server, body, tmp_path):
    slow, quick = server(Served(body, seconds=0.4)), server(Served(body))
    assert "could not be downloaded (timed out)" in refusal(tmp_path, slow, limit=0.05)
    assert fetched(tmp_path, slow, quick, body=body, limit=0.05) == body
    (tmp_path / "kept.zip").unlink()
    assert fetched(tmp_path, slow, body=body, limit=10) == body


def test_a_full_disk_is_no_failure_of_the_address(server, body, tmp_path):
    """The part stays, for when there is room."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    url = server(served := Served(body))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            fetched(tmp_path, url, body=body)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        signal.signal(signal.SIGXFSZ, handler)
    (part,) = tmp_path.glob(".kept.zip.*.part")
    assert caught.value.filename == str(part)
    begin = part.stat().st_size
    assert 1_000_000 < begin <= 2_000_000
    assert fetched(tmp_path, url, body=body) == body
    assert served.asked == [(200, 0), (200, 0), (206, begin)]


def test_a_killed_job_leaves_what_the_next_one_continues(server, body, tmp_path):
    reached = threading.Event()

    class Halting(Served):
        def answer(self, handler) -> None:
            if not self.asked:
                self.asked.append((200, 0))
                handler.send_response(200)
                handler.send_header("ETag", '"1"')
                handler.send_header("Content-Length", str(len(self.body)))
                handler.end_headers()
                handler.wfile.write(self.body[:2_000_000])
                reached.wait(60)
            else:
                super().answer(handler)

    served = Halting(body)
    url = server(served)
    code = "import sys; from pathlib import Path; from knnlm.corpus.download import download; "
    code += f"download([{url!r}], Path({str(tmp_path / 'kept.zip')!r}), None)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "workflow")}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL) as job:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if sum(part.stat().st_size for part in tmp_path.glob(".kept.zip.*.part")) > 1_500_000:
                break
            time.sleep(0.02)
        job.kill()
    reached.set()
    assert not (tmp_path / "kept.zip").exists()
    assert fetched(tmp_path, url, body=body) == body
    _, _, (status, begin) = served.asked
    assert status == 206
    assert 1_500_000 < begin <= 2_000_000


def test_wikitext_offline_says_what_to_do(tmp_path, capsys):
    url = (tmp_path / "absent.zip").as_uri()
    with pytest.raises(KnnlmError, match=r"could not be downloaded .*put it at .*kept\.zip, or .*tokeniser none"):
        download([url], tmp_path / "kept.zip", None, wait=0.001)
    assert capsys.readouterr().err.count("trying again") == 3
    assert list(tmp_path.iterdir()) == []
