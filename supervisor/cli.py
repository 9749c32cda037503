"""The verbs. Each parses its words, and loads what it needs and no more: start-up is a feature."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from supervisor import __version__
from supervisor.__main__ import STOP_SIGNALS
from supervisor.faults import ContractError
from supervisor.outcome import EXIT_CONTRACT
from supervisor.settings import TABLE


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.verb not in {_train, _local}:  # those hear a stop themselves
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        code: int = arguments.verb(arguments)
    except ContractError as error:
        return _refuse(error)
    except BrokenPipeError:
        # The reader of a table or a plan went away. The interpreter must not flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="supervisor",
        description="Runs TensorFlow training: parameter servers, the script, and their end.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"supervisor {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = verbs.add_parser(
        "train",
        help="run this host of a job: the container's entrypoint",
        description="Reads the container contract below SAGEMAKER_BASE_DIR (/opt/ml) and runs it.",
        allow_abbrev=False,
    )
    _add_settings(train)
    train.set_defaults(verb=_train)

    local = verbs.add_parser(
        "local",
        help="run a job of several hosts on this machine",
        description="Runs N real supervisors as the hosts of one job, on ports of their own. "
        "Without SCRIPT it trains the bundled example.",
        allow_abbrev=False,
    )
    local.add_argument("--hosts", metavar="N", default="3", help="how many hosts (default 3)")
    local.add_argument(
        "--strategy",
        choices=("ps", "mwms", "none"),
        help="parameter servers (default with two hosts or more), MultiWorkerMirroredStrategy, "
        "or every host its script alone",
    )
    local.add_argument(
        "--run-dir",
        metavar="DIR",
        help="where hosts, models, checkpoints and logs go; an earlier one is continued "
        "(default: a new one below ./supervisor-runs)",
    )
    local.add_argument(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a hyperparameter of the script; may be repeated",
    )
    _add_settings(local)
    local.add_argument("script", metavar="SCRIPT", nargs="?", help="the training script")
    local.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="its arguments")
    local.set_defaults(verb=_local)

    plan = verbs.add_parser(
        "plan",
        help="print what this host would do, and start nothing",
        allow_abbrev=False,
    )
    plan.add_argument("--json", action="store_true", help="as JSON")
    _add_settings(plan)
    plan.set_defaults(verb=_plan)

    status = verbs.add_parser("status", help="ask a running supervisor", allow_abbrev=False)
    status.add_argument("url", nargs="?", metavar="URL", help="default: this machine, port 2224")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.add_argument("--watch", action="store_true", help="again and again, until interrupted")
    status.set_defaults(verb=_status)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "settings", "each is also an environment variable: --stop-grace-s, SUPERVISOR_STOP_GRACE_S"
    )
    for setting in TABLE:
        unit = f", in {setting.unit}" if setting.unit else ""
        default = f" (default {setting.default}{unit})" if setting.default else ""
        group.add_argument(
            setting.flag,
            dest=f"setting_{setting.field}",
            metavar="X",
            help=(setting.help + default).replace("%", "%%"),
        )


def setting_flags(arguments: argparse.Namespace) -> dict[str, str]:
    """Settings given on the command line, as text."""
    given = {setting.field: getattr(arguments, f"setting_{setting.field}") for setting in TABLE}
    return {name: text for name, text in given.items() if text is not None}


def _refuse(error: ContractError) -> int:
    lines = [f"supervisor: {fault}" for fault in error.faults]
    print("\n".join(lines), file=sys.stderr)
    return EXIT_CONTRACT


def _train(arguments: argparse.Namespace) -> int:
    from supervisor import entry  # noqa: PLC0415

    return entry.train(dict(os.environ), setting_flags(arguments))


def _plan(arguments: argparse.Namespace) -> int:
    from supervisor import plan_text  # noqa: PLC0415
    from supervisor.entry import plan_of  # noqa: PLC0415

    plan = plan_of(dict(os.environ), setting_flags(arguments))
    print(plan_text.as_json(plan) if arguments.json else plan_text.as_text(plan))
    return 0


def _local(arguments: argparse.Namespace) -> int:
    from supervisor import local  # noqa: PLC0415

    request = local.read_request(
        hosts=arguments.hosts,
        strategy=arguments.strategy,
        run_dir=arguments.run_dir,
        parameters=arguments.parameter,
        script=arguments.script,
        arguments=arguments.arguments,
        flags=setting_flags(arguments),
        environ=dict(os.environ),
    )
    return local.run(request)


def _status(arguments: argparse.Namespace) -> int:
    from supervisor import status_cli  # noqa: PLC0415

    url = arguments.url
    if url is None:
        port = os.environ.get("SUPERVISOR_STATUS_PORT")
        url = f"http://127.0.0.1:{port}" if port else status_cli.DEFAULT_URL
    return status_cli.run(url, as_json=arguments.json, watch=arguments.watch)
