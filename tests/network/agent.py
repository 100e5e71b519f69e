"""A guest without QEMU, for tests of networks: a Linux network stack in a namespace of its own, behind a wire.

It holds one end of a machine's link (a tap, or a pair of datagram sockets), carries frames between it and a tap
of its own, and does what the test asks on its standard input, one JSON object a line:

    unshare --net python agent.py --tap FD | --local PATH --remote PATH | --none
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from typing import Any

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class Agent:
    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.head = b"\0" * 10 if given.tap >= 0 else b""
        self.wire: Any = None
        self.card = -1
        self.sniffed: list[bytes] | None = None
        self.servers: list[asyncio.Server] = []
        self.streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self.arrived: dict[int, list[bytes]] = {}

    # -- the wire ---------------------------------------------------------------------------

    def plug(self) -> None:
        sh("ip", "link", "set", "lo", "up")
        if self.given.none:
            return
        self.card = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if self.head else 0)
        fcntl.ioctl(self.card, TUNSETIFF, struct.pack("16sH22x", b"eth0", flags))
        loop = asyncio.get_running_loop()
        loop.add_reader(self.card, self.out)
        if self.given.tap >= 0:
            os.set_blocking(self.given.tap, False)
            loop.add_reader(self.given.tap, self.into)
        else:
            self.wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.given.local)
            self.wire.bind(self.given.local)
            loop.add_reader(self.wire, self.into)

    def out(self) -> None:
        for _ in range(64):
            try:
                self.send(os.read(self.card, 70_000))
            except BlockingIOError:
                return

    def send(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):
            if self.wire is None:
                os.write(self.given.tap, frame)
            else:
                self.wire.sendto(frame, self.given.remote)

    def into(self) -> None:
        for _ in range(64):
            try:
                frame = os.read(self.given.tap, 70_000) if self.wire is None else self.wire.recv(70_000)
            except BlockingIOError:
                return
            if self.sniffed is not None:
                self.sniffed.append(frame[len(self.head) :])
            with contextlib.suppress(OSError):
                os.write(self.card, frame)

    # -- what a test may ask ----------------------------------------------------------------

    async def setup(self, mac: str, ipv4: str = "", gateway: str = "", ipv6: str = "", mtu: int = 1450) -> None:
        """As the seed tells a guest: address of the subnet, and everything else by the gateway."""
        sh("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0", "net.ipv6.conf.eth0.accept_ra=0")
        sh("ip", "link", "set", "eth0", "address", mac, "mtu", str(mtu), "up")
        if ipv4:
            sh("ip", "addr", "add", ipv4, "dev", "eth0")
            sh("ip", "route", "add", "default", "via", gateway)
        if ipv6:
            sh("ip", "addr", "add", f"{ipv6}/128", "dev", "eth0", "nodad")
            sh("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")

    async def run(self, *command: str, given: str = "", limit: float = 20.0) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": PATH},
        )
        try:
            async with asyncio.timeout(limit):
                said, _ = await process.communicate(given.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            return {"status": -1, "said": "timeout"}
        return {"status": process.returncode, "said": said.decode(errors="replace")}

    async def listen(self, port: int) -> None:
        """A server that says `hello`, keeps what it is told, and echoes it."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                writer.write(b"hello\n")
                while piece := await reader.read(1 << 16):
                    self.arrived.setdefault(port, []).append(piece)
                    if len(piece) < 1024:
                        writer.write(piece)
                    await writer.drain()
                writer.close()

        self.servers.append(await asyncio.start_server(serve, None, port))

    async def arrived_bytes(self, port: int) -> int:
        return sum(map(len, self.arrived.get(port, [])))

    async def connect(self, to: str, port: int, limit: float = 1.0, source_port: int = 0) -> str:
        """ "hello" when a server answers; else why not. The connection is closed again."""
        handle = await self.open(to, port, limit, source_port)
        if isinstance(handle, str):
            return handle
        await self.close(handle)
        return "hello"

    async def open(self, to: str, port: int, limit: float = 1.0, source_port: int = 0) -> int | str:
        """A connection that stays open, by a number."""
        try:
            async with asyncio.timeout(limit):
                local = (("::" if ":" in to else "0.0.0.0"), source_port) if source_port else None
                reader, writer = await asyncio.open_connection(to, port, local_addr=local)
                said = await reader.readline()
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return os.strerror(error.errno) if error.errno else str(error)
        if said != b"hello\n":
            writer.close()
            return f"cut ({said!r})"
        handle = len(self.streams)
        self.streams[handle] = reader, writer
        return handle

    async def talk(self, handle: int, limit: float = 1.0) -> bool:
        """Does an open connection still carry a word there and back?"""
        reader, writer = self.streams[handle]
        word = f"word {time.monotonic()}\n".encode()
        try:
            async with asyncio.timeout(limit):
                writer.write(word)
                await writer.drain()
                return (await reader.readline()) == word
        except (TimeoutError, OSError):
            return False

    async def pour(self, handle: int, size: int, limit: float = 30.0) -> float:
        """Send so many bytes; the seconds that it took until all was taken."""
        _, writer = self.streams[handle]
        began = time.monotonic()
        async with asyncio.timeout(limit):
            for _ in range(size // 65_536):
                writer.write(b"x" * 65_536)
                await writer.drain()
        return time.monotonic() - began

    async def close(self, handle: int) -> None:
        _, writer = self.streams.pop(handle)
        writer.close()

    async def datagrams(self, port: int) -> None:
        """From now on datagrams to `port` are kept, and answered with `pong`."""
        agent = self

        class Protocol(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, address: Any) -> None:
                agent.arrived.setdefault(port, []).append(data)
                self.transport.sendto(b"pong", address)

        for address in ("::",):  # both families
            await asyncio.get_running_loop().create_datagram_endpoint(Protocol, local_addr=(address, port))

    async def datagram(self, to: str, port: int, limit: float = 1.0) -> bool:
        """Is a datagram answered?"""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
            try:
                async with asyncio.timeout(limit):
                    await loop.sock_connect(out, (to, port))
                    await loop.sock_sendall(out, b"ping")
                    return await loop.sock_recv(out, 100) == b"pong"
            except (TimeoutError, OSError):
                return False

    async def ping(self, to: str, limit: float = 1.0, number: int = 0) -> bool:
        """Is an echo answered?"""
        v6, number = ":" in to, number or os.getpid() & 0xFFFF
        body = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, number, 1) + b"hansa" * 4
        if not v6:
            total = sum(struct.unpack(f"!{len(body) // 2}H", body))
            total = (total & 0xFFFF) + (total >> 16)
            body = body[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + body[4:]
        family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
        loop = asyncio.get_running_loop()
        with socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol) as out:
            try:
                async with asyncio.timeout(limit):
                    out.connect((to, 0))
                    await loop.sock_sendall(out, body)
                    while True:
                        answer = await loop.sock_recv(out, 2000)
                        answer = answer if v6 else answer[(answer[0] & 15) * 4 :]
                        if answer[0] == (129 if v6 else 0) and answer[4:6] == struct.pack("!H", number):
                            return True
            except (TimeoutError, OSError):
                return False

    async def frame(self, hexed: str, times: int = 1) -> None:
        """Send a frame of the test's own making."""
        for _ in range(times):
            self.send(self.head + bytes.fromhex(hexed))

    async def sniff(self, seconds: float) -> list[str]:
        """Every frame that arrives in the next seconds."""
        self.sniffed = []
        await asyncio.sleep(seconds)
        taken, self.sniffed = self.sniffed, None
        return [frame.hex() for frame in taken]


def sh(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": PATH})
    if done.returncode:
        raise OSError(0, f"{' '.join(command)}: {done.stderr}")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tap", type=int, default=-1)
    parser.add_argument("--local", default="")
    parser.add_argument("--remote", default="")
    parser.add_argument("--none", action="store_true")
    agent = Agent(parser.parse_args())
    agent.plug()
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    turns: set[asyncio.Task[None]] = set()

    async def turn(asked: dict[str, Any]) -> None:
        try:
            answer = await getattr(agent, asked["do"])(*asked["with"], **asked["also"])
            print(json.dumps({"id": asked["id"], "answer": answer}), flush=True)
        except Exception as error:
            print(json.dumps({"id": asked["id"], "error": repr(error)}), flush=True)

    while line := await reader.readline():
        task = asyncio.create_task(turn(json.loads(line)))
        turns.add(task)
        task.add_done_callback(turns.discard)


if __name__ == "__main__":
    asyncio.run(main())
