import hashlib
import io
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm.checkpoint.archive import plan_unpacking, safe_parts, unpack
from fastvlm.errors import DownloadError
from model_server import tiny_checkpoint, zip_of

FOLDER = "llava-fastvithd_0.5b_stage3/"


def archive_of(path: Path, members: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", b"{}")
        for name, content in members:
            archive.writestr(name, content)
    return path


def named(name: str) -> zipfile.ZipInfo:
    """An entry whose name is written as it stands, which ZipInfo itself would tidy up."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


def test_model_files_come_out_and_the_rest_is_named(tmp_path: Path) -> None:
    files = tiny_checkpoint()
    useless = {"llava_qwen.py": b"print()", "training_args.bin": b"\x80", "trainer_state.json": b""}
    (tmp_path / "a.zip").write_bytes(zip_of({**files, **useless, "sub/x.json": b"{}"}))
    (tmp_path / "out").mkdir()
    seen: list[int] = []

    plan = plan_unpacking(tmp_path / "a.zip")
    records = unpack(tmp_path / "a.zip", plan, tmp_path / "out", on_bytes=seen.append)

    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == files
    assert records["config.json"].sha256 == hashlib.sha256(files["config.json"]).hexdigest()
    assert set(plan.left_out) == {
        *(FOLDER + name for name in useless),
        f"{FOLDER}sub/x.json",
        f"__MACOSX/{FOLDER}._config.json",
    }
    assert seen[-1] == plan.total_bytes == sum(map(len, files.values()))


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "a/../../evil.json",
        "/etc/evil.json",
        "C:/evil.json",
        "C:evil.json",
        "..\\evil.json",
        "\\\\server\\share\\evil.json",
        "a//evil.json",
        "./evil.json",
        "con.json",
        "sub/NUL",
        "trailing.",
        "trailing ",
        "new\nline.json",
        "escape\x1b[2J.json",
        "zero\0byte.json",
        "",
    ],
)
def test_unsafe_names_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    archive = archive_of(tmp_path / "a.zip", [(named(name), b"evil")])

    with pytest.raises(DownloadError, match="not a plain relative path"):
        plan_unpacking(archive)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_accepted_names_stay_below_the_folder(name: str) -> None:
    try:
        parts = safe_parts(name)
    except DownloadError:
        return
    path = Path("/model").joinpath(*parts)
    assert path.is_relative_to("/model")
    assert ".." not in path.parts
    assert len(path.parts) == 2 + len(parts)


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("weights.safetensors")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = archive_of(tmp_path / "a.zip", [(link, b"/etc/passwd")])

    with pytest.raises(DownloadError, match="is a link or a device"):
        plan_unpacking(archive)


def test_names_that_differ_by_case_only_are_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", [("Config.JSON", b"{}")])

    with pytest.raises(DownloadError, match="twice"):
        plan_unpacking(archive)


def test_bombs_are_refused_by_what_they_declare(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b"{}")
        archive.writestr("model.safetensors", bytes(65 << 20))

    with pytest.raises(DownloadError, match="would grow"):
        plan_unpacking(tmp_path / "a.zip")


def test_a_flood_of_members_is_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", [(f"{n}.json", b"") for n in range(1000)])

    with pytest.raises(DownloadError, match="1001 members"):
        plan_unpacking(archive)


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", [])
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # general purpose flag of the central directory
    archive.write_bytes(content)

    with pytest.raises(DownloadError, match="encrypted"):
        plan_unpacking(archive)


@pytest.mark.parametrize("folders", [(), ("a/", "b/"), ("", "b/")])
def test_exactly_one_model_is_expected(tmp_path: Path, folders: tuple[str, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", b"")
        for folder in folders:
            archive.writestr(f"{folder}config.json", b"{}")

    with pytest.raises(DownloadError, match=f"has {len(folders)} config.json"):
        plan_unpacking(tmp_path / "a.zip")


@pytest.mark.parametrize("content", [b"", b"<html>", zip_of({"config.json": b"{}"})[:-30]])
def test_what_is_no_zip_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)

    with pytest.raises(DownloadError, match=r"a\.zip is not a readable zip file"):
        plan_unpacking(tmp_path / "a.zip")


def test_damaged_content_is_an_error(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", b'{"model_type": "llava_qwen2"}')
    (tmp_path / "a.zip").write_bytes(buffer.getvalue().replace(b"llava_qwen2", b"llava_qwen3"))
    (tmp_path / "out").mkdir()

    plan = plan_unpacking(tmp_path / "a.zip")
    with pytest.raises(DownloadError, match=r"a\.zip is damaged: Bad CRC"):
        unpack(tmp_path / "a.zip", plan, tmp_path / "out")
