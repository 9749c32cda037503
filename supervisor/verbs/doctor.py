"""``supervisor doctor``: what would make a job fail on this host, before a job does.

``look`` asks the world, in bounded time, and starts nothing; ``diagnose`` is pure and turns what
was seen into checks, each with its remedy. Without a contract it is this machine that is looked
at, for ``supervisor local``.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Final

from supervisor import regular
from supervisor.cluster.net import NoAddress, Resolver, families, is_address
from supervisor.contract.contract import read_contract
from supervisor.contract.distribution import Strategy
from supervisor.contract.entry_point import EntryKind
from supervisor.contract.facts import CONFIG_FILES, Asked, Facts
from supervisor.contract.paths import paths_below
from supervisor.contract.reading import parse_settings, strangers_in, warnings_on
from supervisor.engines.choosing import is_here
from supervisor.engines.directory import absolute
from supervisor.engines.gathering import gather
from supervisor.engines.local import free_ports
from supervisor.faults import ContractError, Fault, in_words, safe, safe_json
from supervisor.host import neighbour
from supervisor.life.words import Role
from supervisor.linux.ports import check_free
from supervisor.plan.installation import ALLOW, FILE, installed_versions, read_file
from supervisor.plan.plan import FETCH, Plan, make_plan
from supervisor.plan.requirements import Conflict, conflicts
from supervisor.storage.job import VARIABLE, Options, decode_fetch, decode_sync
from supervisor.storage.location import Location
from supervisor.streams.masking import Masker
from supervisor.verbs.plan import defaults_in_force
from supervisor.verbs.words import stamp

NVIDIA_S: Final = 2.0
"""Longest time for ``nvidia-smi``."""
RESOLVE_S: Final = 5.0
"""Longest time for all host names together."""

_STATUS_S: Final = 2.0
"""Longest time for a supervisor on this machine to tell its status."""
_PLACE_S: Final = 4.0
"""A place in S3 is asked for about so long."""
_GIVE_UP_S: Final = 30.0
"""Longest time for that with what our own client takes, on a busy machine."""
_LOCAL_PORTS: Final = 9
"""Three hosts with three ports each: the default of ``supervisor local``."""
_PYTHONS: Final = ((3, 11), (3, 13))
_OLDEST_TENSORFLOW: Final = (2, 16)
_TENSORFLOWS: Final = ("tensorflow", "tensorflow-cpu", "tensorflow-cpu-aws", "tensorflow-intel")
_MIB: Final = 1024 * 1024
_DISK_RED: Final = 64 * _MIB
_DISK_WARN: Final = 1024 * _MIB
_SOURCE_LIMIT: Final = 8 * _MIB
_CLOCK_SLACK_S: Final = 300.0
"""Requests to AWS are refused from about this difference on."""
_SHOWN: Final = 20
"""Lines of one kind."""
_WIDE: Final = 200
"""Columns of the table where the output is not a terminal."""


class State(enum.StrEnum):
    OK = "ok"
    WARN = "warn"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table."""

    check: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Gpus:
    """``seen``: as ``nvidia-smi -L`` lists them; ``error``: why it could not, empty if it could."""

    seen: tuple[str, ...] = ()
    error: str = ""
    installed: bool = True


@dataclass(frozen=True, slots=True)
class Disk:
    free_bytes: int
    free_files: int | None
    """None where the file system does not count them."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen on this host."""

    facts: Facts
    plan: Plan | None
    """None without a contract, and where the contract is unusable."""
    faults: tuple[Fault, ...]
    has_contract: bool
    addresses: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    """Host name → its addresses, or why there are none."""
    own_is_here: bool = True
    """Whether this host's name leads to an address of this machine."""
    ports: tuple[int, ...] = ()
    """What this host has to bind; none without a contract, where any will do."""
    taken: tuple[str, ...] = ()
    """One sentence for each port that this host needs and cannot have."""
    runs_here: bool = False
    """A supervisor runs this very host of this job on this machine now."""
    unwritable: Mapping[str, str] = field(default_factory=dict)
    """Directory → why it cannot be written."""
    directories: tuple[str, ...] = ()
    disks: Mapping[str, Disk] = field(default_factory=dict)
    python: tuple[int, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    """Name → version, of what is installed."""
    gpus: Gpus = field(default_factory=Gpus)
    entry_error: str = ""
    conflicts: tuple[Conflict, ...] | None = None
    """What requirements.txt would replace; None where nothing of it is installed."""
    has_pip: bool = True
    programs: Mapping[str, bool] = field(default_factory=dict)
    """What an MPI job calls on this host → whether it is here."""
    places: Mapping[str, str] = field(default_factory=dict)
    """What is fetched or kept elsewhere, with its place → why that cannot be listed, or nothing."""
    neighbour: str = ""
    """What is to be said of PyPI's supervisor, where it is installed too."""
    now: float = 0.0
    newest_file: float = 0.0
    """The latest time stamp of our own code and of the contract, seconds since the epoch."""


def run(environ: Mapping[str, str], asked: Asked, *, as_json: bool) -> int:
    """Look, print, and return 1 if anything is red."""
    sight = look(environ, asked)
    facts = sight.facts
    mask = Masker.before_the_contract(facts.environ, facts.flags, facts.files).text
    checks = [
        replace(each, check=mask(each.check), found=mask(each.found), remedy=mask(each.remedy))
        for each in diagnose(sight)
    ]
    red = any(check.state is State.RED for check in checks)
    if as_json:
        document = {"ok": not red, "checks": [asdict(check) for check in checks]}
        print(safe_json(json.dumps(document, indent=2, ensure_ascii=False)))
    else:
        _print_table(checks)
    return int(red)


# --------------------------------------------------------------------------- what is seen


def look(environ: Mapping[str, str], asked: Asked) -> Sight:
    """Gather everything; what cannot be seen is a fact too. Takes some seconds at most."""
    facts = gather(environ, asked)
    # Who names a base directory or an entry point means a job; /opt/ml may just not exist.
    named = environ.get("SAGEMAKER_BASE_DIR") or environ.get("SAGEMAKER_PROGRAM") or asked.command
    told = facts.engine.name != "local"
    has_contract = bool(facts.files or facts.unreadable or named or told)
    plan, faults = _plan_of(facts) if has_contract else (None, _settings_faults(facts))
    directories = _directories(facts, plan) if has_contract else (absolute("."),)
    ports = _ports_of(plan) if plan else ()
    names = plan and {name: each.status.address for name, each in plan.endpoints.items()}
    addresses = asyncio.run(_resolve(names)) if names else {}
    own = addresses.get(plan.host) if plan else None
    return Sight(
        facts=facts,
        plan=plan,
        faults=faults,
        has_contract=has_contract,
        addresses=addresses,
        own_is_here=not isinstance(own, tuple) or any(map(is_here, own)),
        ports=ports,
        taken=tuple(_taken(ports) if has_contract else _taken_locally()),
        runs_here=plan is not None and _runs_here(plan),
        unwritable={path: error for path in directories if (error := _unwritable(path))},
        directories=directories,
        disks={path: _disk(path) for path in (*directories, *_temporary())},
        places=asyncio.run(_places(plan)) if plan else {},
        python=sys.version_info[:3],
        packages=_packages((*_TENSORFLOWS, "keras", "tf-keras")),
        gpus=_gpus(),
        entry_error=_entry_error(plan) if plan else "",
        conflicts=_conflicts(plan) if plan else None,
        has_pip=importlib.util.find_spec("pip") is not None,
        programs=_programs(plan) if plan else {},
        neighbour=neighbour.warning() or _shadowed(),
        now=time.time(),
        newest_file=_newest(facts),
    )


def _plan_of(facts: Facts) -> tuple[Plan | None, tuple[Fault, ...]]:
    try:
        return make_plan(read_contract(facts)), ()
    except ContractError as error:
        return None, error.faults


def _settings_faults(facts: Facts) -> tuple[Fault, ...]:
    _, faults = parse_settings(facts.flags, facts.environ, {}, facts.engine.defaults)
    return tuple(faults)


def _directories(facts: Facts, plan: Plan | None) -> tuple[str, ...]:
    """Where a job writes."""
    paths = plan.paths if plan else paths_below(facts.base_dir)
    return (paths.model, paths.checkpoints, paths.output_data, paths.output_intermediate)


def _ports_of(plan: Plan) -> tuple[int, ...]:
    return tuple(sorted({plan.endpoints[plan.host].status.port, *plan.listening}))


async def _resolve(names: Mapping[str, str]) -> dict[str, tuple[str, ...] | str]:
    resolver = Resolver()

    async def one(address: str) -> tuple[str, ...] | str:
        try:
            return await resolver.resolve(address, timeout_s=RESOLVE_S)
        except NoAddress as error:
            return str(error) or "no address"

    found = await asyncio.gather(*map(one, names.values()))
    return dict(zip(names, found, strict=True))


async def _places(plan: Plan) -> dict[str, str]:
    """Every place of the plan is asked for its first object."""
    fetch = next((spec for spec in plan.steps if spec.name == FETCH), None)
    wanted: dict[str, Location] = {}
    options = Options()
    if fetch is not None:
        work = decode_fetch(fetch.env[VARIABLE])
        options = work.options
        wanted |= {tree.name: tree.origin for tree in work.trees}
        if work.source:
            wanted["source"] = work.source.origin
        if work.restore:
            wanted["checkpoints"] = work.restore.origin
    if plan.storage is not None:
        sync = decode_sync(plan.storage.env[VARIABLE])
        options = sync.options
        wanted |= {each.name: each.target for each in sync.transfers}
    if not wanted:
        return {}
    options = replace(options, retry_s=_PLACE_S, timeout_s=_PLACE_S)

    async def one(location: Location) -> str:
        from supervisor.storage.places import open_store  # noqa: PLC0415  # loads the client
        from supervisor.storage.store import StorageError  # noqa: PLC0415

        try:
            # Opening loads the client: seconds on a busy machine, and not the place's.
            async with open_store(location, options) as store, asyncio.timeout(_GIVE_UP_S):
                async for _ in store.entries():
                    break
        except StorageError as error:
            return str(error)
        except TimeoutError:
            return f"no answer within {_GIVE_UP_S:g} s"
        return ""

    places = sorted(set(wanted.values()), key=str)
    answers = dict(zip(places, await asyncio.gather(*map(one, places)), strict=True))
    return {f"{name} {place}": answers[place] for name, place in wanted.items()}


def _taken(ports: Iterable[int]) -> Iterator[str]:
    yield from filter(None, map(check_free, ports))


def _runs_here(plan: Plan) -> bool:
    """Whether who answers on the status port is a supervisor with this host and this job."""
    port = plan.endpoints[plan.host].status.port
    if check_free(port) is None:
        return False
    from supervisor.verbs.asking import StatusError, fetch  # noqa: PLC0415  # where one answers

    try:
        status = fetch(f"http://127.0.0.1:{port}", timeout_s=_STATUS_S, answer_s=_STATUS_S)
    except StatusError:
        return False
    return (status.get("host"), status.get("job")) == (plan.host, plan.contract.job_name)


def _taken_locally() -> Iterator[str]:
    """``supervisor local`` takes any that are free."""
    try:
        free_ports(_LOCAL_PORTS)
    except OSError as error:
        yield in_words(error)


def _existing(path: str) -> str:
    """``path``, or the nearest directory above it that exists."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _unwritable(path: str) -> str:
    """Why no file can be made there, by making one; the empty string if it can."""
    place = _existing(path)
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"{place}: {error.strerror or error}"


def _temporary() -> tuple[str, ...]:
    """Where temporary files go; nothing where no directory will do, as on a read-only system."""
    try:
        return (tempfile.gettempdir(),)
    except OSError:
        return ()


def _disk(path: str) -> Disk:
    try:
        space = os.statvfs(_existing(path))
    except OSError:
        return Disk(0, None)
    return Disk(space.f_bavail * space.f_frsize, space.f_favail if space.f_files else None)


def _packages(names: Iterable[str]) -> dict[str, str]:
    """Versions from package metadata; nothing of it is imported."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _shadowed() -> str:
    """Where PyPI's supervisor has a directory of its own, the search path decides."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        other = metadata.distribution("supervisor")
        return (
            f"PyPI's supervisor {other.version} (supervisord) is installed too, in "
            f"{other.locate_file('')}, and is hidden by this program, or hides it: give "
            "supervisord an environment of its own"
        )
    return ""


def _gpus() -> Gpus:
    if shutil.which("nvidia-smi") is None:
        return Gpus(installed=False)
    process = subprocess.Popen(
        ["nvidia-smi", "-L"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=NVIDIA_S)
    except subprocess.TimeoutExpired:
        process.kill()  # and not waited for: in a hung driver it does not even die
        return Gpus(error=f"nvidia-smi has not answered within {NVIDIA_S:g} s")
    lines = tuple(line.strip() for line in output.splitlines() if line.strip())
    if process.returncode != 0:
        last = lines[-1][:200] if lines else f"exit {process.returncode}"
        return Gpus(error=f"nvidia-smi failed: {last}")
    return Gpus(seen=tuple(line.partition(" (UUID")[0] for line in lines if line[:3] == "GPU"))


def _programs(plan: Plan) -> dict[str, bool]:
    if plan.strategy is not Strategy.MPI:
        return {}
    names = ["mpirun", "ssh"]
    if plan.host != plan.contract.master:
        names = ["orted", "ssh-keygen", plan.contract.settings.mpi_sshd]
    elif len(plan.hosts) == 1:
        names = ["mpirun"]
    path = plan.processes[-1].env.get("PATH")
    return {name: shutil.which(name, path=path) is not None for name in names}


def _entry_error(plan: Plan) -> str:
    """Why the entry point cannot run, as far as it can be known without running it."""
    contract = plan.contract
    if contract.source:
        return ""  # it is still to be fetched
    path = os.path.join(contract.code_dir, contract.entry_point)
    if contract.entry_kind is EntryKind.PACKAGE:
        return ""  # what is in it is known once it is installed
    if contract.entry_kind is EntryKind.TEMPLATE:
        script = plan.processes[-1]
        if script.essential or script.role is Role.LAUNCHER:
            return ""  # a server of ours, or mpirun, which starts it
        name = script.argv[0]  # with a slash it is meant from the working directory
        path = os.path.join(script.cwd, name) if "/" in name else name
        found = shutil.which(path, path=script.env.get("PATH"))
        return "" if found else f"SUPERVISOR_COMMAND: {name} is not found"
    if contract.entry_kind is EntryKind.MODULE:
        name = contract.entry_point.removesuffix(".py").replace(".", "/")
        places = [os.path.join(contract.code_dir, name + end) for end in (".py", "/__main__.py")]
        if any(map(os.path.isfile, places)) or _is_installed(contract.entry_point):
            return ""
        return f"there is no {' and no '.join(places)}"
    try:
        source = regular.read(path, _SOURCE_LIMIT, follow=True)
        if contract.entry_kind is EntryKind.SCRIPT and len(source) < _SOURCE_LIMIT:
            warnings.simplefilter("ignore")  # the script's own business
            compile(source, contract.entry_point, "exec", dont_inherit=True)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    except (SyntaxError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _is_installed(module: str) -> bool:
    """Whether the package of ``module`` is one of the image; it is not imported."""
    with contextlib.suppress(ImportError, ValueError):
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    return False


def _conflicts(plan: Plan) -> tuple[Conflict, ...] | None:
    contract = plan.contract
    if not any(spec.name == "requirements" for spec in plan.steps):
        return None
    directory = contract.code_dir
    return tuple(conflicts(FILE, lambda name: read_file(name, directory), installed_versions()))


def _newest(facts: Facts) -> float:
    config = os.path.join(facts.base_dir, "input", "config")
    newest = 0.0
    for path in (__file__, *(os.path.join(config, name) for name in CONFIG_FILES)):
        try:
            newest = max(newest, os.stat(path).st_mtime)
        except OSError:
            continue
    return newest


# --------------------------------------------------------------------------- what it means


def diagnose(sight: Sight) -> list[Check]:
    """The checks, in the order of the table. Pure."""
    sections: tuple[Callable[[Sight], Iterator[Check]], ...] = (
        _engine, _contract, _entry, _requirements, _mpi, _hosts, _proxies, _ports, _writable,
        _space, _installation, _versions, _devices, _clock, _credentials, _storage,
    )  # fmt: skip
    return [check for section in sections for check in section(sight)]


def _engine(sight: Sight) -> Iterator[Check]:
    """Where the job comes from, and what its platform is like as far as it tells."""
    engine = sight.facts.engine
    words = [f"{engine.name} ({engine.evidence})"]
    if sight.plan is not None:
        settings, budgets = sight.plan.contract.settings, sight.plan.budgets
        _, source = defaults_in_force(sight.plan).get("stop_limit_s", ("", ""))
        by = f", by {source}" if source else ""
        words.append(
            f"SIGKILL {budgets.stop_limit_s:g} s after a stop{by}: "
            f"{budgets.stop_grace_s:.3g} s of it are the script's"
        )
        if settings.restart_count:
            words.append(f"started anew {settings.restart_count} times")
        if engine.deadline:
            words.append(f"it ends at {stamp(engine.deadline)}")
    yield Check("engine", State.OK, "; ".join(words))
    for path in engine.failure_files:
        if not os.access(path, os.W_OK):
            remedy = "a pod's terminationMessagePath, if it is to show why the job failed"
            yield Check("engine", State.WARN, f"{path} cannot be written", remedy)


def _contract(sight: Sight) -> Iterator[Check]:
    base = sight.facts.base_dir
    if sight.plan is None:
        for note in warnings_on(strangers_in(sight.facts.environ).unknown):
            found, _, remedy = note.partition(": ")
            yield Check("contract", State.WARN, found, remedy)
    for fault in sight.faults:
        where = f"{fault.source}: {fault.key}" if fault.key else fault.source
        yield Check("contract", State.RED, f"{where}: {fault.found}", f"expected {fault.expected}")
    if not sight.has_contract:
        yield Check(
            "contract",
            State.OK,
            f"none below {base}: this machine is looked at for supervisor local; "
            "SAGEMAKER_BASE_DIR names another place",
        )
    if sight.plan is None:
        return
    plan = sight.plan
    hosts = f"{len(plan.hosts)} hosts" if plan.is_cluster else "one host"
    strategy = {
        Strategy.NONE: "no distribution",
        Strategy.PS: "parameter servers",
        Strategy.MWMS: "MultiWorkerMirroredStrategy",
        Strategy.MPI: "MPI",
    }[plan.strategy]
    yield Check("contract", State.OK, f"{base}: {plan.host}, {hosts}, {strategy}")
    for note in plan.notes:
        found, _, remedy = note.partition(": ")
        yield Check("contract", State.WARN, found, remedy)


def _entry(sight: Sight) -> Iterator[Check]:
    if sight.plan is None:
        return
    name = sight.plan.contract.entry_point
    if sight.entry_error:
        remedy = f"see to it that {name} is in {sight.plan.contract.code_dir} and is sound"
        yield Check("entry point", State.RED, sight.entry_error, remedy)
    else:
        yield Check("entry point", State.OK, name)


def _requirements(sight: Sight) -> Iterator[Check]:
    """As the installation will judge them; what their own dependencies ask for is pip's to say."""
    if sight.plan is None or sight.conflicts is None:
        return
    if not sight.has_pip:
        remedy = "python -m ensurepip, or SUPERVISOR_REQUIREMENTS=skip"
        yield Check("requirements", State.RED, f"{FILE}, and {sys.executable} has no pip", remedy)
    allowed = sight.plan.contract.settings.requirements == "replace"
    for each in sight.conflicts[:_SHOWN]:
        remedy = f"ask for what {each.name} {each.version} meets, or build the image with the other"
        if allowed:
            yield Check("requirements", State.WARN, f"{each}, as {ALLOW}", remedy)
        else:
            yield Check("requirements", State.RED, str(each), f"{remedy}; {ALLOW}")
    if not sight.conflicts and sight.has_pip:
        yield Check("requirements", State.OK, f"{FILE} replaces nothing of the image")


def _mpi(sight: Sight) -> Iterator[Check]:
    if missing := [name for name, here in sight.programs.items() if not here]:
        remedy = "install OpenMPI and OpenSSH; SUPERVISOR_MPI_SSHD names another sshd"
        yield Check("MPI", State.RED, f"not found: {', '.join(missing)}", remedy)
    elif sight.programs:
        yield Check("MPI", State.OK, ", ".join(sight.programs))


def _hosts(sight: Sight) -> Iterator[Check]:
    plan = sight.plan
    if plan is None:
        return
    bad = {name: why for name, why in sight.addresses.items() if isinstance(why, str)}
    asked = plan.is_cluster or plan.strategy is Strategy.MWMS
    if not asked and (bad or not sight.own_is_here):
        # MultiWorkerMirroredStrategy alone asks for its own name, and hangs without an answer.
        yield Check("host names", State.OK, f"{plan.host} is alone: nobody asks for its name")
        return
    for name, why in list(bad.items())[:_SHOWN]:
        # Another host's name may come with the host; ours has to be there by now.
        state = State.RED if name == plan.host else State.WARN
        remedy = "put it into the DNS or /etc/hosts; supervisorconfig.json gives another address"
        yield Check("host names", state, f"{name}: {why}", remedy)
    if not sight.own_is_here:
        shown = ", ".join(sight.addresses[plan.host])
        yield Check(
            "host names",
            State.RED,
            f"{plan.host} leads to {shown}, which is no address of this machine",
            "correct current_host in resourceconfig.json, or the DNS",
        )
    for one, other, address in _twins(plan, sight.addresses):
        yield Check(
            "host names",
            State.RED,
            f"{one} and {other} both lead to {address}, where one port serves one of them",
            "correct the DNS or resourceconfig.json, or give each ports of its own in "
            "supervisorconfig.json",
        )
    own, bind = sight.addresses.get(plan.host), plan.status_bind
    bound = plan.is_cluster and is_address(bind) and bind != "::"
    if bound and isinstance(own, tuple) and all((":" in each) != (":" in bind) for each in own):
        yield Check(
            "host names",
            State.RED,
            f"{plan.host} leads to {', '.join(own)}, and the status port is bound to {bind}: "
            f"nobody comes there{families(own) or ' over IPv4'}",
            "leave SUPERVISOR_STATUS_BIND out: then it is bound to IPv4 and IPv6",
        )
    good = len(sight.addresses) - len(bad)
    if good:
        yield Check("host names", State.OK, f"{good} of {len(sight.addresses)} resolve")


def _twins(
    plan: Plan, addresses: Mapping[str, tuple[str, ...] | str]
) -> Iterator[tuple[str, str, str]]:
    """Hosts at one address with one status port: only the first of them can have it."""
    holders: dict[tuple[str, int], str] = {}
    for name, found in addresses.items():
        port = plan.endpoints[name].status.port
        for address in found if isinstance(found, tuple) else ():
            holder = holders.setdefault((address, port), name)
            if holder != name:
                yield holder, name, address
                break


def _proxies(sight: Sight) -> Iterator[Check]:
    if sight.plan is not None and sight.plan.proxies:
        names = ", ".join(sight.plan.proxies)
        found = f"{names}, but not for the job's own hosts: they are in no_grpc_proxy and no_proxy"
        yield Check("proxy", State.OK, found)


def _ports(sight: Sight) -> Iterator[Check]:
    plan = sight.plan
    if sight.taken and sight.runs_here:
        found = f"{len(sight.taken)} held by this host's own job, which runs"
        yield Check("ports", State.WARN, found, "supervisor status; wait for its end")
        return
    if sight.taken and plan is not None and not plan.is_cluster and not plan.listening:
        # As the job itself does: nobody coordinates over the status port of a host alone.
        remedy = "SUPERVISOR_STATUS_PORT; without it the job runs and tells nobody its status"
        yield Check("ports", State.WARN, "; ".join(sight.taken), remedy)
        return
    for sentence in sight.taken:
        remedy = "end that process, or choose another port: SUPERVISOR_STATUS_PORT for the status"
        yield Check("ports", State.RED, sentence, remedy + ", supervisorconfig.json for any")
    if sight.taken:
        return
    if sight.ports:
        yield Check("ports", State.OK, f"{', '.join(map(str, sight.ports))} free")
    elif not sight.has_contract:
        yield Check("ports", State.OK, "enough free for supervisor local")


def _writable(sight: Sight) -> Iterator[Check]:
    for path, error in sight.unwritable.items():
        remedy = "mount it writable, or give its owner or mode to this user"
        yield Check("directories", State.RED, f"{path} cannot be written ({error})", remedy)
    if not sight.unwritable:
        yield Check("directories", State.OK, f"{', '.join(sight.directories)} can be written")


def _space(sight: Sight) -> Iterator[Check]:
    tight = False
    for path, disk in sight.disks.items():
        files = disk.free_files is not None and disk.free_files < 100
        if disk.free_bytes >= _DISK_WARN and not files:
            continue
        tight = True
        state = State.RED if disk.free_bytes < _DISK_RED or files else State.WARN
        found = "no more files can be made" if files else f"{disk.free_bytes // _MIB} MiB free"
        yield Check("disk", state, f"{path}: {found}", "free some, or mount a larger volume")
    if not tight and sight.disks:
        least = min(disk.free_bytes for disk in sight.disks.values())
        yield Check("disk", State.OK, f"{least / 1024 / _MIB:.1f} GiB free at least")


def _installation(sight: Sight) -> Iterator[Check]:
    if sight.neighbour:
        found, _, remedy = sight.neighbour.partition(": ")
        yield Check("installation", State.WARN, found, remedy)


def _versions(sight: Sight) -> Iterator[Check]:
    shown = ".".join(map(str, sight.python))
    low, high = _PYTHONS
    fits = low <= sight.python[:2] <= high
    remedy = "" if fits else "Python 3.11 to 3.13, which this program is tested with"
    yield Check("Python", State.OK if fits else State.WARN, shown, remedy)

    plan = sight.plan
    servers = plan is None or plan.strategy is Strategy.PS
    name = next((name for name in _TENSORFLOWS if name in sight.packages), None)
    if name is None:
        state = State.RED if servers else State.WARN
        yield Check("TensorFlow", state, "not installed", "python -m pip install tensorflow")
        return
    version = sight.packages[name]
    new_enough = _numbers(version) >= _OLDEST_TENSORFLOW
    yield Check(
        "TensorFlow",
        State.OK if new_enough else State.WARN,
        f"{name} {version}",
        "" if new_enough else "2.16 or later, which this program is tested with",
    )
    if plan is not None and plan.strategy is Strategy.PS:
        yield _chief(plan.contract.settings.chief_name, version)
    keras = sight.packages.get("keras")
    if keras is None:
        return
    distributed = plan is not None and plan.strategy is not Strategy.NONE
    legacy = sight.facts.environ.get("TF_USE_LEGACY_KERAS") and "tf-keras" in sight.packages
    trouble = distributed and _numbers(keras) >= (3,) and not legacy
    yield Check(
        "Keras",
        State.WARN if trouble else State.OK,
        keras + (": its fit() does not work under a distribution strategy" if trouble else ""),
        "train in a loop of your own, or install tf-keras and set TF_USE_LEGACY_KERAS=1"
        if trouble
        else "",
    )


def _chief(setting: str, version: str) -> Check:
    """``master`` is TensorFlow 1's word, ``chief`` that of 2, whose strategies demand it."""
    old = version.startswith("1.")
    wrong = setting == ("chief" if old else "master")
    if not wrong:
        return Check("chief's name", State.OK, "master" if old else "chief")
    return Check(
        "chief's name",
        State.WARN,
        f"SUPERVISOR_CHIEF_NAME={setting} with TensorFlow {version}",
        "auto, unless the script looks for that name itself"
        + ("" if old else ": the strategies of TensorFlow 2 refuse master"),
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _devices(sight: Sight) -> Iterator[Check]:
    gpus = sight.gpus
    if gpus.error:
        yield Check("GPUs", State.WARN, gpus.error, "look at the driver, and at dmesg")
    elif not gpus.installed:
        known = sight.facts.num_gpus
        found = "none seen: there is no nvidia-smi" if not known else f"{known}, by the driver"
        yield Check("GPUs", State.OK, found)
    elif not gpus.seen:
        yield Check("GPUs", State.OK, "none")
    elif "tensorflow-cpu" in sight.packages and "tensorflow" not in sight.packages:
        remedy = "python -m pip install 'tensorflow[and-cuda]' in place of tensorflow-cpu"
        yield Check("GPUs", State.WARN, f"{len(gpus.seen)}, which tensorflow-cpu ignores", remedy)
    else:
        yield Check("GPUs", State.OK, "; ".join(gpus.seen))


def _clock(sight: Sight) -> Iterator[Check]:
    shown = stamp(sight.now)
    late_s = sight.newest_file - sight.now
    if late_s > _CLOCK_SLACK_S:
        yield Check(
            "clock",
            State.RED,
            f"{shown}, {late_s:.0f} s before the newest file of this program or its contract",
            "set the clock: certificates and signatures are refused",
        )
    else:
        yield Check("clock", State.OK, shown)


def _credentials(sight: Sight) -> Iterator[Check]:
    """Whether they seem to be configured; nobody is asked."""
    in_contract = any(b"s3://" in content for content in sight.facts.files.values())
    if sight.plan is not None and sight.plan.contract.settings.s3_anonymous:
        return
    if not in_contract and not any(" s3://" in place for place in sight.places):
        return
    env = sight.facts.environ
    static = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    given = static & {name for name in static if env.get(name)}
    roles = (
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    )
    role = next((name for name in roles if env.get(name)), None)
    remedy = "give the container a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if len(given) == 1:
        found = f"{given.pop()} without {(static - given).pop()}"
        yield Check("credentials", State.RED, found, remedy)
    elif given:
        yield Check("credentials", State.OK, "AWS_ACCESS_KEY_ID is set")
    elif role:
        yield Check("credentials", State.OK, f"{role} is set")
    else:
        found = "S3 is to be used, and only the instance's metadata can have any"
        yield Check("credentials", State.WARN, found, remedy)


def _storage(sight: Sight) -> Iterator[Check]:
    for place, problem in sight.places.items():
        if problem:
            remedy = "give the job's role this permission, or correct the setting"
            yield Check(f"storage: {place}", State.RED, problem, remedy)
        else:
            yield Check(f"storage: {place}", State.OK, "answers")


# --------------------------------------------------------------------------- what is shown


def _print_table(checks: Sequence[Check]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    styles = {State.OK: "green", State.WARN: "yellow", State.RED: "bold red"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("CHECK", "STATE", "FOUND", "REMEDY"):
        table.add_column(column, overflow="fold")
    for each in checks:
        state = Text(each.state.value, style=styles[each.state])
        words = (Text(safe(text)) for text in (each.check, each.found, each.remedy))
        table.add_row(next(words), state, *words)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    console.print(table)
