"""Test support for programs that use minibill: two pytest fixtures that come with the package.

`minibill_book` is an empty book for one test. `minibill_service` is the running service of the session, for a suite that
prepares a book once and restores it for each test:

    @pytest.fixture(scope="session")
    def prepared(minibill_service):
        minibill_service.reset()
        minibill_service.give("ada", 5_000_000)
        return minibill_service.snapshot()

    @pytest.fixture
    def book(minibill_service, prepared):
        minibill_service.restore(prepared)
        return minibill_service

    def test_a_job_is_charged(book):
        run_job("ada", url=book.url, token=book.service_token())
        assert book.balance("ada") == 4_300_000
"""

from minibill.testing.book import BookForTests, Snapshot
from minibill.testing.clock import START

__all__ = ["START", "BookForTests", "Snapshot"]
