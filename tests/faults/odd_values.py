"""Odd values for any member of a body, any parameter and any part of a path.

The kinds of text follow Max Woolf's Big List of Naughty Strings (github.com/minimaxir/big-list-of-naughty-strings), and text
that SQL, shells, terminals, spreadsheets and templates interpret. The texts are our own.
"""

from typing import Any

Json = Any

# Values that are not text, or text for another kind of member. None is valid for a text member.
OF_OTHER_KINDS: list[Json] = [
    None, True, False, 0, -0.0, 1, -1, 1.5, -1.5, 1e100, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30,
    10**400,
    [], [[]], [None], ["x"], [1, 2], {}, {"": None}, {"a": {"b": {}}}, [{}],
]  # fmt: skip

NUMBERS_AS_TEXT = [
    "", "0", "1", "-1", "+1", "01", "1.0", "1e3", "0x10", "1_000", "1,000", " 1", "1 ", "NaN", "inf", "-0",
    "9223372036854775807",
    "9223372036854775808", "18446744073709551616", "9" * 400, "0" * 400, "\u0661\u0662", "\uff11", "\u00b2", "\u2460",
    "1\u0000",
    "2030-01-01T00:00:00Z", "2030-02-30T00:00:00Z", "0000-00-00T00:00:00Z", "true", "null", "undefined", "None",
]  # fmt: skip

NAUGHTY = [
    # text that other programs execute
    "'; DROP TABLE credit_lots; --", "' OR '1'='1", '" OR ""="', "1; ATTACH DATABASE '/tmp/x' AS x", ":now_us", "?1", "@x",
    "$x",
    "%s%s%n", "{0}", "{x.__class__}", "${x}", "#{1+1}", "{{1+1}}", "<%= 1 %>", "<script>alert(1)</script>",
    "<img src=x onerror=1>",
    "&lt;b&gt;", "]]>", "<!--", "<?xml version='1.0'?>", "$(id)", "`id`", "| id", "&& id", "; id", "\\", "\\\\", "\\n",
    "../../etc/passwd",
    "..\\..\\x", "/", "//", "file:///etc/passwd", "http://169.254.169.254/", "=1+1", "@SUM(1)", "=cmd|' /C x'!A0",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07", "%00", "%2e%2e%2f", "%ff", "\r\nX-Injected: yes", "a\nlevel=error msg=forged",
    # white space
    " ", "\t", "\n", "\r\n", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u2029", "\u3000", "\ufeff",
    "\u200b",
    " x", "x ", "a\tb", "\u180e",
    # control characters
    "\x01", "\x07", "\x08", "\x1f", "\x7f", "\x80", "\x9f", "a\x00b", "\x00", "\x00x",
    # characters that reverse, combine, are invisible or unassigned
    "\u202etxt.exe", "\u2066x\u2069", "\u200dx", "\u2060", "\u00ad", "e\u0301", "\u00e9", "\u212b", "\u00c5", "\ufb01",
    "\u0130",
    "\u0131", "\u1e9e", "\u00df", "\uffff", "\ufdd0", "\U0001ffff", "\U0010ffff", "\ufffd", "\ufffc", "\ue000", "\U000e0041",
    "a" + "\u0301" * 60, "Z\u0351\u0345a\u0329l\u0347g\u0320o\u0330",
    # scripts
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac", "\u0420\u0443\u0441\u0441\u043a\u0438\u0439", "\u4e2d\u6587",
    "\u65e5\u672c\u8a9e",
    "\ud55c\uad6d\uc5b4", "\u0639\u0631\u0628\u064a", "\u05e2\u05d1\u05e8\u05d9\u05ea", "\u0e44\u0e17\u0e22",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd",
    "\U00020bb7", "\U0001d4d0",
    "\uff21\uff22", "\u24b6", "\u1d2c", "\u0430dmin",
    # words with a meaning in other languages
    "null", "NULL", "nil", "None", "undefined", "true", "false", "NaN", "Infinity", "constructor", "__proto__",
    "hasOwnProperty",
    "toString", "__class__", "self", "CON", "aux", "COM1", "C:", "-", "--", "-rf", "--help", ".", "..", "...", "*", "?",
    "#", "&", "a&b=c",
    "a?b", "a#b", "a;b", "a=b", "admin", "acct_0000000000001", "acct_0", "general", "Scunthorpe", "x" * 63, "x" * 64,
    "x" * 65, "x" * 200,
    "x" * 201, "x" * 501, "\u00e9" * 200, "\U0001f600" * 200, "x" * 5_000,
]  # fmt: skip
