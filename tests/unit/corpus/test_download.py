"""A download that the server refuses, and one that may yet succeed, told by a server of our own."""

import http.server
import threading

import pytest

from knnlm.corpus.download import download
from knnlm.errors import KnnlmError


@pytest.fixture
def server():
    """A server that answers with the status that the path names, and `/403/503/200` first with 403, then with 503 ..."""

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
