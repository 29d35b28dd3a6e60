"""What CREATE and ALTER DATABASE say of a database, and no dump holds, is the restored one's as well."""

from godwit.contract.reasons import Reason


def test_what_is_set_on_the_database_while_the_backup_is_built_is_carried_over_too(restoring, database):
    name = database.name

    def point(at):
        if at == "restore.built":
            restoring.server.psql(
                f"""ALTER DATABASE "{name}" SET work_mem TO '77MB';
                ALTER DATABASE "{name}" CONNECTION LIMIT 5;
                COMMENT ON DATABASE "{name}" IS 'new'"""
            )

    restoring.restore(point=point)
    assert database.psql("SHOW work_mem") == "77MB"
    told = f"shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{name}'"
    assert database.psql(f"SELECT datconnlimit, {told}") == "5|new"


def test_a_right_that_two_roles_granted_comes_back_once(database, role, make_restoring):
    one, two = role("one"), role("two")
    grant = f'GRANT CONNECT ON DATABASE "{database.name}" TO'
    database.psql(f"{grant} {one} WITH GRANT OPTION; {grant} {two} WITH GRANT OPTION")
    database.psql(f"SET ROLE {two}; {grant} {one}")
    make_restoring().restore()
    assert database.psql(f"SELECT has_database_privilege('{one}', '{database.name}', 'CONNECT')") == "t"


def test_the_provider_of_the_locale_is_the_databases_own_and_not_the_servers(restoring, database):
    version = int(database.psql("SHOW server_version_num"))
    # PostgreSQL before 15 knows no provider but libc.
    locale = "datlocale" if version >= 170_000 else "daticulocale"
    provider = f"UPDATE pg_database SET datlocprovider = '{{}}', {locale} = {{}} WHERE datname = 'template0'"
    of_template = provider if version >= 150_000 else "SELECT"
    # As initdb --locale-provider=icu leaves it. This build has no ICU, and would refuse to use it.
    restoring.server.psql(of_template.format("i", "'en'"))
    try:
        restoring.restore()
    finally:
        restoring.server.psql(of_template.format("c", "NULL"))
    found = "SELECT coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') FROM pg_database d WHERE datname = '{}'"
    assert database.psql(found.format(database.name)) == "c"


def test_what_no_dump_holds_is_carried_over(database, role, make_restoring):
    app, owner = role("app"), role("owner", createdb=True, owns=True)
    database.psql(
        f"""ALTER DATABASE "{database.name}" CONNECTION LIMIT 17;
        REVOKE ALL ON DATABASE "{database.name}" FROM PUBLIC;
        GRANT CONNECT ON DATABASE "{database.name}" TO {app} WITH GRANT OPTION;
        ALTER DATABASE "{database.name}" SET search_path TO "$user", public, "odd name";
        ALTER DATABASE "{database.name}" SET work_mem TO '5MB';
        ALTER DATABASE "{database.name}" SET datestyle TO 'SQL, DMY';
        ALTER DATABASE "{database.name}" SET app.label TO 'it''s';
        ALTER ROLE {app} IN DATABASE "{database.name}" SET statement_timeout TO '7s';
        COMMENT ON DATABASE "{database.name}" IS 'The shop''s';"""
    )
    query = f"""
        SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datconnlimit,
               shobj_description(oid, 'pg_database')
          FROM pg_database d WHERE datname = '{database.name}';
        SELECT a.* FROM pg_database d, aclexplode(d.datacl) a
         WHERE datname = '{database.name}' ORDER BY 1, 2, 3;
        SELECT setrole, unnest(setconfig)
          FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
         WHERE datname = '{database.name}' ORDER BY 1, 2"""
    before = database.psql(query)
    assert owner in before
    assert "5MB" in before
    made = make_restoring()
    made.restore()
    assert database.psql(query) == before


def test_a_database_in_another_tablespace_and_of_another_locale_stays_there(encoded, database, server_folder):
    server, space = database.server, f"space_{database.name.rsplit('_', 1)[1]}"
    new = int(server.psql("SHOW server_version_num")) >= 170_000
    locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'" if new else "LC_CTYPE 'C.UTF-8'"
    server.psql(f"SET allow_in_place_tablespaces = on; CREATE TABLESPACE {space} LOCATION ''")
    made = encoded("UTF8", "CREATE TABLE item (id int)", f"{locale} TABLESPACE {space}")
    query = f"""
        SELECT t.spcname, to_jsonb(d) - '{{oid,datname,dattablespace,datfrozenxid,datminmxid}}'::text[]
          FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace
         WHERE datname = '{made.database.name}'"""
    before = server.psql(query)
    try:
        old = made.restore().old_database
        assert server.psql(query) == before
        assert before.startswith(space)
        assert "C.UTF-8" in before
    finally:
        server.drop_database(old)
        server.drop_database(made.database.name)
        server.psql(f"DROP TABLESPACE {space}")


def test_a_template_stays_one(restoring, database):
    server = database.server
    server.psql(f'ALTER DATABASE "{database.name}" IS_TEMPLATE true')
    try:
        restoring.restore()
        query = f"SELECT datistemplate FROM pg_database WHERE datname = '{database.name}'"
        assert server.psql(query) == "t"
    finally:
        for name in restoring.databases():
            server.psql(f'ALTER DATABASE "{name}" IS_TEMPLATE false')


def test_a_security_label_that_cannot_be_given_again_keeps_the_restore_out(restoring, database):
    """Its provider is a library; a server without it refuses the label, as this one does."""
    labels = "INSERT INTO pg_shseclabel VALUES ({}, 'pg_database'::regclass, 'clearance', 'it''s secret')"
    database.server.psql(labels.format(restoring.oid))
    failure = restoring.failing()
    assert failure.reason is Reason.RESTORE_FAILED
    assert 'security label provider "clearance" is not loaded' in failure.message
