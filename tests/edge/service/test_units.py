"""The service's files: what systemd itself says of them, what is escaped, and that only our own files are touched."""

from __future__ import annotations

import configparser
import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.config import EdgeConfig, EngineConfig, ServerConfig
from edge.errors import EdgeError, UsageError
from edge.service import files
from edge.service.units import Settings, listen_stream, render

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = Settings((sys.executable, "-m", "edge", "serve"), "127.0.0.1:8642", 640 * 2**20, "640.0 MiB: a test.")
THRESHOLD = 20  # tenths: an exposure of 2.0

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (apt install systemd)"
)


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@pytest.fixture
def dirs(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "system", tmp_path / "sysusers.d"


@needs_analyze
@pytest.mark.parametrize("listen", ["127.0.0.1:8642", "[::1]:8642", "unix:/run/edge-slm/edge.sock"])
def test_systemd_takes_the_files(dirs: tuple[Path, Path], listen: str) -> None:
    command = (*SETTINGS.command, "--index", "/srv/a b%n$HOME\"'\\/index.db")
    writable = (Path("/srv/a b%n$HOME\"'"),)
    texts = render(dataclasses.replace(SETTINGS, listen=listen, command=command, writable=writable))
    files.install(texts, *dirs)
    done = analyze("verify", "--man=no", *(dirs[0] / name for name in ("edge.service", "edge.socket")))
    assert (done.returncode, done.stderr.strip()) == (0, "")


@needs_analyze
def test_verify_would_notice(dirs: tuple[Path, Path]) -> None:
    texts = render(SETTINGS)
    texts["edge.service"] = texts["edge.service"].replace("ProtectHome=yes", "ProtectHouse=yes")
    files.install(texts, *dirs)
    assert "ProtectHouse" in analyze("verify", "--man=no", dirs[0] / "edge.service").stderr


@needs_analyze
def test_the_exposure_is_at_most_2(dirs: tuple[Path, Path]) -> None:
    files.install(render(SETTINGS), *dirs)
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={THRESHOLD}", dirs[0] / "edge.service")
    found = re.search(r"Overall exposure level for edge.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    print("exposure", found[1])
    assert float(found[1]) * 10 <= THRESHOLD
    assert done.returncode == 0


def calls_of(group: str) -> set[str]:
    """All system calls of a group, as this systemd knows it."""
    listed = analyze("syscall-filter", "--no-pager", group).stdout
    names = {line.strip() for line in listed.splitlines()[1:] if line.strip() and not line.strip().startswith("#")}
    return {call for name in names for call in (calls_of(name) if name.startswith("@") else {name})}


@needs_analyze
def test_the_daemon_may_call_what_it_needs_and_no_more() -> None:
    allowed: set[str] = set()
    for line in values(render(SETTINGS)["edge.service"], "SystemCallFilter"):
        names = line.removeprefix("~").split()
        calls = {call for name in names for call in (calls_of(name) if name.startswith("@") else {name})}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    children = {"vfork", "clone3", "execve", "wait4", "setsid", "kill", "prctl", "prlimit64", "setitimer", "socketpair"}
    others = {"accept4", "epoll_wait", "flock", "fdatasync", "fsync", "mbind", "mprotect", "sched_getaffinity",
              "sched_setscheduler", "setpriority"}  # fmt: skip
    assert (children | others) - allowed == set()
    refused = {"ptrace", "mount", "bpf", "setuid", "chown", "chroot", "init_module", "reboot", "settimeofday",
               "sched_setaffinity", "perf_event_open"}  # fmt: skip
    assert allowed & refused == set()


def test_what_the_unit_promises() -> None:
    service = render(dataclasses.replace(SETTINGS, drain_sec=50.0, silence_sec=200.0))["edge.service"]
    one = {key: values(service, key) for key in ("MemoryMax", "TimeoutStopSec", "WatchdogSec", "User", "KillMode")}
    assert one == {"MemoryMax": [str(640 * 2**20)], "TimeoutStopSec": ["65"], "WatchdogSec": ["260"],
                   "User": ["edge-slm"], "KillMode": ["mixed"]}  # fmt: skip
    assert values(service, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert "$" not in service.replace("$MAINPID", "")
    assert values(service, "DynamicUser") == []


def test_the_defaults_leave_time_for_the_daemons_own_deadlines() -> None:
    service = render(SETTINGS)["edge.service"]
    assert int(values(service, "TimeoutStopSec")[0]) > ServerConfig().drain_sec
    assert int(values(service, "WatchdogSec")[0]) > EngineConfig().silence_sec
    assert (SETTINGS.drain_sec, SETTINGS.silence_sec) == (
        EdgeConfig().server.drain_sec,
        EdgeConfig().engine.silence_sec,
    )


def test_nothing_written_names_this_machine() -> None:
    texts = render(dataclasses.replace(SETTINGS, command=("/opt/edge-slm/bin/python", "-m", "edge", "serve")))
    assert str(Path.home()) not in "".join(texts.values()).replace("ProtectHome", "")


@pytest.mark.parametrize(
    ("listen", "stream", "is_path"),
    [
        ("127.0.0.1:8642", "127.0.0.1:8642", False),
        ("127.9.9.9:1", "127.9.9.9:1", False),
        ("localhost:80", "127.0.0.1:80", False),
        ("8642", "127.0.0.1:8642", False),
        ("[::1]:8642", "[::1]:8642", False),
        ("unix:/run/edge-slm/edge.sock", "/run/edge-slm/edge.sock", True),
    ],
)
def test_an_address_of_this_machine(listen: str, stream: str, is_path: bool) -> None:
    assert listen_stream(listen) == (stream, is_path)
    socket = render(dataclasses.replace(SETTINGS, listen=listen))["edge.socket"]
    assert values(socket, "ListenStream") == [stream]
    assert ("SocketMode=0660" in socket) == is_path == ("IPAddressDeny=any" not in socket)


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:8642", "[::]:8642", "192.168.1.5:8642", "example.org:80", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536",
     "127.0.0.1:٣", "unix:edge.sock", "unix:/run/../edge.sock", "unix:/home/a/edge.sock", "unix:/tmp/edge.sock",
     "unix:/run/" + "x" * 120, "unix:", "", "127.0.0.1:80\nListenStream=0.0.0.0:81", "unix:/run/a\nb",
     "unix:/run/a b", "unix:/run/%n"],
)  # fmt: skip
def test_an_address_that_is_refused(listen: str) -> None:
    with pytest.raises(UsageError):
        render(dataclasses.replace(SETTINGS, listen=listen))


def test_no_path_can_add_a_line() -> None:
    with pytest.raises(UsageError, match="control characters"):
        render(dataclasses.replace(SETTINGS, command=("/bin/a", "x\nUser=root")))
    with pytest.raises(UsageError, match="control characters"):
        render(dataclasses.replace(SETTINGS, writable=(Path("/srv/x\nUser=root"),)))
    source = render(dataclasses.replace(SETTINGS, memory_source="a\nUser=root\\"))["edge.service"]
    assert values(source, "User") == ["edge-slm"]
    assert "# a User=root\n" in source


def test_installing_twice_writes_once(dirs: tuple[Path, Path]) -> None:
    assert [place.state for place in files.look(*dirs)] == ["missing"] * 3
    written = files.install(render(SETTINGS), *dirs)
    assert [path.name for path in written] == ["edge.service", "edge.socket", "edge-slm.conf"]
    assert files.install(render(SETTINGS), *dirs) == []
    other = render(dataclasses.replace(SETTINGS, listen="127.0.0.1:9000"))
    assert [path.name for path in files.install(other, *dirs)] == ["edge.socket"]
    assert [place.state for place in files.look(*dirs)] == ["installed"] * 3
    assert len(files.uninstall(*dirs)) == 3
    assert [*dirs[0].iterdir(), *dirs[1].iterdir()] == []
    assert files.uninstall(*dirs) == []


def test_what_was_changed_by_hand_is_not_written_over(dirs: tuple[Path, Path]) -> None:
    files.install(render(SETTINGS), *dirs)
    service = dirs[0] / "edge.service"
    service.write_text(service.read_text().replace("Restart=on-failure", "Restart=always"))
    assert [place.state for place in files.look(*dirs)] == ["changed", "installed", "installed"]
    with pytest.raises(UsageError, match=r"systemctl edit edge\.service.*--force"):
        files.install(render(SETTINGS), *dirs)
    assert "Restart=always" in service.read_text()
    assert files.install(render(SETTINGS), *dirs, force=True) == [service]
    assert "Restart=on-failure" in service.read_text()


@pytest.mark.parametrize("kind", ["text", "bytes", "link", "folder"])
def test_files_of_others_are_left_alone(dirs: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    files.install(render(SETTINGS), *dirs)
    service = dirs[0] / "edge.service"
    ours = service.read_text()
    service.unlink()
    if kind == "text":
        service.write_text("[Service]\nExecStart=/bin/true\n")
    elif kind == "bytes":
        service.write_bytes(b"\xff\xfe")
    elif kind == "link":  # even to what we could have written: the file is somebody else's
        (tmp_path / "elsewhere").write_text(ours)
        service.symlink_to(tmp_path / "elsewhere")
    else:
        service.mkdir()
    (dirs[0] / "edge.socket").unlink()
    for refused in (lambda: files.install(render(SETTINGS), *dirs, force=True), lambda: files.uninstall(*dirs)):
        with pytest.raises(UsageError, match="was not written by"):
            refused()
    assert [place.state for place in files.look(*dirs)] == ["foreign", "missing", "installed"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeError, match="sudo"):
        files.install(render(SETTINGS), tmp_path / "file", tmp_path)


def quadlet() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "configs" / "service" / "edge.container")
    return parser


def test_the_quadlet_is_as_closed_as_the_service() -> None:
    found = quadlet()
    assert found.sections() == ["Unit", "Container", "Service", "Install"]
    container = found["Container"]
    wanted = {"Network": "none", "ReadOnly": "true", "NoNewPrivileges": "true", "DropCapability": "all",
              "User": "10001", "Notify": "true", "Exec": "serve", "HealthOnFailure": "kill"}  # fmt: skip
    assert {key: container[key] for key in wanted} == wanted
    text = (ROOT / "configs" / "service" / "edge.container").read_text()
    assert [line.split(":")[1] for line in values(text, "Volume")] == [
        "/var/lib/edge-slm", "/var/cache/edge-slm", "/run/edge-slm"]  # fmt: skip
    assert "--memory=" in container["PodmanArgs"]
    assert int(found["Service"]["TimeoutStopSec"]) > ServerConfig().drain_sec
    assert "PublishPort" not in container


def test_the_image_runs_as_a_user_and_asks_the_daemon_where_it_listens() -> None:
    text = (ROOT / "configs" / "service" / "Containerfile").read_text()
    steps = [line.split(None, 1) for line in re.sub(r"\\\n", " ", text).splitlines() if re.match("[A-Z]+ ", line)]
    last = dict(step for step in steps if step[0] != "COPY")  # type: ignore[misc]
    assert last["USER"] == "10001:10001"
    assert last["VOLUME"] == '["/var/lib/edge-slm", "/var/cache/edge-slm"]'
    assert last["ENTRYPOINT"] == '["edge"]'
    for name in (argument for verb, argument in steps if verb == "COPY" and "--from" not in argument):
        assert all((ROOT / source).exists() for source in name.split()[:-1])
    address = "unix:/run/edge-slm/edge.sock"
    assert last["CMD"] == f'["serve", "--listen", "{address}"]'
    assert f'"edge.server.health", "{address}"' in last["HEALTHCHECK"]
    assert quadlet()["Container"]["HealthCmd"] == f"python -m edge.server.health {address}"
    socket = (ROOT / "configs" / "service" / "edge.socket").read_text()
    assert values(socket, "ListenStream") == [ServerConfig().listen, address.removeprefix("unix:")]


@needs_analyze
def test_systemd_takes_the_containers_socket(tmp_path: Path) -> None:
    shutil.copy(ROOT / "configs" / "service" / "edge.socket", tmp_path)
    (tmp_path / "edge.service").write_text("[Service]\nExecStart=/bin/true\n")  # what the quadlet becomes
    done = analyze("verify", "--man=no", tmp_path / "edge.socket")
    assert (done.returncode, done.stderr.strip()) == (0, "")
