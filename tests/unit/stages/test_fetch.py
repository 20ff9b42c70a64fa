"""Downloads from a server on this machine: the hub's protocol for models, plain HTTP for the data set."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mindreel.errors import InputError
from mindreel.stages.fetch import dataset, wanted

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = {
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors": bytes(range(256)) * 5,
    "pytorch_model.bin": b"the same weights, as a pickle",
    "vocab.txt": b"a\nb\n",
    "README.md": b"# a model",
}


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that a download asks for."""

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        tree = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in REPOSITORY.items()
        ]
        siblings = [{"rfilename": name} for name in REPOSITORY]
        info = {"id": "lab/tiny", "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
        name = path.rsplit("/", 1)[-1]
        if path.startswith("/api/models/lab/tiny/tree/"):
            data, status = json.dumps(tree).encode(), 200
        elif path.startswith("/api/models/lab/tiny"):
            data, status = json.dumps(info).encode(), 200
        elif path.startswith("/lab/tiny/resolve/") and name in REPOSITORY:
            data, status = REPOSITORY[name], 200
        else:
            data, status = b"{}", 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Files(Hub):
    """Serves one archive, and half of it under another name."""

    archive = b""

    def answer(self, body: bool) -> None:
        whole = self.path == "/data.tar.gz"
        self.send_response(200 if whole or self.path == "/broken.tar.gz" else 404)
        self.send_header("Content-Length", str(len(self.archive)))
        self.end_headers()
        self.wfile.write(self.archive if whole else self.archive[: len(self.archive) // 2])


@pytest.fixture
def serve():
    """Start a server on this machine; return its address."""
    servers = []

    def start(handler: type) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch_model(name: str, out: Path, endpoint: str) -> subprocess.CompletedProcess:
    """Run the command in a process of its own: the hub's client reads its endpoint when it is imported."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(out.parent / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
    }
    command = [sys.executable, "-m", "mindreel", "fetch", "model", "--name", name, "--out", str(out)]
    path = str(Path(__file__).parents[3] / "src")
    return subprocess.run(command, env=os.environ | settings | {"PYTHONPATH": path}, capture_output=True, text=True)


def test_model_comes_from_the_hub_without_what_is_not_needed(serve, tmp_path):
    done = fetch_model("lab/tiny", tmp_path / "tiny", serve(Hub))
    assert done.returncode == 0, done.stderr
    found = {
        str(p.relative_to(tmp_path / "tiny")): p.read_bytes() for p in (tmp_path / "tiny").rglob("[!.]*") if p.is_file()
    }
    assert found == {name: REPOSITORY[name] for name in ("config.json", "model.safetensors", "vocab.txt")}


def test_unknown_model_names_the_key(serve, tmp_path):
    done = fetch_model("lab/unknown", tmp_path / "unknown", serve(Hub))
    assert done.returncode == 1 and "lab/unknown: no such folder here and no such model" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "unknown").exists()


def test_without_network_says_what_to_do(tmp_path):
    done = fetch_model("lab/tiny", tmp_path / "tiny", "http://127.0.0.1:9")
    assert done.returncode == 1 and "lab/tiny: no network" in done.stderr
    assert "name its folder in the configuration (fetch.<key>)" in done.stderr and "Traceback" not in done.stderr


def test_files_of_stable_diffusion_are_chosen():
    files = [
        "README.md", "model_index.json", "v1-5-pruned.safetensors", "v1-5-pruned.ckpt", "v1-inference.yaml",
        "safety_checker/model.safetensors", "safety_checker/config.json", "scheduler/scheduler_config.json",
        "text_encoder/config.json", "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.bin", "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.bin",
    ]  # fmt: skip
    assert wanted(files) == [
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.safetensors", "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.bin",
    ]  # fmt: skip


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_data_set_is_downloaded_checked_and_unpacked(serve, tmp_path):
    Files.archive = tar({"video_fmri_dataset/subject1/a.nii": b"x" * 100, "video_fmri_dataset/stimuli/seg1.mp4": b"y"})
    url, out = serve(Files) + "/data.tar.gz", tmp_path / "data" / "video_fmri_dataset"
    dataset(url=url, out=out, sha256=hashlib.sha256(Files.archive).hexdigest().upper())
    assert (out / "subject1" / "a.nii").read_bytes() == b"x" * 100 and (out / "stimuli" / "seg1.mp4").exists()
    assert [p.name for p in out.parent.iterdir()] == ["video_fmri_dataset"]


def test_files_that_are_there_are_left_alone(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    dataset(url="http://127.0.0.1:9/never.tar", out=tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept" and "nothing is downloaded" in capsys.readouterr().out


def test_archive_without_the_folder_and_zip_from_a_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("subject1/a.txt", "a")
        archive.writestr("subject2/b.txt", "b")
    dataset(url=(tmp_path / "data.zip").as_uri(), out=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".mindreel", "subject1", "subject2"]


def test_broken_downloads_leave_nothing(serve, tmp_path):
    Files.archive = tar({"a.txt": os.urandom(5000)})
    address, out = serve(Files), tmp_path / "out"
    with pytest.raises(InputError, match=r"found SHA-256 [0-9a-f]{64}, expected 00ff.*fetch\.dataset_sha256"):
        dataset(url=address + "/data.tar.gz", out=out, sha256="00ff" * 16)
    with pytest.raises(InputError, match=r"broken\.tar\.gz.*(connection broke|IncompleteRead)"):
        dataset(url=address + "/broken.tar.gz", out=out)
    with pytest.raises(InputError, match=r"missing\.tar\.gz: cannot be downloaded.*404"):
        dataset(url=address + "/missing.tar.gz", out=out)
    with pytest.raises(InputError, match="cannot be downloaded"):
        dataset(url="no address at all", out=out)
    (tmp_path / "page.html").write_text("<html>log in</html>")
    with pytest.raises(InputError, match="neither a tar nor a zip archive"):
        dataset(url=(tmp_path / "page.html").as_uri(), out=out)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("member", ["../outside.txt", "/tmp/mindreel-outside.txt"])
def test_members_never_land_outside(tmp_path, member):
    (tmp_path / "evil.tar.gz").write_bytes(tar({member: b"evil"}))
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(member, "evil")
    for name in ("evil.tar.gz", "evil.zip"):
        try:
            dataset(url=(tmp_path / name).as_uri(), out=tmp_path / "deep" / "out" / name)
        except InputError as error:
            assert "do not trust this archive" in str(error)
        else:  # tarfile strips the leading slash
            assert member.startswith("/") and name == "evil.tar.gz"
    assert not list(tmp_path.rglob("outside.txt")) and not Path("/tmp/mindreel-outside.txt").exists()
