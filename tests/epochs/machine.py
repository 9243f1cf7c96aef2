"""A machine with a book that is backed up, restored, damaged and copied, for tests of epochs."""

import json
import shutil
from pathlib import Path

from click.testing import CliRunner, Result

from minibill.cli.main import main
from minibill.db.anchor import anchor_file
from tests.api_client import Api, Json, Loop


def minibill(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env={"MINIBILL_DB": None})


class Machine:
    """One database file and the service on it; each step that needs the file stops the service."""

    def __init__(self, db: Path, loop: Loop, **environment: str) -> None:
        self.db = db
        self._loop = loop
        # A webhook on a local address needs no DNS.
        self._environment = {"MINIBILL_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8", **environment}
        self._api: Api | None = None
        self._copies = 0

    @property
    def api(self) -> Api:
        """Return the service; start it, accepting a loss, if it does not run."""
        if self._api is None:
            self._api = Api(self.db, self._loop, self._environment, accept_loss=True)
        return self._api

    def stop(self) -> None:
        if self._api is not None:
            self._api.stop()
            self._api = None

    def backup(self) -> Path:
        """Copy the book with `minibill backup`."""
        copy = self._new_copy()
        result = minibill("backup", copy, "--db", self.db)
        assert result.exit_code == 0, result.output
        return copy

    def restore(self, copy: Path) -> Json:
        """Put a copy in place with `minibill restore`, and return its JSON."""
        self.stop()
        result = minibill("restore", copy, "--db", self.db, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def lose_what_is_later(self, copy: Path) -> None:
        """Put a copy in place by hand, beside the anchor of the newer book."""
        self.stop()
        shutil.copyfile(copy, self.db)

    def move(self, copy: Path) -> None:
        """Put a copy in place by hand, as on a machine that has no anchor."""
        self.lose_what_is_later(copy)
        anchor_file(self.db).unlink()

    def verify(self) -> None:
        """Assert that the stopped book passes every check, chain and anchor included."""
        self.stop()
        result = minibill("verify", "--db", self.db)
        assert result.exit_code == 0, result.output

    def _new_copy(self) -> Path:
        self._copies += 1
        return self.db.with_name(f"{self.db.stem}-copy-{self._copies}.db")
