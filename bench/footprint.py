"""The size of a book on disk, by kind of write."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from bench.machine import on_server_core
from bench.report import Table, number, require_whole
from bench.sizes import Sizes
from bench.spending import CALLER, CEILING_MICRO, OPERATOR
from minibill.api.idempotency import Key
from minibill.api.types import Entity, Micro
from minibill.auth.tokens import Caller
from minibill.book import Book
from minibill.campaigns.batch import pay_batch
from minibill.campaigns.lifecycle import create_campaign, transition_campaign
from minibill.campaigns.schemas import BatchBody, CreateBody, GrantItem
from minibill.charges.charge import charge
from minibill.charges.schemas import AdminChargeBody
from minibill.core import ids
from minibill.core.write_result import NOWHERE
from minibill.db.write_operation import bind
from minibill.ledger.accounts import open_account
from minibill.ledger.finalize import finalize
from minibill.ledger.mint import mint
from minibill.ledger.reservations import reserve
from minibill.ledger.schemas import AdminFinalizeBody, MintBody, ReserveBody

GB = 1_000_000_000


class Filler:
    """Write to a book as clients do, in groups of the size that many clients cause."""

    def __init__(self, book: Book, *, with_keys: bool) -> None:
        self.book = book
        self._with_keys = with_keys
        self._keys = 0

    async def write(self, operation: Callable[..., Any], caller: Caller = OPERATOR, **arguments: Any) -> dict[str, Any]:
        """Run an operation; return its response."""
        self._keys += 1
        key = Key(caller.name, f"{self._keys:032}", bytes(32)) if self._with_keys else None
        written = await self.book.write(bind(operation, **arguments), caller=caller, origin=NOWHERE, key=key)
        answer: dict[str, Any] = msgspec.json.decode(written.body)
        return answer

    async def open(self, number_: int) -> None:
        """Open a new account."""
        await self.write(open_account, body=Entity("person", f"0x{number_:040x}"))

    async def mint(self, number_: int) -> None:
        """Mint a lot."""
        await self.write(
            mint,
            account_id=ids.encode(ids.ACCOUNT, number_ + 1),
            body=MintBody(amount_micro=Micro(1_000_000), source_type="deposit", source_id=f"order-{number_}"),
            ceiling_micro=CEILING_MICRO,
        )

    async def spend(self, number_: int) -> None:
        """Reserve, and finalize less than that."""
        held = await self.write(
            reserve,
            CALLER,
            account_id=ids.encode(ids.ACCOUNT, number_ + 1),
            body=ReserveBody(amount_micro=Micro(100)),
            default_billing_mode="live",
            ceiling_micro=CEILING_MICRO,
            created_by=CALLER.name,
        )
        reservation = held["reservationId"]
        await self.write(
            finalize,
            CALLER,
            reservation_id=reservation,
            body=AdminFinalizeBody(Micro(60)),
            ceiling_micro=CEILING_MICRO,
            closed_by=CALLER.name,
        )

    async def charge(self, number_: int) -> None:
        """Charge a usage record."""
        await self.write(
            charge,
            CALLER,
            account_id=ids.encode(ids.ACCOUNT, number_ + 1),
            body=AdminChargeBody(cost_micro=Micro(60), source_id=f"call-{number_:08}"),
            default_billing_mode="live",
            ceiling_micro=CEILING_MICRO,
            created_by=CALLER.name,
        )

    async def campaign(self) -> str:
        """Create an active campaign with limits that are never reached."""
        made = await self.write(
            create_campaign,
            created_by="bench",
            body=CreateBody(
                name="Bench",
                campaign_type="promotional",
                budget_micro=Micro(CEILING_MICRO),
                per_wallet_cap_micro=Micro(CEILING_MICRO),
            ),
        )
        await self.write(transition_campaign, campaign_id=made["id"], transition="activate")
        campaign: str = made["id"]
        return campaign


def table(sizes: Sizes) -> Table:
    """Measure the bytes per write, with and without the stored responses of idempotency keys."""
    rows: list[tuple[str, ...]] = []
    with TemporaryDirectory() as folder, on_server_core():
        lasting, kept = (
            asyncio.run(_bytes_each(Path(folder, f"{with_keys}.db"), sizes.footprint, with_keys=with_keys))
            for with_keys in (False, True)
        )
    for what, entries in WHAT.items():
        rows.append(
            (what, str(entries), number(lasting[what]), number(kept[what] - lasting[what]), f"{GB / lasting[what]:,.0f}")
        )
    about = (
        f"A fresh book, {sizes.footprint:,} of each one after the other, every write audited where an admin makes it. "
        "What a key keeps is pruned after 48 hours. A GB is 10^9 bytes."
    )
    columns = ("what", "entries", "bytes for good", "bytes more while its keys are kept", "in a GB")
    return Table("What a book takes on disk", about, columns, rows, ("what",))


# The writes in order, with the entries of each.
WHAT = {
    "an account is opened": 0,
    "credits are minted: a lot": 1,
    "a reservation is made and finalized": 3,
    "a usage record is charged": 1,
    "a grant is paid to an account that is there, in batches of 1,000": 1,
}


async def _bytes_each(db: Path, count: int, *, with_keys: bool) -> dict[str, float]:
    book = await Book.open(db)
    filler = Filler(book, with_keys=with_keys)
    found: dict[str, float] = {}
    try:
        for what, once in zip(WHAT, (filler.open, filler.mint, filler.spend, filler.charge), strict=False):
            before = _size(book)
            for start in range(0, count, 100):
                await asyncio.gather(*(once(place) for place in range(start, start + 100)))
            found[what] = (_size(book) - before) / count
        campaign, before = await filler.campaign(), _size(book)
        for start in range(0, count, 1_000):
            account_ids = [ids.encode(ids.ACCOUNT, number_ + 1) for number_ in range(start, start + 1_000)]
            body = BatchBody([GrantItem(account_id=account_id, amount_micro=Micro(1_000)) for account_id in account_ids])
            await filler.write(pay_batch, campaign_id=campaign, body=body, ceiling_micro=CEILING_MICRO)
        found[list(WHAT)[-1]] = (_size(book) - before) / count
    finally:
        await book.close()
    require_whole(db)
    return found


def _size(book: Book) -> int:
    """Return the size of the file after a checkpoint, in bytes."""
    pages: int = book.readers.point_read(lambda conn: conn.execute("PRAGMA page_count").fetchone()[0])
    page_bytes: int = book.readers.point_read(lambda conn: conn.execute("PRAGMA page_size").fetchone()[0])
    return pages * page_bytes
