CREATE TABLE credit_accounts (
    id            INTEGER PRIMARY KEY,
    entity_type   TEXT NOT NULL
        CONSTRAINT accounts_entity_type_is_known
        CHECK (entity_type IN ('agent', 'person', 'community', 'mod', 'protocol', 'foundation', 'commons')),
    entity_id     TEXT NOT NULL
        CONSTRAINT accounts_entity_id_has_1_to_200_characters CHECK (length(entity_id) BETWEEN 1 AND 200)
        CONSTRAINT accounts_entity_id_has_single_inner_spaces
        CHECK (entity_id = trim(entity_id) AND instr(entity_id, '  ') = 0)
        -- No control, format or private-use characters, and no white space except U+0020. src/minibill/core/entity_ids.py
        -- rejects unassigned characters as well. The first pattern is a shortcut: most ids are printable ASCII, and SQLite
        -- builds the second pattern for each row.
        CONSTRAINT accounts_entity_id_is_visible CHECK (entity_id NOT GLOB '*[^ -~]*' OR entity_id NOT GLOB
            '*[' || char(1, 45, 31, 127, 45, 160, 173, 5760, 8192, 45, 8207, 8232, 45, 8239, 8287, 45, 8303, 12288,
                         57344, 45, 63743, 65279, 65529, 45, 65531, 917504, 45, 917759, 918000, 45, 1114111) || ']*')
        CONSTRAINT accounts_evm_address_is_in_lower_case
        CHECK (length(entity_id) <> 42 OR entity_id = lower(entity_id) OR entity_id NOT GLOB '0[xX]*'
               OR substr(entity_id, 3) GLOB '*[^0-9a-fA-F]*'),
    created_at_us INTEGER NOT NULL
) STRICT;

-- entity_id comes first, so that the index also finds all entities of one name.
CREATE UNIQUE INDEX accounts_one_per_entity ON credit_accounts (entity_id, entity_type);
CREATE INDEX accounts_by_type ON credit_accounts (entity_type);

CREATE TRIGGER accounts_are_never_changed BEFORE UPDATE ON credit_accounts
BEGIN SELECT RAISE(ABORT, 'accounts_are_never_changed'); END;

CREATE TRIGGER accounts_are_never_deleted BEFORE DELETE ON credit_accounts
BEGIN SELECT RAISE(ABORT, 'accounts_are_never_deleted'); END;
