-- A campaign pays grants to accounts, within a budget and a cap per account. src/minibill/campaigns/formulas.py evaluates
-- its formula.

CREATE TABLE credit_campaigns (
    id                   INTEGER PRIMARY KEY,
    name                 TEXT NOT NULL
        CONSTRAINT campaigns_name_has_1_to_200_characters CHECK (length(name) BETWEEN 1 AND 200),
    -- NULL: none was given.
    description          TEXT
        CONSTRAINT campaigns_description_has_at_most_2000_characters CHECK (length(description) <= 2000),
    campaign_type        TEXT NOT NULL
        CONSTRAINT campaigns_type_is_known
        CHECK (campaign_type IN ('reverse_airdrop', 'promotional', 'loyalty', 'referral')),
    status               TEXT NOT NULL,
    budget_micro         INTEGER NOT NULL,
    -- The sum of the campaign's grants, less revoked credits.
    spent_micro          INTEGER NOT NULL CONSTRAINT campaigns_spent_is_not_negative CHECK (spent_micro >= 0),
    grant_formula        TEXT NOT NULL
        CONSTRAINT campaigns_formula_is_known CHECK (grant_formula IN ('proportional_loss', 'fixed_amount', 'tiered')),
    -- NULL: the formula needs none. Each grant of a fixed amount then states its own.
    grant_config         TEXT
        CONSTRAINT campaigns_config_is_an_object CHECK (json_valid(grant_config) AND json_type(grant_config) = 'object'),
    pool_id              TEXT NOT NULL
        CONSTRAINT campaigns_pool_id_is_well_formed
        CHECK (length(pool_id) <= 64 AND pool_id GLOB '[a-z0-9]*' AND pool_id NOT GLOB '*[^a-z0-9:._-]*'),
    per_wallet_cap_micro INTEGER NOT NULL CONSTRAINT campaigns_cap_is_not_negative CHECK (per_wallet_cap_micro >= 0),
    -- NULL: no start, no end, and lots that never expire.
    starts_at_us         INTEGER,
    expires_at_us        INTEGER CONSTRAINT campaigns_expire_after_they_start CHECK (expires_at_us > starts_at_us),
    grant_ttl_seconds    INTEGER
        CONSTRAINT campaigns_grant_ttl_is_within_100_years CHECK (grant_ttl_seconds BETWEEN 1 AND 3153600000),
    grant_count          INTEGER NOT NULL,
    created_by           TEXT NOT NULL,
    created_at_us        INTEGER NOT NULL,
    updated_at_us        INTEGER NOT NULL,
    CONSTRAINT campaigns_spent_within_budget CHECK (spent_micro <= budget_micro)
) STRICT;

CREATE INDEX campaigns_by_status ON credit_campaigns (status);
-- Campaigns that the background sweep expires.
CREATE INDEX campaigns_by_expiry ON credit_campaigns (expires_at_us)
    WHERE status IN ('draft', 'active', 'paused') AND expires_at_us IS NOT NULL;
-- For SQLite's integrity check.
CREATE INDEX campaigns_integrity_copy
    ON credit_campaigns (name, description, campaign_type, budget_micro, grant_formula, grant_config, pool_id,
                         per_wallet_cap_micro, starts_at_us, expires_at_us, grant_ttl_seconds, created_by, created_at_us,
                         updated_at_us);

CREATE TRIGGER campaigns_start_as_drafts BEFORE INSERT ON credit_campaigns
WHEN NEW.status <> 'draft' OR NEW.spent_micro <> 0 OR NEW.grant_count <> 0
BEGIN SELECT RAISE(ABORT, 'campaigns_start_as_drafts'); END;

CREATE TRIGGER campaigns_status_transition_is_allowed BEFORE UPDATE OF status ON credit_campaigns
WHEN NEW.status <> OLD.status
 AND (OLD.status, NEW.status) NOT IN (
        ('draft', 'active'), ('draft', 'expired'),
        ('active', 'paused'), ('active', 'completed'), ('active', 'expired'),
        ('paused', 'active'), ('paused', 'completed'), ('paused', 'expired'))
BEGIN SELECT RAISE(ABORT, 'campaigns_status_transition_is_allowed'); END;

-- Grants of one campaign are paid by the same terms.
CREATE TRIGGER campaigns_terms_are_locked_once_active BEFORE UPDATE ON credit_campaigns
WHEN OLD.status <> 'draft'
 AND (OLD.campaign_type <> NEW.campaign_type
   OR OLD.grant_formula <> NEW.grant_formula
   OR OLD.grant_config IS NOT NEW.grant_config
   OR OLD.pool_id <> NEW.pool_id
   OR OLD.per_wallet_cap_micro <> NEW.per_wallet_cap_micro
   OR OLD.starts_at_us IS NOT NEW.starts_at_us
   OR OLD.grant_ttl_seconds IS NOT NEW.grant_ttl_seconds)
BEGIN SELECT RAISE(ABORT, 'campaigns_terms_are_locked_once_active'); END;

-- An ended campaign may spend less, because grants can still be revoked.
CREATE TRIGGER campaigns_ended_are_locked BEFORE UPDATE ON credit_campaigns
WHEN OLD.status IN ('completed', 'expired')
 AND (OLD.name <> NEW.name
   OR OLD.description IS NOT NEW.description
   OR OLD.budget_micro <> NEW.budget_micro
   OR OLD.expires_at_us IS NOT NEW.expires_at_us
   OR OLD.spent_micro < NEW.spent_micro)
BEGIN SELECT RAISE(ABORT, 'campaigns_ended_are_locked'); END;

CREATE TRIGGER campaigns_are_never_deleted BEFORE DELETE ON credit_campaigns
BEGIN SELECT RAISE(ABORT, 'campaigns_are_never_deleted'); END;
