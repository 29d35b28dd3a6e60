"""The runner: an outcome in every case, a log without secrets, nothing loaded that is not needed."""

import json
import os
import subprocess
import sys

import psycopg
import pytest

from godwit.contract.outcome import StepOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import DeleteBackupInput, ObjectRef, StepRequest, VerifyBackupInput
from godwit.runner.context import secrets_of, understand
from godwit.runner.faults import Faults
from godwit.runner.log import JsonLog, redactor
from godwit.runner.main import _guarded

DELETE = DeleteBackupInput(location="shop/nightly.dump")


def request(*verbs):
    owner = ObjectRef(kind="DatabaseBackup", namespace="shop", name="nightly", uid="u1")
    return StepRequest(object=owner, step="delete", attempt=3, verbs=verbs or (DELETE,))


@pytest.fixture
def run(tmp_path):
    """Run a step in a process of its own: run(raw request, VARIABLE=...) -> the finished process."""
    (tmp_path / "store").mkdir()

    def start(raw=None, **variables):
        data = json.dumps(request().to_json() if raw is None else raw) if raw != "" else "{not json"
        (tmp_path / "request.json").write_text(data)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "GODWIT_"))} | {
            "GODWIT_REQUEST_FILE": str(tmp_path / "request.json"),
            "GODWIT_OUTCOME_FILE": str(tmp_path / "outcome.json"),
            "GODWIT_STORE_DIR": str(tmp_path / "store"),
            "GODWIT_SCRATCH_DIR": str(tmp_path),
        }
        command = [sys.executable, "-m", "godwit.runner"]
        return subprocess.run(command, env=env | variables, capture_output=True, text=True, check=False)

    return start


@pytest.fixture
def outcome(tmp_path):
    """The outcome that the last step wrote."""
    return lambda: StepOutcome.decode((tmp_path / "outcome.json").read_bytes())


def test_a_step_that_ends_well_says_so_with_its_requests_hash(run, outcome):
    done = run()
    assert done.returncode == 0
    assert outcome().failure is None
    assert outcome().request_hash == request().hash
    assert (outcome().attempt, outcome().verbs[0].verb) == (3, "DeleteBackup")
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert events == ["step.started", "verb.started", "verb.finished", "step.finished", "outcome"]
    assert done.stderr == ""


def test_every_line_of_the_log_has_time_level_event_and_message(run):
    for line in run().stdout.splitlines():
        assert {"time", "level", "event", "message"} <= json.loads(line).keys()


def test_the_hash_is_the_writers_own_even_with_fields_of_a_newer_minor(run, outcome):
    from godwit.contract.base import digest

    raw = request().to_json() | {"contractVersion": "1.9", "newField": {"a": 1}}
    assert run(raw).returncode == 0
    assert outcome().failure is None
    assert outcome().request_hash == digest(raw)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"contractVersion": "2.0", "verbs": [{"verb": "Fly"}]}, "2.0"),
        ({}, "(none)"),
        ({"contractVersion": "1.0", "step": "x"}, "object: missing"),
        ([1], "not a JSON object"),
        ("", "not JSON"),
    ],
)
def test_a_request_that_is_not_understood_is_answered_and_nothing_done(run, outcome, raw, says):
    assert run(raw).returncode == 0
    assert outcome().failure.reason is Reason.CONTRACT_MISMATCH
    assert says in outcome().failure.message


def test_an_outcome_that_cannot_be_written_is_a_crash(run, tmp_path):
    assert run(GODWIT_OUTCOME_FILE=str(tmp_path / "none" / "outcome.json")).returncode == 1


def test_a_reader_of_the_log_that_went_away_does_not_hurt_the_step(run, outcome, tmp_path):
    env = os.environ | {
        "GODWIT_REQUEST_FILE": str(tmp_path / "request.json"),
        "GODWIT_OUTCOME_FILE": str(tmp_path / "outcome.json"),
        "GODWIT_STORE_DIR": str(tmp_path / "store"),
    }
    (tmp_path / "request.json").write_text(json.dumps(request().to_json()))
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "godwit.runner"], env=env, stdout=writer, check=False)
    os.close(writer)
    assert done.returncode in (0, 120)  # 120: Python could not flush at exit; the outcome was written before
    assert outcome().failure is None


def test_a_step_stops_at_the_first_verb_that_fails(run, outcome):
    raw = request(DELETE, VerifyBackupInput(location="shop/none.dump"), DELETE).to_json()
    assert run(raw).returncode == 0
    assert [v.verb for v in outcome().verbs] == ["DeleteBackup"]
    assert outcome().failure.reason is Reason.BACKUP_UNUSABLE


def test_neither_kubernetes_nor_a_parser_is_loaded_for_what_needs_none():
    script = (
        "import sys, godwit.runner.main, godwit.engine.check, godwit.engine.dump, godwit.engine.restore;"
        "loaded = {m.partition('.')[0] for m in sys.modules};"
        "print(*sorted(loaded & {'kopf', 'kubernetes', 'aiohttp', 'pglast', 'structlog', 'rich', 'typer'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("fault", "status", "written"),
    [
        ("runner.start:kill", -9, False),
        ("runner.before_outcome:lose", 1, False),
        ("runner.start:delay:0.1", 0, True),
        ("runner.start:kill:2", 0, True),
        ("elsewhere:kill", 0, True),
    ],
)
def test_faults_strike_where_they_are_told_to(run, tmp_path, fault, status, written):
    done = run(GODWIT_FAULT=fault, GODWIT_FAULT_INJECTION="1")
    assert done.returncode == status
    assert (tmp_path / "outcome.json").exists() is written


def test_faults_are_refused_without_the_second_variable(run, outcome):
    assert run(GODWIT_FAULT="runner.start:kill").returncode == 0
    assert outcome().failure.reason is Reason.INTERNAL_ERROR
    assert "GODWIT_FAULT_INJECTION" in outcome().failure.message


@pytest.mark.parametrize("text", ["x", "x:explode", ":kill", "x:delay", "x:kill:often"])
def test_a_fault_that_is_not_understood_is_refused(text):
    with pytest.raises(ValueError, match=r"GODWIT_FAULT|could not convert"):
        Faults({"GODWIT_FAULT": text, "GODWIT_FAULT_INJECTION": "1"})


class Cancelled:
    def is_set(self):
        return False


def test_an_unexpected_error_shows_neither_a_secret_nor_row_data(capsys):
    log = JsonLog(sys.stdout, redactor({"s3cret-word"}))

    def broken():
        raise RuntimeError("connection to postgresql://u:s3cret-word@h/db failed: s3cret-word")

    failure = _guarded(broken, log, Cancelled())
    assert failure.reason is Reason.INTERNAL_ERROR
    printed = capsys.readouterr().out
    assert "RuntimeError" in printed
    assert "test_runner.py" in printed
    assert "s3cret-word" not in printed + failure.model_dump_json()


def test_what_ends_the_interpreter_is_answered_too(capsys):
    def broken():
        raise SystemExit(3)

    assert _guarded(broken, JsonLog(sys.stdout, str), Cancelled()).reason is Reason.INTERNAL_ERROR
    assert "SystemExit" in capsys.readouterr().out


def test_a_lost_connection_that_nobody_expected_is_still_called_so(capsys):
    def broken():
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    failure = _guarded(broken, JsonLog(sys.stdout, str), Cancelled())
    assert failure.reason is Reason.CONNECTION_LOST
    assert "step.exception" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("environ", "secrets"),
    [
        ({"GODWIT_DATABASE_PASSWORD": "geheim1"}, {"geheim1"}),
        ({"GODWIT_DATABASE_URI": "postgresql://u:geheim1@h/db"}, {"geheim1"}),
        ({"GODWIT_DATABASE_URI": "postgresql://u:ge%20heim@h/db"}, {"ge%20heim", "ge heim"}),
        ({"GODWIT_DATABASE_URI": "postgresql://u:ge@heim@h/db"}, {"ge@heim", "ge"}),
        ({"GODWIT_DATABASE_URI": "host=h password=geheim1 user=u"}, {"geheim1"}),
        ({"GODWIT_DATABASE_URI": "host=h password='ge heim' user=u"}, {"ge heim"}),
        ({"GODWIT_DATABASE_PASSWORD": "geheim1\n"}, {"geheim1"}),  # a Secret made of a file
        ({"GODWIT_DATABASE_URI": "host=h password = geheim1 user=u"}, {"geheim1"}),
        ({"GODWIT_DATABASE_URI": r"host=h password='ge\'heim' user=u"}, {"ge'heim"}),
        ({"GODWIT_DATABASE_URI": r"host=h password=ge\ heim user=u"}, {"ge heim"}),
        ({"GODWIT_DATABASE_URI": "postgresql://u@h/db?password=geheim1&x=y"}, {"geheim1"}),
        ({"GODWIT_DATABASE_URI": "host=h password = geheim1 user=u dbname=d"}, {"geheim1"}),
        ({"GODWIT_DATABASE_URI": r"host=h password=ge\ heim user=u dbname=d"}, {"ge heim"}),
        ({"GODWIT_DATABASE_URI": r"host=h password='ge\'heim' user=u dbname=d"}, {"ge'heim"}),
        ({"GODWIT_DATABASE_URI": "host=h password=ge&heim user=u dbname=d"}, {"ge&heim"}),
        ({"GODWIT_DATABASE_URI": "postgresql://u@h/db?schema=x&password=ge+heim"}, {"ge heim"}),
        ({"GODWIT_DATABASE_URI": "postgresql://u@h/db?p%61ssword=geheim1"}, {"geheim1"}),
        ({"GODWIT_DATABASE_URI": "postgresql://u@h/db?sslpassword=ge'heim"}, {"ge'heim"}),
        ({}, set()),
    ],
)
def test_secrets_are_found_in_every_form_of_a_connection(environ, secrets):
    assert secrets <= secrets_of(environ)
    assert not secrets or secrets_of(environ)


def test_secrets_are_taken_out_of_nested_facts(capsys):
    JsonLog(sys.stdout, redactor({"geheim1"})).info("x", facts={"a": ["to geheim1", {"b": "geheim1"}]})
    assert "geheim1" not in capsys.readouterr().out


def test_the_request_comes_back_as_it_was():
    assert understand(request().to_json()) == request()
