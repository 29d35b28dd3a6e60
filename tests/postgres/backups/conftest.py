"""What the tests of backups and restores share: a store, and steps on the test's database."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count

import pytest

from godwit.contract.environment import DATABASE_URI_VAR, PG_BIN_VAR
from godwit.contract.request import BackupInput, ObjectRef, RestoreInput, StepRequest
from godwit.engine.context import StepContext
from godwit.engine.dump import backup_verb
from godwit.engine.errors import StepFailed
from godwit.engine.formats.prisma import TABLES
from godwit.engine.manifest import read_manifest
from godwit.engine.restore import restore_verb
from godwit.engine.snapshot import written_since
from godwit.runner.log import JsonLog, redactor

LOCATION = "shop/nightly-u1.dump"


class Place:
    """A database, a store, and steps that work on both."""

    def __init__(self, database, tmp_path, launcher, *, user="postgres", password=None, **request):
        self.database, self.tmp_path, self.server = database, tmp_path, database.server
        self.launcher = launcher
        self.uri = self.server.uri(database.name, user=user, password=password)
        self.request = request
        self.attempts = count(1)
        for name in ("store", "scratch"):
            (tmp_path / name).mkdir(exist_ok=True)

    def context(self, step="backup", **changes):
        """A step as the runner would make it; *changes* are fields of its request, or its fault hook.

        Each is another attempt, as in a cluster.
        """
        hook = {"point": changes.pop("point")} if "point" in changes else {}
        fields = {
            "attempt": next(self.attempts),
            "object": ObjectRef(kind="DatabaseRestore", namespace="shop", name="back", uid="r1"),
            "step": step,
            "operation": "r1",
            "spec_hash": "h1",
            "verbs": (),
        }
        return StepContext(
            request=StepRequest(**(fields | self.request | changes)),
            environ={
                DATABASE_URI_VAR: self.uri,
                PG_BIN_VAR: str(self.server.bin_dir),
                "PATH": os.environ["PATH"],
            },
            source_dir=self.tmp_path / "source",
            store_dir=self.tmp_path / "store",
            scratch_dir=self.tmp_path / "scratch",
            log=JsonLog(sys.stdout, redactor(())),
            **hook,
        )

    def started(self, *verbs, fault="", prefix=(), **request):
        """The runner as a Job would run it: a process of its own. *prefix*: a command that begins another."""
        ctx = self.context("step", verbs=verbs, **request)
        (self.tmp_path / "outcome.json").unlink(missing_ok=True)
        (self.tmp_path / "request.json").write_text(json.dumps(ctx.request.to_json()))
        places = {
            "GODWIT_REQUEST_FILE": "request.json",
            "GODWIT_OUTCOME_FILE": "outcome.json",
            "GODWIT_STORE_DIR": "store",
            "GODWIT_SCRATCH_DIR": "scratch",
        }
        env = os.environ | ctx.environ | {name: str(self.tmp_path / place) for name, place in places.items()}
        if fault:
            env |= {"GODWIT_FAULT": fault, "GODWIT_FAULT_INJECTION": "1"}
        if prefix:
            return subprocess.Popen([*prefix, sys.executable, "-m", "godwit.runner"], env=env)
        return self.launcher.start(env)

    def outcome(self):
        """What the last process wrote."""
        return json.loads((self.tmp_path / "outcome.json").read_text())

    def stored(self):
        """The files in the store."""
        store = self.tmp_path / "store"
        return sorted(str(p.relative_to(store)) for p in store.rglob("*") if p.is_file())

    def written(self):
        """Rows written since the backup, by table: (added, gone, unknown)."""
        ctx = self.context()
        manifest = read_manifest(ctx.store(), LOCATION)
        with ctx.session() as session:
            found = written_since(session, manifest.snapshot, manifest.tables, TABLES)
        return {table: (w.added, w.gone, w.unknown) for table, w in found.items()}

    @staticmethod
    def wait_for(holds, seconds=30):
        """Wait until *holds*; fail when it does not come about."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it did not come about in time"
            time.sleep(0.02)


class Restoring(Place):
    """A database with a backup, and steps that restore it."""

    comment = ""

    def __init__(self, database, tmp_path, launcher, **request):
        super().__init__(database, tmp_path, launcher, **request)
        self.backup = backup_verb(self.context(), BackupInput(location=LOCATION))
        with self.context().session() as session:
            self.identity = session.identity
        self.oid = self.identity.database_oid

    def verb(self, **changes):
        """The restore of that backup."""
        return RestoreInput(**({"location": LOCATION, "sha256": self.backup.sha256} | changes))

    def restore(self, *, point=None, request=None, **changes):
        """Restore in this process."""
        hook = {} if point is None else {"point": point}
        ctx = self.context("restore", **({"identity": self.identity} | (request or {}) | hook))
        return restore_verb(ctx, self.verb(**changes))

    def restoring(self, *more, fault="", **changes):
        """Restore in a process of its own; *more* verbs come after it."""
        return self.started(self.verb(**changes), *more, fault=fault, identity=self.identity)

    def failing(self, **changes):
        """The failure of a restore that leaves everything as it was."""
        with pytest.raises(StepFailed) as failed:
            self.restore(**changes)
        assert self.untouched()
        return failed.value.failure

    def databases(self):
        """Name -> whether it takes connections, of this test's databases."""
        rows = self.server.psql(
            f"SELECT datname, datallowconn FROM pg_database WHERE datname LIKE '{self.database.name[:30]}%'"
        )
        return {name: allowed == "t" for name, _, allowed in (r.partition("|") for r in rows.splitlines())}

    def untouched(self):
        """Open, alone, with the OID and the comment that it had."""
        now = self.server.psql(
            "SELECT oid, shobj_description(oid, 'pg_database') FROM pg_database "
            f"WHERE datname = '{self.database.name}'"
        )
        assert self.databases() == {self.database.name: True}
        assert now == f"{self.oid}|{self.comment}"
        return True


@pytest.fixture
def make_place(database, tmp_path, launcher):
    """Make places: make_place(user=..., **fields of every request)."""
    return lambda **options: Place(database, tmp_path, launcher, **options)


@pytest.fixture
def place_on(database, tmp_path, launcher):
    """Make a place on the database `postgres` of another server, as its superuser."""
    return lambda server: Place(replace(database, server=server, name="postgres"), tmp_path, launcher)


@pytest.fixture
def place(make_place):
    """A place as superuser."""
    return make_place()


@pytest.fixture
def ctx(place):
    """A step of that place."""
    return place.context()


@pytest.fixture
def make_restoring(database, tmp_path, launcher):
    """As `make_place`, with a backup, also of a copy; databases that are left are dropped afterwards."""
    made = []

    def make(copy=None, **options):
        folder = tmp_path / copy.name if copy else tmp_path
        folder.mkdir(exist_ok=True)
        made.append(Restoring(copy or database, folder, launcher, **options))
        return made[-1]

    yield make
    for one in made:
        for name in one.databases():
            if name != database.name:
                one.server.drop_database(name)


@pytest.fixture
def encoded(database, tmp_path, launcher):
    """Make a database of another encoding, by a script, and its backup: encoded("LATIN1", "CREATE ...").

    *more*: further options of CREATE DATABASE.
    """
    made = []

    def make(encoding, script, more=""):
        other = replace(database, name=f"{database.name}_{len(made)}")
        made.append(other)
        other.server.psql(f"CREATE DATABASE {other.name} TEMPLATE template0 ENCODING '{encoding}' {more}")
        other.psql(script)
        return Restoring(other, tmp_path, launcher)

    yield make
    for other in made:
        for name in other.server.psql(
            f"SELECT datname FROM pg_database WHERE starts_with(datname, '{other.name[:30]}')"
        ).splitlines():
            if name != database.name:
                other.server.drop_database(name)


@pytest.fixture
def restoring(database, make_restoring):
    """A database with some tables, and its backup."""
    database.psql(
        "CREATE TABLE item (id serial PRIMARY KEY, name text); INSERT INTO item (name) VALUES ('a'), ('b');"
        "CREATE TABLE other (id int)"
    )
    return make_restoring()
