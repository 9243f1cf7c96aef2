"""The files of docs/deploy, each checked by its own tool where that is installed."""

import configparser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from minibill.config import OTHER_VARIABLES, SETTINGS
from minibill.db.writer import LOCK_SECONDS_MAX
from tests.api_client import Api
from tests.service_process import environment, serving

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
UNIT = (DEPLOY / "minibill.service").read_text("utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
PAGES = "\n".join(file.read_text("utf-8") for file in sorted((ROOT / "docs" / "operating").glob("*.md")))
ALERTS = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"this machine has no {program}")


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)


def directives(name: str) -> list[str]:
    """Return the values of a directive of the unit, line by line."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


# --- the unit ---


@needs("systemd-analyze")
@pytest.mark.parametrize("name", ["minibill", "litestream"])
def test_systemd_accepts_every_line_of_the_units(tmp_path: Path, name: str) -> None:
    unit = tmp_path / f"{name}.service"
    # systemd-analyze checks that the program exists, and here it is elsewhere.
    unit.write_text((DEPLOY / unit.name).read_text("utf-8").replace(f"/usr/local/bin/{name}", "/bin/true"))
    result = run("systemd-analyze", "verify", unit)
    messages = [line for line in result.stderr.splitlines() if name in line]
    assert (result.returncode, messages) == (0, [])


@needs("systemd-analyze")
def test_the_exposure_of_the_unit_is_low() -> None:
    result = run("systemd-analyze", "security", "--offline=true", "--threshold=20", DEPLOY / "minibill.service")
    assert result.returncode == 0, result.stdout


def test_the_unit_restarts_a_service_that_hangs() -> None:
    assert directives("Type") == ["notify"] and directives("Restart") == ["on-failure"]
    assert int(directives("WatchdogSec")[0]) > 3 * LOCK_SECONDS_MAX
    # Exit code 2 is a wrong configuration, which a restart does not correct.
    assert directives("RestartPreventExitStatus") == ["2"]


def test_the_unit_contains_no_secrets() -> None:
    assert directives("EnvironmentFile") == ["/etc/minibill/env"]
    assert "JWT_SECRET" not in UNIT


@needs("strace")
@needs("systemd-analyze")
def test_the_service_makes_no_system_call_that_the_unit_forbids(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    script = (
        "import sys; from pathlib import Path; from tests.service_process import serving, open_account, mint\n"
        "with serving(Path(sys.argv[1])) as server:\n"
        "    account = open_account(server)\n"
        "    assert [mint(server, account, n) for n in range(20)] == [201] * 20\n"
        "    assert server.http.post('/reconciliation').status_code == 200\n"
        "    assert server.http.get(str(server.http.base_url.join('/metrics'))).status_code == 200\n"
        "    assert server.end() == 0\n"
    )
    command = ["strace", "-f", "-qq", "-o", trace, sys.executable, "-c", script, tmp_path / "book.db"]
    result = subprocess.run(
        [str(word) for word in command], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    if "PTRACE" in result.stderr:
        pytest.skip("this machine does not allow strace")
    assert result.returncode == 0, result.stderr
    lines = trace.read_text(errors="replace").splitlines()
    called = {found[1] for line in lines if (found := re.match(r"\d+ +(\w+)\(", line))}
    assert {"fsync", "fdatasync"} & called and "listen" in called
    allowed, forbidden = (syscalls(names) for names in (["@system-service", "@default"], ["@privileged"]))
    assert directives("SystemCallFilter") == ["@system-service", "~@privileged"]
    # Only as root, SQLite gives its files to the owner of the database. The unit's user is not root.
    assert called - (allowed - forbidden) <= {"fchown"}
    if directives("MemoryDenyWriteExecute") == ["yes"]:
        assert [line for line in lines if "PROT_WRITE|PROT_EXEC" in line or re.search(r"mprotect\(.*PROT_EXEC", line)] == []


def syscalls(sets: list[str]) -> set[str]:
    """Return the system calls of systemd's sets, and of the sets in them."""
    found: set[str] = set()
    while sets:
        for line in run("systemd-analyze", "syscall-filter", sets.pop()).stdout.splitlines()[1:]:
            name = line.strip()
            if name.startswith("@"):
                sets.append(name)
            elif name and not name.startswith("#"):
                found.add(name)
    return found


# --- the image ---


@needs("hadolint")
def test_hadolint_finds_no_error_in_the_dockerfile() -> None:
    result = run("hadolint", DEPLOY / "Dockerfile")
    assert (result.returncode, result.stdout) == (0, "")


def test_the_image_is_slim_pinned_and_runs_as_its_own_user() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(stages) == 2 and all(re.fullmatch(r"python:3\.\d+-slim-\w+", stage) for stage in stages)
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "pip install" not in last and "COPY --from=build" in last
    assert re.search(r"^USER \d+:\d+$", last, re.MULTILINE)
    assert "--require-hashes" in DOCKERFILE and "--only-binary=:all:" in DOCKERFILE


def test_the_build_context_has_exactly_the_copied_files() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    included = {line[1:] for line in ignored if line.startswith("!")}
    [copied] = re.findall(r"^COPY (docs\S+ \S+) ", DOCKERFILE, re.MULTILINE)
    assert set(copied.split()) == included and "*" in ignored


def test_the_image_sets_only_known_settings() -> None:
    variables = set(re.findall(r"\b(MINIBILL_\w+)=", DOCKERFILE))
    assert variables and variables <= {setting.variable for setting in SETTINGS} | OTHER_VARIABLES


def test_the_image_installs_only_run_time_dependencies() -> None:
    pinned, all_of_them = (
        set(re.findall(r"^([\w.-]+==\S+)", (ROOT / file).read_text(), re.MULTILINE))
        for file in ("docs/deploy/requirements.lock", "requirements.lock")
    )
    assert pinned <= all_of_them and not {name for name in pinned if name.startswith(("pytest", "ruff", "mypy"))}
    assert {name.partition("==")[0] for name in pinned} >= {"litestar", "uvicorn", "pysqlite3", "msgspec"}


def test_the_health_check_succeeds_only_for_a_ready_service(tmp_path: Path) -> None:
    [words] = re.findall(r"^HEALTHCHECK .*\n\s+CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    _, *arguments = json.loads(words)

    def check(port: int) -> int:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment(MINIBILL_PORT=str(port)), capture_output=True, timeout=30).returncode

    with serving(tmp_path / "book.db") as server:
        port = server.http.base_url.port
        assert port is not None and check(port) == 0
    assert check(port) != 0


# --- the alerts ---


def metrics_of(api: Api) -> set[str]:
    response: httpx.Response = api.ask("GET", "/metrics", headers=[])
    families = list(text_string_to_metric_families(response.text))
    # Some metrics have no sample before the first reconciliation.
    return {sample.name for family in families for sample in family.samples} | {
        f"{family.name}{ending}" for family in families for ending in ("", "_total")
    }


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_alerts_use_only_metrics_that_exist(start: Callable[..., Api], alert: dict[str, Any]) -> None:
    named = set(re.findall(r"\b(?:minibill|process)_\w+", re.sub(r'"[^"]*"', "", alert["expr"])))
    assert named <= metrics_of(start()) and (named or "up{" in alert["expr"])
    codes = re.findall(r'code="(\w+)"', alert["expr"])
    assert all(f"`{code}`" in (ROOT / "docs/reference/errors.md").read_text("utf-8") for code in codes)


def test_an_unknown_metric_would_be_found(start: Callable[..., Api]) -> None:
    assert {"minibill_ready", "minibill_problems_total", "process_open_fds"} <= metrics_of(start())
    assert "minibill_redy" not in metrics_of(start())


def test_every_alert_is_explained_in_order() -> None:
    explained = re.findall(r"^\| `(Minibill\w+)` \|", PAGES, re.MULTILINE)
    assert explained == [alert["alert"] for alert in ALERTS]


# --- Litestream ---


def test_litestream_replicates_the_file_that_the_unit_serves() -> None:
    [database] = yaml.safe_load((DEPLOY / "litestream.yml").read_text("utf-8"))["dbs"]
    assert f"--db {database['path']}" in directives("ExecStart")[0]


def test_litestream_runs_as_the_same_user_and_starts_first() -> None:
    replicating = (DEPLOY / "litestream.service").read_text("utf-8")
    for name in ("User", "Group", "UMask", "StateDirectory", "StateDirectoryMode"):
        assert re.findall(rf"^{name}=(.*)$", replicating, re.MULTILINE) == directives(name) != []
    assert "litestream.service" in directives("After")[0]


def test_the_operating_pages_name_all_deploy_files() -> None:
    named = set(re.findall(r"\bdocs/deploy/[\w.]+\w", PAGES))
    assert named == {f"docs/deploy/{file.name}" for file in DEPLOY.iterdir() if not file.name.endswith(".lock")} - {
        "docs/deploy/Dockerfile.dockerignore", "docs/deploy/minibill.spec",
    }  # fmt: skip


def test_the_pages_set_what_litestream_needs() -> None:
    assert "MINIBILL_CHECKPOINT_PAGES=0" in PAGES
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT)
    assert parser["Service"]["User"] == "minibill"
