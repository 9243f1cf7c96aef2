"""A server on a thread's own event loop, without signals and limits: `minibill.testing` listens with it."""

import asyncio
import socket
from typing import Self

import uvicorn
from litestar.types import ASGIApp


class InProcessServer(uvicorn.Server):
    """An application that listens on a port of this machine; made by `start`."""

    url: str
    _listening: asyncio.Event
    _task: asyncio.Task[None]

    @classmethod
    async def start(cls, app: ASGIApp, port: int) -> Self:
        """Return a server once it listens. Port 0 is any free port. Raises `OSError`."""
        listener = socket.create_server(("127.0.0.1", port))
        server = cls(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server._listening = asyncio.Event()
        server._task = asyncio.create_task(server.serve([listener]))
        await server._listening.wait()
        return server

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self._listening.set()

    async def stop(self) -> None:
        """Stop listening, and wait for requests in flight."""
        self.should_exit = True
        await self._task
