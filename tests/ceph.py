"""A Ceph of the tests' own, from Debian's packages: monitor, manager, one disk in a sparse file, and its S3 gateway.

It keeps one copy in a folder under /tmp and listens on loopback. Present-day clients can abort this gateway: it is
started again whenever it ends, and whoever speaks to it must bear that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path

START_S = 120.0
PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool", "ceph")
ACCESS_KEY, SECRET_KEY, BUCKET = "HANSATESTS", "of-no-worth-anywhere", "hansa-tests"
USERS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow rw"},
}


def installed() -> bool:
    return all(shutil.which(program) for program in PROGRAMS)


class Ceph:
    """Serves S3 at `url` when the constructor returns."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hansa-ceph-", dir="/tmp"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()
        self._keeper: threading.Thread | None = None
        self._ports = _free_ports(3)
        self.url = f"http://127.0.0.1:{self._ports[2]}"
        self._end = time.monotonic() + START_S
        try:
            self._start()
        except BaseException:
            self.remove()
            raise

    def _start(self) -> None:
        (self._folder / "ceph.conf").write_text(self._configuration())
        self._run("ceph-authtool", "--create-keyring", "keyring")
        for user, caps in USERS.items():
            words = [word for service, cap in caps.items() for word in ("--cap", service, cap)]
            self._run("ceph-authtool", "keyring", "--gen-key", "-n", user, *words)
        address = f"[v2:127.0.0.1:{self._ports[0]},v1:127.0.0.1:{self._ports[1]}]"
        self._run("monmaptool", "--create", "--addv", "a", address, "--fsid", self._fsid, "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring")
        shutil.copy(self._folder / "keyring", self._folder / "mon" / "keyring")
        self._begin("ceph-mon", "-i", "a")
        disk = str(uuid.uuid4())
        self._run("ceph", "--connect-timeout", "60", "osd", "new", disk, "0")
        (self._folder / "osd").mkdir()
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", disk)
        self._begin("ceph-mgr", "-i", "x")
        self._begin("ceph-osd", "-i", "0")
        self._keeper = threading.Thread(target=self._keep_gateway, daemon=True)
        self._keeper.start()
        self._run(
            "radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "hansa", "--display-name", "hansa",
            "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY,
        )  # fmt: skip
        self._wait()

    def _configuration(self) -> str:
        self._fsid = str(uuid.uuid4())
        settings = {
            "fsid": self._fsid, "mon_initial_members": "a",
            "mon_host": f"[v2:127.0.0.1:{self._ports[0]},v1:127.0.0.1:{self._ports[1]}]",
            "public_addr": "127.0.0.1", "cluster_addr": "127.0.0.1",
            "osd_pool_default_size": "1", "osd_pool_default_min_size": "1", "osd_pool_default_pg_num": "4",
            "osd_pool_default_pgp_num": "4", "osd_pool_default_pg_autoscale_mode": "off",
            "osd_crush_chooseleaf_type": "0", "mon_allow_pool_size_one": "true", "mon_max_pg_per_osd": "1000",
            "mon_data_avail_crit": "1", "mgr_initial_modules": "",
            "run_dir": str(self._folder), "log_file": f"{self._folder}/$name.log",
            "admin_socket": f"{self._folder}/$name.asok", "keyring": f"{self._folder}/keyring",
            "mon_data": f"{self._folder}/mon", "mgr_data": f"{self._folder}/mgr", "osd_data": f"{self._folder}/osd",
            "crash_dir": f"{self._folder}/crash",
            "bluestore_block_size": str(20 << 30), "bluestore_block_create": "true",
            "osd_memory_target": str(1 << 30), "bluestore_cache_autotune": "false", "bluestore_cache_size": str(64 << 20),
            "rgw_data": f"{self._folder}/rgw", "rgw_frontends": f"beast endpoint=127.0.0.1:{self._ports[2]} tcp_nodelay=1",
        }  # fmt: skip
        return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())

    def _command(self, program: str, *words: str) -> list[str]:
        return ["setpriv", "--pdeathsig", "KILL", "--", program, "-c", str(self._folder / "ceph.conf"), *words]

    def _run(self, program: str, *words: str) -> None:
        command = [program, *words] if program in {"ceph-authtool", "monmaptool"} else self._command(program, *words)
        left = max(1.0, self._end - time.monotonic())
        done = subprocess.run(command, cwd=self._folder, capture_output=True, timeout=left, check=False)
        assert done.returncode == 0, f"{program}: {done.stderr.decode()[-2000:]}"

    def _begin(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / "out").open("ab") as out:
            process = subprocess.Popen(self._command(program, "-f", *words), cwd=self._folder, stdout=out, stderr=out)
        self._processes.append(process)
        return process

    def _keep_gateway(self) -> None:
        while not self._ended.is_set():
            gateway = self.gateway = self._begin("radosgw", "-n", "client.rgw")
            while gateway.poll() is None and not self._ended.wait(0.1):
                pass
            self._ended.wait(0.5)

    def _wait(self) -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._ports[2]), 1):
                return
            assert time.monotonic() < self._end, (self._folder / "out").read_text()[-2000:]
            time.sleep(0.1)

    def pids(self) -> tuple[int, ...]:
        """Of those of its programs that run."""
        return tuple(process.pid for process in self._processes if process.poll() is None)

    def remove(self) -> None:
        self._ended.set()
        if self._keeper is not None:
            self._keeper.join(10)
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(10)
        shutil.rmtree(self._folder)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    began = time.monotonic()
    ceph = Ceph()
    print(f"{ceph.url} after {time.monotonic() - began:.1f} s", flush=True)
    try:
        os.read(0, 1)
    finally:
        ceph.remove()
