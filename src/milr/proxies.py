"""Proxies that the environment names, checked before an HTTP client ends in a traceback over one."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.request import getproxies

from milr.errors import UsageError

_SOCKS = ("socks5", "socks5h")


def check_proxies() -> None:
    """Refuse a SOCKS proxy that cannot be used; HTTP clients look at all of them, whichever host they ask.

    Raises:
        UsageError: One of a form that no client knows, or the package for SOCKS is not installed.
    """
    for kind, address in getproxies().items():
        scheme = address.partition("://")[0].lower()
        if kind not in ("http", "https", "all") or not scheme.startswith("socks"):
            continue
        name = f"{kind.upper()}_PROXY"
        if scheme not in _SOCKS:
            raise UsageError(f"{name} names a proxy of the form {scheme}://, which is not known: write socks5:// there")
        if find_spec("socksio") is None:
            raise UsageError(
                f'{name} names a SOCKS proxy, which needs the package socksio: type pip install "milr[socks]", '
                f"or unset {name}"
            )
