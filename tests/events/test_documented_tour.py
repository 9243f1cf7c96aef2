"""The tour of docs/guides/events.md works when it is pasted."""

from pathlib import Path

from tests.documentation import needs_curl, responses, run_tour


@needs_curl
def test_the_tour_of_events_works(tmp_path: Path) -> None:
    thresholds, _, _, since, mail, _ = responses(run_tour("docs/guides/events.md", tmp_path))
    assert thresholds["thresholds"][0]["state"] == "below"
    assert [event["type"] for event in since["items"]] == [
        "account.opened", "ledger.grant", "threshold.recovered", "ledger.reserve", "threshold.below",
    ]  # fmt: skip
    assert mail["items"] == since["items"][-1:]
