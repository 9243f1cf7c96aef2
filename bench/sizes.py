"""The sizes of the measurements: stable medians within three minutes, or 30 seconds for a quick run."""

from typing import NamedTuple


class Sizes(NamedTuple):
    # Batches of each kind per book, and the number of books.
    batches: int
    passes: int
    # Load runs of each kind, in turns, and the seconds of each.
    rounds: int
    seconds: float
    # Single-row transactions per round.
    commits: int
    # Pairs of reserve and finalize per book.
    pairs: int
    # The book of the read benchmarks: accounts, and entries per account.
    read_accounts: int
    read_entries: int
    # The book over whose accounts reserves spread: accounts, entries of each, and the seconds of a run.
    spread_accounts: int
    spread_entries: int
    spread_seconds: float
    # Entries of the reconciled book.
    reconcile_entries: int
    # Writes of each kind in the book whose size is measured; a multiple of 1,000.
    footprint: int
    # Reservations that expire together, on separate accounts and on one account, which may have 10,000. Imported rows. The
    # seconds of the load alone, and its maximum seconds during the work.
    expiring: int
    crowded: int
    imported: int
    alone_seconds: float
    beside_seconds: float


FULL = Sizes(
    batches=15, passes=3, rounds=5, seconds=0.7, commits=1_000, pairs=8_000, read_accounts=1_000, read_entries=60,
    spread_accounts=250_000, spread_entries=4, spread_seconds=3,
    reconcile_entries=1_000_000, footprint=20_000, expiring=22_000, crowded=9_999,
    imported=1_000_000, alone_seconds=5, beside_seconds=60,
)  # fmt: skip
QUICK = Sizes(
    batches=4, passes=1, rounds=1, seconds=0.4, commits=300, pairs=1_600, read_accounts=200, read_entries=51,
    spread_accounts=20_000, spread_entries=2, spread_seconds=1,
    reconcile_entries=200_000, footprint=2_000, expiring=4_000, crowded=2_000,
    imported=20_000, alone_seconds=2, beside_seconds=20,
)  # fmt: skip
