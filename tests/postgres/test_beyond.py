"""Before a try is made, all are looked at whom the statement would keep out, and nobody else."""

import psycopg
import pytest

from godwit.contract.policy import Environment
from godwit.engine.blockers import look
from godwit.engine.model import Script
from godwit.engine.statements import parse

TABLES = """
CREATE TABLE country (code int PRIMARY KEY, name text UNIQUE);
CREATE TABLE shop (id int PRIMARY KEY);
CREATE TABLE sale (
    id int NOT NULL, day date NOT NULL, amount int NOT NULL,
    country int CONSTRAINT sale_country REFERENCES country, CONSTRAINT sale_amount CHECK (amount > -5)
) PARTITION BY RANGE (day);
CREATE TABLE sale_old PARTITION OF sale FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE sale_rest PARTITION OF sale DEFAULT;
CREATE TABLE sale_new (LIKE sale, CONSTRAINT sale_amount CHECK (amount > -5));
CREATE INDEX sale_by_amount ON sale (amount);
CREATE TABLE event (id int, amount int);
CREATE TABLE event_web (url text) INHERITS (event);
CREATE TABLE visit (
    id int PRIMARY KEY, country int CONSTRAINT visit_country REFERENCES country,
    shop int CONSTRAINT visit_shop REFERENCES shop
);
CREATE TABLE area (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE area_1 PARTITION OF area FOR VALUES IN (1);
CREATE SEQUENCE number;
CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER sale_told BEFORE INSERT ON sale FOR EACH ROW EXECUTE FUNCTION same();
CREATE SCHEMA side;
CREATE DOMAIN cents AS int CONSTRAINT cents_low CHECK (VALUE > -10);
CREATE DOMAIN price AS cents;
CREATE TABLE bill (id int PRIMARY KEY, total cents);
CREATE TABLE bill_line (bill int, price price);
CREATE TYPE place AS (x int, y int);
CREATE TABLE spot OF place;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE feeling (id int, mood mood, place place);
CREATE TABLE moods (id int, "all" mood[]);
CREATE FUNCTION one_more(int, text[] DEFAULT '{}') RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
CREATE FUNCTION "Mine"() RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE by_default (id int DEFAULT one_more(3), n int DEFAULT nextval('number'));
CREATE FUNCTION two(int) RETURNS int LANGUAGE sql AS 'SELECT 2';
CREATE FUNCTION two(varchar(9)) RETURNS int LANGUAGE sql AS 'SELECT 2';
CREATE TABLE by_two (id int DEFAULT two(3));
CREATE TABLE by_text (id int DEFAULT two('3'::varchar));
CREATE TABLE by_check (id int CHECK (one_more(id) > 0));
CREATE TABLE by_index (id int);
CREATE INDEX ON by_index (one_more(id));
CREATE TABLE by_policy (id int);
CREATE POLICY mine ON by_policy USING ("Mine"());
CREATE TABLE by_trigger (id int);
CREATE TRIGGER told BEFORE INSERT ON by_trigger FOR EACH ROW EXECUTE FUNCTION told();
CREATE COLLATION plain (provider = libc, locale = 'C');
CREATE TABLE by_collation (name text COLLATE plain);
CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY, s serial);
CREATE TABLE side.house (id int PRIMARY KEY, kind mood);
CREATE TYPE side.kind AS ENUM ('a');
CREATE TABLE kinds (kind side.kind);
CREATE TABLE guest (house int REFERENCES side.house);
"""
STATEMENTS = """
ALTER TABLE sale ADD x int
ALTER TABLE sale ALTER amount SET DEFAULT 3
ALTER TABLE sale ALTER country SET NOT NULL
ALTER TABLE sale ALTER amount TYPE bigint
ALTER TABLE sale DROP COLUMN amount
ALTER TABLE sale DROP COLUMN country
ALTER TABLE sale ADD CHECK (amount > 0) NOT VALID
ALTER TABLE sale ADD FOREIGN KEY (amount) REFERENCES shop
ALTER TABLE sale ADD PRIMARY KEY (country, day)
ALTER TABLE sale DROP CONSTRAINT sale_country
ALTER TABLE sale DROP CONSTRAINT sale_amount
ALTER TABLE sale VALIDATE CONSTRAINT sale_amount
ALTER TABLE sale OWNER TO CURRENT_USER
ALTER TABLE sale ENABLE ROW LEVEL SECURITY
ALTER TABLE sale DISABLE TRIGGER sale_told
ALTER TABLE sale SET TABLESPACE pg_default
ALTER TABLE sale ALTER amount SET STORAGE PLAIN
ALTER TABLE sale ALTER amount SET STATISTICS 10
ALTER TABLE sale REPLICA IDENTITY FULL
ALTER TABLE sale ATTACH PARTITION sale_new FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')
ALTER TABLE sale DETACH PARTITION sale_old
ALTER TABLE sale RENAME COLUMN amount TO cents
ALTER TABLE sale RENAME CONSTRAINT sale_amount TO sale_cents
ALTER TABLE sale RENAME TO sales
CREATE TABLE sale_next PARTITION OF sale FOR VALUES FROM ('2029-01-01') TO ('2030-01-01')
CREATE INDEX ON sale (country)
CREATE INDEX ON ONLY sale (country)
CREATE TRIGGER t AFTER INSERT ON sale FOR EACH ROW EXECUTE FUNCTION same()
CREATE TRIGGER t AFTER INSERT ON sale FOR EACH STATEMENT EXECUTE FUNCTION same()
DROP TRIGGER sale_told ON sale
DROP TABLE sale
DROP TABLE sale_old
DROP INDEX sale_by_amount
TRUNCATE sale
TRUNCATE ONLY sale_old
LOCK TABLE sale
LOCK TABLE sale IN SHARE MODE
CREATE POLICY p ON sale USING (true)
ALTER TABLE event ADD x int
ALTER TABLE ONLY event ADD CHECK (amount > 0) NO INHERIT
ALTER TABLE event RENAME COLUMN amount TO cents
ALTER TABLE event SET UNLOGGED
CREATE INDEX ON event (amount)
CREATE TRIGGER t AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION same()
TRUNCATE event
TRUNCATE ONLY event
DROP TABLE event CASCADE
ALTER TABLE event_web NO INHERIT event
ALTER TABLE visit DROP CONSTRAINT visit_country
ALTER TABLE visit DROP COLUMN country
ALTER TABLE visit DROP COLUMN id
ALTER TABLE visit ADD FOREIGN KEY (shop) REFERENCES area
CREATE TABLE stay (area int REFERENCES area)
ALTER TABLE visit ALTER country TYPE bigint
ALTER TABLE visit ALTER CONSTRAINT visit_country DEFERRABLE
ALTER TABLE visit RENAME CONSTRAINT visit_country TO c
ALTER TABLE visit VALIDATE CONSTRAINT visit_country
ALTER TABLE visit DISABLE TRIGGER ALL
TRUNCATE visit
DROP TABLE visit
ALTER TABLE country ALTER code TYPE bigint
ALTER TABLE country DROP CONSTRAINT country_pkey CASCADE
ALTER TABLE country DROP COLUMN code CASCADE
ALTER TABLE country DROP COLUMN name
ALTER TABLE country DROP CONSTRAINT country_name_key CASCADE
ALTER TABLE country RENAME COLUMN code TO iso
TRUNCATE country CASCADE
DROP TABLE country CASCADE
ALTER SEQUENCE number INCREMENT 2
DROP SEQUENCE number CASCADE
ALTER DOMAIN cents ADD CONSTRAINT c CHECK (VALUE > -20)
ALTER DOMAIN cents ADD CONSTRAINT c CHECK (VALUE > -20) NOT VALID
ALTER DOMAIN cents SET NOT NULL
ALTER DOMAIN cents DROP NOT NULL
ALTER DOMAIN cents SET DEFAULT 4
ALTER DOMAIN cents VALIDATE CONSTRAINT cents_low
ALTER DOMAIN cents DROP CONSTRAINT cents_low
ALTER DOMAIN price RENAME TO prices
ALTER TYPE place ADD ATTRIBUTE z int CASCADE
ALTER TYPE place RENAME ATTRIBUTE y TO z CASCADE
ALTER TYPE mood ADD VALUE 'fair'
DROP TYPE place CASCADE
DROP TYPE mood CASCADE
DROP TYPE side.kind CASCADE
DROP DOMAIN cents CASCADE
DROP FUNCTION one_more CASCADE
DROP FUNCTION one_more(int, text[]) CASCADE
DROP FUNCTION two(int) CASCADE
DROP FUNCTION public.two(varchar(20)) CASCADE
DROP FUNCTION IF EXISTS two(no_type) CASCADE
DROP FUNCTION IF EXISTS nowhere.two CASCADE
DROP TYPE IF EXISTS nowhere.kind, no_type CASCADE
DROP SCHEMA IF EXISTS nowhere CASCADE
DROP COLLATION IF EXISTS nowhere.plain CASCADE
DROP EXTENSION IF EXISTS nowhere CASCADE
DROP SEQUENCE IF EXISTS nowhere.number CASCADE
DROP FUNCTION "Mine"() CASCADE
DROP FUNCTION told, same CASCADE
DROP COLLATION plain CASCADE
DROP EXTENSION plpgsql CASCADE
DROP SCHEMA side CASCADE
DROP TABLE side.house CASCADE
DROP TABLE numbered
ALTER TABLE numbered DROP COLUMN s
ALTER TABLE numbered ALTER id SET INCREMENT 3
ALTER TABLE numbered ALTER id DROP IDENTITY
ALTER TABLE numbered SET SCHEMA side
"""
LOCKED = """
SELECT DISTINCT relation::regclass::text, mode FROM pg_locks
 WHERE pid = pg_backend_pid() AND locktype = 'relation'
   AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   AND relation = ANY (%s)"""


@pytest.mark.parametrize("sql", STATEMENTS.strip().splitlines())
def test_all_that_a_statement_locks_and_nobody_else_is_in_its_way(project, sql):
    project.database.psql(TABLES)
    with psycopg.connect(project.uri) as server:
        tables = dict(
            server.execute(
                "SELECT oid::bigint, oid::regclass::text FROM pg_class"
                " WHERE relnamespace IN ('public'::regnamespace, 'side'::regnamespace)"
                " AND relkind IN ('r', 'p', 'S')"
            ).fetchall()
        )
        of = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S'"
        sequences = {name for (name,) in server.execute(of)}
        server.execute(sql)
        # By OID: the statement may have renamed what it locks.
        held = server.execute(LOCKED.replace("relation::regclass::text", "relation::bigint"), [list(tables)])
        taken = [(tables[relation], mode) for relation, mode in held.fetchall()]
        server.rollback()
    writers = {name for name, _ in taken}
    readers = {name for name, mode in taken if mode == "AccessExclusiveLock"}
    statements = parse(Script("x.sql", sql.encode(), ""), Environment.DEVELOPMENT).statements
    uses = (("ACCESS SHARE", "TABLE {}", readers), ("ROW EXCLUSIVE", "SELECT nextval('{}')", writers))
    for mode, of_sequence, kept_out in uses:
        with psycopg.connect(project.uri) as other, project.context().session() as session:
            other.execute(f"LOCK TABLE {', '.join(set(tables.values()) - sequences)} IN {mode} MODE")
            for sequence in sequences:
                other.execute(of_sequence.format(sequence))
            assert {b.relation for b in look(session, statements).blockers} == kept_out, mode
