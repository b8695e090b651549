"""`ray up cluster/local.yaml`, launched over ssh on two hosts of this machine, one of which is lost on the way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from syncclip.recipe import Recipe
from tests.cluster.configs import Config, read
from tests.conftest import TinyWorld
from tests.worlds.synthetic import draw_here

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
PROGRAMS = ("sshd", "ssh", "rsync", "ip", "unshare")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.fault,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        os.geteuid() != 0
        or any(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None for name in PROGRAMS),
        reason=f"left out: hosts of this machine need root and {', '.join(PROGRAMS)}",
    ),
]


def for_hosts(folder: Path) -> Config:
    """`cluster/local.yaml` with the hosts' addresses and key; what it installs is on their PATH already."""
    config = read("local")
    config["provider"] |= {"head_ip": "10.77.0.11", "worker_ips": ["10.77.0.12"]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(folder / "key")}
    config |= {"min_workers": 1, "max_workers": 1, "setup_commands": [], "file_mounts": {"~/syncclip": str(PROJECT)}}
    for part in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[part] = [
            f"{line} --num-cpus=1".replace("1000000000", "200000000") if "ray start" in line else line
            for line in config[part]
        ]
    return config


def test_a_rack_draws_the_same_bytes_though_a_machine_is_lost(tiny: TinyWorld, tmp_path: Path) -> None:
    root = tmp_path / "hosts"
    root.mkdir()
    config = root / "local.yaml"
    config.write_text(yaml.safe_dump(for_hosts(root)))
    overrides = ["synthesis.images_per_class=60", "synthesis.generator.steps=10", "synthesis.actors=2"]
    recipe = root / "tiny.yaml"
    recipe.write_text(Recipe.load(tiny.recipe, overrides).to_yaml())
    near, far = tmp_path / "near", tmp_path / "far"
    draw_here(Recipe.load(str(recipe)), str(near))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    bare = "RAY_USAGE_STATS_ENABLED=0 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1"
    environment |= {"HOSTS_ROOT": str(root), "HOSTS_BIN": str(Path(sys.executable).parent), "HOSTS_ENV": bare}

    done = subprocess.run(
        ["bash", str(HERE / "hosts.sh"), "2", "bash", str(HERE / "laptop.sh"), str(config), str(recipe), str(far)],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=1000,
    )
    print(done.stdout)

    logs = "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(root.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    names = sorted(path.name for path in near.glob("*.tar"))
    assert len(names) > 10
    assert {name: (far / name).read_bytes() == (near / name).read_bytes() for name in names} == dict.fromkeys(
        names, True
    )
    (lost,) = re.findall(r"host2 is lost, with (\d+) shards", done.stdout)
    assert int(lost) < len(names), "it was lost after the work"
    assert "0 processes of Ray are left" in done.stdout
