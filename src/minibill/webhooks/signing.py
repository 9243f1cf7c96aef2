"""Secrets and signatures of webhooks, by the rules of https://www.standardwebhooks.com.

A secret is derived from a setting, the webhook and a version, so that none is in the database: whoever has the file alone
can't sign. A rotation is the next version. While one is under way, of a webhook's secret or of the setting, both sign.
"""

import base64
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"


def secret_of(setting: str, *, webhook_id: int, version: int) -> bytes:
    """The 32 bytes with which a webhook's messages are signed."""
    return hmac.digest(setting.encode(), f"minibill webhook {webhook_id} {version}".encode(), "sha256")


def encode_secret(secret: bytes) -> str:
    """A secret as a receiver is given it."""
    return PREFIX + base64.b64encode(secret).decode()


def headers(secrets: Sequence[bytes], *, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent a message and when; any one of the secrets will do for the receiver."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    signatures = [f"v1,{base64.b64encode(hmac.digest(secret, signed, 'sha256')).decode()}" for secret in secrets]
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": " ".join(signatures)}
