"""HTTP client of webhooks: send a message to an address that the URL policy allows, without redirects or proxies."""

import asyncio
import ssl
from typing import NamedTuple

import httpx

import minibill
from minibill.webhooks.url_policy import BadUrl, Network, resolve, target_of

# For the look-up of the name, the connection and the response together.
SEND_SECONDS_MAX = 15

# Only the status counts; a longer response is not read to its end.
RESPONSE_BYTES_MAX = 65_536

# A longer Retry-After is shortened to this.
RETRY_AFTER_SECONDS_MAX = 3_600

CONNECTIONS_MAX = 100


class EndpointResponse(NamedTuple):
    """The response to a message: `status` is None without a response, `error` is None if the message was accepted."""

    status: int | None
    error: str | None
    # From the Retry-After header, 0 without one.
    retry_after_s: int = 0


class Sender:
    """Send the messages of one endpoint over pooled connections.

    httpx pools connections by address, not by name. Each endpoint has its own pool, so every message uses a connection whose
    certificate was verified for the endpoint's host.
    """

    def __init__(self, *, allowed: tuple[Network, ...], tls: ssl.SSLContext) -> None:
        self._allowed = allowed
        self._client = _new_client(tls)

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> EndpointResponse:
        """Send a message. Network errors are returned as `error`, not raised."""
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                return await self._post(url, headers, body)
        except BadUrl as error:
            return EndpointResponse(None, str(error))
        except TimeoutError:
            return EndpointResponse(None, f"no response within {SEND_SECONDS_MAX} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return EndpointResponse(None, f"{type(error).__name__}: {error}"[:200])

    async def close(self) -> None:
        """Close the connections."""
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
            # The URL has the address, so the certificate is verified for the name here.
            extensions={"sni_hostname": target.host},
        )
        response = await self._client.send(request, stream=True)
        try:
            size = 0
            async for part in response.aiter_raw():
                size += len(part)
                if size > RESPONSE_BYTES_MAX:
                    break
        finally:
            await response.aclose()
        if response.is_success:
            return EndpointResponse(response.status_code, None)
        return EndpointResponse(response.status_code, f"responded {response.status_code}", _retry_after_s(response))


def new_tls() -> ssl.SSLContext:
    """Return the TLS settings of all senders. Reading the CA certificates takes tens of milliseconds."""
    return httpx.create_ssl_context(trust_env=False)


def _new_client(tls: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=tls,
        # A proxy from the environment or a redirect could reach an address that the URL policy forbids.
        trust_env=False,
        follow_redirects=False,
        timeout=SEND_SECONDS_MAX,
        limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX, keepalive_expiry=10),
        headers={"User-Agent": f"minibill/{minibill.__version__}", "Accept-Encoding": "identity"},
    )


def _retry_after_s(response: httpx.Response) -> int:
    text = response.headers.get("retry-after", "")
    return min(int(text), RETRY_AFTER_SECONDS_MAX) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
