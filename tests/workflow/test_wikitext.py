"""WikiText-103 as a user gives it: a changed zip is read again, and one that cannot be had ends in a sentence."""

import http.server
import json
import random
import re
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

TEXT = "results/tiny/corpus/text/manifest.json"


def write_zip(path: Path, word: str) -> None:
    with zipfile.ZipFile(path, "w") as content:
        for split in ("train", "valid", "test"):
            lines = "".join(f" \n = {split} {n} = \n \n some {word} words and {n} more \n" for n in range(200))
            content.writestr(f"wikitext-103/wiki.{split}.tokens", lines)


@pytest.fixture(scope="module")
def project(new_project):
    """A project whose overlays of `tiny` take WikiText-103 from a zip beside it, and from an address that is none."""
    project = new_project("wikitext")
    write_zip(project.folder / "mine.zip", "old")
    for name, section in {"file": {"file": "mine.zip"}, "urls": {"urls": ["http://[::1/a.zip"]}}.items():
        tiny = yaml.safe_load((project.folder / "config/tiny.yaml").read_text())
        tiny["corpus"] |= {"source": "wikitext103", "tokeniser": "none", "wikitext103": section | {"sha256": None}}
        (project.folder / f"config/{name}.yaml").write_text(json.dumps(tiny))
    return project


def test_a_changed_zip_is_read_again(project):
    output = project(TEXT, config="config/file.yaml").stdout
    assert output.count("Warning: the text is not WikiText-103 as published (words and line ends: train 2,800, ") == 1
    assert "mine.zip: SHA-256 is " in output
    text = project.folder / "results/tiny/corpus/text/train.txt"
    assert text.read_text().startswith("\n= train 0 =\n\nsome old words and 0 more\n")
    assert not list(project.folder.glob("results/tiny/corpus/*.zip"))
    assert project.jobs(TEXT, config="config/file.yaml") == set()
    write_zip(project.folder / "mine.zip", "new")
    assert project.jobs(TEXT, config="config/file.yaml") == {"corpus_text"}
    project(TEXT, config="config/file.yaml")
    assert "some new words" in text.read_text()


def test_a_failed_download_is_one_sentence_at_the_end(project):
    output = project(TEXT, "--forcerun", "corpus_text", config="config/urls.yaml", check=False).stdout
    (sentence,) = {line for line in output.splitlines() if line.startswith("Error: ")}
    assert sentence.startswith("Error: http://[::1/a.zip: is not a URL (Invalid IPv6 URL); correct corpus.")
    assert "Traceback" not in output


def test_a_run_continues_the_download_that_another_has_begun(project):
    """The server breaks off in the middle and refuses, so the run fails; the next one asks for the rest alone."""
    write_zip(project.folder / "large.zip", " ".join(map(str, random.Random(0).choices(range(10_000), k=3_000))))
    content, asked = (project.folder / "large.zip").read_bytes(), []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            begin = int(wanted[1]) if wanted else 0
            asked.append(begin)
            if len(asked) == 2:
                self.send_error(404)
                return
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            with suppress(ConnectionError):  # the client may have enough
                self.wfile.write(content[begin : 1_000_000 if len(asked) == 1 else None])

        def log_message(self, *arguments):
            pass

    config = json.loads((project.folder / "config/urls.yaml").read_text())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config["corpus"]["wikitext103"]["urls"] = [f"http://127.0.0.1:{server.server_port}/large.zip"]
        config["name"] = "begun"
        (project.folder / "config/begun.yaml").write_text(json.dumps(config))
        target = TEXT.replace("tiny", "begun")
        output = project(target, config="config/begun.yaml", check=False).stdout
        assert "the connection ended after 1000000 of" in output
        assert "the server refuses the download (HTTP status 404, Not Found)" in output
        project(target, config="config/begun.yaml")
        server.shutdown()
    assert asked == [0, 0, 0, 1_000_000]
    kept = project.folder / "results/begun/corpus"
    assert (kept / "wikitext-103-v1.zip").read_bytes() == content
    assert not list(kept.glob(".*.part"))


def test_counts_that_are_given_are_not_believed_once_tokens_are_counted(project):
    """Three tokens are too few for a sample of `tiny`, so the check of the config refuses them."""
    config = json.loads((project.folder / "config/file.yaml").read_text())
    config["corpus"]["token_counts"] = {"train": 3, "valid": 3, "test": 3}
    (project.folder / "config/wrong.yaml").write_text(json.dumps(config))
    said = project("-n", TEXT, config="config/wrong.yaml", check=False).stdout
    assert "Error: config key lm.training.tokens_per_sample: " in said
    manifest = project.folder / "results/tiny/corpus/tokens/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    project("-n", TEXT, config="config/wrong.yaml")
