"""A proxy that reaches public addresses only, for programs that follow strangers' URLs.

A name is resolved once, all its addresses are checked, and the connection goes to a checked address. Therefore neither
a name that resolves to another address the second time nor a redirect leads into the inner network.
"""

import asyncio
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import SOCK_STREAM
from threading import Thread
from urllib.parse import SplitResult, urlsplit

MAX_RESPONSE_BYTES = (
    64 << 20
)  # of an answer: pictures on the web are smaller, and img2dataset holds one a thread in memory
MAX_CONNECTION_SECONDS = (
    300  # for a connection: img2dataset's own time-out is for each piece, so a trickle would never end
)
MAX_HEAD_BYTES = 1 << 16  # bytes of a request's head
CHUNK_BYTES = 1 << 16  # bytes passed on at a time
NUM_RESOLVERS = 64  # names resolved at the same time
NAT64_NETWORK = ip_network("64:ff9b::/96")  # IPv4 within IPv6 (RFC 6052)
HOP_BY_HOP_HEADERS = ("connection", "keep-alive", "proxy-authorization", "proxy-connection")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where it wraps an IPv4 address."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        embedded = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        embedded += [IPv4Address(int(ip) & 0xFFFFFFFF)] if ip in NAT64_NETWORK else []
        if ip.is_site_local or not all(
            is_public(str(embedded_ip)) for embedded_ip in embedded if embedded_ip is not None
        ):
            return False
        if ip.ipv4_mapped is not None or ip.sixtofour is not None or ip in NAT64_NETWORK:
            return True  # as that address is; Pythons differ in what they call the wrapping
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


@contextmanager
def run_filtering_proxy(
    is_allowed: Callable[[str], bool] = is_public,
    max_bytes: int = MAX_RESPONSE_BYTES,
    max_seconds: float = MAX_CONNECTION_SECONDS,
) -> Iterator[str]:
    """The URL of a proxy on this machine that runs while the block does; `allowed` judges each IP address."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))  # each connection takes two handles
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(NUM_RESOLVERS, thread_name_prefix="resolver"))
    thread = Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()
    proxy = _FilteringProxy(is_allowed, max_bytes, max_seconds)
    try:
        port = asyncio.run_coroutine_threadsafe(proxy.start(), loop).result()
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _RequestRefused(Exception):
    """The answer's status: a code and a few words."""


class _FilteringProxy:
    def __init__(self, is_allowed: Callable[[str], bool], max_bytes: int, max_seconds: float):
        self.is_allowed, self.max_bytes, self.max_seconds = is_allowed, max_bytes, max_seconds
        self.server: asyncio.Server | None = None
        self.active_tasks: set[asyncio.Task] = set()

    async def start(self) -> int:
        self.server = await asyncio.start_server(self._serve_client, "127.0.0.1", 0, limit=MAX_HEAD_BYTES, backlog=4096)
        return self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self.server:
            self.server.close()
        for task in self.active_tasks:
            task.cancel()
        await asyncio.gather(*self.active_tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()

    async def _serve_client(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self.active_tasks.add(task)
            task.add_done_callback(self.active_tasks.discard)
        # OSError: either side is gone; ValueError: no HTTP; the others: a head that is cut off or too long.
        request_errors = (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        with suppress(*request_errors):
            async with _CloseWriter(client_writer), asyncio.timeout(self.max_seconds):
                try:
                    await self._handle_request(client_reader, client_writer)
                except _RequestRefused as refusal:
                    client_writer.write(
                        f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                    )
                    await client_writer.drain()

    async def _handle_request(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        head = (await client_reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *fields = head[:-4].split("\r\n")
        method, target, _ = request.split(" ")
        is_tunnel = method == "CONNECT"
        url = urlsplit(f"//{target}" if is_tunnel else target)
        if not is_tunnel and (method not in ("GET", "HEAD") or url.scheme != "http"):
            raise _RequestRefused("403 Neither http nor https")
        server_reader, server_writer = await self._connect_upstream(url, 443 if is_tunnel else 80)
        async with _CloseWriter(server_writer):
            if not is_tunnel:
                server_writer.write(_build_request(method, url, fields))
                await _forward_stream(server_reader, client_writer, self.max_bytes)
                return
            client_writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            transfers = (
                _forward_stream(client_reader, server_writer, self.max_bytes),
                _forward_stream(server_reader, client_writer, self.max_bytes),
            )
            tasks = [asyncio.ensure_future(transfer) for transfer in transfers]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect_upstream(
        self, url: SplitResult, default_port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first address of the URL's host that takes one. Raises _Refused."""
        host, port = url.hostname or "", url.port or default_port
        try:
            address_infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _RequestRefused("502 Name not found") from None
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in address_infos))
        if not all(map(self.is_allowed, addresses)):
            raise _RequestRefused("403 Address not public")
        for address in addresses:
            with suppress(OSError):
                return await asyncio.open_connection(address, port)
        raise _RequestRefused("502 No connection")


def _build_request(method: str, url: SplitResult, fields: list[str]) -> bytes:
    """The request as the server expects it; it is asked to end the connection after its answer."""
    forwarded_fields = [field for field in fields if field.partition(":")[0].strip().lower() not in HOP_BY_HOP_HEADERS]
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return "\r\n".join([f"{method} {path} HTTP/1.1", *forwarded_fields, "Connection: close", "", ""]).encode("latin-1")


async def _forward_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int) -> None:
    """Pass on what comes until it ends or is more than `most` bytes."""
    while max_bytes > 0 and (data := await reader.read(min(CHUNK_BYTES, max_bytes))):
        writer.write(data)
        await writer.drain()
        max_bytes -= len(data)


class _CloseWriter:
    """Closes a writer at the block's end."""

    def __init__(self, writer: asyncio.StreamWriter):
        self.writer = writer

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()
