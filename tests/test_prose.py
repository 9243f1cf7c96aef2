"""The prose of the documentation: short sentences in the words of the glossary."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.documentation import ROOT

SENTENCE_WORDS_MAX = 25

# Words that CONTRIBUTING.md replaces: reject, client or caller, expire, rolled back, abandoned.
OTHER_WORDS = re.compile(r"\b(refus\w*|whoever|falls? due|taken back|given up|is told|are told)\b", re.IGNORECASE)

# The reference pages of settings, commands and metrics are generated; their words are those of the code.
FILES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/index.md", "docs/start.md")]
FILES += [file for folder in ("concepts", "guides", "internals") for file in sorted((ROOT / "docs" / folder).glob("*.md"))]
FILES += [ROOT / "docs" / "reference" / name for name in ("http-api.md", "errors.md")]


def paragraphs(file: Path) -> Iterator[str]:
    """Yield the paragraphs and list items of a page, without code blocks, tables and headings."""
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(\|.*|#.*|    .*|<!--.*)$", "", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*[-*] |\s*\d+\. )", text):
        words = re.sub(r"`[^`]*`", "X", " ".join(paragraph.split()))
        yield re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words)


def test_a_sentence_has_at_most_25_words() -> None:
    sentences = [
        (file.name, sentence)
        for file in FILES
        for paragraph in paragraphs(file)
        for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z\"…])", paragraph)
    ]
    assert len(sentences) > 500
    assert [each for each in sentences if len(each[1].split()) > SENTENCE_WORDS_MAX] == []


def test_pages_use_the_words_of_the_glossary() -> None:
    found = {f"{file.name}: {match[0]}" for file in FILES for p in paragraphs(file) for match in OTHER_WORDS.finditer(p)}
    assert found == set()
