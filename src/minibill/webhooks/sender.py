"""Sending one message: to the address that was found good, and nowhere else whatever the answer says."""

import asyncio
import ssl
from typing import NamedTuple

import httpx

import minibill
from minibill.webhooks.url_policy import BadUrl, Network, resolve, target_of

# For all of it: the name, the connection and the answer.
SEND_SECONDS_MAX = 15

# Of an answer only the status counts; the rest is let go after so much.
ANSWER_BYTES_MAX = 65_536

# A receiver that asks for more time than this is asked again all the same.
RETRY_AFTER_SECONDS_MAX = 3_600

CONNECTIONS_MAX = 100


class EndpointResponse(NamedTuple):
    """What came of it. `status` None: no answer; `error` None: accepted; `retry_after_s` 0: the receiver named none."""

    status: int | None
    error: str | None
    retry_after_s: int = 0


class Sender:
    """Sends the messages of one webhook, over connections that are kept for a while.

    Connections are pooled by address, not by name. Each webhook has a pool of its own, so that every message goes over a
    connection whose certificate was verified for the webhook's host.
    """

    def __init__(self, *, allowed: tuple[Network, ...], tls: ssl.SSLContext) -> None:
        self._allowed = allowed
        self._client = _new_client(tls)

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> EndpointResponse:
        """Sends a message. Raises nothing: whatever goes wrong is an answer with an error."""
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                return await self._post(url, headers, body)
        except BadUrl as error:
            return EndpointResponse(None, str(error))
        except TimeoutError:
            return EndpointResponse(None, f"no answer within {SEND_SECONDS_MAX} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return EndpointResponse(None, f"{type(error).__name__}: {error}"[:200])

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._client.aclose()

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> EndpointResponse:
        target = target_of(url)
        address = await resolve(target, allowed=self._allowed)
        host = f"[{address}]" if address.version == 6 else str(address)
        request = self._client.build_request(
            "POST",
            f"{target.scheme}://{host}:{target.port}{target.path}",
            headers={"Host": target.authority, "Content-Type": "application/json", **headers},
            content=body,
            # The certificate must be that of the name.
            extensions={"sni_hostname": target.host},
        )
        response = await self._client.send(request, stream=True)
        try:
            size = 0
            async for part in response.aiter_raw():
                size += len(part)
                if size > ANSWER_BYTES_MAX:
                    break
        finally:
            await response.aclose()
        if response.is_success:
            return EndpointResponse(response.status_code, None)
        return EndpointResponse(response.status_code, f"answered {response.status_code}", _retry_after_s(response))


def new_tls() -> ssl.SSLContext:
    """Return the TLS settings of all senders. Reading the authorities' certificates takes some tens of milliseconds."""
    return httpx.create_ssl_context(trust_env=False)


def _new_client(tls: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=tls,
        # Neither a proxy of the environment nor a redirect may lead elsewhere.
        trust_env=False,
        follow_redirects=False,
        timeout=SEND_SECONDS_MAX,
        limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX, keepalive_expiry=10),
        headers={"User-Agent": f"minibill/{minibill.__version__}", "Accept-Encoding": "identity"},
    )


def _retry_after_s(response: httpx.Response) -> int:
    text = response.headers.get("retry-after", "")
    return min(int(text), RETRY_AFTER_SECONDS_MAX) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
