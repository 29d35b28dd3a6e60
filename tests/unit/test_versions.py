"""What another version of Godwit has written is read: reasons that this one does not know."""

import pytest

from godwit.api.kinds import parse
from godwit.contract.outcome import StepOutcome
from godwit.contract.reasons import Reason

NEWER = "QuotaOfTheMoon"
TIME = "2026-03-01T12:00:00Z"
FAILURE = {"reason": NEWER, "message": "It is full.", "standing": "Nothing was changed."}
SPEC = {
    "PostgresDatabase": {"connection": {"uriFrom": {"name": "shop", "key": "uri"}}},
    "DatabaseMigration": {"databaseRef": {"name": "shop"}, "source": {"configMaps": [{"name": "files"}]}},
    "DatabaseBackup": {"databaseRef": {"name": "shop"}},
    "DatabaseRestore": {"databaseRef": {"name": "shop"}, "backupRef": {"name": "b"}},
}


@pytest.mark.parametrize("kind", SPEC)
def test_a_status_with_a_reason_of_a_newer_version_is_read_and_written_back_as_it_was(kind: str):
    status = {"failure": FAILURE}
    manifest = {"kind": kind, "metadata": {"name": "shop"}, "spec": SPEC[kind], "status": status}
    told = parse(manifest).status
    written = told.to_json()["failure"]
    assert {key: written[key] for key in FAILURE} == FAILURE


def test_a_reason_of_a_newer_version_waits_for_a_person():
    failure = StepOutcome.decode(
        f'{{"requestHash": "h", "startedAt": "{TIME}", "endedAt": "{TIME}",'
        f' "failure": {{"reason": "{NEWER}", "message": "It is full."}}}}'
    ).failure
    assert failure is not None
    assert (failure.reason, failure.terminal, failure.reason.known) == (Reason(NEWER), True, False)
    assert "newer" in failure.reason.advice.next
    assert NEWER not in list(Reason)


def test_what_is_no_text_is_no_reason():
    with pytest.raises(ValueError, match="5 is not a valid Reason"):
        Reason(5)
