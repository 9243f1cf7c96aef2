"""Secrets and signatures of webhooks, as https://www.standardwebhooks.com specifies.

A secret is derived from a master key in the settings, the endpoint and a version. The database holds none, so a copy of the
file cannot sign. A rotation increments the version. During a rotation of a secret or of the master key, both sign.
"""

import base64
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"


def derive_secret(master_key: str, *, webhook_id: int, version: int) -> bytes:
    """Return the 32 bytes that sign the messages of an endpoint."""
    return hmac.digest(master_key.encode(), f"minibill webhook {webhook_id} {version}".encode(), "sha256")


def encode_secret(secret: bytes) -> str:
    """Return a secret in the format of the standard."""
    return PREFIX + base64.b64encode(secret).decode()


def headers(secrets: Sequence[bytes], *, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the signature headers of a message, with one signature per secret; the receiver needs one that matches."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    signatures = [f"v1,{base64.b64encode(hmac.digest(secret, signed, 'sha256')).decode()}" for secret in secrets]
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": " ".join(signatures)}
