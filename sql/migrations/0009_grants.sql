-- A grant pays one account one lot of a campaign.

CREATE TABLE credit_grants (
    id                     INTEGER PRIMARY KEY,
    campaign_id            INTEGER NOT NULL REFERENCES credit_campaigns (id),
    account_id             INTEGER NOT NULL REFERENCES credit_accounts (id),
    lot_id                 INTEGER NOT NULL REFERENCES credit_lots (id),
    amount_micro           INTEGER NOT NULL,
    status                 TEXT NOT NULL,
    -- The campaign's formula and its input. NULL: no input was given.
    grant_formula          TEXT NOT NULL,
    formula_input          TEXT
        CONSTRAINT grants_formula_input_is_an_object CHECK (json_valid(formula_input) AND json_type(formula_input) = 'object'),
    created_at_us          INTEGER NOT NULL,
    -- NULL all five: not revoked. The amounts are those of the moment of the revocation.
    revoked_at_us          INTEGER,
    revoked_micro          INTEGER CONSTRAINT grants_revoked_within_amount CHECK (revoked_micro BETWEEN 0 AND amount_micro),
    revoked_consumed_micro INTEGER
        CONSTRAINT grants_revoked_consumed_within_amount CHECK (revoked_consumed_micro BETWEEN 0 AND amount_micro),
    revoked_reserved_micro INTEGER
        CONSTRAINT grants_revoked_reserved_within_amount CHECK (revoked_reserved_micro BETWEEN 0 AND amount_micro),
    revoke_reason          TEXT
        CONSTRAINT grants_revoke_reason_has_1_to_500_characters CHECK (length(revoke_reason) BETWEEN 1 AND 500),
    CONSTRAINT grants_revocation_matches_status CHECK (
        CASE status
            WHEN 'granted' THEN coalesce(revoked_at_us, revoked_micro, revoked_consumed_micro, revoked_reserved_micro,
                                         revoke_reason) IS NULL
            WHEN 'revoked' THEN revoked_at_us IS NOT NULL AND revoked_micro IS NOT NULL
                                AND revoked_consumed_micro IS NOT NULL AND revoked_reserved_micro IS NOT NULL
                                AND revoke_reason IS NOT NULL
            ELSE 0
        END)
) STRICT;

-- A campaign pays an account once, even if it revokes the grant.
CREATE UNIQUE INDEX grants_one_per_campaign_and_account ON credit_grants (campaign_id, account_id);
CREATE UNIQUE INDEX grants_one_per_lot ON credit_grants (lot_id);
CREATE INDEX grants_by_campaign_and_status ON credit_grants (campaign_id, status);
CREATE INDEX grants_by_account ON credit_grants (account_id);
-- For SQLite's integrity check.
CREATE INDEX grants_revoke_reasons_integrity_copy ON credit_grants (revoke_reason) WHERE revoke_reason IS NOT NULL;

CREATE TRIGGER grants_campaign_is_active BEFORE INSERT ON credit_grants
WHEN NEW.status <> 'granted'
  OR NOT EXISTS (
    SELECT 1 FROM credit_campaigns c
     WHERE c.id = NEW.campaign_id
       AND c.status = 'active'
       AND (c.starts_at_us IS NULL OR c.starts_at_us <= NEW.created_at_us)
       AND (c.expires_at_us IS NULL OR c.expires_at_us > NEW.created_at_us))
BEGIN SELECT RAISE(ABORT, 'grants_campaign_is_active'); END;

CREATE TRIGGER grants_are_within_the_cap BEFORE INSERT ON credit_grants
WHEN NEW.amount_micro > (SELECT per_wallet_cap_micro FROM credit_campaigns WHERE id = NEW.campaign_id)
BEGIN SELECT RAISE(ABORT, 'grants_are_within_the_cap'); END;

CREATE TRIGGER grants_match_their_lot BEFORE INSERT ON credit_grants
WHEN NOT EXISTS (
    SELECT 1 FROM credit_lots l
     WHERE l.id = NEW.lot_id AND l.account_id = NEW.account_id AND l.original_micro = NEW.amount_micro
       AND l.campaign_id = NEW.campaign_id AND l.source_type = 'grant' AND l.source_id IS NULL)
BEGIN SELECT RAISE(ABORT, 'grants_match_their_lot'); END;

CREATE TRIGGER grants_terms_are_fixed
BEFORE UPDATE OF id, campaign_id, account_id, lot_id, amount_micro, grant_formula, formula_input, created_at_us ON credit_grants
BEGIN SELECT RAISE(ABORT, 'grants_terms_are_fixed'); END;

CREATE TRIGGER grants_are_revoked_once BEFORE UPDATE ON credit_grants
WHEN OLD.status = 'revoked'
BEGIN SELECT RAISE(ABORT, 'grants_are_revoked_once'); END;

CREATE TRIGGER grants_are_revoked_with_their_lots BEFORE UPDATE OF status ON credit_grants
WHEN NEW.status = 'revoked'
 AND NEW.revoked_at_us IS NOT (SELECT revoked_at_us FROM credit_lots WHERE id = NEW.lot_id)
BEGIN SELECT RAISE(ABORT, 'grants_are_revoked_with_their_lots'); END;

CREATE TRIGGER grants_are_never_deleted BEFORE DELETE ON credit_grants
BEGIN SELECT RAISE(ABORT, 'grants_are_never_deleted'); END;
