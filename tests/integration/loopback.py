"""Launches the on-premises cluster on loopback; run in namespaces of its own, see `test_launcher`.

In new PID, mount and network namespaces it has a loopback device, process numbers and some mounts
that nobody else sees: an SSH server on port 22 reaches this machine alone, `ray stop` and
`ray down` end no other cluster, and whatever is still running when it ends is ended by the kernel.
It runs below a shell, the namespaces' first process, which buries Ray's orphans. The last line that
it prints is what it saw, as JSON.

    unshare --net --pid --mount --fork --mount-proc --kill-child \\
        bash -c 'python tests/integration/loopback.py FOLDER; exit $?'
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.tiny import write
from usseg_ray.cluster.join import CLIENT, ask, listens

PROJECT = Path(__file__).resolve().parents[2]
RAY = Path(sys.prefix) / "bin" / "ray"
GCS_PORT, DASHBOARD, TUNNEL, CLIENT_PORT = 6379, 8265, 8300, 10001
SWEEP = (
    "python -m usseg_ray.tune --method kmeans --num-samples 2 --finalists 1 --seeds 1 "
    "--workers-per-trial 0 --device cpu "
    "--set backbone.name=textons --set data.train_size=32 --set data.eval_size=32 "
    "--set resources.features=recompute --set method.restarts=2"
)
ATTACHED = """
import ray
from usseg_ray.cluster.join import local_ray
with local_ray():
    print("ATTACHED", ray.get_runtime_context().gcs_address)
"""
JOINED = """
import sys, time
from usseg_ray.cluster.join import local_ray
from usseg_ray.core.errors import UserError
start = time.monotonic()
try:
    with local_ray():
        print("joined")
except UserError as error:
    print(f"{time.monotonic() - start:.1f} s: {error}")
"""
OTHER_RAY = """
import json, ray
from ray.experimental import internal_kv
ray.init(address="auto", log_to_driver=False)
told = json.loads(internal_kv._internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster"))
told["ray_version"] = "2.59.0"
internal_kv._internal_kv_put(
    b"CLUSTER_METADATA", json.dumps(told).encode(), overwrite=True, namespace=b"cluster"
)
"""


class Loopback:
    """The cluster, its owner's commands, and how long each took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.yaml = folder / "cluster.yaml"
        self.seconds: dict[str, float] = {}
        own = ("RAY_", "MLFLOW_", "USSEG_", "PYTHONPATH")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        self.environment = inherited | {
            "HOME": str(self.home),
            "PATH": f"{RAY.parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "PYTHONPATH": str(PROJECT),
        }

    def run(self, name: str, *ray: str, python: str = "", module: str = "", **changed: str) -> str:
        """Runs a command of the cluster's owner, of Ray's or of Python, and keeps its output."""
        command = [str(RAY), *ray]
        if python or module:
            command = [sys.executable, *(["-c", python] if python else ["-m", *module.split()])]
        start = time.monotonic()
        done = subprocess.run(
            command,
            env=self.environment | changed,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
        )
        self.seconds[name] = round(time.monotonic() - start, 1)
        print(f"$ {name} ({self.seconds[name]} s, exit code {done.returncode})\n{done.stdout}")
        if done.returncode:
            raise SystemExit(f"{name} failed")
        return done.stdout


def isolate(folder: Path, home: Path) -> None:
    """Gives this mount namespace its own /tmp, /run, shared memory and home, and brings up lo."""
    mount = partial(subprocess.run, check=True)
    for place in ("/run", "/dev/shm"):
        mount(["mount", "-t", "tmpfs", "tmpfs", place])
    # What is needed of the old /tmp is carried over into the new one.
    kept = [p for p in (folder, PROJECT, Path(sys.prefix)) if p.is_relative_to("/tmp")]
    for number, path in enumerate(kept):
        Path(f"/run/{number}").mkdir()
        mount(["mount", "--bind", path, f"/run/{number}"])
    mount(["mount", "-t", "tmpfs", "tmpfs", "/tmp"])
    for number, path in enumerate(kept):
        path.mkdir(parents=True)
        mount(["mount", "--move", f"/run/{number}", path])
    Path("/run/sshd").mkdir()
    mount(["ip", "link", "set", "lo", "up"])
    me, users = pwd.getpwuid(os.getuid()), folder / "passwd"
    users.write_text(
        f"{me.pw_name}:x:{me.pw_uid}:{me.pw_gid}::{home}:/bin/bash\n"
        "sshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n"
    )
    mount(["mount", "--bind", users, "/etc/passwd"])


def serve_ssh(folder: Path, home: Path) -> Path:
    """Starts an SSH server on loopback that lets in a throw-away key, and returns the key."""
    key, host_key, config = folder / "key", folder / "host_key", folder / "sshd_config"
    for path in (key, host_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    shutil.copy(key.with_suffix(".pub"), home / ".ssh" / "authorized_keys")
    config.write_text(
        f"ListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", config, "-E", folder / "sshd.log"])
    return key


def adapted(key: Path, home: Path) -> dict[str, Any]:
    """Returns on_premises.yaml for one machine, which has everything installed already."""
    text = (PROJECT / "docs/deploy/on_premises.yaml").read_text("utf-8")
    config = yaml.safe_load(text.replace("/mnt/usseg", str(home)))
    config["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    config["auth"] = {"ssh_user": pwd.getpwuid(os.getuid()).pw_name, "ssh_private_key": str(key)}
    kept = [command for command in config["setup_commands"] if "uv " not in command]
    assert len(kept) == len(config["setup_commands"]) - 3
    config["setup_commands"] = [
        *kept,
        f"ln -sfn {sys.prefix} ~/.usseg_ray",
        # What runs is what was carried over, not this checkout.
        "echo 'export PYTHONPATH=$HOME/usseg_ray' >> ~/.usseg_ray.env",
    ]
    # As the file says for a cluster of one machine.
    offers_nothing = """RAY_OVERRIDE_RESOURCES='{"CPU":0,"GPU":0,"memory":0}' """
    config["head_start_ray_commands"] = [
        command.replace(offers_nothing, "").replace(
            "--head", "--head --num-cpus=2 --object-store-memory=200000000"
        )
        for command in config["head_start_ray_commands"]
    ]
    assert "OVERRIDE" not in str(config["head_start_ray_commands"])
    return dict(config)


def listeners() -> list[str]:
    """Lists what listens on TCP, as `address:port process`."""
    lines = subprocess.check_output(["ss", "-Hltnp"], text=True).splitlines()
    return [" ".join(line.split()[3:4] + line.split()[5:]) for line in lines]


def status(url: str, token: str | None) -> int:
    """Asks the jobs API, with or without a token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    asked = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def processes() -> list[str]:
    """Lists what runs in this PID namespace besides this program, its shell and the SSH server."""
    lines = subprocess.check_output(["ps", "-eo", "pid,stat,args"], text=True).splitlines()[1:]
    running = [line.split(None, 2) for line in lines]
    return [
        args
        for pid, state, args in running
        if pid not in ("1", str(os.getpid()))
        and "Z" not in state
        and not args.startswith(("sshd", "ps ", "ssh:"))
    ]


def strangers(cluster: Loopback, token: str) -> dict[str, Any]:
    """Uses the cluster without its token, or with another one."""
    api = f"http://127.0.0.1:{DASHBOARD}/api/jobs/"
    join = partial(cluster.run, python=JOINED)
    address = f"127.0.0.1:{GCS_PORT}"
    return {
        "jobs": [status(api, shown) for shown in (None, "x" * 32, token)],
        "client": [
            ask("127.0.0.1", CLIENT_PORT, CLIENT, shown) for shown in (None, "x" * 32, token)
        ],
        "no token": join("join, no token", RAY_ADDRESS=address, HOME="/"),
        "wrong token": join("join, wrong token", RAY_ADDRESS=address, RAY_AUTH_TOKEN="x" * 32),
        "no mode": join("join, no mode", RAY_ADDRESS=address, RAY_AUTH_MODE=""),
        "dead": join("join, dead address", RAY_ADDRESS="127.0.0.1:7000"),
        "alive": join("join", RAY_ADDRESS=address),
    }


def review(cluster: Loopback, token: str) -> dict[str, Any]:
    """Looks at the dashboard through `ray dashboard`'s tunnel."""
    command = [str(RAY), "dashboard", "--port", str(TUNNEL), "--no-config-cache", str(cluster.yaml)]
    with (cluster.folder / "tunnel.log").open("w") as log:
        tunnel = subprocess.Popen(
            command, env=cluster.environment, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + 30
    while not listens("127.0.0.1", TUNNEL) and time.monotonic() < deadline:
        time.sleep(0.2)
    url = f"http://127.0.0.1:{TUNNEL}/api/jobs/"
    seen = [status(url, None), status(url, token)]
    # Ctrl-C goes to `ray dashboard` and to its ssh alike.
    os.killpg(tunnel.pid, signal.SIGINT)
    tunnel.wait(10)
    return {"tunnel": seen}


def main(folder: Path) -> None:
    """Brings the cluster up, uses it as its owner and as a stranger would, and takes it down."""
    cluster = Loopback(folder)
    cluster.home.mkdir()
    isolate(folder, cluster.home)
    key = serve_ssh(folder, cluster.home)
    cluster.yaml.write_text(yaml.safe_dump(adapted(key, cluster.home)))
    write(cluster.home / "data" / "tiny")
    cluster.run("ray get-auth-token", "get-auth-token", "--generate")
    (cluster.home / ".ray" / "auth_token").chmod(0o600)
    token = (cluster.home / ".ray" / "auth_token").read_text().strip()
    on = ("--no-config-cache", str(cluster.yaml))
    cluster.run("ray up", "up", "--yes", *on)
    dashboard = f"http://127.0.0.1:{DASHBOARD}"
    seen: dict[str, Any] = {"listeners": listeners(), **strangers(cluster, token)}
    seen |= review(cluster, token)
    seen["doctor"] = cluster.run("doctor", module=f"usseg_ray.doctor --dashboard {dashboard}")
    submit = ("job", "submit", "--address", dashboard, "--", *SWEEP.split())
    out = cluster.home / "runs" / "first"
    seen["sweep"] = cluster.run("ray job submit", *submit, "--data", "tiny", "--out", str(out))
    seen["final"] = json.loads((out / "final.json").read_text("utf-8"))
    script = folder / "attached.py"
    script.write_text(ATTACHED)
    seen["attached"] = cluster.run("ray submit", "submit", *on, str(script))
    seen["exec"] = cluster.run("ray exec", "exec", *on, "cat ~/runs/first/final.json; ray status")
    cluster.run("plant another Ray", python=OTHER_RAY)
    seen["other"] = cluster.run(
        "join, two Rays", python=JOINED, RAY_ADDRESS=f"127.0.0.1:{GCS_PORT}"
    )
    cluster.run("ray down", "down", "--yes", str(cluster.yaml))
    deadline = time.monotonic() + 15
    while (left := processes()) and time.monotonic() < deadline:
        time.sleep(0.5)
    seen |= {"left": left, "seconds": cluster.seconds}
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
