from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fastvlm import load

Run = Callable[..., "object"]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(pictures: Path) -> Iterator[str]:
    handler = partial(QuietHandler, directory=str(pictures))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def predict(fastvlm: Run, tiny_folder: Path) -> Run:
    return partial(fastvlm, "predict", "--model", tiny_folder, "--max-new-tokens", 8)


def test_answer_alone_stands_on_stdout(predict: Run, pictures: Path, tiny_folder: Path) -> None:
    result = predict(pictures / "a.png", "-p", "What color?")
    expected = load(tiny_folder).ask("What color?", [pictures / "a.png"], max_new_tokens=8).text
    assert (result.code, result.out, result.err) == (0, f"{expected}\n", "")


def test_streamed_text_is_the_same(predict: Run, pictures: Path) -> None:
    whole = predict(pictures / "a.png", "-p", "What color?")
    assert predict(pictures / "a.png", "-p", "What color?", "--stream").out == whole.out


def test_folder_pattern_and_files_in_order(predict: Run, pictures: Path) -> None:
    result = predict(pictures, pictures / "[bc].*", pictures / "a.png", "--jsonl")
    names = [Path(json.loads(line)["input"]).name for line in result.out.splitlines()]
    assert names == ["a.png", "b.jpg", "c.webp", "b.jpg", "c.webp", "a.png"]
    assert result.code == 0


def test_jsonl_has_all_fields(predict: Run, pictures: Path) -> None:
    (line,) = predict(pictures / "a.png", "--jsonl").out.splitlines()
    record = json.loads(line)
    assert list(record) == [
        "input",
        "index",
        "text",
        "finish_reason",
        "usage",
        "timings",
        "error",
    ]
    assert record["usage"]["image_tokens"] == 16
    assert record["timings"]["ttft_ms"] > 0
    assert record["error"] is None


def test_standard_input_is_a_picture(predict: Run, pictures: Path) -> None:
    data = (pictures / "b.jpg").read_bytes()
    assert predict("-", stdin=data).out == predict(pictures / "b.jpg").out


def test_address_is_fetched(predict: Run, pictures: Path, address: str) -> None:
    assert predict(f"{address}/b.jpg").out == predict(pictures / "b.jpg").out


def test_address_that_is_not_there(predict: Run, address: str) -> None:
    result = predict(f"{address}/nothing.png")
    assert result.code == 2
    assert "404" in result.err
    assert len(result.err.splitlines()) == 1


def test_several_pictures_in_one_question(predict: Run, pictures: Path) -> None:
    result = predict(pictures / "a.png", pictures / "b.jpg", "--together", "--json")
    record = json.loads(result.out)
    assert record["usage"]["image_tokens"] == 32
    assert record["input"] == [str(pictures / "a.png"), str(pictures / "b.jpg")]


def test_question_without_picture(predict: Run) -> None:
    result = predict("-p", "Hello", "--json")
    assert json.loads(result.out)["usage"]["image_tokens"] == 0


def test_apple_flags_work_unchanged(fastvlm: Run, pictures: Path, tiny_folder: Path) -> None:
    result = fastvlm(
        "predict",
        *("--model-path", tiny_folder),
        *("--image-file", pictures / "a.png"),
        *("--prompt", "Describe the image."),
        *("--conv-mode", "qwen_2"),
        *("--temperature", "0.2"),
        *("--top_p", "0.9"),
        *("--num_beams", "1"),
        *("--max-new-tokens", "4"),
        *("--tokenizer-path", tiny_folder),
    )
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("flag", ["--load-8bit", "--load-4bit"])
def test_quantized_weights_answer(predict: Run, pictures: Path, flag: str) -> None:
    result = predict(pictures / "a.png", flag)
    assert result.code == 0
    assert result.err.startswith("quantized:")


def test_stats_go_to_stderr(predict: Run, pictures: Path) -> None:
    result = predict(pictures / "a.png", "--stats")
    assert "ttft" in result.err
    assert "16 image" in result.err
    assert "ttft" not in result.out


def test_broken_picture_among_good_ones(predict: Run, pictures: Path) -> None:
    result = predict(pictures / "a.png", pictures / "notes.txt", pictures / "b.jpg", "--quiet")
    assert result.code == 3
    assert len(result.out.splitlines()) >= 2
    assert [line for line in result.err.splitlines() if "notes.txt" in line]


def test_broken_picture_has_its_line_of_json(predict: Run, pictures: Path) -> None:
    result = predict(pictures / "notes.txt", pictures / "a.png", "--jsonl")
    first, second = map(json.loads, result.out.splitlines())
    assert "notes.txt" in first["error"]
    assert second["error"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png"], "missing.png"),
        (["nothing-*.png"], "no file matches"),
        ([], "no picture and no prompt"),
        (["-p", "x", "--preset", "read"], "exclude each other"),
        (["--preset", "poem"], "no preset named 'poem'"),
        (["-p", "x", "--temperature", "-1"], "temperature is -1"),
        (["-p", "x", "--top-p", "0"], "top_p is 0"),
        (["-p", "x", "--conv-mode", "vicuna"], "--conv-mode"),
        (["-p", "x", "--image-mode", "stretch"], "--image-mode"),
        (["-p", "x", "--dtype", "int3"], "--dtype"),
        (["-p", "x", "--device", "abacus"], "device 'abacus' is not known"),
        (["-p", "x", "--image-size", "0"], "image_size"),
        (["-p", " "], "the prompt is empty"),
        (["-p", "x", "--seed", "99999999999999999999"], "seed is 99999999999999999999"),
        ([""], "an empty name"),
        (["Is there " + "a very long prompt " * 40 + "?"], "very long"),
        (["-p", "x", "--json", "--jsonl"], "exclude each other"),
        (["-p", "x", "--image-size", "100000"], "100000"),
        (["-p", "x", "--load-8bit", "--load-4bit"], "exclude each other"),
        (["-p", "x", "--temperature", "warm"], "--temperature"),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_code_2(
    predict: Run, arguments: list[str], message: str
) -> None:
    result = predict(*arguments)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "no-such-model"], 4, "no-such-model"),
        (["--model", "0.5b"], 4, "fastvlm models pull 0.5b"),
    ],
)
def test_model_that_cannot_be_loaded(
    predict: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("FASTVLM_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    result = predict("-p", "x", *arguments)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert len(result.err.splitlines()) == 1
