"""A step that parses nothing does not pay for the parser."""

import subprocess
import sys


def loaded_by(*modules: str) -> set[str]:
    """Names of all modules in a fresh interpreter that imported *modules*."""
    code = f"import {', '.join(modules)}, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_planning_modules_load_the_parser_only_when_a_file_is_parsed():
    loaded = loaded_by("godwit.engine.plan", "godwit.engine.source", "godwit.engine.session")
    assert "psycopg" in loaded
    assert not {name for name in loaded if name.split(".")[0] in {"pglast", "kopf", "kubernetes"}}


def test_packing_a_folder_needs_no_database_driver_beyond_its_errors():
    assert not {name for name in loaded_by("godwit.engine.pack") if name.split(".")[0] == "pglast"}
