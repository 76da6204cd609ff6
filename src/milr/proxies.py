"""Proxies named by the environment, checked before an HTTP client fails on one with a traceback."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.request import getproxies

from milr.errors import UsageError

_SOCKS = ("socks5", "socks5h")


def check_proxies() -> None:
    """Refuse a SOCKS proxy that cannot be used, because HTTP clients read all proxies for any host.

    Raises:
        UsageError: A proxy has an unknown form, or the package for SOCKS is not installed.
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
