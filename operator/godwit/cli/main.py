"""The command `godwit`, also `kubectl godwit`.

Each command imports what it needs when it runs, and nothing else: the operator's process never loads the
database wing, and the help costs no import of either.
"""
# ruff: noqa: PLC0415

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from godwit.cli.reading import Place

app = typer.Typer(
    help="Safe PostgreSQL migrations on Kubernetes.",
    no_args_is_help=True,
    rich_markup_mode=None,  # its import would be half of what a command costs
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _object_name(value: str | None) -> str | None:
    """*value*, as an object or a namespace may be called: an empty variable of a script names none."""
    if value is None or re.fullmatch(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?", value):
        return value
    raise typer.BadParameter(f"{value!r} is no name: lower case letters, digits, '-' and '.'")


Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", callback=_object_name, help="Default: that of the kubeconfig's context."
    ),
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(help="File to log in by. Default: $KUBECONFIG, else ~/.kube/config, as kubectl."),
]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig. Default: its current one.")]


@app.command()
def version() -> None:
    """Print the version."""
    from godwit import __version__

    typer.echo(f"godwit {__version__}")


@app.command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where its PostgreSQL and backups live; must not exist. Default: a new one in /var/tmp."
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave PostgreSQL running afterwards, and say how to reach it.")
    ] = False,
) -> None:
    """Show the main job on this machine.

    A real PostgreSQL, the real controller and steps, and a cluster in memory.

    Exit status: 0 when everything that it shows was so, 1 when something was not, 130 when interrupted.
    """
    from godwit.cli.demo import run_demo

    raise typer.Exit(run_demo(folder, keep=keep))


@app.command()
def plan(
    name: Annotated[str, typer.Argument(callback=_object_name, help="The DatabaseMigration.")],
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print what a DatabaseMigration would run.

    Its pending migrations, findings, ways back and SQL, as they were planned last.

    Exit status: 0 printed; 1 not planned yet, or it could not be (the plan before is printed); 2 no such
    DatabaseMigration; 3 the cluster does not answer, refuses to be read, or has no CRDs of Godwit.
    """
    from godwit.cli.plan import document_of, outdated, render
    from godwit.cli.reading import migration_with_plan
    from godwit.cli.table import condition
    from godwit.cli.terminal import say
    from godwit.cluster.port import UnavailableError

    try:
        where, found, document = migration_with_plan(_place(kubeconfig, context, namespace), name)
    except UnavailableError as error:
        _fail(str(error), 3)
    if found is None:
        _fail(f"There is no DatabaseMigration {name} in namespace {where}.", 2)
    if not found.get("status", {}).get("plan"):
        ready = condition(found, "Ready")
        _fail(f"{name} has no plan yet. {ready.get('message') or ready.get('reason') or ''}".rstrip(), 1)
    say(render(found, document_of(document)))
    if why := outdated(found):
        _fail(f"This plan may be of an earlier spec or source. {why}", 1)


@app.command()
def status(
    name: Annotated[
        str | None, typer.Argument(callback=_object_name, help="The DatabaseMigration. Default: all.")
    ] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print how DatabaseMigrations stand, and how far the runs under way are.

    Exit status: 0 all are Ready; 1 one is not (planning, waiting, running, suspended); 2 one is Stalled, or
    there is none; 3 the cluster does not answer, refuses to be read, or has no CRDs of Godwit. (2 is also a
    wrong command line.)
    """
    from datetime import UTC, datetime

    from godwit.cli.reading import migrations_with_runs
    from godwit.cli.status import Exit, report
    from godwit.cli.terminal import say
    from godwit.cluster.port import UnavailableError

    try:
        where, found, runs = migrations_with_runs(_place(kubeconfig, context, namespace), name)
    except UnavailableError as error:
        _fail(str(error), Exit.UNKNOWN)
    if not found:
        _fail(
            f"There is no DatabaseMigration {f'{name} ' if name else ''}in namespace {where}.", Exit.STALLED
        )
    text, worst = report(found, datetime.now(UTC), runs)
    say(text)
    raise typer.Exit(worst)


@app.command()
def pack(
    folder: Annotated[Path, typer.Argument(help="A migration folder.")],
    name: Annotated[
        str,
        typer.Option(
            callback=_object_name, help="Name of the ConfigMap; further ones are NAME-2, NAME-3, ..."
        ),
    ],
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", callback=_object_name, help="Written into the manifests."),
    ] = None,
    layout: Annotated[
        str, typer.Option("--format", help="The folder's format, as in the API; Auto looks which one it is.")
    ] = "Auto",
) -> None:
    """Print a migration folder as ConfigMaps.

    For `kubectl apply --server-side -f -`: client-side apply would keep each twice, and has less room.

    Exit status: 0 printed; 1 the folder is not one of migrations.
    """
    from godwit.cli.pack import as_yaml, manifests
    from godwit.contract.request import Format
    from godwit.runner.pack import StepFailed

    if layout not in tuple(Format):
        _fail(f"{layout} is no format: {', '.join(Format)}.", 2)
    try:
        made = manifests(folder, name, namespace, Format(layout))
    except StepFailed as failed:
        failure = failed.failure
        _fail(f"{folder}: " + " ".join(filter(None, (failure.message, failure.hint))), 1)
    typer.echo(as_yaml(made), nl=False)


@app.command()
def operator(  # noqa: PLR0917  typer takes options as parameters
    step_image: Annotated[
        str, typer.Option(envvar="GODWIT_STEP_IMAGE", help="Image of the steps' Jobs; this one's own.")
    ],
    namespace: Annotated[
        list[str] | None,
        typer.Option(envvar="GODWIT_NAMESPACE", help="Namespace to look after; may be repeated."),
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", envvar="GODWIT_ALL_NAMESPACES", help="Look after all of them.")
    ] = False,
    lease_namespace: Annotated[
        str | None,
        typer.Option(
            envvar=["GODWIT_LEASE_NAMESPACE", "POD_NAMESPACE"],
            help="Namespace of the Lease. Default: the first --namespace.",
        ),
    ] = None,
    lease_name: Annotated[
        str, typer.Option(envvar="GODWIT_LEASE_NAME", help="The Lease that only one operator holds.")
    ] = "godwit",
    kubeconfig: Annotated[
        str | None,
        typer.Option(envvar="GODWIT_KUBECONFIG", help="Default: the pod's own service account."),
    ] = None,
    max_concurrent_steps: Annotated[
        int, typer.Option(envvar="GODWIT_MAX_CONCURRENT_STEPS", min=1, help="Steps under way at one time.")
    ] = 10,
    probe_port: Annotated[
        int,
        typer.Option(
            envvar="GODWIT_PROBE_PORT", min=0, max=65535, help="Port of /healthz, /readyz and /metrics."
        ),
    ] = 8080,
) -> None:
    """Run the operator.

    A person's current kubeconfig is never used: name a file, or be in a pod.

    Exit status: 0 told to stop; 1 the Lease or the watches were lost, or there is no login.
    """
    namespaces = tuple(namespace or ())
    if bool(namespaces) == all_namespaces:
        raise typer.BadParameter("give either --namespace (one or more) or --all-namespaces")
    place = lease_namespace or (namespaces[0] if namespaces else None)
    if place is None:
        raise typer.BadParameter("with --all-namespaces, say where the Lease is: --lease-namespace")

    import asyncio

    from godwit.cluster.port import UnavailableError
    from godwit.controller.operator import Options, run

    options = Options(
        step_image=step_image,
        namespaces=namespaces,
        lease_namespace=place,
        lease_name=lease_name,
        kubeconfig=kubeconfig,
        max_concurrent_steps=max_concurrent_steps,
        probe_port=probe_port,
    )
    try:
        raise typer.Exit(asyncio.run(run(options)))
    except UnavailableError as error:
        _fail(str(error), 1)


def _place(kubeconfig: str | None, context: str | None, namespace: str | None) -> "Place":
    from godwit.cli.reading import Place

    return Place(kubeconfig, context, namespace)


def _fail(message: str, status: int) -> NoReturn:
    """Say on standard error why there is nothing to print, and end."""
    from godwit.cli.terminal import say

    say(message, err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    app()
