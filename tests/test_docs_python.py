"""The Python blocks of the documentation work when they are pasted."""

from pathlib import Path

from minibill.client._async.methods import AsyncMethods
from tests.api_client import SECRETS
from tests.documentation import blocks, page, run_python
from tests.service_process import serving


def test_the_readme_opens_a_database(tmp_path: Path) -> None:
    [program] = blocks("README.md", "python")
    assert run_python(tmp_path, "-c", program) == "5000000\n"


def test_a_database_inside_a_program(tmp_path: Path) -> None:
    inside, *_ = blocks("docs/guides/python.md", "python")
    assert run_python(tmp_path, "-c", inside).splitlines()[0] == "only 4300000 left"


def test_a_client_of_a_service(tmp_path: Path) -> None:
    _, as_an_admin, as_a_service = blocks("docs/guides/python.md", "python")
    secret = SECRETS["BILLING_INTERNAL_JWT_SECRET"]
    with serving(tmp_path / "book.db", BILLING_INTERNAL_JWT_SECRET=secret) as server:
        base = server.http.base_url
        url = f"http://{base.host}:{base.port}"
        token = server.http.headers["Authorization"].removeprefix("Bearer ")
        output = run_python(tmp_path, "-c", as_an_admin, MINIBILL_URL=url, MINIBILL_TOKEN=token)
        assert output.splitlines()[0] == "2 paid"
        output = run_python(tmp_path, "-c", as_a_service, MINIBILL_URL=url, BILLING_INTERNAL_JWT_SECRET=secret)
    assert output == "250000 of 1000000\nledger.finalize -180000\n"


def test_a_test_with_the_fixture(tmp_path: Path) -> None:
    [test] = blocks("docs/guides/testing.md", "python")
    (tmp_path / "test_charging.py").write_text(test)
    assert "1 passed" in run_python(tmp_path, "-m", "pytest", "-q", "-p", "no:schemathesis", "-p", "no:cacheprovider")


def test_every_method_of_the_client_is_documented() -> None:
    methods = {name for name in dir(AsyncMethods) if not name.startswith("_")} - {"send"}
    assert {name for name in methods if f"`{name}`" not in page("docs/guides/python.md")} == set()
