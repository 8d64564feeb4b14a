"""The panel "Long-running work": `run` and `runs`."""

from typing import Annotated

import typer

from apexgpu import gpus, runs, runstart
from apexgpu.commands.options import (
    Group,
    HostsArgument,
    Interval,
    ListByDefault,
    Watch,
    output_bytes,
    session_of,
    watch_interval,
)
from apexgpu.results import Result

app = Group()
group = Group(cls=ListByDefault)
app.add_typer(group, name="runs", help="Your runs: list, logs, wait, stop, clean.")

RunName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The name of a run, or HOST:NAME.", show_default=False),
]


@app.command("run", context_settings={"allow_interspersed_args": False})
def run(
    ctx: typer.Context,
    host: Annotated[
        str,
        typer.Argument(
            metavar="HOST",
            help="A host name, or any: the host with the best free GPU.",
            show_default=False,
        ),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- CMD...", help="The command to start.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call the run.")] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="N|any",
            help="The GPU to use, which no other run gets meanwhile: its number, or any for the best free one.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What must be free on the GPU: 8, 8G and 8GiB are 8 GiB. By default, it must be empty.",
        ),
    ] = None,
    workdir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where to start, relative to your home in the container."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A variable for the environment of CMD."),
    ] = None,
    env_file: Annotated[
        str | None,
        typer.Option("--env-file", metavar="FILE", help="A file of lines NAME=VALUE."),
    ] = None,
    sync: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Copy this directory of the laptop there first, without what git ignores.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until a GPU is free.")] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Show the output until the end of CMD."),
    ] = False,
) -> Result:
    """Start CMD in your container on HOST, where it keeps running without this laptop.

    Examples: apexgpu run gpu7 -- python train.py · apexgpu run any --memory 8 --sync . --follow -- python train.py
    """
    session = session_of(ctx)
    started = runstart.start(
        session,
        host,
        command or [],
        name=name,
        gpu=gpu,
        memory=None if memory is None else gpus.parse_memory(memory),
        directory=workdir,
        variables=runstart.parse_variables(env or [], env_file),
        sync=sync,
        wait_for_gpu=wait,
    )
    if not follow:
        return started
    return runs.follow(session, started, on_data=output_bytes(ctx))


@group.command("list")
def list_runs(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also all runs that have ended long ago.")
    ] = False,
    watch: Watch = False,
    interval: Interval = None,
) -> Result:
    """Show your runs on all hosts: those that run, and the last ones that have ended.

    Examples: apexgpu runs · apexgpu runs gpu7 --watch
    """
    return runs.list_runs(
        session_of(ctx), hosts or [], everything=everything, watch=watch_interval(watch, interval)
    )


@group.command("logs")
def logs(
    ctx: typer.Context,
    name: RunName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Only the last N lines.")
    ] = None,
) -> Result:
    """Show what a run has printed.

    Examples: apexgpu runs logs train-x7k2 --follow · apexgpu runs logs train-x7k2 --tail 20
    """
    return runs.logs(session_of(ctx), name, on_data=output_bytes(ctx), follow=follow, tail=tail)


@group.command("wait")
def wait(ctx: typer.Context, name: RunName) -> Result:
    """Wait until a run has ended. The exit status is that of its command.

    Example: apexgpu runs wait train-x7k2 && apexgpu cp gpu7:runs/best.ckpt .
    """
    return runs.wait(session_of(ctx), name)


@group.command("stop")
def stop(
    ctx: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Names of runs, or HOST:NAME.", show_default=False),
    ],
) -> Result:
    """End runs, with all their processes: TERM first, KILL after ten seconds.

    Example: apexgpu runs stop train-x7k2
    """
    return runs.stop(session_of(ctx), names)


@group.command("clean")
def clean(ctx: typer.Context, hosts: HostsArgument = None) -> Result:
    """Remove the files of the runs that have ended, with their logs, from the containers.

    Example: apexgpu runs clean gpu7
    """
    return runs.clean(session_of(ctx), hosts or [])
