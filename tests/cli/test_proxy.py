import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from prunella.cli.proxy import is_public, run_filtering_proxy

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "2002:808:808::1", "64:ff9b::8.8.8.8"]
INNER = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1",
    "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::1", "64:ff9b::10.0.0.1",
    "64:ff9b:1::1", "2001:0:a00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize("address", INNER)
def test_addresses_of_this_machine_and_of_inner_networks(address):
    assert not is_public(address)


class Server(ThreadingHTTPServer):
    """Answers "/hello" and so on, and notes what it was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.at = [], f"127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Connection"), self.headers.get("Proxy-Connection")))
        kind, _, rest = self.path[1:].partition("?")[0].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        if kind == "hello":
            self.send_header("Content-Length", "5")
        self.end_headers()
        if kind == "hello":
            self.wfile.write(b"hello")
        while kind in ("endless", "trickle"):
            try:
                self.wfile.write(b"x" * (1 if kind == "trickle" else 10_000))
                time.sleep(0.05 if kind == "trickle" else 0)
            except OSError:
                return

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@contextmanager
def through(**options):
    """A function that fetches a URL through the proxy, as img2dataset does."""
    with run_filtering_proxy(**options) as address:
        handler = urllib.request.ProxyHandler(dict.fromkeys(("http", "https", "ftp"), address))
        yield lambda url: _fetched(urllib.request.build_opener(handler), url)


def _fetched(opener, url: str):
    try:
        with opener.open(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.reason


def everywhere(address: str) -> bool:
    return True


def test_what_is_public_comes_as_it_is(server):
    with through(is_allowed=everywhere) as fetch:
        assert fetch(f"http://{server.at}/hello?a=b%20c") == (200, b"hello")
        assert fetch(f"http://{server.at}/to/http://{server.at}/hello") == (200, b"hello")
    assert server.asked[0] == ("/hello?a=b%20c", "close", None)


def test_nothing_inner_is_fetched(server):
    port = server.server_address[1]
    hosts = ["127.0.0.1", "localhost", "user@127.0.0.1", "2130706433", "127.1", "0x7f.0.0.1", "0.0.0.0", "[::1]"]
    with through() as fetch:
        for host in [*hosts, "[::ffff:127.0.0.1]"]:
            assert fetch(f"http://{host}:{port}/hello") == (403, "Address not public"), host
    assert server.asked == []


def test_no_redirect_leads_inside(server):
    port = server.server_address[1]
    with through(is_allowed=lambda address: address == "127.0.0.1") as fetch:
        for place in (f"http://127.0.0.2:{port}/hello", "http://169.254.169.254/latest"):
            assert fetch(f"http://{server.at}/to/{place}") == (403, "Address not public")
        assert fetch(f"http://{server.at}/to/ftp://127.0.0.1/hello") == (403, "Neither http nor https")
        assert fetch(f"http://{server.at}/to/file:///etc/passwd")[0] == 302  # urllib itself does not follow it
    assert len(server.asked) == 4


def test_a_name_with_one_inner_address_is_refused(server, monkeypatch):
    port = server.server_address[1]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in ("8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with run_filtering_proxy() as address:
        monkeypatch.undo()
        with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as asking:
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            asking.sendall(b"CONNECT rebinding.example:443 HTTP/1.1\r\n\r\n")
            assert asking.recv(100).startswith(b"HTTP/1.1 403 Address not public")
    assert server.asked == []


def test_a_tunnel_leads_to_a_checked_address(server):
    for allowed, expected in ((everywhere, [b"200", b"hello"]), (is_public, [b"403"])):
        with run_filtering_proxy(allowed) as address:
            place = urlsplit(address)
            with socket.create_connection((place.hostname, place.port)) as asking, asking.makefile("rb") as answer:
                asking.sendall(f"CONNECT {server.at} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                got = [answer.readline().split()[1]]
                if got == [b"200"]:
                    answer.readline()
                    asking.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    got.append(answer.read()[-5:])
                assert got == expected
    assert len(server.asked) == 1


def test_bodies_are_limited(server):
    with through(is_allowed=everywhere, max_bytes=70_000) as fetch:
        status, body = fetch(f"http://{server.at}/endless")
    assert status == 200 and 69_000 < len(body) <= 70_000


def test_connections_are_limited_in_time(server):
    began = time.monotonic()
    with through(is_allowed=everywhere, max_seconds=0.4) as fetch:
        assert len(fetch(f"http://{server.at}/trickle")[1]) < 100
    assert time.monotonic() - began < 5


ODD = [b"nonsense", b"POST http://x/ HTTP/1.1", b"GET /x HTTP/1.1", b"GET ftp://x/ HTTP/1.1", b"CONNECT a:b HTTP/1.1"]


@pytest.mark.parametrize("head", [*ODD, b"x" * 70_000])
def test_other_requests_are_refused_and_the_proxy_lives_on(server, head):
    with run_filtering_proxy(everywhere) as address:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=10) as asking:
            asking.sendall(head + b"\r\n\r\n")
            with suppress(ConnectionResetError):
                assert asking.recv(100)[:12] in (b"HTTP/1.1 403", b"")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": address}))
        assert _fetched(opener, f"http://{server.at}/hello") == (200, b"hello")


def test_servers_that_cannot_be_reached():
    with socket.socket() as taken, through(is_allowed=everywhere) as fetch:
        taken.bind(("127.0.0.1", 0))
        assert fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/") == (502, "No connection")
        assert fetch(f"http://{'a' * 64}.invalid/") == (502, "Name not found")
