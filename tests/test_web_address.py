"""Where the live page is served: addresses, ports, tokens, and what is refused before it starts."""

from __future__ import annotations

import http.client
import socket

import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")
pytest.importorskip("uvicorn", reason="the extra web is not installed")

from web_session import StandInBoard

from edgeseg.errors import MissingDependencyError, OutputError, UsageError
from edgeseg.web import TOKEN_VARIABLE, LivePage, read_token
from edgeseg.web.address import Names, host_of, parse_address
from edgeseg.web.rates import Bucket, Rates
from edgeseg.web.token import Key

TOKEN = "0123456789abcdef0123"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
        ("[::1]:80", "::1", 80),
    ],
)
def test_addresses(text, host, port):
    address = parse_address(text)
    assert (address.host, address.port) == (host, port)
    assert address.is_loopback == (host in ("127.0.0.1", "::1"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            ":80",
            "host:",
            "80:80:80",
            "::1:80",
            "[127.0.0.1]:80",
            "[::1]80",
            "-1",
            "65536",
        ),
        *(
            "80.5",
            "\u0668\u0660",
            "a b:80",
            "http://127.0.0.1:80",
            "[::g]:80",
            "a..b:80",
            "x" * 300 + ":8",
        ),
    ],
)
def test_malformed_addresses_are_one_clear_line(text):
    with pytest.raises(UsageError, match=r"write PORT, HOST:PORT") as caught:
        LivePage(text, StandInBoard(), token=None)
    assert "\n" not in str(caught.value)


def test_the_port_in_use_is_said_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"port {port} of 127.0.0.1 is in use"):
            LivePage(str(port), StandInBoard(), token=None)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(OutputError, match=r"cannot serve on port \d+ of 192\.0\.2\.1"):
        LivePage("192.0.2.1:45671", StandInBoard(), token=TOKEN)


def test_beyond_loopback_a_token_is_needed():
    with pytest.raises(UsageError, match=f"set {TOKEN_VARIABLE} or pass --token-file FILE"):
        LivePage("0.0.0.0:0", StandInBoard(), token=None)


@pytest.mark.parametrize("token", ["", "short", "with space in the middle", "x" * 257, "ü" * 20])
def test_unfit_tokens_are_refused_without_being_quoted(token):
    with pytest.raises(UsageError) as caught:
        LivePage("0", StandInBoard(), token=token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"quality": 0}, {"quality": 101}, {"max_width_px": 3}])
def test_settings_out_of_range(wrong):
    with pytest.raises(UsageError):
        LivePage("0", StandInBoard(), token=None, **wrong)


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeseg\[web\]'"):
        LivePage("0", StandInBoard(), token=None)


def test_ipv6_is_served():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 on the loopback interface")
    with LivePage("[::1]:0", StandInBoard(), token=None) as page:
        assert page.url == f"http://[::1]:{page.port}/"
        connection = http.client.HTTPConnection("::1", page.port, timeout=30)
        connection.request("GET", "/api/controls")
        assert connection.getresponse().status == 200
        connection.close()


def test_a_page_can_be_closed_twice_and_served_again_on_its_port():
    page = LivePage("0", StandInBoard(), token=None)
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    connection.request("GET", "/")
    assert connection.getresponse().read().startswith(b"<!doctype html>")
    page.close()
    page.close()
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", page.port), timeout=5)
    with LivePage(str(page.port), StandInBoard(), token=None) as again:
        assert again.port == page.port


def test_the_token_is_read_from_the_file_or_the_environment(tmp_path, caplog):
    file = tmp_path / "token"
    file.write_text(f" {TOKEN}\n")
    file.chmod(0o600)
    assert read_token(file, {TOKEN_VARIABLE: "other"}) == TOKEN
    assert not caplog.records
    file.chmod(0o644)
    assert read_token(file) == TOKEN
    assert "chmod 600" in caplog.text
    assert TOKEN not in caplog.text
    assert read_token(None, {TOKEN_VARIABLE: f"{TOKEN} "}) == TOKEN
    assert read_token(None, {TOKEN_VARIABLE: " "}) is None
    assert read_token(None, {}) is None
    file.write_text("\n")
    with pytest.raises(UsageError, match="is empty"):
        read_token(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no text"):
        read_token(file)
    with pytest.raises(UsageError, match="No such file"):
        read_token(tmp_path / "none")


def test_a_key_takes_its_token_and_its_cookie_alone():
    key, other = Key(TOKEN), Key(TOKEN + "x")
    assert key.is_token(TOKEN)
    assert not any(
        key.is_token(one) for one in ("", TOKEN[:-1], TOKEN + "x", key.cookie_value, "ü")
    )
    assert key.is_cookie(key.cookie_value)
    assert not any(key.is_cookie(one) for one in ("", TOKEN, other.cookie_value, "ü"))
    assert TOKEN not in key.cookie_value + repr(key)


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("Localhost:8080", "localhost"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("", None),
        ("a b", None),
        ("host:port", None),
        ("user@host", None),
        ("::1", None),
    ],
)
def test_the_host_in_a_header(header, host):
    assert host_of(header) == host


def test_names_of_a_page():
    here = Names(parse_address("127.0.0.1:80"), ["Proxy.Example."])
    for name in ("localhost", "localhost.", "127.0.0.1", "127.9.9.9", "::1", "proxy.example"):
        assert name in here, name
    for name in ("evil.example", "192.0.2.1", "localhost.evil.example", "", None, "0.0.0.0"):
        assert name not in here, name
    everywhere = Names(parse_address("0.0.0.0:80"))
    for name in ("192.0.2.1", "2001:db8::1", socket.gethostname().lower(), "localhost"):
        assert name in everywhere, name
    assert "evil.example" not in everywhere


def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    now = [0.0]
    bucket = Bucket(2.0, 3.0, clock=lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [bucket.take(), bucket.take()] == [True, False]
    now[0] = 100.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_rates_know_clients_apart_and_forget_the_oldest():
    now = [0.0]
    rates = Rates(1.0, 1.0, clients=2, clock=lambda: now[0])
    assert rates.take("192.0.2.1")
    assert not rates.take("192.0.2.1")
    assert rates.take("192.0.2.2")
    # All addresses of an IPv6 network are one client.
    assert rates.take("2001:db8::1")
    assert not rates.take("2001:db8::ffff")
    assert rates.take("192.0.2.1"), "only two clients are remembered"
