-- Totals of a campaign's credits. Triggers keep them, so that no reader adds up a million lots. Other figures follow from
-- them: revoked = granted - spent, and available = granted - revoked - reserved - consumed - expired.
CREATE TABLE credit_campaign_totals (
    campaign_id            INTEGER PRIMARY KEY REFERENCES credit_campaigns (id),
    granted_micro          INTEGER NOT NULL,
    reserved_micro         INTEGER NOT NULL,
    expired_micro          INTEGER NOT NULL,
    spending_accounts      INTEGER NOT NULL,
    -- Sums over the revoked grants, of the amounts at the moment of each revocation.
    grants_revoked         INTEGER NOT NULL,
    revoked_micro          INTEGER NOT NULL,
    revoked_consumed_micro INTEGER NOT NULL,
    revoked_reserved_micro INTEGER NOT NULL
) STRICT;

-- Totals by day. Consumption counts on the day of its entry.
CREATE TABLE credit_campaign_days (
    campaign_id    INTEGER NOT NULL REFERENCES credit_campaigns (id),
    -- Days since 1970-01-01, in UTC.
    day            INTEGER NOT NULL,
    grants         INTEGER NOT NULL,
    granted_micro  INTEGER NOT NULL,
    consumed_micro INTEGER NOT NULL,
    PRIMARY KEY (campaign_id, day)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER campaigns_create_totals AFTER INSERT ON credit_campaigns
BEGIN
    INSERT INTO credit_campaign_totals (
        campaign_id, granted_micro, reserved_micro, expired_micro, spending_accounts, grants_revoked, revoked_micro,
        revoked_consumed_micro, revoked_reserved_micro)
    VALUES (NEW.id, 0, 0, 0, 0, 0, 0, 0, 0);
END;

-- The budget fits 63 bits. The granted total can exceed the budget, because revoked credits can be granted again.
CREATE TRIGGER campaigns_granted_total_fits_63_bits BEFORE UPDATE OF grant_count ON credit_campaigns
WHEN (SELECT granted_micro FROM credit_campaign_totals WHERE campaign_id = NEW.id)
     > 9223372036854775807 - (NEW.spent_micro - OLD.spent_micro)
BEGIN SELECT RAISE(ABORT, 'campaigns_granted_total_fits_63_bits'); END;

CREATE TRIGGER campaigns_update_granted_totals AFTER UPDATE OF grant_count ON credit_campaigns
BEGIN
    UPDATE credit_campaign_totals
       SET granted_micro = granted_micro + NEW.spent_micro - OLD.spent_micro
     WHERE campaign_id = NEW.id;
    INSERT INTO credit_campaign_days (campaign_id, day, grants, granted_micro, consumed_micro)
    VALUES (NEW.id, NEW.updated_at_us / 86400000000, NEW.grant_count - OLD.grant_count, NEW.spent_micro - OLD.spent_micro, 0)
        ON CONFLICT DO UPDATE
       SET grants        = grants + excluded.grants,
           granted_micro = granted_micro + excluded.granted_micro;
END;

-- The campaign may spend revoked credits again. A reservation may return revoked credits later than the revocation.
CREATE TRIGGER lots_return_revoked_credits_to_campaign AFTER UPDATE OF revoked_micro ON credit_lots
WHEN NEW.revoked_micro > OLD.revoked_micro AND NEW.campaign_id IS NOT NULL
BEGIN
    UPDATE credit_campaigns
       SET spent_micro   = spent_micro - (NEW.revoked_micro - OLD.revoked_micro),
           updated_at_us = max(updated_at_us, NEW.revoked_at_us)
     WHERE id = NEW.campaign_id;
END;

CREATE TRIGGER lots_update_campaign_totals AFTER UPDATE OF reserved_micro, consumed_micro, expired_micro ON credit_lots
WHEN NEW.campaign_id IS NOT NULL
BEGIN
    UPDATE credit_campaign_totals
       SET reserved_micro      = reserved_micro + NEW.reserved_micro - OLD.reserved_micro,
           expired_micro       = expired_micro + NEW.expired_micro - OLD.expired_micro,
           spending_accounts   = spending_accounts + (OLD.consumed_micro = 0 AND NEW.consumed_micro > 0)
     WHERE campaign_id = NEW.campaign_id;
END;

CREATE TRIGGER grants_update_revoked_totals AFTER UPDATE OF status ON credit_grants
WHEN NEW.status = 'revoked'
BEGIN
    UPDATE credit_campaign_totals
       SET grants_revoked         = grants_revoked + 1,
           revoked_micro          = revoked_micro + NEW.revoked_micro,
           revoked_consumed_micro = revoked_consumed_micro + NEW.revoked_consumed_micro,
           revoked_reserved_micro = revoked_reserved_micro + NEW.revoked_reserved_micro
     WHERE campaign_id = NEW.campaign_id;
END;

CREATE TRIGGER entries_update_campaign_consumption AFTER INSERT ON credit_ledger
WHEN (NEW.entry_type = 'finalize' OR NEW.entry_type = 'charge' OR NEW.entry_type = 'debt_paid')
 AND (SELECT campaign_id FROM credit_lots WHERE id = NEW.lot_id) IS NOT NULL
BEGIN
    INSERT INTO credit_campaign_days (campaign_id, day, grants, granted_micro, consumed_micro)
    VALUES ((SELECT campaign_id FROM credit_lots WHERE id = NEW.lot_id), NEW.created_at_us / 86400000000, 0, 0,
            -NEW.amount_micro)
        ON CONFLICT DO UPDATE
       SET consumed_micro = consumed_micro + excluded.consumed_micro;
END;
