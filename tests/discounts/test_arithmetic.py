"""Arithmetic of discounts, and the choice of the membership. See docs/concepts/discounts.md."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibill.ledger.pricing import NO_DISCOUNT, Discount, Membership, best_discount, discount_micro, metadata_with_discount

MAX = 2**63 - 1
UNIT = 1_000_000


DISCOUNTS = [
    (1_000, 2_000, None, 200),
    (0, 2_000, None, 0),
    (0, 10_000, 5, 0),
    (1_000, 0, None, 0),
    (1_000, 0, 5, 0),
    # Rounded down.
    (9, 2_000, None, 1),
    (4, 2_000, None, 0),
    (9_999, 1, None, 0),
    (10_000, 1, None, 1),
    (19_999, 1, None, 1),
    (3, 3_333, None, 0),
    (30_003, 3_333, None, 9_999),
    (1, 9_999, None, 0),
    (1, 10_000, None, 1),
    # The whole price.
    (7, 10_000, None, 7),
    (MAX, 10_000, None, MAX),
    # Limited by the cap, which may be zero.
    (100, 5_000, 100, 50),
    (199, 5_000, 100, 99),
    (200, 5_000, 100, 100),
    (201, 5_000, 100, 100),
    (202, 5_000, 100, 100),
    (1_000, 5_000, 0, 0),
    (1_000, 5_000, MAX, 500),
    (MAX, 10_000, MAX, MAX),
    (MAX, 10_000, MAX - 1, MAX - 1),
    # Products of more than 63 bits.
    (MAX, 9_999, None, 9_222_449_699_651_090_329),
    (MAX, 5_000, None, 4_611_686_018_427_387_903),
    (MAX, 1, None, 922_337_203_685_477),
    (1_000_000 * UNIT, 1_234, None, 123_400 * UNIT),
    # Integers that a float cannot distinguish.
    (2**53 + 1, 10_000, None, 2**53 + 1),
]


def test_a_discount_is_a_share_rounded_down_and_capped(subtests: pytest.Subtests) -> None:
    for list_micro, rate_bps, cap_micro, off_micro in DISCOUNTS:
        with subtests.test(list_micro=list_micro, rate_bps=rate_bps, cap_micro=cap_micro, off_micro=off_micro):
            assert discount_micro(list_micro, rate_bps=rate_bps, max_discount_micro=cap_micro) == off_micro


@given(st.integers(0, MAX), st.integers(0, 10_000), st.none() | st.integers(0, MAX))
def test_sql_computes_the_same_discount(list_micro: int, rate_bps: int, cap_micro: int | None) -> None:
    # As the constraint reservations_discount_matches_rate_and_cap computes it: each part fits 63 bits.
    parts = [list_micro // 10_000 * rate_bps, list_micro % 10_000 * rate_bps]
    assert max(parts) <= MAX
    in_parts = min(parts[0] + parts[1] // 10_000, MAX if cap_micro is None else cap_micro)
    assert discount_micro(list_micro, rate_bps=rate_bps, max_discount_micro=cap_micro) == in_parts


def of(community: str, rate_bps: int | None, cap_micro: int | None = None, *, ends_us: int | None = None) -> Membership:
    return Membership(community, "gold", ends_us, rate_bps, cap_micro)


WEIGHED: dict[str, tuple[list[Membership], int, str | None]] = {
    "none": ([], 1_000, None),
    "the only one": ([of("a", 100)], 1_000, "a"),
    "the only one, although it takes nothing off": ([of("a", 0)], 1_000, "a"),
    "the highest discount": ([of("a", 100), of("b", 300), of("c", 200)], 1_000, "b"),
    "for this amount: below the cap": ([of("a", 2_000), of("b", 5_000, 100)], 100, "b"),
    "for this amount: above it": ([of("a", 2_000), of("b", 5_000, 100)], 1_000, "a"),
    "for this amount: where they meet": ([of("b", 2_000), of("a", 5_000, 100)], 500, "a"),
    "a tie": ([of("b", 100), of("a", 100), of("c", 100)], 1_000, "a"),
    "a tie after rounding": ([of("b", 1_999), of("a", 1_000)], 10, "a"),
    "a tie of nothing": ([of("b", 9_000), of("a", 0)], 0, "a"),
    "smaller as text": ([of("a2", 100), of("a10", 100), of("B", 100)], 1_000, "B"),
    "live while now is before the end": ([of("a", 100, ends_us=51)], 1_000, "a"),
    "over from its end on": ([of("a", 100, ends_us=50)], 1_000, None),
    "the live one": ([of("a", 900, ends_us=50), of("b", 100)], 1_000, "b"),
    "a tier that is gone": ([of("a", None), of("b", 0)], 1_000, "b"),
    "only tiers that are gone": ([of("a", None)], 1_000, None),
}


def test_the_best_active_membership_applies(subtests: pytest.Subtests) -> None:
    for name in WEIGHED:
        with subtests.test(name=name):
            memberships, list_micro, community = WEIGHED[name]
            for order in (memberships, memberships[::-1]):
                assert best_discount(order, list_micro, now_us=50).community_id == community


METADATA = [
    (None, "{FIGURES}"),
    ("{}", "{FIGURES}"),
    (" { } ", "{FIGURES}"),
    ('{"job":7}', '{FIGURES,"job":7}'),
    # Numbers are copied as text, so they lose no digits.
    (
        '{"f": 1.00, "n": 12345678901234567890123, "o": {"a":1,"a":2}}',
        '{FIGURES,"f":1.00,"n":12345678901234567890123,"o":{"a":1,"a":2}}',
    ),
    ('{"tier":"mine","job":7}', '{FIGURES,"metadata":{"tier":"mine","job":7}}'),
    ('{"metadata":{"x":1}}', '{FIGURES,"metadata":{"x":1}}'),
]


def test_discount_members_are_added_to_the_callers_metadata(subtests: pytest.Subtests) -> None:
    figures = (
        '"listMicro":"1000","discountBps":5000,"maxDiscountMicro":"100","discountMicro":"100","communityId":"guild",'
        '"tier":"capped"'
    )
    discount = Discount(5_000, 100, "guild", "capped")
    for own, metadata in METADATA:
        with subtests.test(own=own, metadata=metadata):
            assert metadata_with_discount(own, discount, 1_000) == metadata.replace("FIGURES", figures)
            assert metadata_with_discount(own, NO_DISCOUNT, 1_000) == own
