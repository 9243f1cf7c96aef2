"""A Python client of a running minibill: `Client`, and `AsyncClient` for asyncio.

    from minibill.client import Client

    with Client("http://127.0.0.1:8080", token) as book:
        account = book.open_account("person", "ada")
        book.mint(account.id, 5_000_000, source_type="deposit", source_id="order-7")
        for entry in book.history(account.id):
            print(entry.entry_type, entry.amount_micro)

Responses are structs with the names of the API in snake_case. An error response is raised as the class of
`minibill.core.problems` with its code, such as `InsufficientBalance`.
"""

from minibill.api.types import Entity
from minibill.client._async.http import AsyncClient
from minibill.client._sync.http import Client
from minibill.client.errors import ServiceError, Unreachable, WrongAccess
from minibill.client.operation import GrantTo, ThresholdOf, TierOf, UsageOf

__all__ = [
    "AsyncClient",
    "Client",
    "Entity",
    "GrantTo",
    "ServiceError",
    "ThresholdOf",
    "TierOf",
    "Unreachable",
    "UsageOf",
    "WrongAccess",
]
