"""What a cluster started here shows to others: loopback ports, a private token, no statistics."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

SCRIPT = """
import json, stat, psutil
from pathlib import Path
from usseg_ray.cluster.join import local_ray
with local_ray():
    import ray
    from ray._common.usage.usage_lib import usage_stats_enabled
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [c.laddr.ip for p in processes for c in p.net_connections() if c.status == "LISTEN"]
    token = Path.home() / ".ray" / "auth_token"
    print(json.dumps({
        "addresses": sorted(set(found)),
        "statistics": usage_stats_enabled(),
        "token_mode": oct(stat.S_IMODE(token.stat().st_mode)),
    }))
"""

GROWING = """
import io, threading
import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from usseg_ray.cluster.capacity import await_machines
from usseg_ray.core.errors import UserError
small = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=small | {"num_cpus": 0})
ray.init(address=cluster.address, log_to_driver=False)
said = Console(file=io.StringIO(), width=200)
asked = [{"CPU": 0.5}, {"CPU": 0.5}]
try:
    await_machines(asked, said, timeout_s=1)
except UserError as error:
    print("REFUSED", error)
waiting = threading.Thread(target=await_machines, args=(asked, said, 60), daemon=True)
waiting.start()
waiting.join(1)
print("WAITS", waiting.is_alive())
cluster.add_node(num_cpus=1, **small)
waiting.join(60)
print("CAME", not waiting.is_alive())
ray.shutdown()
cluster.shutdown()
print("SAID", said.file.getvalue())
"""


def test_a_cluster_without_a_machine_yet_is_waited_for(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", GROWING],
        env=environment | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "REFUSED No machine with 1 CPUs came within 1 s." in done.stdout
    assert "WAITS True" in done.stdout
    assert "CAME True" in done.stdout
    assert done.stdout.count("Waiting for machines with 1 CPUs") == 2


def test_a_local_cluster_is_private(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["addresses"]
    assert all(a in {"127.0.0.1", "::ffff:127.0.0.1", "::1"} for a in seen["addresses"])
    assert seen["statistics"] is False
    assert seen["token_mode"] == "0o600"
