"""The verbs. Each parses its own words and loads what it needs, no more: start-up is a feature."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from supervisor import __version__
from supervisor.contract.facts import Asked
from supervisor.faults import ContractError, Fault, safe, safe_json, safe_lines
from supervisor.life.outcome import EXIT_CONTRACT, EXIT_INTERNAL

if TYPE_CHECKING:
    import argparse

    from supervisor.verbs.injection import Wanted

_DESCRIPTION: Final = "Runs TensorFlow training: parameter servers, the script, and their end."

_LOCAL_OPTIONS: Final = (
    "--hosts", "--strategy", "--run-dir", "-p", "--parameter", "--checkpoints",
    "--faults", "--faults-seed", "--faults-strict",
)  # fmt: skip
"""Of ``supervisor local``, beside the settings."""

_OF_A_PLATFORM: Final = (
    "engine", "strategy", "base_dir", "hosts", "host_index", "host_count", "host_domain",
    "restart_count",
)  # fmt: skip
"""Settings that ``supervisor local``, which lays its hosts out itself, does not take or has options
of its own for."""
_TARGET: Final = (
    "http://HOST:PORT, or a run directory of supervisor local (default: the supervisor of this "
    "machine, else the newest run below ./supervisor-runs)"
)
_PRINTING: Final = frozenset(
    {"plan", "launch", "status", "logs", "report", "doctor", "settings", "schema", "help"}
)
"""Verbs whose output is all that they do."""


class Verb(NamedTuple):
    help: str
    define: Callable[[argparse.ArgumentParser], None]
    """Adds its arguments to its parser."""
    perform: Callable[[argparse.Namespace], int]
    description: str = ""
    settings: bool = False
    """Whether it takes every setting as a flag."""
    words: str = ""
    """What follows its options, where that is worth a word."""
    without: tuple[str, ...] = ()
    """Settings that it does not take."""
    kinds: Mapping[str, Verb] = MappingProxyType({})
    """By its first word, where that has options of its own."""


def main(argv: Sequence[str]) -> int:
    try:
        if list(argv) == ["train"]:
            # A container's start: with no words to parse the parser is not loaded, which is 5 ms.
            return _train(Asked())
        if argv and argv[0] in VERBS:
            verb = VERBS[argv[0]]
            code = verb.perform(_parsed(argv[0], verb, argv[1:]))
            sys.stdout.flush()  # a table or a plan that could not be written is none
            return code
    except ContractError as error:
        return _refuse(error)
    except BrokenPipeError:
        # The reader of a table or a plan went away. The interpreter must not flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # noqa: BLE001  # a defect of ours, or no room for us: it is said
        if argv[0] in _PRINTING and isinstance(error, OSError) and error.errno == errno.ENOSPC:
            print(f"supervisor {argv[0]}: not printed: {error.strerror}", file=sys.stderr)
            return 1
        import traceback  # noqa: PLC0415

        print(safe_lines(traceback.format_exc()), end="", file=sys.stderr)
        return EXIT_INTERNAL
    _overview().parse_args(argv)  # help, the version, or an error: it exits
    return 0


def _overview() -> argparse.ArgumentParser:
    """Without a verb: what there is."""
    import argparse  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog="supervisor", description=_DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"supervisor {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.help)
    return parser


def _parsed(name: str, verb: Verb, words: Sequence[str]) -> argparse.Namespace:
    import argparse  # noqa: PLC0415

    if words and words[0] in verb.kinds:
        return _parsed(f"{name} {words[0]}", verb.kinds[words[0]], words[1:])

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            super().error(safe(message))

        def nearest(self, flag: str) -> list[str]:
            """The option that was meant, perhaps by its variable's name, where any is like it."""
            import difflib  # noqa: PLC0415  # for a slip alone

            meant = flag.strip("-").lower().replace("_", "-").removeprefix("supervisor-")
            # Without the dashes, which are like each other's.
            options = {each.strip("-"): each for each in self._option_string_actions}
            return [options[name] for name in difflib.get_close_matches(meant, options, n=1)]

    parser = Parser(
        prog=f"supervisor {name}",
        usage=f"supervisor {name} [OPTION …] {verb.words}".rstrip()
        if verb.settings or verb.words
        else None,
        description=verb.description or None,
        allow_abbrev=False,
    )
    verb.define(parser)
    if verb.settings:
        _add_settings(parser, everything="--help-all" in words, without=verb.without)
    given = argparse.Namespace(words=tuple(words))
    known, unknown = parser.parse_known_args(words, given)
    flag = unknown[0].partition("=")[0] if unknown else ""
    if flag.startswith("--"):
        lists = "--help-all" if verb.settings else "--help"
        near = parser.nearest(flag)
        remedy = f"did you mean {near[0]}?" if near else f"supervisor {name} {lists} lists them"
        expected = f"an option of supervisor {name}; {remedy}"
        raise ContractError([Fault("command line", flag, "an unknown option", expected)])
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return known


# --------------------------------------------------------------------------- settings


def _add_settings(
    parser: argparse.ArgumentParser, *, everything: bool, without: Collection[str]
) -> None:
    import argparse  # noqa: PLC0415

    from supervisor.contract.settings import TABLE  # noqa: PLC0415

    parser.add_argument("--help-all", action="help", help="show this help with every setting")
    count = len(TABLE) - len(without)
    more = f"; --help-all shows all {count}, supervisor settings WORD finds one"
    group = parser.add_argument_group(
        "settings",
        "each is also an environment variable: --stop-grace-s, SUPERVISOR_STOP_GRACE_S"
        + ("" if everything else more),
    )
    last = ""
    for setting in TABLE:
        if everything and setting.group != last:
            group = parser.add_argument_group(setting.group)
            last = setting.group
        if setting.field in without:
            continue
        unit = f", in {setting.unit}" if setting.unit else ""
        default = f" (default {setting.default}{unit})" if setting.default else ""
        text = (setting.help + default).replace("%", "%%")
        group.add_argument(
            setting.flag,
            dest=f"setting_{setting.field}",
            metavar="X",
            help=text if everything or setting.common else argparse.SUPPRESS,
        )


def setting_flags(arguments: argparse.Namespace) -> dict[str, str]:
    """Settings given on the command line, as text."""
    from supervisor.contract.settings import TABLE  # noqa: PLC0415

    given = {
        setting.field: getattr(arguments, f"setting_{setting.field}", None) for setting in TABLE
    }
    return {name: text for name, text in given.items() if text is not None}


def _define_script(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "script",
        metavar="SCRIPT",
        nargs="?",
        help="the training script, from the working directory or below the contract's code "
        "directory; without one the contract names it",
    )
    parser.add_argument("arguments", metavar="ARGS", nargs="...", help="its arguments")


def _asked(arguments: argparse.Namespace) -> Asked:
    """What stands on the command line of a verb that takes a script and every setting."""
    script = arguments.script
    command = () if script is None else (script, *arguments.arguments)
    return Asked(setting_flags(arguments), command)


def _warn_of_misplaced(arguments: argparse.Namespace, verb: str) -> None:
    from supervisor.contract.settings import TABLE  # noqa: PLC0415
    from supervisor.verbs.words import misplaced  # noqa: PLC0415

    ours = {*_LOCAL_OPTIONS, *(setting.flag for setting in TABLE)}
    if not (found := misplaced(arguments.words, arguments.arguments, ours)):
        return
    name = os.path.basename(arguments.script)
    print(
        f"supervisor: {', '.join(found)} after {name} is the script's and no option of "
        f"supervisor {verb}: put it before {name}, or -- behind {name} to say that it is meant",
        file=sys.stderr,
    )


def _refuse(error: ContractError) -> int:
    lines = [f"supervisor: {safe(str(fault))}" for fault in error.faults]
    print("\n".join(lines), file=sys.stderr)
    return EXIT_CONTRACT


# --------------------------------------------------------------------------- the verbs


def _train_script(arguments: argparse.Namespace) -> int:
    _warn_of_misplaced(arguments, "train")
    return _train(_asked(arguments))


def _train(asked: Asked) -> int:
    from supervisor.children.guardian import Guardian  # noqa: PLC0415

    # Before anything else is loaded: whatever is in memory at the fork we soon write to, with
    # reference counts alone, and then the guardian has a copy of its own (3 MB less this way).
    guardian = Guardian.start()
    try:
        from supervisor.host import entry  # noqa: PLC0415

        return entry.train(dict(os.environ), asked, guardian)
    finally:
        guardian.close()


def _define_local(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hosts", metavar="N", default="3", help="how many hosts (default 3)")
    parser.add_argument(
        "--strategy",
        choices=("ps", "mwms", "mpi", "none"),
        help="parameter servers (default with two hosts or more), MultiWorkerMirroredStrategy, "
        "MPI (needs Open MPI and OpenSSH), or every host its script alone",
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="where hosts, models, checkpoints and logs go; an earlier one is continued "
        "(default: a new one below ./supervisor-runs)",
    )
    parser.add_argument(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a hyperparameter of the script; may be repeated",
    )
    parser.add_argument(
        "--checkpoints",
        metavar="DIR_OR_URI",
        help="where checkpoints are kept, and restored from at the start: a directory, or "
        "s3://BUCKET/PREFIX",
    )
    parser.add_argument(
        "--faults",
        metavar="WORDS",
        help="try what the job does when something fails: 'kill worker every 30s; freeze algo-2 "
        "10s; partition algo-3 5s; kill host algo-2 at 60s; spoil checkpoint; slow disk; full "
        "disk' (supervisor help faults). Turns restarts on (3) where nothing else is said",
    )
    parser.add_argument(
        "--faults-seed", metavar="N", help="the same victims and moments again (default: drawn)"
    )
    parser.add_argument(
        "--faults-strict",
        action="store_true",
        help="a job that succeeds ends with 1 where training began at step 0 after a fault",
    )
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="the training script")
    parser.add_argument("arguments", metavar="ARGS", nargs="...", help="its arguments")


def _local(arguments: argparse.Namespace) -> int:
    from supervisor.engines.directory import absolute  # noqa: PLC0415
    from supervisor.verbs import local  # noqa: PLC0415

    flags = setting_flags(arguments)
    if arguments.checkpoints is not None:
        place = arguments.checkpoints
        flags["checkpoint_s3_uri"] = place if "://" in place else absolute(place)
    request = local.read_request(
        hosts=arguments.hosts,
        strategy=arguments.strategy,
        run_dir=arguments.run_dir,
        parameters=arguments.parameter,
        script=arguments.script,
        arguments=arguments.arguments,
        flags=flags,
        environ=dict(os.environ),
        wanted=_wanted(arguments),
    )
    _warn_of_misplaced(arguments, "local")
    return local.run(request)


def _wanted(arguments: argparse.Namespace) -> Wanted | None:
    """What is said of faults; raises ContractError where a word has none to belong to."""
    from supervisor.verbs.injection import Wanted  # noqa: PLC0415

    if arguments.faults is not None:
        return Wanted(arguments.faults, arguments.faults_seed, arguments.faults_strict)
    if arguments.faults_seed is not None or arguments.faults_strict:
        flag = "--faults-strict" if arguments.faults_strict else "--faults-seed"
        raise ContractError([Fault("command line", flag, "no --faults", "--faults WORDS as well")])
    return None


def _define_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    _define_script(parser)


def _plan(arguments: argparse.Namespace) -> int:
    from supervisor.host.entry import plan_of  # noqa: PLC0415
    from supervisor.verbs import plan as plan_text  # noqa: PLC0415

    plan = plan_of(dict(os.environ), _asked(arguments))
    print(safe_json(plan_text.as_json(plan)) if arguments.json else plan_text.as_text(plan))
    return 0


def _define_launch(parser: argparse.ArgumentParser) -> None:
    import argparse  # noqa: PLC0415

    parser.add_argument("platform", nargs="?", metavar="PLATFORM", help="slurm or kubernetes")
    # Those of a platform that is none: it is told, and not the first of its words.
    parser.add_argument("others", nargs="...", help=argparse.SUPPRESS)


def _launch(arguments: argparse.Namespace) -> int:
    from supervisor.verbs import launch  # noqa: PLC0415

    return launch.show(arguments)


def _launch_on(platform: str) -> Verb:
    def define(parser: argparse.ArgumentParser) -> None:
        from supervisor.verbs import launch  # noqa: PLC0415

        launch.define(platform, parser)

    return Verb("", define, _launch, words="[--] SCRIPT [ARGS …]")


def _define_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", metavar="URL_OR_RUN_DIR", help=_TARGET)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--job", action="store_true", help="every host on one screen, worst first")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="again and again, to the end of the job, whose exit code it ends with",
    )


def _status(arguments: argparse.Namespace) -> int:
    from supervisor.verbs import status  # noqa: PLC0415

    return status.run(
        arguments.target,
        os.environ,
        as_json=arguments.json,
        watch=arguments.watch,
        job=arguments.job,
    )


def _define_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", nargs="?", metavar="HOST", help="of all hosts where none is named")
    parser.add_argument("--from", dest="target", metavar="URL_OR_RUN_DIR", help=_TARGET)
    parser.add_argument(
        "--role",
        action="append",
        default=[],
        metavar="ROLE",
        help="of these processes only: chief, worker, ps, supervisor, …; may be repeated",
    )
    parser.add_argument("--follow", "-f", action="store_true", help="to the end of the job")
    parser.add_argument(
        "--lines", "-n", type=int, metavar="N", help="the last N of each process (default: all)"
    )


def _logs(arguments: argparse.Namespace) -> int:
    from supervisor.verbs import logs  # noqa: PLC0415

    if arguments.lines is not None and arguments.lines < 0:
        raise ContractError([Fault("command line", "--lines", str(arguments.lines), "0 or more")])
    roles = logs.roles_of(arguments.role)
    wish = logs.Wish(arguments.host, roles, arguments.follow, arguments.lines)
    return logs.run(arguments.target, os.environ, wish)


def _define_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place",
        nargs="?",
        metavar="RUN_DIR_OR_FILE",
        help="a run directory, a host's, or a report.json (default: the newest run here)",
    )
    parser.add_argument("--all", action="store_true", help="the whole timeline")


def _report(arguments: argparse.Namespace) -> int:
    from supervisor.verbs import report  # noqa: PLC0415

    return report.run(arguments.place, everything=arguments.all)


def _doctor(arguments: argparse.Namespace) -> int:
    from supervisor.verbs import doctor  # noqa: PLC0415

    return doctor.run(dict(os.environ), _asked(arguments), as_json=arguments.json)


def _define_settings(parser: argparse.ArgumentParser) -> None:
    import argparse  # noqa: PLC0415

    from supervisor.contract.settings import TABLE  # noqa: PLC0415

    parser.add_argument(
        "word", nargs="?", metavar="WORD", help="in the name, the group or the meaning"
    )
    for setting in TABLE:  # a flag is a word too
        parser.add_argument(
            *{setting.flag, f"--{setting.field}"},
            dest="flag",
            action="store_const",
            const=setting.flag,
            help=argparse.SUPPRESS,
        )
    parser.add_argument("--markdown", action="store_true", help="the guide's page of them")


def _settings(arguments: argparse.Namespace) -> int:
    from supervisor.verbs import settings  # noqa: PLC0415

    return settings.show(arguments.flag or arguments.word, markdown=arguments.markdown)


def _define_help(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help="without one: which there are")


def _help(arguments: argparse.Namespace) -> int:
    from supervisor.verbs import help as guide  # noqa: PLC0415

    return guide.show(arguments.topic)


def _define_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="without one: which there are")


def _schema(arguments: argparse.Namespace) -> int:
    from supervisor.verbs import schema  # noqa: PLC0415

    return schema.show(arguments.name)


VERBS: Final = {
    "train": Verb(
        "run this host of a job: the container's entrypoint",
        _define_script,
        _train_script,
        "Reads who the hosts of the job are from the container contract below SAGEMAKER_BASE_DIR "
        "(/opt/ml) or from the variables of Slurm, Kubernetes, TF_CONFIG or SUPERVISOR_HOSTS, and "
        "runs this one.",
        settings=True,
        words="[SCRIPT [ARGS …]]",
    ),
    "local": Verb(
        "run a job of several hosts on this machine",
        _define_local,
        _local,
        "Runs N real supervisors as the hosts of one job, on ports of their own. "
        "Without SCRIPT it trains the bundled example.",
        settings=True,
        words="[SCRIPT [ARGS …]]",
        without=_OF_A_PLATFORM,
    ),
    "plan": Verb(
        "print what this host would do, and start nothing",
        _define_plan,
        _plan,
        settings=True,
        words="[SCRIPT [ARGS …]]",
    ),
    "launch": Verb(
        "print a batch script for Slurm or manifests for Kubernetes, and start nothing",
        _define_launch,
        _launch,
        "Prints it to be read, changed and sent: supervisor launch slurm --help says how.",
        words="slurm|kubernetes …",
        kinds={platform: _launch_on(platform) for platform in ("slurm", "kubernetes")},
    ),
    "status": Verb("ask a running supervisor, or all of its job", _define_status, _status),
    "logs": Verb("show what the processes of a job write", _define_logs, _logs),
    "report": Verb(
        "show a past run: how it ended, why, and what happened when", _define_report, _report
    ),
    "doctor": Verb(
        "look for what would make a job fail here, and start nothing",
        _define_plan,
        _doctor,
        "Checks what the platform says (files or variables), host names, ports, directories, "
        "versions and devices; without a job, this machine for supervisor local. "
        "Exits 1 if anything is red.",
        settings=True,
        words="[SCRIPT [ARGS …]]",
    ),
    "settings": Verb(
        "show every setting, or those that have to do with a word", _define_settings, _settings
    ),
    "schema": Verb(
        "print the JSON schema of a document: report, status, supervisorconfig",
        _define_schema,
        _schema,
    ),
    "help": Verb("show the guide, or one of its pages", _define_help, _help),
}
