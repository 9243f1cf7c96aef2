"""The README and the pages of the documentation: their tours work, their links lead somewhere."""

import re
from pathlib import Path

from tests.documentation import PAGES, ROOT, blocks, needs_curl, page, responses, run_tour, tours

README_BYTES_MAX = 6_500

# Pages whose shell blocks are tours. The commands of docs/operating have tests of their own.
TOURED = [
    "README.md",
    "docs/start.md",
    *(f"docs/guides/{file.name}" for file in sorted((ROOT / "docs/guides").glob("*.md"))),
]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES_MAX


@needs_curl
def test_the_tour_of_the_readme_works(tmp_path: Path) -> None:
    found = responses(run_tour("README.md", tmp_path))
    assert found[3]["releasedMicro"] == "300000"
    assert found[4]["totalAvailableMicro"] == "4300000"
    assert (found[5]["chargedMicro"], found[5]["duplicate"]) == ("250000", False)
    assert found[8] == found[9] and found[8]["totalGranted"] == 1


@needs_curl
def test_the_tour_of_getting_started_works(tmp_path: Path) -> None:
    output = run_tour("docs/start.md", tmp_path)
    lines = [line for line in output.splitlines() if line.startswith("{")]
    assert [bool(re.search(r'"duplicate":true', line)) for line in lines[1:3]] == [False, True]
    assert '"dryRun":true' in lines[6]
    assert lines[7] == lines[8] and '"totalGranted":2' in lines[7]
    assert '"code":"budget_exceeded"' in lines[10]
    assert re.search(r"granted\s+1", output) and re.search(r"skipped\s+1", output)


def test_every_shell_block_is_run_or_is_a_make_target() -> None:
    targets = re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE)
    for name in TOURED:
        rest = [block for block in blocks(name, "sh") if block not in tours(name)]
        commands = [line.partition("#")[0].split() for block in rest for line in block.splitlines()]
        assert all(command[0] == "make" and command[1] in targets for command in commands), (name, rest)
    concepts = (ROOT / "docs" / "concepts").glob("*.md")
    assert [file.name for file in concepts if re.search(r"^```(sh|python)$", file.read_text("utf-8"), re.MULTILINE)] == []


def test_the_makefile_has_the_targets_that_are_documented() -> None:
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE))
    named = {name for file in PAGES for name in re.findall(r"`make ([a-z-]+)", file.read_text("utf-8"))}
    assert named - targets == set()


def test_links_between_pages_lead_somewhere() -> None:
    assert [f"{file.name}: {link}" for file in PAGES for link in broken_links(file)] == []


def test_the_tests_that_pages_name_exist() -> None:
    files = [ROOT / "SECURITY.md", *(ROOT / "docs" / "internals").rglob("*.md")]
    named = {name for file in files for name in re.findall(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)`", file.read_text("utf-8"))}
    assert {name for name in named if not (ROOT / "tests" / name).is_file()} == set()


def test_pages_name_modules_and_functions_that_exist() -> None:
    missing = []
    for file in [ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / "internals").rglob("*.md")]:
        # A walk names `package/module.py: function`.
        for module, name in re.findall(r"`([a-z_]+/[a-z_/]+\.py)(?:: ([\w.]+))?`", file.read_text("utf-8")):
            place = ROOT / (module if module.startswith(("tests/", "src/")) else f"src/minibill/{module}")
            source = place.read_text("utf-8") if place.is_file() else None
            if source is None or not all(defines(source, word) for word in name.split(".") if word):
                missing.append(f"{file.name}: {module} {name}")
    # The fault tests and others are named from tests/; another test looks for them.
    assert [line for line in missing if "/test_" not in line] == []


def defines(source: str, name: str) -> bool:
    return re.search(rf"^\s*(?:async def|def|class) {name}\b", source, re.MULTILINE) is not None


def broken_links(file: Path) -> list[str]:
    """Return the relative links of a page whose file or heading does not exist."""
    broken = []
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(link)
    return broken


def headings(file: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them from its headings."""
    found = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_the_index_of_decisions_lists_every_record() -> None:
    folder = ROOT / "docs" / "internals" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text("utf-8"))
    assert listed == sorted(file.name for file in folder.glob("0*.md"))
