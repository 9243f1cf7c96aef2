"""Forged tokens: any header and payload, signed well or badly, for both kinds of callers."""

import base64
import hashlib
import hmac
import json
from typing import Any, NamedTuple

from minibill.auth.callers import CallerKind
from minibill.auth.scopes import EVERYTHING
from minibill.core.clock import US_PER_SECOND, real_now_us
from tests.api_client import SECRETS

Json = Any


def now() -> int:
    """Return the time in seconds, as tokens have it."""
    return real_now_us() // US_PER_SECOND


def b64(data: bytes) -> str:
    """Return bytes in the encoding of a token's parts."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class TokenIssuer(NamedTuple):
    """An issuer of valid tokens of one kind, which may live `longest` seconds."""

    kind: CallerKind
    secret: str
    issuer: str
    audience: str
    longest: int

    @property
    def other(self) -> "TokenIssuer":
        return SERVICE if self.kind == "admin" else ADMIN

    def claims(self, **changes: Json) -> dict[str, Json]:
        """Return valid claims with changes; `...` removes a claim."""
        good: dict[str, Json] = {
            "sub": "operator", "iss": self.issuer, "aud": self.audience, "iat": now(), "exp": now() + min(self.longest, 600),
            "jti": "j-1",
        }  # fmt: skip
        if self.kind == "admin":
            good["scopes"] = [EVERYTHING]
        return {name: value for name, value in (good | changes).items() if value is not ...}

    def forge(
        self,
        payload: Json = None,
        header: Json = None,
        *,
        secret: str | None = None,
        algorithm: str = "sha256",
        signature: bytes | None = None,
    ) -> str:
        """Return a token of any header and payload, as bytes or JSON, with a valid signature by default."""
        parts = [
            header if header is not None else {"alg": "HS256", "typ": "JWT"},
            payload if payload is not None else self.claims(),
        ]
        signed = ".".join(b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in parts)
        own = hmac.digest((self.secret if secret is None else secret).encode(), signed.encode(), algorithm)
        return f"{signed}.{b64(own if signature is None else signature)}"

    def changed(self, **changes: Json) -> str:
        """Return a token with valid claims but for these."""
        return self.forge(self.claims(**changes))

    def headed(self, **members: Json) -> str:
        """Return a valid token with further members in its header."""
        return self.forge(header={"alg": "HS256", "typ": "JWT", **members})

    def raw_payload(self, member: str) -> str:
        """Return a token with one more claim as text, which may be invalid JSON."""
        return self.forge(json.dumps(self.claims())[:-1].encode() + b", " + member.encode() + b"}")

    def flipped(self, part: int) -> str:
        """Return a valid token with one changed character."""
        parts = self.forge().split(".")
        text = parts[part]
        parts[part] = text[:5] + ("A" if text[5] != "A" else "B") + text[6:]
        return ".".join(parts)

    def swapped(self) -> str:
        """Return a token with the payload of another one."""
        one, other = (self.changed(sub=sub).split(".") for sub in ("one", "other"))
        return ".".join([one[0], other[1], one[2]])


ADMIN = TokenIssuer("admin", SECRETS["BILLING_ADMIN_JWT_SECRET"], "arrakis-admin", "arrakis-billing-admin", 3_600)
SERVICE = TokenIssuer("service", SECRETS["BILLING_INTERNAL_JWT_SECRET"], "loa-finn", "arrakis-internal", 300)


def defects(f: TokenIssuer) -> dict[str, str]:
    """Return invalid tokens by their defect."""
    wrong = _wrong_anywhere(f)
    return wrong | _wrong_scopes(f) if f.kind == "admin" else wrong


# fmt: off
def _wrong_anywhere(f: TokenIssuer) -> dict[str, str]:
    return {
        # the shape
        "nonsense": "nonsense",
        "only dots": "..",
        "no signature": ".".join(f.forge().split(".")[:2]),
        "an empty signature": ".".join(f.forge().split(".")[:2]) + ".",
        "an empty payload": f.forge(b""),
        "an empty header": f.forge(header=b""),
        "five parts": f.forge() + ".x.y",
        "a fourth part": f.forge() + ".x",
        "padding": f.forge() + "=",
        "padding within": f.forge().replace(".", "=."),
        "a space before": " " + f.forge(),
        "a space behind": f.forge() + " ",
        "a space within": f.forge().replace(".", ". "),
        "a line feed": f.forge() + "\n",
        "quotes": f'"{f.forge()}"',
        "a plus": f.forge().replace(".", "+.", 1),
        "another alphabet": f.forge()[:-1] + "é",
        "more than 4 KiB": f.changed(note="x" * 4_096),
        "much more than 4 KiB": f.changed(note="x" * 60_000),
        "a header that is no JSON": f.forge(header=b"{"),
        "a header that is no object": f.forge(header=b"[]"),
        "a header that is text": f.forge(header=b'"HS256"'),
        "a payload that is no JSON": f.forge(b"{"),
        "a payload that is no object": f.forge(b"[]"),
        "a payload that is null": f.forge(b"null"),
        "a payload that is not UTF-8": f.forge(b'{"sub": "\xff"}'),
        "a deep payload": f.forge(b"[" * 2_000),
        "a deep header": f.forge(header=b"[" * 2_000),
        # the signature
        "a signature cut short": f.forge(signature=hmac.digest(f.secret.encode(), b"x", "sha256")[:16]),
        "a truncated signature": f.forge()[:-3],
        "a signature with more behind": f.forge() + "AAAA",
        "a signature of zeros": f.forge(signature=bytes(32)),
        "a changed header": f.flipped(0),
        "a changed payload": f.flipped(1),
        "a changed signature": f.flipped(2),
        "another's payload": f.swapped(),
        "another secret": f.forge(secret="another secret, just as long as the other"),
        "no secret": f.forge(secret=""),
        "the secret's hash": f.forge(secret=hashlib.sha256(f.secret.encode()).hexdigest()),
        "the secret of the other door": f.forge(secret=f.other.secret),
        # the algorithm and other members of the header
        "alg none": f.forge(header={"alg": "none", "typ": "JWT"}),
        "alg none without signature": f.forge(header={"alg": "none", "typ": "JWT"}, signature=b""),
        "alg None": f.forge(header={"alg": "None"}),
        "alg HS384": f.forge(header={"alg": "HS384", "typ": "JWT"}, algorithm="sha384"),
        "alg HS512": f.forge(header={"alg": "HS512", "typ": "JWT"}, algorithm="sha512"),
        "alg RS256": f.forge(header={"alg": "RS256", "typ": "JWT"}),
        "alg ES256": f.forge(header={"alg": "ES256"}),
        "alg EdDSA": f.forge(header={"alg": "EdDSA"}),
        "alg hs256": f.forge(header={"alg": "hs256"}),
        "alg HS256 signed as HS384": f.forge(algorithm="sha384"),
        "alg a list": f.forge(header={"alg": ["HS256"]}),
        "alg null": f.forge(header={"alg": None}),
        "no alg": f.forge(header={"typ": "JWT"}),
        "crit": f.headed(crit=["exp"]),
        "crit of b64": f.headed(crit=["b64"], b64=False),
        "b64 true": f.headed(b64=True),
        "jku": f.headed(jku="https://example.com/keys"),
        "jwk": f.headed(jwk={"kty": "oct", "k": b64(b"x" * 32)}),
        "x5u": f.headed(x5u="https://example.com/cert"),
        "x5c": f.headed(x5c=["MII"]),
        "cty": f.headed(cty="JWT"),
        "zip": f.headed(zip="DEF"),
        "an unknown header member": f.headed(Alg="HS256"),
        "a kid that is no string": f.headed(kid=5),
        # issuer and audience
        "another issuer": f.changed(iss=f.other.issuer),
        "an issuer that is a list": f.changed(iss=[f.issuer]),
        "an issuer in other letters": f.changed(iss=f.issuer.title()),
        "an issuer with a space": f.changed(iss=f.issuer + " "),
        "an issuer that is null": f.changed(iss=None),
        "another audience": f.changed(aud=f.other.audience),
        "an audience that is a list of the one": f.changed(aud=[f.audience]),
        "an audience that is a list of several": f.changed(aud=[f.audience, "x"]),
        "an audience that begins so": f.changed(aud=f.audience + "2"),
        "an empty audience": f.changed(aud=""),
        "an audience that is null": f.changed(aud=None),
        "an audience that is an object": f.changed(aud={f.audience: 1}),
        # times
        "expired": f.forge(f.claims(iat=now() - 200, exp=now() - 31)),
        "expired long ago": f.forge(f.claims(iat=1, exp=2)),
        "not begun": f.forge(f.claims(nbf=now() + 60)),
        "issued in the future": f.forge(f.claims(iat=now() + 60, exp=now() + 100)),
        "a life too long": f.forge(f.claims(exp=now() + f.longest + 1)),
        "a life too long that is nearly over": f.forge(f.claims(iat=now() - 2 * f.longest, exp=now() + 5)),
        "a life for ever": f.changed(exp=2**53),
        "no end": f.changed(exp=10**30),
        "expired by half a second": f.forge(f.claims(iat=now() - 200, exp=now() - 30.5)),
        "a life half a second too long": f.forge(f.claims(iat=now(), exp=now() + f.longest + 0.5)),
        "a fraction too long": f.forge(f.claims(iat=now(), exp=now() + f.longest + 0.000_001)),
        "issued in the future by a fraction": f.forge(f.claims(iat=now() + 60.5, exp=now() + 100)),
        "an exp of 1e300": f.changed(exp=1e300),
        "an iat and an exp of 1e300": f.changed(iat=1e300, exp=1e300),
        "an iat of -1e300": f.changed(iat=-1e300),
        "an exp that is text": f.forge(f.claims(exp=str(now() + 100))),
        "an exp that is true": f.changed(exp=True),
        "an exp that is null": f.changed(exp=None),
        "an exp that is a list": f.forge(f.claims(exp=[now() + 100])),
        "a negative exp": f.changed(exp=-1),
        "an exp of 2,500 digits": f.raw_payload('"exp": ' + "9" * 2_500),
        "an exp that is infinite": f.raw_payload('"exp": 1e999'),
        "an exp that is Infinity": f.raw_payload('"exp": Infinity'),
        "an exp that is NaN": f.raw_payload('"exp": NaN'),
        "an iat that is text": f.forge(f.claims(iat=str(now()))),
        "an iat that is true": f.changed(iat=True),
        "an iat that is null": f.changed(iat=None),
        "an iat that is NaN": f.raw_payload('"iat": NaN'),
        "an iat that is -Infinity": f.raw_payload('"iat": -Infinity'),
        "a negative iat": f.changed(iat=-5),
        "an nbf that is NaN": f.raw_payload('"nbf": NaN'),
        "an nbf that is -Infinity": f.raw_payload('"nbf": -1e999'),
        "an nbf of 1e300": f.changed(nbf=1e300),
        "an nbf that is text": f.forge(f.claims(nbf=str(now()))),
        "an nbf that is true": f.changed(nbf=True),
        "an nbf that is null": f.changed(nbf=None),
        "an nbf that is an object": f.changed(nbf={}),
        # who
        "a blank sub": f.changed(sub="   "),
        "a sub of other blanks": f.changed(sub="\t\n\u3000"),
        "an empty sub": f.changed(sub=""),
        "a sub of 129 characters": f.changed(sub="x" * 129),
        "a sub of half a surrogate pair": f.changed(sub="a\ud800"),
        "a sub with NUL": f.changed(sub="a\0b"),
        "a sub that is a number": f.changed(sub=5),
        "a sub that is null": f.changed(sub=None),
        "a sub that is a list": f.changed(sub=["operator"]),
        "a jti that is null": f.changed(jti=None),
        "a jti that is a number": f.changed(jti=5),
        "a jti that is a list": f.changed(jti=["j"]),
        "a jti that is an object": f.changed(jti={}),
        "a jti that is false": f.changed(jti=False),
        # missing claims
        **{f"no {name}": f.changed(**{name: ...}) for name in ("sub", "iss", "aud", "exp", "iat")},
    }


def _wrong_scopes(f: TokenIssuer) -> dict[str, str]:
    return {
        "scopes that are text": f.changed(scopes=EVERYTHING),
        "scopes that are an object": f.changed(scopes={EVERYTHING: True}),
        "scopes that hold a number": f.changed(scopes=[EVERYTHING, 5]),
        "scopes that hold null": f.changed(scopes=[None]),
        "scopes that hold a list": f.changed(scopes=[[EVERYTHING]]),
        "scopes that are true": f.changed(scopes=True),
        "a scope that is a list": f.changed(scope=[EVERYTHING]),
        "a scope that is a number": f.changed(scope=5),
    }
# fmt: on
