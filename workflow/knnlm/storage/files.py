"""Arrays and manifests under one name, until every module imports them from where they are."""

from knnlm.storage.arrays import load_array, new_array, save_array
from knnlm.storage.atomic import atomic, naming
from knnlm.storage.manifests import (
    check_same_model,
    content_hash,
    identity_name,
    read_manifest,
    sha256,
    software,
    write_manifest,
)

__all__ = [
    "atomic",
    "check_same_model",
    "content_hash",
    "identity_name",
    "load_array",
    "naming",
    "new_array",
    "read_manifest",
    "save_array",
    "sha256",
    "software",
    "write_manifest",
]
