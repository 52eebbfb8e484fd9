"""A proxy that reaches public addresses only, for programs that follow strangers' URLs.

A name is resolved once, all its addresses are checked, and the connection goes to a checked address. So neither a name
that resolves to another address the second time nor a redirect leads into the inner network.
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

MOST_BYTES = 64 << 20  # of an answer: pictures on the web are smaller, and img2dataset holds one a thread in memory
MOST_SECONDS = 300  # for a connection: img2dataset's own time-out is for each piece, so a trickle would never end
MOST_HEAD = 1 << 16  # bytes of a request's head
PIECE = 1 << 16  # bytes passed on at a time
RESOLVERS = 64  # names resolved at the same time
TRANSLATED = ip_network("64:ff9b::/96")  # IPv4 within IPv6 (RFC 6052)
NOT_PASSED = ("connection", "keep-alive", "proxy-authorization", "proxy-connection")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where it wraps an IPv4 address."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        inner += [IPv4Address(int(found) & 0xFFFFFFFF)] if found in TRANSLATED else []
        if found.is_site_local or not all(is_public(str(each)) for each in inner if each is not None):
            return False
        if found.ipv4_mapped is not None or found.sixtofour is not None or found in TRANSLATED:
            return True  # as that address is; Pythons differ in what they call the wrapping
    return found.is_global and not found.is_multicast and not found.is_reserved


@contextmanager
def filtering_proxy(
    allowed: Callable[[str], bool] = is_public, most_bytes: int = MOST_BYTES, most_seconds: float = MOST_SECONDS
) -> Iterator[str]:
    """The URL of a proxy on this machine that runs while the block does; `allowed` judges each IP address."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection takes two handles
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolver"))
    thread = Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()
    proxy = _Proxy(allowed, most_bytes, most_seconds)
    try:
        port = asyncio.run_coroutine_threadsafe(proxy.start(), loop).result()
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Refused(Exception):
    """The answer's status: a code and a few words."""


class _Proxy:
    def __init__(self, allowed: Callable[[str], bool], most_bytes: int, most_seconds: float):
        self.allowed, self.most_bytes, self.most_seconds = allowed, most_bytes, most_seconds
        self.server: asyncio.Server | None = None
        self.serving: set[asyncio.Task] = set()

    async def start(self) -> int:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MOST_HEAD, backlog=4096)
        return self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self.server:
            self.server.close()
        for task in self.serving:
            task.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self.serving.add(task)
            task.add_done_callback(self.serving.discard)
        # OSError: either side is gone; ValueError: no HTTP; the others: a head that is cut off or too long.
        unreadable = (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        with suppress(*unreadable):
            async with _closing(answer), asyncio.timeout(self.most_seconds):
                try:
                    await self._answer(client, answer)
                except _Refused as refused:
                    answer.write(f"HTTP/1.1 {refused}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                    await answer.drain()

    async def _answer(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        head = (await client.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *fields = head[:-4].split("\r\n")
        method, target, _ = request.split(" ")
        tunnel = method == "CONNECT"
        url = urlsplit(f"//{target}" if tunnel else target)
        if not tunnel and (method not in ("GET", "HEAD") or url.scheme != "http"):
            raise _Refused("403 Neither http nor https")
        server, asked = await self._connected(url, 443 if tunnel else 80)
        async with _closing(asked):
            if not tunnel:
                asked.write(_request(method, url, fields))
                await _passed(server, answer, self.most_bytes)
                return
            answer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ways = (_passed(client, asked, self.most_bytes), _passed(server, answer, self.most_bytes))
            tasks = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, url: SplitResult, usual: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first address of the URL's host that takes one. Raises _Refused."""
        host, port = url.hostname or "", url.port or usual
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _Refused("502 Name not found") from None
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        if not all(map(self.allowed, addresses)):
            raise _Refused("403 Address not public")
        for address in addresses:
            with suppress(OSError):
                return await asyncio.open_connection(address, port)
        raise _Refused("502 No connection")


def _request(method: str, url: SplitResult, fields: list[str]) -> bytes:
    """The request as the server expects it; it is asked to end the connection after its answer."""
    passed = [field for field in fields if field.partition(":")[0].strip().lower() not in NOT_PASSED]
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return "\r\n".join([f"{method} {path} HTTP/1.1", *passed, "Connection: close", "", ""]).encode("latin-1")


async def _passed(source: asyncio.StreamReader, to: asyncio.StreamWriter, most: int) -> None:
    """Pass on what comes until it ends or is more than `most` bytes."""
    while most > 0 and (data := await source.read(min(PIECE, most))):
        to.write(data)
        await to.drain()
        most -= len(data)


class _closing:
    """Closes a writer at the block's end."""

    def __init__(self, writer: asyncio.StreamWriter):
        self.writer = writer

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()
