"""The event loop that the service runs on."""

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop event loop, or one of asyncio where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
