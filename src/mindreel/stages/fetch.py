"""Downloads: pretrained models from the hub, the data set from its archive. What is there is left alone."""

import hashlib
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from mindreel.artifacts import atomic
from mindreel.errors import InputError

# Parts of hub repositories that no stage reads
UNUSED_FOLDERS = {"safety_checker", "onnx", "openvino", "coreml", "flax", "runs"}
SMALL_FILES = {".json", ".txt", ".model"}
CHUNK_BYTES = 1 << 20


def model(*, name: str, out: Path) -> None:
    """Download a model from the hub into a folder that `from_pretrained` reads.

    Parameters
    ----------
    name : str
        Hub id, such as openai/clip-vit-large-patch14, or efficientnet-lite0, whose weights an installed package
        holds.
    out : Path
        Folder; written whole or not at all.

    Raises
    ------
    InputError
        If there is no network, no such model, or no weights of a kind that can be read safely.
    """
    if name == "efficientnet-lite0":
        from mindreel.networks import efficientnet_lite

        efficientnet_lite.save(out)
        return
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import httpx

    elsewhere = "download it elsewhere and name its folder in the configuration (fetch.<key>)"
    try:
        repository = HfApi().model_info(name)
        files = wanted([file.rfilename for file in repository.siblings or ()])
        if not any(f.endswith(".safetensors") or PurePosixPath(f).suffix in (".bin", ".pt") for f in files):
            raise InputError(f"{name}: found no weights on the hub, expected .safetensors or .bin; {elsewhere}")
        with atomic(out) as folder:
            snapshot_download(name, revision=repository.sha, local_dir=folder, allow_patterns=files)
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's book-keeping
    except GatedRepoError as error:
        raise InputError(f"{name}: the hub asks for a login; run `hf auth login`, or {elsewhere}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(f"{name}: no such folder here and no such model on the hub; correct fetch.<key>") from error
    except HfHubHTTPError as error:
        raise InputError(f"{name}: the hub refused ({error}); try again later, or {elsewhere}") from error
    except (httpx.HTTPError, ConnectionError, LocalEntryNotFoundError) as error:
        raise InputError(f"{name}: no network ({error}); {elsewhere}") from error


def wanted(files: list[str]) -> list[str]:
    """Choose what to download of a hub repository.

    Kept: .json, .txt and .model files, and the weights, as .safetensors where a folder has them, else as .bin.
    Left out: other formats, half-precision and non-averaged copies, unused folders, and the single-file weights
    beside a pipeline's folders.

    Parameters
    ----------
    files : list of str
        Paths in the repository.
    """
    paths = [p for p in map(PurePosixPath, files) if not UNUSED_FOLDERS & set(p.parts[:-1])]
    pipeline = PurePosixPath("model_index.json") in paths
    weights = [
        p for p in paths if not (pipeline and len(p.parts) == 1) and not {"fp16", "non_ema"} & set(p.name.split("."))
    ]
    safe = [p for p in weights if p.suffix == ".safetensors"]
    folders = {p.parent for p in safe}
    pickled = [p for p in weights if p.suffix == ".bin" and p.parent not in folders and p.name != "training_args.bin"]
    small = [p for p in paths if p.suffix in SMALL_FILES]
    return sorted(str(p) for p in {*small, *safe, *pickled})


def dataset(*, url: str, out: Path, sha256: str | None = None) -> None:
    """Download an archive (tar, compressed or not, or zip), check it and unpack it.

    Nothing is done where `out` already holds files.

    Parameters
    ----------
    url : str
        Http, https or file.
    sha256 : str
        Checksum of the archive, hexadecimal.
    out : Path
        Folder; written whole or not at all. An archive whose only top folder has this folder's name is unpacked
        without it.

    Raises
    ------
    InputError
        If the download fails, the checksum differs, or the archive cannot be read or reaches outside its folder.
    """
    if out.is_dir() and any(out.iterdir()):
        print(f"{out}: the files are there, nothing is downloaded")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".download.") as scratch, atomic(out) as folder:
        archive = Path(scratch) / "archive"
        found = _download(url, archive)
        if sha256 is not None and found != sha256.lower():
            raise InputError(
                f"{url}: found SHA-256 {found}, expected {sha256}; download again, or correct fetch.dataset_sha256"
            )
        unpacked = Path(scratch) / "unpacked"
        unpack(archive, unpacked, url)
        top = list(unpacked.iterdir())
        (top[0] if len(top) == 1 and top[0].is_dir() and top[0].name == out.name else unpacked).rename(folder)


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpack a tar or zip archive; members that would land outside `folder` are refused."""
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                outside = [
                    n for n in zipped.namelist() if PurePosixPath(n).is_absolute() or ".." in PurePosixPath(n).parts
                ]
                if outside:
                    raise InputError(
                        f"{name}: {outside[0]!r} would be written outside the folder; do not trust this archive"
                    )
                zipped.extractall(folder)
        else:
            raise InputError(f"{name}: neither a tar nor a zip archive; correct fetch.dataset_url")
    except tarfile.FilterError as error:
        raise InputError(f"{name}: {error}; do not trust this archive") from error
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{name}: the archive is damaged ({error}); download again") from error


def _download(url: str, path: Path) -> str:
    """Stream `url` to `path`; return its SHA-256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as source, open(path, "wb") as file:
            size = int(source.headers.get("Content-Length") or 0)
            bar = tqdm(total=size or None, unit="B", unit_scale=True, desc="data set", mininterval=2)
            with bar:
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise InputError(
            f"{url}: cannot be downloaded ({error}); unpack the data set at data.root by hand, "
            "or correct fetch.dataset_url"
        ) from error
    if size and path.stat().st_size != size:
        raise InputError(f"{url}: found {path.stat().st_size} bytes, expected {size}: the connection broke; run again")
    return digest.hexdigest()
