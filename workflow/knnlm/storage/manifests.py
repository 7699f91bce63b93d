"""Manifests: what is known of a group of files, and the hash by which every reader knows each of them whole.

A manifest is JSON beside its files, written after them. It holds facts (rows, dimension, metric, checkpoint, settings
...), and each file's size and XXH3 hash of 128 bits: made to find damage, not attackers, and faster than any disk.

A file is checked while it is read from beginning to end, or else once before it is mapped into memory. Whoever has
found it whole leaves a note beside it, so that no later process reads it again for that.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from xxhash import xxh3_128

from knnlm.errors import KnnlmError
from knnlm.storage.atomic import atomic

FORMAT = 3  # raised whenever the layout or meaning of a stored file changes
SOFTWARE = ("numpy", "torch", "faiss-cpu", "faiss-gpu", "ve-fairseq")
HASH = "xxh3_128"  # its name in manifests
CHECKED_BY_READERS = (".npy", ".faiss", ".pt")  # what our own readers check; fairseq and Python read the rest unchecked
SECONDS_OF_CHANGE = 2  # a file younger than this may change again without another time to tell it
AGAIN = "delete it and rerun the step that makes it."


def write_manifest(path: str | Path, files: Iterable[str | Path] = (), **facts: object) -> None:
    """Write what is known of a group as JSON: size and hash of each of `files`, facts, and its own checksum."""
    path, known = Path(path), {}
    for file in files:
        known[os.path.relpath(file, path.parent)] = {"bytes": os.path.getsize(file), HASH: _hashed(file, xxh3_128())}
    content = json.loads(json.dumps({"format": FORMAT, **facts, "files": known, "software": software()}))
    with atomic(path) as unfinished:
        unfinished.write_text(json.dumps(content | {"sha256": _checksum(content)}, indent=1) + "\n", encoding="utf-8")


def read_manifest(path: str | Path, **expected: object) -> dict:
    """Return the facts of a manifest, having checked that its files are its own.

    Files that our readers check when they read them (`verified`, `Check`) are looked at for their size alone. Raises
    KnnlmError, naming the file, if the manifest is missing, damaged or of another version, if a fact differs from what
    is expected of it, or if a file of the group is missing or not the one that the manifest was written for.
    """
    facts = _read(path := Path(path))
    for key, value in expected.items():
        if facts.get(key) != value:
            raise KnnlmError(f"{path}: {key} is {facts.get(key)!r}, but {value!r} is needed here; {AGAIN}")
    for name, told in facts["files"].items():
        check = Check(os.path.normpath(path.parent / name), path, told)
        if not name.endswith(CHECKED_BY_READERS):
            check.finish()
    return facts


def check_same_model(path: Path, checkpoint: str, other: Path, other_checkpoint: str) -> None:
    """Refuse two manifests whose files were made with different language models."""
    if checkpoint != other_checkpoint:
        remedy = "delete both and rerun the steps that make them"
        raise KnnlmError(f"{path}: made with another language model than {other}; {remedy}.")


def verified(path: str | Path) -> str:
    """Return the hash of a file, having found the file to be what the manifest beside it tells.

    Raises KnnlmError, naming the file, if it is missing, cut short, damaged, another one or known to no manifest.
    """
    return Check.beside(path).finish()


def content_hash(path: str | Path) -> str:
    """Return the hash of a file that a manifest beside it knows, or else its SHA-256; KnnlmError if it is missing."""
    return known[1][HASH] if (known := _known(path)) else sha256(path)


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    return _hashed(path, hashlib.sha256())


def identity_name(facts: list | dict) -> str:
    """Return a short name, hexadecimal, that belongs to these facts alone."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def software() -> dict[str, str]:
    """Return the versions that a manifest records."""
    found = {"python": platform.python_version()}
    for name in SOFTWARE:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class Check:
    """The check of one file against its manifest, while the file is read from beginning to end.

    `feed` takes its bytes in their order; `finish` reads what was not fed and compares. A file that a note beside it
    tells to be whole, and which has not changed since, is not hashed again.
    """

    def __init__(self, path: str | Path, manifest: Path, told: dict):
        """Compare the size. `told` is what the manifest tells of the file; raises KnnlmError as `verified` does."""
        self.path, self.manifest, self.told = Path(path), manifest, told
        # The note says in which state the file was found whole, and with which hash.
        self.note = self.path.with_name(f".{self.path.name}.checked")
        self.hash, self.fed, self.state = xxh3_128(), 0, _state(path)
        if self.state[1] != told["bytes"]:
            raise self._another()

    @classmethod
    def beside(cls, path: str | Path) -> "Check":
        """Return the check of a file against the manifest beside it; raises KnnlmError as `verified` does."""
        if known := _known(path):
            return cls(path, *known)
        raise KnnlmError(f"{path}: no manifest beside it knows it; {AGAIN}")

    @cached_property
    def is_whole(self) -> bool:
        """Whether the file is known to be whole: by its note, and when `finish` has found it so."""
        try:
            return json.loads(self.note.read_text(encoding="utf-8")) == [*self.state, self.told[HASH]]
        except (OSError, ValueError):
            return False

    def feed(self, part: object) -> None:
        """Take the next bytes of the file, any object with the buffer protocol that is contiguous."""
        if not self.is_whole:
            part = memoryview(part)
            self.hash.update(part)
            self.fed += part.nbytes

    def finish(self) -> str:
        """Return the hash, having read the rest of the file; raises KnnlmError, naming it, if it is not as it was."""
        if not self.is_whole:
            self.compare()
            self._leave_note()
        return self.told[HASH]

    def compare(self) -> None:
        """Check as `finish` does, but leave no note: for a file that nobody reads again."""
        if self.is_whole:
            return
        try:
            found = _hashed(self.path, self.hash, self.fed)
        except OSError as error:
            raise _unreadable(self.path, error) from None
        self.is_whole = found == self.told[HASH]
        if not self.is_whole:
            raise self._another()

    def _another(self) -> KnnlmError:
        return KnnlmError(f"{self.path}: not as it was when {self.manifest} was written; {AGAIN}")

    def _leave_note(self) -> None:
        """Note that the file is whole as it is now, unless it changed meanwhile; without the right to write, do not."""
        is_old = time.time_ns() - max(self.state[2:]) > SECONDS_OF_CHANGE * 10**9
        with suppress(OSError, KnnlmError):
            if is_old and _state(self.path) == self.state:
                with atomic(self.note) as unfinished:
                    unfinished.write_text(json.dumps([*self.state, self.told[HASH]]), encoding="utf-8")


def _known(path: str | Path) -> tuple[Path, dict] | None:
    """Return the manifest that knows a file, and its content: for `a.b.npy` `a.b.json`, `a.json` or `manifest.json`."""
    path = Path(path)
    _state(path)
    stems = path.name.split(".")[:-1]
    for name in [".".join(stems[:length]) for length in range(len(stems), 0, -1)] + ["manifest"]:
        manifest = path.with_name(f"{name}.json")
        if manifest.exists() and (told := _read(manifest)["files"].get(path.name)) is not None:
            return manifest, told
    return None


def _read(path: Path) -> dict:
    """Return the facts of a manifest that is whole and of this version."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KnnlmError(f"{path}: the manifest is missing; rerun the step that makes it.") from None
    except (ValueError, OSError):
        facts = None
    if not isinstance(facts, dict):
        raise KnnlmError(f"{path}: not a readable manifest; {AGAIN}")
    if (have := facts.get("format")) != FORMAT:
        raise KnnlmError(f"{path}: format is {have!r}, of another version, but {FORMAT} is needed here; {AGAIN}")
    if facts.get("sha256") != _checksum(facts):
        raise KnnlmError(f"{path}: damaged (its content does not have the checksum it tells); {AGAIN}")
    return facts


def _checksum(facts: dict) -> str:
    """Return the SHA-256 of a manifest's facts, apart from itself."""
    others = {key: facts[key] for key in facts if key != "sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _state(path: str | Path) -> list[int]:
    """Return what changes with a file: its inode, its size in bytes, and when content and inode changed last, in ns."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise KnnlmError(f"{path}: the file is missing; rerun the step that makes it.") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _unreadable(path: str | Path, error: OSError) -> KnnlmError:
    return KnnlmError(f"{path}: cannot be read ({error.strerror}); {AGAIN}")


def _hashed(path: str | Path, hashing: object, begin: int = 0) -> str:
    """Return the hexadecimal hash of what `hashing` has taken before and the bytes of a file from `begin` on."""
    with open(path, "rb", buffering=0) as file:
        file.seek(begin)
        return hashlib.file_digest(file, lambda: hashing).hexdigest()
