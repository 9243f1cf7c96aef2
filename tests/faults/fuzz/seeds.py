"""Seeds of the fuzz targets: inputs that reach much code, and inputs of past findings."""

import msgspec

from minibill.api.types import Entity
from minibill.campaigns import formulas
from minibill.campaigns.batch import LossInput
from minibill.campaigns.schemas import BatchBody, CreateBody, RevokeBody
from minibill.charges.schemas import ChargeBatchBody
from minibill.ledger.schemas import AdminFinalizeBody, MintBody, ReserveBody
from tests.faults.fuzz.targets import (
    BODIES,
    CHANGES,
    CLAIMS,
    CURSOR,
    NOW_S,
    PARTS,
    TOKEN,
    body_seed,
    csv_seed,
    request_seed,
    token_seed,
)

SEEDS: dict[str, list[bytes]] = {
    "body": [
        *[body_seed(body, b"{}") for body in BODIES],
        body_seed(Entity, b'{"entityType": "person", "entityId": "ada"}'),
        body_seed(
            MintBody,
            b'{"amountMicro": "5", "sourceType": "deposit", "sourceId": "o-1", "poolId": "gpu", "priority": 7, '
            b'"description": "x", "expiresAt": "2030-01-01T00:00:00.5+01:00", "metadata":'
            b' {"a": [1.5e3, null, true, "\\ud83d\\ude00"]}}',
        ),
        body_seed(
            CreateBody,
            b'{"name": "x", "campaignType": "loyalty", "budgetMicro": "9", "grantFormula": "tiered", '
            b'"perWalletCapMicro": "5", "grantTtlSeconds": 60, '
            b'"grantConfig": {"brackets": [{"minMicro": "1", "maxMicro": null, "amountMicro": "2"}]}}',
        ),
        body_seed(
            CreateBody,
            b'{"name": "x", "campaignType": "referral", "budgetMicro": "9", "grantFormula": "proportional_loss",'
            b' "grantConfig": {"ratioBps": 5000, "minLossMicro": "1", "capMicro": "7"}, "startsAt": "2030-01-01T00:00:00Z"}',
        ),
        body_seed(
            BatchBody,
            b'{"grants": [{"accountId": "acct_0000000000001", "amountMicro": "5"}, {"entity": {"entityType": "mod",'
            b' "entityId": "x"}, "formulaInput": {"lossMicro": "7", "n": [[]]}}], "force": true}',
        ),
        body_seed(RevokeBody, b'{"reason": "a mistake"}'),
        body_seed(
            ReserveBody,
            b'{"accountId": "acct_0000000000001", "amountMicro": "5", "ttlSeconds": 60, "billingMode": "soft",'
            b' "metadata": null}',
        ),
        body_seed(AdminFinalizeBody, b'{"actualCostMicro": "5"}'),
        body_seed(LossInput, b'{"lossMicro": "5", "lossMicro": "6", "wallet": "0x0"}'),
        body_seed(formulas.TieredConfig, b'{"brackets": [{"minMicro": "1", "maxMicro": "5", "amountMicro": "2"}]}'),
        body_seed(MintBody, b'{"amountMicro": "5", "metadata": ' + b'{"a":' * 120 + b"1" + b"}" * 120 + b"}"),
        body_seed(ChargeBatchBody, b'{"charges": [{"accountId": "a", "costMicro": "0", "sourceId": "s", "metadata": {}}]}'),
        body_seed(MintBody, b"[" * 3_000),
        body_seed(MintBody, b'{"amountMicro": "5", "metadata": ' + b"[" * 3_000),
        body_seed(MintBody, b'{"amountMicro": "5", "metadata": {"a": ' + b"9" * 400 + b"}}"),
        body_seed(MintBody, b'{"amountMicro": "\xff"}'),
    ],
    "cursor": [
        b"", CURSOR.encode(), CURSOR[:-1].encode(), CURSOR.encode() + b"=", b"\0" * 20 + b"\x01", b"AA", b"\xff" * 30,
    ],
    "token": [
        token_seed("admin", CHANGES, b""),
        token_seed("service", CHANGES, b"nbf=%d" % NOW_S),
        token_seed("admin", CHANGES, b'header.kid="2027-01"\njti="j-1"\nscope="admin:billing:read"'),
        token_seed("admin", CHANGES, b'aud=["arrakis-billing-admin"]'),
        token_seed("admin", CHANGES, b"exp=1e999"),
        token_seed("service", CHANGES, b"exp=%d.0\niat=NaN" % (NOW_S + 300)),
        token_seed("service", CHANGES, b"iat=%d\nexp=%d" % (NOW_S + 40, NOW_S + 50)),
        token_seed("admin", CHANGES, b"exp=" + b"9" * 2_500),
        token_seed("admin", CHANGES, b'sub="a\\ud800"'),
        token_seed("admin", CHANGES, b"sub= "),
        token_seed("admin", CHANGES, b"sub"),
        token_seed("admin", CHANGES, b"jti=null"),
        token_seed("admin", CHANGES, b'scopes={"admin:*":1}'),
        token_seed("admin", CHANGES, b'header.alg="none"'),
        token_seed("admin", CHANGES, b'header.crit=["exp"]'),
        token_seed("admin", PARTS, b'{"alg":"HS256"}\n{"exp":1e999,"iat":NaN}'),
        token_seed("service", PARTS, b'{"alg":"HS256"}\n' + b"[" * 1_500),
        token_seed("service", PARTS, b'["HS256"]\n{"sub":"\xff"}'),
        token_seed("admin", TOKEN, b"eyJhbGciOiJIUzI1NiJ9.e30.AAAA"),
        token_seed("service", TOKEN, b".."),
    ],
    "csv": [
        csv_seed(0, b"a,n\nada,1.5\nbob,0.000001\r\n\n\"eve\",1e-06\n"),
        csv_seed(0, b"\xef\xbb\xbfa,n\nada,1,5\nada,2\nbob,0.0000001\n"),
        csv_seed(1, b'n,a,x\n1.23456789,acct_0000000000001,"a\n""b"\n'),
        csv_seed(2, b"a;n;s\n0xada;12.5;list\n0xbob;-1;\n0xeve;9223372036854.775807;x\n"),
        csv_seed(3, b"a\tn\nada\t9e99\nbob\t\0\n"),
        csv_seed(0, b'a,n\n"ada,1\n'),
        csv_seed(0, b"\xff\xfea\0,\0"),
        csv_seed(0, b"a,a,n\n"),
        csv_seed(0, b"a,n\n\xff,1\n ada,1\n" + b"x" * 201 + b",1\n"),
        csv_seed(0, b"1e330"),
        csv_seed(0, b"0.0000001"),
        csv_seed(0, b"12.345678"),
        csv_seed(0, b"1.25e-05"),
    ],
    "request": [
        request_seed("GET", "/accounts?limit=5&entityType=person&entityId=%C3%A9"),
        request_seed("GET", "/accounts?cursor=AAAA"),
        request_seed("GET", "/accounts?entityId=%FF"),
        request_seed("GET", "/accounts/acct_0000000000001/balance?poolId=gpu&at=2020-01-01T00:00:00Z"),
        request_seed("GET", "/accounts/acct_0000000000001/history?entryType=grant&from=2020-01-01T00:00:00Z&to=2030-01-01Z"),
        request_seed("GET", "/accounts/acct_0000000000001/lots?state=live"),
        request_seed("GET", "/accounts/acct_0000000000001/quote?amountMicro=5"),
        request_seed("GET", "/accounts/acct_0000000000001/memberships"),
        request_seed("GET", "/campaigns?status=active&campaignType=loyalty"),
        request_seed("GET", "/campaigns/camp_0000000000001/grants?status=revoked&accountId=acct_0000000000001"),
        request_seed("GET", "/campaigns/camp_0000000000001/stats"),
        request_seed("GET", "/audit?actorId=fuzz&action=account.open&targetType=account&targetId=x"),
        request_seed("GET", "/reservations/res_0000000000001?explain=true"),
        request_seed("GET", "/discounts/%E2%98%83/tiers"),
        request_seed("GET", "/reconciliation"),
        request_seed("POST", "/accounts", "idempotency-key: k-1", "x-correlation-id: c", "user-agent: fuzz/1",
                     body='{"entityType": "person", "entityId": "ada"}'),
        request_seed("POST", "/accounts/acct_0000000000001/mint?dryRun=true", body='{"amountMicro": "5"}'),
        request_seed("POST", "/accounts/acct_0000000000001/mint", "content-length: 22", body='{"amountMicro": "500"}'),
        request_seed("POST", "/campaigns", body='{"name": "x", "campaignType": "loyalty", "budgetMicro": "100"}'),
        request_seed("POST", "/campaigns/camp_0000000000001/activate"),
        request_seed("POST", "/campaigns/camp_0000000000001/grants/batch",
                     body='{"grants": [{"accountId": "acct_0000000000001", "amountMicro": "5"}]}'),
        request_seed("POST", "/campaigns/camp_0000000000001/revoke", body='{"reason": "x"}'),
        request_seed("PUT", "/discounts/guild/tiers", body='{"tiers": [{"tier": "gold", "rateBps": 100}]}'),
        request_seed("PUT", "/accounts/acct_0000000000001/memberships/guild", body='{"tier": "gold"}'),
        request_seed("DELETE", "/accounts/acct_0000000000001/memberships/guild"),
        request_seed("POST", "/tokens/j-1/revoke"),
        request_seed("POST", "/reservations?explain=true", who="service",
                     body='{"accountId": "acct_0000000000001", "amountMicro": "1", "ttlSeconds": 5}'),
        request_seed("POST", "/finalize", who="service",
                     body='{"reservationId": "res_0000000000001", "actualCostMicro": "1"}'),
        request_seed("POST", "/charges?explain=true", "idempotency-key: k-2", who="service",
                     body='{"accountId": "acct_0000000000001", "costMicro": "1", "sourceId": "s", "poolId": "gpu"}'),
        request_seed("POST", "/charges/batch", who="service",
                     body='{"charges": [{"entity": {"entityType": "person", "entityId": "ada"}, "costMicro": "1",'
                          ' "sourceId": "s", "metadata": {"a": 1}}]}'),
        request_seed("GET", "/charges/charge_0000000000001?explain=true"),
        request_seed("GET", "/accounts/acct_0000000000001/charges?sourceId=s"),
        request_seed("POST", "/release", who="service", body='{"reservationId": "res_0000000000001"}'),
        request_seed("OPTIONS", "/accounts"),
        b"GET /health/ready",
        b"GET /metrics",
        b"BREW /schema\nauthorization: Basic eDp5",
        b"",
    ],
}  # fmt: skip

# What the fuzzer puts together, beside what it sees compared.
WORDS: dict[str, list[str]] = {
    "body": [
        *sorted({f'"{field.encode_name}":' for body in BODIES for field in msgspec.structs.fields(body)}),
        '"0"', '"1"', '"9223372036854775807"', '"9223372036854775808"', "null", "true", "false", "NaN", "1e999", "-0", "0.1",
        "{}", "[]", '""', '"\\ud800"', '"\\u0000"', '"2030-01-01T00:00:00Z"', "person", "loyalty", "tiered",
        "proportional_loss",
    ],
    "cursor": ["=", "-", "_"],
    "token": [
        *[f"{name}=" for kind in CLAIMS.values() for name in kind], "exp=", "iat=", "nbf=", "jti=", "scope=", "header.alg=",
        "header.kid=", "header.typ=", "null", "true", "NaN", "1e999", '"', "[", "]", "{}", "\\ud800", str(NOW_S), "admin:*",
    ],
    "csv": [
        ",", ";", "\t", '"', '""', "\r\n", "\n", "\r", "a", "n", "s", "e-06", "E+3", "0.000001",
        "9223372036854.775807", "\ufeff",
    ],
    "request": [
        *["/admin/billing", "/api/internal/billing", "authorization: Bearer {admin}", "authorization: Bearer {service}"],
        *["idempotency-key: ", "content-type: application/json; charset=utf-8", "content-length: ", "x-correlation-id: "],
        *["?limit=", "&cursor=", "?dryRun=true", "&from=", "&to=", "%00", "%2F", "%FF", "+", "/..", "//"],
    ],
}  # fmt: skip
