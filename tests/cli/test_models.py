"""`fastvlm models` as people run it: a real server, exit codes, two streams, processes that are stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
import pytest
from safetensors.numpy import load

from fastvlm.checkpoint.manifest import MANIFEST_NAME
from fastvlm.checkpoint.save import save_model
from fastvlm.cli.app import main
from fastvlm.processing.tokenizer import Tokenizer
from interruptible import INTERRUPTIBLE
from model_server import (
    REVISION,
    Behaviour,
    ModelServer,
    running_server,
    tiny_checkpoint,
    zip_of,
)
from tiny_models import random_model, tiny_config

HUB_NAME = "apple/FastVLM-0.5B"
SHARD = "model-00001-of-00002.safetensors"
SHARD_PATH = f"/{HUB_NAME}/resolve/{REVISION}/{SHARD}"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


class Command:
    """Runs `fastvlm models ...` with a home of its own: called, in this process; started, in another one."""

    def __init__(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.target = home / "models" / "apple--FastVLM-0.5B"
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["fastvlm", "models", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        stdout, stderr = self._capsys.readouterr()
        return Done(int(stopped.value.code or 0), stdout, stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, "models", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_server() as running:
        running.add_repository(HUB_NAME, tiny_checkpoint())
        yield running


@pytest.fixture
def models(
    server: ModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "NO_PROXY": "127.0.0.1",
        "FASTVLM_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": server.url,
        "FASTVLM_ARCHIVE_ENDPOINT": server.url,
    }.items():
        monkeypatch.setenv(name, value)
    # This process may have read HF_HOME before.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    return Command(tmp_path / "home", monkeypatch, capsys)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MANIFEST_NAME}


def test_list_shows_names_sizes_licences_and_places(server: ModelServer, models: Command) -> None:
    before = models("list")
    models("pull", "0.5b")
    after = models("list")

    assert before.returncode == after.returncode == 0
    line = next(line for line in before.stdout.splitlines() if line.startswith(HUB_NAME))
    assert "(0.5b)" in line
    assert "about 1.52 GB" in line
    assert "research only" in line
    assert line.split()[-1] == "no"
    assert "llava-fastvithd_7b_stage3" in before.stdout
    line = next(line for line in after.stdout.splitlines() if line.startswith(HUB_NAME))
    assert line.split()[-1] == str(models.target)


@pytest.mark.parametrize("arguments", [["list"], ["pull", "0.5b"], ["verify", "0.5b"]])
def test_torch_is_not_loaded(models: Command, arguments: list[str]) -> None:
    models("pull", "0.5b")
    code = "import sys; sys.modules['torch'] = None; from fastvlm.cli.app import main; main()"

    subprocess.run(
        [sys.executable, "-c", code, "models", *arguments], check=True, capture_output=True
    )


def test_pull_prints_the_licence_first_and_the_folder_last(models: Command) -> None:
    with models.start("pull", "0.5b") as process:
        stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 0
    assert stdout == f"{models.target}\n"
    assert stderr.splitlines()[0].startswith(
        "licence: Apple Machine Learning Research Model licence: research only"
    )
    assert "\x1b" not in stderr
    assert contents(models.target) == tiny_checkpoint()


def test_pull_of_an_archive(server: ModelServer, models: Command) -> None:
    server.files["/llava-fastvithd_1.5b_stage2.zip"] = zip_of(tiny_checkpoint())

    done = models("pull", "llava-fastvithd_1.5b_stage2")

    assert done.returncode == 0
    assert contents(Path(done.stdout.strip())) == tiny_checkpoint()
    assert models("verify", "llava-fastvithd_1.5b_stage2").returncode == 0


def test_failed_pull_is_one_line_and_exit_code_4(server: ModelServer, models: Command) -> None:
    server.files[SHARD_PATH] = bytes(len(server.files[SHARD_PATH]))

    done = models("pull", "0.5b")

    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"error: {SHARD}: SHA-256 is")
    assert not models.target.exists()


def test_unknown_name_is_one_line_and_exit_code_4(models: Command) -> None:
    done = models("pull", "FastVLM-0.5B")

    assert done.returncode == 4
    assert "did you mean" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGKILL"])
def test_stopped_pull_leaves_no_model_and_is_resumed(
    server: ModelServer, models: Command, sent: str
) -> None:
    rest = threading.Event()
    server.script[SHARD_PATH] = [Behaviour(wait_for=rest)]
    with models.start("pull", "0.5b") as process:
        partial = models.target.with_name(f".{models.target.name}.partial") / "parts" / SHARD
        assert server.half_sent.wait(60)
        _wait_until_written(partial)
        process.send_signal(getattr(signal, sent))
        _, stderr = process.communicate(timeout=60)
    rest.set()
    assert not models.target.exists()
    if sent == "SIGINT":
        assert process.returncode == 130
        assert "the same command resumes it" in stderr
        assert "Traceback" not in stderr
    server.requests.clear()

    assert models("pull", "0.5b").returncode == 0

    assert contents(models.target) == tiny_checkpoint()
    (headers,) = server.asked_for(SHARD)
    assert int(headers["range"].removeprefix("bytes=").removesuffix("-")) > 0


def _wait_until_written(path: Path) -> None:
    """The server has sent; wait for the other process to write it down."""
    waiter = threading.Event()
    for _ in range(6000):
        if path.exists() and path.stat().st_size > 0:
            return
        waiter.wait(0.01)
    raise AssertionError(f"{path} was never written")


def test_second_process_waits_for_the_first(server: ModelServer, models: Command) -> None:
    rest = threading.Event()
    server.script[SHARD_PATH] = [Behaviour(wait_for=rest)]
    with models.start("pull", "0.5b") as first:
        assert server.half_sent.wait(60)
        with models.start("pull", "0.5b") as second:
            assert second.stderr is not None
            assert "another process is fetching" in second.stderr.readline()
            rest.set()
            second_out, second_err = second.communicate(timeout=60)
        first_out, _ = first.communicate(timeout=60)

    assert (first.returncode, second.returncode) == (0, 0)
    assert first_out == second_out == f"{models.target}\n"
    assert "already" in second_err
    assert len(server.asked_for(SHARD)) == 1


def test_verify_prints_a_table(models: Command) -> None:
    models("pull", "0.5b")

    done = models("verify", "0.5b")

    assert done.returncode == 0
    for name in tiny_checkpoint():
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"{name} "))
        assert "SHA-256 right" in line
        assert line.split()[-1] == "ok"
    assert done.stdout.splitlines()[-1].endswith("is whole (apple layout, 5 files checked)")


def test_verify_of_a_damaged_model_is_exit_code_4(models: Command) -> None:
    models("pull", "0.5b")
    path = models.target / SHARD
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    done = models("verify", str(models.target))

    assert done.returncode == 4
    line = next(line for line in done.stdout.splitlines() if line.startswith(SHARD))
    assert "the manifest says" in line
    assert done.stderr.count("\n") == 1
    assert "has 1 problem" in done.stderr


def test_names_in_tables_are_no_markup(tmp_path: Path, models: Command) -> None:
    (tmp_path / "model").mkdir()
    for name, content in tiny_checkpoint().items():
        (tmp_path / "model" / name).write_bytes(content)
    index = {"weight_map": {"a": "[red]x[/red].safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "[red]x[/red].safetensors" in models("verify", str(tmp_path / "model")).stdout


def test_convert_writes_the_other_layout_and_back(
    tmp_path: Path, models: Command, small_tokenizer: Tokenizer
) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    small_tokenizer.save(tokenizer)
    apple, hf = tmp_path / "apple", tmp_path / "hf model"
    save_model(random_model(tiny_config()), apple, layout="apple", tokenizer_from=tokenizer)

    done = models("convert", str(apple), str(hf), "--layout", "hf")

    assert done.returncode == 0, done.stderr
    assert f"{hf}: " in done.stdout
    assert done.stdout.rstrip().endswith("layout hf")
    verified = models("verify", str(hf))
    assert verified.stdout.splitlines()[-1].startswith(f"{hf} is whole (hf layout")
    assert models("convert", str(hf), str(tmp_path / "again"), "--layout", "apple").returncode == 0
    weights = [(apple / "model.safetensors"), (tmp_path / "again" / "model.safetensors")]
    left, right = (load(path.read_bytes()) for path in weights)
    assert left.keys() == right.keys()
    assert all((left[key] == right[key]).all() for key in left)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("SRC", "DST"), 2, "--layout"),
        (("SRC", "DST", "--layout", "mlx"), 2, "apple"),
        (("nothing/there", "DST", "--layout", "hf"), 4, "is not on this disk"),
    ],
)
def test_convert_says_what_is_wrong(
    models: Command, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = models("convert", *arguments)

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_progress_bar_is_drawn_on_a_terminal(models: Command) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "fastvlm", "models", "pull", "0.5b"],
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""
        while chunk := _read_terminal(ours):
            seen += chunk
        stdout, _ = process.communicate(timeout=60)
    os.close(ours)

    assert process.returncode == 0
    assert stdout.decode() == f"{models.target}\n"
    assert seen.index(b"licence: ") < seen.index("━".encode())
    assert b"309.8/309.8 kB" in seen


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""  # Linux: nobody has the other end open any more
