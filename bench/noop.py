"""The no-op server, a baseline: the cost of framework and server alone. `python -m bench.noop` serves it.

It has the Litestar and uvicorn settings of `minibill serve`, decodes a body strictly, and returns a few bytes of JSON.
"""

import asyncio
import socket
from typing import Any

import msgspec
import uvicorn
import uvloop
from litestar import Litestar, Request, Response, get, post

from minibill.api.decoding import Decoder
from minibill.campaigns.schemas import BatchBody
from minibill.charges.schemas import ChargeBatchBody


class Small(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A body with the size of a mint."""

    amount_micro: str
    source_type: str


class Done(msgspec.Struct):
    done: int


_SMALL, _BATCH, _CHARGES = msgspec.json.Decoder(Small, strict=True), Decoder(BatchBody), Decoder(ChargeBatchBody)
_ENCODER = msgspec.json.Encoder()


@post("/small", status_code=200)
async def small(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Decode a body of some 50 bytes."""
    _SMALL.decode(await request.body())
    return _done(1)


@post("/batch", status_code=200)
async def batch(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Decode the body of a batch as minibill does."""
    return _done(len(_BATCH.decode(await request.body()).grants))


@post("/charges", status_code=200)
async def charges(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Decode the body of a batch of charges as minibill does."""
    return _done(len(_CHARGES.decode(await request.body()).charges))


@get("/small")
async def read(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return without reading a body."""
    return _done(0)


def _done(count: int) -> Response[bytes]:
    return Response(_ENCODER.encode(Done(count)), media_type="application/json")


async def _serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2_048)
    app = Litestar([small, batch, charges, read], openapi_config=None, logging_config=None)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, proxy_headers=False)
    print(f"the no-op is listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await uvicorn.Server(config).serve([listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
