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
from usseg_ray.cluster import local_ray
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
