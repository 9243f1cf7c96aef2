"""The scopes of admin tokens: docs/reference/http-api.md."""

READ = "admin:billing:read"
ACCOUNTS_WRITE = "admin:accounts:write"
MINT_WRITE = "admin:mint:write"
CAMPAIGNS_WRITE = "admin:campaigns:write"
GRANTS_WRITE = "admin:grants:write"
DISCOUNTS_WRITE = "admin:discounts:write"
REFUNDS_WRITE = "admin:refunds:write"
OPS_WRITE = "admin:ops:write"

EVERYTHING = "admin:*"

ALL_SCOPES = (
    READ, ACCOUNTS_WRITE, MINT_WRITE, CAMPAIGNS_WRITE, GRANTS_WRITE, DISCOUNTS_WRITE, REFUNDS_WRITE, OPS_WRITE, EVERYTHING,
)  # fmt: skip
