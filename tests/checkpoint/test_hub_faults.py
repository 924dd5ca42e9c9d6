"""Whatever the server does, a final path holds the whole published model or nothing."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastvlm.checkpoint.download import Downloader
from fastvlm.checkpoint.hub import pull_model
from fastvlm.checkpoint.manifest import MANIFEST_NAME
from fastvlm.checkpoint.verify import verify_folder
from fastvlm.errors import CheckpointError
from model_server import (
    REVISION,
    Behaviour,
    ModelServer,
    running_server,
    tiny_checkpoint,
    zip_of,
)

HUB_NAME = "apple/FastVLM-0.5B"
ZIP_NAME = "llava-fastvithd_0.5b_stage3"
FILES = tiny_checkpoint()
ARCHIVE = zip_of(FILES)
NOISE = random.Random(0).randbytes(len(ARCHIVE))

FAULTS = st.one_of(
    st.builds(Behaviour, cut_after=st.integers(0, 200_000)),
    st.builds(Behaviour, cut_after=st.integers(0, 200_000), ignores_range=st.just(True)),
    st.builds(Behaviour, announce_extra=st.integers(-160_000, 160_000)),
    st.builds(Behaviour, status=st.sampled_from([401, 404, 416, 429, 500, 503])),
    st.builds(Behaviour, wrong_body=st.integers(0, 200_000).map(lambda n: NOISE[:n])),
    st.builds(
        Behaviour,
        wrong_body=st.just(NOISE[:154_560]),
        headers=st.sampled_from([{"ETag": '"new"'}, {"ETag": 'W/"weak"'}]),
    ),
    st.just(Behaviour(announces_length=False)),
    st.just(Behaviour()),
)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with running_server() as running:
        running.add_repository(HUB_NAME, FILES)
        yield running


def check_final_path(home: Path, name: str) -> None:
    folder = home / "models" / name.replace("/", "--")
    if folder.exists():
        found = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MANIFEST_NAME}
        assert found == FILES
        assert verify_folder(folder).is_whole


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), name=st.sampled_from([HUB_NAME, ZIP_NAME]), etags=st.booleans())
def test_final_path_is_whole_or_empty(
    server: ModelServer,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
    name: str,
    etags: bool,
) -> None:
    home = tmp_path_factory.mktemp("home")
    for variable, value in {
        "NO_PROXY": "127.0.0.1",
        "FASTVLM_HOME": str(home),
        "HF_ENDPOINT": server.url,
        "FASTVLM_ARCHIVE_ENDPOINT": server.url,
    }.items():
        monkeypatch.setenv(variable, value)
    server.files[f"/{ZIP_NAME}.zip"] = ARCHIVE
    server.sends_etags = etags
    paths = [f"/{HUB_NAME}/resolve/{REVISION}/{file}" for file in FILES]
    if name == ZIP_NAME:
        # The first request only asks for the size.
        paths = [f"/{ZIP_NAME}.zip"]
    server.script = {path: data.draw(st.lists(FAULTS, max_size=6), label=path) for path in paths}

    with Downloader(attempts=2, first_wait_s=0) as downloader:
        for _ in range(data.draw(st.integers(1, 3), label="pulls")):
            try:
                pull_model(name, downloader=downloader)
            except CheckpointError:
                pass
            else:
                assert (home / "models" / name.replace("/", "--")).is_dir()
            check_final_path(home, name)

        server.script = {}
        pull_model(name, downloader=downloader)
    check_final_path(home, name)
    assert [p.name for p in (home / "models").iterdir()] == [name.replace("/", "--")]
