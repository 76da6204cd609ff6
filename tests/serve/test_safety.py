"""Keys, limits, headers and logs: requests that a server refuses, and facts that it does not reveal."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.errors import UsageError
from milr.serve import envelope
from milr.serve.app import make_app
from milr.serve.config import Limits, ServeSettings
from milr.serve.keys import KeyRing, read_keys
from milr.serve.logs import JsonLines
from milr.serve.worker import Memory
from tests.serve.conftest import Held, OpenSite, Site, fake_offer

KEY, OTHER = "a-key-of-more-than-16-letters", "another-key-of-more-than-16-letters"


def test_a_key_gives_access_to_its_own_searches_only(serve: OpenSite) -> None:
    with serve(key=KEY) as site:
        search = site.search("an easy cat")
        link = site.http.get(f"/v1/searches/{search}").json()["events"]
        assert site.result(search)["state"] == "finished"
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            stranger = httpx2.Client(base_url=site.url, headers=headers, trust_env=False)
            for path in (link, "/v1/models", "/v1/schema", "/metrics", "/v1/searches"):
                response = stranger.get(path)
                assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
            assert stranger.get("/healthz").status_code == 200
            stranger.close()
        with pytest.raises(openai.AuthenticationError):
            site.openai.with_options(api_key="wrong").models.list()
        site.listener._server.keys = KeyRing([KEY, OTHER])  # pyright: ignore[reportPrivateUsage]
        with httpx2.Client(base_url=site.url, headers={"Authorization": f"Bearer {OTHER}"}, trust_env=False) as other:
            assert other.get("/v1/searches").json()["total"] == 0
            for path in (f"/v1/searches/{search}", link, f"/v1/searches/{search}/images/0/0/0/0"):
                assert other.get(path).json()["error"]["code"] == "search_not_found"
            assert other.delete(f"/v1/searches/{search}").status_code == 404


def test_keys_are_read_as_plain_text_or_hashes_and_stored_as_hashes(tmp_path: Path) -> None:
    import hashlib

    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}  # mine\n\nsha256:{hashlib.sha256(OTHER.encode()).hexdigest()}\n")
    ring = read_keys(file, "a-third-key-of-16-letters")
    assert all(ring.find(key) for key in (KEY, OTHER, "a-third-key-of-16-letters"))
    assert ring.find("") is None and ring.find(f"{KEY} ") is None
    assert KEY not in repr(vars(ring)) and OTHER not in repr(vars(ring))
    for wrong in ("short", "sha256:abc"):
        with pytest.raises(UsageError):
            KeyRing([wrong])
    with pytest.raises(UsageError, match="give a text file"):
        read_keys(tmp_path / "none", None)


def test_an_address_that_others_reach_needs_keys(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --keys FILE"):
        make_app([fake_offer()], ServeSettings(host="0.0.0.0", data=tmp_path))


def test_two_servers_never_share_a_folder(serve: OpenSite, tmp_path: Path) -> None:
    with serve(), pytest.raises(UsageError, match="another server works"), serve(data=tmp_path):
        pass


@pytest.mark.parametrize("asked", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}])
def test_requests_from_pages_of_other_sites_are_refused(site: Site, asked: dict[str, str]) -> None:
    response = site.http.post("/v1/searches", json={"tasks": ["an easy cat"]}, headers=asked)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    own = site.http.post("/v1/prompts", json={"prompt": "a cat"}, headers={"origin": site.url})
    assert own.status_code == 200


def test_every_answer_has_safe_headers_and_a_request_id(site: Site) -> None:
    for path, status in (("/healthz", 200), ("/nowhere", 404), ("/v1/searches/x", 404)):
        response = site.http.get(path, headers={"X-Request-Id": "mine-1"})
        assert response.status_code == status and response.headers["x-request-id"] == "mine-1"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff" and "server" not in response.headers
    assert site.http.get("/healthz", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"] != "a b\tc"
    assert site.http.put("/v1/searches").status_code == 405
    assert site.http.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{" * 300_000, "application/json", 413),
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"tasks": ["an easy cat"]}', "text/plain", 400),
        (b"", "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"tasks": ["\\ud800"]}', "application/json", 400),
    ],
)
def test_invalid_or_too_long_bodies_are_refused(site: Site, content: bytes, kind: str, status: int) -> None:
    for path in ("/v1/searches", "/v1/images/generations"):
        response = site.http.post(path, content=content, headers={"content-type": kind})
        assert response.status_code == status, response.text
        assert response.json()["error"]["message"]


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["tasks", "prompt", "n", "settings", "method", "model", "seed", "size", "stream", "timeout"]
                )
                | st.text(max_size=8),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_no_request_body_causes_a_server_error(site: Site, body: Any) -> None:
    for path in ("/v1/searches", "/v1/images/generations", "/v1/prompts", "/v1/chat/completions"):
        response = site.http.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
        assert response.status_code < 500, response.text


@pytest.mark.slow
def test_searches_beyond_the_queue_limit_are_refused_for_now(serve: OpenSite) -> None:
    reward = Held()
    with serve(fake_offer(reward=reward), batch_size=1, limits=Limits(waiting=3, per_client=2)) as site:
        first = site.search("a held cat", settings={"steps": 1})
        second = site.search("an easy cat")
        response = site.http.post("/v1/searches", json={"tasks": ["an easy cat"]})
        assert response.status_code == 429 and "2 images of yours" in response.json()["error"]["message"]
        assert int(response.headers["retry-after"]) >= 1 and "x-should-retry" not in response.headers
        with pytest.raises(openai.RateLimitError):
            site.openai.images.generate(prompt="an easy cat")
        reward.permits.release(2)
        assert {site.result(one)["state"] for one in (first, second)} == {"finished"}
        assert site.result(site.search("an easy cat"))["state"] == "finished", "there is room again"


def test_requests_per_minute_are_limited(serve: OpenSite) -> None:
    with serve(limits=Limits(per_minute=3)) as site:
        statuses = [site.http.get("/v1/models").status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        assert site.http.get("/healthz").status_code == 200


def test_requests_beyond_the_concurrency_limit_are_told_when_to_retry(serve: OpenSite) -> None:
    reward = Held()
    with serve(fake_offer(reward=reward), limits=Limits(requests=1)) as site:
        search = site.search("a held cat", settings={"steps": 0})
        with site.http.stream("GET", f"/v1/searches/{search}/events") as response:
            lines = response.iter_lines()
            next(lines)
            refused = site.http.get("/v1/models")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_requests")
            assert refused.headers["retry-after"] == "2"
            reward.permits.release()
            for _ in lines:
                pass
        assert site.http.get("/v1/models").status_code == 200


def test_a_request_whose_response_is_complete_takes_no_place(serve: OpenSite) -> None:
    """A client that has read the last byte may ask again at once, though the first request's code still runs."""
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        if not scope["path"].endswith("again"):
            await ask("/again")

    async def receive() -> Any:
        await asyncio.Event().wait()  # no body, and the client does not leave

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

    with serve(limits=Limits(requests=1)) as site:
        wrapped = envelope.Envelope(app, site.listener._server)  # pyright: ignore[reportPrivateUsage]

        async def ask(path: str) -> None:
            headers = [(b"host", b"localhost")]
            await wrapped({"type": "http", "method": "GET", "path": path, "headers": headers}, receive, send)

        asyncio.run(ask("/first"))
    assert statuses == [200, 200]


def test_open_streams_are_limited(serve: OpenSite) -> None:
    reward = Held()
    with serve(fake_offer(reward=reward), limits=Limits(streams=1)) as site:
        search = site.search("a held cat", settings={"steps": 0})
        with site.http.stream("GET", f"/v1/searches/{search}/events") as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            next(lines)
            with site.http.stream("GET", f"/v1/searches/{search}/events") as refused:
                assert refused.status_code == 429
            reward.permits.release()
            for _ in lines:
                pass
        assert site.events(search)[-1][1] == "end"


def test_no_request_changes_the_warning_filters(serve: OpenSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters belong to the whole process: a request that set them for itself would change them for other threads."""
    changed: list[str] = []

    def note(*_: object, **__: object) -> AbstractContextManager[None]:
        changed.append("".join(traceback.format_stack(limit=8)))
        return nullcontext()

    with serve() as site:
        monkeypatch.setattr("warnings.catch_warnings", note)
        for path in ("/", "/v1/models", "/v1/searches", "/v1/searches/none/images/0/0/0/0", "/v1/openapi.json"):
            assert site.http.get(path).status_code in (200, 404)
        assert site.http.post("/v1/prompts", json={"prompt": "two dogs"}).status_code == 200
    assert not changed, changed[0]


def test_metrics_count_images_and_requests(site: Site) -> None:
    site.result(site.search("an easy cat"))
    text = site.http.get("/metrics").text
    assert 'milr_images_total{model="fake",why="met"}' in text
    assert 'milr_requests_total{method="POST",route="/v1/searches",status="202"}' in text
    assert "milr_images_waiting 0.0" in text


@contextmanager
def read_logs() -> Generator[io.StringIO]:
    """Collect the server's log."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("milr.serve")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def test_prompts_are_logged_where_they_are_asked_for(serve: OpenSite) -> None:
    with read_logs() as lines, serve(log_prompts=True) as site:
        site.result(site.search("an easy cat"))
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    (accepted,) = [one for one in told if one["event"] == "search accepted"]
    assert accepted["prompts"] == ["an easy cat"] and accepted["images"] == 1


def test_logs_are_lines_of_json_without_prompts_or_keys(serve: OpenSite) -> None:
    with read_logs() as lines, serve(key=KEY) as site:
        site.openai.images.generate(prompt="an easy secret prompt")
        site.http.post("/v1/searches", json={"tasks": ["a secret prompt"], "method": "none"})
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {"request", "model loaded", "search accepted", "search ended"} <= {one["event"] for one in told}
    (request,) = [one for one in told if one.get("route") == "/v1/images/generations"]
    assert request["status"] == 200 and request["owner"] == KeyRing([KEY]).find(KEY) and request["ms"] >= 0
    assert "secret" not in lines.getvalue() and KEY not in lines.getvalue()


@pytest.mark.slow
def test_models_are_loaded_on_request_within_the_memory_limit(serve: OpenSite) -> None:
    loads: list[str] = []
    offers = [fake_offer(name, load=lambda name=name: loads.append(name), size=600) for name in ("a", "b", "c")]
    with serve(*offers, memory=1300) as site:

        def draw(name: str) -> list[str]:
            assert site.result(site.search("an easy cat", model=name))["state"] == "finished"
            return [one["id"] for one in site.http.get("/v1/models").json()["data"] if one["milr"]["loaded"]]

        assert draw("a") == ["a"]
        assert draw("b") == ["a", "b"] and loads == ["a", "b"]
        assert draw("a") == ["a", "b"] and loads == ["a", "b"], "it stays"
        assert draw("c") == ["a", "c"], "the least recently used one makes room"
        assert draw("b") == ["b", "c"] and loads == ["a", "b", "c", "b"]


@pytest.mark.slow
def test_one_large_model_takes_the_room_of_several_small_ones(serve: OpenSite) -> None:
    offers = [fake_offer("a", size=600), fake_offer("b", size=600), fake_offer("large", size=1300)]
    with serve(*offers, memory=1300) as site:
        for name, loaded in (("a", ["a"]), ("b", ["a", "b"]), ("large", ["large"]), ("b", ["b"])):
            assert site.result(site.search("an easy cat", model=name))["state"] == "finished"
            assert [one["id"] for one in site.http.get("/v1/models").json()["data"] if one["milr"]["loaded"]] == loaded


def test_memory_counts_a_model_that_was_told_to_leave_as_gone() -> None:
    asked, got = Event(), Event()
    memory = Memory(1300, asked.set)

    def load() -> None:
        with memory.hold("c", 600):
            got.set()

    with memory.hold("a", 600):
        with memory.hold("b", 600):
            waiting = Thread(target=load)
            waiting.start()
            assert asked.wait(10) and memory.lacking()
            memory.expect("b")
            assert not memory.lacking() and not got.is_set(), "b makes room, so a may stay"
        assert got.wait(10)
    waiting.join()
    assert not memory.lacking()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_fails_its_searches_and_is_tried_again(serve: OpenSite) -> None:
    faults = [OSError("disk"), UsageError("/home/us/models has no safetensors")]

    def load() -> None:
        if faults:
            raise faults.pop()

    told = "the model 'b' cannot be loaded: the server's log says why"  # and not the paths that were tried
    with serve(fake_offer(), fake_offer("b", load=load)) as site:
        assert site.result(site.search("an easy cat", model="b"))["error"] == told
        assert site.result(site.search("an easy cat", model="b"))["error"] == told
        assert site.result(site.search("an easy cat", model="b"))["state"] == "finished"
        assert site.result(site.search("an easy cat"))["state"] == "finished"


def test_a_full_disk_fails_the_search_and_the_server_continues(
    serve: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from milr.errors import MilrError
    from milr.serve.jobs import Job

    def full(*_: object) -> Any:
        raise MilrError("cannot write /home/us/runs: make room there")

    with serve() as site:
        with monkeypatch.context() as patched:
            patched.setattr(Job, "write", full)
            found = site.result(site.search("two dogs", "an easy cat"))
        assert (found["state"], found["error"]) == (
            "failed",
            "the server cannot write its steps, for want of room perhaps",
        )
        assert site.result(site.search("an easy cat"))["state"] == "finished"


def test_a_body_that_does_not_arrive_times_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "BODY_SECONDS", 0.2)
    host, port = site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        head = f"POST /v1/searches HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())
        said = slow.recv(2000)
    assert b" 408 " in said


def test_a_client_that_reads_nothing_is_disconnected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its search goes on, and nothing of the stream is left."""
    monkeypatch.setattr(envelope, "SEND_SECONDS", 0.2)
    search = site.search("two dogs", method="best-of-n", settings={"steps": 2})
    server = site.listener._server  # pyright: ignore[reportPrivateUsage]
    app = site.listener.config.app
    headers = [(b"host", site.url.removeprefix("http://").encode())]
    where = {"path": f"/v1/searches/{search}/events", "raw_path": b"", "query_string": b"", "root_path": ""}
    scope: Any = {
        **{"type": "http", "method": "GET", "http_version": "1.1", "scheme": "http", "headers": headers, "state": {}},
        **{"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1), "asgi": {"version": "3.0"}, **where},
    }

    come = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if come:
            return come.pop()
        await asyncio.Event().wait()  # the client does not leave

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def ask() -> None:
        with pytest.raises(BaseException) as caught:  # noqa: PT011  # alone, or in a group
            await cast("Any", app)(scope, receive, send)
        errors = getattr(caught.value, "exceptions", (caught.value,))
        assert all(isinstance(error, TimeoutError) for error in errors), errors

    asyncio.run(ask())
    assert server.streams == 0 and site.result(search)["state"] == "finished"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own with two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_reported_and_searches_continue_once_there_is_room(serve: OpenSite, small_disk: Path) -> None:
    with serve(data=small_disk) as site:
        assert site.result(site.search("an easy cat"))["state"] == "finished"
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"0" * 4096)
        answers = [site.http.post("/v1/searches", json={"tasks": ["two dogs"]}) for _ in range(3)]
        for answer in answers:  # refused, or taken and failed
            assert answer.status_code in (202, 503), answer.text
            if answer.status_code == 503:
                assert (answer.json()["error"]["code"], answer.headers["retry-after"]) == ("storage", "30")
        assert site.http.get("/readyz").status_code == 200
        filler.unlink()
        assert site.result(site.search("an easy cat"))["state"] == "finished"
    with serve(data=small_disk) as site:  # what could not be written completely is tried again
        for one in site.http.get("/v1/searches").json()["data"]:
            assert site.result(one["id"])["state"] in ("finished", "failed")


@pytest.mark.slow
def test_no_request_harms_the_server(tmp_path: Path) -> None:
    from tests.serve.fuzz import fuzz

    statuses, faults = fuzz(tmp_path, 300, seed=3)
    assert faults == [] and statuses.total() == 350 and statuses[200] > 20


@pytest.mark.slow
def test_only_the_command_imports_the_server() -> None:
    root = Path(__file__).parents[2] / "src" / "milr"
    users = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"^\s*(from|import) milr\.serve\b", path.read_text(encoding="utf-8"), re.M)
    }
    assert {user for user in users if not user.startswith("serve/")} == {
        "cli/report.py",
        "cli/serve.py",
        "cli/serve_judge.py",
    }
    code = "import sys, milr, milr.cli.main; print(sorted({'fastapi', 'sqlalchemy', 'uvicorn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_refuses_what_it_cannot_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from milr.cli.main import main

    for words, told in (
        (["serve", "--host", "0.0.0.0"], "give --keys FILE, or MILR_API_KEYS"),
        (["serve", "--model", "embedded", "--model", "embedded"], "is there twice"),
        (["serve", "--keys", str(tmp_path / "none")], "give a text file with a key a line"),
        (["serve", "--memory", "0.000001"], "give more --memory"),
        (["index", str(tmp_path / "none")], "is no folder"),
    ):
        more = ["--data", str(tmp_path / "runs")] if words[0] == "serve" else []
        assert main([*words, *more]) == 2
        assert told in capsys.readouterr().err
    assert main(["index", str(tmp_path)]) == 0
    assert "0 runs with 0 steps" in capsys.readouterr().out
