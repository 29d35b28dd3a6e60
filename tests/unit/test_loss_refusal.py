"""May a restore go on? One sentence a case."""

from datetime import UTC, datetime

import pytest

from godwit.contract.reasons import Reason
from godwit.engine.build import only_tolerated
from godwit.engine.loss_since import loss_refusal
from godwit.engine.snapshot import Written, total

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SOME = Written(added=3, gone=1)
UNKNOWN = Written(unknown=True)


@pytest.mark.parametrize(
    ("sentence", "written", "accepted", "reason"),
    [
        ("nothing was written: go on", {}, False, None),
        ("something was written and nobody consented", {"public.a": SOME}, False, Reason.DATA_WOULD_BE_LOST),
        ("something was written, and its loss is accepted", {"public.a": SOME}, True, None),
        (
            "a table cannot be counted: that is a loss",
            {"public.a": UNKNOWN},
            False,
            Reason.DATA_WOULD_BE_LOST,
        ),
        ("a table cannot be counted, accepted", {"public.a": UNKNOWN}, True, None),
        ("another schema was written to, whatever is accepted", {"b.x": SOME}, True, Reason.SHARED_DATABASE),
        ("ours and another's", {"public.a": SOME, "b.x": SOME}, False, Reason.SHARED_DATABASE),
        ("our second schema", {"app.a": SOME}, True, None),
        ("large objects are ours", {"pg_catalog.pg_largeobject": SOME}, True, None),
    ],
)
def test_a_loss_is_refused(sentence, written, accepted, reason):
    refusal = loss_refusal(written, accepted=accepted, schemas={"public", "app"}, since=SINCE)
    assert (refusal and refusal[0]) == reason, sentence


def test_the_message_names_the_tables_with_most_first_and_not_all_of_them():
    written = {f"public.t{n}": Written(added=n) for n in range(1, 9)}
    refusal = loss_refusal(written, accepted=False, schemas={"public"}, since=SINCE)
    assert refusal is not None
    assert "public.t8 (8 inserted or updated, 0 deleted or updated), public.t7" in refusal[1]
    assert "and 3 more tables" in refusal[1]
    assert "2026-01-02T03:04:05Z" in refusal[1]


def test_rows_are_added_up_an_update_counted_once_and_unknown_is_said():
    assert total([Written(added=2, gone=2), Written(gone=4), Written(added=1)]) == 7
    assert total([Written(added=2), UNKNOWN]) == -1
    assert total([]) == 0


COMPLAINT = """\
pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"
Command was: SET transaction_timeout = 0;
pg_restore: warning: errors ignored on restore: {}
"""


@pytest.mark.parametrize(("errors", "tolerated"), [(1, True), (2, False), (10, False)])
def test_one_setting_that_an_older_server_lacks_is_tolerated_and_nothing_else(errors, tolerated):
    assert only_tolerated(COMPLAINT.format(errors)) is tolerated


def test_each_session_of_a_parallel_restore_may_meet_that_setting():
    assert only_tolerated(COMPLAINT.rpartition("pg_restore")[0] + COMPLAINT.format(1))
    other = 'pg_restore: error: could not execute query: ERROR:  relation "a" already exists\n'
    assert not only_tolerated(other + COMPLAINT.format(1))
    assert not only_tolerated(f"{other}Command was: CREATE TABLE a ();\n{COMPLAINT.format(2)}")


def test_the_server_may_complain_in_its_own_language():
    """As seen with lc_messages de_DE on PostgreSQL 15: only the quoted error is the server's."""
    english = 'ERROR:  unrecognized configuration parameter "transaction_timeout"'
    german = "FEHLER:  unbekannter Konfigurationsparameter »transaction_timeout«"
    assert only_tolerated(COMPLAINT.replace(english, german).format(1))
    other = COMPLAINT.split("ERROR", maxsplit=1)[0] + "FEHLER:  Relation »transaction_timeout« besteht\n"
    assert not only_tolerated(
        f"{other}Command was: CREATE TABLE transaction_timeout ();\n{COMPLAINT.format(1)}"
    )
