-- A community gives its members a discount by tier. The tiers of a community, in the order of the request that replaced them
-- all.
CREATE TABLE discount_tiers (
    community_id       TEXT NOT NULL
        CONSTRAINT tiers_community_id_has_1_to_200_characters CHECK (length(community_id) BETWEEN 1 AND 200),
    tier               TEXT NOT NULL CONSTRAINT tiers_tier_has_1_to_64_characters CHECK (length(tier) BETWEEN 1 AND 64),
    position           INTEGER NOT NULL
        CONSTRAINT tiers_are_at_most_100_per_community CHECK (position BETWEEN 1 AND 100),
    rate_bps           INTEGER NOT NULL CONSTRAINT tiers_rate_is_0_to_10000_bps CHECK (rate_bps BETWEEN 0 AND 10000),
    -- NULL: no cap.
    max_discount_micro INTEGER CONSTRAINT tiers_max_discount_is_not_negative CHECK (max_discount_micro >= 0),
    PRIMARY KEY (community_id, tier)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX tiers_one_per_position ON discount_tiers (community_id, position);
-- For SQLite's integrity check.
CREATE INDEX tiers_integrity_copy ON discount_tiers (community_id, rate_bps, max_discount_micro);

-- The memberships of accounts. An expired membership stays until it is replaced or deleted, and gives no discount.
CREATE TABLE memberships (
    id            INTEGER PRIMARY KEY,
    account_id    INTEGER NOT NULL REFERENCES credit_accounts (id),
    community_id  TEXT NOT NULL
        CONSTRAINT memberships_community_id_has_1_to_200_characters CHECK (length(community_id) BETWEEN 1 AND 200),
    -- A tier that the community had when the membership was put. If the community has dropped it since, there is no
    -- discount.
    tier          TEXT NOT NULL,
    -- NULL: the membership never expires.
    expires_at_us INTEGER
        CONSTRAINT memberships_expire_before_the_year_10000 CHECK (expires_at_us <= 253402300799999999)
) STRICT;

CREATE UNIQUE INDEX memberships_one_per_account_and_community ON memberships (account_id, community_id);
-- For SQLite's integrity check.
CREATE INDEX memberships_integrity_copy ON memberships (account_id, community_id, tier, expires_at_us);

CREATE TRIGGER memberships_tier_exists_on_insert BEFORE INSERT ON memberships
WHEN NOT EXISTS (SELECT 1 FROM discount_tiers WHERE community_id = NEW.community_id AND tier = NEW.tier)
BEGIN SELECT RAISE(ABORT, 'memberships_tier_exists_on_insert'); END;

CREATE TRIGGER memberships_tier_exists_on_update BEFORE UPDATE ON memberships
WHEN NOT EXISTS (SELECT 1 FROM discount_tiers WHERE community_id = NEW.community_id AND tier = NEW.tier)
BEGIN SELECT RAISE(ABORT, 'memberships_tier_exists_on_update'); END;

-- Each reservation compares all memberships of its account.
CREATE TRIGGER memberships_are_at_most_1000_per_account BEFORE INSERT ON memberships
WHEN (SELECT count(*) FROM memberships WHERE account_id = NEW.account_id) >= 1000
BEGIN SELECT RAISE(ABORT, 'memberships_are_at_most_1000_per_account'); END;

CREATE TRIGGER memberships_account_and_community_are_fixed BEFORE UPDATE OF id, account_id, community_id ON memberships
BEGIN SELECT RAISE(ABORT, 'memberships_account_and_community_are_fixed'); END;
