"""The command line as a whole: commands, renamed words, errors, and imports that must not happen."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

import milr
from milr.cli.main import RENAMED, main
from milr.errors import UsageError
from milr.models.devices import check_dtype, find_device
from milr.rewards.http import Remote
from milr.rewards.vlm.cache import default_cache
from milr.rewards.vlm.client import VlmClient
from milr.selftest.doctor import DOCTORS
from milr.sources import SOURCES
from milr.weights import weights_root


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"milr {milr.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import milr.cli.main",
        "import milr.cli.main; assert milr.cli.main.main(['--help']) == 0",
        "import milr.cli.main; assert milr.cli.main.main(['info']) == 0",
        "import milr.cli.main; assert milr.cli.main.main(['generate', '--help']) == 0",
        "import milr.cli.main; assert milr.cli.main.main(['generate', 'x', '--text-ratio', '2']) == 2",
        "import milr; milr.Task, milr.read_run, milr.tasks_from_prompts",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(code: str) -> None:
    check = "import sys; heavy = {'torch', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_public_names_exist() -> None:
    assert sorted(milr.__all__) == milr.__all__
    for name in milr.__all__:
        assert getattr(milr, name) is not None
    assert set(milr.__all__) <= set(dir(milr))
    with pytest.raises(AttributeError, match="nothing"):
        _ = milr.nothing  # pyright: ignore


def refuse(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize("flag", [old for old in RENAMED if old.startswith("--")])
def test_an_old_flag_is_refused_with_its_new_name(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    new = RENAMED[flag]
    assert refuse(capsys, "generate", "a cat", flag, "x") == f"error: {flag} is now {new}: type {new} x\n"
    assert refuse(capsys, "generate", f"{flag}=x", "a cat") == f"error: {flag} is now {new}: type {new} x\n"
    assert refuse(capsys, "generate", "a cat", flag) == f"error: {flag} is now {new}: type {new}\n"


def test_old_commands_are_refused_with_their_new_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(capsys, "judge", "runs/x") == "error: milr judge is now milr evaluate: see milr evaluate --help\n"


@pytest.mark.slow
def test_every_new_name_exists(capsys: pytest.CaptureFixture[str]) -> None:
    helps = ""
    for command in ("generate", "benchmark", "ablate", "evaluate"):
        assert main([command, "--help"]) == 0
        helps += capsys.readouterr().out
    for new in RENAMED.values():
        assert not new.startswith("--") or new in helps, new


def test_words_that_only_look_like_old_ones_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is now" not in refuse(capsys, "compare", "judge", "judge")  # a folder with that name
    assert "is now" not in refuse(capsys, "compare", "--", "--judge")


def test_milr_alone_shows_help_and_h_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    alone = capsys.readouterr().out
    assert "generate" in alone and main(["-h"]) == 0
    assert capsys.readouterr().out.split() == alone.split()
    assert "--install-completion" in alone


def test_doctor_alone_lists_what_it_can_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(DOCTORS)
    assert lines[-1] == "to check one, type: milr doctor NAME; to check a run: milr doctor FOLDER"


def test_data_get_without_a_terminal_says_what_to_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["data", "get", "geneval"]) == 2
    assert "type milr data get geneval --accept-licence" in capsys.readouterr().err


def test_a_prompt_in_place_of_a_command_gets_a_hint_at_generate(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'type milr generate "two dogs"' in refuse(capsys, "two dogs")


@pytest.mark.parametrize(
    "words",
    [
        ["pack", "a" * 300],
        ["compare", "a" * 300],
        ["score", "a" * 300, "--prompt", "two dogs", "--reward", "icons"],
        ["generate", "--prompts", "a" * 300],
        ["plan", "--model", "a" * 5000],  # from Python 3.14 on the system's refusal is "no such folder"
        ["score", "a.png", "--prompt", "two dogs", "--reward", "a" * 5000],
        ["pack", "a\0b"],
    ],
)
def test_a_path_that_the_system_refuses_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refuse(capsys, *words)
    assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 600


def test_an_error_shortens_a_value_of_thousands_of_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "two dogs", "--reward", f"mix:{'icons*1+' * 9000}icons"]) == 2
    said = capsys.readouterr().err
    assert len(said) < 4100 and said.startswith("error: 'icons' is twice in 'mix:icons*1+") and " ... " in said


def test_a_full_disk_under_any_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> dict[str, object]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("milr.cli.info.list_words", fail)
    assert main(["info", "--words"]) == 1  # the user made no mistake
    assert capsys.readouterr().err == "error: No space left on device\n"

    def refuse_path() -> dict[str, object]:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    monkeypatch.setattr("milr.cli.info.list_words", refuse_path)
    assert main(["info", "--words"]) == 2


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["generate", "two dogs", "--steps"], "milr generate"),
        (["data", "get", "--out"], "milr data get"),
        (["compare", "runs", "--baseline"], "milr compare"),
        (["--nothing"], "milr"),
    ],
)
def test_a_missing_value_names_the_commands_own_help(
    words: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refuse(capsys, *words).endswith(f"; see {command} --help\n")


def test_a_terminal_without_a_character_shows_a_substitute(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True)
    monkeypatch.setattr(sys, "stderr", log)
    assert main(["generate", "两只狗"]) == 2
    assert b"error: " in log.buffer.getvalue() and b"\\u4e24" in log.buffer.getvalue()  # pyright: ignore


@pytest.mark.parametrize("columns", ["0", "000"])
def test_a_width_of_zero_is_no_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) > 60


def test_without_a_home_folder_the_error_names_the_variable_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def homeless(kind: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(homeless))
    for name in ("XDG_CACHE_HOME", "MILR_CACHE", "MILR_DATA", "MILR_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    VlmClient()  # needs no folder before a judge is asked
    for find, variable in (
        (weights_root, "MILR_WEIGHTS"),
        (lambda: SOURCES["geneval"].folder, "MILR_DATA"),
        (default_cache, "MILR_CACHE"),
    ):
        with pytest.raises(UsageError, match=f"set {variable}"):
            find()


@pytest.mark.parametrize("name", ["meta", "hpu", "xpu", "cuda:99"])
def test_an_absent_device_is_a_one_line_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{name}' here"):
        find_device(name)


@pytest.mark.parametrize(("given", "meant"), [("fp16", "float16"), ("bf16", "bfloat16"), ("fp32", "float32")])
def test_an_abbreviated_dtype_gets_the_full_name(given: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        check_dtype(given)


def test_a_reward_at_a_url_does_not_need_the_openai_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"protocol": "milr-reward/1", "reward": "one@1"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setitem(sys.modules, "openai", None)  # as if it were not installed
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        client = VlmClient()
        url = f"http://127.0.0.1:{server.server_port}/score"
        assert Remote(url, client).name == f"one@1 at {url}"
        client.close()
        thread.join()


@pytest.mark.parametrize("variable", ["ALL_PROXY", "https_proxy"])
@pytest.mark.parametrize(
    ("proxy", "advice"), [("socks5://127.0.0.1:9", 'pip install "milr[socks]"'), ("socks://[::1]:9", "write socks5://")]
)
@pytest.mark.parametrize(
    "words",
    [
        ["fetch", "org/none", "--yes"],
        ["generate", "two dogs", "--reward", "gpt-4o", "--vlm-url", "http://127.0.0.1:9/v1"],
        ["generate", "two dogs", "--reward", "http://127.0.0.1:9/score"],
        ["data", "get", "geneval", "--accept-licence", "--out", "data"],
    ],
)
def test_a_socks_proxy_without_its_package_is_one_line(
    words: list[str],
    proxy: str,
    advice: str,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv(variable, proxy)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("milr.proxies.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {variable.upper()} names a") and advice in last


def test_a_card_without_memory_for_a_model_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import torch

    def fill(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. 1 GiB is free. Of it ...")

    monkeypatch.setattr("milr.models.checkpoint.Checkpoint.load_network", fill)
    assert main(["generate", "two dogs", "--out", str(tmp_path / "run"), "--quiet"]) == 2
    shortage = "(CUDA out of memory. Tried to allocate 2 GiB. 1 GiB is free)"
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: memory ran out while the model embedded was loaded {shortage}: close other programs"
    )
    assert said.count("\n") == 1

    monkeypatch.setattr("milr.rewards.icons.reward.Icons.__call__", fill)
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    assert main(["score", str(picture), "--prompt", "two dogs", "--reward", "icons"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: memory ran out {shortage}: ") and said.count("\n") == 1
