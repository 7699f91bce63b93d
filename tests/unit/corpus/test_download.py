"""A download that the server refuses, and one that may yet succeed, told by a server of our own."""

import functools
import hashlib
import http.server
import threading
import zipfile

import numpy as np
import pytest

from knnlm.corpus.download import download, wikitext103
from knnlm.errors import KnnlmError


@pytest.fixture
def server():
    """A server that answers with the status of the path, and for `/403/503/200` with 403, then 503, then 200."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            statuses = self.path.strip("/").split("/")
            seen = self.server.asked
            status = int(statuses[min(len(seen), len(statuses) - 1)])
            seen.append(status)
            self.send_response(status)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"text")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as started:
        started.asked = []
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def url_of(server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.mark.parametrize(("status", "reason"), [(403, "Forbidden"), (404, "Not Found"), (410, "Gone")])
def test_a_refusal_is_told_with_its_number_and_not_tried_again(server, status, reason, tmp_path, capsys):
    url = url_of(server, str(status))
    with pytest.raises(KnnlmError) as caught:
        download(url, tmp_path / "kept.zip", None, wait=0.001)
    said = str(caught.value)
    assert said.startswith(f"{url}: the server refuses the download (HTTP status {status}, {reason}); ")
    assert "correct corpus.wikitext103.url" in said
    assert f"put it at {tmp_path}/kept.zip" in said
    assert "network access" not in said
    assert server.asked == [status]
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("statuses", ["503/200", "429/500/200", "408/200"])
def test_what_may_yet_succeed_is_tried_again(server, statuses, tmp_path, capsys):
    download(url_of(server, statuses), tmp_path / "kept.zip", None, wait=0.001)
    assert (tmp_path / "kept.zip").read_bytes() == b"text"
    *failed, _ = map(int, statuses.split("/"))
    told = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert [f"HTTP status {status}" in line for status, line in zip(failed, told, strict=True)] == [True] * len(failed)


def test_the_last_failure_is_told_with_its_number(server, tmp_path):
    with pytest.raises(KnnlmError, match=r"could not be downloaded \(HTTP status 503, Service Unavailable\)"):
        download(url_of(server, "503"), tmp_path / "kept.zip", None, wait=0.001)
    assert server.asked == [503] * 4


def test_wikitext_over_http(archive, tmp_path, run_step):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=archive.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/wiki.zip"
        run_step(tmp_path / "out", {"source": "wikitext103", "wikitext103": {"url": url, "sha256": digest}})
        server.shutdown()
    assert (tmp_path / "out/wikitext-103-v1.zip").read_bytes() == archive.read_bytes()
    assert (tmp_path / "out/text/valid.txt").read_text().split("\n") == [
        " ".join(line.split())
        for line in zipfile.Path(archive, "wikitext-103/wiki.valid.tokens").read_text().split("\n")
    ]
    assert np.load(tmp_path / "out/text/valid.documents.npy").tolist() == [0, 7, 10]


def test_wikitext_offline_says_what_to_do(tmp_path, capsys):
    url = (tmp_path / "absent.zip").as_uri()
    with pytest.raises(KnnlmError, match=r"could not be downloaded .*put it at .*kept\.zip, or .*tokeniser none"):
        download(url, tmp_path / "kept.zip", None, wait=0.001)
    assert capsys.readouterr().err.count("trying again") == 3
    assert list(tmp_path.iterdir()) == []


def test_wikitext_checksum_and_damage(archive, tmp_path, capsys):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    kept = tmp_path / "kept.zip"
    with pytest.raises(KnnlmError, match=rf"SHA-256 is {digest}, but .*{'0' * 64}"):
        wikitext103(archive.as_uri(), "0" * 64, kept)
    assert not kept.exists()
    wikitext103(archive.as_uri(), None, kept)
    assert digest in capsys.readouterr().err
    kept.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(KnnlmError, match=r"kept\.zip: SHA-256"):
        wikitext103(archive.as_uri(), digest, kept)
    with pytest.raises(KnnlmError, match=r"kept\.zip: not the zip"):
        wikitext103(archive.as_uri(), None, kept)
