"""An in-toto Statement v1: what somebody says about files, by their digests."""

from collections.abc import Mapping
from typing import Any

from gemma3build.core.canonical import canonical_json

STATEMENT = "https://in-toto.io/Statement/v1"


def statement(
    subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]
) -> bytes:
    """Return a statement as one line of JSON.

    Args:
        subjects: SHA-256 of each file that it is about, by name.
        predicate_type: URI that says what the predicate means.
        predicate: what is said, JSON values.

    Raises:
        ValueError: in-toto does not allow it.
    """
    # Slow to import, and an idle build has no use for it.
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    found = [
        {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())
    ]
    # What is written is what came in: the library's message makes a float of every whole number.
    descriptors = [ResourceDescriptor(**subject).pb for subject in found]
    Statement(descriptors, predicate_type, dict(predicate)).validate()
    content = {
        "_type": STATEMENT,
        "subject": found,
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return canonical_json(content) + b"\n"
