"""Names and places that both sides of a step agree on: environment variables, files, limits.

A Job's pod uses the default places; a step process on one machine is given its own through the variables.
"""

REQUEST_FILE_VAR = "GODWIT_REQUEST_FILE"
REQUEST_FILE = "/etc/godwit/step/request.json"
"""A downward API file of the pod's annotation: the kubelet expands `$(VAR)` in env and args, never there."""

OUTCOME_FILE_VAR = "GODWIT_OUTCOME_FILE"
OUTCOME_FILE = "/dev/termination-log"
"""Kubernetes' default `terminationMessagePath`; the message is cut at 4,096 bytes by the kubelet."""
OUTCOME_LIMIT = 4_096

SOURCE_DIR_VAR = "GODWIT_SOURCE_DIR"
SOURCE_DIR = "/source"
STORE_DIR_VAR = "GODWIT_STORE_DIR"
STORE_DIR = "/backups"
SCRATCH_DIR_VAR = "GODWIT_SCRATCH_DIR"
SCRATCH_DIR = "/tmp"  # noqa: S108  an emptyDir of the step's own pod

DATABASE_URI_VAR = "GODWIT_DATABASE_URI"
DATABASE_USER_VAR = "GODWIT_DATABASE_USER"
DATABASE_PASSWORD_VAR = "GODWIT_DATABASE_PASSWORD"  # noqa: S105  a variable's name, not a password

PG_BIN_VAR = "GODWIT_PG_BIN"
"""Folder of pg_dump and pg_restore; without it they are found by PATH, as in the image."""

REQUEST_ANNOTATION = "godwit.dev/step-request"
REQUEST_HASH_ANNOTATION = "godwit.dev/step-request-hash"
